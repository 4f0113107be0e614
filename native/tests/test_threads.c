/* SPDX-License-Identifier: MIT
 *
 * Many threads, one group: submitting, waiting, registering and destroying at once. Meant for TSan.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "engine_pair.h"

#define MEM (1u << 20)
#define THREADS 8
#define WRITES 300

struct job {
	struct side *side;
	unsigned n;
	_Atomic uint32_t *stop;
	int result;
};

/* Each thread has writes in flight of its own and waits for them. */
static void *submit_writes(void *arg)
{
	struct job *j = arg;
	struct side *s = j->side;
	int32_t flags[4];

	for (unsigned i = 0; i < WRITES; i++) {
		for (unsigned k = 0; k < 4; k++) {
			struct pg_op op = { .opcode = PG_OP_WRITE,
					    .imm = 1,
					    .done.flag = &flags[k] };

			uint64_t at = (j->n * 4 + k) * 64;

			op.u.write = (struct pg_write){ s->mr, at, s->remote, at, 64 };
			CHECK(pg_submit(s->g, &op, 1, PG_SUBMIT_BLOCK, NULL) == 1);
		}
		CHECK(pg_wait_flags(s->g, flags, 4, 30 * SECOND) == 0);
		for (unsigned k = 0; k < 4; k++)
			CHECK_EQ(flags[k], 1);
	}
	return NULL;
}

/* The other process, as it were. */
static void *make_progress(void *arg)
{
	struct job *j = arg;
	int32_t never = 0;

	while (!atomic_load(j->stop))
		pg_wait_flags(j->side->g, &never, 1, 1000000);
	return NULL;
}

static void *churn_memory(void *arg)
{
	struct job *j = arg;
	static uint8_t memory[4096];
	int32_t flag;

	while (!atomic_load(j->stop)) {
		pg_mr_t mr;
		uint64_t v;

		CHECK(pg_reg_mr(j->side->g, memory, sizeof(memory), &mr, NULL) == 0);
		CHECK(pg_submit_single_write(j->side->g, 64, 2, mr, 0, j->side->remote, 8192, 0,
					     &flag, NULL) == 0);
		CHECK(pg_unreg_mr(j->side->g, mr, 30 * SECOND, NULL) == 0);
		CHECK(pg_wait_flags(j->side->g, &flag, 1, 30 * SECOND) == 0);
		CHECK(flag == 1 || flag == -ESTALE); /* either was first */
		CHECK(pg_imm_value(j->side->g, 3, &v) == 0);
	}
	return NULL;
}

static void test_submitters(int progress, unsigned lanes)
{
	struct side a, b;
	_Atomic uint32_t stop = 0;
	struct job jobs[THREADS], receiver = { .side = &b, .stop = &stop },
				  churn = { .side = &a, .stop = &stop };
	pthread_t threads[THREADS], receiver_thread, churn_thread;
	uint64_t value;

	pair_open(&a, &b, lanes, lanes, progress, MEM);
	pthread_create(&receiver_thread, NULL, make_progress, &receiver);
	pthread_create(&churn_thread, NULL, churn_memory, &churn);
	for (unsigned i = 0; i < THREADS; i++) {
		jobs[i] = (struct job){ .side = &a, .n = i };
		pthread_create(&threads[i], NULL, submit_writes, &jobs[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&stop, 1);
	pthread_join(churn_thread, NULL);
	pthread_join(receiver_thread, NULL);
	do {
		pg_progress(b.g);
		CHECK(pg_imm_value(b.g, 1, &value) == 0);
	} while (value < THREADS * WRITES * 4);
	CHECK(value == THREADS * WRITES * 4);
	pair_close(&a, &b);
}

static void *wait_for_ever(void *arg)
{
	struct job *j = arg;
	struct pg_event event;

	j->result = next_event(j->side->g, &event, 60 * SECOND);
	return NULL;
}

static void test_destroy_wakes(int progress)
{
	struct pg_config config;
	struct side a;
	struct job jobs[4];
	pthread_t threads[4];

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 1, progress, MEM, &config);
	for (unsigned i = 0; i < 4; i++) {
		jobs[i] = (struct job){ .side = &a };
		pthread_create(&threads[i], NULL, wait_for_ever, &jobs[i]);
	}
	side_await_waiters(&a, 4);
	CHECK(pg_engine_destroy(a.engine) == 0);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(jobs[i].result, -ESHUTDOWN);
	}
}

/* What a destroyed engine's waiters still look at, whatever it is they wait for. */
static void *connect_for_ever(void *arg)
{
	struct job *j = arg;
	struct pg_error err;

	j->result = pg_connect(j->side->g, j->side->peer, 60 * SECOND, &err);
	return NULL;
}

static void test_destroy_wakes_connect(int progress)
{
	for (unsigned i = 0; i < 20; i++) {
		struct pg_config config;
		struct side a, b;
		struct job job = { .side = &a };
		pthread_t thread;

		CHECK(pg_config_init(&config, NULL) == 0);
		side_open(&a, 1, progress, MEM, &config);
		side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config); /* never answers */
		side_meet(&a, &b);
		pthread_create(&thread, NULL, connect_for_ever, &job);
		side_await_waiters(&a, 1);
		CHECK(pg_engine_destroy(a.engine) == 0);
		pthread_join(thread, NULL);
		CHECK_EQ(job.result, -ESHUTDOWN);
		CHECK(pg_engine_destroy(b.engine) == 0);
	}
}

