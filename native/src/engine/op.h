/* SPDX-License-Identifier: MIT
 *
 * An operation on its way: cut into work requests, posted turn by turn, completed once.
 * All of it under the progress lock, except op_take/op_give.
 */
#ifndef PGCTL_ENGINE_OP_H
#define PGCTL_ENGINE_OP_H

#include "engine/group.h"

/* Beside the public opcodes: a bare immediate to u.send.peer, which is what a barrier is made of. */
#define OP_IMM 100

int ops_create(struct pg_group *g);
void ops_destroy(struct pg_group *g);

/* A free slot, or NULL. `locked`: the caller holds the progress lock and may use its hot cache. */
struct op *op_take(struct pg_group *g, bool locked);
void op_give(struct pg_group *g, struct op *op, bool locked);
/* Empties the cache for those who cannot use it; under the lock, now and then. */
void ops_share(struct pg_group *g);

/* Where the payload of a send waits. */
static inline uint8_t *op_message(struct pg_group *g, const struct op *op)
{
	return g->messages + (size_t)op->slot * PG_MSG_MAX;
}

/* From accepted to posted, as far as it goes now. */
void op_start(struct pg_group *g, struct op *op);

enum op_turn {
	OP_POSTED,  /* nothing more to post */
	OP_MORE,    /* its share of this turn is used up */
	OP_BLOCKED, /* waits for credit, a connection, a mapping */
};

/* One turn: posts at most a quantum per connection. */
enum op_turn op_run(struct pg_group *g, struct op *op);

/* Posts and completes it in one go, if it is one work request that is done when posted. */
bool op_post_whole(struct pg_group *g, struct op *op);

/* Stops posting; it completes with this once nothing is in flight. text may be NULL. */
void op_fail(struct op *op, int status, const char *text);

bool op_in_flight(const struct op *op);
/* Whether something of it is still to be posted. */
bool op_unposted(const struct op *op);

/* Some of a lane goes over another connection than the rest. */
void lane_moves(struct lane *lane);

/* Goes on with those that wait for something to become visible, or for a fence. */
void ops_linger(struct pg_group *g);

/* Completes it if it is over, else puts it where it waits. */
void op_settle(struct pg_group *g, struct op *op, enum op_turn turn);

/* A work request failed: so does the operation. */
void op_wr_failed(struct op *op, const struct domain *d, int status, const char *why);

/* A work request of lane l has ended, and will not be sent again. */
void op_piece_ended(struct pg_group *g, struct op *op, unsigned l, int status,
		    const struct domain *d);

/* Ends it now: its connections are gone, nothing can be in flight. */
void op_abandon(struct pg_group *g, struct op *op, int status, const char *text);

/* It has failed: has its peer forget what it may have counted of it, and waits until it has. False:
 * there is nothing (more) of that. */
bool op_settling(struct pg_group *g, struct op *op);

/* The control message by which a peer does so. */
struct control_msg;
int op_settled(struct pg_group *g, struct peer *p, const struct control_msg *msg);

#endif
