/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/log.h"

#define EVENT_POLLS 1024 /* the device is asked this often whether it has something to say */

/* Where arrivals go. */
struct room {
	struct arrival *next;
	unsigned left, messages;
};

static struct arrival *put(struct room *room, enum arrival_kind kind, struct verbs_conn *c)
{
	struct arrival *a = room->next++;

	*a = (struct arrival){ .kind = kind, .conn = c ? &c->conn : NULL };
	room->left--;
	return a;
}

void verbs_news(struct verbs_conn *c)
{
	if (list_empty(&c->news_link))
		list_append(&conn_domain(c)->news, &c->news_link);
}

/* ---- Sends ---- */

void verbs_end(struct verbs_queue *q, uint32_t position, int status)
{
	struct verbs_domain *d = conn_domain(q->conn);

	/* Never past what was posted, nor back. */
	if (position - q->ended > q->posted - q->ended)
		return;
	for (; q->ended != position; q->ended++) {
		struct verbs_sent *sent = &q->sent[q->ended % q->size];

		sent->status = status;
		if (sent->buffer != NO_BUFFER)
			d->spare[d->n_spare++] = sent->buffer;
		d->sends_left++;
	}
	verbs_news(q->conn);
}

/* Its own fault; others may send it. */
static int own_fault(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_LOC_LEN_ERR:
		return -EMSGSIZE;
	case IBV_WC_LOC_PROT_ERR:
	case IBV_WC_LOC_ACCESS_ERR:
		return -EFAULT;
	case IBV_WC_REM_ACCESS_ERR:
		return -EACCES;
	case IBV_WC_LOC_QP_OP_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		return -EREMOTEIO;
	default:
		return 0;
	}
}

static int why_broken(enum ibv_wc_status status)
{
	if (status == IBV_WC_RETRY_EXC_ERR)
		return -ETIMEDOUT;
	return status == IBV_WC_WR_FLUSH_ERR ? -ECONNRESET : -EIO;
}

static void sent(struct verbs_domain *d, struct verbs_queue *q, const struct ibv_wc *wc)
{
	uint32_t at = (uint32_t)wc->wr_id;
	int fault = own_fault(wc->status);

	if (wc->status == IBV_WC_SUCCESS) {
		verbs_end(q, at + 1, 0);
		return;
	}
	if (wc->status != IBV_WC_WR_FLUSH_ERR)
		log_warn("%s: %s %u to the peer failed: %s (vendor %#x)", d->domain.name,
			 q->kind == QUEUE_WRITES ? "write" : "message", at,
			 d->lib->wc_status_str(wc->status), wc->vendor_err);
	/* Those before it, if they ended silently, may have been done. */
	verbs_end(q, at, -ECONNABORTED);
	verbs_end(q, at + 1, fault ? fault : -ECONNABORTED);
	verbs_break(q->conn, fault ? fault : why_broken(wc->status));
}

/* ---- Receives ---- */

static void imm_arrived(struct verbs_domain *d, struct verbs_queue *q, const struct ibv_wc *wc,
			struct room *room, const struct arrival *first)
{
	uint32_t imm = ntohl(wc->imm_data);
	struct arrival *a = room->next - 1;

	d->imms_missing++;
	if (wc->status || !q)
		return;
	if (wc->opcode != IBV_WC_RECV_RDMA_WITH_IMM) {
		verbs_break(q->conn, -EPROTO);
		return;
	}
	if (room->next > first && a->kind == ARRIVAL_IMM && a->conn == &q->conn->conn &&
	    a->imm == imm) {
		a->count++;
		return;
	}
	a = put(room, ARRIVAL_IMM, q->conn);
	a->imm = imm;
	a->count = 1;
}

static void message_arrived(struct verbs_domain *d, struct verbs_queue *q, const struct ibv_wc *wc)
{
	struct verbs_inbound *m = &d->inbox[(d->inbox_at + d->n_inbox++) % VERBS_MSGS];

	*m = (struct verbs_inbound){ .buffer = (uint32_t)wc->wr_id, .len = wc->byte_len };
	if (wc->status || !q)
		return;
	if (wc->opcode != IBV_WC_RECV) {
		verbs_break(q->conn, -EPROTO);
		return;
	}
	m->conn = q->conn;
	q->conn->messages++;
}

