/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"
#include "util/log.h"
#include "util/random.h"

#define OFFER_LAYOUT 1
#define PSN_MASK 0xffffff
#define FULL_MEMBER 0x8000
#define READS 1 /* none are made, but devices want to hear of one */
#define HOPS 64

/* How our half of a connection is reached. */
struct verbs_offer {
	uint32_t layout;
	uint16_t lid;
	uint16_t pkey;
	uint8_t gid[16];
	uint8_t mtu; /* enum ibv_mtu */
	uint8_t ethernet;
	uint8_t needs_grh; /* its LID alone does not lead to it */
	uint8_t unused;
	uint32_t qpn[N_QUEUES];
	uint32_t psn[N_QUEUES];
	uint32_t zero_rkey;
	uint64_t zero_addr;
};

_Static_assert(sizeof(struct verbs_offer) <= OFFER_BYTES, "it fits");

/* ---- Queue pairs by number ---- */

static int enter_qpn(struct verbs_domain *d, struct verbs_queue *q)
{
	uint32_t qpn = q->qp->qp_num % (1u << QPN_BITS);
	struct verbs_queue ***page = &d->qpns[qpn / QPN_PAGE];

	if (!*page)
		*page = calloc(QPN_PAGE, sizeof(**page));
	if (!*page)
		return -ENOMEM;
	(*page)[qpn % QPN_PAGE] = q;
	return 0;
}

static void forget_qpn(struct verbs_domain *d, const struct verbs_queue *q)
{
	uint32_t qpn = q->qp->qp_num % (1u << QPN_BITS);

	if (d->qpns[qpn / QPN_PAGE])
		d->qpns[qpn / QPN_PAGE][qpn % QPN_PAGE] = NULL;
}

struct verbs_queue *verbs_queue_find(const struct verbs_domain *d, uint32_t qpn)
{
	struct verbs_queue **page = d->qpns[qpn % (1u << QPN_BITS) / QPN_PAGE];

	return page ? page[qpn % QPN_PAGE] : NULL;
}

/* ---- Our half ---- */

static int open_queue(struct verbs_domain *d, struct verbs_queue *q, struct pg_error *err)
{
	struct ibv_qp_init_attr init = {
		.send_cq = d->cq,
		.recv_cq = d->cq,
		.srq = d->srqs[q->kind],
		.cap = { .max_send_wr = q->size - 1,
			 .max_send_sge = 1,
			 .max_inline_data = VERBS_INLINE },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.pkey_index = d->port.pkey_index,
		.port_num = d->port.number,
		.qp_access_flags = q->kind == QUEUE_WRITES ? IBV_ACCESS_REMOTE_WRITE : 0,
	};
	int rc;

	q->qp = d->lib->create_qp(d->queue_pd, &init);
	if (!q->qp)
		return error_set(err, errno ? -errno : -EIO,
				 "%s makes no queue pair: %m; it has at most %d of %d work "
				 "requests",
				 d->domain.name, d->port.limits.max_qp, d->port.limits.max_qp_wr);
	rc = enter_qpn(d, q);
	if (rc)
		return error_set(err, rc, "no memory for a queue pair");
	rc = d->lib->modify_qp(
		q->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	return rc ? error_set(err, -rc, "%s: a queue pair does not start: %s", d->domain.name,
			      strerror(rc))
		  : 0;
}

static void close_queue(struct verbs_domain *d, struct verbs_queue *q)
{
	if (!q->qp)
		return;
	forget_qpn(d, q);
	if (d->lib->destroy_qp(q->qp))
		log_warn("%s: queue pair %u is not destroyed: %m", d->domain.name, q->qp->qp_num);
	q->qp = NULL;
}

static void fill_offer(const struct verbs_conn *c, struct offer *offer)
{
	const struct verbs_domain *d = conn_domain(c);
	struct verbs_offer ours = {
		.layout = OFFER_LAYOUT,
		.lid = d->port.attr.lid,
		.pkey = d->port.pkey,
		.mtu = (uint8_t)d->port.mtu,
		.ethernet = d->port.attr.link_layer == IBV_LINK_LAYER_ETHERNET,
		.needs_grh = !!(d->port.attr.flags & IBV_QPF_GRH_REQUIRED),
		.zero_rkey = d->zero_mr->rkey,
		.zero_addr = (uintptr_t)d->zero_mr->addr,
	};

	memcpy(ours.gid, d->port.gid.raw, sizeof(ours.gid));
	for (unsigned k = 0; k < N_QUEUES; k++) {
		ours.qpn[k] = c->queues[k].qp->qp_num;
		ours.psn[k] = c->queues[k].psn;
	}
	*offer = (struct offer){ .len = sizeof(ours) };
	memcpy(offer->bytes, &ours, sizeof(ours));
}

static struct verbs_conn *make_conn(struct domain *domain)
{
	struct verbs_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->conn.domain = domain;
	c->conn.max_unmapped = VERBS_MAX_WRITE;
	list_init(&c->link);
	list_init(&c->news_link);
	for (unsigned k = 0; k < N_QUEUES; k++) {
		c->queues[k].conn = c;
		c->queues[k].kind = (enum verbs_kind)k;
	}
	c->queues[QUEUE_WRITES].size = VERBS_WRS;
	c->queues[QUEUE_WRITES].sent = c->sent_writes;
	c->queues[QUEUE_MESSAGES].size = VERBS_MSG_WRS;
	c->queues[QUEUE_MESSAGES].sent = c->sent_messages;
	return c;
}

int verbs_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		    struct pg_error *err)
{
	struct verbs_domain *d = verbs_domain(domain);
	struct verbs_conn *c;
	int rc = 0;

	if (d->gone || d->down)
		return error_set(err, -ENETDOWN, "%s is down", domain->name);
	if (d->sends_left < N_QUEUES)
		return error_set(err, -ENOSPC, "%s has no room for more connections", domain->name);
	c = make_conn(domain);
	if (!c)
		return error_set(err, -ENOMEM, "no memory for a connection");
	for (unsigned k = 0; k < N_QUEUES && !rc; k++) {
		rc = random_bytes(&c->queues[k].psn, sizeof(c->queues[k].psn));
		c->queues[k].psn &= PSN_MASK;
		if (rc)
			error_set(err, rc, "no random bytes for a connection");
		else
			rc = open_queue(d, &c->queues[k], err);
	}
	if (rc) {
		for (unsigned k = 0; k < N_QUEUES; k++)
			close_queue(d, &c->queues[k]);
		free(c);
		return rc;
	}
	d->sends_left -= N_QUEUES; /* for the last of each */
	list_append(&d->conns, &c->link);
	fill_offer(c, offer);
	*conn = &c->conn;
	return 0;
}

