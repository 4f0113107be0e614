/* SPDX-License-Identifier: MIT
 *
 * Two that reach each other by TCP alone: both begin at once, NICs that do not reach each other, a
 * forked child that holds on to a dead one's sockets, strangers who say nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM (1u << 20)

static struct pg_config quick(void)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 50000000;
	config.silent_ns = 30 * SECOND; /* a silent one is not what this is about */
	snprintf(config.control, sizeof(config.control), "127.0.0.1");
	return config;
}

/* The address as another host sees it, where there is no unix socket of that name. */
static void add_peer(struct side *s, const uint8_t *buf, size_t len)
{
	uint8_t remote[PG_ADDR_MAX];
	struct net_addr addr;
	size_t n = sizeof(remote);

	CHECK(net_addr_decode(buf, len, &addr, NULL) == 0);
	memset(addr.unix_id, 0, sizeof(addr.unix_id));
	CHECK(net_addr_encode(&addr, remote, &n) == 0);
	CHECK(pg_add_peer(s->g, remote, n, &s->peer, NULL) == 0);
}

static void meet(struct side *s, struct side *other)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	CHECK(pg_main_address(other->g, buf, &len) == 0);
	add_peer(s, buf, len);
	len = sizeof(buf);
	CHECK(pg_mr_desc(other->g, other->mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &s->remote, NULL) == 0);
}

static unsigned cells(const struct side *s, bool transposed)
{
	struct pg_conn_info info;
	unsigned found = 0;

	for (unsigned i = 0; pg_conn_info(s->g, s->peer, i, &info) == 0; i++)
		found |= transposed ? 1u << (4 * info.peer_nic + info.nic)
				    : 1u << (4 * info.nic + info.peer_nic);
	return found;
}

/* One peer, which came up and stayed so. */
static void check_up_once(struct side *s)
{
	struct pg_peer_info info;
	struct pg_event e;
	unsigned n = 0;

	CHECK(pg_peer_info(s->g, s->peer, &info) == 0 && info.up && !info.local);
	while (pg_poll_events(s->g, &e, 1) == 1) {
		CHECK(e.kind == PG_EVENT_PEER_UP && e.peer == s->peer);
		n++;
	}
	CHECK_EQ(n, 1);
}

/* Both at once. refused_a: cells that a finds not to work, refused_b: those that b does. */
static void test_crossing(unsigned n, unsigned m, unsigned refused_a, unsigned refused_b)
{
	struct pg_config config = quick();
	struct side a, b;
	int32_t sent[2], fired[2];

	side_open(&a, n, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, m, PG_PROGRESS_INLINE, MEM, &config);
	for (unsigned i = 0; i < 16; i++) {
		if (refused_a >> i & 1)
			fake_nic_refuse_attach(FAKE_NIC(0, i / 4), i % 4);
		if (refused_b >> i & 1)
			fake_nic_refuse_attach(FAKE_NIC(1, i / 4), i % 4);
	}
	meet(&a, &b);
	meet(&b, &a);
	memset(a.mem, 3, MEM);
	CHECK(pg_expect_imm_flag(a.g, 1, 1, &fired[0], NULL) == 0);
	CHECK(pg_expect_imm_flag(b.g, 1, 1, &fired[1], NULL) == 0);
	CHECK(pg_submit_single_write(a.g, MEM, 1, a.mr, 0, a.remote, 0, 0, &sent[0], NULL) == 0);
	CHECK(pg_submit_barrier(b.g, &b.peer, 1, 1, 0, &sent[1], NULL) == 0);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(pair_run(&a, &b, &sent[i]), 1);
		CHECK_EQ(pair_run(&a, &b, &fired[i]), 1);
	}
	CHECK(b.mem[0] == 3 && b.mem[MEM - 1] == 3);
	check_up_once(&a);
	check_up_once(&b);
	CHECK_EQ(cells(&a, false), cells(&b, true));
	CHECK((cells(&a, false) & refused_a) == 0 && (cells(&b, false) & refused_b) == 0);
	pair_close(&a, &b);
}

/* ---- NICs ---- */

