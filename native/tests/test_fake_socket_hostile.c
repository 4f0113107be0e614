/* SPDX-License-Identifier: MIT
 *
 * The socket NIC with a peer, or a stranger, that sends what it should not: at most the one connection
 * breaks that it is about, and another one of the same lane works on. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "fake_socket_ends.h"

/* ---- Offers --------------------------------------------------------------------------------- */

static void refuse_offer(struct end *e, const struct offer *offer)
{
	struct pg_error err = { 0 };

	CHECK_EQ(nic->conn_attach(e->conn, offer, &err), -EPROTO);
	CHECK(strstr(err.text, "offer") != NULL);
}

static void test_offers(void)
{
	struct domain *domain = open_lane(0);
	struct fake_offer bytes;
	struct offer offer;
	struct end e;

	end_open(&e, domain);
	offer = e.offer;
	offer.len--;
	refuse_offer(&e, &offer);
	offer = e.offer;
	offer.n_fds = 1;
	refuse_offer(&e, &offer);
	offer = e.offer;
	for (unsigned i = 0; i < 4; i++) {
		memcpy(&bytes, e.offer.bytes, sizeof(bytes));
		bytes.magic += i == 0;
		bytes.at.lane = i == 1 ? PG_MAX_DOMAINS : 0;
		bytes.at.port = i == 2 ? 0 : bytes.at.port;
		bytes.at.ip = i == 3 ? 0 : bytes.at.ip;
		memcpy(offer.bytes, &bytes, sizeof(bytes));
		refuse_offer(&e, &offer);
	}
	end_close(&e);
	close_lane(domain);
}

/* ---- A peer by hand ------------------------------------------------------------------------- */

/* Two ends that get on, and a connection of the second one's lane whose peer is us. */
struct scene {
	struct end a, b;
	struct end victim;
	int listener;
	int from_victim; /* where it sends and we acknowledge */
	int to_victim;
};

static int dial(const struct fake_address *at)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = at->ip,
				  .sin_port = at->port };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	CHECK(fd >= 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* The other side may have hung up by now. */
static void say(int fd, const void *data, size_t len)
{
	(void)!send(fd, data, len, MSG_NOSIGNAL);
}

/* Lets the lane work until it has said so much. */
static void hear(const struct scene *s, int fd, void *buf, size_t len)
{
	while (!readable(fd, 1))
		pump(s->b.domain);
	CHECK_EQ(recv(fd, buf, len, MSG_WAITALL), len);
}

static struct offer listen_by_hand(int *fd)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct fake_offer ours = { .magic = FAKE_MAGIC, .nonce = 5 };
	struct offer offer = { .len = sizeof(ours) };
	socklen_t len = sizeof(at);

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_EQ(bind(*fd, (struct sockaddr *)&at, len), 0);
	CHECK_EQ(listen(*fd, 1), 0);
	CHECK_EQ(getsockname(*fd, (struct sockaddr *)&at, &len), 0);
	ours.at = (struct fake_address){ .ip = at.sin_addr.s_addr, .port = at.sin_port };
	memcpy(offer.bytes, &ours, sizeof(ours));
	return offer;
}

static struct fake_offer offer_of(const struct end *e)
{
	struct fake_offer bytes;

	memcpy(&bytes, e->offer.bytes, sizeof(bytes));
	return bytes;
}

static int dial_as_peer(const struct end *e)
{
	struct fake_offer offer = offer_of(e);
	struct fake_hello hello = { .magic = FAKE_MAGIC, .slot = offer.slot, .nonce = offer.nonce };
	int fd = dial(&offer.at);

	say(fd, &hello, sizeof(hello));
	return fd;
}

static void scene_open(struct scene *s)
{
	struct offer offer = listen_by_hand(&s->listener);
	struct fake_hello hello;

	open_pair(&s->a, &s->b);
	end_open(&s->victim, s->b.domain);
	attach(&s->victim, &offer);
	s->from_victim = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	CHECK(s->from_victim >= 0);
	hear(s, s->from_victim, &hello, sizeof(hello));
	CHECK_EQ(hello.nonce, 5);
	s->to_victim = dial_as_peer(&s->victim);
}

