/* SPDX-License-Identifier: MIT
 *
 * Submission. What check.c has found right is accepted if there is room: an accepted operation has a
 * slot (and its children have theirs) and a place for its completion; from there nothing can run out.
 */
#include <errno.h>
#include <string.h>

#include "engine/check.h"
#include "engine/completion.h"
#include "engine/op.h"
#include "engine/peer_group.h"
#include "engine/progress.h"
#include "util/clock.h"

#define ROOM_NS 1000000ull

/* ---- Slots ---- */

static struct op *fresh(struct pg_group *g, const struct pg_op *desc, bool locked)
{
	struct op *op = op_take(g, locked);

	if (!op)
		return NULL;
	op->desc = *desc;
	op->parent = NO_OP;
	op->next = NO_OP;
	op->children = 0;
	op->spread = PG_SPREAD_BYTES;
	return op;
}

static void give_all(struct pg_group *g, struct op *parent, bool locked)
{
	for (uint32_t slot = parent->next; slot != NO_OP;) {
		struct op *child = &g->ops[slot];

		slot = child->next;
		op_give(g, child, locked);
	}
	op_give(g, parent, locked);
}

/* A scatter is its parent and a write per destination, a barrier likewise with bare immediates. */
static void child_desc(const struct pg_op *desc, uint32_t i, struct pg_op *child)
{
	child->imm = desc->imm;
	child->flags = desc->flags;
	child->limit_ms = desc->limit_ms;
	if (desc->opcode == PG_OP_SCATTER) {
		const struct pg_scatter_dst *d = &desc->u.scatter.dsts[i];

		child->opcode = PG_OP_WRITE;
		child->u.write = (struct pg_write){ desc->u.scatter.src, d->src_offset, d->dst,
						    d->dst_offset, d->len };
	} else {
		child->opcode = OP_IMM;
		if (!desc->u.barrier.group) /* members are looked up when it starts */
			child->u.send.peer = desc->u.barrier.peers[i];
	}
}

static uint32_t family_size(const struct pg_group *g, const struct pg_op *desc)
{
	uint32_t n = desc->opcode == PG_OP_SCATTER ? desc->u.scatter.n : desc->u.barrier.n;

	if (desc->opcode == PG_OP_BARRIER && desc->u.barrier.group)
		peer_group_size(g, desc->u.barrier.group, &n, NULL);
	return n;
}

static struct op *make_family(struct pg_group *g, const struct pg_op *desc, bool locked)
{
	uint32_t n = family_size(g, desc);
	struct op *parent = fresh(g, desc, locked);
	struct pg_op child = { 0 };

	if (!parent)
		return NULL;
	/* From the last to the first, so that the list is in order. */
	for (uint32_t i = n; i-- > 0;) {
		struct op *op;

		child_desc(desc, i, &child);
		op = fresh(g, &child, locked);
		if (!op) {
			give_all(g, parent, locked);
			return NULL;
		}
		op->parent = parent->slot;
		op->dst = i;
		op->spread = desc->opcode == PG_OP_SCATTER ? desc->u.scatter.spread
							   : PG_SPREAD_BYTES;
		op->next = parent->next;
		parent->next = op->slot;
	}
	parent->children = n;
	return parent;
}

static struct op *accept(struct pg_group *g, const struct pg_op *desc, bool locked,
			 struct pg_error *err)
{
	bool lone = desc->opcode == PG_OP_BARRIER && desc->u.barrier.n == 1 &&
		    !desc->u.barrier.status;
	bool family = desc->opcode == PG_OP_SCATTER || desc->opcode == PG_OP_BARRIER;
	struct op *op = family && !lone ? make_family(g, desc, locked) : fresh(g, desc, locked);

	if (op && lone) /* needs no parent: it is its only child */
		child_desc(desc, 0, &op->desc);
	if (!op) {
		error_set(err, -EAGAIN,
			  "%u operations are in flight; no room for more (PGCTL_MAX_OPS)",
			  g->config->max_ops);
		return NULL;
	}
	if (done_prepare(g, &op->desc.done)) {
		give_all(g, op, locked);
		error_set(err, -EAGAIN,
			  "%u completions wait to be polled; no room for more (PGCTL_MAX_EVENTS)",
			  g->config->max_events);
		return NULL;
	}
	if (desc->opcode == PG_OP_SEND)
		memcpy(op_message(g, op), desc->u.send.data, desc->u.send.len);
	return op;
}

/* ---- Submission ---- */

