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
#include "engine/fence.h"
#include "engine/memory.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/peer_group.h"

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

bool op_in_flight(const struct op *op)
{
	for (unsigned i = 0; i < op->n_lanes; i++)
		if (op->lanes[i].inflight)
			return true;
	return false;
}

bool op_unposted(const struct op *op)
{
	for (unsigned i = 0; i < op->n_lanes; i++)
		if (op->lanes[i].next != op->lanes[i].end)
			return true;
	return op->n_lanes == 0;
}

void op_fail(struct op *op, int status, const char *text)
{
	if (op->status)
		return;
	op->status = status;
	snprintf(op->text, sizeof(op->text), "%s", text ? text : "");
	for (unsigned i = 0; i < op->n_lanes; i++) {
		op->lanes[i].cut |= op->lanes[i].next != op->lanes[i].end;
		op->lanes[i].next = op->lanes[i].end;
	}
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

static void unbind(struct pg_group *g, struct op *op)
{
	if (op->mr)
		handle_unref(&op->mr->h);
	if (op->rmr)
		handle_unref(&op->rmr->h);
	if (op->group)
		handle_unref(&op->group->h);
	op->live = false;
	g->n_live--;
}

static void complete(struct pg_group *g, struct op *op)
{
	/* In no list: what follows may end its peer, and all that is listed there. */
	list_remove(&op->link);
	list_remove(&op->linger);
	unbind(g, op);
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

/* All has ended, and yet it has to wait for what its peer does with it. */
static bool lingers(struct pg_group *g, struct op *op)
{
	if (op->desc.opcode == PG_OP_FENCE)
		return !fence_run(g, op);
	if (op->status)
		return op_settling(g, op);
	if (!(op->desc.flags & PG_REMOTE_VISIBLE))
		return false;
	return !paths_visible(op->peer, op->marks);
}

static void wait_in(struct list *list, struct list *node)
{
	list_remove(node);
	list_append(list, node);
}

void op_settle(struct pg_group *g, struct op *op, enum op_turn turn)
{
	if (turn == OP_POSTED || op->status) {
		if (op_in_flight(op)) {
			wait_in(&op->peer->waiting, &op->link);
		} else if (op->peer && lingers(g, op)) {
			wait_in(&op->peer->waiting, &op->link);
			wait_in(&g->lingering, &op->linger);
		} else {
			complete(g, op);
		}
		return;
	}
	op->peer->n_blocked = turn == OP_BLOCKED ? op->peer->n_blocked + 1 : 0;
	wait_in(&op->peer->ready, &op->link);
	if (list_empty(&op->peer->active))
		list_append(&g->active, &op->peer->active);
}

void ops_linger(struct pg_group *g)
{
	struct list now;

	list_take_all(&now, &g->lingering);
	while (!list_empty(&now)) {
		struct op *op = LIST_ENTRY(now.next, struct op, linger);

		list_remove(&op->linger);
		op_settle(g, op, OP_POSTED);
	}
}

void op_abandon(struct pg_group *g, struct op *op, int status, const char *text)
{
	op_fail(op, status, text);
	for (unsigned i = 0; i < op->n_lanes; i++)
		op->lanes[i].inflight = 0;
	complete(g, op);
}

/* ---- Work requests that ended ---- */

void op_wr_failed(struct op *op, const struct domain *d, int status, const char *why)
{
	char text[PG_ERROR_MAX];

	snprintf(text, sizeof(text), "%s: write over %s: %.140s", peer_name(op->peer).text, d->name,
		 why);
	op_fail(op, status, text);
}

void op_piece_ended(struct pg_group *g, struct op *op, unsigned l, int status,
		    const struct domain *d)
{
	struct lane *lane = &op->lanes[l];

	lane->inflight--;
	if (status) {
		lane->failed = true;
		list_remove(&op->link); /* as in op_run */
		op_wr_failed(op, d, status, strerror(-status));
		op_settle(g, op, OP_POSTED);
		return;
	}
	if (!op->status)
		op->deadline = 0;
	/* Something may be left to post: a last piece that waited for the others. Of what is posted
	 * already, nothing is asked any more. */
	if (lane->inflight == 0)
		op_settle(g, op, op_unposted(op) ? op_run(g, op) : OP_POSTED);
}

/* ---- Binding ---- */

/* Alive, and nothing more. */
static void unbound(struct pg_group *g, struct op *op)
{
	op->peer = NULL;
	op->mr = NULL;
	op->rmr = NULL;
	op->group = NULL;
	op->status = 0;
	op->text[0] = '\0';
	op->n_lanes = 0;
	op->asked = op->fenced = op->expired = false;
	if (op->desc.flags & PG_REMOTE_VISIBLE)
		memset(op->marks, 0, sizeof(op->marks));
	op->deadline = 0;
	op->limit = 0;
	op->live = true;
	op->serial = ++g->op_serial;
	list_init(&op->link);
	list_init(&op->linger);
	g->n_live++;
}

/* Accepted, and yet never started. */
static void op_refuse(struct pg_group *g, struct op *op, int status, const char *text)
{
	unbound(g, op);
	op_fail(op, status, text);
	complete(g, op);
}

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

static pg_peer_t op_peer(const struct pg_op *d)
{
	return d->opcode == PG_OP_FENCE ? d->u.fence.peer : d->u.send.peer;
}

static int bind(struct pg_group *g, struct op *op)
{
	const struct pg_op *d = &op->desc;
	int rc = 0;

	unbound(g, op);
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
	case PG_OP_FENCE:
		op->peer = handles_get(&g->peers, op_peer(d), &rc);
		if (!op->peer)
			op_fail(op, rc, "the peer is gone");
		break;
	default:
		break;
	}
	return rc;
}

/* ---- Starting ---- */

/* Members of a group are looked up here, where they cannot change. */
static int bind_member(const struct pg_group *g, const struct peer_group *group, struct op *child)
{
	struct pg_op *d = &child->desc;
	pg_peer_t member = group->peers[child->dst];
	const struct rmr *rmr;
	int rc = 0;

	if (d->opcode == OP_IMM) {
		d->u.send.peer = member;
		return 0;
	}
	rmr = handles_get(&g->rmrs, d->u.write.dst, &rc);
	return rmr && handle_of(&rmr->peer->h) != member ? -EINVAL : 0;
}

static int bind_group(struct pg_group *g, struct op *parent)
{
	pg_peer_group_t handle = parent->desc.opcode == PG_OP_SCATTER
					 ? parent->desc.u.scatter.group
					 : parent->desc.u.barrier.group;
	struct pg_error err = { 0 };

	if (!handle)
		return 0;
	parent->group = peer_group_get(g, handle, &err);
	if (!parent->group) {
		op_fail(parent, -ESTALE, err.text);
		return -ESTALE;
	}
	handle_ref(&parent->group->h);
	for (uint32_t slot = parent->next; slot != NO_OP; slot = g->ops[slot].next) {
		if (!bind_member(g, parent->group, &g->ops[slot]))
			continue;
		op_fail(parent, -EINVAL, "a destination is no region of its member of the group");
		return -EINVAL;
	}
	return 0;
}

static void start_children(struct pg_group *g, struct op *parent)
{
	int rc = bind_group(g, parent);

	/* The last child completes the parent, so read the list ahead of it. */
	for (uint32_t slot = parent->next; slot != NO_OP;) {
		struct op *child = &g->ops[slot];

		slot = child->next;
		if (rc)
			op_refuse(g, child, rc, parent->text);
		else
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
	if (!op->peer) { /* a barrier of a group that was removed just before */
		op_fail(op, -ESTALE, "the peer group has been removed");
		complete(g, op);
		return;
	}
	if (op->desc.opcode == PG_OP_FENCE)
		fence_start(g, op);
	/* Behind what its peer has to do already, else at once. */
	else if (!list_empty(&op->peer->ready))
		op_settle(g, op, OP_MORE);
	else if (!op_post_whole(g, op))
		op_settle(g, op, op_run(g, op));
}
