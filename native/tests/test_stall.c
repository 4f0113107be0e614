/* SPDX-License-Identifier: MIT
 *
 * NICs that swallow what they are given without a word, while the peer is heard: others take over. And
 * what is no reason to think so.
 */
#include <errno.h>

#include "impaired_pair.h"

#define N 8

/* Nothing moves for a tenth of a second: then that is so. */
static struct pg_config impatient(void)
{
	struct pg_config config = config_defaults();

	config.heartbeat_ns = 20 * MS;
	config.silent_ns = 50 * MS;
	config.dead_ns = 50 * MS;
	return config;
}

static uint64_t failovers(struct side *s)
{
	struct pg_nic_stats one;
	uint64_t n = 0;

	for (unsigned i = 0; i < s->g->n_domains; i++) {
		CHECK(pg_stats(s->g, i, &one) == 0);
		n += one.failovers;
	}
	return n;
}

/* Each write of 64 bytes takes it a minute. */
static void one_swallows(const char *impair, unsigned nics)
{
	struct pg_config config = impatient();
	struct side a, b;
	int32_t sent[N];

	open_pair(&a, &b, nics, impair, SOUND, &config);
	for (unsigned i = 0; i < N; i++)
		CHECK_EQ(submit(&a, 1, 0, &sent[i]), 1);
	for (unsigned i = 0; i < N; i++)
		CHECK_EQ(run_until(&a, &b, &sent[i], 20 * SECOND), 1);
	CHECK(failovers(&a) > 0);
	run_for(&a, &b, 20 * MS);
	CHECK_EQ(side_value(&b, 1), N);
	CHECK(side_is_up(&a) && side_is_up(&b));
	pair_close(&a, &b);
}

static void test_one_of_two(void)
{
	one_swallows("cap=nic1:0.01K", 2);
}

static void test_one_of_two_unordered(void)
{
	one_swallows("reorder=16,cap=nic1:0.01K", 2);
}

/* It is connected anew as long as there is nothing else. When it breaks some of it gets there. */
static void test_the_only_one(void)
{
	one_swallows("cap=nic0:0.01K", 1);
}

/* What takes longer to end than nothing may move. */
static void open_slow(struct side *a, struct side *b, const char *impair)
{
	struct pg_config config = impatient();

	open_pair(a, b, 1, impair, SOUND, &config);
	CHECK(pg_submit_recvs(b->g, 64, 1, NULL) == 0);
}

/* A write that is on its way. */
static void post_one(struct side *a, struct side *b, int32_t *sent)
{
	uint64_t end = clock_ns() + 5 * SECOND;

	CHECK_EQ(submit(a, 1, 0, sent), 1);
	while (list_empty(&peer_of(a)->paths[0].flights) && clock_ns() < end)
		pair_progress(a, b, 1);
}

static void check_unbroken(struct side *a, struct side *b)
{
	CHECK_EQ(failovers(a), 0);
	pair_close(a, b);
}

/* A peer that makes no progress cannot take it, and is not heard. */
static void test_silent_peer(void)
{
	struct side a, b;
	int32_t sent;

	open_slow(&a, &b, "delay=600ms");
	post_one(&a, &b, &sent);
	CHECK_EQ(run_until(&a, NULL, &sent, 5 * SECOND), 1);
	check_unbroken(&a, &b);
}

/* A message may wait for room, and what is behind it as well. */
static void test_behind_message(void)
{
	struct side a, b;
	int32_t message, sent;

	open_slow(&a, &b, "delay=600ms");
	CHECK(pg_submit_send(a.g, a.peer, "x", 1, 0, &message, NULL) == 0);
	CHECK_EQ(submit(&a, 1, 0, &sent), 1);
	CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), 1);
	CHECK_EQ(message, 1);
	check_unbroken(&a, &b);
}

/* Who does not look does not see what moves. */
static void test_our_pauses(void)
{
	struct side a, b;
	int32_t sent;

	open_slow(&a, &b, "delay=300ms");
	post_one(&a, &b, &sent);
	for (unsigned i = 0; i < 6; i++) {
		usleep(60000);
		pair_progress(&a, &b, 1);
	}
	CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), 1);
	check_unbroken(&a, &b);
}

int main(void)
{
	apart("one of two", test_one_of_two);
	apart("one of two, unordered", test_one_of_two_unordered);
	apart("the only one", test_the_only_one);
	apart("silent peer", test_silent_peer);
	apart("behind a message", test_behind_message);
	apart("our pauses", test_our_pauses);
	return 0;
}
