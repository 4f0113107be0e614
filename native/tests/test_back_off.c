/* SPDX-License-Identifier: MIT
 *
 * Connections that break again and again: each time it takes longer until the next, as long as there is
 * another; and what ends that.
 */
#include <errno.h>

#include "engine/failover.h"
#include "engine/paths.h"
#include "impaired_pair.h"

#define NIC 1 /* of two */
#define AGES (3600 * SECOND)

static struct path *path_over(const struct side *s, unsigned nic)
{
	struct peer *p = peer_of(s);

	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].state == PATH_UP && path_local(p, k) == nic)
			return &p->paths[k];
	return NULL;
}

static struct back_off *back_off(const struct side *s, unsigned nic)
{
	return &peer_of(s)->back_offs[nic][nic];
}

static bool is_held(const struct side *s, unsigned nic)
{
	return peer_of(s)->held & pair_cell(nic, nic);
}

static void write_over(struct side *a, struct side *b, unsigned nics)
{
	int32_t sent;

	for (unsigned i = 0; i < nics; i++) {
		CHECK_EQ(submit(a, 1, 0, &sent), 1);
		CHECK_EQ(run_until(a, b, &sent, 5 * SECOND), 1);
	}
}

static void open_nics(struct side *a, struct side *b, unsigned nics)
{
	struct pg_config config = config_defaults();

	config.heartbeat_ns = 20 * MS;
	open_pair(a, b, nics, SOUND, SOUND, &config);
	write_over(a, b, 1);
}

/* Until both sides can post there; or, only one that was there has been taken over from. */
static bool await_path(struct side *a, struct side *b, unsigned nic)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	while ((!path_over(a, nic) || !path_over(b, nic)) && clock_ns() < end)
		pair_progress(a, b, 1);
	return clock_ns() < end;
}

static void await_taken_over(struct side *a, struct side *b)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	do
		pair_progress(a, b, 1);
	while ((a->g->n_broken || b->g->n_broken) && clock_ns() < end);
	CHECK(!a->g->n_broken && !b->g->n_broken);
}

static void break_path(struct side *a, struct side *b, unsigned nic, int status)
{
	CHECK(path_over(a, nic));
	group_enter(a->g);
	path_broke(a->g, peer_of(a), path_slot(peer_of(a), path_over(a, nic)), status);
	group_leave(a->g);
	await_taken_over(a, b);
}

/* A second, then two; not before, and meanwhile the other NIC carries all. */
static void test_doubles(void)
{
	struct side a, b;

	open_nics(&a, &b, 2);
	for (uint64_t ns = SECOND; ns <= 2 * SECOND; ns *= 2) {
		uint64_t until;

		break_path(&a, &b, NIC, -EIO);
		CHECK_EQ(back_off(&a, NIC)->ns, ns);
		CHECK_EQ(back_off(&b, NIC)->ns, ns);
		until = back_off(&a, NIC)->until;
		if (back_off(&b, NIC)->until < until)
			until = back_off(&b, NIC)->until;
		write_over(&a, &b, 2);
		CHECK(await_path(&a, &b, NIC));
		CHECK(clock_ns() >= until);
	}
	pair_close(&a, &b);
}

static void leave_alone(struct side *s, uint64_t ns)
{
	*back_off(s, NIC) = (struct back_off){ .until = s->g->now + AGES, .ns = ns };
}

