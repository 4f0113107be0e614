/* SPDX-License-Identifier: MIT
 *
 * The engine over a NIC that reaches other hosts, with control over TCP: connecting, pairing, what
 * fails and how. The NIC is a fake made of sockets; see fake_socket_nic.h for what it stands for.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine_pair.h"
#include "fake_socket_nic.h"
#include "util/clock.h"

#define MEM (4u << 20)

static struct pg_config quick(void)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 50000000;
	config.silent_ns = 200000000;
	snprintf(config.control, sizeof(config.control), "127.0.0.1");
	return config;
}

/* The address as another host would see it: there is no unix socket of this name there. */
static void add_remote_peer(struct side *s, const uint8_t *buf, size_t len)
{
	uint8_t remote[PG_ADDR_MAX];
	struct net_addr addr;
	size_t n = sizeof(remote);

	CHECK(net_addr_decode(buf, len, &addr, NULL) == 0);
	CHECK(addr.n_hosts > 0 && addr.port);
	memset(addr.unix_id, 0, sizeof(addr.unix_id));
	CHECK(net_addr_encode(&addr, remote, &n) == 0);
	CHECK(pg_add_peer(s->g, remote, n, &s->peer, NULL) == 0);
}

static void remote_meet(struct side *s, struct side *other)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	CHECK(pg_main_address(other->g, buf, &len) == 0);
	add_remote_peer(s, buf, len);
	len = sizeof(buf);
	CHECK(pg_mr_desc(other->g, other->mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &s->remote, NULL) == 0);
}

static void remote_open(struct side *a, struct side *b, unsigned lanes_a, unsigned lanes_b)
{
	struct pg_config config = quick();

	side_open(a, lanes_a, PG_PROGRESS_INLINE, MEM, &config);
	side_open(b, lanes_b, PG_PROGRESS_INLINE, MEM, &config);
	remote_meet(a, b);
	remote_meet(b, a);
}