/* A cable is pulled, put in again, and pulled: only how it is in the end is told. */
static void test_nic_news(void)
{
	struct pg_config config = quick();
	struct side s;
	struct pg_event e;

	side_open(&s, 2, PG_PROGRESS_INLINE, MEM, &config);
	for (unsigned i = 0; i < 3; i++) {
		if (i % 2)
			fake_nic_plug(FAKE_NIC(0, 1));
		else
			fake_nic_unplug(FAKE_NIC(0, 1));
		for (unsigned k = 0; k < 50; k++)
			pg_progress(s.g);
		if (i == 0)
			continue;
		CHECK(pg_poll_events(s.g, &e, 1) == 1 && e.nic == 1);
		CHECK_EQ(e.kind, i == 1 ? PG_EVENT_NIC_UP : PG_EVENT_NIC_DOWN);
		CHECK_EQ(e.status, i == 1 ? 0 : -ENETDOWN);
		CHECK(pg_poll_events(s.g, &e, 1) == 0);
	}
	CHECK(strstr(e.text, "fakesock1 is down"));
	CHECK(pg_engine_destroy(s.engine) == 0);
}

/* ---- A child that holds on ---- */

static void parent_of_an_orphan(int fd)
{
	struct pg_config config = quick();
	struct side s;
	uint8_t buf[PG_ADDR_MAX] = { 0 };
	size_t len = sizeof(buf);
	struct pg_event e;
	pid_t orphan;

	alarm(60);
	side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
	CHECK(pg_main_address(s.g, buf, &len) == 0);
	CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf));
	CHECK(pg_wait_events(s.g, &e, 1, 30 * SECOND) == 1);
	orphan = fork();
	if (orphan == 0) {
		alarm(60);
		for (;;)
			pause();
	}
	CHECK(write(fd, &orphan, sizeof(orphan)) == sizeof(orphan));
	for (;;)
		pause();
}

static void test_orphan(void)
{
	struct pg_config config = quick();
	struct side s;
	struct pg_event e = { 0 };
	uint8_t buf[PG_ADDR_MAX];
	pid_t pid, orphan;
	int ends[2];

	CHECK(pipe(ends) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		parent_of_an_orphan(ends[1]);
	side_open(&s, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(read(ends[0], buf, sizeof(buf)) == sizeof(buf));
	add_peer(&s, buf, (size_t)(buf[6] | buf[7] << 8));
	CHECK(pg_connect(s.g, s.peer, 30 * SECOND, NULL) == 0);
	CHECK(read(ends[0], &orphan, sizeof(orphan)) == sizeof(orphan));
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	while (e.kind != PG_EVENT_PEER_DOWN)
		CHECK(pg_wait_events(s.g, &e, 1, 20 * SECOND) == 1);
	CHECK(e.status < 0);
	CHECK(kill(orphan, SIGKILL) == 0);
	CHECK(pg_engine_destroy(s.engine) == 0);
	close(ends[0]);
	close(ends[1]);
}

/* ---- Strangers ---- */

static void test_never_greets(void)
{
	struct pg_config config = quick();
	struct sockaddr_in at = { .sin_family = AF_INET };
	struct net_addr addr;
	struct side s;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	struct pollfd p = { .events = POLLIN };

	config.dead_ns = 50000000;
	side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
	CHECK(pg_main_address(s.g, buf, &len) == 0 && net_addr_decode(buf, len, &addr, NULL) == 0);
	at.sin_port = htons(addr.port);
	at.sin_addr.s_addr = htonl(0x7f000001);
	p.fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(p.fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(write(p.fd, "pctl", 4) == 4); /* a beginning, with nothing behind it */
	CHECK_EQ(poll(&p, 1, 20000), 1);
	CHECK(read(p.fd, buf, 1) <= 0);
	close(p.fd);
	CHECK(pg_engine_destroy(s.engine) == 0);
}

int main(void)
{
	uint64_t seed = 7;

	for (unsigned i = 0; i < 64; i++)
		test_crossing(i % 4 + 1, i / 4 % 4 + 1, 0, 0);
	/* Of two by two, whatever two cells: those that are left still join both sides. */
	for (unsigned i = 0; i < 64; i++) {
		static const unsigned all[] = { 0, 1, 4, 5 };
		unsigned x = 1u << all[check_random(&seed) % 4],
			 y = 1u << all[check_random(&seed) % 4];

		test_crossing(2, 2, x, i % 3 ? y : 0);
	}
	test_nic_news();
	test_orphan();
	test_never_greets();
	printf("apart: 128 crossings over TCP, half of them with lost cells; orphans, strangers\n");
	return 0;
}
