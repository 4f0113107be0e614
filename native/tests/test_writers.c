/* SPDX-License-Identifier: MIT
 *
 * Counters and those who write to them: halves of who has died, freed immediates and who was there
 * then, counters that nobody asked for, and destinations of which one is dead.
 */
#include <errno.h>
#include <stdio.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM (1u << 20)

static void open_one(struct side *s, unsigned lanes, const struct pg_config *config)
{
	side_open(s, lanes, PG_PROGRESS_INLINE, MEM, config);
}

static int32_t write_one(struct side *a, struct side *b, uint32_t imm)
{
	int32_t sent;
	int rc = pg_submit_single_write(a->g, 8, imm, a->mr, 0, a->remote, 0, 0, &sent, NULL);

	return rc ? rc : pair_run(a, b, &sent);
}

/* Makes it a peer, of which both know that it is up. */
static void come_up(struct side *a, struct side *b)
{
	side_meet(a, b);
	side_meet(b, a);
	CHECK_EQ(write_one(a, b, PG_NO_IMM), 1);
	CHECK_EQ(write_one(b, a, PG_NO_IMM), 1);
}

static struct pg_peer_info info_of(const struct side *s, pg_peer_t peer)
{
	struct pg_peer_info info;

	CHECK(pg_peer_info(s->g, peer, &info) == 0);
	return info;
}

/* Until b, whose peer s was last, has seen its end. */
static void end(struct side *s, struct side *b, pg_peer_t peer)
{
	CHECK(pg_engine_destroy(s->engine) == 0);
	while (info_of(b, peer).up)
		pair_turns(b, b, 1);
	pair_turns(b, b, 5);
}

/* Whether n writes are there, now that all that is on its way has come. */
static bool counted(struct side *b, uint32_t imm, uint64_t n)
{
	int32_t fired;

	CHECK(pg_expect_imm_flag(b->g, imm, n, &fired, NULL) == 0);
	pair_turns(b, b, 5);
	if (!fired)
		CHECK(pg_free_imm(b->g, imm) == 0 && fired == -ECANCELED);
	return fired == 1;
}

/* ---- Halves ---- */

/* Each incarnation sends half a write and is gone, and each takes the place of the one before. */
static void test_halves_of_the_dead(void)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent;
	uint64_t value;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_peers = 1;
	for (unsigned i = 0; i < 2; i++)
		fake_nic_hold(FAKE_NIC(1, i), false);
	open_one(&b, 2, &config);
	for (unsigned round = 0; round < 3; round++) {
		open_one(&a, 2, &config);
		come_up(&a, &b);
		fake_nic_hold(FAKE_NIC(1, 1), true);
		CHECK(pg_submit_single_write(a.g, MEM / 4, 7, a.mr, 0, a.remote, 0, 0, &sent,
					     NULL) == 0);
		pair_turns(&a, &b, 20);
		CHECK_EQ(sent, 0);
		CHECK(pg_release_rmr(b.g, b.remote, NULL) == 0);
		end(&a, &b, b.peer);
	}
	CHECK(pg_imm_value(b.g, 7, &value) == 0);
	CHECK_EQ(value, 0);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

/* ---- Freed ---- */

