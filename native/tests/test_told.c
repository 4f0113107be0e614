/* SPDX-License-Identifier: MIT
 *
 * What is told, and to whom, over shared memory: expectations of named writers, groups of peers,
 * tombstones, watched words, visibility, pairing, event loops, words for people.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_pair.h"

#define MEM (8u << 20)

/* ---- Named writers ---- */

static void test_from(void)
{
	struct side a[2], b;
	struct pg_config config;
	int32_t fired, sent, status[2];
	struct pg_done done = { .flag = &fired };
	pg_peer_t both[2];
	pg_peer_group_t group;
	struct pg_from from = { .peers = both, .n_peers = 2 };

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	for (unsigned i = 0; i < 2; i++) {
		side_open(&a[i], 1, PG_PROGRESS_INLINE, MEM, &config);
		side_meet(&a[i], &b);
		side_meet(&b, &a[i]);
		both[i] = b.peer;
		CHECK_EQ(pair_write_one(&a[i], &b, a[i].remote, 1), 1);
	}
	pair_progress(&a[0], &b, 100);
	CHECK(pg_expect_imm_from(b.g, 5, 3, &from, &done, NULL) == -EINVAL); /* 3 of 2 */
	CHECK(pg_expect_imm_from(b.g, 5, 2, &from, &done, NULL) == 0);
	CHECK(pg_expect_imm_from(b.g, 5, 2, &from, &done, NULL) == -EBUSY);
	/* The first has done its part, so its death is nothing; the second owes. */
	CHECK_EQ(pair_write_one(&a[0], &b, a[0].remote, 5), 1);
	pair_progress(&a[0], &b, 100);
	CHECK(pg_engine_destroy(a[0].engine) == 0);
	for (int i = 0; i < 1000; i++)
		pg_progress(b.g);
	CHECK_EQ(fired, 0);
	CHECK(pg_add_peer_group(b.g, &both[1], 1, SECOND, &group, NULL) == 0);
	CHECK(pg_engine_destroy(a[1].engine) == 0);
	CHECK(pg_wait_flags(b.g, &fired, 1, 10 * SECOND) == 0);
	CHECK_EQ(fired, -EHOSTDOWN);
	CHECK_EQ(side_value(&b, 5), 1); /* what has come stays */
	/* It is known at once of one that is dead. */
	CHECK(pg_expect_imm_from(b.g, 6, 2, &from, &done, NULL) == 0);
	CHECK_EQ(fired, -EHOSTDOWN);
	from = (struct pg_from){ .group = group };
	CHECK(pg_expect_imm_from(b.g, 6, 1, &from, &done, NULL) == 0);
	CHECK_EQ(fired, -EHOSTDOWN);
	/* To both, of whom none is left. */
	struct pg_op op = { .opcode = PG_OP_BARRIER, .imm = 1, .done = { .flag = &sent } };

	op.u.barrier = (struct pg_barrier){ .group = group, .status = status };
	CHECK(pg_submit(b.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_wait_flags(b.g, &sent, 1, SECOND) == 0 && sent == -EHOSTDOWN);
	CHECK_EQ(status[0], -EHOSTDOWN);
	CHECK(pg_remove_peer_group(b.g, group, NULL) == 0);
	CHECK(pg_remove_peer_group(b.g, group, NULL) == -ESTALE);
	CHECK(pg_submit(b.g, &op, 1, 0, NULL) == -ESTALE);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

static void test_peer_group(void)
{
	enum { N = 3 };
	struct side hub, s[N];
	struct pg_config config;
	struct pg_scatter_dst dsts[N];
	pg_peer_t peers[N];
	pg_peer_group_t group;
	int32_t status[N], sent, fired;
	struct pg_done done = { .flag = &fired };
	struct pg_from from;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&hub, 1, PG_PROGRESS_INLINE, MEM, &config);
	for (unsigned i = 0; i < N; i++) {
		side_open(&s[i], 1, PG_PROGRESS_WORKER, MEM, &config);
		side_meet(&hub, &s[i]);
		side_meet(&s[i], &hub);
		peers[i] = hub.peer;
		dsts[i] = (struct pg_scatter_dst){ i * 64, hub.remote, 0, 64 };
		memset(hub.mem + i * 64, (int)i + 1, 64);
	}
	CHECK(pg_add_peer_group(hub.g, peers, N, 10 * SECOND, &group, NULL) == 0);
	peers[1] = peers[0];
	CHECK(pg_add_peer_group(hub.g, peers, N, SECOND, &(pg_peer_group_t){ 0 }, NULL) == -EINVAL);
	struct pg_op op = { .opcode = PG_OP_SCATTER, .imm = 2, .done = { .flag = &sent } };

	op.u.scatter = (struct pg_scatter){
		.src = hub.mr, .dsts = dsts, .n = N, .status = status, .group = group
	};
	CHECK(pg_submit(hub.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_wait_flags(hub.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	for (unsigned i = 0; i < N; i++) {
		int32_t got;

		CHECK(pg_expect_imm_flag(s[i].g, 2, 1, &got, NULL) == 0);
		CHECK(pg_wait_flags(s[i].g, &got, 1, 10 * SECOND) == 0 && got == 1);
		CHECK(s[i].mem[0] == i + 1 && s[i].mem[63] == i + 1 && status[i] == 0);
	}
	/* Slice i is member i's. */
	op.u.scatter.n = N - 1;
	CHECK(pg_submit(hub.g, &op, 1, 0, NULL) == -EINVAL);
	op.u.scatter.n = N;
	dsts[0].dst = dsts[1].dst;
	CHECK(pg_submit(hub.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_wait_flags(hub.g, &sent, 1, SECOND) == 0 && sent == -EINVAL);
	/* From each of them, as from the group. */
	from = (struct pg_from){ .group = group };
	CHECK(pg_expect_imm_from(hub.g, 8, N, &from, &done, NULL) == 0);
	CHECK(pg_remove_peer_group(hub.g, group, NULL) == -EBUSY);
	for (unsigned i = 0; i < N; i++) {
		CHECK_EQ(fired, 0);
		CHECK(pg_submit_barrier(s[i].g, &s[i].peer, 1, 8, 0, &sent, NULL) == 0);
		CHECK_EQ(pair_run(&hub, &s[i], &sent), 1);
	}
	CHECK(pg_wait_flags(hub.g, &fired, 1, 10 * SECOND) == 0 && fired == 1);
	CHECK(pg_remove_peer_group(hub.g, group, NULL) == 0);
	for (unsigned i = 0; i < N; i++)
		CHECK(pg_engine_destroy(s[i].engine) == 0);
	CHECK(pg_engine_destroy(hub.engine) == 0);
}

/* ---- Counters ---- */

static void test_tombstone(void)
{
	struct side a, b;
	int32_t fired, sent;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(pg_expect_imm_flag(b.g, 5, 2, &fired, NULL) == 0);
	CHECK(pg_free_imm(b.g, 5) == 0);
	CHECK_EQ(fired, -ECANCELED);
	/* A straggler, which shall not be taken for one of the next. */
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 5), 1);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK(pg_expect_imm_flag(b.g, 5, 1, &fired, NULL) == 0);
	pair_progress(&a, &b, 100);
	CHECK_EQ(fired, 0);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 5), 1);
	CHECK_EQ(pair_run(&b, &a, &fired), 1);
	pair_close(&a, &b);
}

/* ---- Watched words ---- */

static void test_watcher(int mode)
{
	struct side a, b;
	uint64_t *word, *other;
	pg_watcher_t w, w2;
	struct pg_done done = { .cookie = 42 };
	struct pg_event e;
	uint64_t last = 0;

	pair_open(&a, &b, 1, 1, mode, MEM);
	CHECK(pg_alloc_watcher(a.g, &done, &word, &w, NULL) == 0);
	done.cookie = 43;
	CHECK(pg_alloc_watcher(a.g, &done, &other, &w2, NULL) == 0);
	CHECK(*word == 0 && word != other);
	/* As a GPU would: a store, and nobody is called. */
	for (uint64_t i = 1; i <= 100; i++) {
		__atomic_store_n(word, i, __ATOMIC_RELEASE);
		if (i % 10)
			continue;
		while (last != i) {
			CHECK(next_event(a.g, &e, 10 * SECOND) == 1);
			CHECK(e.kind == PG_EVENT_WATCH && e.cookie == 42);
			CHECK(e.old_value == last && e.value > last && e.value <= i);
			last = e.value;
		}
	}
	CHECK(pg_watcher_set(a.g, w2, 7) == 0 && *other == 7);
	CHECK(next_event(a.g, &e, 10 * SECOND) == 1);
	CHECK(e.cookie == 43 && e.old_value == 0 && e.value == 7);
	CHECK(next_event(a.g, &e, 1000000) == -ETIMEDOUT);
	CHECK(pg_watcher_set(a.g, w2, 8) == 0);
	CHECK(pg_free_watcher(a.g, w2) == 0);
	CHECK(pg_free_watcher(a.g, w2) == -ESTALE);
	CHECK(pg_watcher_set(a.g, w2, 9) == -ESTALE);
	CHECK(next_event(a.g, &e, 1000000) == -ETIMEDOUT); /* nothing of who is gone */
	pair_close(&a, &b);
}

/* ---- Visibility ---- */

/* What the receiver copies is there when the operation has ended, and it does not end before. */
static void test_remote_visible(void)
{
	struct side a, b;
	uint8_t *theirs = calloc(1, 3000);
	int32_t sent = 0, plain;
	pg_mr_t mr;

	CHECK(setenv("PGCTL_SHM_CMA", "0", 1) == 0);
	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_reg_mr(b.g, theirs, 3000, &mr, NULL) == 0);
	pg_rmr_t remote = side_import(&a, &b, mr);
	struct pg_op op = { .opcode = PG_OP_WRITE,
			    .imm = PG_NO_IMM,
			    .flags = PG_REMOTE_VISIBLE,
			    .done = { .flag = &sent } };

	CHECK_EQ(pair_write_one(&a, &b, remote, 1), 1);
	memset(a.mem, 3, 3000);
	op.u.write = (struct pg_write){ a.mr, 0, remote, 0, 3000 };
	CHECK(pg_submit_single_write(a.g, 3000, PG_NO_IMM, a.mr, 0, remote, 0, 0, &plain, NULL) ==
	      0);
	CHECK_EQ(plain, 1); /* accepted, which is all that it says */
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK_EQ(sent, 0);
	while (sent == 0)
		pair_progress(&a, &b, 1);
	CHECK(sent == 1 && theirs[0] == 3 && theirs[2999] == 3);
	op.flags = 2;
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == -EINVAL);
	pair_close(&a, &b);
	free(theirs);
	unsetenv("PGCTL_SHM_CMA");
}

