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

#include "engine/memory.h"
#include "engine/paths.h"
#include "engine/peer.h"

#define TURN_WRS 32
#define TURN_BYTES (2u << 20)

/* ---- Lanes ---- */

static struct lane *add_lane(struct op *op, unsigned conn, uint32_t next, uint32_t end,
			     uint64_t page_len)
{
	struct lane *lane = &op->lanes[op->n_lanes++];

	*lane = (struct lane){ .conn = conn,
			       .next = next,
			       .end = end,
			       .page_len = page_len,
			       .wire_imm = op->desc.imm };
	return lane;
}

static unsigned next_conn(struct op *op)
{
	struct peer *p = op->peer;

	if (op->spread == PG_SPREAD_ONE)
		return 0;
	if (op->spread == PG_SPREAD_PEER)
		return op->dst % p->n_conns;
	return path_next(p);
}

static void divide_write(struct op *op)
{
	struct peer *p = op->peer;
	uint64_t len = op->desc.u.write.len;
	struct shard shards[MAX_LANES];
	uint32_t weights[MAX_LANES];
	unsigned conns[MAX_LANES], k;

	if (p->n_conns == 1 || len < p->conns[0]->domain->caps.split_min ||
	    op->spread != PG_SPREAD_BYTES) {
		add_lane(op, next_conn(op), 0, 1, len);
		return;
	}
	k = paths_split(p, conns, weights);
	k = shard_split(len, k, weights, SHARD_ALIGN, shards);
	for (unsigned i = 0; i < k; i++) {
		struct lane *lane = add_lane(op, conns[shards[i].lane], 0, 1, shards[i].len);

		lane->offset = shards[i].offset;
		if (op->desc.imm != PG_NO_IMM)
			lane->wire_imm = imm_wire(op->desc.imm, k);
	}
}

/* Pages in proportion to weights; when there are few, other NICs come first the next time. */
static void divide_pages(struct op *op)
{
	uint32_t n = op->desc.u.paged.n_pages, weights[MAX_LANES], begin = 0;
	unsigned conns[MAX_LANES], k = paths_split(op->peer, conns, weights);
	unsigned first = op->peer->next_conn++;
	uint64_t total = 0, below = 0;

	for (unsigned l = 0; l < k; l++)
		total += weights[l];
	for (unsigned i = 0; i < k; i++) {
		unsigned l = (first + i) % k;
		uint32_t end;

		below += weights[l];
		end = (uint32_t)((unsigned __int128)n * below / total);
		if (end > begin)
			add_lane(op, conns[l], begin, end, op->desc.u.paged.page_len);
		begin = end;
	}
}

