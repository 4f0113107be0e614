/* SPDX-License-Identifier: MIT
 *
 * The socket NIC keeps the promises of transport.h, and misbehaves as it is told to. */
#include <pthread.h>

#include "fake_socket_ends.h"

static void test_registry(void)
{
	struct pg_caps caps;

	CHECK(transport_at(0) == &transport_fake_socket);
	CHECK(transport_at(1) == &transport_shm);
	CHECK(transport_find("fakesock") == nic);
	CHECK(!nic->query(&caps, NULL) && !caps.sync_post && caps.reaches_hosts && !caps.ordered &&
	      !caps.exact_failure);
}

static void refuse_open(const char *device, uint32_t max_peers, const char *why)
{
	struct domain_options options = { .device = device, .cpu = -1, .max_peers = max_peers };
	struct pg_error err = { 0 };
	struct domain *domain;

	CHECK(nic->open(&options, &domain, &err) < 0);
	if (!strstr(err.text, why))
		check_failed(__FILE__, __LINE__, err.text);
}

static void test_open(void)
{
	struct domain_options options = { .device = "127.0.0.2", .index = 3, .max_peers = 1 };
	struct fake_address at;
	struct domain *domain;
	size_t len = DOMAIN_ADDR_MAX;
	uint8_t buf[DOMAIN_ADDR_MAX];

	refuse_open("mlx5_0", 1, "\"mlx5_0\" is not an IPv4 address");
	refuse_open("192.0.2.1", 1, "listen at 192.0.2.1");
	refuse_open("", 0, "max_peers is 0");
	CHECK_EQ(nic->open(&options, &domain, NULL), 0);
	CHECK(!strcmp(domain->name, "fakesock3"));
	CHECK_EQ(nic->address(domain, buf, &len), 0);
	CHECK_EQ(len, sizeof(at));
	memcpy(&at, buf, len);
	CHECK_EQ(at.ip, htonl(0x7f000002));
	CHECK(at.lane == 3 && at.port != 0);
	nic->close(domain);
}

/* ---- Work requests -------------------------------------------------------------------------- */

static void test_writes(void)
{
	struct end a, b;

	open_pair(&a, &b);
	CHECK(strstr(a.conn->note, "TCP to lane 0 at 127.0.0.2:") != NULL);
	CHECK_EQ(a.conn->max_unmapped, FAKE_MAX_WRITE);
	for (unsigned i = 0; i < 1000; i++)
		source(&a)[i] = (uint8_t)(i * 7);
	must_post(&a, write_wr(&a, 0, 1000), 1ULL << 63);
	expect_done(&a, &b, 1ULL << 63, 0);
	CHECK(!memcmp(source(&a), landing(&b), 1000));
	expect_nothing(&b, &a);

	must_post(&a, with_imm(write_wr(&a, 10, 0), UINT32_MAX), 2);
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, UINT32_MAX);
	expect_done(&a, &b, 2, 0);
	for (unsigned i = 1; i < 9; i++)
		check_alive(&a, &b, i);
	close_pair(&a, &b);
}

/* Nothing moves before the doorbell, and the source is read after it. */
static void test_doorbell(void)
{
	struct wr wr;
	struct end a, b;

	open_pair(&a, &b);
	source(&a)[0] = 1;
	wr = with_imm(write_wr(&a, 0, 1), 4);
	CHECK_EQ(nic->post(a.conn, &wr, 1, NULL), 1);
	expect_nothing(&b, &a);
	source(&a)[0] = 2;
	nic->flush(a.conn);
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 4);
	CHECK_EQ(landing(&b)[0], 2);
	close_pair(&a, &b);
}

static void test_messages(void)
{
	static uint8_t text[PG_MSG_MAX];
	struct arrival got;
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i % 251);
	must_post(&a, send_wr(text, sizeof(text)), 1);
	got = expect(&b, &a, ARRIVAL_MSG, 0);
	CHECK_EQ(got.len, sizeof(text));
	CHECK(!memcmp(got.data, text, sizeof(text)));
	expect_done(&a, &b, 1, 0);

	/* Without room they stay, unacknowledged, and do not keep the lane awake; some of
	 * them not even read. */
	box_of(b.domain)->max_msgs = 0;
	for (unsigned i = 0; i < FAKE_OUTSTANDING; i++)
		must_post(&a, send_wr(text, PG_MSG_MAX - i), i);
	expect_nothing(&b, &a);
	expect_nothing(&a, &b);
	CHECK(nic->arm(b.domain, true));
	CHECK(!readable(b.domain->fd, 0));
	/* The other way is open all the same. */
	must_post(&b, imm_wr(9), 3);
	CHECK_EQ(expect(&a, &b, ARRIVAL_IMM, 0).imm, 9);
	expect_done(&b, &a, 3, 0);
	box_of(b.domain)->max_msgs = 3;
	for (unsigned i = 0; i < FAKE_OUTSTANDING; i++) {
		CHECK_EQ(expect(&b, &a, ARRIVAL_MSG, 0).len, PG_MSG_MAX - i);
		expect_done(&a, &b, i, 0);
	}
	close_pair(&a, &b);
}

