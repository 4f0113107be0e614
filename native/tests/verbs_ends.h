/* SPDX-License-Identifier: MIT
 *
 * Two ends of a connection of the verbs transport, between two ports of this machine.
 */
#ifndef PGCTL_TESTS_VERBS_ENDS_H
#define PGCTL_TESTS_VERBS_ENDS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "transport/verbs/verbs.h"
#include "util/clock.h"

#define MEM (4ull << 20)
#define SECOND 1000000000ull
#define MAX_ENDED 1024

struct end {
	struct domain *d;
	struct conn *c;
	struct offer offer;
	uint8_t *mem;
	uint64_t lkey, key;
	unsigned take; /* messages at a time */

	/* What was reported of the connection. */
	unsigned imms, msgs, done, failed, dead, stopped, fenced;
	int status[MAX_ENDED]; /* of work requests, by id; 1: not ended */
	int dead_status;
	uint8_t message[PG_MSG_MAX];
	uint32_t message_len, imm;
};

static inline void open_end(struct end *e, unsigned index, const char *text)
{
	struct domain_options options = {
		.device = "", .options = text, .index = index, .cpu = -1, .max_peers = 16
	};
	struct memory memory = { .len = MEM, .fd = -1 };
	struct pg_error err = { 0 };

	memset(e, 0, sizeof(*e));
	e->take = 16;
	/* With one device only, both ends are at its port. */
	if (transport_verbs.open(&options, &e->d, &err)) {
		options.index = 0;
		if (transport_verbs.open(&options, &e->d, &err))
			check_failed(__FILE__, __LINE__, err.text);
	}
	e->mem = memory.base = calloc(1, MEM);
	CHECK(e->mem);
	CHECK(transport_verbs.mr_reg(e->d, &memory, &e->lkey, &e->key, NULL) == 0);
}

static inline void close_end(struct end *e)
{
	transport_verbs.mr_dereg(e->d, e->lkey);
	transport_verbs.close(e->d);
	free(e->mem);
}

static inline void connect_ends(struct end *a, struct end *b)
{
	struct end *ends[2] = { a, b };

	for (unsigned i = 0; i < 2; i++) {
		struct end *e = ends[i];

		e->imms = e->msgs = e->done = e->failed = e->dead = e->stopped = e->fenced = 0;
		for (unsigned k = 0; k < MAX_ENDED; k++)
			e->status[k] = 1;
		CHECK(transport_verbs.conn_open(e->d, &e->c, &e->offer, NULL) == 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct pg_error err = { 0 };

		if (transport_verbs.conn_attach(ends[i]->c, &ends[!i]->offer, &err))
			check_failed(__FILE__, __LINE__, err.text);
	}
}

static inline void disconnect(struct end *a, struct end *b)
{
	transport_verbs.conn_close(a->c);
	transport_verbs.conn_close(b->c);
}

static inline void take(struct end *e, const struct arrival *a)
{
	CHECK(a->kind == ARRIVAL_NIC || a->conn == e->c);
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
	struct arrival arrivals[8];
	unsigned n = transport_verbs.poll(e->d, arrivals, 8, e->take);

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
			    .rkey = b->key };
}

static inline int post(struct end *a, const struct wr *wr)
{
	int rc = transport_verbs.post(a->c, wr, 1, NULL);

	transport_verbs.flush(a->c);
	return rc;
}

/* Exits where there is no device. */
static inline void need_device(void)
{
	struct pg_error err = { 0 };
	struct pg_caps caps;

	if (!transport_verbs.query(&caps, &err))
		return;
	printf("skipped: %s\n", err.text);
	exit(77);
}

#endif
