/* SPDX-License-Identifier: MIT
 *
 * Everything a caller can get wrong about an operation.
 */
#include "engine/check.h"

#include <errno.h>

#include "engine/memory.h"
#include "engine/peer.h"
#include "engine/peer_group.h"
#include "engine/progress.h"

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

static int dst_len(struct pg_group *g, bool locked, pg_rmr_t rmr, uint64_t *len,
		   struct pg_error *err)
{
	int rc = check_handle(rmr_len(g, rmr, len), "destination region", rmr, err);

	return rc ? rc : rmr_usable(g, rmr, locked, err);
}

static int check_known(struct pg_group *g, pg_peer_t peer, struct pg_error *err)
{
	int rc;

	handles_get(&g->peers, peer, &rc);
	return check_handle(rc, "peer", peer, err);
}

/* Why it is down is read under the lock, as its place may become another's. */
static int peer_refuses(struct pg_group *g, pg_peer_t peer, bool locked, struct pg_error *err)
{
	struct peer *p;
	int rc;

	if (!locked)
		group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p && !peer_alive(p))
		rc = error_set(err, p->status, "%s", p->reason);
	else if (!p)
		check_handle(rc, "peer", peer, err);
	if (!locked)
		group_leave(g);
	return rc;
}

static int check_peer(struct pg_group *g, bool locked, pg_peer_t peer, struct pg_error *err)
{
	int rc;
	struct peer *p = handles_get(&g->peers, peer, &rc);

	if (!p)
		return check_handle(rc, "peer", peer, err);
	return peer_alive(p) ? 0 : peer_refuses(g, peer, locked, err);
}

static int check_write(struct pg_group *g, bool locked, const struct pg_write *w,
		       struct pg_error *err)
{
	uint64_t src, dst;
	int rc;

	if (w->len == 0)
		return error_set(err, -EINVAL, "a write of 0 bytes; a bare immediate is a barrier");
	if ((rc = src_len(g, w->src, &src, err)) || (rc = dst_len(g, locked, w->dst, &dst, err)))
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

static int check_paged(struct pg_group *g, bool locked, const struct pg_paged *p,
		       struct pg_error *err)
{
	uint64_t src, dst;
	int rc;

	if (p->page_len == 0)
		return error_set(err, -EINVAL, "pages of 0 bytes");
	if (p->n_pages == 0)
		return error_set(err, -EINVAL, "0 pages");
	if (!p->src_indices || !p->dst_indices)
		return error_set(err, -EINVAL, "no page indices");
	if ((rc = src_len(g, p->src, &src, err)) || (rc = dst_len(g, locked, p->dst, &dst, err)))
		return rc;
	rc = check_pages(p->src_indices, p->n_pages, p->src_offset, p->src_stride, p->page_len, src,
			 "source", err);
	if (rc)
		return rc;
	return check_pages(p->dst_indices, p->n_pages, p->dst_offset, p->dst_stride, p->page_len,
			   dst, "destination", err);
}

static int check_scatter(struct pg_group *g, bool locked, const struct pg_scatter *s,
			 struct pg_error *err)
{
	if (s->n == 0 || !s->dsts)
		return error_set(err, -EINVAL, "a scatter to 0 destinations");
	if (s->n >= g->config->max_ops)
		return error_set(err, -EINVAL,
				 "a scatter to %u destinations; less than max_ops, %u", s->n,
				 g->config->max_ops);
	if (s->spread < PG_SPREAD_BYTES || s->spread > PG_SPREAD_ONE)
		return error_set(err, -EINVAL, "scatter spread %d", s->spread);
	if (s->group) {
		uint32_t n;
		int rc = peer_group_size(g, s->group, &n, err);

		if (rc)
			return rc;
		if (n != s->n)
			return error_set(err, -EINVAL, "%u destinations for a group of %u", s->n,
					 n);
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct pg_write w = { s->src, s->dsts[i].src_offset, s->dsts[i].dst,
				      s->dsts[i].dst_offset, s->dsts[i].len };
		int rc = check_write(g, locked, &w, err);

		if (rc)
			return rc;
	}
	return 0;
}

static int check_barrier(struct pg_group *g, bool locked, const struct pg_op *op,
			 struct pg_error *err)
{
	const struct pg_barrier *b = &op->u.barrier;
	uint32_t n;

	if (op->imm == PG_NO_IMM)
		return error_set(err, -EINVAL, "a barrier without an immediate");
	if (b->group && b->n)
		return error_set(err, -EINVAL, "a barrier of a group and of %u peers", b->n);
	if (b->group)
		return peer_group_size(g, b->group, &n, err);
	if (b->n == 0 || !b->peers)
		return error_set(err, -EINVAL, "a barrier with 0 peers");
	if (b->n >= g->config->max_ops)
		return error_set(err, -EINVAL, "a barrier with %u peers; less than max_ops, %u",
				 b->n, g->config->max_ops);
	for (uint32_t i = 0; i < b->n; i++) {
		int rc = check_peer(g, locked, b->peers[i], err);

		if (rc)
			return rc;
	}
	return 0;
}

static int check_send(struct pg_group *g, bool locked, const struct pg_send *s,
		      struct pg_error *err)
{
	uint32_t max = g->domains[0]->caps.max_msg;

	if (s->len == 0 || !s->data)
		return error_set(err, -EINVAL, "a message of 0 bytes");
	if (s->len > max)
		return error_set(err, -EMSGSIZE, "a message of %u bytes; at most %u", s->len, max);
	return check_peer(g, locked, s->peer, err);
}

int op_check(struct pg_group *g, const struct pg_op *op, bool locked, struct pg_error *err)
{
	if (op->imm > PG_IMM_MAX && op->imm != PG_NO_IMM)
		return error_set(err, -EINVAL, "immediate 0x%x has more than 30 bits", op->imm);
	if (op->flags & ~(uint32_t)PG_REMOTE_VISIBLE)
		return error_set(err, -EINVAL, "unknown operation flags 0x%x", op->flags);
	switch (op->opcode) {
	case PG_OP_WRITE:
		return check_write(g, locked, &op->u.write, err);
	case PG_OP_PAGED:
		return check_paged(g, locked, &op->u.paged, err);
	case PG_OP_SCATTER:
		return check_scatter(g, locked, &op->u.scatter, err);
	case PG_OP_BARRIER:
		return check_barrier(g, locked, op, err);
	case PG_OP_SEND:
		return check_send(g, locked, &op->u.send, err);
	case PG_OP_FENCE:
		return check_known(g, op->u.fence.peer, err);
	default:
		return error_set(err, -EINVAL, "opcode %u", op->opcode);
	}
}
