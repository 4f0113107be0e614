/* SPDX-License-Identifier: MIT
 *
 * How two groups come to know each other when what they say is repeated, held back, changed or late,
 * by somebody who stands between them; and when both begin at once.
 */
#include <stdio.h>

#include "control_proxy.h"

/* Of which the first hands over descriptors, and the second has each connection attached once. */
static const char *const transports[] = { "shm", "fakesock" };
static const char *transport;

#define MEM 65536
#define HEAD_AT 16 /* in a HELLO, behind the token: features, max_msg, reach, addr_len */
#define REACH_AT (HEAD_AT + 8)
#define ADDR_AT (HEAD_AT + 16)

/* Long enough for each to hear what the other has said. */
static void turn(struct side *s)
{
	pg_wait_flags(s->g, &(int32_t){ 0 }, 1, 200000);
}

static void turns(struct side *a, struct side *b, struct proxy *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		turn(a);
		if (p)
			proxy_run(p);
		turn(b);
		if (p)
			proxy_run(p);
	}
}

static int32_t ends(struct side *a, struct side *b, struct proxy *p, const int32_t *flag)
{
	for (unsigned i = 0; i < 5000 && !*flag; i++)
		turns(a, b, p, 1);
	return *flag;
}

static void submit(struct side *s, uint32_t imm, int32_t *sent)
{
	CHECK(pg_submit_single_write(s->g, 8, imm, s->mr, 0, s->remote, 0, 0, sent, NULL) == 0);
}

/* How many came up, of whom there is to be one; nobody went down. */
static unsigned ups(struct side *s)
{
	struct pg_event e;
	unsigned n = 0;

	while (pg_poll_events(s->g, &e, 1) == 1) {
		CHECK(e.kind == PG_EVENT_PEER_UP && e.peer == s->peer);
		n++;
	}
	return n;
}

/* The other end of a stream has hung up, and has said nothing. */
static void check_refused(int fd, struct side *s)
{
	struct said said;
	int rc = -EAGAIN;

	for (unsigned i = 0; i < 5000 && rc == -EAGAIN; i++) {
		turn(s);
		rc = proxy_hear(fd, &said);
	}
	CHECK_EQ(rc, -EPIPE);
	close(fd);
}

static void open_side(struct side *s, unsigned lanes, int mode, const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = lanes, .progress = mode, .worker_cpu = -1 };
	struct pg_config config = *limits;
	void *ptr;

	for (unsigned i = 0; i < lanes; i++) {
		group.domains[i].cpu = -1;
		snprintf(group.domains[i].transport, sizeof(group.domains[i].transport), "%s",
			 transport);
	}
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static void open_both(struct side *a, struct side *b, struct proxy *p)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	open_side(a, 1, PG_PROGRESS_INLINE, &config);
	open_side(b, 1, PG_PROGRESS_INLINE, &config);
	side_meet(b, a);
	proxy_open(p, a, b);
}

static void close_both(struct side *a, struct side *b, struct proxy *p)
{
	pair_close(a, b);
	proxy_close(p);
}

/* ---- Said again ---- */

static bool thrice(struct proxy *p, unsigned from, struct said *said)
{
	for (unsigned i = 0; i < 2 && said_type(said) <= CONTROL_READY; i++)
		proxy_say(p->ends[!from], said);
	return true;
}

static void test_said_again(void)
{
	struct proxy p = { .pass = thrice };
	struct side a, b;
	int32_t sent;

	open_both(&a, &b, &p);
	for (uint32_t i = 0; i < 3; i++) {
		uint64_t value;

		submit(&a, 1, &sent);
		CHECK_EQ(ends(&a, &b, &p, &sent), 1);
		turns(&a, &b, &p, 20);
		CHECK(pg_imm_value(b.g, 1, &value) == 0);
		CHECK_EQ(value, i + 1);
	}
	CHECK(side_is_up(&a) && side_is_up(&b));
	CHECK(ups(&a) == 1 && ups(&b) == 1);
	close_both(&a, &b, &p);
}

/* ---- Held back ---- */

