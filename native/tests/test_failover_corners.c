/* SPDX-License-Identifier: MIT
 *
 * Failover that meets something else: NICs that go or come while peers connect, applications that pause,
 * peers that go down meanwhile, operations without end.
 */
#include <errno.h>

#include "engine/failover.h"
#include "engine/path_message.h"
#include "impaired_pair.h"

static void meet(struct side *a, struct side *b)
{
	side_meet(a, b);
	side_meet(b, a);
}

static void write_well(struct side *a, struct side *b, uint32_t imm)
{
	int32_t sent;

	CHECK_EQ(submit(a, imm, 0, &sent), 1);
	CHECK_EQ(run_until(a, b, &sent, 5 * SECOND), 1);
}

/* NIC 1 goes, whenever that is. */
static void lose_nic(struct side *a, struct side *b)
{
	uint64_t end = clock_ns() + 5 * SECOND;

	while (a->g->nics != 1 && clock_ns() < end)
		run_for(a, b, MS);
	CHECK_EQ(a->g->nics, 1);
}

/* One of our NICs comes back between our HELLO and the peer's: what the peer sends is still counted, and
 * the NIC is used again. */
static void test_revival_while_connecting(void)
{
	struct pg_config config = config_defaults();
	struct pg_peer_info info;
	struct side a, b, c;
	uint64_t begin;
	int32_t sent;

	open_pair(&a, &b, 2, "kill=nic1@0.02s,revive=nic1@0.5s", SOUND, &config);
	open_side(&c, 2, SOUND, &config);
	write_well(&a, &b, 1);
	begin = clock_ns();
	lose_nic(&a, &b);
	meet(&a, &c);
	CHECK_EQ(submit(&a, 2, 0, &sent), 1);
	for (int i = 0; i < 200; i++)
		pg_progress(c.g);
	while (clock_ns() < begin + 510 * MS)
		;
	CHECK_EQ(run_until(&a, &c, &sent, 5 * SECOND), 1);
	write_well(&c, &a, 3);
	run_for(&a, &c, 20 * MS);
	CHECK_EQ(side_value(&a, 3), 1);
	CHECK_EQ(side_value(&c, 2), 1);
	CHECK(pg_peer_info(c.g, c.peer, &info) == 0);
	CHECK(info.n_connections >= 2); /* one of the time without it may be left */
	pair_close(&a, &b);
	CHECK(pg_engine_destroy(c.engine) == 0);
}

/* A peer that was added when all NICs were up is connected over what is left of them. */
static void test_known_before(void)
{
	struct pg_config config = config_defaults();
	struct side a, b, c, to_b;

	open_pair(&a, &b, 2, "kill=nic1@0.02s", SOUND, &config);
	to_b = a;
	open_side(&c, 2, SOUND, &config);
	meet(&a, &c);
	write_well(&to_b, &b, 1);
	lose_nic(&a, &b);
	write_well(&a, &c, 2);
	CHECK_EQ(side_value(&c, 2), 1);
	pair_close(&a, &b);
	CHECK(pg_engine_destroy(c.engine) == 0);
}

/* Both compute for longer than an operation may take, and a NIC dies meanwhile. */
static void test_pause(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;

	config.op_timeout_ns = 200 * MS;
	open_pair(&a, &b, 2, "kill=nic1@0.05s", SOUND, &config);
	write_well(&a, &b, 1);
	usleep(300000);
	write_well(&a, &b, 1);
	CHECK_EQ(side_value(&b, 1), 2);
	pair_close(&a, &b);
}

/* It was out of time, and then sent again over a connection that is no faster. */
static void test_out_of_time_twice(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent[16];

	config.op_timeout_ns = 100 * MS;
	config.dead_ns = 100 * MS;
	open_pair(&a, &b, 2, "reorder=16,delay=30s", "reorder=16", &config);
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(submit(&a, 1, 50, &sent[i]), 1);
	for (unsigned i = 0; i < 16; i++)
		CHECK(run_until(&a, &b, &sent[i], 5 * SECOND) < 0);
	pair_close(&a, &b);
}

static void say(struct side *from, struct path_head head)
{
	struct path_sum sums[1] = { { .imm = 5, .count = INT32_MIN } };

	group_enter(from->g);
	path_say(from->g, peer_of(from), &head, sums);
	group_leave(from->g);
}

