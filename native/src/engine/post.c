/* SPDX-License-Identifier: MIT
 *
 * How an operation becomes work requests. It is divided into lanes (one per connection that carries
 * part of it), which are posted in turns. A lane is a run of pages; a contiguous write is one page
 * per shard, a barrier is one empty page, a message is a page of its own kind. A page above the
 * connection's write limit goes as plain pieces and a last one that carries the immediate, which on
 * an unordered transport waits for the others.
 */
#include "engine/op.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/failover.h"
#include "engine/flight.h"
#include "engine/memory.h"
#include "engine/paths.h"
#include "engine/peer.h"

#define TURN_WRS 32
#define TURN_BYTES (2u << 20)

/* ---- Lanes ---- */

static struct lane *add_lane(struct op *op, unsigned path, uint32_t next, uint32_t end,
			     uint64_t page_len)
{
	struct lane *lane = &op->lanes[op->n_lanes++];

	*lane = (struct lane){ .path = path,
			       .next = next,
			       .end = end,
			       .page_len = page_len,
			       .wire_imm = op->desc.imm };
	return lane;
}

static unsigned first_path(const struct peer *p)
{
	return (unsigned)__builtin_ctz(p->usable);
}

static unsigned next_path(struct op *op)
{
	struct peer *p = op->peer;

	if (op->spread == PG_SPREAD_ONE)
		return first_path(p);
	if (op->spread == PG_SPREAD_PEER)
		return p->spread.order[op->dst % (unsigned)__builtin_popcount(p->usable)];
	return path_next(p);
}

static void divide_write(const struct pg_group *g, struct op *op)
{
	struct peer *p = op->peer;
	uint64_t len = op->desc.u.write.len;
	struct shard shards[MAX_LANES];
	uint32_t weights[MAX_LANES];
	unsigned paths[MAX_LANES], k;

	if (paths_single(p) || len < g->domains[0]->caps.split_min ||
	    op->spread != PG_SPREAD_BYTES) {
		add_lane(op, next_path(op), 0, 1, len);
		return;
	}
	k = paths_split(p, paths, weights);
	k = shard_split(len, k, weights, SHARD_ALIGN, shards);
	for (unsigned i = 0; i < k; i++) {
		struct lane *lane = add_lane(op, paths[shards[i].lane], 0, 1, shards[i].len);

		lane->offset = shards[i].offset;
		if (op->desc.imm != PG_NO_IMM)
			lane->wire_imm = imm_wire(op->desc.imm, k);
	}
}

/* Pages in proportion to weights; when there are few, other NICs come first the next time. */
static void divide_pages(struct op *op)
{
	uint32_t n = op->desc.u.paged.n_pages, weights[MAX_LANES], begin = 0;
	unsigned paths[MAX_LANES], k = paths_split(op->peer, paths, weights);
	unsigned first = op->peer->next_path++;
	uint64_t total = 0, below = 0;

	for (unsigned l = 0; l < k; l++)
		total += weights[l];
	for (unsigned i = 0; i < k; i++) {
		unsigned l = (first + i) % k;
		uint32_t end;

		below += weights[l];
		end = (uint32_t)((unsigned __int128)n * below / total);
		if (end > begin)
			add_lane(op, paths[l], begin, end, op->desc.u.paged.page_len);
		begin = end;
	}
}

/* Once the peer is up. */
static void divide(const struct pg_group *g, struct op *op)
{
	switch (op->desc.opcode) {
	case PG_OP_WRITE:
		divide_write(g, op);
		break;
	case PG_OP_PAGED:
		divide_pages(op);
		break;
	case PG_OP_SEND:
		add_lane(op, first_path(op->peer), 0, 1, op->desc.u.send.len);
		break;
	case OP_IMM:
		add_lane(op, next_path(op), 0, 1, 0);
		break;
	default:
		break;
	}
}

/* ---- Work requests ---- */