static void fill(uint8_t *p, uint64_t n, unsigned seed)
{
	for (uint64_t i = 0; i < n; i++)
		p[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

static int32_t write_counted(struct side *a, struct side *b, uint64_t len, uint32_t imm)
{
	int32_t sent, counted;
	struct pg_peer_info info;

	CHECK(pg_expect_imm_flag(b->g, imm, 1, &counted, NULL) == 0);
	CHECK(pg_submit_single_write(a->g, len, imm, a->mr, 0, a->remote, 0, 0, &sent, NULL) == 0);
	if (pair_run(a, b, &sent) != 1)
		return sent;
	CHECK_EQ(pair_run(b, a, &counted), 1);
	CHECK(memcmp(a->mem, b->mem, len) == 0);
	CHECK(pg_peer_info(a->g, a->peer, &info) == 0 && !info.local);
	return 1;
}

/* Which of our NICs meets which of the peer's, as bits 4*i+j. */
static unsigned cells(const struct side *s)
{
	struct pg_conn_info info;
	unsigned found = 0;

	for (unsigned i = 0; pg_conn_info(s->g, s->peer, i, &info) == 0; i++)
		found |= 1u << (4 * info.nic + info.peer_nic);
	return found;
}

static unsigned transposed(unsigned c)
{
	unsigned t = 0;

	for (unsigned i = 0; i < 16; i++)
		if (c >> i & 1)
			t |= 1u << (i % 4 * 4 + i / 4);
	return t;
}

static void test_writes(unsigned n, unsigned m)
{
	struct side a, b;

	remote_open(&a, &b, n, m);
	fill(a.mem, MEM, n * 16 + m);
	for (uint64_t len = 1; len <= MEM; len = len * 3 + 5)
		CHECK_EQ(write_counted(&a, &b, len, 7), 1);
	CHECK_EQ(cells(&a), transposed(cells(&b)));
	pair_close(&a, &b);
}

/* A connection that cannot be made takes its cell away, on both sides, and the rest carries all. */
static void test_cell_fails(void)
{
	struct side a, b;
	unsigned before;

	fake_nic_refuse_attach(FAKE_NIC(0, 0), 0);
	fake_nic_refuse_attach(FAKE_NIC(0, 1), 1);
	remote_open(&a, &b, 2, 2);
	fill(a.mem, MEM, 1);
	CHECK_EQ(write_counted(&a, &b, MEM, 7), 1);
	before = cells(&a);
	CHECK(before && !(before & (1u << 0 | 1u << 5)));
	CHECK_EQ(transposed(before), cells(&b));
	pair_close(&a, &b);
}

static void test_no_cell_left(void)
{
	struct side a, b;
	struct pg_error err = { 0 };
	int32_t sent;
	int rc = 0;

	for (unsigned i = 0; i < 2; i++)
		for (unsigned j = 0; j < 2; j++)
			fake_nic_refuse_attach(FAKE_NIC(0, i), j);
	remote_open(&a, &b, 2, 2);
	CHECK(pg_submit_single_write(a.g, 8, 7, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), -ENETUNREACH);
	rc = pg_connect(a.g, a.peer, SECOND, &err);
	CHECK(rc == -ENETUNREACH && strstr(err.text, "does not reach"));
	pair_close(&a, &b);
}

/* A posted work request fails: it cannot be known whether it was counted, which for a split write
 * ends the incarnation, and for a whole one only fails it. */
static void test_ambiguous_failure(void)
{
	struct side a, b;
	struct pg_peer_info info;
	int32_t sent;

	remote_open(&a, &b, 2, 2);
	CHECK_EQ(write_counted(&a, &b, 8, 7), 1);
	fake_nic_fail_next(FAKE_NIC(0, 0), 1);
	fake_nic_fail_next(FAKE_NIC(0, 1), 1);
	CHECK(pg_submit_single_write(a.g, 64, 7, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), -EIO);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0 && info.up);
	CHECK(pg_submit_single_write(a.g, MEM, 7, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), -EIO);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0);
	CHECK(!info.up && strstr(info.reason, "cannot be known"));
	CHECK(pg_submit_single_write(a.g, 8, 7, a.mr, 0, a.remote, 0, 0, &sent, NULL) == -EIO);
	pair_close(&a, &b);
}

static int32_t next_of(struct side *s, struct side *other, uint32_t kind, struct pg_event *e)
{
	for (int i = 0; i < 20000; i++) {
		if (pg_wait_events(s->g, e, 1, 500000) == 1 && e->kind == kind)
			return 1;
		if (other)
			pg_progress(other->g);
	}
	return 0;
}

/* The cable is pulled and plugged in again. */
static void test_nic_news(void)
{
	struct side a, b;
	struct pg_event e;

	remote_open(&a, &b, 2, 2);
	CHECK_EQ(write_counted(&a, &b, 8, 7), 1);
	CHECK(next_of(&a, &b, PG_EVENT_PEER_UP, &e) && e.peer == a.peer);
	CHECK(next_of(&b, &a, PG_EVENT_PEER_UP, &e) && e.peer == b.peer);
	fake_nic_unplug(FAKE_NIC(0, 1));
	CHECK(next_of(&a, &b, PG_EVENT_NIC_DOWN, &e));
	CHECK(e.nic == 1 && e.status == -ENETDOWN && e.text[0]);
	CHECK(next_of(&b, &a, PG_EVENT_PEER_DOWN, &e) && e.peer == b.peer && e.text[0]);
	fake_nic_plug(FAKE_NIC(0, 1));
	CHECK(next_of(&a, &b, PG_EVENT_NIC_UP, &e) && e.nic == 1);
	pair_close(&a, &b);
}

/* A completion that never comes: at its deadline the connections are reset, and what shares them
 * ends too. Its source is not read any more when it is told. */