/* ---- The peer's ---- */

static bool same_partition(uint16_t a, uint16_t b)
{
	return !((a ^ b) & ~FULL_MEMBER) && (a | b) & FULL_MEMBER;
}

static int check_offer(const struct verbs_domain *d, const struct offer *offer,
		       struct verbs_offer *theirs, struct pg_error *err)
{
	bool ethernet = d->port.attr.link_layer == IBV_LINK_LAYER_ETHERNET;

	if (offer->len != sizeof(*theirs) || offer->n_fds)
		return error_set(err, -EPROTO,
				 "a verbs offer has %u bytes and %u fds, not %zu and 0", offer->len,
				 offer->n_fds, sizeof(*theirs));
	memcpy(theirs, offer->bytes, sizeof(*theirs));
	if (theirs->layout != OFFER_LAYOUT)
		return error_set(err, -EPROTO, "the peer's verbs layout is %u, ours is %u",
				 theirs->layout, OFFER_LAYOUT);
	if (theirs->mtu < IBV_MTU_256 || theirs->mtu > IBV_MTU_4096)
		return error_set(err, -EPROTO, "the peer's MTU has the code %u", theirs->mtu);
	if (!theirs->ethernet != !ethernet)
		return error_set(err, -EHOSTUNREACH, "%s is %s, the peer's NIC is %s",
				 d->domain.name, ethernet ? "Ethernet" : "InfiniBand",
				 ethernet ? "InfiniBand" : "Ethernet");
	/* The way would be to a router, whose LID nobody has told us. */
	if (!ethernet && memcmp(theirs->gid, d->port.gid.raw, 8))
		return error_set(err, -EHOSTUNREACH,
				 "%s is in another InfiniBand subnet than the peer's NIC",
				 d->domain.name);
	if (!same_partition(d->port.pkey, theirs->pkey))
		return error_set(err, -EHOSTUNREACH,
				 "%s is in the partition of P_Key %#06x, the peer's NIC in %#06x; "
				 "one of them must be a full member (0x8000) of the same",
				 d->domain.name, d->port.pkey, theirs->pkey);
	return 0;
}

static enum ibv_mtu common_mtu(const struct verbs_domain *d, const struct verbs_offer *theirs)
{
	if (theirs->mtu == d->port.mtu)
		return d->port.mtu;
	log_warn("%s has an MTU of %d, the peer's NIC %d: the smaller one is used", d->domain.name,
		 128 << d->port.mtu, 128 << theirs->mtu);
	return theirs->mtu < d->port.mtu ? (enum ibv_mtu)theirs->mtu : d->port.mtu;
}