/* Page i of the operation, as the first work request that could carry all of it. */
static void page_wr(struct pg_group *g, const struct op *op, const struct lane *lane, uint32_t i,
		    struct wr *wr)
{
	const struct pg_op *d = &op->desc;
	uint64_t src, dst;

	if (d->opcode == PG_OP_SEND) {
		wr->op = WR_SEND;
		wr->src = op_message(g, op);
		return;
	}
	wr->op = WR_WRITE;
	if (d->opcode == OP_IMM)
		return;
	if (d->opcode == PG_OP_WRITE) {
		src = d->u.write.src_offset + lane->offset;
		dst = d->u.write.dst_offset + lane->offset;
	} else {
		src = d->u.paged.src_offset + d->u.paged.src_indices[i] * d->u.paged.src_stride;
		dst = d->u.paged.dst_offset + d->u.paged.dst_indices[i] * d->u.paged.dst_stride;
	}
	wr->src = (const char *)op->mr->memory.base + src;
	wr->rbase = op->rmr->desc.base;
	wr->raddr = wr->rbase + dst;
	wr->mapped = op->rmr->mapped ? (char *)op->rmr->mapped + dst : NULL;
}

/* Where the payload, of which `within` bytes go otherwise, is to be found and to be put over this
 * connection. */
static void aim(const struct op *op, unsigned k, uint64_t within, struct wr *wr)
{
	wr->src = (const char *)wr->src + within;
	wr->raddr += within;
	wr->mapped = wr->mapped ? (char *)wr->mapped + within : NULL;
	wr->lkey = op->mr->lkeys[path_local(op->peer, k)];
	wr->rkey = op->rmr->desc.keys[path_remote(op->peer, k)];
}

/* What has ended is there, or will be before what follows over the same connection; but over another
 * one it may still be on its way. */
static bool lane_visible(struct peer *p, struct lane *lane)
{
	if (lane->moved && !paths_visible(p, lane->marks))
		return false;
	if (lane->moved)
		memset(lane->marks, 0, sizeof(lane->marks)); /* for the next page */
	return true;
}

/* Cuts the next work requests of a lane; at[i] is where the i-th begins, at[n] where the lane stands
 * behind them. */
static unsigned cut(struct pg_group *g, struct op *op, unsigned l, struct wr *wrs,
		    struct cursor at[TURN_WRS + 1])
{
	struct lane *lane = &op->lanes[l];
	const struct conn *conn = op->peer->paths[lane->path].conn;
	const struct domain *d = conn->domain;
	struct cursor c = { .next = lane->next, .within = lane->within };
	uint64_t limit = op->rmr && !op->rmr->mapped ? conn->max_unmapped : d->caps.max_write;
	uint64_t bytes = 0;
	unsigned n = 0;

	while (c.next < lane->end && n < TURN_WRS && bytes < TURN_BYTES) {
		struct wr *wr = &wrs[n];
		uint64_t left = lane->page_len - c.within;
		bool last = left <= limit;

		/* Unordered, or not all over this connection: the immediate waits for the pieces
		 * before it. */
		if (last && c.within && op->desc.imm != PG_NO_IMM &&
		    (!d->caps.ordered || lane->moved) &&
		    (lane->inflight || n || !lane_visible(op->peer, lane)))
			break;
		*wr = (struct wr){ .len = last ? left : limit };
		page_wr(g, op, lane, c.next, wr);
		if (wr->op == WR_WRITE && wr->len)
			aim(op, lane->path, c.within, wr);
		if (wr->op == WR_WRITE && last && op->desc.imm != PG_NO_IMM) {
			wr->op = WR_WRITE_IMM;
			wr->imm = lane->wire_imm;
		}
		bytes += wr->len;
		at[n++] = c;
		c = last ? (struct cursor){ .next = c.next + 1 }
			 : (struct cursor){ .next = c.next, .within = c.within + wr->len };
	}
	at[n] = c;
	return n;
}

