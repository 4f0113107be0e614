/* SPDX-License-Identifier: MIT
 *
 * Peers on this host that are stopped, that make no progress, or that are missed by one who was away
 * itself: silent is not down.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_pair.h"
#include "util/clock.h"

#define MEM 65536
#define MS 1000000ull

static struct pg_config quick(void)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 20 * MS;
	config.silent_ns = 400 * MS;
	return config;
}

/* The next news of the peer; only that is expected. */
static void expect_news(struct side *s, uint32_t kind)
{
	struct pg_event e = { 0 };

	CHECK(pg_wait_events(s->g, &e, 1, 30 * SECOND) == 1);
	CHECK_EQ(e.kind, kind);
	CHECK(e.peer == s->peer);
	CHECK((e.status != 0) == (kind == PG_EVENT_PEER_DOWN));
}

static void expect_no_news(struct side *s, struct side *other, uint64_t ns)
{
	uint64_t start = clock_ns();
	struct pg_event e;

	do {
		CHECK(pg_wait_events(s->g, &e, 1, MS) == -ETIMEDOUT);
		if (other)
			pg_wait_flags(other->g, &(int32_t){ 0 }, 1, 0);
	} while (clock_ns() - start < ns);
}

static struct pg_peer_info info_of(struct side *s)
{
	struct pg_peer_info info;

	CHECK(pg_peer_info(s->g, s->peer, &info) == 0);
	return info;
}

static void other_process(int fd)
{
	struct pg_config config = quick();
	struct side s;
	uint8_t buf[PG_ADDR_MAX] = { 0 };
	size_t len = sizeof(buf);

	alarm(100);
	side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
	CHECK(pg_main_address(s.g, buf, &len) == 0);
	CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf));
	for (;;)
		pause();
}

static void test_stopped(void)
{
	struct pg_config config = quick();
	struct side s;
	uint8_t buf[PG_ADDR_MAX];
	int pipes[2];
	pid_t pid;

	CHECK(pipe(pipes) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		other_process(pipes[1]);
	side_open(&s, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(read(pipes[0], buf, sizeof(buf)) == sizeof(buf));
	CHECK(pg_add_peer(s.g, buf, (size_t)(buf[6] | buf[7] << 8), &s.peer, NULL) == 0);
	CHECK(pg_connect(s.g, s.peer, 30 * SECOND, NULL) == 0);
	expect_news(&s, PG_EVENT_PEER_UP);
	for (unsigned i = 0; i < 2; i++) {
		CHECK(kill(pid, SIGSTOP) == 0);
		expect_news(&s, PG_EVENT_PEER_SILENT);
		CHECK(info_of(&s).up && !info_of(&s).responsive && info_of(&s).status == 0);
		expect_no_news(&s, NULL, 200 * MS); /* it is told once, and not followed by worse */
		CHECK(kill(pid, SIGCONT) == 0);
		expect_news(&s, PG_EVENT_PEER_UP);
		CHECK(info_of(&s).up && info_of(&s).responsive);
	}
	CHECK(kill(pid, SIGSTOP) == 0);
	expect_news(&s, PG_EVENT_PEER_SILENT);
	CHECK(kill(pid, SIGKILL) == 0);
	expect_news(&s, PG_EVENT_PEER_DOWN);
	CHECK(!info_of(&s).up && !info_of(&s).responsive && info_of(&s).status == -EHOSTDOWN);
	CHECK(waitpid(pid, NULL, 0) == pid);
	CHECK(pg_engine_destroy(s.engine) == 0);
	close(pipes[0]);
	close(pipes[1]);
}

static void open_up(struct side *a, struct side *b)
{
	struct pg_config config = quick();
	int32_t sent;

	side_open(a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(a, b);
	side_meet(b, a);
	CHECK(pg_submit_single_write(a->g, 8, PG_NO_IMM, a->mr, 0, a->remote, 0, 0, &sent, NULL) ==
	      0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
	expect_news(a, PG_EVENT_PEER_UP);
	for (unsigned i = 0; i < 100; i++)
		pg_wait_flags(b->g, &(int32_t){ 0 }, 1, 0);
	expect_news(b, PG_EVENT_PEER_UP);
}

/* Nobody makes progress for a long time, as when the whole host sleeps. Who comes back first has not
 * heard the other, and does not hold that against it; but if it goes on like that, it does. */
static void test_away(void)
{
	struct side a, b;

	open_up(&a, &b);
	for (unsigned i = 0; i < 2; i++) {
		usleep(600000);
		expect_no_news(&a, NULL, 60 * MS);
		CHECK(info_of(&a).responsive);
		expect_no_news(&b, &a, 60 * MS);
		CHECK(info_of(&b).responsive);
	}
	expect_news(&a, PG_EVENT_PEER_SILENT);
	CHECK(info_of(&a).up && !info_of(&a).responsive);
	pair_close(&a, &b);
}

/* What nobody has polled is replaced by what is true in the end. */
static void test_latest_counts(void)
{
	struct side a, b;
	struct pg_event e;

	open_up(&a, &b);
	while (info_of(&a).responsive)
		pg_wait_flags(a.g, &(int32_t){ 0 }, 1, MS);
	while (!info_of(&a).responsive) {
		pg_wait_flags(b.g, &(int32_t){ 0 }, 1, MS);
		pg_wait_flags(a.g, &(int32_t){ 0 }, 1, MS);
	}
	expect_news(&a, PG_EVENT_PEER_UP);
	while (info_of(&a).responsive)
		pg_wait_flags(a.g, &(int32_t){ 0 }, 1, MS);
	CHECK(pg_engine_destroy(b.engine) == 0);
	while (info_of(&a).up)
		pg_wait_flags(a.g, &(int32_t){ 0 }, 1, MS);
	expect_news(&a, PG_EVENT_PEER_DOWN);
	CHECK(pg_wait_events(a.g, &e, 1, 50 * MS) == -ETIMEDOUT);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* Peers hear of one whose callers only sleep in a wait, or whose worker has nothing to do. */
static void test_heard_asleep(void)
{
	struct pg_config config = quick();
	struct side a, b;

	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_meet(&a, &b);
	CHECK(pg_connect(a.g, a.peer, 30 * SECOND, NULL) == 0);
	expect_news(&a, PG_EVENT_PEER_UP);
	CHECK(pg_wait_events(a.g, &(struct pg_event){ 0 }, 1, 700 * MS) == -ETIMEDOUT);
	CHECK(info_of(&a).responsive);
	pair_close(&a, &b);
}

int main(void)
{
	test_stopped();
	test_away();
	test_latest_counts();
	test_heard_asleep();
	printf("silence: stopped, away, asleep\n");
	return 0;
}
