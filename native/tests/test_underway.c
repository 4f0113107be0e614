/* SPDX-License-Identifier: MIT
 *
 * Operations that are under way when something happens to them: they are canceled, fenced, their destination is revoked. Over the fake NIC, which can be held.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM (4u << 20)
#define PAGES 256

static uint32_t index_of[PAGES];

static void hold_all(bool held)
{
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		fake_nic_hold(FAKE_NIC(0, i), held);
}

static void fence(struct side *a, struct side *b)
{
	int32_t fenced;

	CHECK(pg_fence_peer(a->g, a->peer, 0, &fenced, NULL) == 0);
	CHECK_EQ(pair_run(a, b, &fenced), 1);
}

/* n pages of len bytes, to the same places. */
static struct pg_op pages(const struct side *s, uint32_t imm, uint64_t len, uint32_t n,
			  int32_t *sent)
{
	struct pg_op op = { .opcode = PG_OP_PAGED, .imm = imm, .done = { .flag = sent } };

	CHECK(n <= PAGES && n * len <= MEM);
	op.u.paged = (struct pg_paged){ .src = s->mr,
					.src_stride = len,
					.src_indices = index_of,
					.dst = s->remote,
					.dst_stride = len,
					.dst_indices = index_of,
					.page_len = len,
					.n_pages = n };
	return op;
}

/* ---- Cancel ---- */

struct told {
	unsigned n;
	int32_t status;
};

static void tell(void *arg, const struct pg_event *event)
{
	struct told *told = arg;

	told->n++;
	told->status = event->status;
}

/* Of more than fits, what is posted is awaited and counts, page by page, and the rest does not come;
 * it is told once. */
static void test_cancel_pages(void)
{
	struct pg_config config = config_defaults();
	struct told told = { 0 };
	struct side a, b;
	struct pg_op op;

	pair_open_up(&a, &b, 1, MEM, &config);
	op = pages(&a, 1, 8, PAGES, NULL);
	op.done = (struct pg_done){ .callback = tell, .arg = &told };
	hold_all(true);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	pair_turns(&a, &b, 20);
	CHECK(pg_cancel(a.g, &op.done) == 0);
	pair_turns(&a, &b, 20);
	CHECK_EQ(told.n, 0);
	CHECK(pg_cancel(a.g, &op.done) == 0); /* it is still there */
	hold_all(false);
	for (unsigned i = 0; i < 5000 && !told.n; i++)
		pair_turns(&a, &b, 1);
	CHECK_EQ(told.status, -ECANCELED);
	CHECK(pg_cancel(a.g, &op.done) == -ENOENT);
	fence(&a, &b);
	CHECK_EQ(told.n, 1);
	CHECK(side_value(&b, 1) > 0 && side_value(&b, 1) < PAGES);
	pair_close(&a, &b);
}

/* Pages of several pieces: one that has come in part is none. */
static void test_cancel_in_a_page(void)
{
	enum { N = 6, LEN = 600000 };
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;
	struct pg_op op;
	uint64_t n;

	pair_open_up(&a, &b, 1, MEM, &config);
	memset(a.mem, 1, MEM);
	op = pages(&a, 1, LEN, N, &sent);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	while (side_value(&b, 1) < 2)
		pair_turns(&a, &b, 1);
	hold_all(true);
	pair_turns(&a, &b, 20);
	CHECK(pg_cancel(a.g, &op.done) == 0);
	hold_all(false);
	CHECK(pair_run(&a, &b, &sent) == -ECANCELED || sent == 1);
	fence(&a, &b);
	n = side_value(&b, 1);
	CHECK(n >= 2 && n <= N && (n == N) == (sent == 1));
	for (uint64_t i = 0; i < N * LEN; i++)
		CHECK(i >= n * LEN || b.mem[i] == 1);
	for (uint64_t i = (n + 1) * LEN; i < N * LEN; i++)
		CHECK(b.mem[i] == 0);
	pair_close(&a, &b);
}

/* One half has been counted, the other will not come: twice, which must not make a whole. */
static void test_cancel_half(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;
	struct pg_done name = { .flag = &sent };

	pair_open_up(&a, &b, 2, MEM, &config);
	for (unsigned round = 1; round <= 3; round++) {
		fake_nic_hold(FAKE_NIC(0, 1), true);
		CHECK(pg_submit_single_write(a.g, 800000, 1, a.mr, 0, a.remote, 0, 0, &sent,
					     NULL) == 0);
		pair_turns(&a, &b, 50);
		CHECK(pg_cancel(a.g, &name) == 0);
		pair_turns(&a, &b, 20);
		CHECK_EQ(sent, 0);
		fake_nic_hold(FAKE_NIC(0, 1), false);
		CHECK_EQ(pair_run(&a, &b, &sent), -ECANCELED);
		CHECK(side_is_up(&a) && side_is_up(&b));
		CHECK(pg_submit_single_write(a.g, 800000, 1, a.mr, 0, a.remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), 1);
		fence(&a, &b);
		CHECK_EQ(side_value(&b, 1), round);
	}
	pair_close(&a, &b);
}

