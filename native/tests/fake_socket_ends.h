/* SPDX-License-Identifier: MIT
 *
 * For the tests of the socket NIC, which drive the transport's table directly: both ends of a
 * connection, in one process. The first lane opened is NIC 0, the second NIC 4: both have index 0. */
#ifndef PGCTL_TESTS_FAKE_SOCKET_ENDS_H
#define PGCTL_TESTS_FAKE_SOCKET_ENDS_H

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fake_socket_lane.h"

static const struct transport *const nic = &transport_fake_socket;

#define LEFT FAKE_NIC(0, 0)
#define RIGHT FAKE_NIC(1, 0)

/* One side of one connection, and its region: half for reading from, half for being written to. */
#define HALF (FAKE_MAX_WRITE * 4)
#define REGION (2 * HALF)

struct end {
	struct domain *domain;
	struct conn *conn;
	struct offer offer;
	struct memory memory;
	uint64_t lkey, key;
	uint64_t peer_base, peer_key;
};

/* What a lane has reported and the test has not looked at yet. */
#define BOX 64
static struct box {
	struct domain *domain;
	unsigned max_msgs;
	unsigned head, tail;
	struct arrival arrivals[BOX];
	uint8_t messages[BOX][PG_MSG_MAX];
} boxes[2 * FAKE_GROUPS];

static inline struct box *box_of(const struct domain *domain)
{
	unsigned i = 0;

	while (boxes[i].domain != domain)
		CHECK(++i < sizeof(boxes) / sizeof(boxes[0]));
	return &boxes[i];
}

static inline struct domain *open_lane_at(const char *device, unsigned index)
{
	struct domain_options options = {
		.device = device, .index = index, .cpu = -1, .max_peers = 16
	};
	struct pg_error err = { 0 };
	struct domain *domain;
	struct box *box;

	if (nic->open(&options, &domain, &err))
		check_failed(__FILE__, __LINE__, err.text);
	box = box_of(NULL);
	box->domain = domain;
	box->max_msgs = 1;
	box->head = box->tail = 0;
	return domain;
}

static inline struct domain *open_lane(unsigned index)
{
	return open_lane_at("", index);
}

static inline void close_lane(struct domain *domain)
{
	box_of(domain)->domain = NULL;
	nic->close(domain);
}

static inline void end_open(struct end *e, struct domain *domain)
{
	*e = (struct end){ .domain = domain,
			   .memory = { .base = calloc(1, REGION), .len = REGION, .fd = -1 } };
	CHECK(e->memory.base != NULL);
	CHECK_EQ(nic->mr_reg(domain, &e->memory, &e->lkey, &e->key, NULL), 0);
	CHECK_EQ(nic->conn_open(domain, &e->conn, &e->offer, NULL), 0);
}

static inline void end_close(struct end *e)
{
	nic->conn_close(e->conn);
	nic->mr_dereg(e->domain, e->lkey);
	free(e->memory.base);
}

static inline void attach(struct end *e, const struct offer *offer)
{
	struct pg_error err = { 0 };

	if (nic->conn_attach(e->conn, offer, &err))
		check_failed(__FILE__, __LINE__, err.text);
}

static inline void know(struct end *e, const struct end *peer)
{
	e->peer_base = (uintptr_t)peer->memory.base;
	e->peer_key = peer->key;
}

static inline void join(struct end *a, struct domain *left, struct end *b, struct domain *right)
{
	end_open(a, left);
	end_open(b, right);
	attach(a, &b->offer);
	attach(b, &a->offer);
	know(a, b);
	know(b, a);
}

static inline void open_pair(struct end *a, struct end *b)
{
	struct domain *left = open_lane(0);

	join(a, left, b, open_lane_at("127.0.0.2", 0));
}

static inline void close_pair(struct end *a, struct end *b)
{
	end_close(a);
	end_close(b);
	close_lane(a->domain);
	close_lane(b->domain);
}

/* ---- Work requests ---- */

static inline uint8_t *source(const struct end *e)
{
	return e->memory.base;
}

static inline uint8_t *landing(const struct end *e)
{
	return source(e) + HALF;
}

/* From our source to the peer's landing at the same offset. */
static inline struct wr write_wr(const struct end *e, uint64_t offset, uint64_t len)
{
	return (struct wr){
		.op = WR_WRITE,
		.src = source(e) + offset,
		.len = len,
		.lkey = e->lkey,
		.raddr = e->peer_base + HALF + offset,
		.rkey = e->peer_key,
	};
}

