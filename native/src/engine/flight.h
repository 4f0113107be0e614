/* SPDX-License-Identifier: MIT
 *
 * Work requests in flight, on transports that complete them later: what must be known of each to send
 * it again when its connection breaks. Under the progress lock.
 */
#ifndef PGCTL_ENGINE_FLIGHT_H
#define PGCTL_ENGINE_FLIGHT_H

#include "engine/op.h"

enum flight_kind {
	FLIGHT_WHOLE,   /* as it was cut from its operation */
	FLIGHT_REWRITE, /* its payload alone, again */
	FLIGHT_MAKEUP,  /* its immediate alone, again */
	FLIGHT_LANDED,  /* an orphan that has arrived after all; */
	FLIGHT_DROPPED, /* one that has not, and whose operation has failed meanwhile */
};

struct flight {
	struct list link; /* in path.flights, peer.orphans or peer.makeups */
	uint32_t op;      /* its slot */
	uint32_t page;
	uint64_t within; /* the page */
	uint64_t len;
	uint32_t imm;    /* as on the wire, of a WR_WRITE_IMM */
	uint32_t index;  /* of a message, those posted before it; of a write the immediates, where
			    nothing is ordered those of its value; none of them is one that failed */
	uint64_t serial; /* the last operation that there was when it was posted */
	uint32_t next;   /* free one */
	uint8_t wr_op;   /* enum wr_op, as first posted */
	uint8_t lane;
	uint8_t kind;   /* enum flight_kind */
	bool asked;     /* the peer was asked for its immediate */
	bool rewriting; /* it is one of peer.n_rewriting */
	bool owes_imm;  /* of a rewritten one: a make-up follows */
};

/* Whether an immediate goes with it. */
static inline bool flight_is_imm(const struct flight *f)
{
	return f->wr_op == WR_WRITE_IMM && f->kind != FLIGHT_REWRITE;
}

/* Where a work request begins in its lane. */
struct cursor {
	uint32_t next;
	uint64_t within;
};

int flights_create(struct pg_group *g);
void flights_destroy(struct pg_group *g);

/* Readies n work requests of lane l to be posted, and writes their ids; how many of them. */
unsigned flights_take(struct pg_group *g, const struct op *op, unsigned l, struct wr *wrs,
		      const struct cursor *at, unsigned n);
/* Of those, the first `posted` are on their way, and the others are not. */
void flights_posted(struct pg_group *g, struct path *path, const struct wr *wrs, unsigned posted,
		    unsigned n);
/* One that goes once more. */
void flight_posted(struct pg_group *g, struct path *path, struct flight *f, const struct wr *wr);

/* One has ended for a fault of its own: it has not arrived, and is none of those that were sent. */
void flight_failed(struct path *path, struct flight *f);

/* Sends one again, of a lane whose offset still holds, over connection k. -EAGAIN, or as
 * transport->post says. In post.c. */
int flight_repost(struct pg_group *g, struct flight *f, unsigned k, struct pg_error *err);

void flight_give(struct pg_group *g, struct flight *f);
/* Gives all of a list back. */
void flights_drop(struct pg_group *g, struct list *flights);

#endif