struct held {
	unsigned from;
	uint16_t type;
	struct said said; /* type 0 of the one that is held: none */
	bool holds, held;
};

static bool hold(struct proxy *p, unsigned from, struct said *said)
{
	struct held *h = p->arg;

	if (!h->holds || from != h->from || said_type(said) != h->type)
		return true;
	CHECK(!h->held);
	h->held = true;
	h->said = *said;
	said->n_fds = 0; /* they are kept */
	return false;
}

static void let_go(struct proxy *p)
{
	struct held *h = p->arg;

	CHECK(h->held);
	h->holds = false;
	proxy_say(p->ends[!h->from], &h->said);
	said_forget(&h->said);
}

/* Who has attached does not post before it knows that the other has, too. */
static void test_ready_is_awaited(void)
{
	struct held h = { .from = 0, .type = CONTROL_READY, .holds = true };
	struct proxy p = { .pass = hold, .arg = &h };
	struct side a, b;
	int32_t sent[2];

	open_both(&a, &b, &p);
	submit(&a, 1, &sent[0]);
	turns(&a, &b, &p, 5);
	submit(&b, 1, &sent[1]);
	turns(&a, &b, &p, 100);
	CHECK(h.held && !side_is_up(&b) && side_is_up(&a));
	CHECK_EQ(sent[1], 0);
	CHECK(ups(&b) == 0);
	/* Of another pairing it means nothing. */
	h.said.bytes[PROXY_HEAD] ^= 3;
	proxy_say(p.ends[1], &h.said);
	turns(&a, &b, &p, 20);
	CHECK(!side_is_up(&b));
	h.said.bytes[PROXY_HEAD] ^= 3;
	let_go(&p);
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(ends(&a, &b, &p, &sent[i]), 1);
	CHECK(ups(&a) == 1 && ups(&b) == 1);
	close_both(&a, &b, &p);
}

/* On another stream it may have been overtaken. */
static void test_ready_comes_first(void)
{
	struct held h = { .from = 1, .type = CONTROL_HELLO, .holds = true };
	struct proxy p = { .pass = hold, .arg = &h };
	struct side a, b;
	int32_t sent;

	open_both(&a, &b, &p);
	submit(&a, 1, &sent);
	turns(&a, &b, &p, 100);
	CHECK(h.held && !side_is_up(&a));
	CHECK_EQ(sent, 0);
	let_go(&p);
	CHECK_EQ(ends(&a, &b, &p, &sent), 1);
	CHECK(side_is_up(&a) && side_is_up(&b));
	close_both(&a, &b, &p);
}

/* ---- Of another version ---- */

static bool as_of_later(struct proxy *p, unsigned from, struct said *said)
{
	(void)p;
	if (from == 1 && said_type(said) != CONTROL_HELLO)
		said->bytes[4]++;
	return true;
}

static void test_version(void)
{
	struct proxy p = { .pass = as_of_later };
	struct pg_peer_info info;
	struct side a, b;
	int32_t sent;

	open_both(&a, &b, &p);
	submit(&a, 1, &sent);
	CHECK_EQ(ends(&a, &b, &p, &sent), -EPROTO);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0 && info.status == -EPROTO);
	CHECK(strstr(info.reason, "wire version"));
	close_both(&a, &b, &p);
}

/* ---- Strangers, and those who were ---- */

static bool remember_hello(struct proxy *p, unsigned from, struct said *said)
{
	struct said *kept = p->arg;

	if (from == 0 && said_type(said) == CONTROL_HELLO && !kept->len) {
		*kept = *said;
		proxy_say(p->ends[1], said);
		said->n_fds = 0; /* they are kept */
		return false;
	}
	return true;
}

/* As one who has never been there would say it. */
static void take_name(struct said *said, uint8_t name)
{
	uint8_t *at = said_data(said) + ADDR_AT;
	uint16_t len;
	size_t n = PG_ADDR_MAX;
	uint8_t buf[PG_ADDR_MAX];
	struct net_addr addr;

	memcpy(&len, said_data(said) + HEAD_AT + 10, sizeof(len));
	CHECK(net_addr_decode(at, len, &addr, NULL) == 0);
	memset(addr.incarnation, name, sizeof(addr.incarnation));
	memset(addr.unix_id, name, sizeof(addr.unix_id));
	addr.port = addr.port ? name : 0; /* nor is it at the same place */
	CHECK(net_addr_encode(&addr, buf, &n) == 0 && n == len);
	memcpy(at, buf, n);
}