static void scene_close(struct scene *s)
{
	check_alive(&s->a, &s->b, 3);
	close(s->from_victim);
	close(s->to_victim);
	close(s->listener);
	end_close(&s->victim);
	close_pair(&s->a, &s->b);
}

static void expect_dead(struct scene *s, int status)
{
	expect(&s->victim, &s->a, ARRIVAL_DEAD, status);
	expect_nothing(&s->b, &s->a);
}

static struct fake_frame bare_imm(uint64_t seq, uint32_t imm)
{
	return (struct fake_frame){
		.magic = FAKE_MAGIC, .op = WR_WRITE_IMM, .seq = seq, .imm = imm
	};
}

/* ---- Frames --------------------------------------------------------------------------------- */

/* By hand it works if nothing is wrong with it: also in pieces, and refused where it should be. */
static void test_good_frames(void)
{
	struct scene s;
	struct fake_frame frame = bare_imm(7, 9);
	struct fake_ack ack;

	scene_open(&s);
	for (size_t i = 0; i < sizeof(frame); i++) {
		expect_nothing(&s.b, &s.a);
		say(s.to_victim, (uint8_t *)&frame + i, 1);
	}
	CHECK_EQ(expect(&s.victim, &s.a, ARRIVAL_IMM, 0).imm, 9);
	hear(&s, s.to_victim, &ack, sizeof(ack));
	CHECK_EQ(ack.status, 0);
	frame.rkey = 1;
	frame.len = 8;
	say(s.to_victim, &frame, sizeof(frame));
	say(s.to_victim, "8 bytes.", 8);
	expect_nothing(&s.b, &s.a);
	hear(&s, s.to_victim, &ack, sizeof(ack));
	CHECK_EQ(ack.status, -EACCES);
	CHECK_EQ(ack.seq, 7);
	scene_close(&s);
}

static void test_bad_frames(void)
{
	static const struct fake_frame cases[] = {
		{ .magic = 1 },
		{ .magic = FAKE_MAGIC, .op = WR_SEND + 1 },
		{ .magic = FAKE_MAGIC, .op = WR_SEND, .len = PG_MSG_MAX + 1 },
		{ .magic = FAKE_MAGIC, .op = WR_WRITE, .len = FAKE_MAX_WRITE + 1 },
		{ .magic = FAKE_MAGIC, .op = WR_WRITE_IMM, .len = UINT32_MAX },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct scene s;

		scene_open(&s);
		say(s.to_victim, &cases[i], sizeof(cases[i]));
		expect_dead(&s, -EPROTO);
		scene_close(&s);
	}
}

/* A frame that ends in the middle, and more of them than may be outstanding. */
static void test_odd_streams(void)
{
	struct fake_frame frame = bare_imm(0, 1);
	struct scene s;

	scene_open(&s);
	frame.len = 100;
	say(s.to_victim, &frame, sizeof(frame));
	say(s.to_victim, &frame, 20);
	expect_nothing(&s.b, &s.a);
	shutdown(s.to_victim, SHUT_WR);
	expect_dead(&s, -ECONNRESET);
	scene_close(&s);

	scene_open(&s);
	fake_nic_hold_acks(RIGHT, true);
	frame = bare_imm(0, 1);
	for (unsigned i = 0; i < FAKE_OUTSTANDING + 1; i++)
		say(s.to_victim, &frame, sizeof(frame));
	for (unsigned i = 0; i < FAKE_OUTSTANDING + 1; i++)
		expect(&s.victim, &s.a, ARRIVAL_IMM, 0);
	expect_dead(&s, -EPROTO);
	fake_nic_hold_acks(RIGHT, false);
	scene_close(&s);
}

/* ---- Acknowledgements ----------------------------------------------------------------------- */

