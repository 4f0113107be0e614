/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"
#include "util/clock.h"
#include "util/log.h"

#define LINK_POLLS 1024
#define READS 256 /* completions read in a poll: they may come as fast as they are read */
/* Between looks of who sleeps where nothing rings. */
#define NAP_MIN_NS 20000ull
#define NAP_MAX_NS 200000ull

/* Where arrivals go. */
struct room {
	struct arrival *next;
	unsigned left, messages;
};

static struct arrival *put(struct room *room, enum arrival_kind kind, struct ofi_conn *c)
{
	struct arrival *a = room->next++;

	room->left--;
	a->kind = kind;
	a->conn = c ? &c->conn : NULL;
	return a;
}

/* ---- What was sent ---- */

/* What the device of efa says of a work request, whatever error is made of it. */
enum efa_status {
	EFA_LOCAL_INVALID_LKEY = 5,
	EFA_LOCAL_BAD_LENGTH = 6,
	EFA_REMOTE_BAD_ADDRESS = 7,
	EFA_REMOTE_BAD_LENGTH = 11,
};

static int own_fault_efa(int prov_errno)
{
	switch (prov_errno) {
	case EFA_LOCAL_INVALID_LKEY:
	case EFA_LOCAL_BAD_LENGTH:
		return -EFAULT;
	case EFA_REMOTE_BAD_ADDRESS:
	case EFA_REMOTE_BAD_LENGTH:
		return -EACCES;
	default:
		return 0;
	}
}

/* Its own fault; others may be sent. Where that breaks the connection it does so for all, with an error
 * that does not tell (tcp). */
static int own_fault(const struct ofi_domain *d, const struct fi_cq_err_entry *e)
{
	if (d->nic.efa)
		return own_fault_efa(e->prov_errno);
	switch (e->err) {
	case FI_EACCES:
	case FI_EPERM:
	case FI_EKEYREJECTED:
	case FI_ENOKEY:
		return -EACCES;
	case FI_EFAULT:
		return -EFAULT;
	case FI_EMSGSIZE:
		return -EMSGSIZE;
	default:
		return 0;
	}
}

/* e: NULL if all went well. */
static void sent(struct ofi_domain *d, struct ofi_send *send, const struct fi_cq_err_entry *e)
{
	struct ofi_conn *c = send->conn;
	int fault = e ? own_fault(d, e) : 0;

	if (!e && send->owes) {
		list_remove(&send->link);
		list_append(&d->owing, &send->link);
		return;
	}
	ofi_send_ended(d, send, !e ? 0 : fault ? fault : -ECONNABORTED);
	if (c && e && !fault)
		ofi_conn_break(c, e->err > 0 && e->err < FI_ERRNO_OFFSET ? -e->err : -EIO);
}

/* ---- What has come ---- */

static void imm_arrived(struct room *room, struct ofi_conn *c, uint32_t imm,
			const struct arrival *first)
{
	struct arrival *a = room->next - 1;

	/* Late, of one that is given up. */
	if (!c || c->fenced_told)
		return;
	if (room->next > first && a->kind == ARRIVAL_IMM && a->conn == &c->conn && a->imm == imm) {
		a->count++;
		return;
	}
	a = put(room, ARRIVAL_IMM, c);
	a->imm = imm;
	a->count = 1;
}

static void message_arrived(struct ofi_domain *d, struct ofi_receive *r, size_t len,
			    struct room *room, const struct arrival *first)
{
	const struct ofi_header *header = &r->packet->header;
	struct ofi_conn *c = len >= sizeof(*header) ? ofi_conn_find(d, header->tag) : NULL;
	struct ofi_imm imm;

	if (c && (c->nonce != header->nonce || c->fenced_told))
		c = NULL;
	if (c && header->kind == OFI_IMM) {
		memcpy(&imm, r->packet, sizeof(imm));
		imm_arrived(room, len >= sizeof(imm) ? c : NULL, imm.imm, first);
		c = NULL;
	}
	r->conn = c;
	r->len = c ? (uint32_t)(len - sizeof(*header)) : 0;
	if (c)
		c->received++;
	list_append(c ? &d->inbox : &d->handed, &r->link);
}

