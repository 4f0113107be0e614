/* SPDX-License-Identifier: MIT
 *
 * Two ends of a connection of a transport whose NICs are asked for by number, between two of this machine.
 */
#ifndef PGCTL_TESTS_NIC_ENDS_H
#define PGCTL_TESTS_NIC_ENDS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "transport/transport.h"
#include "util/clock.h"

#define MEM (4ull << 20)
#define SECOND 1000000000ull
#define MAX_ENDED 1024

struct end {
	const struct transport *t;
	struct domain *d;
	struct conn *c;
	struct offer offer;
	uint8_t *mem;
	uint64_t lkey, key;
	unsigned max, take; /* arrivals at a time, messages among them */
	struct end *beside; /* another connection of its NIC */

	/* What was reported of the connection. */
	unsigned imms, msgs, done, failed, dead, stopped, fenced;
	int status[MAX_ENDED]; /* of work requests, by id; 1: not ended */
	int dead_status;
	unsigned nic_events; /* of the NIC, since it was opened */
	int nic_status;
	uint8_t message[PG_MSG_MAX];
	uint32_t message_len, imm;
};

static inline void open_end(struct end *e, const struct transport *t, unsigned index,
			    const char *text)
{
	struct domain_options options = {
		.device = "", .options = text, .index = index, .cpu = -1, .max_peers = 16
	};
	struct memory memory = { .len = MEM, .fd = -1 };
	struct pg_error err = { 0 };

	memset(e, 0, sizeof(*e));
	e->t = t;
	e->max = 8;
	e->take = 16;
	/* With one device only, both ends are at its port. */
	if (t->open(&options, &e->d, &err)) {
		options.index = 0;
		if (t->open(&options, &e->d, &err))
			check_failed(__FILE__, __LINE__, err.text);
	}
	e->mem = memory.base = calloc(1, MEM);
	CHECK(e->mem);
	CHECK(t->mr_reg(e->d, &memory, &e->lkey, &e->key, NULL) == 0);
}

/* Another connection of its NIC, to the same memory; whichever is polled, both hear of theirs. */
static inline void open_beside(struct end *e, struct end *first)
{
	*e = *first;
	e->c = NULL;
	e->beside = first;
	first->beside = e;
}

static inline void close_end(struct end *e)
{
	e->t->mr_dereg(e->d, e->lkey);
	e->t->close(e->d);
	free(e->mem);
}

/* Opens our half; nothing was reported of it. */
static inline void open_half(struct end *e)
{
	struct pg_error err = { 0 };

	e->imms = e->msgs = e->done = e->failed = e->dead = e->stopped = e->fenced = 0;
	for (unsigned k = 0; k < MAX_ENDED; k++)
		e->status[k] = 1;
	if (e->t->conn_open(e->d, &e->c, &e->offer, &err))
		check_failed(__FILE__, __LINE__, err.text);
}

static inline void attach_half(struct end *e, const struct end *peer)
{
	struct pg_error err = { 0 };

	if (e->t->conn_attach(e->c, &peer->offer, &err))
		check_failed(__FILE__, __LINE__, err.text);
}

static inline void connect_ends(struct end *a, struct end *b)
{
	open_half(a);
	open_half(b);
	attach_half(a, b);
	attach_half(b, a);
}

static inline void disconnect(struct end *a, struct end *b)
{
	a->t->conn_close(a->c);
	b->t->conn_close(b->c);
	a->c = b->c = NULL;
}

static inline void take(struct end *e, const struct arrival *a)
{
	if (a->kind == ARRIVAL_NIC) {
		e->nic_events++;
		e->nic_status = a->status;
		return;
	}
	if (a->conn != e->c && e->beside)
		e = e->beside;
	CHECK(a->conn == e->c);
	CHECK(!e->fenced || a->kind == ARRIVAL_DONE);
	switch (a->kind) {
	case ARRIVAL_IMM:
		e->imms += a->count;
		e->imm = a->imm;
		break;
	case ARRIVAL_MSG:
		e->msgs++;
		e->message_len = a->len;
		memcpy(e->message, a->data, a->len);
		break;
	case ARRIVAL_DONE:
		CHECK(!e->stopped && a->id < MAX_ENDED && e->status[a->id] == 1);
		e->status[a->id] = a->status;
		e->done += !a->status;
		e->failed += !!a->status;
		break;
	case ARRIVAL_DEAD:
		e->dead++;
		e->dead_status = a->status;
		break;
	case ARRIVAL_STOPPED:
		e->stopped++;
		break;
	case ARRIVAL_FENCED:
		e->fenced++;
		break;
	default:
		break;
	}
}

static inline void poll_end(struct end *e)
{
	struct arrival arrivals[64];
	unsigned n = e->t->poll(e->d, arrivals, e->max, e->take);

	CHECK(n <= e->max);
	for (unsigned i = 0; i < n; i++)
		take(e, &arrivals[i]);
}

#define UNTIL(a, b, condition) until(a, b, &(condition), __LINE__)

/* Polls both until the number is not 0. */
static inline void until(struct end *a, struct end *b, const unsigned *n, int line)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	while (!*n) {
		poll_end(a);
		poll_end(b);
		if (clock_ns() > end)
			check_failed(__FILE__, line, "it comes in time");
	}
}

static inline void poll_for(struct end *a, struct end *b, uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (clock_ns() < end) {
		poll_end(a);
		poll_end(b);
	}
}

static inline void await_ended(struct end *a, struct end *b, unsigned n)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	while (a->done + a->failed < n) {
		poll_end(a);
		poll_end(b);
		CHECK(clock_ns() < end);
	}
}

static inline struct wr write_of(struct end *a, struct end *b, uint64_t id, uint64_t at,
				 uint64_t len)
{
	return (struct wr){ .op = WR_WRITE_IMM,
			    .imm = 7,
			    .id = id,
			    .src = a->mem + at,
			    .len = len,
			    .lkey = a->lkey,
			    .raddr = (uintptr_t)b->mem + at,
			    .rbase = (uintptr_t)b->mem,
			    .rkey = b->key };
}

static inline int post(struct end *a, const struct wr *wr)
{
	int rc = a->t->post(a->c, wr, 1, NULL);

	a->t->flush(a->c);
	return rc;
}

static inline void check_in_time(const struct end *e, uint64_t end, int line)
{
	char text[128] = "";

	if (clock_ns() < end)
		return;
	if (e->c && e->t->describe)
		e->t->describe(e->c, text, sizeof(text));
	fprintf(stderr, "%u done, %u failed, %u and %u have come; %s\n", e->done, e->failed,
		e->imms, e->msgs, text);
	check_failed(__FILE__, line, "it comes in time");
}

/* Some take the first only when they have met the peer. */
static inline void post_soon(struct end *a, struct end *b, const struct wr *wr)
{
	uint64_t end = clock_ns() + 10 * SECOND;
	int rc;

	while ((rc = post(a, wr)) == -EAGAIN) {
		poll_end(a);
		poll_end(b);
		check_in_time(a, end, __LINE__);
	}
	CHECK_EQ(rc, 1);
}

/* Exits where there is none. */
static inline void need_nic(const struct transport *t)
{
	struct pg_error err = { 0 };
	struct pg_caps caps;

	if (!t->query(&caps, &err))
		return;
	printf("skipped: %s\n", err.text);
	exit(77);
}

#endif