/* How many were accepted; -errno when not even the first. */
static int submit_now(struct pg_group *g, const struct pg_op *ops, unsigned n, struct pg_error *err)
{
	/* A callback holds the lock, but starting operations from within would nest them without
	 * end. A worker's lock is left to the worker: it holds it also while it sleeps. */
	bool inside = group_in_callback(g);
	bool entered = !inside && !g->worker_mode && lock_try(&g->progress);
	bool locked = inside || entered;
	unsigned i;
	int rc = 0;

	/* One that always submits more would keep destroy from its end. relaxed: what is accepted at
	 * the last moment is served. */
	if (inside && atomic_load_explicit(&g->stopping, memory_order_relaxed))
		return error_set(err, -ESHUTDOWN, "the engine is shutting down");
	for (i = 0; i < n; i++) {
		struct op *op;

		rc = op_check(g, &ops[i], locked, err);
		if (rc)
			break;
		op = accept(g, &ops[i], locked, err);
		if (!op) {
			rc = -EAGAIN;
			break;
		}
		if (entered)
			op_start(g, op);
		else
			ring_put(&g->submitted, op->slot); /* there is a place for every slot */
	}
	if (entered) {
		group_leave(g);
	} else if (i > 0) {
		group_kick(g);
		group_settle(g);
	}
	return i > 0 ? (int)i : rc;
}

/* Rises when an operation or an event gives back its place. */
static uint64_t room_made(const struct pg_group *g)
{
	/* relaxed: a hint to try again */
	return atomic_load_explicit(&g->free_ops.tail, memory_order_relaxed) +
	       atomic_load_explicit(&g->free_events.tail, memory_order_relaxed);
}

static bool have_room(struct pg_group *g, void *arg)
{
	return room_made(g) != *(const uint64_t *)arg;
}

static int submit_blocking(struct pg_group *g, const struct pg_op *ops, unsigned n,
			   struct pg_error *err)
{
	uint64_t end = 0;
	unsigned done = 0;
	int rc = 0;

	while (done < n) {
		uint64_t seen, now;

		rc = submit_now(g, ops + done, n - done, err);
		if (rc > 0) {
			done += (unsigned)rc;
			end = 0;
			continue;
		}
		if (rc != -EAGAIN)
			break;
		seen = room_made(g);
		now = clock_ns();
		if (!end)
			end = now + g->config->op_timeout_ns;
		if (now >= end)
			break;
		/* In short turns: nobody tells us of events that were polled. */
		rc = group_wait(g, have_room, &seen, ROOM_NS);
		if (rc && rc != -ETIMEDOUT)
			break;
	}
	return done ? (int)done : rc;
}

int pg_submit(struct pg_group *g, const struct pg_op *ops, unsigned n, unsigned flags,
	      struct pg_error *err)
{
	int rc;

	if (group_forked(g))
		return group_stale(err);
	if (n == 0)
		return error_set(err, -EINVAL, "0 operations");
	if (flags & ~(unsigned)PG_SUBMIT_BLOCK)
		return error_set(err, -EINVAL, "unknown submit flags 0x%x", flags);
	if (!(flags & PG_SUBMIT_BLOCK))
		return submit_now(g, ops, n, err);
	group_hold(g);
	rc = submit_blocking(g, ops, n, err);
	group_drop(g);
	return rc;
}

static int submit_one(struct pg_group *g, const struct pg_op *op, struct pg_error *err)
{
	int rc = group_forked(g) ? group_stale(err) : submit_now(g, op, 1, err);

	return rc > 0 ? 0 : rc;
}

int pg_submit_single_write(struct pg_group *g, uint64_t len, uint32_t imm, pg_mr_t src,
			   uint64_t src_offset, pg_rmr_t dst, uint64_t dst_offset, uint64_t cookie,
			   int32_t *flag, struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_WRITE,
			    .imm = imm,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.write = { src, src_offset, dst, dst_offset, len } };

	return submit_one(g, &op, err);
}

int pg_submit_paged_writes(struct pg_group *g, const struct pg_paged *paged, uint32_t imm,
			   uint64_t cookie, int32_t *flag, struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_PAGED,
			    .imm = imm,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.paged = *paged };

	return submit_one(g, &op, err);
}

int pg_submit_scatter(struct pg_group *g, const struct pg_scatter *scatter, uint32_t imm,
		      uint64_t cookie, int32_t *flag, struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_SCATTER,
			    .imm = imm,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.scatter = *scatter };

	return submit_one(g, &op, err);
}

int pg_submit_barrier(struct pg_group *g, const pg_peer_t *peers, uint32_t n, uint32_t imm,
		      uint64_t cookie, int32_t *flag, struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_BARRIER,
			    .imm = imm,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.barrier = { .peers = peers, .n = n } };

	return submit_one(g, &op, err);
}

int pg_submit_send(struct pg_group *g, pg_peer_t peer, const void *data, uint32_t len,
		   uint64_t cookie, int32_t *flag, struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_SEND,
			    .imm = PG_NO_IMM,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.send = { peer, data, len } };

	return submit_one(g, &op, err);
}

int pg_fence_peer(struct pg_group *g, pg_peer_t peer, uint64_t cookie, int32_t *flag,
		  struct pg_error *err)
{
	struct pg_op op = { .opcode = PG_OP_FENCE,
			    .imm = PG_NO_IMM,
			    .done = { .cookie = cookie, .flag = flag },
			    .u.fence = { peer } };

	return submit_one(g, &op, err);
}