static void test_acks(void)
{
	static const struct fake_ack cases[] = {
		{ .magic = FAKE_MAGIC, .seq = 1 }, /* not sent */
		{ .magic = FAKE_MAGIC, .seq = UINT64_MAX },
		{ .magic = FAKE_MAGIC, .seq = FAKE_OUTSTANDING },
		{ .magic = FAKE_MAGIC, .status = 1 },
		{ .magic = FAKE_MAGIC, .status = INT32_MIN },
		{ .magic = 1 },
		{ .magic = FAKE_MAGIC, .status = -EACCES }, /* as it should be, but twice */
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake_ack two[] = { cases[i], cases[i] };
		bool twice = cases[i].status == -EACCES;
		struct fake_frame frame;
		struct scene s;

		scene_open(&s);
		must_post(&s.victim, imm_wr(1), 50);
		hear(&s, s.from_victim, &frame, sizeof(frame));
		CHECK_EQ(frame.imm, 1);
		say(s.from_victim, two, twice ? 2 * sizeof(two[0]) : sizeof(two[0]));
		expect_done(&s.victim, &s.a, 50, twice ? -EACCES : -EPROTO);
		expect_dead(&s, -EPROTO);
		scene_close(&s);
	}
}

/* ---- Strangers ------------------------------------------------------------------------------ */

static void expect_hung_up(int fd, struct scene *s)
{
	uint8_t byte;

	while (!readable(fd, 1))
		pump(s->b.domain);
	CHECK(recv(fd, &byte, 1, 0) <= 0);
	close(fd);
}

static void test_hellos(void)
{
	struct scene s;
	struct end half;

	scene_open(&s);
	end_open(&half, s.b.domain);
	for (unsigned i = 0; i < 4; i++) {
		struct fake_offer right = offer_of(i < 3 ? &half : &s.victim);
		struct fake_hello hello = { .magic = FAKE_MAGIC + (i == 0),
					    .slot = i == 1 ? UINT32_MAX : right.slot,
					    .nonce = right.nonce + (i == 2) };
		int fd = dial(&right.at);

		/* The last is as it should be, but there is a connection already. */
		say(fd, &hello, sizeof(hello));
		expect_hung_up(fd, &s);
	}
	expect_nothing(&s.b, &s.a);
	end_close(&half);
	scene_close(&s);
}

/* More of them than there is room for say nothing, or half of a hello; one more still gets in. */
static void test_crowd(void)
{
	struct domain *left = open_lane(0), *right = open_lane(0);
	int fds[FAKE_STRANGERS + 20];
	struct fake_address at;
	size_t len = sizeof(at);
	struct end a, b;

	CHECK_EQ(nic->address(right, (uint8_t *)&at, &len), 0);
	for (unsigned i = 0; i < FAKE_STRANGERS + 20; i++) {
		fds[i] = dial(&at);
		if (i % 2)
			say(fds[i], "tgfp1234", 8);
		pump(right);
	}
	join(&a, left, &b, right);
	check_alive(&a, &b, 1);
	for (unsigned i = 0; i < FAKE_STRANGERS + 20; i++)
		close(fds[i]);
	check_alive(&a, &b, 5);
	close_pair(&a, &b);
}

static void noise_round(uint64_t *seed)
{
	uint64_t noise[64];
	struct fake_offer right;
	struct arrival got;
	struct scene s;
	int fd;

	scene_open(&s);
	right = offer_of(&s.victim);
	fd = dial(&right.at);
	for (unsigned i = 0; i < 64; i++)
		noise[i] = check_random(seed);
	say(fd, noise, noise[0] % sizeof(noise));
	if (noise[1] % 2) /* at first it looks right */
		memcpy(noise, &(struct fake_frame){ .magic = FAKE_MAGIC }, 8);
	say(noise[2] % 2 ? s.to_victim : s.from_victim, noise, noise[3] % sizeof(noise));
	shutdown(s.to_victim, SHUT_RDWR);
	shutdown(s.from_victim, SHUT_RDWR);
	do {
		got = next_of(s.b.domain, s.a.domain);
		CHECK(got.conn == s.victim.conn);
	} while (got.kind != ARRIVAL_DEAD);
	close(fd);
	scene_close(&s);
}

static void test_noise(void)
{
	uint64_t seed = 11;

	for (unsigned round = 0; round < 200; round++)
		noise_round(&seed);
}

int main(void)
{
	alarm(200);
	test_offers();
	test_good_frames();
	test_bad_frames();
	test_odd_streams();
	test_acks();
	test_hellos();
	test_crowd();
	test_noise();
	return 0;
}