static struct ibv_ah_attr way_to(const struct verbs_domain *d, const struct verbs_offer *theirs)
{
	struct ibv_ah_attr way = {
		.dlid = theirs->lid,
		.sl = (uint8_t)d->options.service_level,
		.port_num = d->port.number,
		.is_global = theirs->ethernet || theirs->needs_grh ||
			     d->port.attr.flags & IBV_QPF_GRH_REQUIRED,
		.grh = { .sgid_index = d->port.gid_index,
			 .hop_limit = HOPS,
			 .traffic_class = (uint8_t)d->options.traffic_class },
	};

	memcpy(way.grh.dgid.raw, theirs->gid, sizeof(theirs->gid));
	return way;
}

static int start_queue(struct verbs_domain *d, struct verbs_queue *q,
		       const struct verbs_offer *theirs, struct pg_error *err)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = common_mtu(d, theirs),
		.dest_qp_num = theirs->qpn[q->kind] % (1u << QPN_BITS),
		.rq_psn = theirs->psn[q->kind] & PSN_MASK,
		.max_dest_rd_atomic = READS,
		.min_rnr_timer = (uint8_t)d->options.rnr,
		.ah_attr = way_to(d, theirs),
	};
	int rc = d->lib->modify_qp(q->qp, &attr,
				   IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
					   IBV_QP_MIN_RNR_TIMER);

	if (rc)
		return error_set(err, -rc,
				 "%s finds no way to the peer's NIC: %s; are both in a subnet, or "
				 "is there a route between them?",
				 d->domain.name, strerror(rc));
	/* A receiver that has no receive is waited for: deadlines are the engine's. */
	attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS,
				     .timeout = (uint8_t)d->options.timeout,
				     .retry_cnt = (uint8_t)d->options.retry,
				     .rnr_retry = 7,
				     .sq_psn = q->psn,
				     .max_rd_atomic = READS };
	rc = d->lib->modify_qp(q->qp, &attr,
			       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
	return rc ? error_set(err, -rc, "%s: a queue pair does not start: %s", d->domain.name,
			      strerror(rc))
		  : 0;
}

int verbs_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct verbs_conn *c = verbs_conn(conn);
	struct verbs_domain *d = conn_domain(c);
	struct verbs_offer theirs;
	char at[INET6_ADDRSTRLEN] = "?";
	int rc;

	if (c->status || d->gone)
		return error_set(err, -ENETDOWN, "%s is down", d->domain.name);
	rc = check_offer(d, offer, &theirs, err);
	for (unsigned k = 0; k < N_QUEUES && !rc; k++)
		rc = start_queue(d, &c->queues[k], &theirs, err);
	if (rc)
		return rc;
	c->zero_addr = theirs.zero_addr;
	c->zero_rkey = theirs.zero_rkey;
	c->attached = true;
	inet_ntop(AF_INET6, theirs.gid, at, sizeof(at));
	snprintf(conn->note, sizeof(conn->note), "RC from %s to %s, MTU %d", d->domain.name,
		 strncmp(at, "::ffff:", 7) ? at : at + 7,
		 128 << (theirs.mtu < d->port.mtu ? theirs.mtu : d->port.mtu));
	return 0;
}

/* ---- The end ---- */

/* What it has in flight is forgotten; its room comes back. */
static void drop_sent(struct verbs_domain *d, struct verbs_queue *q)
{
	if (d->chain.queue == q)
		d->chain.queue = NULL;
	verbs_end(q, q->posted, -ECONNABORTED);
}

static void drop_messages(struct verbs_domain *d, const struct verbs_conn *c)
{
	for (unsigned i = 0; i < d->n_inbox; i++) {
		struct verbs_inbound *m = &d->inbox[(d->inbox_at + i) % VERBS_MSGS];

		if (m->conn == c)
			m->conn = NULL;
	}
}

void verbs_conn_close(struct conn *conn)
{
	struct verbs_conn *c = verbs_conn(conn);
	struct verbs_domain *d = conn_domain(c);

	/* Completions that the device still has would be taken for those of who gets the number next;
	 * and some devices forget them with the queue pair, receives included. */
	verbs_break(c, -ESHUTDOWN);
	for (unsigned k = 0; k < N_QUEUES; k++) {
		uint32_t qpn = c->queues[k].qp->qp_num;

		verbs_sweep(d);
		drop_sent(d, &c->queues[k]);
		close_queue(d, &c->queues[k]);
		verbs_sweep(d);
		verbs_forget(d, qpn);
	}
	d->sends_left += N_QUEUES;
	drop_messages(d, c);
	list_remove(&c->link);
	list_remove(&c->news_link);
	free(c);
}