/* ---- Pairing, over lanes of shared memory ---- */

static void open_lanes(struct side *s, unsigned n, const uint32_t *mbit, const uint32_t *rails,
		       bool rail_only)
{
	struct pg_group_config group = { .n_domains = n,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .rail_only = rail_only };
	struct pg_config config;
	void *ptr;

	CHECK(pg_config_init(&config, NULL) == 0);
	for (unsigned i = 0; i < n; i++)
		group.domains[i] = (struct pg_domain_config){ .cpu = -1,
							      .link_mbit_s = mbit[i],
							      .rail = rails[i] };
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

/* 1 x 400 against 4 x 100, each NIC a quarter; the counter does not see it. */
static void test_unequal(void)
{
	static const uint32_t fast[] = { 400000 }, slow[] = { 100000, 100000, 100000, 100000 };
	static const uint32_t rails[] = { 0, 0, 0, 0 };
	struct side a, b;
	struct pg_conn_info info;
	int32_t sent, fired;

	open_lanes(&a, 1, fast, rails, false);
	open_lanes(&b, 4, slow, rails, false);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(pg_expect_imm_flag(b.g, 1, 1, &fired, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, MEM, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK_EQ(pair_run(&b, &a, &fired), 1);
	for (unsigned i = 0; i < 4; i++) {
		CHECK(pg_conn_info(a.g, a.peer, i, &info) == 0);
		CHECK(info.nic == 0 && info.peer_nic == i && info.stats.bytes_out == MEM / 4);
		CHECK(pg_conn_info(b.g, b.peer, i, &info) == 0);
		CHECK(info.nic == i && info.peer_nic == 0 && info.stats.imms_in == 1);
	}
	CHECK(pg_conn_info(a.g, a.peer, 4, &info) == -ERANGE);
	pair_close(&a, &b);
}

/* Where rails do not meet, NICs of the same rail do; and where none do, both lists are named. */
static void test_rails(void)
{
	static const uint32_t mbit[] = { 100, 100 };
	static const uint32_t rails_a[] = { 1, 2 }, rails_b[] = { 2, 1 }, rails_c[] = { 3, 4 };
	struct pg_error err = { 0 };
	struct side a, b, c;
	struct pg_conn_info info;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	open_lanes(&a, 2, mbit, rails_a, true);
	open_lanes(&b, 2, mbit, rails_b, true);
	open_lanes(&c, 2, mbit, rails_c, true);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(pg_conn_info(a.g, a.peer, 0, &info) == 0 && info.nic == 0 && info.peer_nic == 1);
	CHECK(pg_conn_info(a.g, a.peer, 1, &info) == 0 && info.nic == 1 && info.peer_nic == 0);
	CHECK(pg_conn_info(a.g, a.peer, 2, &info) == -ERANGE);
	CHECK(pg_main_address(c.g, buf, &len) == 0);
	CHECK(pg_add_peer(a.g, buf, len, &a.peer, &err) == -EHOSTUNREACH);
	CHECK(strstr(err.text, "rail 1") && strstr(err.text, "rail 2") &&
	      strstr(err.text, "rail 3") && strstr(err.text, "rail 4"));
	pair_close(&a, &b);
	CHECK(pg_engine_destroy(c.engine) == 0);
}

/* ---- For event loops ---- */

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1;
}

static void test_wait_fd(int mode)
{
	struct side a, b;
	int fd;
	int32_t fired, other;
	struct pg_event e;

	pair_open(&a, &b, 1, 1, mode, MEM);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(side_next_news(&b, &a, PG_EVENT_PEER_UP, &e)); /* or it would be there always */
	fd = pg_wait_fd(b.g);
	CHECK(fd >= 0 && pg_wait_fd(b.g) == fd);
	for (unsigned i = 0; i < 200; i++) {
		CHECK(pg_expect_imm_flag(b.g, 5, 1, &fired, NULL) == 0);
		while (pg_wait_arm(b.g) == 0)
			pg_progress(b.g);
		CHECK_EQ(__atomic_load_n(&fired, __ATOMIC_ACQUIRE), 0);
		/* Armed, it tells of what comes; until it does, only now and then of a heartbeat. */
		CHECK_EQ(pair_write_one(&a, &a, a.remote, 5), 1);
		while (!__atomic_load_n(&fired, __ATOMIC_ACQUIRE)) {
			CHECK(readable(fd, 10000));
			pg_progress(b.g);
			if (!__atomic_load_n(&fired, __ATOMIC_ACQUIRE))
				pg_wait_arm(b.g);
		}
	}
	/* Of what another thread's call has completed, too. */
	CHECK(pg_expect_imm_flag(b.g, 6, 1, &fired, NULL) == 0);
	CHECK(pg_expect_imm_flag(b.g, 5, 1, &other, NULL) == 0);
	while (pg_wait_arm(b.g) == 0)
		pg_progress(b.g);
	CHECK_EQ(pair_write_one(&a, &a, a.remote, 6), 1);
	CHECK(pg_wait_flags(b.g, &fired, 1, 10 * SECOND) == 0);
	CHECK(readable(fd, 10000));
	pair_close(&a, &b);
}

/* ---- Words for people ---- */

static void test_dump(void)
{
	struct side a, b;
	char text[8192] = "";
	int fds[2];
	int32_t sent, fired;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_expect_imm_flag(a.g, 0x55, 3, &fired, NULL) == 0);
	CHECK(pg_submit_send(a.g, a.peer, "x", 1, 0, &sent, NULL) == 0);
	CHECK(pipe(fds) == 0);
	CHECK(pg_dump(a.g, fds[1]) == 0);
	CHECK(read(fds[0], text, sizeof(text) - 1) > 0);
	CHECK(strstr(text, "message") && strstr(text, "have 0 of 3") && strstr(text, "0x55"));
	CHECK(strstr(text, "connecting") && strstr(text, "waits for the connection"));
	CHECK(pg_dump(a.g, -1) == -EBADF);
	close(fds[0]);
	close(fds[1]);
	pair_close(&a, &b);
}

static unsigned logged;

static void count_line(void *arg, int level, const char *line)
{
	CHECK(arg == &logged && level <= PG_LOG_INFO && line[0] && !strchr(line, '\n'));
	logged += strstr(line, "is up") != NULL;
	logged += strstr(line, "goodbye") != NULL;
}

static void test_log(void)
{
	struct side a, b;

	pg_set_log(count_line, &logged, PG_LOG_INFO);
	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(pg_engine_destroy(b.engine) == 0);
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK(logged >= 3);
	pg_set_log(NULL, NULL, 0);
	logged = 0;
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK_EQ(logged, 0);
}

int main(void)
{
	test_from();
	test_peer_group();
	test_tombstone();
	test_watcher(PG_PROGRESS_INLINE);
	test_watcher(PG_PROGRESS_WORKER);
	test_remote_visible();
	test_unequal();
	test_rails();
	test_wait_fd(PG_PROGRESS_INLINE);
	test_wait_fd(PG_PROGRESS_WORKER);
	test_dump();
	test_log();
	printf("told: writers, groups, words, visibility, rails, event loops\n");
	return 0;
}
