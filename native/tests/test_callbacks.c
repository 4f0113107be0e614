/* SPDX-License-Identifier: MIT
 *
 * What callbacks may do, and what they cannot do wrong.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

#include "engine_pair.h"

#define MEM 65536

static _Atomic uint32_t calls;

static void use_everything(void *arg, const struct pg_event *event)
{
	struct side *s = arg;
	struct pg_nic_stats stats;
	struct pg_peer_info info;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	static uint8_t memory[64];
	static int32_t flag;
	pg_rmr_t remote;
	pg_peer_t peer;
	pg_mr_t mr;
	void *ptr;

	CHECK(event->status == 0);
	CHECK(pg_stats(s->g, 0, &stats) == 0 && pg_peer_info(s->g, s->peer, &info) == 0);
	CHECK(pg_main_address(s->g, buf, &len) == 0);
	CHECK(pg_add_peer(s->g, buf, len, &peer, NULL) == 0);
	CHECK(pg_reg_mr(s->g, memory, sizeof(memory), &mr, NULL) == 0);
	len = sizeof(buf);
	CHECK(pg_mr_desc(s->g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &remote, NULL) == 0);
	CHECK(pg_submit_recvs(s->g, 64, 1, NULL) == 0);
	CHECK(pg_submit_single_write(s->g, 8, PG_NO_IMM, s->mr, 0, s->remote, 0, 0, &flag, NULL) ==
	      0);
	CHECK(pg_connect(s->g, peer, SECOND, NULL) == -EDEADLK);
	CHECK(pg_remote_ptr(s->g, s->remote, SECOND, &ptr, NULL) == 0);
	CHECK(pg_release_rmr(s->g, remote, NULL) == 0);
	CHECK(pg_unreg_mr(s->g, mr, SECOND, NULL) == 0);
	s->peer = 0;
}

/* Within a callback everything works but waiting. */
static void test_callback_calls(int progress)
{
	struct side a, b;
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = PG_NO_IMM };
	struct pg_done done = { .callback = use_everything, .arg = &a };
	int32_t told;

	pair_open(&a, &b, 1, 1, progress, MEM);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
	op.done.flag = &told;
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK_EQ(pair_run(&a, &b, &told), 1);
	/* from within progress, then at once from within the call */
	op.done = done;
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	op.done = (struct pg_done){ .flag = &told };
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK_EQ(pair_run(&a, &b, &told), 1);
	CHECK(a.peer == 0);
	pair_close(&a, &b);
}

static void expect_next(void *arg, const struct pg_event *event)
{
	struct pg_done done = { .callback = expect_next, .arg = arg };
	struct side *s = arg;
	int rc = pg_expect_imm(s->g, 2, 1, &done, NULL);

	CHECK(rc == (event->status ? -ESHUTDOWN : 0));
	if (event->status == 0)
		atomic_fetch_add(&calls, 1);
}

/* A callback that expects the next write does not nest as deep as there are writes, and does not
 * keep destroy from its end. */
static void test_callback_chain(int progress)
{
	enum { N = 200000 };
	static uint32_t zeros[N];
	struct side a, b;
	struct pg_done done = { .callback = expect_next, .arg = &b };
	uint64_t value = 0;
	int32_t sent;

	pair_open(&a, &b, 1, 1, progress, MEM);
	struct pg_paged p = { a.mr, 0, 8, zeros, a.remote, 0, 8, zeros, 8, N };

	CHECK(pg_submit_paged_writes(a.g, &p, 2, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	while (value < N) {
		pg_progress(b.g);
		CHECK(pg_imm_value(b.g, 2, &value) == 0);
	}
	atomic_store(&calls, 0);
	CHECK(pg_expect_imm(b.g, 2, 1, &done, NULL) == 0);
	CHECK_EQ(atomic_load(&calls), N);
	pair_close(&a, &b);
}

static void submit_next(void *arg, const struct pg_event *event)
{
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = PG_NO_IMM };
	struct side *s = arg;

	(void)event;
	op.done = (struct pg_done){ .callback = submit_next, .arg = s };
	op.u.write = (struct pg_write){ s->mr, 0, s->remote, 0, 8 };
	if (atomic_fetch_add(&calls, 1) == 100)
		return;
	CHECK(pg_submit(s->g, &op, 1, 0, NULL) == 1);
}

/* One that submits the next write has room for it, also when all that is free is in the cache. */
static void test_submit_chain(int progress)
{
	struct pg_event event = { .status = 0 };
	struct pg_config config;
	struct side a, b;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_ops = 4;
	side_open(&a, 1, progress, MEM, &config);
	side_open(&b, 1, progress, MEM, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	for (int i = 0; i < 10; i++) {
		CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), 1);
	}
	atomic_store(&calls, 0);
	submit_next(&a, &event);
	while (atomic_load(&calls) <= 100)
		pg_progress(a.g);
	pair_close(&a, &b);
}

static void submit_again(void *arg, const struct pg_event *event)
{
	struct pg_op op = { .opcode = PG_OP_SEND, .imm = PG_NO_IMM };
	struct side *s = arg;

	CHECK_EQ(event->status, -ESHUTDOWN);
	op.done = (struct pg_done){ .callback = submit_again, .arg = s };
	op.u.send = (struct pg_send){ s->peer, "x", 1 };
	CHECK_EQ(pg_submit(s->g, &op, 1, 0, NULL), -ESHUTDOWN);
	atomic_fetch_add(&calls, 1);
}

/* At the end of the engine nothing new is accepted, as nobody would end it. */
static void test_submit_at_the_end(int progress)
{
	struct pg_op op = { .opcode = PG_OP_SEND, .imm = PG_NO_IMM };
	struct pg_config config;
	struct side a, b;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 1, progress, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	op.done = (struct pg_done){ .callback = submit_again, .arg = &a };
	op.u.send = (struct pg_send){ a.peer, "x", 1 };
	atomic_store(&calls, 0);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	pair_close(&a, &b);
	CHECK_EQ(atomic_load(&calls), 1);
}

int main(void)
{
	static const int modes[] = { PG_PROGRESS_INLINE, PG_PROGRESS_WORKER };

	for (int i = 0; i < 2; i++) {
		test_callback_calls(modes[i]);
		test_callback_chain(modes[i]);
		test_submit_chain(modes[i]);
		test_submit_at_the_end(modes[i]);
	}
	printf("callbacks: every call from within, 200000 expectations and 100 writes in a row\n");
	return 0;
}
