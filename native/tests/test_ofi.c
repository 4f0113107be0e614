/* SPDX-License-Identifier: MIT
 *
 * The ofi transport by itself: what each work request becomes, what is left of a connection that breaks or
 * is stopped. argv[1] is the stand-in for EFA. Exits 77 where there is no
 * libfabric at all.
 */
#include "ofi_ways.h"

/* ---- What goes well ---- */

static void check_bytes(const uint8_t *mem, uint64_t at, uint64_t len, uint8_t value)
{
	for (uint64_t i = 0; i < MEM; i++)
		if (mem[i] != (i >= at && i < at + len ? value : 0))
			check_failed(__FILE__, __LINE__, "these bytes and no others");
}

static void test_sizes(struct end *a, struct end *b)
{
	const uint64_t sizes[] = { 0, 1, 8, 64, 4096, 4097, 65537, 1000003, a->d->caps.max_write };
	unsigned n = 0;

	connect_ends(a, b);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (unsigned imm = 0; imm < 2; imm++) {
			struct wr wr = write_of(a, b, n, 100, sizes[i]);

			wr.op = imm ? WR_WRITE_IMM : WR_WRITE;
			memset(a->mem, (int)i + 1, MEM);
			memset(b->mem, 0, MEM);
			b->imms = 0;
			post_soon(a, b, &wr);
			await_ended(a, b, ++n);
			check_bytes(b->mem, 100, sizes[i], (uint8_t)(i + 1));
			if (imm)
				UNTIL(a, b, b->imms);
			poll_for(a, b, 1000000);
			CHECK_EQ(b->imms, imm);
			CHECK(!imm || b->imm == 7);
		}
	}
	CHECK_EQ(a->failed, 0);
	disconnect(a, b);
}

/* Each immediate is of the connection that it came over, also where several share an endpoint. */
static void test_sources(struct end *a, struct end *b, struct end *c)
{
	struct end b2;
	struct wr wr;

	open_beside(&b2, b);
	connect_ends(a, b);
	connect_ends(c, &b2);
	for (unsigned i = 0; i < 60; i++) {
		struct end *from = i % 3 ? a : c;

		wr = write_of(from, b, i, 8 * i, i % 2 ? 8 : 0);
		post_soon(from, b, &wr);
		poll_end(b);
	}
	await_ended(a, b, 40);
	await_ended(c, b, 20);
	poll_for(a, b, 2000000);
	CHECK_EQ(b->imms, 40);
	CHECK_EQ(b2.imms, 20);
	disconnect(c, &b2);
	b->beside = NULL;
	/* What is left of the one is of use. */
	wr = write_of(a, b, 60, 0, 8);
	post_soon(a, b, &wr);
	await_ended(a, b, 41);
	poll_for(a, b, 2000000);
	CHECK_EQ(b->imms, 41);
	disconnect(a, b);
}

static void test_messages(struct end *a, struct end *b)
{
	static const uint32_t sizes[] = { 0, 1, 64, 100, PG_MSG_MAX - 1, PG_MSG_MAX };

	connect_ends(a, b);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct wr wr = { .op = WR_SEND, .id = i, .src = a->mem, .len = sizes[i] };

		memset(a->mem, (int)i + 1, PG_MSG_MAX);
		b->msgs = 0;
		post_soon(a, b, &wr);
		memset(a->mem, 0xff, PG_MSG_MAX); /* it was copied */
		UNTIL(a, b, b->msgs);
		CHECK_EQ(b->message_len, sizes[i]);
		for (uint32_t k = 0; k < sizes[i]; k++)
			CHECK_EQ(b->message[k], i + 1);
	}
	await_ended(a, b, sizeof(sizes) / sizeof(sizes[0]));
	CHECK_EQ(a->failed, 0);
	disconnect(a, b);
}

/* Whether there was credit. */
static bool send_number(struct end *a, unsigned number)
{
	uint32_t bytes[25] = { number };
	struct wr wr = { .op = WR_SEND, .id = number, .src = bytes, .len = sizeof(bytes) };
	int rc = post(a, &wr);

	CHECK(rc == 1 || rc == -EAGAIN);
	return rc == 1;
}

