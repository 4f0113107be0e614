/* SPDX-License-Identifier: MIT
 *
 * The engine through its public calls, two engines in one process: what each operation does, what
 * it refuses, and how it ends. Threads and races are test_threads.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/mman.h>

#include "engine_pair.h"

#define MEM (8u << 20)

static void fill(uint8_t *p, uint64_t n, unsigned seed)
{
	for (uint64_t i = 0; i < n; i++)
		p[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* One write, counted once and placed exactly, whatever the lanes and the size. */
static void test_write(unsigned lanes_a, unsigned lanes_b, int progress, uint64_t len)
{
	struct side a, b;
	int32_t sent, counted;
	uint64_t value = 77;

	pair_open(&a, &b, lanes_a, lanes_b, progress, MEM);
	fill(a.mem, MEM, (unsigned)len);
	CHECK(pg_expect_imm_flag(b.g, 5, 1, &counted, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, len, 5, a.mr, 3, a.remote, 11, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK_EQ(pair_run(&b, &a, &counted), 1);
	CHECK(memcmp(b.mem + 11, a.mem + 3, len) == 0);
	CHECK(b.mem[10] == 0 && b.mem[11 + len] == 0);
	CHECK(pg_imm_value(b.g, 5, &value) == 0 && value == 0);
	pair_close(&a, &b);
}

static void test_paged(unsigned lanes, int progress, uint64_t page_len)
{
	enum { N = 37 };
	uint32_t src[N], dst[N];
	struct side a, b;
	int32_t sent, counted;
	uint64_t stride = page_len + 64;

	pair_open(&a, &b, lanes, 1, progress, 64u << 20);
	fill(a.mem, 64u << 20, 9);
	for (uint32_t i = 0; i < N; i++) {
		src[i] = (i * 17) % N;
		dst[i] = (i * 23 + 5) % N;
	}
	struct pg_paged p = { a.mr, 8, stride, src, a.remote, 24, stride, dst, page_len, N };

	CHECK(pg_expect_imm_flag(b.g, 6, N, &counted, NULL) == 0);
	CHECK(pg_submit_paged_writes(a.g, &p, 6, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK_EQ(pair_run(&b, &a, &counted), 1);
	for (uint32_t i = 0; i < N; i++)
		CHECK(memcmp(b.mem + 24 + dst[i] * stride, a.mem + 8 + src[i] * stride, page_len) ==
		      0);
	src[3] = 1u << 20;
	CHECK(pg_submit_paged_writes(a.g, &p, 6, 0, &sent, NULL) == -ERANGE);
	pair_close(&a, &b);
}

/* Destinations that end differently are told apart. */
static void test_scatter(void)
{
	struct side a, b;
	struct pg_scatter_dst dsts[3];
	int32_t status[3] = { 9, 9, 9 }, sent, counted;

	pair_open(&a, &b, 2, 2, PG_PROGRESS_INLINE, MEM);
	fill(a.mem, MEM, 1);
	for (uint64_t i = 0; i < 3; i++)
		dsts[i] = (struct pg_scatter_dst){ i * 4096, a.remote, (2 - i) * 8192, 4096 };
	struct pg_scatter s = {
		.src = a.mr, .dsts = dsts, .n = 3, .spread = PG_SPREAD_PEER, .status = status
	};

	CHECK(pg_expect_imm_flag(b.g, 1, 3, &counted, NULL) == 0);
	CHECK(pg_submit_scatter(a.g, &s, 1, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK_EQ(pair_run(&b, &a, &counted), 1);
	for (uint64_t i = 0; i < 3; i++) {
		CHECK(status[i] == 0);
		CHECK(memcmp(b.mem + (2 - i) * 8192, a.mem + i * 4096, 4096) == 0);
	}
	dsts[1].dst_offset = MEM;
	CHECK(pg_submit_scatter(a.g, &s, 1, 0, &sent, NULL) == -ERANGE);
	pair_close(&a, &b);
}

static void test_messages(void)
{
	struct side a, b;
	struct pg_event e;
	char text[PG_MSG_MAX] = "hello";
	int32_t sent[200];
	struct pg_error err = { 0 };
	unsigned got = 0;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_submit_send(a.g, a.peer, text, PG_MSG_MAX + 1, 0, &sent[0], &err) == -EMSGSIZE);
	/* Nobody receives yet: what does not fit waits at the sender, and none is lost. */
	for (int i = 0; i < 200; i++) {
		snprintf(text, sizeof(text), "message %d", i);
		CHECK(pg_submit_send(a.g, a.peer, text, 1000, 0, &sent[i], NULL) == 0);
	}
	for (int i = 0; i < 1000; i++) {
		pg_progress(a.g);
		pg_progress(b.g);
	}
	CHECK(next_event(b.g, &e, 0) == -ETIMEDOUT);
	CHECK(sent[199] == 0);
	CHECK(pg_submit_recvs(b.g, 1000, 3, NULL) == 0);
	while (got < 200) {
		pg_progress(a.g);
		if (pg_poll_events(b.g, &e, 1) != 1)
			continue;
		CHECK(e.kind == PG_EVENT_RECV && e.status == 0 && e.len == 1000 &&
		      e.peer == b.peer);
		CHECK(memcmp(e.data, "message ", 8) == 0);
		got++;
		CHECK(pg_recv_release(b.g, e.data) == 0);
		CHECK(pg_recv_release(b.g, e.data) == -EINVAL);
	}
	CHECK_EQ(pair_run(&a, &b, &sent[199]), 1);
	/* Longer than its buffer: cut, and said so. */
	CHECK(pg_submit_send(a.g, a.peer, text, 1001, 0, &sent[0], NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent[0]), 1);
	CHECK(next_event(b.g, &e, SECOND) == 1);
	CHECK(e.status == -EMSGSIZE && e.len == 1000 && strstr(e.text, "1001"));
	pair_close(&a, &b);
}

static void test_events_and_eagain(void)
{
	struct pg_config config;
	struct side a, b;
	struct pg_event events[16];
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = PG_NO_IMM };
	unsigned accepted = 0, n = 0;
	uint64_t cookies = 0;
	int rc;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_ops = 8;
	config.max_events = 4;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
	/* Not connected yet, so they stay in flight; the fifth completion would have no place. */
	for (unsigned i = 0; i < 9; i++) {
		op.done.cookie = 1ull << i;
		rc = pg_submit(a.g, &op, 1, 0, NULL);
		if (rc != 1)
			break;
		accepted++;
	}
	CHECK(rc == -EAGAIN && accepted == 4);
	for (int i = 0; i < 100000 && n < 4; i++) {
		rc = pg_poll_events(a.g, events, 16);
		for (int k = 0; k < rc; k++) {
			if (is_news(&events[k]))
				continue;
			CHECK(events[k].kind == PG_EVENT_OP && events[k].status == 0);
			cookies |= events[k].cookie;
			n++;
		}
		pg_progress(b.g);
	}
	CHECK(n == 4 && cookies == 15);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	pair_close(&a, &b);
}

static void count_call(void *arg, const struct pg_event *event)
{
	int32_t *n = arg;

	CHECK(event->kind == PG_EVENT_IMM ? event->imm == 2 : event->cookie == 42);
	(*n)++;
}

static void refuse_inside(void *arg, const struct pg_event *event)
{
	struct side *s = arg;
	int32_t flag = 0;

	(void)event;
	CHECK(pg_wait_flags(s->g, &flag, 1, SECOND) == -EDEADLK);
	CHECK(pg_engine_destroy(s->engine) == -EDEADLK);
	s->peer = 0;
}

static void test_callbacks(void)
{
	struct side a, b;
	int32_t calls = 0;
	struct pg_done done = { .callback = count_call, .arg = &calls };
	struct pg_op op = { .opcode = PG_OP_BARRIER, .imm = 2 };

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	op.u.barrier = (struct pg_barrier){ .peers = &a.peer, .n = 1 };
	op.done = (struct pg_done){ .cookie = 42, .callback = count_call, .arg = &calls };
	CHECK(pg_expect_imm(b.g, 2, 1, &done, NULL) == 0);
	CHECK(pg_expect_imm(b.g, 2, 1, &done, NULL) == -EBUSY);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	for (int i = 0; i < 100000 && calls < 2; i++) {
		pg_progress(a.g);
		pg_progress(b.g);
	}
	CHECK(calls == 2);
	done = (struct pg_done){ .callback = refuse_inside, .arg = &a };
	CHECK(pg_expect_imm(a.g, 3, 1, &done, NULL) == 0);
	CHECK(pg_free_imm(a.g, 3) == 0);
	CHECK(a.peer == 0);
	pair_close(&a, &b);
}

/* A group can be its own peer. */
static void test_self(void)
{
	struct pg_config config;
	struct side a;
	int32_t sent, counted;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 3, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &a);
	fill(a.mem, MEM / 2, 5);
	CHECK(pg_expect_imm_flag(a.g, 5, 1, &counted, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, MEM / 2, 5, a.mr, 0, a.remote, MEM / 2, 0, &sent, NULL) ==
	      0);
	CHECK(pg_wait_flags(a.g, &sent, 1, SECOND) == 0 && sent == 1);
	CHECK(pg_wait_flags(a.g, &counted, 1, SECOND) == 0 && counted == 1);
	CHECK(memcmp(a.mem, a.mem + MEM / 2, MEM / 2) == 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

static void test_user_memory(void)
{
	struct side a, b;
	static uint8_t theirs[300000], ours[300000];
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	pg_mr_t src, dst;
	pg_rmr_t remote;
	int32_t sent, counted;

	pair_open(&a, &b, 2, 1, PG_PROGRESS_INLINE, MEM);
	fill(ours, sizeof(ours), 3);
	CHECK(pg_reg_mr(a.g, ours, sizeof(ours), &src, NULL) == 0);
	CHECK(pg_reg_mr(b.g, theirs, sizeof(theirs), &dst, NULL) == 0);
	CHECK(pg_mr_desc(b.g, dst, buf, &len) == 0);
	CHECK(pg_import_mr(a.g, buf, len, &remote, NULL) == 0);
	CHECK(pg_expect_imm_flag(b.g, 1, 1, &counted, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, sizeof(ours), 1, src, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK_EQ(pair_run(&b, &a, &counted), 1);
	CHECK(memcmp(ours, theirs, sizeof(ours)) == 0);
	CHECK(pg_unreg_mr(a.g, src, SECOND, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, src, 0, remote, 0, 0, &sent, NULL) == -ESTALE);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == -ESTALE);
	pair_close(&a, &b);
}

/* A region that its owner has unregistered: the write fails and says so. */
static void test_stale_region(void)
{
	struct side a, b;
	int32_t sent;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_unreg_mr(b.g, b.mr, SECOND, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pair_run(&a, &b, &sent) == -ESTALE);
	pair_close(&a, &b);
}

static void test_refused(void)
{
	struct side a, b;
	struct pg_error err = { 0 };
	int32_t flag;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	pg_peer_t peer;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_submit_single_write(a.g, 0, 1, a.mr, 0, a.remote, 0, 0, &flag, &err) == -EINVAL);
	CHECK(pg_submit_single_write(a.g, UINT64_MAX, 1, a.mr, 0, a.remote, 0, 0, &flag, &err) ==
	      -ERANGE);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, MEM - 7, a.remote, 0, 0, &flag, &err) ==
	      -ERANGE);
	CHECK(strstr(err.text, "source offset 8388601 + 8"));
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, MEM - 7, 0, &flag, &err) ==
	      -ERANGE);
	CHECK(strstr(err.text, "destination"));
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, UINT64_MAX, a.remote, 0, 0, &flag, &err) ==
	      -ERANGE);
	CHECK(pg_submit_single_write(a.g, 8, 1u << 30, a.mr, 0, a.remote, 0, 0, &flag, &err) ==
	      -EINVAL);
	CHECK(pg_submit_single_write(a.g, 8, 1, 0, 0, a.remote, 0, 0, &flag, &err) == -EINVAL);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, 12345, 0, 0, &flag, &err) == -EINVAL);
	CHECK(pg_submit_barrier(a.g, &a.peer, 0, 1, 0, &flag, &err) == -EINVAL);
	CHECK(pg_submit_barrier(a.g, &a.peer, 1, PG_NO_IMM, 0, &flag, &err) == -EINVAL);
	CHECK(pg_expect_imm_flag(a.g, 1u << 30, 1, &flag, &err) == -EINVAL);
	CHECK(pg_expect_imm_flag(a.g, 1, 0, &flag, &err) == -EINVAL);
	CHECK(pg_reg_mr(a.g, buf, 0, &peer, &err) == -EINVAL);
	CHECK(pg_alloc_mr(a.g, 1ull << 62, -1, PG_ALLOC_PREFAULT, &(void *){ NULL }, &peer, &err) <
	      0);
	CHECK(pg_main_address(b.g, buf, &len) == 0);
	CHECK(pg_add_peer(a.g, buf, len - 1, &peer, &err) == -EPROTO);
	CHECK(pg_add_peer(a.g, "nonsense", 8, &peer, &err) == -EPROTO);
	CHECK(pg_add_peer(a.g, buf, len, &peer, &err) == 0 && peer == a.peer);
	for (unsigned lanes = 0; lanes <= 5; lanes += 5) {
		struct pg_group_config group = { .n_domains = lanes, .worker_cpu = -1 };
		struct pg_config config;
		struct pg_engine *e;

		CHECK(pg_config_init(&config, NULL) == 0);
		config.groups = &group;
		CHECK(pg_engine_create(&config, &e, &err) == -EINVAL);
		CHECK(strstr(err.text, "NICs"));
	}
	pair_close(&a, &b);
}

