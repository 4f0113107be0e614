/* SPDX-License-Identifier: MIT
 *
 * The timed loops: they move and count what their plans say, and they can always be ended. What they
 * measure is no matter of tests.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "engine_pair.h"
#include "pgctl/bench.h"

#define MEM (1u << 20)
#define IMM 7

static const int32_t go_on;

static struct pg_bench_control control(void)
{
	return (struct pg_bench_control){
		.stop = &go_on,
		.timeout_ns = 20 * SECOND,
		.wait = PG_BENCH_YIELD,
	};
}

/* A loop on each side, at once. */
struct task {
	struct pg_group *g;
	struct pg_bench_stream *stream;
	struct pg_bench_rounds *rounds;
	struct pg_bench_times times;
	struct pg_error err;
	int rc;
};

static void *task_run(void *arg)
{
	struct task *t = arg;

	t->rc = t->stream ? pg_bench_stream(t->g, t->stream, &t->times, &t->err)
			  : pg_bench_rounds(t->g, t->rounds, &t->err);
	return NULL;
}

static void run_both(struct task *a, struct task *b)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, task_run, b) == 0);
	task_run(a);
	CHECK(pthread_join(thread, NULL) == 0);
	if (a->rc || b->rc)
		fprintf(stderr, "a: %s, b: %s\n", a->err.text, b->err.text);
	CHECK_EQ(a->rc, 0);
	CHECK_EQ(b->rc, 0);
}

static struct pg_op write_op(const struct side *s, uint64_t len)
{
	return (struct pg_op){
		.opcode = PG_OP_WRITE,
		.imm = IMM,
		.u.write = { .src = s->mr, .dst = s->remote, .len = len },
	};
}

/* Ten positions, gone through ten and a half times: all of them are written, and all is counted. */
static void test_stream(int both)
{
	enum {
		LEN = 1000,
		STEP = 1024,
		POSITIONS = 10,
		BATCH = 5,
		BATCHES = 20,
		WARM = 1,
		DEPTH = 3
	};
	uint64_t blocks[BATCHES / 2] = { 0 }, completes[BATCHES / 2] = { 0 }, value;
	int32_t flags[2][DEPTH * BATCH + 2];
	struct pg_bench_stream send, receive;
	struct side a, b;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	pg_bench_fill(a.mem, MEM / 2, 42, 0);
	send = (struct pg_bench_stream){
		.control = control(),
		.op = write_op(&a, LEN),
		.batch = BATCH,
		.depth = DEPTH,
		.step = STEP,
		.span = POSITIONS * STEP,
		.warmup_batches = WARM,
		.batches = BATCHES,
		.block = 2,
		.block_ns = blocks,
		.complete_ns = completes,
		.chunk = BATCH * DEPTH,
		.flags = flags[0],
	};
	receive = send;
	receive.op = write_op(&b, LEN);
	receive.op.u.write.src_offset = MEM / 2;
	receive.op.u.write.dst_offset = MEM / 2;
	receive.block_ns = receive.complete_ns = NULL;
	receive.flags = flags[1];
	receive.warmup_arrivals = (uint64_t)WARM * BATCH;
	receive.arrivals = (uint64_t)BATCHES * BATCH;
	if (both) {
		send.warmup_arrivals = receive.warmup_arrivals;
		send.arrivals = receive.arrivals;
	} else {
		receive.warmup_batches = receive.batches = 0;
	}
	struct task ta = { .g = a.g, .stream = &send }, tb = { .g = b.g, .stream = &receive };

	run_both(&ta, &tb);
	CHECK(ta.times.sent_ns > 0 && tb.times.arrived_ns > 0);
	CHECK_EQ(!!ta.times.arrived_ns, both);
	CHECK_EQ(!!tb.times.sent_ns, both);
	for (int i = 0; i < BATCHES / 2; i++)
		CHECK(blocks[i] > 0 && completes[i] > 0);
	CHECK(pg_bench_verify(b.mem, LEN, POSITIONS, STEP, 42, 0) == UINT64_MAX);
	CHECK(b.mem[LEN] == 0 && b.mem[POSITIONS * STEP] == 0);
	CHECK(pg_imm_value(b.g, IMM, &value) == 0 && value == 0);
	pair_close(&a, &b);
}

static void test_rounds(int symmetric, int messages)
{
	uint64_t samples[2][50] = { { 0 } };
	int32_t flags[2][4];
	struct pg_bench_rounds plans[2];
	struct side a, b;
	char text[8] = "message";

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	for (int i = 0; i < 2; i++) {
		struct side *s = i ? &b : &a;

		plans[i] = (struct pg_bench_rounds){
			.control = control(),
			.op = write_op(s, 8),
			.first = i == 0 || symmetric,
			.arrivals = 1,
			.warmup = 3,
			.rounds = 50,
			.round_ns = samples[i],
			.flags = flags[i],
		};
		if (messages) {
			plans[i].op.opcode = PG_OP_SEND;
			plans[i].op.imm = PG_NO_IMM;
			plans[i].op.u.send = (struct pg_send){ s->peer, text, sizeof(text) };
			CHECK(pg_submit_recvs(s->g, 64, 16, NULL) == 0);
		}
	}
	struct task ta = { .g = a.g, .rounds = &plans[0] }, tb = { .g = b.g, .rounds = &plans[1] };

	run_both(&ta, &tb);
	for (int i = 0; i < 50; i++)
		CHECK(samples[0][i] > 0 && samples[1][i] > 0);
	pair_close(&a, &b);
}