static void test_late_and_strange(void)
{
	struct said hello = { .len = 0 }, other, answer;
	struct proxy p = { .pass = remember_hello, .arg = &hello };
	struct pg_peer_info info;
	struct side a, b;
	int32_t sent;
	int fd;

	open_both(&a, &b, &p);
	submit(&a, 1, &sent);
	CHECK_EQ(ends(&a, &b, &p, &sent), 1);
	CHECK(hello.len > 0 && ups(&b) == 1);

	/* Once it is up, a HELLO changes nothing, whatever it says. */
	other = hello;
	memset(said_data(&other) + REACH_AT, 0, 2);
	proxy_say(p.ends[1], &other);
	turns(&a, &b, &p, 20);
	submit(&a, 1, &sent);
	CHECK_EQ(ends(&a, &b, &p, &sent), 1);
	CHECK(side_is_up(&b) && ups(&b) == 0);

	/* Without our token, nothing is said to it; with it, it is greeted. */
	other = hello;
	take_name(&other, 8);
	for (unsigned bit = 0; bit < 128; bit += 31) {
		said_data(&other)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		fd = proxy_dial(p.to.unix_id);
		proxy_say(fd, &other);
		check_refused(fd, &b);
		said_data(&other)[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	fd = proxy_dial(p.to.unix_id);
	proxy_say(fd, &other);
	for (unsigned i = 0; proxy_hear(fd, &answer) == -EAGAIN && i < 5000; i++)
		turn(&b);
	CHECK_EQ(said_type(&answer), CONTROL_HELLO);
	said_forget(&answer);
	close(fd);

	take_name(&other, 9);
	/* Who takes another's name is not believed, and who has ended does not come back. */
	proxy_say(p.ends[1], &other);
	for (unsigned i = 0; i < 5000 && side_is_up(&b); i++)
		turns(&a, &b, &p, 1);
	CHECK(pg_peer_info(b.g, b.peer, &info) == 0 && info.status == -EPROTO);
	fd = proxy_dial(p.to.unix_id);
	proxy_say(fd, &hello);
	check_refused(fd, &b);
	CHECK(!side_is_up(&b));
	said_forget(&hello);
	close_both(&a, &b, &p);
}

/* ---- Both at once ---- */

static void test_crossing(unsigned lanes_a, unsigned lanes_b, int mode)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent[2], fired[2];

	CHECK(pg_config_init(&config, NULL) == 0);
	open_side(&a, lanes_a, mode, &config);
	open_side(&b, lanes_b, mode, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(pg_expect_imm_flag(a.g, 1, 1, &fired[0], NULL) == 0);
	CHECK(pg_expect_imm_flag(b.g, 1, 1, &fired[1], NULL) == 0);
	submit(&a, 1, &sent[0]);
	submit(&b, 1, &sent[1]);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(pair_run(&a, &b, &sent[i]), 1);
		CHECK_EQ(pair_run(&a, &b, &fired[i]), 1);
	}
	turns(&a, &b, NULL, 3);
	CHECK(side_is_up(&a) && side_is_up(&b));
	CHECK(ups(&a) == 1 && ups(&b) == 1);
	pair_close(&a, &b);
}

int main(void)
{
	for (unsigned t = 0; t < sizeof(transports) / sizeof(transports[0]); t++) {
		transport = transports[t];
		test_said_again();
		test_ready_is_awaited();
		test_ready_comes_first();
		test_version();
		test_late_and_strange();
		for (unsigned i = 0; i < 60; i++)
			test_crossing(i % 4 + 1, i / 4 % 4 + 1,
				      i % 3 ? PG_PROGRESS_INLINE : PG_PROGRESS_WORKER);
	}
	printf("handshake: said again, held back, late, of strangers, crossing 120 times\n");
	return 0;
}