/* A stalled connection does not stop another of the same lane. */
static void test_message_stalls_one(void)
{
	struct end a, b, c, d;

	open_pair(&a, &b);
	join(&c, a.domain, &d, b.domain);
	box_of(b.domain)->max_msgs = 0;
	must_post(&a, send_wr("abc", 3), 1);
	must_post(&a, imm_wr(1), 2);
	for (unsigned i = 0; i < 20; i++) {
		must_post(&c, write_wr(&c, 0, FAKE_MAX_WRITE), 3);
		expect_done(&c, &d, 3, 0);
	}
	box_of(b.domain)->max_msgs = 1;
	CHECK_EQ(expect(&b, &a, ARRIVAL_MSG, 0).len, 3);
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 1);
	end_close(&c);
	end_close(&d);
	close_pair(&a, &b);
}

static void refuse_post(struct end *e, struct wr wr, const char *why)
{
	struct wr two[] = { imm_wr(77), wr };
	struct pg_error err = { 0 };

	CHECK_EQ(nic->post(e->conn, &wr, 1, &err), -EINVAL);
	if (!strstr(err.text, why))
		check_failed(__FILE__, __LINE__, err.text);
	CHECK_EQ(nic->post(e->conn, two, 2, &err), 1);
	nic->flush(e->conn);
}

static void test_refused(void)
{
	struct wr wr;
	struct end a, b;

	open_pair(&a, &b);
	memset(landing(&b), 0x55, HALF);
	wr = with_imm(write_wr(&a, 0, 8), 6);
	wr.raddr = a.peer_base + REGION - 7;
	must_post(&a, wr, 1);
	expect_done(&a, &b, 1, -EACCES);
	wr.raddr = a.peer_base - 1;
	must_post(&a, wr, 2);
	expect_done(&a, &b, 2, -EACCES);
	wr.raddr = a.peer_base;
	wr.rkey++;
	must_post(&a, wr, 3);
	expect_done(&a, &b, 3, -EACCES);

	wr = write_wr(&a, 0, 8);
	wr.len = FAKE_MAX_WRITE + 1;
	refuse_post(&a, wr, "262145 bytes");
	wr.len = 8;
	wr.lkey++;
	refuse_post(&a, wr, "lkey");
	refuse_post(&a, send_wr(source(&a), PG_MSG_MAX + 1), "4097 bytes");
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 77);
		expect_done(&a, &b, 0, 0);
	}

	nic->mr_dereg(b.domain, b.lkey);
	must_post(&a, with_imm(write_wr(&a, 0, 8), 7), 4);
	expect_done(&a, &b, 4, -EACCES);
	expect_nothing(&b, &a);
	for (unsigned i = 0; i < HALF; i++)
		CHECK_EQ(landing(&b)[i], 0x55);
	CHECK_EQ(nic->mr_reg(b.domain, &b.memory, &b.lkey, &b.key, NULL), 0);
	CHECK(b.key != a.peer_key);
	know(&a, &b);
	check_alive(&a, &b, 8);
	close_pair(&a, &b);
}

static void test_credit(void)
{
	struct wr wrs[FAKE_OUTSTANDING + 6];
	char text[200];
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < FAKE_OUTSTANDING + 6; i++) {
		wrs[i] = write_wr(&a, 0, 100);
		wrs[i].id = i;
	}
	fake_nic_hold(LEFT, true);
	CHECK_EQ(nic->post(a.conn, wrs, FAKE_OUTSTANDING + 6, NULL), FAKE_OUTSTANDING);
	CHECK_EQ(nic->post(a.conn, wrs, 1, NULL), -EAGAIN);
	nic->flush(a.conn);
	nic->describe(a.conn, text, sizeof(text));
	CHECK(strstr(text, "64 outstanding, 6400 bytes unsent") && strstr(text, "held"));
	fake_nic_hold(LEFT, false);
	expect_done(&a, &b, 0, 0);
	CHECK_EQ(nic->post(a.conn, wrs + FAKE_OUTSTANDING, 1, NULL), 1);
	nic->flush(a.conn);
	for (unsigned i = 1; i <= FAKE_OUTSTANDING; i++)
		expect_done(&a, &b, i, 0);
	nic->describe(a.conn, text, sizeof(text));
	CHECK(!strcmp(text, "0 outstanding, 0 bytes unsent, 0 bytes of input"));
	close_pair(&a, &b);
}

