/* SPDX-License-Identifier: MIT
 *
 * The control socket against those who do not keep to the protocol: nothing crashes, nothing leaks,
 * nobody else is disturbed.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine/control.h"
#include "engine_pair.h"

#define MEM 65536
#define MAGIC 0x6c746370u

struct packet {
	uint8_t bytes[4096];
	size_t len;
	int fds[CONTROL_FDS + 2];
	unsigned n_fds;
};

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static socklen_t socket_name(struct sockaddr_un *un, const struct net_addr *addr)
{
	int n = 7;

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = "\0pgctl-" };
	for (unsigned i = 0; i < sizeof(addr->unix_id); i++)
		n += sprintf(un->sun_path + n, "%02x", addr->unix_id[i]);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
}

static void address_of(const struct side *s, struct net_addr *addr)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	CHECK(pg_main_address(s->g, buf, &len) == 0);
	CHECK(net_addr_decode(buf, len, addr, NULL) == 0);
}

static int add_peer(struct side *s, const struct net_addr *addr, pg_peer_t *peer)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	CHECK(net_addr_encode(addr, buf, &len) == 0);
	return pg_add_peer(s->g, buf, len, peer, NULL);
}

static int dial_address(const struct net_addr *addr)
{
	struct sockaddr_un un;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(connect(fd, (struct sockaddr *)&un, socket_name(&un, addr)) == 0);
	return fd;
}

static int dial(const struct side *s)
{
	struct net_addr addr;

	address_of(s, &addr);
	return dial_address(&addr);
}

static void say(int fd, const struct packet *p)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(p->fds))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)p->bytes, p->len };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (p->n_fds) {
		struct cmsghdr *c;

		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(p->n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(p->n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), p->fds, p->n_fds * sizeof(int));
	}
	CHECK(sendmsg(fd, &h, MSG_NOSIGNAL) == (ssize_t)p->len);
}

static void run_for_a_while(struct side *s)
{
	for (unsigned i = 0; i < 5; i++)
		pg_wait_flags(s->g, &(int32_t){ 0 }, 1, 0);
}

/* Streams and pidfds of who has been refused go by and by. */
static void check_fds(struct side *s, unsigned most)
{
	for (unsigned i = 0; i < 1000 && open_fds() > most; i++)
		run_for_a_while(s);
	CHECK(open_fds() <= most);
}

/* One packet on a connection of its own, after which the engine is as before. */
static void try_packet(struct side *s, const struct packet *p)
{
	int fd = dial(s);

	say(fd, p);
	run_for_a_while(s);
	close(fd);
	run_for_a_while(s);
}

static void add(struct packet *p, const void *data, size_t len)
{
	memcpy(p->bytes + p->len, data, len);
	p->len += len;
}

static struct packet framed(uint16_t type, const void *data, size_t len)
{
	struct packet p = { 0 };

	add(&p, &(uint32_t){ MAGIC }, 4);
	add(&p, &(uint16_t){ PG_WIRE_VERSION }, 2);
	add(&p, &type, 2);
	add(&p, &(uint32_t){ (uint32_t)len }, 4);
	add(&p, data, len);
	return p;
}

/* As an engine of this incarnation would greet s, with n offers of len bytes and n_fds fds. */
static struct packet hello(const struct side *s, const uint8_t incarnation[16], uint16_t n,
			   uint16_t len, uint16_t n_fds)
{
	struct packet p = framed(CONTROL_HELLO, "", 0);
	uint8_t buf[PG_ADDR_MAX], offer[OFFER_BYTES] = { 1 };
	size_t addr_len = sizeof(buf);
	struct net_addr addr;

	address_of(s, &addr);
	add(&p, addr.token, sizeof(addr.token));
	memcpy(addr.incarnation, incarnation, sizeof(addr.incarnation));
	memcpy(addr.unix_id, incarnation, sizeof(addr.unix_id));
	CHECK(net_addr_encode(&addr, buf, &addr_len) == 0);
	struct {
		uint32_t features, max_msg;
		uint16_t reach, addr_len, n, zero;
	} head = { .max_msg = PG_MSG_MAX, .reach = 1, .addr_len = (uint16_t)addr_len, .n = n };

	add(&p, &head, sizeof(head));
	add(&p, buf, addr_len);
	for (unsigned i = 0; i < n; i++) {
		add(&p, &(uint8_t[2]){ 0, 0 }, 2);
		add(&p, &len, 2);
		add(&p, &n_fds, 2);
		add(&p, offer, len < sizeof(offer) ? len : sizeof(offer));
		for (unsigned k = 0; k < n_fds && p.n_fds < CONTROL_FDS; k++)
			p.fds[p.n_fds++] = STDERR_FILENO;
	}
	memcpy(p.bytes + 8, &(uint32_t){ (uint32_t)(p.len - 12) }, 4);
	return p;
}

static void test_malformed(struct side *s)
{
	static const uint8_t who[16] = { 7 };
	struct packet p = { .fds = { 1, 1, 1, 1 }, .n_fds = 4 };
	uint64_t zeros[8] = { 0 };

	try_packet(s, &p); /* nothing but fds */
	p.len = 5;
	try_packet(s, &p);
	p.len = sizeof(p.bytes);
	try_packet(s, &p);
	for (uint16_t type = 0; type <= CONTROL_TYPES + 1; type++)
		for (size_t len = 0; len <= sizeof(zeros); len += 4) {
			p = framed(type, zeros, len);
			p.n_fds = CONTROL_FDS + 2;
			try_packet(s, &p);
		}
	for (uint16_t n = 0; n <= PG_MAX_CONNS + 1; n++) {
		p = hello(s, who, n, 24, 3);
		p.bytes[12] ^= 1; /* the token */
		try_packet(s, &p);
	}
	p = hello(s, who, 1, OFFER_BYTES + 1, 3);
	try_packet(s, &p);
	p = hello(s, who, 1, 24, OFFER_FDS + 1);
	try_packet(s, &p);
	p = hello(s, who, PG_MAX_CONNS + 1, 24, 1);
	try_packet(s, &p);
}

