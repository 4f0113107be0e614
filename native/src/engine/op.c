/* SPDX-License-Identifier: MIT
 *
 * The life of an operation: a slot, bound to its peer and regions, posted (post.c), completed once.
 */
#include "engine/op.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/completion.h"
#include "engine/memory.h"
#include "engine/peer.h"

/* ---- Slots ---- */

int ops_create(struct pg_group *g)
{
	uint32_t n = g->config->max_ops;
	int rc = ring_init(&g->free_ops, n);

	if (rc)
		return rc;
	rc = ring_init(&g->submitted, n);
	if (rc)
		return rc;
	g->ops = mmap(NULL, n * sizeof(*g->ops), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (g->ops == MAP_FAILED) {
		g->ops = NULL;
		return -ENOMEM;
	}
	g->messages = mmap(NULL, (size_t)n * PG_MSG_MAX, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (g->messages == MAP_FAILED) {
		g->messages = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++)
		ring_put(&g->free_ops, i);
	g->cached_op = NO_OP;
	return 0;
}

void ops_destroy(struct pg_group *g)
{
	if (g->messages)
		munmap(g->messages, (size_t)g->config->max_ops * PG_MSG_MAX);
	if (g->ops)
		munmap(g->ops, g->config->max_ops * sizeof(*g->ops));
	ring_fini(&g->submitted);
	ring_fini(&g->free_ops);
}

struct op *op_take(struct pg_group *g, bool locked)
{
	uint32_t slot;

	if (locked && g->cached_op != NO_OP) {
		slot = g->cached_op;
		g->cached_op = g->ops[slot].next;
		g->n_cached--;
	} else if (!ring_pop(&g->free_ops, &slot)) {
		return NULL;
	}
	g->ops[slot].slot = slot;
	return &g->ops[slot];
}

void op_give(struct pg_group *g, struct op *op, bool locked)
{
	/* A worker would only ever put some in: it never submits. */
	if (locked && !g->worker_mode && g->n_cached < OP_CACHE) {
		op->next = g->cached_op;
		g->cached_op = op->slot;
		g->n_cached++;
	} else {
		ring_put(&g->free_ops, op->slot);
	}
}

void ops_share(struct pg_group *g)
{
	while (g->n_cached) {
		uint32_t slot = g->cached_op;

		g->cached_op = g->ops[slot].next;
		g->n_cached--;
		ring_put(&g->free_ops, slot);
	}
}

/* ---- Completion ---- */

static bool in_flight(const struct op *op)
{
	for (unsigned i = 0; i < op->n_lanes; i++)
		if (op->lanes[i].inflight)
			return true;
	return false;
}

void op_fail(struct op *op, int status, const char *text)
{
	if (op->status)
		return;
	op->status = status;
	snprintf(op->text, sizeof(op->text), "%s", text ? text : "");
	for (unsigned i = 0; i < op->n_lanes; i++)
		op->lanes[i].next = op->lanes[i].end;
}

static void tell_parent(struct pg_group *g, struct op *child)
{
	struct op *parent = &g->ops[child->parent];
	int32_t *status = parent->desc.opcode == PG_OP_SCATTER ? parent->desc.u.scatter.status
							       : parent->desc.u.barrier.status;

	if (status)
		status[child->dst] = child->status;
	if (child->status)
		op_fail(parent, child->status, child->text);
	if (--parent->children == 0)
		op_settle(g, parent, OP_POSTED);
}

static void complete(struct pg_group *g, struct op *op)
{
	list_remove(&op->link);
	if (op->mr)
		handle_unref(&op->mr->h);
	if (op->rmr)
		handle_unref(&op->rmr->h);
	g->n_live--;
	if (op->parent != NO_OP) {
		tell_parent(g, op);
	} else {
		struct ending end = {
			.kind = PG_EVENT_OP,
			.status = op->status,
			.imm = op->desc.imm,
			.peer = op->peer ? handle_of(&op->peer->h) : 0,
			.text = op->text,
		};

		deliver(g, &op->desc.done, &end);
		g->delivered = true;
	}
	op_give(g, op, true);
}

void op_settle(struct pg_group *g, struct op *op, enum op_turn turn)
{
	if (turn == OP_POSTED || op->status) {
		if (in_flight(op)) {
			list_remove(&op->link);
			list_append(&op->peer->waiting, &op->link);
		} else {
			complete(g, op);
		}
		return;
	}
	op->peer->n_blocked = turn == OP_BLOCKED ? op->peer->n_blocked + 1 : 0;
	list_remove(&op->link);
	list_append(&op->peer->ready, &op->link);
	if (list_empty(&op->peer->active))
		list_append(&g->active, &op->peer->active);
}

void op_abandon(struct pg_group *g, struct op *op, int status, const char *text)
{
	op_fail(op, status, text);
	for (unsigned i = 0; i < op->n_lanes; i++)
		op->lanes[i].inflight = 0;
	complete(g, op);
}

/* Shards of a split write may have been counted, and the other side would take them for parts of
 * the next write with this immediate. Nothing can settle that yet, so it ends the peer. */
static bool half_counted(const struct op *op)
{
	if (op->desc.opcode != PG_OP_WRITE || op->desc.imm == PG_NO_IMM || op->n_lanes == 1)
		return false;
	for (unsigned i = 0; i < op->n_lanes; i++)
		if (op->lanes[i].next == op->lanes[i].end)
			return true;
	return false;
}

void op_wr_failed(struct pg_group *g, struct op *op, const struct domain *d, int status,
		  const char *why)
{
	bool ends_peer = !op->status && half_counted(op);
	char text[PG_ERROR_MAX];

	snprintf(text, sizeof(text), "%s: write over %s: %.140s", peer_name(op->peer).text, d->name,
		 why);
	op_fail(op, status, text);
	if (ends_peer)
		peer_down(g, op->peer, status, "a split write failed over %s: %.100s", d->name,
			  why);
}

void op_wr_done(struct pg_group *g, const struct arrival *a)
{
	struct op *op = &g->ops[(uint32_t)a->id];
	struct lane *lane = &op->lanes[a->id >> 32];

	lane->inflight--;
	op->deadline = 0;
	if (a->status) {
		list_remove(&op->link); /* as in op_run */
		op_wr_failed(g, op, a->conn->domain, a->status, strerror(-a->status));
		op_settle(g, op, OP_POSTED);
		return;
	}
	/* Something may be left to post: a last piece that waited for the others. */
	if (lane->inflight == 0)
		op_settle(g, op, op->status ? OP_POSTED : op_run(g, op));
}

/* ---- Binding ---- */

static int bind_regions(struct pg_group *g, struct op *op, pg_mr_t src, pg_rmr_t dst)
{
	int rc;
	struct mr *mr = handles_get(&g->mrs, src, &rc);
	struct rmr *rmr;

	if (!mr) {
		op_fail(op, rc, "the source region was unregistered");
		return rc;
	}
	rmr = handles_get(&g->rmrs, dst, &rc);
	if (!rmr) {
		op_fail(op, rc, "the destination region was released");
		return rc;
	}
	op->mr = mr;
	op->rmr = rmr;
	op->peer = rmr->peer;
	handle_ref(&mr->h);
	handle_ref(&rmr->h);
	return 0;
}

static int bind(struct pg_group *g, struct op *op)
{
	const struct pg_op *d = &op->desc;
	int rc = 0;

	op->peer = NULL;
	op->mr = NULL;
	op->rmr = NULL;
	op->status = 0;
	op->text[0] = '\0';
	op->n_lanes = 0;
	op->deadline = 0;
	list_init(&op->link);
	g->n_live++;
	if (op->children)
		return 0;
	switch (d->opcode) {
	case PG_OP_WRITE:
		rc = bind_regions(g, op, d->u.write.src, d->u.write.dst);
		break;
	case PG_OP_PAGED:
		rc = bind_regions(g, op, d->u.paged.src, d->u.paged.dst);
		break;
	case PG_OP_SEND:
	case OP_IMM:
		op->peer = handles_get(&g->peers, d->u.send.peer, &rc);
		if (!op->peer)
			op_fail(op, rc, "the peer is gone");
		break;
	default:
		break;
	}
	return rc;
}

/* ---- Starting ---- */

static void start_children(struct pg_group *g, struct op *parent)
{
	/* The last child completes the parent, so read the list ahead of it. */
	for (uint32_t slot = parent->next; slot != NO_OP;) {
		struct op *child = &g->ops[slot];

		slot = child->next;
		op_start(g, child);
	}
}

void op_start(struct pg_group *g, struct op *op)
{
	if (bind(g, op)) {
		complete(g, op);
		return;
	}
	if (op->children) {
		start_children(g, op);
		return;
	}
	/* Behind what its peer has to do already, else at once. */
	if (!list_empty(&op->peer->ready))
		op_settle(g, op, OP_MORE);
	else if (!op_post_whole(g, op))
		op_settle(g, op, op_run(g, op));
}
