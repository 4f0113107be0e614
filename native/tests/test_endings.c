/* SPDX-License-Identifier: MIT
 *
 * When a peer ends: what it had sent still counts, what it may still write is waited for, and whoever
 * hears of the end may call the engine again. Also what callbacks may do then, and what happens to
 * those who make progress only now and then.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM (4u << 20)

static void open_shm(struct side *s, int progress, const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = 1,
					 .progress = progress,
					 .worker_cpu = -1,
					 .domains = { { .transport = "shm", .cpu = -1 } } };
	struct pg_config config = *limits;
	void *ptr;

	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static void open_both(struct side *a, struct side *b, const struct pg_config *limits)
{
	struct pg_config config;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	open_shm(a, PG_PROGRESS_INLINE, limits ? limits : &config);
	open_shm(b, PG_PROGRESS_INLINE, limits ? limits : &config);
	side_meet(a, b);
	side_meet(b, a);
	CHECK(pg_submit_single_write(a->g, 8, 3, a->mr, 0, a->remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
}

static void rounds(struct side *s, int n)
{
	for (int i = 0; i < n; i++)
		pg_progress(s->g);
}

/* A full ring of writes has been completed when their sender leaves: each is counted, and an
 * expectation of just these is met and not ended. */
static void test_last_words_count(void)
{
	enum { N = 2000 };
	static int32_t sent[N];
	struct side a, b;
	int32_t fired, more;
	struct pg_done done = { .flag = &fired }, other = { .flag = &more };
	struct pg_from from;

	open_both(&a, &b, NULL);
	from = (struct pg_from){ .peers = &b.peer, .n_peers = 1 };
	CHECK(pg_expect_imm_from(b.g, 10, N / 2, &from, &done, NULL) == 0);
	CHECK(pg_expect_imm_from(b.g, 11, N / 2 + 1, &from, &other, NULL) == 0);
	for (unsigned i = 0; i < N; i++) {
		CHECK(pg_submit_single_write(a.g, 8, 10 + i % 2, a.mr, 0, a.remote, 0, 0, &sent[i],
					     NULL) == 0);
		CHECK_EQ(sent[i], 1);
	}
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK(pg_wait_flags(b.g, &more, 1, 10 * SECOND) == 0);
	CHECK_EQ(fired, 1);
	CHECK_EQ(more, -EHOSTDOWN);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

/* That we have given a peer up does not keep it from writing: its regions are ours again when it has
 * stopped, which is when it hangs up. */
static void test_given_up_still_writes(void)
{
	static uint8_t memory[4096];
	struct pg_config config;
	struct pg_peer_info info;
	struct side a, b;
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	struct pg_error err = { 0 };
	pg_rmr_t remote;
	int32_t sent;
	pg_mr_t mr;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_unclaimed = 16;
	open_both(&a, &b, &config);
	CHECK(pg_reg_mr(a.g, memory, sizeof(memory), &mr, NULL) == 0);
	CHECK(pg_mr_desc(a.g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(b.g, buf, len, &remote, NULL) == 0);
	for (uint32_t i = 0; i < 40; i++) {
		CHECK(pg_submit_single_write(b.g, 8, 100 + i, b.mr, 0, remote, 0, 0, &sent, NULL) ==
		      0);
		CHECK_EQ(i ? 1 : pair_run(&b, &a, &sent), 1);
	}
	rounds(&a, 100);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0 && info.status == -ENOBUFS);
	CHECK(pg_unreg_mr(a.g, mr, 1000000, &err) == -EBUSY && strstr(err.text, "may still write"));
	/* It finds out, and lets go. */
	for (int i = 0; i < 1000; i++) {
		pg_progress(b.g);
		pg_progress(a.g);
	}
	CHECK(pg_unreg_mr(a.g, mr, SECOND, &err) == 0);
	CHECK(pg_submit_single_write(b.g, 8, 7, b.mr, 0, remote, 0, 0, &sent, NULL) < 0);
	pair_close(&a, &b);
}

/* ---- Callbacks ---- */

static struct pg_group *group;
static struct pg_done names[3];
static int calls[3];

static void cancel_next(void *arg, const struct pg_event *event)
{
	long i = (long)(intptr_t)arg;

	CHECK(event->status != 0 && ++calls[i] == 1);
	if (i == 0)
		CHECK(pg_cancel(group, &names[1]) == 0);
}

/* Everything that waits for a peer fails, and whoever hears of the first takes back the second. */
static void test_cancel_within(void)
{
	struct pg_config config;
	struct side a, b;

	CHECK(pg_config_init(&config, NULL) == 0);
	open_shm(&a, PG_PROGRESS_INLINE, &config);
	open_shm(&b, PG_PROGRESS_INLINE, &config);
	side_meet(&a, &b);
	group = a.g;
	for (unsigned i = 0; i < 3; i++) {
		struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 3 };

		names[i] = (struct pg_done){ .callback = cancel_next, .arg = (void *)(intptr_t)i };
		op.done = names[i];
		op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
		CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	}
	CHECK(pg_engine_destroy(b.engine) == 0);
	rounds(&a, 1000);
	CHECK(calls[0] == 1 && calls[1] == 1 && calls[2] == 1);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

static int32_t expected;

static void expect_three(void *arg, const struct pg_event *event)
{
	(void)arg;
	CHECK(event->kind == PG_EVENT_WATCH && event->value == 1);
	CHECK(pg_expect_imm_flag(group, 3, 1, &expected, NULL) == 0);
}

/* What has come already is told to who expects it in the callback of a watcher, too. */
static void test_expect_within(void)
{
	struct pg_done done = { .callback = expect_three };
	struct side a, b;
	pg_watcher_t watcher;
	uint64_t *word;

	open_both(&a, &b, NULL);
	rounds(&b, 100);
	group = b.g;
	CHECK(pg_alloc_watcher(b.g, &done, &word, &watcher, NULL) == 0);
	CHECK(pg_watcher_set(b.g, watcher, 1) == 0);
	rounds(&b, 100);
	CHECK_EQ(expected, 1);
	pair_close(&a, &b);
}

static struct pg_from dead_writer;
static unsigned times;

static void expect_again(void *arg, const struct pg_event *event)
{
	struct pg_done done = { .callback = expect_again };

	(void)arg;
	CHECK(event->status == -EHOSTDOWN || event->status == -ESHUTDOWN);
	times++;
	if (event->status == -EHOSTDOWN) {
		int rc = pg_expect_imm_from(group, 50, 1, &dead_writer, &done, NULL);

		CHECK(rc == 0 || rc == -ESHUTDOWN);
	}
}

/* Of a peer that is dead: told each time, not deeper each time, and others have their turn. */
static void test_expect_the_dead(void)
{
	struct pg_done done = { .callback = expect_again };
	struct side a, b;

	open_both(&a, &b, NULL);
	CHECK(pg_engine_destroy(a.engine) == 0);
	rounds(&b, 300);
	group = b.g;
	dead_writer = (struct pg_from){ .peers = &b.peer, .n_peers = 1 };
	CHECK(pg_expect_imm_from(b.g, 50, 1, &dead_writer, &done, NULL) == 0);
	rounds(&b, 100);
	CHECK(times > 10 && times < 1000);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

static int ends;

static void count_end(void *arg, const struct pg_event *event)
{
	(void)arg;
	CHECK(event->status == -EIO);
	ends++;
}

/* Half of a split write fails, and later the other half ends well: that is one end, though it also
 * ends the peer. */
static void test_split_ends_once(void)
{
	struct pg_config config;
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 3, .done = { .callback = count_end } };
	struct side a, b;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 2, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 2, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(pg_submit_single_write(a.g, 8, 3, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	fake_nic_hold(FAKE_NIC(0, 1), true);
	fake_nic_fail_next(FAKE_NIC(0, 0), 1);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 1 << 20 };
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	for (int i = 0; i < 1000; i++) {
		pg_progress(a.g);
		pg_progress(b.g);
	}
	CHECK_EQ(ends, 0);
	fake_nic_hold(FAKE_NIC(0, 1), false);
	for (int i = 0; i < 20000; i++) {
		pg_progress(a.g);
		pg_progress(b.g);
	}
	CHECK_EQ(ends, 1);
	pair_close(&a, &b);
}

/* ---- A group of peers goes while a barrier is on its way ---- */

static struct side hub;
static _Atomic uint64_t handle;
static atomic_int stop;

static void *make_and_remove(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++) {
		pg_peer_group_t made;

		CHECK(pg_add_peer_group(hub.g, &hub.peer, 1, SECOND, &made, NULL) == 0);
		atomic_store_explicit(&handle, made, memory_order_relaxed);
		while (pg_remove_peer_group(hub.g, made, NULL) == -EBUSY)
			sched_yield();
	}
	atomic_store_explicit(&stop, 1, memory_order_relaxed);
	return NULL;
}

static void test_group_goes(void)
{
	struct pg_config config;
	struct side b;
	pthread_t thread;

	CHECK(pg_config_init(&config, NULL) == 0);
	open_shm(&hub, PG_PROGRESS_WORKER, &config);
	open_shm(&b, PG_PROGRESS_WORKER, &config);
	side_meet(&hub, &b);
	CHECK(pg_connect(hub.g, hub.peer, 10 * SECOND, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, make_and_remove, NULL) == 0);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		int32_t flag;
		struct pg_op op = { .opcode = PG_OP_BARRIER, .imm = 5, .done = { .flag = &flag } };

		op.u.barrier.group = atomic_load_explicit(&handle, memory_order_relaxed);
		if (pg_submit(hub.g, &op, 1, 0, NULL) != 1)
			continue;
		CHECK(pg_wait_flags(hub.g, &flag, 1, 10 * SECOND) == 0);
		CHECK(flag == 1 || flag == -ESTALE);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	pair_close(&hub, &b);
}

/* ---- Progress now and then ---- */

/* Whoever calls often enough for heartbeats is heard often enough, though each call does little; and
 * one that was busy for long finds its timer set when it goes to sleep. */
static void test_seldom(bool busy)
{
	struct pg_config config;
	struct pg_event e;
	struct side a, b;
	int32_t never = 0, sent[25];

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 50000000;
	config.silent_ns = 400000000;
	open_shm(&a, PG_PROGRESS_INLINE, &config);
	open_shm(&b, PG_PROGRESS_WORKER, &config);
	side_meet(&a, &b);
	CHECK(pg_connect(a.g, a.peer, 10 * SECOND, NULL) == 0);
	side_meet(&b, &a);
	for (unsigned i = 0; i < 25; i++) {
		CHECK(!busy ||
		      !pg_submit_single_write(b.g, 8, 7, b.mr, 0, b.remote, 0, 0, &sent[i], NULL));
		pg_progress(a.g);
		CHECK(pg_wait_flags(b.g, &never, 1, 40000000) == -ETIMEDOUT); /* meanwhile */
		while (pg_poll_events(b.g, &e, 1) == 1)
			CHECK(e.kind == PG_EVENT_PEER_UP);
	}
	while (pg_poll_events(a.g, &e, 1) == 1 || pg_wait_arm(a.g) == 0)
		pg_progress(a.g);
	CHECK(poll(&(struct pollfd){ .fd = pg_wait_fd(a.g), .events = POLLIN }, 1, 10000) == 1);
	pair_close(&a, &b);
}

int main(void)
{
	alarm(200);
	test_last_words_count();
	test_given_up_still_writes();
	test_cancel_within();
	test_expect_within();
	test_expect_the_dead();
	test_split_ends_once();
	test_group_goes();
	test_seldom(false);
	test_seldom(true); /* each call finds something */
	printf("endings: last words, late writers, calls from within, groups that go, pauses\n");
	return 0;
}