/* At most half a minute; and after a connection that worked for as long as the wait before it, a second. */
static void test_longest_and_first(void)
{
	struct side a, b;

	open_nics(&a, &b, 2);
	leave_alone(&a, 20 * SECOND);
	break_path(&a, &b, NIC, -EIO);
	CHECK_EQ(back_off(&a, NIC)->ns, 30 * SECOND);
	leave_alone(&a, 2 * SECOND);
	back_off(&b, NIC)->until = 0;
	CHECK(await_path(&a, &b, NIC));
	path_over(&a, NIC)->up_at -= 2 * SECOND; /* it has carried nothing */
	break_path(&a, &b, NIC, -EIO);
	CHECK_EQ(back_off(&a, NIC)->ns, 4 * SECOND);
	back_off(&b, NIC)->until = 0;
	CHECK(await_path(&a, &b, NIC));
	write_over(&a, &b, 2);
	path_over(&a, NIC)->up_at -= 4 * SECOND;
	path_over(&b, NIC)->up_at -= AGES;
	path_over(&b, NIC)->ended = 1; /* which says nothing to what A has noticed */
	leave_alone(&b, 4 * SECOND);
	break_path(&a, &b, NIC, -EIO);
	CHECK_EQ(back_off(&a, NIC)->ns, SECOND);
	CHECK_EQ(back_off(&b, NIC)->ns, 8 * SECOND);
	pair_close(&a, &b);
}

/* Who would still wait takes what the other opens. */
static void test_peer_opens(void)
{
	struct side a, b;

	open_nics(&a, &b, 2);
	break_path(&a, &b, NIC, -EIO);
	leave_alone(&b, SECOND);
	back_off(&a, NIC)->until = 0;
	CHECK(await_path(&a, &b, NIC));
	CHECK(is_held(&b, NIC) && !is_held(&a, NIC));
	pair_close(&a, &b);
}

/* There is nothing else. */
static void test_only_pair(void)
{
	struct side a, b;

	open_nics(&a, &b, 1);
	for (unsigned i = 0; i < 3; i++) {
		back_off(&a, 0)->ns = back_off(&b, 0)->ns = 30 * SECOND;
		break_path(&a, &b, 0, -EIO);
		CHECK(await_path(&a, &b, 0));
		CHECK(is_held(&a, 0) && is_held(&b, 0));
		write_over(&a, &b, 1);
	}
	pair_close(&a, &b);
}

/* The other one breaks as well, while this one waits. */
static void test_last_pair(void)
{
	struct side a, b;

	open_nics(&a, &b, 2);
	back_off(&a, NIC)->ns = back_off(&b, NIC)->ns = 30 * SECOND;
	break_path(&a, &b, NIC, -EIO);
	CHECK(!path_over(&a, NIC));
	break_path(&a, &b, 0, -EIO);
	write_over(&a, &b, 2);
	CHECK(await_path(&a, &b, NIC));
	CHECK(is_held(&a, NIC) && is_held(&b, NIC));
	pair_close(&a, &b);
}

/* Something has changed: on our side, which tells the other. */
static void test_nic_event(void)
{
	struct side a, b;

	open_nics(&a, &b, 2);
	back_off(&a, NIC)->ns = back_off(&b, NIC)->ns = 30 * SECOND;
	break_path(&a, &b, NIC, -EIO);
	CHECK(is_held(&a, NIC) && is_held(&b, NIC));
	group_enter(a.g);
	nic_changed(a.g, a.g->domains[NIC], -ENETDOWN);
	nic_changed(a.g, a.g->domains[NIC], 0);
	group_leave(a.g);
	CHECK(await_path(&a, &b, NIC));
	CHECK(!is_held(&a, NIC) && !is_held(&b, NIC));
	CHECK(!back_off(&a, NIC)->ns && !back_off(&b, NIC)->ns);
	pair_close(&a, &b);
}

/* It is not the connection's fault that an operation had too little time. */
static void test_limit(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;

	open_pair(&a, &b, 2, "delay=300ms", SOUND, &config);
	CHECK_EQ(submit(&a, 1, 50, &sent), 1);
	CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), -ETIMEDOUT);
	await_taken_over(&a, &b);
	CHECK_EQ(peer_of(&a)->held, 0);
	CHECK_EQ(peer_of(&b)->held, 0);
	CHECK(await_path(&a, &b, 0) && await_path(&a, &b, 1));
	pair_close(&a, &b);
}

int main(void)
{
	apart("doubles", test_doubles);
	apart("longest and first", test_longest_and_first);
	apart("peer opens", test_peer_opens);
	apart("only pair", test_only_pair);
	apart("last pair", test_last_pair);
	apart("NIC event", test_nic_event);
	apart("limit", test_limit);
	return 0;
}
