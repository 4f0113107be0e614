/* SPDX-License-Identifier: MIT
 *
 * Submission: everything a caller can get wrong is found here, with a sentence, before anything is
 * accepted. An accepted operation has a slot (and its children have theirs) and a place for its
 * completion; from there nothing can run out.
 */
#include <errno.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/memory.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "util/clock.h"

#define ROOM_NS 1000000ull

/* ---- Checks ---- */

static int check_slice(uint64_t offset, uint64_t len, uint64_t region, const char *side,
		       struct pg_error *err)
{
	uint64_t end;

	if (__builtin_add_overflow(offset, len, &end) || end > region)
		return error_set(err, -ERANGE,
				 "%s offset %llu + %llu bytes is past the end of a region of %llu",
				 side, (unsigned long long)offset, (unsigned long long)len,
				 (unsigned long long)region);
	return 0;
}

static int check_handle(int rc, const char *what, uint64_t handle, struct pg_error *err)
{
	if (rc == -ESTALE)
		return error_set(err, rc, "%s 0x%llx has been unregistered", what,
				 (unsigned long long)handle);
	if (rc)
		return error_set(err, rc, "0x%llx is not a %s", (unsigned long long)handle, what);
	return 0;
}

static int src_len(struct pg_group *g, pg_mr_t mr, uint64_t *len, struct pg_error *err)
{
	return check_handle(mr_len(g, mr, len), "source region", mr, err);
}

static int dst_len(struct pg_group *g, pg_rmr_t rmr, uint64_t *len, struct pg_error *err)
{
	return check_handle(rmr_len(g, rmr, len), "destination region", rmr, err);
}

static int check_peer(struct pg_group *g, pg_peer_t peer, struct pg_error *err)
{
	int rc;
	struct peer *p = handles_get(&g->peers, peer, &rc);

	if (!p)
		return check_handle(rc, "peer", peer, err);
	if (!peer_alive(p))
		return error_set(err, p->status, "%s", p->reason);
	return 0;
}

static int check_write(struct pg_group *g, const struct pg_write *w, struct pg_error *err)
{
	uint64_t src, dst;
	int rc;

	if (w->len == 0)
		return error_set(err, -EINVAL, "a write of 0 bytes; a bare immediate is a barrier");
	if ((rc = src_len(g, w->src, &src, err)) || (rc = dst_len(g, w->dst, &dst, err)))
		return rc;
	rc = check_slice(w->src_offset, w->len, src, "source", err);
	return rc ? rc : check_slice(w->dst_offset, w->len, dst, "destination", err);
}

/* The largest index decides, unless the arithmetic could overflow. */
static int check_pages(const uint32_t *indices, uint32_t n, uint64_t offset, uint64_t stride,
		       uint64_t page_len, uint64_t region, const char *side, struct pg_error *err)
{
	uint32_t max = 0;
	uint64_t at, end;

	for (uint32_t i = 0; i < n; i++)
		max = indices[i] > max ? indices[i] : max;
	if (__builtin_mul_overflow(stride, max, &at) || __builtin_add_overflow(at, offset, &at) ||
	    __builtin_add_overflow(at, page_len, &end) || end > region)
		return error_set(err, -ERANGE,
				 "%s page index %u (offset %llu, stride %llu, page of %llu bytes) "
				 "is past the end of a region of %llu",
				 side, max, (unsigned long long)offset, (unsigned long long)stride,
				 (unsigned long long)page_len, (unsigned long long)region);
	return 0;
}

static int check_paged(struct pg_group *g, const struct pg_paged *p, struct pg_error *err)
{
	uint64_t src, dst;
	int rc;

	if (p->page_len == 0)
		return error_set(err, -EINVAL, "pages of 0 bytes");
	if (p->n_pages == 0)
		return error_set(err, -EINVAL, "0 pages");
	if (!p->src_indices || !p->dst_indices)
		return error_set(err, -EINVAL, "no page indices");
	if ((rc = src_len(g, p->src, &src, err)) || (rc = dst_len(g, p->dst, &dst, err)))
		return rc;
	rc = check_pages(p->src_indices, p->n_pages, p->src_offset, p->src_stride, p->page_len, src,
			 "source", err);
	if (rc)
		return rc;
	return check_pages(p->dst_indices, p->n_pages, p->dst_offset, p->dst_stride, p->page_len,
			   dst, "destination", err);
}