/* Neither memory nor descriptors are without end; running out says so and breaks nothing. */
static void test_no_memory(void)
{
	struct pg_config config;
	struct side a;
	struct pg_error err = { 0 };
	struct rlimit files, none;
	void *ptr;
	pg_mr_t mr;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(pg_alloc_mr(a.g, 1ull << 50, -1, PG_ALLOC_PREFAULT, &ptr, &mr, &err) == -ENOMEM);
	CHECK(strstr(err.text, "1125899906842624 bytes"));
	CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
	none = (struct rlimit){ 0, files.rlim_max };
	CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK(pg_alloc_mr(a.g, 4096, -1, 0, &ptr, &mr, &err) == -EMFILE);
	CHECK(strstr(err.text, "memfd"));
	CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
	CHECK(pg_alloc_mr(a.g, 4096, -1, 0, &ptr, &mr, &err) == 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* The other side ends while it is owed something. */
static void test_peer_ends(void)
{
	struct side a, b;
	int32_t sent, counted;
	struct pg_peer_info info;
	struct pg_error err = { 0 };

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	/* What it sent before it ended still counts. */
	CHECK(pg_submit_barrier(b.g, &b.peer, 1, 4, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&b, &a, &sent), 1);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK(pg_expect_imm_flag(a.g, 4, 1, &counted, NULL) == 0);
	CHECK(pg_wait_flags(a.g, &counted, 1, SECOND) == 0 && counted == 1);
	for (int i = 0; i < 100000; i++) {
		pg_progress(a.g);
		CHECK(pg_peer_info(a.g, a.peer, &info) == 0);
		if (info.status)
			break;
	}
	CHECK(!info.up && info.status == -EHOSTDOWN && strstr(info.reason, "goodbye"));
	CHECK(pg_submit_barrier(a.g, &a.peer, 1, 4, 0, &sent, &err) == -EHOSTDOWN);
	CHECK(strstr(err.text, "peer "));
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* Nobody answers: the operation fails at its deadline, and says whose fault it is. */
static void test_deadline(void)
{
	struct pg_config config;
	struct side a, b;
	struct pg_event e;
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 1 };

	CHECK(pg_config_init(&config, NULL) == 0);
	config.op_timeout_ns = 50000000;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK(next_event(a.g, &e, 10 * SECOND) == 1);
	CHECK(e.status == -ETIMEDOUT && strstr(e.text, "peer ") && strstr(e.text, "shm0"));
	pair_close(&a, &b);
}

/* A timeout of for ever does not wrap around to none. */
static void test_no_deadline(void)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.op_timeout_ns = UINT64_MAX;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pg_wait_flags(a.g, &sent, 1, 50000000) == -ETIMEDOUT);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	pair_close(&a, &b);
}