static struct ofi_conn *source(const struct ofi_domain *d, uint64_t data, fi_addr_t from)
{
	if (d->whose == OFI_BY_DATA)
		return ofi_conn_find(d, (uint32_t)(data >> 32));
	return from < d->n_sources ? d->sources[from] : NULL;
}

static void take(struct ofi_domain *d, const struct fi_cq_data_entry *e, fi_addr_t from,
		 struct room *room, const struct arrival *first)
{
	struct ofi_token *token = e->op_context;
	bool written = e->flags & FI_REMOTE_WRITE;

	/* Of what others write the context says nothing; a message may come with data, too. */
	if (written && (e->flags & FI_REMOTE_CQ_DATA))
		imm_arrived(room, source(d, e->data, from), (uint32_t)e->data, first);
	else if (written || !token)
		return;
	else if (token->is_receive)
		message_arrived(d, LIST_ENTRY(token, struct ofi_receive, token), e->len, room,
				first);
	else
		sent(d, LIST_ENTRY(token, struct ofi_send, token), NULL);
}

static void say_error(struct ofi_domain *d, const struct fi_cq_err_entry *e)
{
	char text[128] = "";

	fi_cq_strerror(d->cq, e->prov_errno, e->err_data, text, sizeof(text));
	log_warn("%s (%s of libfabric): %s: %s", d->domain.name, ofi_provider(d),
		 d->lib->strerror(e->err), text);
}

/* An operation that failed; of a receive nothing has come. */
static void take_error(struct ofi_domain *d)
{
	/* Newer ones have more members, which the library fills in. */
	union {
		struct fi_cq_err_entry entry;
		uint8_t newer[256];
	} room = { .newer = { 0 } };
	const struct fi_cq_err_entry *e = &room.entry;
	struct ofi_token *token;

	if (fi_cq_readerr(d->cq, &room.entry, 0) != 1)
		return;
	token = e->op_context;
	if (e->err != FI_ECANCELED && log_wanted(PG_LOG_WARN))
		say_error(d, e);
	if (!token || (e->flags & FI_REMOTE_WRITE))
		return;
	if (!token->is_receive) {
		sent(d, LIST_ENTRY(token, struct ofi_send, token), e);
		return;
	}
	LIST_ENTRY(token, struct ofi_receive, token)->conn = NULL;
	list_append(&d->handed, &LIST_ENTRY(token, struct ofi_receive, token)->link);
}

/* The queue is of no use any more, and so is the NIC. */
static void queue_failed(struct ofi_domain *d, ssize_t rc)
{
	log_warn("%s (%s of libfabric): its completion queue has failed: %s", d->domain.name,
		 ofi_provider(d), d->lib->strerror((int)-rc));
	ofi_link_lost(d);
	for (unsigned i = 0; i < d->n_conns; i++)
		if (d->conns[i])
			ofi_conn_break(d->conns[i], -EIO);
}

static ssize_t read_some(struct ofi_domain *d, struct fi_cq_data_entry *entries, fi_addr_t *from,
			 size_t n)
{
	if (d->lost)
		return -FI_EAGAIN;
	errno = 0; /* else a socket that is left in there may stay open, see ofi_strangers.c */
	return d->whose == OFI_BY_ADDRESS ? fi_cq_readfrom(d->cq, entries, n, from)
					  : fi_cq_read(d->cq, entries, n);
}

/* Each is one arrival at most, so that what is read has room. */
static void read_all(struct ofi_domain *d, struct room *room)
{
	const struct arrival *first = room->next;
	struct fi_cq_data_entry entries[OFI_BATCH];
	fi_addr_t from[OFI_BATCH] = { 0 };
	unsigned reads = READS;

	while (room->left && reads) {
		size_t n = room->left < OFI_BATCH ? room->left : OFI_BATCH;
		ssize_t got = read_some(d, entries, from, n < reads ? n : reads);

		if (got == -FI_EAVAIL) {
			take_error(d);
			d->read.taken++;
			reads--;
			continue;
		}
		if (got <= 0) {
			if (got < 0 && got != -FI_EAGAIN)
				queue_failed(d, got);
			/* ofi_rxm keeps to itself what finds no receive, and says that it is empty. */
			if (!d->nic.rxm || list_empty(&d->handed))
				d->read.empty++;
			return;
		}
		d->read.taken += (size_t)got;
		reads -= (unsigned)got;
		for (ssize_t i = 0; i < got; i++)
			take(d, &entries[i], from[i], room, first);
		/* There were no more, and to ask again may be a system call. */
		if ((size_t)got < n && !d->nic.rxm)
			return;
	}
}