static void test_deadline_resets(void)
{
	struct pg_config config = quick();
	struct pg_event e;
	struct side a, b;
	int32_t sent[2];
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 7 };

	config.op_timeout_ns = 100000000;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	remote_meet(&a, &b);
	remote_meet(&b, &a);
	CHECK_EQ(write_counted(&a, &b, 8, 7), 1);
	fake_nic_hold(FAKE_NIC(0, 0), true);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 100000 };
	for (unsigned i = 0; i < 2; i++) {
		op.done.flag = &sent[i];
		CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	}
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pair_run(&a, &b, &sent[i]), -ETIMEDOUT);
	CHECK(next_of(&a, &b, PG_EVENT_PEER_DOWN, &e));
	CHECK(strstr(e.text, "peer ") && strstr(e.text, "no progress for 100 ms"));
	pair_close(&a, &b);
}

/* Pieces that complete move the deadline on; the limit stays. */
static void test_limit_is_absolute(void)
{
	struct pg_config config = quick();
	struct side a, b;
	int32_t sent;
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 7, .limit_ms = 100 };

	config.op_timeout_ns = 20 * SECOND;
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	remote_meet(&a, &b);
	remote_meet(&b, &a);
	CHECK_EQ(write_counted(&a, &b, 8, 7), 1);
	fake_nic_hold(FAKE_NIC(0, 0), true);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 100000 };
	op.done.flag = &sent;
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK_EQ(pair_run(&a, &b, &sent), -ETIMEDOUT);
	pair_close(&a, &b);
}

/* What is posted is awaited: canceled, a write ends when the NIC has let go of its source. */
static void test_cancel_awaits(void)
{
	struct side a, b;
	int32_t sent;
	struct pg_done name = { .flag = &sent };

	remote_open(&a, &b, 1, 1);
	CHECK_EQ(write_counted(&a, &b, 8, 7), 1);
	fake_nic_hold(FAKE_NIC(0, 0), true);
	/* more work requests than may be outstanding */
	CHECK(pg_submit_single_write(a.g, 64 << 10, PG_NO_IMM, a.mr, 0, a.remote, 0, 0, &sent,
				     NULL) == 0);
	for (int i = 0; i < 100; i++)
		pg_progress(a.g);
	CHECK(pg_cancel(a.g, &name) == 0);
	for (int i = 0; i < 100; i++)
		pg_progress(a.g);
	CHECK_EQ(sent, 0);
	fake_nic_hold(FAKE_NIC(0, 0), false);
	CHECK_EQ(pair_run(&a, &b, &sent), 1); /* all of it was posted */
	CHECK(pg_cancel(a.g, &name) == -ENOENT);
	pair_close(&a, &b);
}

/* ---- Another process ---- */

struct child {
	pid_t pid;
	int to, from;
	struct side s;
};

/* Serves until its pipe is closed; what it counted of immediate 9 it says at the end. */
static void child_main(int in, int out, const char *control)
{
	struct pg_config config = quick();
	struct side s;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	int32_t never = 0;
	char byte;

	snprintf(config.control, sizeof(config.control), "%s", control);
	side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
	CHECK(pg_main_address(s.g, buf, &len) == 0);
	CHECK(write(out, buf, sizeof(buf)) == sizeof(buf));
	len = sizeof(buf);
	CHECK(pg_mr_desc(s.g, s.mr, buf, &len) == 0);
	CHECK(write(out, buf, sizeof(buf)) == sizeof(buf));
	while (read(in, &byte, 1) == 1)
		pg_wait_flags(s.g, &never, 1, 0);
	pg_engine_destroy(s.engine);
	_exit(0);
}

static void child_start(struct child *c, const char *control)
{
	int to[2], from[2];
	uint8_t buf[PG_ADDR_MAX];

	CHECK(pipe(to) == 0 && pipe(from) == 0);
	c->pid = fork();
	CHECK(c->pid >= 0);
	if (c->pid == 0) {
		close(to[1]);
		close(from[0]);
		child_main(to[0], from[1], control);
	}
	close(to[0]);
	close(from[1]);
	c->to = to[1];
	c->from = from[0];
	CHECK(read(c->from, buf, sizeof(buf)) == sizeof(buf));
	add_remote_peer(&c->s, buf, (size_t)(buf[6] | buf[7] << 8));
	CHECK(read(c->from, buf, sizeof(buf)) == sizeof(buf));
	CHECK(pg_import_mr(c->s.g, buf, (size_t)(buf[6] | buf[7] << 8), &c->s.remote, NULL) == 0);
}

