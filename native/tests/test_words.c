/* SPDX-License-Identifier: MIT
 *
 * Words for people: a dump names what each thing waits for, and the log says what it is asked for and
 * no more. The NIC can be held, so that there is something to wait for.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"
#include "util/log.h"

#define MEM (1u << 20)
#define MS 1000000ull

static void open_up(struct side *a, struct side *b, const struct pg_config *config)
{
	int32_t sent;

	side_open(a, 1, PG_PROGRESS_INLINE, MEM, config);
	side_open(b, 1, PG_PROGRESS_INLINE, MEM, config);
	side_meet(a, b);
	side_meet(b, a);
	CHECK(pg_submit_single_write(a->g, 8, PG_NO_IMM, a->mr, 0, a->remote, 0, 0, &sent, NULL) ==
	      0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
}

static bool dump_has(struct side *s, const char *what)
{
	static char text[65536];
	int fds[2];
	ssize_t n;

	CHECK(pipe(fds) == 0);
	CHECK(pg_dump(s->g, fds[1]) == 0);
	n = read(fds[0], text, sizeof(text) - 1);
	CHECK(n > 0 && text[n - 1] == '\n');
	text[n] = '\0';
	close(fds[0]);
	close(fds[1]);
	if (!strstr(text, what))
		fprintf(stderr, "no \"%s\" in:\n%s", what, text);
	return strstr(text, what);
}

/* ---- Dump ---- */

static void test_dump(void)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent[5], fired[2];
	struct pg_done done = { .flag = &fired[0] };
	struct pg_from from = { .n_peers = 1 };
	uint8_t theirs[64], buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	pg_rmr_t other;
	pg_mr_t mr;

	CHECK(pg_config_init(&config, NULL) == 0);
	open_up(&a, &b, &config);
	CHECK(dump_has(&a, "0 operations in flight, 1 peers up, progress inline"));
	CHECK(dump_has(&a, ": up"));
	/* The peer is asked. */
	CHECK(pg_fence_peer(a.g, a.peer, 0, &sent[0], NULL) == 0);
	CHECK(dump_has(&a, "fence to peer ") && dump_has(&a, "waits for the peer's answer"));
	CHECK_EQ(pair_run(&a, &b, &sent[0]), 1);
	/* The owner of a region is. */
	CHECK(pg_reg_mr(b.g, theirs, sizeof(theirs), &mr, NULL) == 0);
	CHECK(pg_mr_desc(b.g, mr, buf, &len) == 0 &&
	      pg_import_mr(a.g, buf, len, &other, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, PG_NO_IMM, a.mr, 0, other, 0, 0, &sent[0], NULL) == 0);
	CHECK(dump_has(&a, "waits for the owner of the region to admit us"));
	CHECK_EQ(pair_run(&a, &b, &sent[0]), 1);
	/* The NIC, and what waits for that. */
	fake_nic_hold(FAKE_NIC(0, 0), true);
	CHECK(pg_submit_single_write(a.g, 8, 7, a.mr, 0, a.remote, 0, 0, &sent[0], NULL) == 0);
	CHECK(dump_has(&a, "write to peer ") &&
	      dump_has(&a, "imm 0x7: 8 bytes posted, 0 left, 1 work "
			   "requests in flight; waits for "
			   "completions of the NIC"));
	CHECK(pg_fence_peer(a.g, a.peer, 0, &sent[1], NULL) == 0);
	CHECK(dump_has(&a, "waits for what was submitted before"));
	CHECK(dump_has(&a, "1 outstanding, 8 bytes unsent"));
	/* Who waits for writes, and whose. */
	CHECK(pg_expect_imm_flag(b.g, 7, 3, &fired[1], NULL) == 0);
	from.peers = &b.peer;
	CHECK(pg_expect_imm_from(b.g, 8, 2, &from, &done, NULL) == 0);
	CHECK(dump_has(&b, "immediate 0x7: have 0 of 3 wanted\n"));
	CHECK(dump_has(&b, "immediate 0x8: have 0 of 2 wanted; named writers still owe some"));
	CHECK(pg_unreg_mr(b.g, mr, 0, NULL) == -EBUSY);
	CHECK(dump_has(&b, "region of 64 bytes is revoked; peer "));
	CHECK(dump_has(&b, "progress inline"));
	fake_nic_hold(FAKE_NIC(0, 0), false);
	CHECK_EQ(pair_run(&a, &b, &sent[1]), 1);
	CHECK_EQ(sent[0], 1);
	pair_turns(&a, &b, 5);
	CHECK(dump_has(&b, "immediate 0x7: have 1 of 3 wanted\n"));
	CHECK(pg_free_imm(b.g, 9) == 0);
	CHECK(dump_has(&b, "1 tombstones"));
	CHECK(pg_engine_destroy(a.engine) == 0);
	pair_turns(&b, &b, 5);
	CHECK(dump_has(&b, ": down: peer "));
	CHECK(pg_engine_destroy(b.engine) == 0);
}