/* More than the sockets hold, both ways at once: nobody waits for the other. */
static void test_large(void)
{
	enum { N = 40 };
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < HALF; i++) {
		source(&a)[i] = (uint8_t)(i * 31 >> 3);
		source(&b)[i] = (uint8_t)(i * 17 >> 2);
	}
	for (unsigned i = 0; i < N; i++) {
		uint64_t at = (uint64_t)(i % 4) * FAKE_MAX_WRITE;

		must_post(&a, write_wr(&a, at, FAKE_MAX_WRITE), i);
		must_post(&b, write_wr(&b, at, FAKE_MAX_WRITE), i);
	}
	for (unsigned i = 0; i < N; i++) {
		expect_done(&a, &b, i, 0);
		expect_done(&b, &a, i, 0);
	}
	CHECK(!memcmp(source(&a), landing(&b), HALF));
	CHECK(!memcmp(source(&b), landing(&a), HALF));
	close_pair(&a, &b);
}

/* ---- Misbehaviour --------------------------------------------------------------------------- */

static void test_hold(void)
{
	struct end a, b;

	open_pair(&a, &b);
	check_alive(&a, &b, 1);
	fake_nic_hold(LEFT, true);
	must_post(&a, imm_wr(3), 1);
	expect_nothing(&a, &b);
	expect_nothing(&b, &a);
	CHECK(nic->arm(a.domain, true));
	CHECK(!readable(a.domain->fd, 0));
	fake_nic_hold(LEFT, false);
	CHECK(readable(a.domain->fd, 0)); /* awake */
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 3);
	expect_done(&a, &b, 1, 0);

	/* What arrives is placed, but not acknowledged either. */
	fake_nic_hold(LEFT, true);
	must_post(&b, with_imm(write_wr(&b, 0, 9), 4), 2);
	CHECK_EQ(expect(&a, &b, ARRIVAL_IMM, 0).imm, 4);
	expect_nothing(&b, &a);
	fake_nic_hold(LEFT, false);
	expect_done(&b, &a, 2, 0);

	fake_nic_hold_acks(RIGHT, true);
	must_post(&a, imm_wr(5), 6);
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 5);
	expect_nothing(&a, &b);
	must_post(&b, imm_wr(6), 7);
	CHECK_EQ(expect(&a, &b, ARRIVAL_IMM, 0).imm, 6);
	expect_done(&b, &a, 7, 0);
	fake_nic_hold_acks(RIGHT, false);
	expect_done(&a, &b, 6, 0);
	close_pair(&a, &b);
}

static void test_fail_next(void)
{
	struct wr wrs[FAKE_OUTSTANDING] = { imm_wr(6) };
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned round = 0; round < 100; round++) {
		fake_nic_fail_next(LEFT, 2);
		pump(a.domain);
		must_post(&a, with_imm(write_wr(&a, 0, 9), 1), 1);
		CHECK(!nic->arm(a.domain, true));
		expect_done(&a, &b, 1, -EIO);
		must_post(&a, imm_wr(2), 2);
		expect_done(&a, &b, 2, -EIO);
		must_post(&a, imm_wr(3), 3);
		CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 3);
		expect_done(&a, &b, 3, 0);
	}
	/* It ends before its doorbell, and its place is taken before that, too. */
	fake_nic_fail_next(LEFT, 1);
	CHECK_EQ(nic->post(a.conn, wrs, 1, NULL), 1);
	expect_done(&a, &b, 0, -EIO);
	CHECK_EQ(nic->post(a.conn, wrs, FAKE_OUTSTANDING, NULL), FAKE_OUTSTANDING);
	nic->flush(a.conn);
	for (unsigned i = 0; i < FAKE_OUTSTANDING; i++)
		expect_done(&a, &b, 0, 0);
	CHECK_EQ(expect(&b, &a, ARRIVAL_IMM, 0).imm, 6);
	check_alive(&a, &b, 4);
	close_pair(&a, &b);
}

static void test_refuse_attach(void)
{
	struct domain *left = open_lane(0), *right = open_lane(2), *second = open_lane(1);
	struct pg_error err = { 0 };
	struct end a, b, c;

	end_open(&a, left);
	end_open(&b, right);
	end_open(&c, second);
	fake_nic_refuse_attach(FAKE_NIC(0, 0), 2);
	CHECK_EQ(nic->conn_attach(a.conn, &b.offer, &err), -ENETUNREACH);
	CHECK(!strcmp(err.text, "lane 0 does not reach lane 2"));
	attach(&b, &a.offer);
	attach(&a, &c.offer);
	end_close(&a);
	end_close(&b);
	end_close(&c);
	close_lane(left);
	close_lane(right);
	close_lane(second);
}

static void reopen(struct end *e)
{
	nic->conn_close(e->conn);
	CHECK_EQ(nic->conn_open(e->domain, &e->conn, &e->offer, NULL), 0);
}

