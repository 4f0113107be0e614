/* SPDX-License-Identifier: MIT
 *
 * What a forked child finds of its parent's engine: nothing that works, and nothing that harms the
 * parent or hides its death from peers.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_pair.h"

#define MEM (1u << 20)

/* Of an engine of the child's own; that sanitizer lets a child start no threads. */
#if defined(__SANITIZE_THREAD__)
#define OWN_MODE PG_PROGRESS_INLINE
#else
#define OWN_MODE PG_PROGRESS_WORKER
#endif

static int child_status(pid_t pid)
{
	int status = -1;

	CHECK(waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Every kind of call, and none that waits or crashes. */
static void use_in_child(struct side *s)
{
	struct pg_error err = { 0 };
	struct pg_event e;
	struct pg_done done = { .flag = &(int32_t){ 0 } };
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	int32_t flag = 0;
	uint64_t value;
	void *ptr;
	pg_mr_t mr;

	CHECK(pg_submit_single_write(s->g, 8, 1, s->mr, 0, s->remote, 0, 0, &flag, &err) ==
	      -ESTALE);
	CHECK(strstr(err.text, "forked"));
	CHECK(pg_submit_send(s->g, s->peer, "x", 1, 0, &flag, NULL) == -ESTALE);
	CHECK(pg_main_address(s->g, buf, &len) == -ESTALE);
	CHECK(pg_mr_desc(s->g, s->mr, buf, &len) == -ESTALE);
	CHECK(pg_add_peer(s->g, buf, len, &s->peer, NULL) == -ESTALE);
	CHECK(pg_connect(s->g, s->peer, SECOND, NULL) == -ESTALE);
	CHECK(pg_alloc_mr(s->g, 4096, -1, 0, &ptr, &mr, NULL) == -ESTALE);
	CHECK(pg_reg_mr(s->g, buf, sizeof(buf), &mr, NULL) == -ESTALE);
	CHECK(pg_unreg_mr(s->g, s->mr, SECOND, NULL) == -ESTALE);
	CHECK(pg_import_mr(s->g, buf, len, &s->remote, NULL) == -ESTALE);
	CHECK(pg_release_rmr(s->g, s->remote, NULL) == -ESTALE);
	CHECK(pg_submit_recvs(s->g, 8, 1, NULL) == -ESTALE);
	CHECK(pg_expect_imm(s->g, 1, 1, &done, NULL) == -ESTALE);
	CHECK(pg_imm_value(s->g, 1, &value) == -ESTALE);
	CHECK(pg_free_imm(s->g, 1) == -ESTALE);
	CHECK(pg_cancel(s->g, &done) == -ESTALE);
	CHECK(pg_progress(s->g) == -ESTALE);
	CHECK(pg_poll_events(s->g, &e, 1) == -ESTALE);
	CHECK(pg_wait_events(s->g, &e, 1, SECOND) == -ESTALE);
	CHECK(pg_wait_flags(s->g, &flag, 1, SECOND) == -ESTALE);
	CHECK(pg_wait_fd(s->g) == -ESTALE && pg_wait_arm(s->g) == -ESTALE);
	CHECK(pg_dump(s->g, 1) == -ESTALE);
	CHECK(pg_engine_destroy(s->engine) == -ESTALE);
}

static _Atomic int stop;
static _Atomic unsigned written;

static void *traffic(void *arg)
{
	struct side *s = arg;
	int32_t sent;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		CHECK(pg_submit_single_write(s->g, 4096, PG_NO_IMM, s->mr, 0, s->remote, 0, 0,
					     &sent, NULL) == 0);
		CHECK(pg_wait_flags(s->g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
		atomic_fetch_add_explicit(&written, 1, memory_order_relaxed);
	}
	return NULL;
}

/* Also, that a thread has started before a fork: a sanitizer's allocator, which it uses to start, is
 * not made ready for forks. */
static void await_traffic(void)
{
	unsigned before = atomic_load_explicit(&written, memory_order_relaxed);

	while (atomic_load_explicit(&written, memory_order_relaxed) == before)
		sched_yield();
}

/* In the middle of traffic, which goes on. */
static void test_children(int mode)
{
	struct side a, b, own;
	struct pg_config config;
	pthread_t thread;
	int32_t sent;

	pair_open(&a, &b, 1, 1, mode, MEM);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	atomic_store_explicit(&stop, 0, memory_order_relaxed);
	CHECK(pthread_create(&thread, NULL, traffic, &a) == 0);
	for (unsigned i = 0; i < 20; i++) {
		pid_t pid;

		await_traffic();
		pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			alarm(60);
			use_in_child(&a);
			/* One of its own is as good as any. */
			CHECK(pg_config_init(&config, NULL) == 0);
			side_open(&own, 1, OWN_MODE, 4096, &config);
			CHECK(pg_engine_destroy(own.engine) == 0);
			_exit(0);
		}
		CHECK_EQ(child_status(pid), 0);
	}
	atomic_store_explicit(&stop, 1, memory_order_relaxed);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	pair_close(&a, &b);
}

/* Engine memory is not there in the child: it is the NIC's, and a copy would be nobody's. */
static void test_memory_is_not_inherited(void)
{
	struct side a;
	struct pg_config config;
	pid_t pid;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		_exit(a.mem[0]);
	}
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they catch the signal */
	CHECK_EQ(child_status(pid), -SIGSEGV);
#else
	child_status(pid);
#endif
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* The parent dies while a child of it lives on. */
static void test_orphan_hides_nothing(void)
{
	int out[2], hold[2];
	uint8_t buf[PG_ADDR_MAX];
	struct pg_config config;
	struct pg_event e;
	struct side s;
	pid_t pid;
	int rc = 0;

	CHECK(pipe(out) == 0 && pipe(hold) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		size_t len = sizeof(buf);
		int32_t never = 0;

		alarm(60);
		CHECK(pg_config_init(&config, NULL) == 0);
		side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
		CHECK(pg_main_address(s.g, buf, &len) == 0);
		CHECK(write(out[1], buf, sizeof(buf)) == sizeof(buf));
		/* When it is connected, a child that only waits. */
		CHECK(pg_wait_events(s.g, &e, 1, 30 * SECOND) == 1);
		if (fork() == 0) {
			char byte;

			close(hold[1]);
			_exit((int)read(hold[0], &byte, 1));
		}
		CHECK(write(out[1], "x", 1) == 1);
		pg_wait_flags(s.g, &never, 1, 60 * SECOND);
		_exit(0);
	}
	close(hold[0]);
	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&s, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(read(out[0], buf, sizeof(buf)) == sizeof(buf));
	CHECK(pg_add_peer(s.g, buf, (size_t)(buf[6] | buf[7] << 8), &s.peer, NULL) == 0);
	CHECK(pg_connect(s.g, s.peer, 10 * SECOND, NULL) == 0);
	CHECK(read(out[0], buf, 1) == 1);
	kill(pid, SIGKILL);
	for (int i = 0; i < 100 && !(rc == 1 && e.kind == PG_EVENT_PEER_DOWN); i++)
		rc = pg_wait_events(s.g, &e, 1, SECOND / 10);
	CHECK(rc == 1 && e.kind == PG_EVENT_PEER_DOWN && e.status == -EHOSTDOWN);
	waitpid(pid, NULL, 0);
	/* Nor does it answer in its place. */
	CHECK(pg_connect(s.g, s.peer, SECOND, NULL) == -EHOSTDOWN);
	close(hold[1]);
	CHECK(pg_engine_destroy(s.engine) == 0);
}

int main(void)
{
	test_children(PG_PROGRESS_INLINE);
	test_children(PG_PROGRESS_WORKER);
	test_memory_is_not_inherited();
	test_orphan_hides_nothing();
	printf("fork: 40 children amid traffic, memory not inherited, death not hidden\n");
	return 0;
}