/* ---- What there is to tell ---- */

/* What the caller has read since the last poll. */
static void take_back(struct ofi_domain *d)
{
	struct list now;

	list_take_all(&now, &d->handed);
	while (!list_empty(&now)) {
		struct ofi_receive *r = LIST_ENTRY(now.next, struct ofi_receive, link);

		list_remove(&r->link);
		if (!ofi_receive_again(r))
			list_append(&d->handed, &r->link);
	}
}

static void tell_messages(struct ofi_domain *d, struct room *room)
{
	d->inbox_waits = !room->messages;
	while (!list_empty(&d->inbox)) {
		struct ofi_receive *r = LIST_ENTRY(d->inbox.next, struct ofi_receive, link);
		struct arrival *a;

		if (r->conn && (!room->left || !room->messages))
			return;
		list_remove(&r->link);
		list_append(&d->handed, &r->link);
		if (!r->conn)
			continue;
		r->conn->received--;
		if (r->conn->fencing)
			ofi_news(r->conn);
		a = put(room, ARRIVAL_MSG, r->conn);
		a->data = r->packet->data;
		a->len = r->len;
		room->messages--;
	}
}

static void told(struct ofi_conn *c, struct room *room, const struct ofi_send *send, int status)
{
	struct arrival *a = put(room, ARRIVAL_DONE, c);

	a->id = send->id;
	a->status = status;
	*(send->is_message ? &c->messages : &c->writes) -= 1;
	c->bytes -= send->len;
	if (c->writes <= OFI_WRITES - OFI_ROOM && c->bytes < OFI_BYTES)
		c->conn.full = false;
	if (c->stopping && !c->stopped_told)
		ofi_news(c);
}

/* Leaves room for others. */
static void tell_ended(struct ofi_domain *d, struct room *room, unsigned others)
{
	while (!list_empty(&d->ended) && room->left > others) {
		struct ofi_send *send = LIST_ENTRY(d->ended.next, struct ofi_send, link);

		told(send->conn, room, send, send->status);
		ofi_send_free(d, send);
	}
}

/* What has come of messages is for the receiver to say, and what comes later is of nobody there: theirs
 * need not be waited for. */
static void give_up_messages(struct ofi_conn *c, struct room *room)
{
	struct list *sends = &c->messenger->sends;

	for (struct list *l = sends->next; l != sends && room->left; l = l->next) {
		struct ofi_send *send = LIST_ENTRY(l, struct ofi_send, link);

		if (send->conn != c || !send->is_message)
			continue;
		told(c, room, send, -ECONNABORTED);
		send->conn = NULL;
	}
}

/* What the peer had sent before it stopped has been read, and nothing of it lands any more. */
static bool is_still(struct ofi_conn *c)
{
	const struct ofi_domain *d = conn_domain(c);

	if (!c->settled && (!c->writer->fid || clock_ns() >= c->fence_ns)) {
		c->settled = true;
		c->fence = d->read;
	}
	return c->settled && ofi_is_read(d, &c->fence);
}

/* Whether it has to be looked at again by itself. */
static bool tell_conn(struct ofi_conn *c, struct room *room)
{
	/* Of one that was never attached nobody waits for that, and it may be closed by now. */
	if (c->status && c->attached && !c->dead_told && !c->stopping && room->left) {
		put(room, ARRIVAL_DEAD, c)->status = c->status;
		c->dead_told = true;
	}
	if (!c->stopping)
		return !room->left;
	if (c->messages)
		give_up_messages(c, room);
	if (!c->stopped_told && room->left && !c->writes && !c->messages) {
		put(room, ARRIVAL_STOPPED, c);
		c->stopped_told = true;
	}
	if (c->fencing && !c->fenced_told && room->left && !c->received && is_still(c)) {
		put(room, ARRIVAL_FENCED, c);
		c->fenced_told = true;
	}
	/* What is told of it brings it back here. */
	return !room->left || (c->fencing && !c->fenced_told && !c->received);
}