static void test_unplug(void)
{
	struct offer stale;
	struct pg_error err = { 0 };
	struct end a, b, half;

	open_pair(&a, &b);
	end_open(&half, a.domain);
	stale = half.offer;
	check_alive(&a, &b, 1);
	fake_nic_hold_acks(RIGHT, true);
	fake_nic_hold_acks(LEFT, true);
	for (unsigned i = 0; i < 5; i++)
		must_post(&a, write_wr(&a, 0, 100), i);
	for (unsigned i = 0; i < 3; i++)
		must_post(&b, write_wr(&b, 0, 100), i);
	expect_nothing(&a, &b);
	fake_nic_unplug(LEFT);
	CHECK(readable(a.domain->fd, 0));
	expect_broken(&a, &b, 5);
	expect(&a, &b, ARRIVAL_NIC, -ENETDOWN);
	expect_broken(&b, &a, 3);
	expect_nothing(&a, &b);
	CHECK(nic->arm(a.domain, true));
	fake_nic_hold_acks(RIGHT, false);
	fake_nic_hold_acks(LEFT, false);

	/* Half a connection has not broken, but comes to nothing. */
	CHECK_EQ(nic->conn_attach(half.conn, &b.offer, &err), -ENETDOWN);
	CHECK_EQ(nic->conn_open(a.domain, &half.conn, &half.offer, &err), -ENETDOWN);
	CHECK(!strcmp(err.text, "fakesock0 is unplugged"));
	reopen(&b);
	if (!nic->conn_attach(b.conn, &stale, NULL))
		expect_broken(&b, &a, 0);

	fake_nic_plug(LEFT);
	expect(&a, &b, ARRIVAL_NIC, 0);
	reopen(&a);
	reopen(&b);
	attach(&a, &b.offer);
	attach(&b, &a.offer);
	check_alive(&a, &b, 3);

	/* Unplugged and plugged before anybody looked. */
	fake_nic_unplug(LEFT);
	fake_nic_plug(LEFT);
	expect_broken(&a, &b, 0);
	expect(&a, &b, ARRIVAL_NIC, -ENETDOWN);
	expect(&a, &b, ARRIVAL_NIC, 0);
	expect_nothing(&a, &b);
	end_close(&half);
	close_pair(&a, &b);
}

static void test_peer_closes(void)
{
	struct end a, b;

	open_pair(&a, &b);
	check_alive(&a, &b, 1);
	must_post(&b, imm_wr(5), 0);
	must_post(&b, imm_wr(6), 1);
	end_close(&a);
	expect_broken(&b, &b, 2);
	expect_nothing(&b, &b);
	end_open(&a, a.domain);
	close_pair(&a, &b);
}

static void *flap(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 300; i++) {
		fake_nic_hold(LEFT, i % 3);
		fake_nic_hold_acks(LEFT, i % 2);
		fake_nic_fail_next(LEFT, i % 2);
		if (i % 10 == 0)
			fake_nic_unplug(LEFT);
		fake_nic_plug(LEFT);
		sched_yield();
	}
	fake_nic_hold(LEFT, false);
	fake_nic_hold_acks(LEFT, false);
	return NULL;
}

static void *register_often(void *arg)
{
	struct end *e = arg;
	uint64_t lkey, key;

	for (unsigned i = 0; i < 300; i++) {
		CHECK_EQ(nic->mr_reg(e->domain, &e->memory, &lkey, &key, NULL), 0);
		nic->mr_dereg(e->domain, lkey);
	}
	return NULL;
}

/* Tests tell it things, and regions come and go, while it works. */
static void test_threads(void)
{
	pthread_t threads[2];
	struct end a, b;

	open_pair(&a, &b);
	CHECK_EQ(pthread_create(&threads[0], NULL, flap, NULL), 0);
	CHECK_EQ(pthread_create(&threads[1], NULL, register_often, &b), 0);
	for (unsigned i = 0; i < 500; i++) {
		struct wr wr = write_wr(&a, 0, 1000);
		struct arrival got[8];

		nic->post(a.conn, &wr, 1, NULL);
		nic->flush(a.conn);
		nic->poll(a.domain, got, 8, 1);
		nic->poll(b.domain, got, 8, 1);
		nic->arm(a.domain, true);
	}
	CHECK_EQ(pthread_join(threads[0], NULL), 0);
	CHECK_EQ(pthread_join(threads[1], NULL), 0);
	close_pair(&a, &b);
}

int main(void)
{
	alarm(200);
	test_registry();
	test_open();
	test_writes();
	test_doorbell();
	test_messages();
	test_message_stalls_one();
	test_refused();
	test_credit();
	test_large();
	test_hold();
	test_fail_next();
	test_refuse_attach();
	test_unplug();
	test_peer_closes();
	test_threads();
	return 0;
}