/* Of a connection that is up: it cannot be refused; nor are immediates counted that are in order. */
static void test_said_out_of_place(struct path_head head)
{
	struct pg_config config = config_defaults();
	struct pg_peer_info info;
	struct side a, b;
	int32_t sent;

	open_pair(&a, &b, 2, SOUND, SOUND, &config);
	write_well(&a, &b, 1);
	CHECK_EQ(submit(&a, 1, 0, &sent), 1);
	say(&b, head);
	CHECK(run_until(&a, &b, &sent, 5 * SECOND) != 0);
	for (int i = 0; i < 100 && side_is_up(&a); i++)
		run_for(&a, &b, MS);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0);
	CHECK_EQ(info.status, -EPROTO);
	pair_close(&a, &b);
}

static void test_refused_when_up(void)
{
	test_said_out_of_place((struct path_head){ .word = PATH_REFUSED });
}

static void test_counted_in_order(void)
{
	test_said_out_of_place((struct path_head){ .word = PATH_COUNTED, .n = 1 });
}

static bool rewrites(const struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths; k++)
		for (const struct list *l = p->paths[k].flights.next;
		     p->paths[k].state == PATH_UP && l != &p->paths[k].flights; l = l->next) {
			const struct flight *f = LIST_ENTRY(l, struct flight, link);

			if (f->kind == FLIGHT_REWRITE && f->owes_imm)
				return true;
		}
	return false;
}

/* Time for it to land, and then for the news of that to be there. */
static bool lands_unheard(struct side *a, struct side *b, const struct peer *p)
{
	usleep(300);
	pair_progress(a, b, 1);
	usleep(500);
	return rewrites(p);
}

/* The peer is given up while payload is written again: nothing of it is left behind. */
static void test_down_while_rewriting(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	struct peer *p;
	int32_t sent[64];
	bool down = false;

	open_pair(&a, &b, 2, "fail=0.05,reorder=16,jitter=200us,depth=64", "reorder=16", &config);
	p = peer_of(&a);
	for (unsigned round = 0; round < 1000 && !down; round++) {
		for (unsigned i = 0; i < 64; i++)
			CHECK_EQ(submit(&a, 1, 0, &sent[i]), 1);
		for (unsigned i = 0; i < 64 && !down; i++)
			while (!__atomic_load_n(&sent[i], __ATOMIC_ACQUIRE) && !down) {
				pair_progress(&a, &b, 1);
				down = rewrites(p) && lands_unheard(&a, &b, p);
			}
	}
	CHECK(down);
	group_enter(a.g);
	peer_down(a.g, p, -ETIMEDOUT, "given up by the test");
	group_leave(a.g);
	run_for(&a, &b, 20 * MS);
	CHECK(list_empty(&p->salvage) && list_empty(&p->makeups) && list_empty(&p->orphans));
	CHECK_EQ(p->n_rewriting, 0);
	CHECK_EQ(a.g->n_live, 0);
	pair_close(&a, &b);
}

static const struct flight *first_flight(const struct peer *p)
{
	const struct list *flights = &p->paths[0].flights;

	return list_empty(flights) ? NULL : LIST_ENTRY(flights->next, const struct flight, link);
}

/* How many immediates of its value were sent before one that is in flight, when what was posted before it
 * has failed for a fault of its own meanwhile; -1: it has ended as well. */
static int index_behind_fault(struct side *a, struct side *b, uint32_t imm)
{
	int32_t failed, sent;
	int index = -1;

	CHECK_EQ(submit(a, imm, 0, &failed), 1);
	run_for(a, b, 20 * MS);
	CHECK(pg_submit_barrier(a->g, &a->peer, 1, imm, 0, &sent, NULL) == 0);
	CHECK_EQ(run_until(a, b, &failed, 5 * SECOND), -EFAULT);
	if (first_flight(peer_of(a)))
		index = (int)first_flight(peer_of(a))->index;
	CHECK_EQ(run_until(a, b, &sent, 5 * SECOND), 1);
	return index;
}

/* By its index it is known to be of before an expectation has fired or after. */
static void test_index_behind_fault(void)
{
	struct side a, b;
	int index = -1;

	open_faulty(&a, &b, 1, "reorder=2,delay=40ms");
	for (uint32_t imm = 1; index < 0 && imm < 100; imm++)
		index = index_behind_fault(&a, &b, imm);
	CHECK_EQ(index, 0);
	pair_close(&a, &b);
}

int main(void)
{
	apart("revival while connecting", test_revival_while_connecting);
	apart("known before", test_known_before);
	apart("pause", test_pause);
	apart("out of time twice", test_out_of_time_twice);
	apart("refused when up", test_refused_when_up);
	apart("counted in order", test_counted_in_order);
	apart("down while rewriting", test_down_while_rewriting);
	apart("index behind a fault", test_index_behind_fault);
	return 0;
}