static void tell_news(struct ofi_domain *d, struct room *room)
{
	struct list now;

	/* First, as it says why connections broke. */
	if (d->tell_nic && room->left) {
		put(room, ARRIVAL_NIC, NULL)->status = d->down ? -ENETDOWN : 0;
		d->tell_nic = false;
	}
	list_take_all(&now, &d->news);
	while (!list_empty(&now)) {
		struct ofi_conn *c = LIST_ENTRY(now.next, struct ofi_conn, news_link);

		list_remove(&c->news_link);
		if (tell_conn(c, room))
			ofi_news(c);
	}
}

/* What waits to be told, but for messages that the caller has no room for. */
static bool has_more(const struct ofi_domain *d, bool messages)
{
	return !list_empty(&d->news) || d->tell_nic || !list_empty(&d->ended) ||
	       !list_empty(&d->owing) || (messages && !list_empty(&d->inbox));
}

/* Each kind has a share of the room, as others may come as fast as they are told. */
static void tell(struct ofi_domain *d, struct room *room)
{
	bool others = !list_empty(&d->news) || d->tell_nic || !list_empty(&d->inbox);

	if (!list_empty(&d->ended))
		tell_ended(d, room, others ? room->left / 2 : 0);
	if (!list_empty(&d->news) || d->tell_nic)
		tell_news(d, room);
	if (!list_empty(&d->inbox))
		tell_messages(d, room);
}

unsigned ofi_poll(struct domain *domain, struct arrival *arrivals, unsigned max, unsigned max_msgs)
{
	struct ofi_domain *d = ofi_domain(domain);
	struct room room = { .next = arrivals, .left = max, .messages = max_msgs };
	unsigned kept = has_more(d, max_msgs) ? max / 2 : 0;

	pthread_mutex_lock(&d->lock);
	if (!list_empty(&d->handed))
		take_back(d);
	room.left -= kept;
	read_all(d, &room);
	room.left += kept;
	if (!list_empty(&d->owing))
		ofi_pay(d);
	if (!list_empty(&d->closed))
		ofi_endpoints_tidy(d);
	pthread_mutex_unlock(&d->lock);
	if (++d->polls % LINK_POLLS == 0)
		ofi_link_look(d);
	tell(d, &room);
	if (room.next != arrivals)
		d->nap_ns = 0;
	return max - room.left;
}

/* ---- Sleep ---- */

static void set_nap(const struct ofi_domain *d, uint64_t ns)
{
	const struct itimerspec after = { .it_value = { .tv_nsec = (long)ns } };

	timerfd_settime(d->nap_fd, 0, &after, NULL);
}

/* Nothing rings here: it is looked at again soon, and less so the longer nothing comes. */
static void nap(struct ofi_domain *d)
{
	d->nap_ns = d->nap_ns ? 2 * d->nap_ns : NAP_MIN_NS;
	if (d->nap_ns > NAP_MAX_NS)
		d->nap_ns = NAP_MAX_NS;
	set_nap(d, d->nap_ns);
}

/* Whether the queue's descriptor has rung since it was asked last. */
static bool has_rung(const struct ofi_domain *d)
{
	struct epoll_event event;

	return epoll_wait(d->rung, &event, 1, 0) == 1;
}

/* tcp of 1.17 says always that one may, and its descriptor may stay readable for ever: what counts is whether
 * it has become so once more. Then there may be a connection by now, for what found none. */
static bool may_wait(struct ofi_domain *d)
{
	struct fid *fids[] = { &d->cq->fid };
	int rc;

	pthread_mutex_lock(&d->lock);
	rc = fi_trywait(d->fabric, fids, 1);
	pthread_mutex_unlock(&d->lock);
	return !has_rung(d) && !rc;
}

bool ofi_arm(struct domain *domain, bool sleep)
{
	struct ofi_domain *d = ofi_domain(domain);
	uint64_t n;

	if (!sleep) {
		if (d->nap_fd >= 0)
			(void)!read(d->nap_fd, &n, sizeof(n));
		else
			has_rung(d);
		return false;
	}
	ofi_link_look(d);
	if (has_more(d, !d->inbox_waits) || !list_empty(&d->handed) || ofi_endpoints_wait(d))
		return false;
	if (d->nap_fd < 0)
		return may_wait(d);
	nap(d);
	return true;
}