static inline struct wr with_imm(struct wr wr, uint32_t imm)
{
	wr.op = WR_WRITE_IMM;
	wr.imm = imm;
	return wr;
}

static inline struct wr imm_wr(uint32_t imm)
{
	return with_imm((struct wr){ 0 }, imm);
}

static inline struct wr send_wr(const void *data, uint32_t len)
{
	return (struct wr){ .op = WR_SEND, .src = data, .len = len };
}

static inline void must_post(struct end *e, struct wr wr, uint64_t id)
{
	wr.id = id;
	CHECK_EQ(nic->post(e->conn, &wr, 1, NULL), 1);
	nic->flush(e->conn);
}

/* ---- Arrivals ---- */

static inline bool readable(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int rc;

	do
		rc = poll(&pfd, 1, timeout_ms);
	while (rc < 0 && errno == EINTR);
	return rc == 1;
}

static inline void pump(struct domain *domain)
{
	struct box *box = box_of(domain);
	struct arrival got[4];
	unsigned n;

	if (box->tail - box->head > BOX - 4)
		return;
	n = nic->poll(domain, got, 4, box->max_msgs);
	for (unsigned i = 0; i < n; i++, box->tail++) {
		struct arrival *to = &box->arrivals[box->tail % BOX];

		*to = got[i];
		if (to->kind != ARRIVAL_MSG)
			continue;
		memcpy(box->messages[box->tail % BOX], to->data, to->len);
		to->data = box->messages[box->tail % BOX];
	}
}

/* Lets both lanes work until the first has news; asleep where it may be. */
static inline struct arrival next_of(struct domain *domain, struct domain *other)
{
	struct box *box = box_of(domain);

	while (box->head == box->tail) {
		pump(domain);
		pump(other);
		if (box->head != box->tail)
			break;
		if (nic->arm(domain, true) && nic->arm(other, true))
			readable(domain->fd, 1);
		nic->arm(domain, false);
		nic->arm(other, false);
	}
	return box->arrivals[box->head++ % BOX];
}

/* The next thing that e is told is kind, with the status and about the connection of e. */
static inline struct arrival expect(struct end *e, struct end *other, uint32_t kind, int status)
{
	struct arrival arrival = next_of(e->domain, other->domain);

	CHECK_EQ(arrival.kind, kind);
	if (kind == ARRIVAL_DONE || kind == ARRIVAL_DEAD || kind == ARRIVAL_NIC)
		CHECK_EQ(arrival.status, status);
	CHECK(arrival.conn == (kind == ARRIVAL_NIC ? NULL : e->conn));
	return arrival;
}

static inline void expect_done(struct end *e, struct end *other, uint64_t id, int status)
{
	CHECK_EQ(expect(e, other, ARRIVAL_DONE, status).id, id);
}

/* Long enough for what should not come to have come. */
static inline void expect_nothing(struct end *e, struct end *other)
{
	for (unsigned i = 0; i < 50; i++) {
		pump(e->domain);
		pump(other->domain);
		CHECK_EQ(box_of(e->domain)->head, box_of(e->domain)->tail);
		sched_yield();
	}
}

/* The peer has gone; e has what it posted back, then the news. */
static inline void expect_broken(struct end *e, struct end *other, unsigned outstanding)
{
	struct wr wr = imm_wr(1);

	for (unsigned i = 0; i < outstanding; i++)
		expect_done(e, other, i, -ECONNRESET);
	expect(e, other, ARRIVAL_DEAD, -ECONNRESET);
	CHECK_EQ(nic->post(e->conn, &wr, 1, NULL), -ECONNRESET);
	nic->flush(e->conn);
}

/* It still carries bytes, both ways. */
static inline void check_alive(struct end *a, struct end *b, uint32_t imm)
{
	source(a)[5] = (uint8_t)imm;
	must_post(a, with_imm(write_wr(a, 5, 1), imm), 1000 + imm);
	CHECK_EQ(expect(b, a, ARRIVAL_IMM, 0).imm, imm);
	CHECK_EQ(landing(b)[5], (uint8_t)imm);
	expect_done(a, b, 1000 + imm, 0);
	must_post(b, imm_wr(imm + 1), imm);
	CHECK_EQ(expect(a, b, ARRIVAL_IMM, 0).imm, imm + 1);
	expect_done(b, a, imm, 0);
}

#endif