/* What still comes of those who were peers then is not counted, until the last of them is gone. */
static void test_tombstone(void)
{
	struct pg_config config;
	struct side first, second, later, b;
	pg_peer_t peers[3];

	CHECK(pg_config_init(&config, NULL) == 0);
	open_one(&b, 1, &config);
	open_one(&first, 1, &config);
	come_up(&first, &b);
	peers[0] = b.peer;
	open_one(&second, 1, &config);
	come_up(&second, &b);
	peers[1] = b.peer;
	CHECK_EQ(write_one(&first, &b, 5), 1);
	pair_turns(&first, &b, 5);
	for (uint32_t imm = 5; imm < 10; imm++)
		CHECK(pg_free_imm(b.g, imm) == 0);
	open_one(&later, 1, &config);
	come_up(&later, &b);
	peers[2] = b.peer;

	CHECK_EQ(write_one(&first, &b, 5), 1);
	CHECK_EQ(write_one(&second, &b, 6), 1);
	CHECK_EQ(write_one(&later, &b, 7), 1);
	pair_turns(&first, &b, 5);
	CHECK(!counted(&b, 5, 1));
	end(&first, &b, peers[0]);
	CHECK_EQ(write_one(&second, &b, 6), 1);
	CHECK_EQ(write_one(&second, &b, 8), 1);
	pair_turns(&second, &b, 5);
	CHECK(!counted(&b, 6, 1));
	end(&second, &b, peers[1]);
	CHECK_EQ(write_one(&later, &b, 7), 1);
	CHECK_EQ(write_one(&later, &b, 9), 1);
	pair_turns(&later, &b, 5);
	CHECK(!counted(&b, 8, 1));
	CHECK(counted(&b, 7, 1)); /* of the two, that which came when the others were gone */
	CHECK(counted(&b, 9, 1));
	/* Asked for, it counts again; so it does when it is read. */
	CHECK(pg_free_imm(b.g, 9) == 0);
	CHECK(pg_imm_value(b.g, 9, &(uint64_t){ 0 }) == 0);
	CHECK_EQ(write_one(&later, &b, 9), 1);
	pair_turns(&later, &b, 5);
	CHECK(counted(&b, 9, 1));
	end(&later, &b, peers[2]);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

/* ---- Unclaimed ---- */

/* Who makes more counters than there is room for is given up, and it says so; others are not. */
static void test_unclaimed(void)
{
	enum { ROOM = 4 };
	struct pg_config config;
	struct side good, bad, b;
	pg_peer_t theirs;
	struct pg_event e = { 0 };
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_unclaimed = ROOM;
	open_one(&b, 1, &config);
	open_one(&good, 1, &config);
	come_up(&good, &b);
	theirs = b.peer;
	open_one(&bad, 1, &config);
	come_up(&bad, &b);
	for (uint32_t imm = 1; imm <= ROOM; imm++)
		CHECK_EQ(write_one(imm % 2 ? &good : &bad, &b, imm), 1);
	pair_turns(&bad, &b, 5);
	CHECK(info_of(&b, b.peer).up && info_of(&b, theirs).up);
	CHECK(pg_submit_single_write(bad.g, 8, ROOM + 1, bad.mr, 0, bad.remote, 0, 0, &sent,
				     NULL) == 0);
	for (unsigned i = 0; i < 5000 && info_of(&b, b.peer).up; i++)
		pair_turns(&bad, &b, 1);
	CHECK(info_of(&b, b.peer).status == -ENOBUFS);
	CHECK(strstr(info_of(&b, b.peer).reason, "more than 4 counters"));
	while (e.kind != PG_EVENT_PEER_DOWN)
		CHECK(pg_wait_events(b.g, &e, 1, 10 * SECOND) == 1);
	CHECK(e.peer == b.peer && e.status == -ENOBUFS);
	for (unsigned i = 0; i < 5000 && info_of(&bad, bad.peer).up; i++)
		pair_turns(&bad, &b, 1);
	CHECK(!info_of(&bad, bad.peer).up);
	/* What the others have counted stays, and there is room for more of it. */
	CHECK_EQ(write_one(&good, &b, 1), 1);
	pair_turns(&good, &b, 5);
	CHECK(info_of(&b, theirs).up);
	CHECK(counted(&b, 1, 2));
	for (uint32_t imm = 2; imm <= ROOM; imm++)
		CHECK(counted(&b, imm, 1) == (imm % 2 == 1));
	CHECK(!counted(&b, ROOM + 1, 1));
	CHECK_EQ(write_one(&good, &b, ROOM + 2), 1);
	pair_turns(&good, &b, 5);
	CHECK(counted(&b, ROOM + 2, 1));
	CHECK(pg_engine_destroy(bad.engine) == 0);
	pair_close(&good, &b);
}

/* ---- Several destinations ---- */

/* One of them is dead: it has its own status, and the others get what is theirs. */
static void test_one_of_them_is_dead(void)
{
	enum { N = 3 };
	struct pg_config config;
	struct side a, b[N];
	pg_rmr_t to[N];
	pg_peer_t peers[N];
	pg_peer_group_t group;
	struct pg_scatter_dst dsts[N];
	struct pg_barrier barrier = { 0 };
	int32_t status[N] = { 9, 9, 9 }, sent, lost;
	struct pg_scatter s = { .dsts = dsts, .n = N, .status = status };
	struct pg_op op = { .opcode = PG_OP_SCATTER, .imm = 3, .done = { .flag = &sent } };

	CHECK(pg_config_init(&config, NULL) == 0);
	open_one(&a, 1, &config);
	s.src = a.mr;
	for (unsigned i = 0; i < N; i++) {
		open_one(&b[i], 1, &config);
		come_up(&a, &b[i]);
		to[i] = a.remote;
		peers[i] = a.peer;
		dsts[i] = (struct pg_scatter_dst){ i, to[i], 0, 1 };
		a.mem[i] = (uint8_t)(i + 1);
	}
	CHECK(pg_add_peer_group(a.g, peers, N, 10 * SECOND, &group, NULL) == 0);
	/* It dies while it is written to. */
	fake_nic_hold(FAKE_NIC(0, 0), true);
	CHECK(pg_submit_scatter(a.g, &s, 3, 0, &sent, NULL) == 0);
	pair_turns(&a, &b[0], 5);
	CHECK_EQ(sent, 0);
	end(&b[1], &a, peers[1]);
	lost = status[1]; /* that its connection broke, or that it has ended */
	CHECK(sent == 0 && status[0] == 9 && status[2] == 9);
	CHECK(lost == -ECONNRESET || lost == -EHOSTDOWN);
	fake_nic_hold(FAKE_NIC(0, 0), false);
	for (unsigned i = 0; i < 5000 && !sent; i++)
		pair_turns(&b[i % 2 * 2], &a, 1);
	CHECK_EQ(sent, lost);
	CHECK(status[0] == 0 && status[1] == lost && status[2] == 0);
	for (unsigned i = 0; i < N; i += 2) {
		pair_turns(&b[i], &b[i], 5);
		CHECK(counted(&b[i], 3, 1) && b[i].mem[0] == i + 1);
	}
	/* And to all of them, when one is known to be dead. */
	status[0] = status[1] = status[2] = 9;
	barrier = (struct pg_barrier){ .group = group, .status = status };
	op.opcode = PG_OP_BARRIER;
	op.u.barrier = barrier;
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_remove_peer_group(a.g, group, NULL) == (sent ? 0 : -EBUSY));
	for (unsigned i = 0; i < 5000 && !sent; i++)
		pair_turns(&b[i % 2 * 2], &a, 1);
	CHECK_EQ(sent, info_of(&a, peers[1]).status);
	CHECK(status[0] == 0 && status[1] == sent && status[2] == 0);
	for (unsigned i = 0; i < N; i += 2) {
		pair_turns(&b[i], &b[i], 5);
		CHECK(counted(&b[i], 3, 1));
	}
	CHECK(pg_engine_destroy(a.engine) == 0);
	pair_close(&b[0], &b[2]);
}

int main(void)
{
	test_halves_of_the_dead();
	test_tombstone();
	test_unclaimed();
	test_one_of_them_is_dead();
	printf("writers: halves of the dead, tombstones, unclaimed counters, one dead of three\n");
	return 0;
}
