/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"
#include "util/log.h"

/* ---- Receives ---- */

int verbs_post_imms(struct verbs_domain *d, unsigned n)
{
	struct ibv_recv_wr wrs[VERBS_REFILL], *bad;

	for (unsigned i = 0; i < n; i++)
		wrs[i] = (struct ibv_recv_wr){ .wr_id = VERBS_ID_IMM, .next = &wrs[i + 1] };
	wrs[n - 1].next = NULL;
	return ibv_post_srq_recv(d->srqs[QUEUE_WRITES], wrs, &bad);
}

int verbs_post_message_buffer(struct verbs_domain *d, uint32_t buffer)
{
	struct ibv_sge sge = { .addr = (uintptr_t)verbs_buffer(d, buffer),
			       .length = PG_MSG_MAX,
			       .lkey = d->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = VERBS_ID_MESSAGE | buffer,
				  .sg_list = &sge,
				  .num_sge = 1 };
	struct ibv_recv_wr *bad;

	return ibv_post_srq_recv(d->srqs[QUEUE_MESSAGES], &wr, &bad);
}

/* ---- The doorbell ---- */

void verbs_ring(struct verbs_domain *d)
{
	struct verbs_chain *chain = &d->chain;
	struct verbs_queue *q = chain->queue;
	struct ibv_send_wr *bad;
	int rc;

	if (!q)
		return;
	chain->queue = NULL;
	for (unsigned i = 0; i + 1 < chain->n; i++)
		chain->wrs[i].next = &chain->wrs[i + 1];
	chain->wrs[chain->n - 1].next = NULL;
	/* Those that complete silently end with the next that does not. */
	chain->wrs[chain->n - 1].send_flags |= IBV_SEND_SIGNALED;
	rc = ibv_post_send(q->qp, chain->wrs, &bad);
	if (!rc)
		return;
	log_warn("%s takes no work request: %s", d->domain.name, strerror(rc < 0 ? -rc : rc));
	/* The end of those that it did not take comes with that of the last. */
	verbs_break(q->conn, -EIO);
}

void verbs_flush(struct conn *conn)
{
	struct verbs_domain *d = verbs_domain(conn->domain);

	if (d->chain.queue && d->chain.queue->conn == verbs_conn(conn))
		verbs_ring(d);
}

/* ---- Sends ---- */

static void aim(const struct verbs_conn *c, const struct wr *wr, struct ibv_send_wr *to,
		struct ibv_sge *sge)
{
	to->opcode = wr->op == WR_WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_WRITE_WITH_IMM;
	to->imm_data = htonl(wr->imm);
	to->wr.rdma.remote_addr = wr->len ? wr->raddr : c->zero_addr;
	to->wr.rdma.rkey = wr->len ? (uint32_t)wr->rkey : c->zero_rkey;
	sge->addr = (uintptr_t)wr->src;
	if (!wr->len)
		return;
	sge->lkey = verbs_mr(wr->lkey)->lkey;
	if (wr->len <= VERBS_INLINE && !(wr->lkey & VERBS_LKEY_GPU))
		to->send_flags |= IBV_SEND_INLINE;
}

/* false: no buffer is free. */
static bool copy_message(struct verbs_domain *d, const struct wr *wr, struct ibv_send_wr *to,
			 struct ibv_sge *sge, struct verbs_sent *sent)
{
	to->opcode = IBV_WR_SEND;
	sge->addr = (uintptr_t)wr->src;
	if (wr->len && wr->len <= VERBS_INLINE)
		to->send_flags |= IBV_SEND_INLINE;
	if (wr->len <= VERBS_INLINE)
		return true;
	if (!d->n_spare)
		return false;
	sent->buffer = d->spare[--d->n_spare];
	sge->addr = (uintptr_t)verbs_buffer(d, sent->buffer);
	sge->lkey = d->mr->lkey;
	memcpy(verbs_buffer(d, sent->buffer), wr->src, wr->len);
	return true;
}

/* Where there is little left for all, who has little in flight goes first. */
static bool has_credit(const struct verbs_domain *d, const struct verbs_queue *q)
{
	uint32_t in_flight = q->posted - q->ended;

	if (!verbs_room(q) || !d->sends_left)
		return false;
	if (q->kind == QUEUE_MESSAGES && d->n_spare < VERBS_MSGS / 2 && in_flight >= 2)
		return false;
	return d->sends_left >= d->sends / 2 || in_flight < VERBS_SIGNAL;
}

/* Puts a work request into the chain; false: there is no credit. */
static bool chain_add(struct verbs_conn *c, struct verbs_queue *q, const struct wr *wr)
{
	struct verbs_domain *d = conn_domain(c);
	struct verbs_chain *chain = &d->chain;
	struct verbs_sent *sent = &q->sent[q->posted % q->size];
	struct ibv_send_wr *to;
	struct ibv_sge *sge;

	if (!has_credit(d, q))
		return false;
	if (chain->queue && (chain->queue != q || chain->n == VERBS_CHAIN))
		verbs_ring(d);
	if (c->status)
		return false;
	if (!chain->queue)
		chain->n = 0;
	to = &chain->wrs[chain->n];
	sge = &chain->sges[chain->n];
	*to = (struct ibv_send_wr){ .wr_id = VERBS_ID_SEND | q->posted,
				    .sg_list = sge,
				    .num_sge = wr->len > 0 };
	*sge = (struct ibv_sge){ .length = (uint32_t)wr->len };
	*sent = (struct verbs_sent){ .id = wr->id, .buffer = NO_BUFFER };
	if (wr->op != WR_SEND)
		aim(c, wr, to, sge);
	else if (!copy_message(d, wr, to, sge, sent))
		return false;
	if (q->posted % VERBS_SIGNAL == VERBS_SIGNAL - 1)
		to->send_flags |= IBV_SEND_SIGNALED;
	chain->queue = q;
	chain->n++;
	q->posted++;
	d->sends_left--;
	return true;
}

int verbs_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct verbs_conn *c = verbs_conn(conn);
	unsigned posted = 0;

	if (c->status)
		return error_set(err, -ECONNABORTED, "the connection over %s is broken",
				 conn->domain->name);
	while (posted < n) {
		const struct wr *wr = &wrs[posted];

		if (!chain_add(c, &c->queues[wr->op == WR_SEND ? QUEUE_MESSAGES : QUEUE_WRITES],
			       wr))
			break;
		posted++;
	}
	if (posted < n)
		conn->full = verbs_room(&c->queues[QUEUE_WRITES]) < VERBS_ROOM;
	return posted ? (int)posted : c->status ? -ECONNABORTED : -EAGAIN;
}

void verbs_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct verbs_conn *c = (const struct verbs_conn *)conn;
	const struct verbs_queue *q = c->queues;

	snprintf(buf, size, "%u writes and %u messages in flight, room for %u more on the NIC%s",
		 q[QUEUE_WRITES].posted - q[QUEUE_WRITES].ended,
		 q[QUEUE_MESSAGES].posted - q[QUEUE_MESSAGES].ended, conn_domain(c)->sends_left,
		 c->status ? "; broken" : "");
}