/* Nobody answers: the loop ends by its deadline, or because it is told to. */
static void *tell_to_stop(void *arg)
{
	usleep(20000);
	__atomic_store_n((int32_t *)arg, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void test_ending(int stopped)
{
	int32_t stop = 0, flags[4];
	struct pg_bench_rounds plan;
	struct pg_error err = { 0 };
	struct side a, b;
	pthread_t thread;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	plan = (struct pg_bench_rounds){
		.control = { &stop, stopped ? 20 * SECOND : SECOND / 20, PG_BENCH_SPIN },
		.op = write_op(&a, 8),
		.arrivals = 1,
		.rounds = 1,
		.flags = flags,
	};
	if (stopped)
		CHECK(pthread_create(&thread, NULL, tell_to_stop, &stop) == 0);
	CHECK_EQ(pg_bench_rounds(a.g, &plan, &err), stopped ? -ECANCELED : -ETIMEDOUT);
	CHECK(strstr(err.text, "round 0 of 1"));
	if (stopped)
		CHECK(pthread_join(thread, NULL) == 0);
	pair_close(&a, &b);
}

/* The limits write what the engine would have written. */
static void test_limits(unsigned threads)
{
	enum { PAGE = 100, PAGES = 7 };
	uint32_t src[PAGES] = { 3, 1, 4, 0, 5, 2, 6 }, dst[PAGES] = { 2, 6, 5, 3, 0, 1, 4 };
	static uint8_t from[2 * PAGE * PAGES], to[2 * PAGE * PAGES];
	struct pg_bench_times times = { 0 };
	struct pg_error err = { 0 };
	struct pg_bench_stream plan = {
		.control = control(),
		.batch = 2,
		.depth = 1,
		.step = PAGE * PAGES,
		.span = sizeof(from),
		.batches = 1,
	};
	void *dsts[1] = { to };

	pg_bench_fill(from, sizeof(from), 5, 0);
	plan.op = (struct pg_op){
		.opcode = PG_OP_PAGED,
		.u.paged = { .src_stride = PAGE,
			     .src_indices = src,
			     .dst_stride = PAGE,
			     .dst_indices = dst,
			     .page_len = PAGE,
			     .n_pages = PAGES },
	};
	for (int vm = 0; vm < 2; vm++) {
		int rc;

		memset(to, 0, sizeof(to));
		rc = vm ? pg_bench_vm_write(&plan, from, getpid(), (uintptr_t)to, &times, &err)
			: pg_bench_memcpy(&plan, from, dsts, threads, &times, &err);
		if (vm && (rc == -EPERM || rc == -ENOSYS))
			continue; /* a sandbox may forbid it */
		CHECK_EQ(rc, 0);
		CHECK(times.sent_ns > 0);
		for (uint64_t at = 0; at < sizeof(to); at += PAGE * PAGES)
			for (int i = 0; i < PAGES; i++)
				CHECK(pg_bench_verify(to + at + dst[i] * PAGE, PAGE, 1, PAGE, 5,
						      at + src[i] * PAGE) == UINT64_MAX);
	}
	plan.op = (struct pg_op){ .opcode = PG_OP_WRITE, .u.write.len = sizeof(from) };
	plan.step = plan.span = 0;
	memset(to, 0, sizeof(to));
	CHECK(pg_bench_memcpy(&plan, from, dsts, threads, &times, &err) == 0);
	CHECK(memcmp(from, to, sizeof(to)) == 0);
	plan.op.opcode = PG_OP_BARRIER;
	CHECK(pg_bench_memcpy(&plan, from, dsts, threads, &times, &err) == -EINVAL);
}

struct line {
	void *mem;
	uint64_t samples[20];
	int rc;
};

static void *line_second(void *arg)
{
	struct line *l = arg;
	struct pg_bench_control c = control();

	l->rc = pg_bench_cacheline(&c, l->mem, false, 2, 20, NULL, NULL);
	return NULL;
}

static void test_cacheline(void)
{
	static _Alignas(128) uint8_t mem[PG_BENCH_CACHELINE_BYTES];
	struct pg_bench_control c = control();
	struct line l = { .mem = mem };
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, line_second, &l) == 0);
	CHECK(pg_bench_cacheline(&c, mem, true, 2, 20, l.samples, NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK_EQ(l.rc, 0);
	for (int i = 0; i < 20; i++)
		CHECK(l.samples[i] > 0);
}

/* Any piece of the pattern is the same, wherever it begins; any changed byte is found. */
static void test_pattern(void)
{
	uint8_t all[100], piece[100];
	uint64_t state = 1;

	pg_bench_fill(all, sizeof(all), 9, 0);
	for (unsigned from = 0; from < 20; from++) {
		for (unsigned n = 0; n < 40; n++) {
			pg_bench_fill(piece, n, 9, from);
			CHECK(memcmp(piece, all + from, n) == 0);
			CHECK(pg_bench_verify(piece, n, 1, n, 9, from) == UINT64_MAX);
			if (n) {
				unsigned at = (unsigned)(check_random(&state) % n);

				piece[at] ^= 0x10;
				CHECK_EQ(pg_bench_verify(piece, n, 1, n, 9, from), at);
			}
		}
	}
	pg_bench_fill(piece, sizeof(piece), 10, 0);
	CHECK(memcmp(piece, all, sizeof(all)) != 0);
	CHECK_EQ(pg_bench_verify(all, 10, 5, 20, 9, 0), UINT64_MAX);
	all[64] ^= 1;
	CHECK_EQ(pg_bench_verify(all, 10, 5, 20, 9, 0), 64);
}

int main(void)
{
	test_pattern();
	test_cacheline();
	test_limits(1);
	test_limits(3);
	test_stream(0);
	test_stream(1);
	test_rounds(0, 0);
	test_rounds(1, 0);
	test_rounds(0, 1);
	test_ending(0);
	test_ending(1);
	return 0;
}