/* Well-formed, but its offers are not what they should be. Each incarnation ends and makes room for
 * the next. */
static void test_wrong_offers(struct side *s)
{
	uint64_t seed = 1;

	for (unsigned i = 0; i < 300; i++) {
		uint64_t who[2] = { check_random(&seed), i };
		struct packet p = hello(s, (uint8_t *)who, (uint16_t)(i % (PG_MAX_CONNS + 1)),
					(uint16_t)(i % OFFER_BYTES), (uint16_t)(i % 4));

		try_packet(s, &p);
		p = hello(s, (uint8_t *)who, 1, 24, 3);
		for (unsigned k = 0; k < 4; k++)
			p.bytes[check_random(&seed) % p.len] ^= (uint8_t)check_random(&seed);
		p.len -= i % 3;
		try_packet(s, &p);
	}
}

/* Another user gets no stream, and so cannot use up our descriptors. */
static void test_other_user(struct side *s)
{
	unsigned fds = open_fds();
	struct net_addr addr;
	int status = -1;
	char byte;
	pid_t child;

	if (geteuid() != 0) /* nobody else can become another user */
		return;
	address_of(s, &addr); /* in the child the engine is not there */
	child = fork();
	if (child == 0) {
		int fd;

		alarm(20);
		CHECK(seteuid(65534) == 0);
		fd = dial_address(&addr);
		CHECK(fcntl(fd, F_SETFL, 0) == 0);
		_exit(recv(fd, &byte, 1, 0) == 0 ? 0 : 1); /* closed by the other side */
	}
	for (int i = 0; i < 10000 && waitpid(child, &status, WNOHANG) == 0; i++)
		pg_wait_flags(s->g, &(int32_t){ 0 }, 1, 1000000);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	check_fds(s, fds);
}

/* First its backlog is full, then it is gone: what waits for it fails, once. */
static void test_nobody_answers(struct side *s)
{
	struct pg_op op = { .opcode = PG_OP_SEND, .imm = PG_NO_IMM };
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fill;
	struct pg_event events[4];
	struct sockaddr_un un;
	struct net_addr addr;
	socklen_t len;
	pg_peer_t peer;

	address_of(s, &addr);
	addr.incarnation[0] ^= 1;
	addr.unix_id[0] ^= 1;
	len = socket_name(&un, &addr);
	CHECK(bind(listener, (struct sockaddr *)&un, len) == 0 && listen(listener, 0) == 0);
	fill = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(connect(fill, (struct sockaddr *)&un, len) == 0);

	CHECK(add_peer(s, &addr, &peer) == 0);
	CHECK(pg_connect(s->g, peer, 1000000, NULL) == -ETIMEDOUT);
	op.u.send = (struct pg_send){ peer, "x", 1 };
	for (op.done.cookie = 0; op.done.cookie < 2; op.done.cookie++)
		CHECK(pg_submit(s->g, &op, 1, 0, NULL) == 1);
	CHECK(next_event(s->g, events, 1000000) == -ETIMEDOUT);
	close(listener);
	close(fill);
	CHECK(next_event(s->g, &events[0], SECOND) == 1);
	CHECK(next_event(s->g, &events[1], SECOND) == 1);
	CHECK(events[0].cookie + events[1].cookie == 1);
	CHECK(events[0].status == -EHOSTDOWN && events[1].status == -EHOSTDOWN);
	CHECK(strstr(events[0].text, "nobody answers"));
	CHECK(pg_connect(s->g, peer, SECOND, NULL) == -EHOSTDOWN);
}

/* A stream is closed when it has not greeted in dead_ns, also by a worker that nothing else wakes, and
 * not before. */
static void test_never_greets(void)
{
	struct pg_config config;
	struct side s;
	char byte;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.heartbeat_ns = 5000000;
	config.silent_ns = 10000000;
	for (int patient = 0; patient < 2; patient++) {
		struct pollfd end = { .events = POLLIN };

		config.dead_ns = patient ? 3600 * SECOND : 20000000;
		side_open(&s, 1, PG_PROGRESS_WORKER, MEM, &config);
		end.fd = dial(&s);
		CHECK_EQ(poll(&end, 1, patient ? 200 : 20000), !patient);
		CHECK_EQ(recv(end.fd, &byte, 1, 0), patient ? -1 : 0);
		CHECK(pg_engine_destroy(s.engine) == 0);
		close(end.fd);
	}
}

int main(void)
{
	struct pg_config config;
	struct side a, b;
	int32_t sent;
	unsigned fds;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_peers = 4;
	config.dead_ns = 3600 * SECOND; /* who is let go is not let go for its silence */
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(pg_submit_single_write(b.g, 8, 1, b.mr, 0, b.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	test_malformed(&a);
	fds = open_fds();
	test_malformed(&a);
	check_fds(&a, fds);
	/* Who has ended keeps nothing open, if there is room for the messages that it may have sent. */
	CHECK(pg_submit_recvs(a.g, 64, 4, NULL) == 0);
	test_wrong_offers(&a);
	check_fds(&a, fds);
	test_other_user(&a);
	test_nobody_answers(&a);
	test_never_greets();
	CHECK(pg_submit_single_write(b.g, 8, 1, b.mr, 0, b.remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	pair_close(&a, &b);
	printf("control: malformed packets, 600 wrong offers, a peer that never answers\n");
	return 0;
}