static void take(struct verbs_domain *d, const struct ibv_wc *wc, struct room *room,
		 const struct arrival *first)
{
	struct verbs_queue *q = verbs_queue_find(d, wc->qp_num);

	switch (wc->wr_id & ~(uint64_t)UINT32_MAX) {
	case VERBS_ID_SEND:
		if (q)
			sent(d, q, wc);
		break;
	case VERBS_ID_LAST:
		if (q)
			verbs_end(q, q->posted, -ECONNABORTED);
		break;
	case VERBS_ID_IMM:
		imm_arrived(d, q, wc, room, first);
		break;
	case VERBS_ID_MESSAGE:
		message_arrived(d, q, wc);
		break;
	default:
		break;
	}
}

/* ---- The completion queue ---- */

/* Behind those that were not looked at. */
static unsigned fetch(struct verbs_domain *d)
{
	int n = ibv_poll_cq(d->cq, VERBS_WCS, d->wcs + d->n_wcs);

	if (n <= 0)
		return 0;
	d->n_wcs += (unsigned)n;
	return (unsigned)n;
}

void verbs_sweep(struct verbs_domain *d)
{
	memmove(d->wcs, d->wcs + d->wc_at, (d->n_wcs - d->wc_at) * sizeof(*d->wcs));
	d->n_wcs -= d->wc_at;
	d->wc_at = 0;
	while (fetch(d) == VERBS_WCS)
		;
}

void verbs_forget(struct verbs_domain *d, uint32_t qpn)
{
	unsigned n = d->wc_at;

	for (unsigned i = d->wc_at; i < d->n_wcs; i++) {
		struct ibv_wc *wc = &d->wcs[i];
		uint64_t kind = wc->wr_id & ~(uint64_t)UINT32_MAX;
		bool its = wc->qp_num == qpn;

		if (its && (kind == VERBS_ID_SEND || kind == VERBS_ID_LAST))
			continue;
		/* Receives go back whoever they were of. */
		if (its)
			wc->status = IBV_WC_WR_FLUSH_ERR;
		d->wcs[n++] = *wc;
	}
	d->n_wcs = n;
}

/* true: the queue was found empty. */
static bool take_completions(struct verbs_domain *d, struct room *room)
{
	const struct arrival *first = room->next;

	while (room->left) {
		if (d->wc_at == d->n_wcs) {
			d->wc_at = d->n_wcs = 0;
			if (!fetch(d))
				return true;
		}
		for (; room->left && d->wc_at < d->n_wcs; d->taken++)
			take(d, &d->wcs[d->wc_at++], room, first);
	}
	return false;
}

static void refill(struct verbs_domain *d)
{
	while (d->imms_missing >= VERBS_REFILL && !d->gone) {
		if (verbs_post_imms(d, VERBS_REFILL))
			return;
		d->imms_missing -= VERBS_REFILL;
	}
}

/* ---- What there is to tell ---- */

/* What the caller has read since the last poll. */
static void take_back(struct verbs_domain *d)
{
	while (d->n_handed && !verbs_post_message_buffer(d, d->handed[d->n_handed - 1]))
		d->n_handed--;
}

static void tell_messages(struct verbs_domain *d, struct room *room)
{
	d->inbox_waits = !room->messages;
	for (; d->n_inbox; d->n_inbox--, d->inbox_at = (d->inbox_at + 1) % VERBS_MSGS) {
		struct verbs_inbound *m = &d->inbox[d->inbox_at];
		struct arrival *a;

		if (m->conn && (!room->left || !room->messages))
			break;
		d->handed[d->n_handed++] = m->buffer;
		if (!m->conn)
			continue;
		m->conn->messages--;
		if (m->conn->fencing)
			verbs_news(m->conn);
		a = put(room, ARRIVAL_MSG, m->conn);
		a->data = verbs_buffer(d, m->buffer);
		a->len = m->len;
		room->messages--;
	}
}

static void tell_ended(struct verbs_queue *q, struct room *room)
{
	for (; q->told != q->ended && room->left; q->told++) {
		const struct verbs_sent *sent = &q->sent[q->told % q->size];
		struct arrival *a = put(room, ARRIVAL_DONE, q->conn);

		a->id = sent->id;
		a->status = sent->status;
	}
	if (q->kind == QUEUE_WRITES && verbs_room(q) >= VERBS_ROOM)
		q->conn->conn.full = false;
}

