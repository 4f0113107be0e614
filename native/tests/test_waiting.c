/* SPDX-License-Identifier: MIT
 *
 * What wakes whoever waits: on the file descriptor, on watched words, behind another thread that
 * makes the progress; and each operation ends once, whoever submitted it.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine_pair.h"

#define MEM 65536
#define MS 1000000ull
#define THREADS 8
#define OPS 2000
#define PART 100 /* in flight at once, of a thread */

static struct pg_config quiet(void)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 3600 * SECOND; /* it would wake us, too */
	config.silent_ns = 2 * config.heartbeat_ns;
	return config;
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1;
}

static void arm(struct side *s)
{
	while (pg_wait_arm(s->g) == 0)
		pg_progress(s->g);
}

/* ---- The descriptor ---- */

/* For a deadline, of a peer that never answers; and when all is told, for nothing. */
static void test_fd_deadline(int mode)
{
	struct pg_config config = quiet();
	struct side a, b;
	int32_t sent;
	unsigned wakes = 0;
	int fd;

	config.op_timeout_ns = 100 * MS;
	side_open(&a, 1, mode, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	fd = pg_wait_fd(a.g);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	/* a heartbeat, and then no more of them */
	CHECK(pg_wait_flags(a.g, &sent, 1, MS) == -ETIMEDOUT);
	for (;; wakes++) {
		arm(&a);
		if (__atomic_load_n(&sent, __ATOMIC_ACQUIRE))
			break;
		CHECK(readable(fd, 20000));
		pg_progress(a.g);
	}
	CHECK_EQ(sent, -ETIMEDOUT);
	CHECK(wakes > 0);
	/* Deadlines were looked at meanwhile, but not at all times. */
	CHECK(wakes < 1000);
	for (unsigned i = 0; i < 3; i++) {
		pg_progress(a.g);
		arm(&a);
		if (!readable(fd, 100))
			break;
		CHECK(i < 2);
	}
	pair_close(&a, &b);
}

/* For a word that another sets; and an event that nobody has polled keeps it from being armed. */
static void test_fd_word(int mode)
{
	struct pg_config config = quiet();
	struct pg_done done = { .cookie = 1 };
	struct pg_event e;
	struct side a;
	uint64_t *word;
	pg_watcher_t w;
	int fd;

	side_open(&a, 1, mode, MEM, &config);
	fd = pg_wait_fd(a.g);
	CHECK(pg_alloc_watcher(a.g, &done, &word, &w, NULL) == 0);
	for (uint64_t i = 1; i <= 20; i++) {
		arm(&a);
		__atomic_store_n(word, i, __ATOMIC_RELEASE);
		do {
			CHECK(readable(fd, 20000));
			pg_progress(a.g);
		} while (pg_wait_arm(a.g) == 1);
		CHECK(pg_wait_arm(a.g) == 0);
		CHECK(pg_poll_events(a.g, &e, 1) == 1);
		CHECK(e.kind == PG_EVENT_WATCH && e.old_value == i - 1 && e.value == i);
	}
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* For what a peer says, which is answered then, and not after many calls. */
static void test_fd_control(void)
{
	struct pg_config config = quiet();
	struct side a, b;
	unsigned wakes = 0;
	int32_t sent;

	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK(pg_wait_events(b.g, &(struct pg_event){ 0 }, 1, 20 * SECOND) == 1); /* it is up */
	for (unsigned i = 0; i < 40; i++) {
		arm(&b);
		CHECK(pg_fence_peer(a.g, a.peer, 0, &sent, NULL) == 0);
		for (; pg_wait_flags(a.g, &sent, 1, MS) == -ETIMEDOUT; wakes++) {
			CHECK(readable(pg_wait_fd(b.g), 20000));
			pg_progress(b.g);
			arm(&b);
		}
		CHECK_EQ(sent, 1);
	}
	CHECK(wakes < 40 * 4);
	pair_close(&a, &b);
}

/* ---- Watched words ---- */

static void remember(void *arg, const struct pg_event *event)
{
	*(struct pg_event *)arg = *event;
}

/* Changes that nobody took become one, from the first to the last value. */
static void test_words_coalesce(void)
{
	struct pg_config config = quiet();
	struct pg_event e, told = { 0 };
	struct pg_done done = { .cookie = 1 }, call = { .callback = remember, .arg = &told };
	struct side a;
	uint64_t *word, *other;
	pg_watcher_t w, w2;

	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(pg_alloc_watcher(a.g, &done, &word, &w, NULL) == 0);
	CHECK(pg_alloc_watcher(a.g, &call, &other, &w2, NULL) == 0);
	for (uint64_t i = 1; i <= 5; i++) {
		*word = i;
		*other = 10 * i;
		CHECK(pg_progress(a.g) > 0);
		CHECK(told.kind == PG_EVENT_WATCH && told.value == 10 * i);
		CHECK_EQ(told.old_value, 10 * (i - 1));
	}
	CHECK(pg_poll_events(a.g, &e, 1) == 1);
	CHECK(e.kind == PG_EVENT_WATCH && e.old_value == 0 && e.value == 5);
	CHECK(pg_poll_events(a.g, &e, 1) == 0);
	/* Back again: it has changed, and has not. */
	*word = 6;
	pg_progress(a.g);
	*word = 5;
	pg_progress(a.g);
	CHECK(pg_poll_events(a.g, &e, 1) == 1 && e.old_value == 5 && e.value == 5);
	CHECK(pg_free_watcher(a.g, w2) == 0);
	told.kind = 0;
	*other = 1;
	pg_progress(a.g);
	CHECK_EQ(told.kind, 0);
	/* Its place is another's, which begins at 0. */
	CHECK(pg_alloc_watcher(a.g, &done, &other, &w2, NULL) == 0 && *other == 0);
	CHECK(pg_poll_events(a.g, &e, 1) == 0);
	for (unsigned i = 2; i < PG_MAX_WATCHERS; i++)
		CHECK(pg_alloc_watcher(a.g, &done, &other, &w2, NULL) == 0);
	CHECK(pg_alloc_watcher(a.g, &done, &other, &w2, NULL) == -ENOSPC);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* ---- Threads ---- */

struct job {
	struct side *side;
	_Atomic uint32_t *stop;
	uint64_t at; /* of its own */
	_Atomic uint32_t told[OPS];
	_Atomic uint32_t n;
};

static void count(void *arg, const struct pg_event *event)
{
	struct job *j = arg;

	CHECK(event->status == 0 && event->cookie < OPS);
	atomic_fetch_add(&j->told[event->cookie], 1);
	atomic_fetch_add(&j->n, 1);
}

static void *submit_all(void *arg)
{
	struct job *j = arg;
	struct side *s = j->side;

	for (unsigned i = 0; i < OPS; i++) {
		struct pg_op op = { .opcode = PG_OP_WRITE,
				    .imm = 1,
				    .done = { .cookie = i, .callback = count, .arg = j } };

		op.u.write = (struct pg_write){ s->mr, 0, s->remote, j->at + i % PART * 8, 8 };
		CHECK(pg_submit(s->g, &op, 1, PG_SUBMIT_BLOCK, NULL) == 1);
		if (i % PART == PART - 1)
			while (atomic_load(&j->n) <= i)
				pg_wait_flags(s->g, &(int32_t){ 0 }, 1, MS);
	}
	return NULL;
}

static void *make_progress(void *arg)
{
	struct job *j = arg;

	while (!atomic_load(j->stop))
		pg_wait_flags(j->side->g, &(int32_t){ 0 }, 1, MS);
	return NULL;
}

/* Eight submit and wait at once; each operation is told once, and counted once. */
static void test_each_ends_once(int mode)
{
	static struct job jobs[THREADS];
	struct pg_config config = quiet();
	struct side a, b;
	_Atomic uint32_t stop = 0;
	struct job receiver = { .side = &b, .stop = &stop };
	pthread_t threads[THREADS], receives;
	int32_t counted;

	config.max_ops = 64;
	side_open(&a, 2, mode, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	CHECK(pthread_create(&receives, NULL, make_progress, &receiver) == 0);
	for (unsigned i = 0; i < THREADS; i++) {
		memset(&jobs[i], 0, sizeof(jobs[i]));
		jobs[i].side = &a;
		jobs[i].at = i * PART * 8;
		CHECK(pthread_create(&threads[i], NULL, submit_all, &jobs[i]) == 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(pg_expect_imm_flag(b.g, 1, THREADS * OPS, &counted, NULL) == 0);
	CHECK(pg_wait_flags(b.g, &counted, 1, 20 * SECOND) == 0 && counted == 1);
	atomic_store(&stop, 1);
	CHECK(pthread_join(receives, NULL) == 0);
	for (unsigned i = 0; i < THREADS; i++)
		for (unsigned k = 0; k < OPS; k++)
			CHECK_EQ(atomic_load(&jobs[i].told[k]), 1);
	pair_close(&a, &b);
}

struct waiter {
	struct side *side;
	int32_t flag;
	int result;
};

static void *wait_for_flag(void *arg)
{
	struct waiter *w = arg;

	w->result = pg_wait_flags(w->side->g, &w->flag, 1, 60 * SECOND);
	return NULL;
}

/* Several wait, each for what is its own. Whoever leads is done at some time, and another goes on. */
static void test_waiters_take_over(int mode)
{
	struct pg_config config = quiet();
	struct side a, b;

	config.spin_ns = 0;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, mode, MEM, &config);
	side_meet(&a, &b);
	for (unsigned round = 0; round < 30; round++) {
		struct waiter w[THREADS];
		pthread_t threads[THREADS];
		int32_t sent;

		for (uint32_t i = 0; i < THREADS; i++) {
			w[i] = (struct waiter){ .side = &b };
			CHECK(pg_expect_imm_flag(b.g, i, 1, &w[i].flag, NULL) == 0);
			CHECK(pthread_create(&threads[i], NULL, wait_for_flag, &w[i]) == 0);
		}
		for (uint32_t i = 0; i < THREADS; i++) {
			uint32_t imm = (i * 3 + round) % THREADS;

			CHECK(pg_submit_single_write(a.g, 8, imm, a.mr, 0, a.remote, 0, 0, &sent,
						     NULL) == 0);
			CHECK(pg_wait_flags(a.g, &sent, 1, 20 * SECOND) == 0 && sent == 1);
			CHECK(pthread_join(threads[imm], NULL) == 0);
			CHECK(w[imm].result == 0 && w[imm].flag == 1);
		}
	}
	pair_close(&a, &b);
}

/* ---- Several peers ---- */

/* It waits until all of them are up, and no longer for one that never answers. */
static void test_group_connects(void)
{
	enum { N = 3 };
	struct pg_config config = quiet();
	struct side a, b[N + 1];
	pg_peer_t peers[N + 1];
	pg_peer_group_t group;
	struct pg_peer_info info;
	struct pg_error err = { 0 };

	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	for (unsigned i = 0; i <= N; i++) {
		side_open(&b[i], 1, i < N ? PG_PROGRESS_WORKER : PG_PROGRESS_INLINE, MEM, &config);
		side_meet(&a, &b[i]);
		peers[i] = a.peer;
	}
	CHECK(pg_add_peer_group(a.g, peers, N, 20 * SECOND, &group, NULL) == 0);
	for (unsigned i = 0; i < N; i++)
		CHECK(pg_peer_info(a.g, peers[i], &info) == 0 && info.up);
	CHECK(pg_add_peer_group(a.g, peers, N + 1, 50 * MS, &group, &err) == -ETIMEDOUT);
	CHECK(strstr(err.text, "peer "));
	CHECK(pg_remove_peer_group(a.g, group, NULL) == 0);
	for (unsigned i = 0; i <= N; i++)
		CHECK(pg_engine_destroy(b[i].engine) == 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

int main(void)
{
	for (int mode = PG_PROGRESS_INLINE; mode <= PG_PROGRESS_WORKER; mode++) {
		test_fd_deadline(mode);
		test_fd_word(mode);
		test_each_ends_once(mode);
		test_waiters_take_over(mode);
	}
	test_fd_control();
	test_words_coalesce();
	test_group_connects();
	printf("waiting: descriptor, words, %d threads, peers of a group\n", THREADS);
	return 0;
}