static void child_end(struct child *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	close(c->to);
	close(c->from);
}

/* Over TCP: what is stopped is not responsive, what has died is down; and the heartbeat of one that
 * goes on is news. */
static void test_stopped_and_killed(void)
{
	struct pg_config config = quick();
	struct child c = { 0 };
	struct pg_peer_info info;
	struct pg_event e;
	int32_t sent;
	uint64_t start;

	side_open(&c.s, 1, PG_PROGRESS_INLINE, MEM, &config);
	child_start(&c, "127.0.0.1");
	CHECK(pg_submit_single_write(c.s.g, 8, 1, c.s.mr, 0, c.s.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pg_wait_flags(c.s.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	CHECK(next_of(&c.s, NULL, PG_EVENT_PEER_UP, &e));
	kill(c.pid, SIGSTOP);
	CHECK(next_of(&c.s, NULL, PG_EVENT_PEER_SILENT, &e) && e.peer == c.s.peer);
	CHECK(pg_peer_info(c.s.g, c.s.peer, &info) == 0 && info.up && !info.responsive);
	kill(c.pid, SIGCONT);
	CHECK(next_of(&c.s, NULL, PG_EVENT_PEER_UP, &e));
	CHECK(pg_peer_info(c.s.g, c.s.peer, &info) == 0 && info.up && info.responsive);
	kill(c.pid, SIGKILL);
	start = clock_ns();
	CHECK(next_of(&c.s, NULL, PG_EVENT_PEER_DOWN, &e) && e.status < 0);
	printf("remote: death by SIGKILL seen after %.1f ms over TCP\n",
	       (double)(clock_ns() - start) / 1e6);
	child_end(&c);
	CHECK(pg_engine_destroy(c.s.engine) == 0);
}

/* The same place, another incarnation: what was known by it has ended, and its keys are stale. */
static void test_returns(void)
{
	struct pg_config config = quick();
	struct child first = { 0 }, second = { 0 };
	struct pg_peer_info info;
	struct pg_error err = { 0 };
	pg_rmr_t old;
	pg_peer_t was;
	int32_t sent;

	side_open(&first.s, 1, PG_PROGRESS_INLINE, MEM, &config);
	child_start(&first, "127.0.0.1:47901");
	old = first.s.remote;
	was = first.s.peer;
	CHECK(pg_submit_single_write(first.s.g, 8, 1, first.s.mr, 0, old, 0, 0, &sent, NULL) == 0);
	CHECK(pg_wait_flags(first.s.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	child_end(&first);
	/* Nobody has looked whether it lives. */
	second.s = first.s;
	child_start(&second, "127.0.0.1:47901");
	CHECK(pg_submit_single_write(first.s.g, 8, 1, first.s.mr, 0, second.s.remote, 0, 0, &sent,
				     NULL) == 0);
	CHECK(pg_wait_flags(first.s.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	CHECK(pg_peer_info(first.s.g, was, &info) == 0 && !info.up);
	CHECK(pg_submit_single_write(first.s.g, 8, 1, first.s.mr, 0, old, 0, 0, &sent, &err) ==
	      -ESTALE);
	CHECK(strstr(err.text, "new incarnation"));
	child_end(&second);
	CHECK(pg_engine_destroy(first.s.engine) == 0);
}

int main(void)
{
	for (unsigned n = 1; n <= 4; n++)
		for (unsigned m = 1; m <= 4; m++)
			test_writes(n, m);
	test_cell_fails();
	test_no_cell_left();
	test_ambiguous_failure();
	test_nic_news();
	test_deadline_resets();
	test_limit_is_absolute();
	test_cancel_awaits();
	test_stopped_and_killed();
	test_returns();
	printf("remote: 1-4 x 1-4 NICs, lost cells, failures, deadlines, deaths over TCP\n");
	return 0;
}
