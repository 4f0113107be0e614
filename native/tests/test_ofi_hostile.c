/* SPDX-License-Identifier: MIT
 *
 * The ofi transport among others who mean no good, or are of another kind. argv[1] is the stand-in for EFA.
 * Exits 77 where there is no libfabric at all.
 */
#include <sys/socket.h>

#include "ofi_ways.h"

/* ---- Offers ---- */

static void refuse(struct end *a, const struct offer *offer, int status, const char *words)
{
	struct pg_error err = { 0 };
	int rc = a->t->conn_attach(a->c, offer, &err);

	if (rc == status && strstr(err.text, words))
		return;
	fprintf(stderr, "%d: %s\n", rc, err.text);
	check_failed(__FILE__, __LINE__, words);
}

static void test_offers(struct end *a, struct end *b)
{
	struct offer bad;

	open_half(a);
	open_half(b);
	for (uint16_t len = 0; len < b->offer.len; len++) {
		bad = b->offer;
		bad.len = len;
		refuse(a, &bad, -EPROTO, "bytes");
	}
	bad = b->offer;
	bad.n_fds = 1;
	refuse(a, &bad, -EPROTO, "fds");
	bad = b->offer;
	bad.bytes[0]++;
	refuse(a, &bad, -EPROTO, "layout");
	bad = b->offer;
	bad.bytes[4] ^= 1;
	refuse(a, &bad, -EHOSTUNREACH, "protocol");
	for (unsigned i = 2; i < 4; i++) {
		bad = b->offer;
		bad.bytes[i] = 0;
		refuse(a, &bad, -EPROTO, "address");
		bad.bytes[i] = OFI_NAME + 1;
		refuse(a, &bad, -EPROTO, "address");
	}
	attach_half(a, b);
	attach_half(b, a);
	disconnect(a, b);
}

/* Whatever an offer says, it harms nobody but its connection. */
static void test_hostile_offers(struct end *a, struct end *b)
{
	/* Names of processes that are not there end ours, over shm of 1.17. */
	bool shm = is_over(a, "shm");
	unsigned taken = 0, first = 12, n_bytes = (shm ? 40u : b->offer.len) - first;
	uint64_t seed = 20;

	for (unsigned i = 0; i < 200; i++) {
		struct wr wr;

		open_half(a);
		open_half(b);
		for (unsigned n = 1 + (unsigned)(check_random(&seed) % 8); n; n--)
			b->offer.bytes[first + check_random(&seed) % n_bytes] =
				(uint8_t)check_random(&seed);
		if (!a->t->conn_attach(a->c, &b->offer, NULL)) {
			taken++;
			wr = write_of(a, b, 0, 0, 8);
			a->t->post(a->c, &wr, 1, NULL);
			poll_end(a);
			poll_end(b);
		}
		disconnect(a, b);
	}
	CHECK(taken > 0);
	connect_ends(a, b);
	post_soon(a, b, &(struct wr){ .op = WR_WRITE_IMM, .imm = 9 });
	UNTIL(a, b, b->imms);
	disconnect(a, b);
}