static bool all_told(const struct verbs_conn *c)
{
	for (unsigned k = 0; k < N_QUEUES; k++)
		if (c->queues[k].told != c->queues[k].posted)
			return false;
	return true;
}

/* What was received before it was still is in the queue, unless that was empty since, or as much as it
 * holds was taken from it. */
static bool all_taken(struct verbs_conn *c, bool empty)
{
	struct verbs_domain *d = conn_domain(c);

	if (c->still)
		return empty || d->taken - c->still_at > 2ull * d->entries;
	c->still = verbs_is_still(c);
	c->still_at = d->taken;
	return false;
}

/* Whether there is nothing more to tell of it for now. */
static bool tell_conn(struct verbs_conn *c, struct room *room, bool empty)
{
	/* Of one that was never attached nobody waits for that, and it may be closed by now. */
	if (c->status && c->attached && !c->dead_told && !c->stopping && room->left) {
		put(room, ARRIVAL_DEAD, c)->status = c->status;
		c->dead_told = true;
	}
	for (unsigned k = 0; k < N_QUEUES; k++)
		tell_ended(&c->queues[k], room);
	if (c->stopping && !c->stopped_told && room->left && all_told(c)) {
		put(room, ARRIVAL_STOPPED, c);
		c->stopped_told = true;
	}
	if (c->fencing && !c->fenced_told && room->left && !c->messages && all_taken(c, empty)) {
		put(room, ARRIVAL_FENCED, c);
		c->fenced_told = true;
	}
	/* Once its messages are taken it is looked at again. */
	return room->left && !(c->fencing && !c->fenced_told && !c->messages);
}

static void tell_news(struct verbs_domain *d, struct room *room, bool empty)
{
	struct list now;

	/* First, as it says why connections broke. */
	if (d->tell_nic && room->left) {
		put(room, ARRIVAL_NIC, NULL)->status = d->nic_status;
		d->tell_nic = false;
	}
	list_take_all(&now, &d->news);
	while (!list_empty(&now)) {
		struct verbs_conn *c = LIST_ENTRY(now.next, struct verbs_conn, news_link);

		list_remove(&c->news_link);
		if (!tell_conn(c, room, empty))
			list_append(&d->news, &c->news_link);
	}
}

unsigned verbs_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
		    unsigned max_msgs)
{
	struct verbs_domain *d = verbs_domain(domain);
	struct room room = { .next = arrivals, .left = max, .messages = max_msgs };
	unsigned kept;
	bool empty;

	take_back(d);
	/* Immediates may come faster than they are taken, and there is more to tell. */
	kept = list_empty(&d->news) && !d->tell_nic && !d->n_inbox ? 0 : max / 4;
	room.left -= kept;
	empty = take_completions(d, &room);
	room.left += kept;
	if (d->suspicious || ++d->polls % EVENT_POLLS == 0)
		verbs_events(d);
	d->suspicious = false;
	refill(d);
	if (d->n_inbox)
		tell_messages(d, &room);
	if (!list_empty(&d->news) || d->tell_nic)
		tell_news(d, &room, empty);
	return max - room.left;
}

/* ---- Sleep ---- */

static void drain_channel(struct verbs_domain *d)
{
	struct ibv_cq *cq;
	void *context;

	while (!d->lib->get_cq_event(d->channel, &cq, &context)) {
		d->lib->ack_cq_events(cq, 1);
		d->notified = false;
	}
}

bool verbs_arm(struct domain *domain, bool sleep)
{
	struct verbs_domain *d = verbs_domain(domain);

	if (!sleep) {
		if (d->armed)
			drain_channel(d);
		if (d->armed)
			verbs_events(d);
		d->armed = false;
		return false;
	}
	d->armed = true;
	/* What rang since the last sleep may have been heard by others who watch the descriptor. */
	drain_channel(d);
	verbs_events(d);
	if (d->wc_at < d->n_wcs || !list_empty(&d->news) || d->tell_nic ||
	    (d->n_inbox && !d->inbox_waits))
		return false;
	if (d->gone)
		return true;
	if (!d->notified && ibv_req_notify_cq(d->cq, 0))
		return false;
	d->notified = true;
	/* What completed before it was asked for does not ring. */
	d->wc_at = d->n_wcs = 0;
	return !fetch(d);
}