/* What was left in the ring for the worker is told too, when the engine goes. */
static void test_left_in_the_ring(void)
{
	enum { N = 500 };
	static int32_t sent[N];

	for (unsigned round = 0; round < 20; round++) {
		struct pg_config config;
		struct side a, b;

		CHECK(pg_config_init(&config, NULL) == 0);
		side_open(&a, 1, PG_PROGRESS_WORKER, MEM, &config);
		side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
		side_meet(&a, &b);
		for (unsigned i = 0; i < N; i++)
			CHECK(pg_submit_send(a.g, a.peer, "x", 1, 0, &sent[i], NULL) == 0);
		CHECK(pg_engine_destroy(a.engine) == 0);
		for (unsigned i = 0; i < N; i++)
			CHECK_EQ(sent[i], -ESHUTDOWN);
		CHECK(pg_engine_destroy(b.engine) == 0);
	}
}

/* Few places, many writes: who blocks makes the progress that frees them, or lets others make it,
 * also when one of those waits for something else and all free places are in its cache. */
static void test_blocking_submit(int progress)
{
	struct pg_config config;
	struct side a, b;
	_Atomic uint32_t stop = 0;
	struct job receiver = { .side = &b, .stop = &stop }, other = { .side = &a, .stop = &stop };
	pthread_t threads[2];
	int32_t flags[100];

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_ops = 8;
	config.spin_ns = 0;
	side_open(&a, 1, progress, MEM, &config);
	side_open(&b, 1, progress, MEM, &config);
	side_meet(&a, &b);
	pthread_create(&threads[0], NULL, make_progress, &receiver);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 100; i++) {
			struct pg_op op = { .opcode = PG_OP_WRITE,
					    .imm = 1,
					    .done.flag = &flags[i] };

			op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
			CHECK(pg_submit(a.g, &op, 1, PG_SUBMIT_BLOCK, NULL) == 1);
		}
		CHECK(pg_wait_flags(a.g, flags, 100, 30 * SECOND) == 0);
		if (round == 0)
			pthread_create(&threads[1], NULL, make_progress, &other);
	}
	atomic_store(&stop, 1);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pair_close(&a, &b);
}

/* The worker goes to sleep for want of a buffer just when one comes back. */
static void test_buffer_returns(void)
{
	struct pg_config config;
	struct pg_event event;
	struct side a, b;
	int32_t sent[2];
	uint64_t seed = 1;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.spin_ns = 0;
	side_open(&a, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_meet(&a, &b);
	CHECK(pg_submit_recvs(b.g, 64, 1, NULL) == 0);
	for (unsigned i = 0; i < 20000; i++) {
		volatile uint64_t pause = check_random(&seed) % 20000;

		for (unsigned k = 0; k < 2; k++)
			CHECK(pg_submit_send(a.g, a.peer, "x", 1, 0, &sent[k], NULL) == 0);
		for (unsigned k = 0; k < 2; k++) {
			CHECK(next_event(b.g, &event, 10 * SECOND) == 1);
			while (k == 0 && pause)
				pause--;
			CHECK(pg_recv_release(b.g, event.data) == 0);
		}
		CHECK(pg_wait_flags(a.g, sent, 2, 10 * SECOND) == 0);
	}
	pair_close(&a, &b);
}

/* Messages that nobody takes do not hold up a write behind them. */
static void test_write_overtakes(void)
{
	enum { SENDS = 3000 };
	static int32_t sent[SENDS];
	struct side a, b;
	char text[PG_MSG_MAX] = { 0 };
	int32_t written;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_WORKER, MEM);
	for (unsigned i = 0; i < SENDS; i++)
		CHECK(pg_submit_send(a.g, a.peer, text, sizeof(text), 0, &sent[i], NULL) == 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &written, NULL) ==
		      0);
		CHECK(pg_wait_flags(a.g, &written, 1, SECOND) == 0);
	}
	pair_close(&a, &b);
}

int main(void)
{
	test_submitters(PG_PROGRESS_INLINE, 1);
	test_submitters(PG_PROGRESS_WORKER, 1);
	test_submitters(PG_PROGRESS_WORKER, 2);
	test_destroy_wakes(PG_PROGRESS_INLINE);
	test_destroy_wakes(PG_PROGRESS_WORKER);
	test_destroy_wakes_connect(PG_PROGRESS_INLINE);
	test_destroy_wakes_connect(PG_PROGRESS_WORKER);
	test_left_in_the_ring();
	test_blocking_submit(PG_PROGRESS_INLINE);
	test_blocking_submit(PG_PROGRESS_WORKER);
	test_buffer_returns();
	test_write_overtakes();
	printf("threads: %d submitters beside registration, inline and worker; destroy wakes "
	       "waiters; blocking submission; buffers that return\n",
	       THREADS);
	return 0;
}