static int check_scatter(struct pg_group *g, const struct pg_scatter *s, struct pg_error *err)
{
	if (s->n == 0 || !s->dsts)
		return error_set(err, -EINVAL, "a scatter to 0 destinations");
	if (s->n >= g->config->max_ops)
		return error_set(err, -EINVAL,
				 "a scatter to %u destinations; less than max_ops, %u", s->n,
				 g->config->max_ops);
	if (s->spread < PG_SPREAD_BYTES || s->spread > PG_SPREAD_ONE)
		return error_set(err, -EINVAL, "scatter spread %d", s->spread);
	for (uint32_t i = 0; i < s->n; i++) {
		struct pg_write w = { s->src, s->dsts[i].src_offset, s->dsts[i].dst,
				      s->dsts[i].dst_offset, s->dsts[i].len };
		int rc = check_write(g, &w, err);

		if (rc)
			return rc;
	}
	return 0;
}

static int check_barrier(struct pg_group *g, const struct pg_op *op, struct pg_error *err)
{
	const struct pg_barrier *b = &op->u.barrier;

	if (b->n == 0 || !b->peers)
		return error_set(err, -EINVAL, "a barrier with 0 peers");
	if (b->n >= g->config->max_ops)
		return error_set(err, -EINVAL, "a barrier with %u peers; less than max_ops, %u",
				 b->n, g->config->max_ops);
	if (op->imm == PG_NO_IMM)
		return error_set(err, -EINVAL, "a barrier without an immediate");
	for (uint32_t i = 0; i < b->n; i++) {
		int rc = check_peer(g, b->peers[i], err);

		if (rc)
			return rc;
	}
	return 0;
}

static int check_send(struct pg_group *g, const struct pg_send *s, struct pg_error *err)
{
	uint32_t max = g->domains[0]->caps.max_msg;

	if (s->len == 0 || !s->data)
		return error_set(err, -EINVAL, "a message of 0 bytes");
	if (s->len > max)
		return error_set(err, -EMSGSIZE, "a message of %u bytes; at most %u", s->len, max);
	return check_peer(g, s->peer, err);
}

static int check(struct pg_group *g, const struct pg_op *op, struct pg_error *err)
{
	if (op->imm > PG_IMM_MAX && op->imm != PG_NO_IMM)
		return error_set(err, -EINVAL, "immediate 0x%x has more than 30 bits", op->imm);
	switch (op->opcode) {
	case PG_OP_WRITE:
		return check_write(g, &op->u.write, err);
	case PG_OP_PAGED:
		return check_paged(g, &op->u.paged, err);
	case PG_OP_SCATTER:
		return check_scatter(g, &op->u.scatter, err);
	case PG_OP_BARRIER:
		return check_barrier(g, op, err);
	case PG_OP_SEND:
		return check_send(g, &op->u.send, err);
	default:
		return error_set(err, -EINVAL, "opcode %u", op->opcode);
	}
}

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
	if (desc->opcode == PG_OP_SCATTER) {
		const struct pg_scatter_dst *d = &desc->u.scatter.dsts[i];

		child->opcode = PG_OP_WRITE;
		child->u.write = (struct pg_write){ desc->u.scatter.src, d->src_offset, d->dst,
						    d->dst_offset, d->len };
	} else {
		child->opcode = OP_IMM;
		child->u.send.peer = desc->u.barrier.peers[i];
	}
}

static struct op *make_family(struct pg_group *g, const struct pg_op *desc, bool locked)
{
	uint32_t n = desc->opcode == PG_OP_SCATTER ? desc->u.scatter.n : desc->u.barrier.n;
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

		rc = check(g, &ops[i], err);
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
	int rc = submit_now(g, op, 1, err);

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
			    .u.barrier = { peers, n, NULL } };

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