void lane_moves(struct lane *lane)
{
	if (!lane->moved)
		memset(lane->marks, 0, sizeof(lane->marks));
	lane->moved = true;
}

/* Its connection has broken meanwhile: what is left of it goes over another. */
static void keep_usable(struct op *op, struct lane *lane)
{
	if (path_usable(op->peer, lane->path))
		return;
	lane->path = path_next(op->peer);
	lane_moves(lane);
}

static int post(struct pg_group *g, struct op *op, unsigned l, struct wr *wrs,
		const struct cursor *at, unsigned n, struct pg_error *err)
{
	struct path *path = &op->peer->paths[op->lanes[l].path];
	struct conn *conn = path->conn;
	int posted;

	if (conn->domain->caps.sync_post)
		return conn->domain->transport->post(conn, wrs, n, err);
	n = takeover_room(g, op->peer, path, n) ? flights_take(g, op, l, wrs, at, n) : 0;
	if (!n)
		return -EAGAIN;
	posted = conn->domain->transport->post(conn, wrs, n, err);
	flights_posted(g, path, wrs, posted < 0 ? 0 : (unsigned)posted, n);
	op->lanes[l].inflight += posted < 0 ? 0 : (uint32_t)posted;
	return posted;
}

/* A post was refused: for want of credit, because the connection has broken, or for good. */
static enum op_turn refused(struct pg_group *g, struct op *op, unsigned k, int status,
			    const struct pg_error *err)
{
	struct conn *conn = op->peer->paths[k].conn;

	if (status == -EAGAIN) {
		conn->stats.eagain++;
		return OP_BLOCKED;
	}
	if (status == -ECONNABORTED && can_take_over(&conn->domain->caps)) {
		path_broke(g, op->peer, k, status);
		return op->status ? OP_POSTED : OP_MORE;
	}
	op_wr_failed(op, conn->domain, status, err->text[0] ? err->text : strerror(-status));
	return OP_POSTED;
}

static enum op_turn run_lane(struct pg_group *g, struct op *op, unsigned l)
{
	struct lane *lane = &op->lanes[l];
	struct wr wrs[TURN_WRS];
	struct cursor at[TURN_WRS + 1];
	struct pg_error err;
	struct conn *conn;
	unsigned n;
	int posted;

	keep_usable(op, lane);
	conn = op->peer->paths[lane->path].conn;
	if (conn->full && op->desc.opcode != PG_OP_SEND)
		return OP_BLOCKED;
	n = cut(g, op, l, wrs, at);
	if (n == 0) /* an immediate that waits for its payload: op_piece_ended comes back here */
		return lane->next == lane->end || lane->inflight ? OP_POSTED : OP_BLOCKED;
	err.text[0] = '\0'; /* not all of it: this is the hot path */
	posted = post(g, op, l, wrs, at, n, &err);
	if (posted < 0)
		return refused(g, op, lane->path, posted, &err);
	lane->next = at[posted].next;
	lane->within = at[posted].within;
	op->deadline = 0;
	conn->stats.posted += (unsigned)posted;
	for (int i = 0; i < posted; i++)
		conn->stats.bytes_out += wrs[i].len;
	peer_posted(g, op->peer, lane->path);
	return lane->next == lane->end ? OP_POSTED : OP_MORE;
}

static bool too_long(const struct op *op)
{
	return op->desc.opcode == PG_OP_SEND && op->desc.u.send.len > op->peer->max_msg;
}

/* True when it can be posted. Fails it if it never can. */
static bool can_post(struct pg_group *g, struct op *op)
{
	if (peer_ready(g, op->peer)) {
		if (too_long(op))
			op_fail(op, -EMSGSIZE, "its peer takes only shorter messages");
		else if (!op->rmr || rmr_ready(g, op->rmr))
			return true;
		else if (rmr_state(op->rmr) == RMR_FAILED)
			op_fail(op, op->rmr->status, op->rmr->reason);
	} else if (!peer_alive(op->peer)) {
		op_fail(op, op->peer->status, op->peer->reason);
	}
	return false;
}