/* Half of a split write fails, when the other half may have been counted: that must not pass for a
 * half of the next one. */
static void test_half_fails(void)
{
	struct side a, b;
	struct pg_peer_info info;
	const uint64_t half = 1 << 20;
	uint8_t buf[PG_DESC_MAX], *theirs = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t len = sizeof(buf);
	pg_rmr_t remote;
	pg_mr_t mr;
	int32_t sent;
	uint64_t value;

	pair_open(&a, &b, 2, 2, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_reg_mr(b.g, theirs, 2 * half, &mr, NULL) == 0);
	CHECK(pg_mr_desc(b.g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(a.g, buf, len, &remote, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0);
	if (strstr(info.path, "by process_vm_writev")) {
		CHECK(munmap(theirs, half) == 0);
		CHECK(pg_submit_single_write(a.g, 2 * half, 1, a.mr, 0, remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), -EFAULT);
		/* The same half again would make a whole with the one that arrived. */
		CHECK(pg_submit_single_write(a.g, 2 * half, 1, a.mr, 0, remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), -EFAULT);
		CHECK(pg_submit_single_write(a.g, 2 * half, 1, a.mr, 0, a.remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), 1);
		CHECK(pg_fence_peer(a.g, a.peer, 0, &sent, NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), 1);
		CHECK(pg_imm_value(b.g, 1, &value) == 0);
		CHECK_EQ(value, 2);
	}
	pair_close(&a, &b);
	munmap(theirs, 2 * half);
}

/* Everything that is owed is told when the engine goes. */
static void test_destroy_tells(void)
{
	struct side a, b;
	int32_t sent, counted;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pg_expect_imm_flag(a.g, 1, 1, &counted, NULL) == 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK(sent == -ESHUTDOWN && counted == -ESHUTDOWN);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

int main(void)
{
	static const uint64_t sizes[] = { 1,      8,      4096,     65536,   262143,
					  262144, 300001, 1u << 20, 3000001, 8000000 };

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (unsigned n = 1; n <= 4; n++)
			test_write(n, (n * 2 + i) % 4 + 1,
				   n == 3 ? PG_PROGRESS_WORKER : PG_PROGRESS_INLINE, sizes[i]);
	test_paged(1, PG_PROGRESS_INLINE, 100);
	test_paged(3, PG_PROGRESS_INLINE, 4096);
	test_paged(2, PG_PROGRESS_WORKER, 1u << 20);
	test_paged(4, PG_PROGRESS_INLINE, (1u << 20) + 4096);
	test_scatter();
	test_messages();
	test_events_and_eagain();
	test_callbacks();
	test_self();
	test_user_memory();
	test_stale_region();
	test_refused();
	test_no_memory();
	test_peer_ends();
	test_deadline();
	test_no_deadline();
	test_half_fails();
	test_destroy_tells();
	printf("engine: writes of 10 sizes over 1-4 x 1-4 lanes, pages, scatter, messages, ends, "
	       "refusals\n");
	return 0;
}