/* The receiver copies, over shared memory. */
static void test_dump_visibility(void)
{
	struct pg_group_config group = { .n_domains = 1,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .domains = { { .transport = "shm", .cpu = -1 } } };
	struct pg_config config;
	struct side s[2];
	static uint8_t theirs[3000];
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	int32_t sent;
	struct pg_op op = { .opcode = PG_OP_WRITE,
			    .imm = PG_NO_IMM,
			    .flags = PG_REMOTE_VISIBLE,
			    .done = { .flag = &sent } };
	struct pg_scatter_dst dst = { .len = sizeof(theirs) };
	void *ptr;
	pg_rmr_t remote;
	pg_mr_t mr;

	CHECK(setenv("PGCTL_SHM_CMA", "0", 1) == 0);
	CHECK(pg_config_init(&config, NULL) == 0);
	config.groups = &group;
	for (unsigned i = 0; i < 2; i++) {
		CHECK(pg_engine_create(&config, &s[i].engine, NULL) == 0);
		s[i].g = pg_engine_group(s[i].engine, 0);
		CHECK(pg_alloc_mr(s[i].g, MEM, -1, 0, &ptr, &s[i].mr, NULL) == 0);
		s[i].mem = ptr;
	}
	side_meet(&s[0], &s[1]);
	CHECK(pg_reg_mr(s[1].g, theirs, sizeof(theirs), &mr, NULL) == 0);
	CHECK(pg_mr_desc(s[1].g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(s[0].g, buf, len, &remote, NULL) == 0);
	op.u.write = (struct pg_write){ s[0].mr, 0, remote, 0, sizeof(theirs) };
	dst.dst = remote;
	for (unsigned i = 0; i < 3; i++) {
		CHECK(pg_submit(s[0].g, &op, 1, 0, NULL) == 1);
		if (i > 0)
			CHECK(dump_has(&s[0], "waits for visibility at the peer"));
		CHECK_EQ(pair_run(&s[0], &s[1], &sent), 1);
		/* a scatter's slices are no different */
		op.opcode = PG_OP_SCATTER;
		op.u.scatter = (struct pg_scatter){ .src = s[0].mr, .dsts = &dst, .n = 1 };
	}
	pair_close(&s[0], &s[1]);
	unsetenv("PGCTL_SHM_CMA");
}

/* ---- Log ---- */

struct log {
	unsigned lines[PG_LOG_DEBUG + 1];
	char text[65536];
};

static void keep(void *arg, int level, const char *line)
{
	struct log *log = arg;
	size_t at = strlen(log->text);

	CHECK(level >= PG_LOG_WARN && level <= PG_LOG_DEBUG);
	CHECK(line[0] && !strchr(line, '\n'));
	log->lines[level]++;
	snprintf(log->text + at, sizeof(log->text) - at, "%s\n", line);
	errno = ENOTTY; /* is put right again */
}

/* A peer comes, a write runs out of time, and the peer is lost for it. */
static void live(void)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.op_timeout_ns = 50 * MS;
	open_up(&a, &b, &config);
	fake_nic_hold(FAKE_NIC(0, 0), true);
	CHECK(pg_submit_single_write(a.g, 8, 7, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), -ETIMEDOUT);
	pair_turns(&b, &b, 20);
	pair_close(&a, &b);
}

static void test_levels(void)
{
	static struct log logs[PG_LOG_DEBUG + 1];

	for (int level = PG_LOG_OFF; level <= PG_LOG_DEBUG; level++) {
		struct log *log = &logs[level];

		pg_set_log(keep, log, level);
		live();
		for (int l = PG_LOG_WARN; l <= PG_LOG_DEBUG; l++)
			CHECK((log->lines[l] > 0) == (l <= level));
		CHECK(!strstr(log->text, "is up") == (level < PG_LOG_INFO));
		CHECK(!strstr(log->text, "control message") == (level < PG_LOG_DEBUG));
		/* A timeout, with what was in flight. */
		CHECK(!strstr(log->text, ": no progress for 50 ms\n") == (level < PG_LOG_WARN));
		CHECK(!strstr(log->text, "in flight; waits for completions of the NIC") ==
		      (level < PG_LOG_WARN));
		CHECK(!strstr(log->text, "no completion") == (level < PG_LOG_WARN));
	}
	errno = EDOM;
	log_warn("a line");
	CHECK_EQ(errno, EDOM);
	pg_set_log(NULL, NULL, PG_LOG_DEBUG);
	memset(logs, 0, sizeof(logs));
	live();
	for (int level = PG_LOG_OFF; level <= PG_LOG_DEBUG; level++)
		CHECK(logs[level].text[0] == '\0');
}

/* Lines with their level; who does not read loses them and holds nobody up. */
static void test_log_to_fd(void)
{
	char text[4096];
	int fds[2];
	ssize_t n;

	CHECK(pipe2(fds, O_NONBLOCK) == 0);
	pg_log_to_fd(fds[1], PG_LOG_INFO);
	live();
	n = read(fds[0], text, sizeof(text) - 1);
	CHECK(n > 0);
	text[n] = '\0';
	CHECK(strncmp(text, "pgctl: info: ", 13) == 0 && strstr(text, "\npgctl: warn: "));
	CHECK(!strstr(text, "pgctl: debug: "));
	pg_log_to_fd(fds[1], PG_LOG_DEBUG);
	for (unsigned i = 0; i < 2 && write(fds[1], text, sizeof(text)) > 0;)
		;
	live();
	pg_log_to_fd(-1, PG_LOG_DEBUG);
	while (read(fds[0], text, sizeof(text)) > 0)
		;
	live();
	CHECK(read(fds[0], text, 1) == -1 && errno == EAGAIN);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	test_dump();
	test_dump_visibility();
	test_levels();
	test_log_to_fd();
	printf("words: dumps, log\n");
	return 0;
}