enum op_turn op_run(struct pg_group *g, struct op *op)
{
	enum op_turn turn = OP_POSTED;

	/* In no list: what follows may end its peer, and thereby all that is listed there. */
	list_remove(&op->link);
	if (!can_post(g, op))
		return op->status ? OP_POSTED : OP_BLOCKED;
	if (!op->peer->usable) /* one is coming back */
		return OP_BLOCKED;
	if (op->n_lanes == 0)
		divide(g, op);
	/* Lanes that move bytes on threads of their own come last in a group and start first. */
	for (unsigned l = op->n_lanes; l-- > 0;) {
		enum op_turn t;

		if (!op->peer->usable)
			return OP_BLOCKED;
		t = run_lane(g, op, l);
		if (op->status)
			return OP_POSTED;
		if (t == OP_MORE || (t == OP_BLOCKED && turn == OP_POSTED))
			turn = t;
	}
	return turn;
}

/* The common case, kept short: a write that is one work request and done when it is posted. */
bool op_post_whole(struct pg_group *g, struct op *op)
{
	const struct pg_caps *caps = &g->domains[0]->caps;
	const struct pg_write *w = &op->desc.u.write;
	struct peer *p = op->peer;
	struct wr wr = { .op = WR_WRITE };
	struct conn *c;
	unsigned k;

	/* What is to linger has to show that it was posted, see op_unposted. */
	if (peer_state(p) != PEER_UP || !p->usable || !caps->sync_post ||
	    op->desc.flags & PG_REMOTE_VISIBLE)
		return false;
	if (op->desc.opcode == PG_OP_WRITE) {
		if (rmr_state(op->rmr) != RMR_READY || !op->rmr->mapped ||
		    w->len > caps->max_write || (!paths_single(p) && w->len >= caps->split_min))
			return false;
		wr.len = w->len;
		wr.src = (const char *)op->mr->memory.base + w->src_offset;
		wr.mapped = (char *)op->rmr->mapped + w->dst_offset;
	} else if (op->desc.opcode != OP_IMM) {
		return false;
	}
	k = next_path(op);
	c = p->paths[k].conn;
	if (op->desc.imm != PG_NO_IMM) {
		wr.op = WR_WRITE_IMM;
		wr.imm = op->desc.imm;
	}
	if (!c->domain->caps.sync_post || c->domain->transport->post(c, &wr, 1, NULL) != 1)
		return false;
	c->stats.posted++;
	c->stats.bytes_out += wr.len;
	peer_posted(g, p, k);
	op_settle(g, op, OP_POSTED);
	return true;
}

/* ---- Again ---- */

int flight_repost(struct pg_group *g, struct flight *f, unsigned k, struct pg_error *err)
{
	const struct op *op = &g->ops[f->op];
	struct path *path = &op->peer->paths[k];
	struct conn *conn = path->conn;
	struct wr wr = { .id = (uint64_t)(f - g->flights) };
	int rc;

	if (!takeover_room(g, op->peer, path, 1))
		return -EAGAIN;
	if (f->kind != FLIGHT_MAKEUP) {
		page_wr(g, op, &op->lanes[f->lane], f->page, &wr);
		wr.len = f->len;
	}
	if (wr.len && wr.op == WR_WRITE)
		aim(op, k, f->within, &wr);
	if (f->wr_op == WR_WRITE_IMM && f->kind != FLIGHT_REWRITE) {
		wr.op = WR_WRITE_IMM;
		wr.imm = f->imm;
	}
	rc = conn->domain->transport->post(conn, &wr, 1, err);
	if (rc < 0)
		return rc;
	flight_posted(g, path, f, &wr);
	conn->stats.posted++;
	conn->stats.retries++;
	conn->stats.bytes_out += wr.len;
	peer_posted(g, op->peer, k);
	return 0;
}