/* Where immediates are known by the address that they come from, nobody gets those of another. */
static void test_stolen_address(struct end *a, struct end *b)
{
	struct end b2;
	struct wr wr;

	if (ofi_domain(b->d)->whose != OFI_BY_ADDRESS)
		return;
	open_beside(&b2, b);
	connect_ends(a, b);
	open_half(&b2);
	refuse(&b2, &a->offer, -ENOSPC, "address");
	b2.t->conn_close(b2.c);
	b2.c = NULL;
	wr = write_of(a, b, 0, 0, 64);
	post_soon(a, b, &wr);
	UNTIL(a, b, b->imms);
	b->beside = NULL;
	post_soon(b, a, &(struct wr){ .op = WR_WRITE_IMM, .imm = 8 });
	UNTIL(a, b, a->imms);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* ---- What comes without one ---- */

static const struct sockaddr *name_of(const struct ofi_endpoint *e)
{
	return (const struct sockaddr *)(const void *)e->name;
}

static int stranger_to(const struct ofi_endpoint *e)
{
	int fd = socket(name_of(e)->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0 && !connect(fd, name_of(e), e->name_len));
	return fd;
}

/* Anybody may connect to an endpoint and say nothing, also for longer than it is there. */
static void test_silent_strangers(struct end *a, struct end *b)
{
	const struct ofi_endpoint *endpoints[2];
	int fds[2];

	if (!ofi_domain(a->d)->nic.own_endpoints)
		return;
	for (unsigned i = 0; i < 20; i++) {
		connect_ends(a, b);
		endpoints[0] = ofi_conn(a->c)->writer;
		endpoints[1] = ofi_conn(a->c)->messenger;
		for (unsigned k = 0; k < 2; k++)
			fds[k] = stranger_to(endpoints[k]);
		poll_end(a);
		poll_end(a);
		disconnect(a, b);
		poll_end(a);
		for (unsigned k = 0; k < 2; k++) {
			(void)!send(fds[k], "hello", 5, MSG_NOSIGNAL);
			close(fds[k]);
		}
		poll_for(a, b, 1000000);
	}
	UNTIL_WHOLE(a, b);
}

/* Or leave at once, when errno says EAGAIN, of whatever came before. */
static void test_hasty_strangers(struct end *a, struct end *b)
{
	const struct ofi_domain *d = ofi_domain(a->d);
	unsigned before;

	if (!d->nic.own_endpoints)
		return;
	connect_ends(a, b);
	before = open_fds();
	for (unsigned i = 0; i < 20; i++) {
		close(stranger_to(ofi_conn(a->c)->writer));
		for (unsigned k = 0; k < 4; k++) {
			errno = EAGAIN;
			poll_end(a);
		}
		CHECK_EQ(open_fds(), before);
	}
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
	before = open_fds();
	connect_ends(a, b);
	for (unsigned i = 0; i < 20; i++) {
		close(stranger_to(ofi_conn(a->c)->writer));
		for (unsigned k = 0; k < 4; k++) {
			errno = EAGAIN; /* as a call that came before in libfabric may leave it */
			fi_cq_read(d->cq, NULL, 0);
		}
	}
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
	CHECK_EQ(open_fds(), before);
}

/* A message with data is a message: it takes no receive away, and counts nothing. */
static void test_messages_with_data(struct end *a, struct end *b)
{
	const struct ofi_conn *c;
	uint64_t end = clock_ns() + 10 * SECOND;

	connect_ends(a, b);
	if (!ofi_conn(a->c)->messenger->fid->msg->injectdata) {
		disconnect(a, b);
		return; /* the stand-in has no such call */
	}
	post_soon(a, b, &(struct wr){ .op = WR_SEND, .id = 0, .src = "hello", .len = 5 });
	await_ended(a, b, 1);
	c = ofi_conn(a->c);
	for (unsigned i = 0; i < 2 * OFI_BUFFERS; i++) {
		struct ofi_header header = { .nonce = c->peer_nonce, .tag = c->peer_tag };

		while (fi_injectdata(c->messenger->fid, &header, sizeof(header),
				     (uint64_t)c->peer_tag << 32 | 7, c->peer_messenger->at)) {
			poll_end(a);
			poll_end(b);
			check_in_time(a, end, __LINE__);
		}
	}
	while (b->msgs < 1 + 2 * OFI_BUFFERS) {
		poll_end(a);
		poll_end(b);
		check_in_time(b, end, __LINE__);
	}
	CHECK_EQ(b->imms, 0);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* Where immediates are messages: one that is cut counts nothing. */
static void test_cut_immediates(struct end *a, struct end *b)
{
	const struct ofi_conn *c;

	if (ofi_domain(a->d)->whose != OFI_BY_MESSAGE)
		return;
	connect_ends(a, b);
	c = ofi_conn(a->c);
	for (size_t cut = 1; cut <= sizeof(struct ofi_imm); cut++) {
		struct ofi_imm imm = { .header = { c->peer_nonce, c->peer_tag, OFI_IMM } };
		struct iovec iov = { .iov_base = &imm, .iov_len = sizeof(imm) - cut };
		struct fi_msg msg = {
			.msg_iov = &iov,
			.desc = &(void *){ NULL },
			.iov_count = 1,
			.addr = c->peer_writer->at,
		};

		while (fi_sendmsg(c->writer->fid, &msg, 0))
			poll_end(a);
	}
	poll_for(a, b, 10000000);
	CHECK_EQ(b->imms, 0);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

static void run(const struct ofi_way *way)
{
	struct end a, b;

	open_end(&a, &transport_ofi, 0, way->options);
	open_end(&b, &transport_ofi, 1, way->options);
	test_offers(&a, &b);
	test_hostile_offers(&a, &b);
	test_stolen_address(&a, &b);
	test_silent_strangers(&a, &b);
	test_hasty_strangers(&a, &b);
	test_messages_with_data(&a, &b);
	test_cut_immediates(&a, &b);
	close_end(&a);
	close_end(&b);
}

int main(int argc, char **argv)
{
	const struct ofi_way ways[] = {
		{ .name = "tcp", .options = "provider=tcp" },
		{ .name = "shm", .options = "provider=shm" },
		fake_way("the stand-in for EFA", argv[1], "seed=9"),
		fake_way("the stand-in, as one that names no sources", argv[1],
			 "seed=9,provider=verbs;ofi_rxm,dead=failed"),
	};

	CHECK(argc == 2);
	return over_each(ways, sizeof(ways) / sizeof(ways[0]), run);
}
