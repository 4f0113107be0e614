/* SPDX-License-Identifier: MIT
 *
 * Where others cannot take over: both ends hear of it, nothing hangs, and what was in flight ends with
 * an error. And what an operation that is out of time does to others on its connection.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_pair.h"
#include "util/clock.h"

#define MEM (1ull << 20)
#define SOUND "depth=128" /* asynchronous, and nothing more */
#define MS 1000000ull

static void open_side(struct side *s, unsigned nics, const char *impair,
		      const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = nics,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1 };
	struct pg_config config = *limits;
	void *ptr;

	snprintf(group.impair, sizeof(group.impair), "%s", impair);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		group.domains[i].cpu = -1;
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static void open_pair(struct side *a, struct side *b, unsigned nics, const char *ours,
		      const char *theirs, const struct pg_config *config)
{
	open_side(a, nics, ours, config);
	open_side(b, nics, theirs, config);
	side_meet(a, b);
	side_meet(b, a);
}

/* Makes progress on both sides, or on one alone, until the flag is set; its value. */
static int32_t run_until(struct side *a, struct side *b, const int32_t *flag, uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE) && clock_ns() < end) {
		pg_progress(a->g);
		if (b)
			pg_progress(b->g);
	}
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static void run_for(struct side *a, struct side *b, uint64_t ns)
{
	int32_t never = 0;

	run_until(a, b, &never, ns);
}

static void check_down(struct side *s, int status, const char *words)
{
	struct pg_peer_info info;

	CHECK(pg_peer_info(s->g, s->peer, &info) == 0);
	if (info.up || info.status != status || !strstr(info.reason, words)) {
		fprintf(stderr, "%d: %s\n", info.status, info.reason);
		check_failed(__FILE__, __LINE__, words);
	}
}

static int32_t submit(struct side *a, uint32_t imm, uint32_t limit_ms, int32_t *flag)
{
	struct pg_op op = { .opcode = PG_OP_WRITE,
			    .imm = imm,
			    .limit_ms = limit_ms,
			    .done.flag = flag,
			    .u.write = { .src = a->mr, .dst = a->remote, .len = 64 } };

	return pg_submit(a->g, &op, 1, 0, NULL);
}

/* The last NIC of either side goes: its peers are told why, and so are theirs. */
static void test_last_nic(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	struct pg_event e;
	int32_t first, last = 0;
	uint64_t end = clock_ns() + 5 * SECOND;

	open_pair(&a, &b, 2, "kill=nic1@0.05s,kill=nic0@0.1s", SOUND, &config);
	CHECK_EQ(submit(&a, 1, 0, &first), 1);
	CHECK_EQ(run_until(&a, &b, &first, 5 * SECOND), 1);
	while (last >= 0 && clock_ns() < end) {
		if (submit(&a, 1, 0, &last) != 1)
			break;
		run_until(&a, &b, &last, 5 * SECOND);
	}
	run_for(&a, &b, 20 * MS);
	check_down(&a, -ENETDOWN, "no NIC is left");
	check_down(&b, -ENETDOWN, "no NIC is left");
	CHECK(side_next_news(&a, &b, PG_EVENT_NIC_DOWN, &e) && e.status == -ENETDOWN);
	pair_close(&a, &b);
}

/* One side's transport can stop a connection and the other's cannot. */
static void test_not_to_be_stopped(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent = 0;
	uint64_t end = clock_ns() + 5 * SECOND;

	open_pair(&a, &b, 2, "kill=nic1@0.02s", "none", &config);
	while (sent >= 0 && clock_ns() < end && submit(&a, 1, 0, &sent) == 1)
		run_until(&a, &b, &sent, 5 * SECOND);
	run_for(&a, &b, 20 * MS);
	check_down(&b, -ENETDOWN, "connection over shm1 broke");
	check_down(&a, -EHOSTDOWN, "");
	pair_close(&a, &b);
}

/* The peer makes no progress: it cannot be asked, and is given up in time. */
static void test_no_answer(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent, lost = 0;

	config.op_timeout_ns = 300 * MS;
	open_pair(&a, &b, 2, "fail=1", SOUND, &config);
	CHECK_EQ(submit(&a, PG_NO_IMM, 0, &sent), 1);
	run_for(&a, &b, 5 * MS);
	CHECK_EQ(submit(&a, 1, 0, &lost), 1);
	CHECK(run_until(&a, NULL, &lost, 5 * SECOND) < 0);
	for (unsigned i = 0; side_is_up(&a) && i < 5000; i++)
		run_until(&a, NULL, &(int32_t){ 0 }, MS);
	check_down(&a, -ETIMEDOUT, ", and the peer does not");
	pair_close(&a, &b);
}

/* What is out of time breaks its connection. Another operation there is sent again, and ends well; of
 * the late one at most what was said to be an error is counted. */
static void test_innocent(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t late, innocent;
	uint64_t value;

	open_pair(&a, &b, 1, "delay=300ms", SOUND, &config);
	CHECK_EQ(submit(&a, 7, 50, &late), 1);
	CHECK_EQ(submit(&a, 8, 0, &innocent), 1);
	CHECK_EQ(run_until(&a, &b, &late, 5 * SECOND), -ETIMEDOUT);
	CHECK_EQ(run_until(&a, &b, &innocent, 5 * SECOND), 1);
	run_for(&a, &b, 30 * MS);
	CHECK_EQ(side_value(&b, 8), 1);
	value = side_value(&b, 7);
	CHECK(value <= 1);
	CHECK(side_is_up(&a) && side_is_up(&b));
	pair_close(&a, &b);
}

/* Destroyed in the middle of it. */
static void test_destroyed(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent[32];

	open_pair(&a, &b, 2, "fail=0.5,reorder=8", "reorder=8", &config);
	for (unsigned i = 0; i < 32; i++)
		CHECK_EQ(submit(&a, 1, 0, &sent[i]), 1);
	run_for(&a, &b, 2 * MS);
	CHECK(pg_engine_destroy(a.engine) == 0);
	for (unsigned i = 0; i < 32; i++)
		CHECK(sent[i] != 0);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

/* Times of kills count from the first use in a process. */
static void apart(const char *name, void (*test)(void))
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		test();
		exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		check_failed(__FILE__, __LINE__, name);
}

int main(void)
{
	apart("last NIC", test_last_nic);
	apart("not to be stopped", test_not_to_be_stopped);
	apart("no answer", test_no_answer);
	apart("innocent", test_innocent);
	apart("destroyed", test_destroyed);
	return 0;
}