/* A receiver that takes no messages holds no writes up, and none gets lost or overtakes another. */
static void test_messages_without_room(struct end *a, struct end *b)
{
	unsigned sent = 0, n = 3 * OFI_BUFFERS;
	uint64_t end = clock_ns() + 20 * SECOND;
	struct wr wr;

	connect_ends(a, b);
	b->take = 0;
	for (unsigned refused = 0; sent < n && refused < 2000;) {
		bool went = send_number(a, sent);

		sent += went;
		refused = went ? 0 : refused + 1;
		poll_end(a);
		poll_end(b);
	}
	CHECK(sent < n && b->msgs == 0);
	wr = write_of(a, b, MAX_ENDED - 1, 0, 1000);
	post_soon(a, b, &wr);
	UNTIL(a, b, b->imms);
	b->take = 1;
	for (unsigned got = 0; got < n;) {
		uint32_t number;

		if (sent < n)
			sent += send_number(a, sent);
		poll_end(a);
		poll_end(b);
		CHECK(clock_ns() < end);
		if (b->msgs == got)
			continue;
		memcpy(&number, b->message, sizeof(number));
		CHECK_EQ(number, got);
		got = b->msgs;
	}
	b->take = 16;
	await_ended(a, b, n + 1);
	CHECK_EQ(a->failed, 0);
	disconnect(a, b);
}

/* More than there is room for waits; nothing is lost. What had no credit is refused until there is some. */
static void test_credit(struct end *a, struct end *b)
{
	unsigned n = 0, refused = 0, full = 0;
	uint64_t end = clock_ns() + 30 * SECOND;

	connect_ends(a, b);
	while (n < 1000) {
		struct wr wrs[32];
		int posted;

		for (unsigned i = 0; i < 32; i++)
			wrs[i] = write_of(a, b, n + i, 64 * i, 64);
		posted = a->t->post(a->c, wrs, n + 32 > 1000 ? 1000 - n : 32, NULL);
		CHECK(posted > 0 || posted == -EAGAIN);
		refused += posted < 0;
		n += posted > 0 ? (unsigned)posted : 0;
		a->t->flush(a->c);
		full += a->c->full;
		while (a->c->full || posted < 0) {
			poll_end(a);
			poll_end(b);
			posted = 0;
			CHECK(clock_ns() < end);
		}
	}
	await_ended(a, b, 1000);
	CHECK(refused + full > 0);
	CHECK_EQ(a->failed, 0);
	CHECK(!a->c->full);
	poll_for(a, b, 2000000);
	CHECK_EQ(b->imms, 1000);
	disconnect(a, b);
}

/* ---- What does not ---- */

/* Memory that is not the peer's to give. Over EFA that write alone fails; elsewhere the connection breaks,
 * and nothing is said to be there that is not. */
static void test_wrong_key(struct end *a, struct end *b)
{
	uint64_t end = clock_ns() + 10 * SECOND;
	struct wr wr;
	int rc;

	/* shm of 1.17 takes nothing more then, from anybody. */
	if (is_over(a, "shm"))
		return;
	connect_ends(a, b);
	memset(b->mem, 0, MEM);
	memset(a->mem, 0x77, MEM);
	wr = write_of(a, b, 0, 0, 100);
	post_soon(a, b, &wr);
	await_ended(a, b, 1);
	CHECK_EQ(a->status[0], 0);
	UNTIL(a, b, b->imms);
	wr = write_of(a, b, 1, 4096, 100);
	wr.rkey ^= 0x5a5a5a;
	post_soon(a, b, &wr);
	wr = write_of(a, b, 2, 8192, 100);
	while ((rc = post(a, &wr)) == -EAGAIN) {
		poll_end(a);
		poll_end(b);
		CHECK(clock_ns() < end);
	}
	CHECK(rc == 1 || rc == -ECONNABORTED);
	await_ended(a, b, rc == 1 ? 3 : 2);
	poll_for(a, b, 2000000);
	CHECK(a->status[1] != 0 && b->mem[4096] == 0);
	if (is_over(a, "efa")) {
		CHECK_EQ(a->status[1], -EACCES);
		CHECK_EQ(a->status[2], 0);
		CHECK_EQ(b->imms, 2);
		CHECK(!a->dead && !b->dead);
	} else if (a->status[1] == -ECONNABORTED) {
		UNTIL(a, b, a->dead);
		CHECK_EQ(post(a, &wr), -ECONNABORTED);
	}
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

static void post_many(struct end *a, struct end *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct wr wr = write_of(a, b, i, 4096ull * i, 4096);

		post_soon(a, b, &wr);
	}
}

static void stop_and_fence(struct end *a, struct end *b)
{
	a->t->conn_stop(a->c);
	UNTIL(a, b, a->stopped);
	b->t->conn_stop(b->c);
	UNTIL(a, b, b->stopped);
	a->t->conn_fence(a->c);
	b->t->conn_fence(b->c);
	UNTIL(a, b, a->fenced);
	UNTIL(a, b, b->fenced);
}