/* A scatter goes as a family: to one peer it is posted, to the other it cannot be yet. */
static void test_cancel_scatter(void)
{
	struct pg_config config = config_defaults();
	struct side a, b, c;
	struct pg_scatter_dst dsts[4];
	int32_t status[4] = { 9, 9, 9, 9 }, sent;
	struct pg_done name = { .flag = &sent };
	struct pg_scatter s = { .dsts = dsts, .n = 4, .status = status };

	pair_open_up(&a, &b, 1, MEM, &config);
	s.src = a.mr;
	for (uint64_t i = 0; i < 4; i++)
		dsts[i] = (struct pg_scatter_dst){ 0, a.remote, i * 8, 8 };
	side_open(&c, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &c);
	for (unsigned i = 1; i < 4; i++)
		dsts[i].dst = a.remote;
	hold_all(true);
	CHECK(pg_submit_scatter(a.g, &s, 1, 0, &sent, NULL) == 0);
	pair_turns(&a, &b, 10);
	CHECK(pg_cancel(a.g, &name) == 0);
	pair_turns(&a, &b, 10);
	CHECK_EQ(sent, 0);
	CHECK(status[1] == -ECANCELED && status[2] == -ECANCELED && status[3] == -ECANCELED);
	hold_all(false);
	CHECK_EQ(pair_run(&a, &b, &sent), -ECANCELED);
	CHECK_EQ(status[0], 0);
	CHECK(pg_cancel(a.g, &name) == -ENOENT);
	pair_turns(&a, &b, 10);
	CHECK_EQ(side_value(&b, 1), 1);
	CHECK(pg_engine_destroy(a.engine) == 0);
	pair_close(&b, &c);
}

/* Submitted and not yet started, it is there to be canceled. */
static void test_cancel_at_once(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;
	struct pg_done name = { .flag = &sent };

	side_open(&a, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config); /* never answers */
	side_meet(&a, &b);
	for (unsigned i = 0; i < 200; i++) {
		CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
		CHECK(pg_cancel(a.g, &name) == 0);
		CHECK(pg_wait_flags(a.g, &sent, 1, 20 * SECOND) == 0);
		CHECK_EQ(sent, -ECANCELED);
	}
	pair_close(&a, &b);
}

/* ---- Fence ---- */

/* It waits for what is older, posted or not, and not for what is younger. */
static void test_fence_waits(uint32_t n)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent[2], fenced[2];
	struct pg_op op;

	pair_open_up(&a, &b, 1, MEM, &config);
	op = pages(&a, PG_NO_IMM, 8, n, &sent[0]);
	hold_all(true);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[0], NULL) == 0);
	pair_turns(&a, &b, 50);
	CHECK(sent[0] == 0 && fenced[0] == 0);
	hold_all(false);
	CHECK_EQ(pair_run(&a, &b, &fenced[0]), 1);
	CHECK_EQ(sent[0], 1);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[1], NULL) == 0);
	hold_all(true);
	op.done.flag = &sent[1];
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK_EQ(pair_run(&a, &b, &fenced[1]), 1);
	CHECK_EQ(sent[1], 0);
	pair_close(&a, &b);
}

/* ---- Revoke ---- */

/* The holder is not let off while a write of its own is under way; nor does another become one. */
static void test_revoke_awaits(void)
{
	struct pg_config config = config_defaults();
	struct side a, b, c;
	struct pg_error err = { 0 };
	int32_t sent[2];
	pg_rmr_t from_c;

	pair_open_up(&a, &b, 1, MEM, &config);
	side_open(&c, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&c, &b);
	from_c = c.remote;
	hold_all(true);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent[0], NULL) == 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(pg_unreg_mr(b.g, b.mr, 0, &err) == -EBUSY);
		CHECK(strstr(err.text, "peer "));
		pair_turns(&a, &b, 20);
	}
	CHECK_EQ(sent[0], 0);
	/* Still registered, and yet nobody is let in. */
	CHECK(pg_submit_single_write(c.g, 8, 1, c.mr, 0, from_c, 0, 0, &sent[1], NULL) == 0);
	CHECK_EQ(pair_run(&c, &b, &sent[1]), -ESTALE);
	CHECK(pg_unreg_mr(b.g, b.mr, 0, &err) == -EBUSY);
	hold_all(false);
	CHECK(pair_run(&a, &b, &sent[0]) != 0);
	CHECK_EQ(side_value(&b, 1), 1);
	pair_turns(&a, &b, 20);
	CHECK(pg_unreg_mr(b.g, b.mr, 20 * SECOND, &err) == 0);
	CHECK(pg_engine_destroy(c.engine) == 0);
	pair_close(&a, &b);
}

/* Let go of before the owner has answered, what it then gives is given back. */
static void test_released_while_asked(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;
	struct pg_done name = { .flag = &sent };
	uint8_t theirs[64];
	pg_rmr_t remote;
	pg_mr_t mr;

	pair_open_up(&a, &b, 1, MEM, &config);
	CHECK(pg_reg_mr(b.g, theirs, sizeof(theirs), &mr, NULL) == 0);
	remote = side_import(&a, &b, mr);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK(pg_cancel(a.g, &name) == 0);
	CHECK_EQ(sent, -ECANCELED);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	pair_turns(&b, &a, 20);
	CHECK(pg_unreg_mr(b.g, mr, 20 * SECOND, NULL) == 0);
	pair_close(&a, &b);
}

int main(void)
{
	for (uint32_t i = 0; i < PAGES; i++)
		index_of[i] = i;
	test_cancel_pages();
	test_cancel_in_a_page();
	test_cancel_half();
	test_cancel_scatter();
	test_cancel_at_once();
	test_fence_waits(1);
	test_fence_waits(PAGES);
	test_revoke_awaits();
	test_released_while_asked();
	printf("underway: cancel, fence, revoke while the NIC is held\n");
	return 0;
}