/* Once the peer is up. */
static void divide(struct op *op)
{
	switch (op->desc.opcode) {
	case PG_OP_WRITE:
		divide_write(op);
		break;
	case PG_OP_PAGED:
		divide_pages(op);
		break;
	case PG_OP_SEND:
		add_lane(op, 0, 0, 1, op->desc.u.send.len);
		break;
	case OP_IMM:
		add_lane(op, next_conn(op), 0, 1, 0);
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
	wr->raddr = op->rmr->desc.base + dst;
	wr->mapped = op->rmr->mapped ? (char *)op->rmr->mapped + dst : NULL;
}

struct cursor {
	uint32_t next;
	uint64_t within;
};

/* Cuts the next work requests of a lane; after[i] is where the lane stands behind the i-th. */
static unsigned cut(struct pg_group *g, const struct op *op, unsigned l, struct wr *wrs,
		    struct cursor *after)
{
	const struct lane *lane = &op->lanes[l];
	const struct conn *conn = op->peer->conns[lane->conn];
	const struct domain *d = conn->domain;
	struct cursor c = { .next = lane->next, .within = lane->within };
	uint64_t limit = op->rmr && !op->rmr->mapped ? conn->max_unmapped : d->caps.max_write;
	uint64_t bytes = 0;
	unsigned n = 0;

	while (c.next < lane->end && n < TURN_WRS && bytes < TURN_BYTES) {
		struct wr *wr = &wrs[n];
		uint64_t left = lane->page_len - c.within;
		bool last = left <= limit;

		/* Unordered: the immediate waits for the pieces before it. */
		if (last && c.within && op->desc.imm != PG_NO_IMM && !d->caps.ordered &&
		    (lane->inflight || n))
			break;
		*wr = (struct wr){ .id = (uint64_t)l << 32 | op->slot };
		page_wr(g, op, lane, c.next, wr);
		wr->len = last ? left : limit;
		if (wr->op == WR_WRITE && wr->len) {
			wr->src = (const char *)wr->src + c.within;
			wr->raddr += c.within;
			wr->mapped = wr->mapped ? (char *)wr->mapped + c.within : NULL;
			wr->lkey = op->mr->lkeys[d->index];
			wr->rkey = op->rmr->desc.keys[path_remote(op->peer, lane->conn)];
		}
		if (wr->op == WR_WRITE && last && op->desc.imm != PG_NO_IMM) {
			wr->op = WR_WRITE_IMM;
			wr->imm = lane->wire_imm;
		}
		bytes += wr->len;
		c = last ? (struct cursor){ .next = c.next + 1 }
			 : (struct cursor){ .next = c.next, .within = c.within + wr->len };
		after[n++] = c;
	}
	return n;
}

static enum op_turn run_lane(struct pg_group *g, struct op *op, unsigned l)
{
	struct lane *lane = &op->lanes[l];
	struct conn *conn = op->peer->conns[lane->conn];
	struct wr wrs[TURN_WRS];
	struct cursor after[TURN_WRS];
	struct pg_error err;
	unsigned n = cut(g, op, l, wrs, after);
	int posted;

	if (n == 0) /* an immediate that waits for its payload: op_wr_done comes back here */
		return OP_POSTED;
	err.text[0] = '\0'; /* not all of it: this is the hot path */
	posted = conn->domain->transport->post(conn, wrs, n, &err);
	if (posted == -EAGAIN) {
		conn->stats.eagain++;
		return OP_BLOCKED;
	}
	if (posted < 0) {
		op_wr_failed(op, conn->domain, posted, err.text[0] ? err.text : strerror(-posted));
		return OP_POSTED;
	}
	lane->next = after[posted - 1].next;
	lane->within = after[posted - 1].within;
	op->deadline = 0;
	if (!conn->domain->caps.sync_post)
		lane->inflight += (uint32_t)posted;
	conn->stats.posted += (unsigned)posted;
	for (int i = 0; i < posted; i++)
		conn->stats.bytes_out += wrs[i].len;
	peer_posted(g, op->peer, lane->conn);
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
	if (op->n_lanes == 0)
		divide(op);
	/* Lanes that move bytes on threads of their own come last in a group and start first. */
	for (unsigned l = op->n_lanes; l-- > 0;) {
		enum op_turn t = run_lane(g, op, l);

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
	const struct pg_write *w = &op->desc.u.write;
	struct peer *p = op->peer;
	struct wr wr = { .op = WR_WRITE };
	struct conn *c;
	unsigned k;

	if (peer_state(p) != PEER_UP)
		return false;
	if (op->desc.opcode == PG_OP_WRITE) {
		const struct pg_caps *caps = &p->conns[0]->domain->caps;

		if (rmr_state(op->rmr) != RMR_READY || !op->rmr->mapped ||
		    w->len > caps->max_write || (p->n_conns > 1 && w->len >= caps->split_min))
			return false;
		wr.len = w->len;
		wr.src = (const char *)op->mr->memory.base + w->src_offset;
		wr.mapped = (char *)op->rmr->mapped + w->dst_offset;
	} else if (op->desc.opcode != OP_IMM) {
		return false;
	}
	k = next_conn(op);
	c = p->conns[k];
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