/* What was acknowledged is there, and was counted. */
static void check_acknowledged(const struct end *a, const struct end *b, unsigned n)
{
	unsigned done = 0;

	for (unsigned i = 0; i < n; i++) {
		CHECK(a->status[i] == 0 || a->status[i] == -ECONNABORTED);
		if (a->status[i])
			continue;
		done++;
		CHECK(!memcmp(b->mem + 4096 * i, a->mem + 4096 * i, 4096));
	}
	CHECK(b->imms >= done && b->imms <= n);
}

/* Stopped in the middle, both ways: every work request ends, and after the fence nothing lands. */
static void test_stop_and_fence(struct end *a, struct end *b, unsigned polls)
{
	unsigned arrived[4];

	connect_ends(a, b);
	memset(a->mem, 0x66, MEM / 2);
	memset(b->mem, 0, MEM);
	post_many(a, b, 100);
	for (unsigned i = 0; i < 30; i++) {
		struct wr wr = write_of(b, a, i, MEM / 2 + 4096ull * i, 4096);

		post_soon(b, a, &wr);
	}
	for (unsigned i = 0; i < 5; i++)
		send_number(a, 200 + i);
	for (unsigned i = 0; i < polls; i++) {
		poll_end(a);
		poll_end(b);
	}
	stop_and_fence(a, b);
	check_acknowledged(a, b, 100);
	arrived[0] = a->imms, arrived[1] = b->imms;
	arrived[2] = a->msgs, arrived[3] = b->msgs;
	memset(b->mem, 0xaa, MEM / 2);
	memset(a->mem + MEM / 2, 0xbb, MEM / 2);
	poll_for(a, b, 80000000);
	CHECK(a->imms == arrived[0] && b->imms == arrived[1]);
	CHECK(a->msgs == arrived[2] && b->msgs == arrived[3]);
	for (uint64_t at = 0; at < MEM / 2; at++)
		CHECK(b->mem[at] == 0xaa && a->mem[MEM / 2 + at] == 0xbb);
	CHECK_EQ(post(a, &(struct wr){ .op = WR_WRITE_IMM }), -ECONNABORTED);
	CHECK(!a->dead);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* Likewise where the NIC of the one that writes has no other connection, and that of the other has. */
static void test_stop_of_one(struct end *a, struct end *b, struct end *c)
{
	struct end b2;
	struct wr wr;

	open_beside(&b2, b);
	connect_ends(c, &b2);
	connect_ends(a, b);
	memset(a->mem, 0x66, MEM);
	memset(b->mem, 0, MEM);
	post_many(a, b, 100);
	stop_and_fence(a, b);
	check_acknowledged(a, b, 100);
	memset(b->mem, 0xaa, MEM);
	poll_for(a, b, 80000000);
	for (uint64_t at = 0; at < MEM; at++)
		CHECK_EQ(b->mem[at], 0xaa);
	wr = write_of(c, b, 0, 0, 64);
	post_soon(c, b, &wr);
	await_ended(c, b, 1);
	CHECK_EQ(c->failed, 0);
	UNTIL(c, b, b2.imms);
	disconnect(a, b);
	disconnect(c, &b2);
	b->beside = NULL;
	UNTIL_WHOLE(a, b);
	UNTIL_WHOLE(b, c);
}

/* Messages that the peer has no room for end when their connection is stopped, also where the endpoint stays.
 * What has come and was not taken is nobody's when it is closed. */
static void test_messages_given_up(struct end *a, struct end *b, struct end *c)
{
	struct end a2;
	unsigned sent = 0;

	open_beside(&a2, a);
	connect_ends(&a2, c);
	connect_ends(a, b);
	b->take = 0;
	for (unsigned refused = 0; refused < 2000;) {
		bool went = send_number(a, sent);

		sent += went;
		refused = went ? 0 : refused + 1;
		poll_end(a);
		poll_end(b);
	}
	a->t->conn_stop(a->c);
	UNTIL(a, b, a->stopped);
	CHECK_EQ(a->done + a->failed, sent);
	disconnect(a, b);
	disconnect(&a2, c);
	a->beside = NULL;
	b->take = 16;
	connect_ends(a, b);
	CHECK_EQ(b->msgs, 0);
	post_soon(a, b, &(struct wr){ .op = WR_SEND, .id = 0, .src = "hello", .len = 5 });
	UNTIL(a, b, b->msgs);
	CHECK_EQ(b->message_len, 5);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* One that was given up breaks none beside it, nor do those get its arrivals. */
static void test_stop_beside(struct end *a, struct end *b)
{
	struct end a2, b2;
	struct wr wr;

	if (is_over(a, "efa"))
		return; /* it tells connections of one pair of NICs not apart */
	open_beside(&a2, a);
	open_beside(&b2, b);
	connect_ends(a, b);
	connect_ends(&a2, &b2);
	post_many(a, b, 100);
	post_many(&a2, &b2, 100);
	stop_and_fence(a, b);
	check_acknowledged(a, b, 100);
	await_ended(&a2, &b2, 100);
	CHECK_EQ(a2.failed, 0);
	wr = write_of(&a2, &b2, 100, 0, 8);
	post_soon(&a2, &b2, &wr);
	post_soon(&a2, &b2, &(struct wr){ .op = WR_SEND, .id = 101, .src = "!", .len = 1 });
	UNTIL(a, b, b2.msgs);
	await_ended(&a2, &b2, 102);
	poll_for(a, b, 2000000);
	CHECK_EQ(b2.imms, 101);
	disconnect(a, b);
	/* The peer's messages go to one address still. */
	post_soon(&a2, &b2, &(struct wr){ .op = WR_SEND, .id = 102, .src = "!", .len = 1 });
	await_ended(&a2, &b2, 103);
	CHECK_EQ(a2.failed, 0);
	disconnect(&a2, &b2);
	a->beside = b->beside = NULL;
	UNTIL_WHOLE(a, b);
}

/* All room comes back, whatever was in flight. */
static void test_closed_in_flight(struct end *a, struct end *b)
{
	for (unsigned i = 0; i < 40; i++) {
		connect_ends(a, b);
		post_many(a, b, 40);
		send_number(a, 40);
		send_number(b, 41);
		if (i % 3)
			poll_end(a);
		if (i % 5)
			poll_end(b);
		if (i % 4 == 1)
			a->t->conn_stop(a->c);
		disconnect(a, b);
	}
	UNTIL_WHOLE(a, b);
	/* Receives, too. */
	connect_ends(a, b);
	for (unsigned i = 0; i < 3 * OFI_BUFFERS; i++) {
		uint64_t end = clock_ns() + 10 * SECOND;

		while (!send_number(a, i)) {
			poll_end(a);
			poll_end(b);
			CHECK(clock_ns() < end);
		}
	}
	await_ended(a, b, 3 * OFI_BUFFERS);
	poll_for(a, b, 2000000);
	CHECK_EQ(b->msgs, 3 * OFI_BUFFERS);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* One after the other, and many at once: no descriptor, slot or address is left. */
static void test_many(struct end *a, struct end *b)
{
	struct end *ends = calloc(100, sizeof(*ends));
	unsigned fds;

	CHECK(ends);
	connect_ends(a, b);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
	fds = open_fds();
	for (unsigned i = 0; i < 100; i++) {
		struct wr wr;

		connect_ends(a, b);
		wr = write_of(a, b, 0, 0, 64);
		post_soon(a, b, &wr);
		await_ended(a, b, 1);
		CHECK_EQ(a->failed, 0);
		disconnect(a, b);
	}
	for (unsigned i = 0; i < 100; i++) {
		ends[i] = i % 2 ? *b : *a;
		open_half(&ends[i]);
	}
	for (unsigned i = 0; i < 100; i++)
		ends[i].t->conn_close(ends[i].c);
	free(ends);
	UNTIL_WHOLE(a, b);
	CHECK(open_fds() <= fds);
}

static void run(const struct ofi_way *way)
{
	struct end a, b, c;

	open_end(&a, &transport_ofi, 0, way->options);
	open_end(&b, &transport_ofi, 1, way->options);
	open_end(&c, &transport_ofi, 2, way->options);
	test_sizes(&a, &b);
	test_sources(&a, &b, &c);
	test_messages(&a, &b);
	test_messages_without_room(&a, &b);
	test_credit(&a, &b);
	test_wrong_key(&a, &b);
	for (unsigned polls = 0; polls <= 24; polls += 8)
		test_stop_and_fence(&a, &b, polls);
	for (unsigned i = 0; i < 4; i++)
		test_stop_of_one(&a, &b, &c);
	test_messages_given_up(&a, &b, &c);
	test_stop_beside(&a, &b);
	test_closed_in_flight(&a, &b);
	test_many(&a, &b);
	close_end(&a);
	close_end(&b);
	close_end(&c);
}

int main(int argc, char **argv)
{
	const struct ofi_way ways[] = {
		{ .name = "tcp", .options = "provider=tcp" },
		{ .name = "shm", .options = "provider=shm" },
		fake_way("the stand-in for EFA", argv[1], "seed=3"),
		fake_way("the stand-in, as one that names no sources", argv[1],
			 "seed=3,provider=verbs;ofi_rxm,dead=failed,again=2"),
		fake_way("the stand-in for EFA, where what is in flight is late", argv[1],
			 "seed=4,fate=late,again=0"),
	};

	CHECK(argc == 2);
	return over_each(ways, sizeof(ways) / sizeof(ways[0]), run);
}
