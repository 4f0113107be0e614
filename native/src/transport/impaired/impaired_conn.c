/* SPDX-License-Identifier: MIT
 *
 * The queue of a connection. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/impaired/impaired.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/splitmix.h"

#define REORDER_NS 20000  /* within a window, each is held back up to this long */
#define OURS (1ull << 63) /* in a mark: our place in the order, not the transport's below */

void impaired_busy(struct impaired_conn *c)
{
	if (list_empty(&c->busy))
		list_append(&conn_domain(c)->busy, &c->busy);
}

/* ---- Life ---- */

int impaired_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		       struct pg_error *err)
{
	struct impaired_domain *d = impaired_domain(domain);
	struct impaired_conn *c;
	int rc;

	if (d->down)
		return error_set(err, -ENETDOWN, "%s was killed", domain->name);
	c = calloc(1, sizeof(*c));
	if (!c)
		return error_set(err, -ENOMEM, "no memory for an impaired connection");
	rc = d->inner->transport->conn_open(d->inner, &c->inner, offer, err);
	if (rc) {
		free(c);
		return rc;
	}
	c->inner->owner = c;
	c->conn.domain = domain;
	list_append(&d->conns, &c->link);
	list_init(&c->busy);
	list_init(&c->works);
	list_init(&c->free_works);
	for (unsigned i = 0; i < IMPAIRED_WRS; i++)
		list_append(&c->free_works, &c->pool[i].link);
	*conn = &c->conn;
	return 0;
}

int impaired_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct impaired_conn *c = impaired_conn(conn);
	struct impaired_domain *d = conn_domain(c);
	int rc;

	if (c->dead)
		return error_set(err, -ENETDOWN, "%s was killed", conn->domain->name);
	rc = d->inner->transport->conn_attach(c->inner, offer, err);
	if (rc)
		return rc;
	c->attached = true;
	conn->max_unmapped = c->inner->max_unmapped;
	snprintf(conn->note, sizeof(conn->note), "impaired (%.40s); %.70s", d->text,
		 c->inner->note);
	return 0;
}

void impaired_conn_close(struct conn *conn)
{
	struct impaired_conn *c = impaired_conn(conn);
	struct impaired_domain *d = conn_domain(c);

	/* First, so that nobody reads the copies. */
	d->inner->transport->conn_close(c->inner);
	while (!list_empty(&c->works))
		work_free(c, work_of(c->works.next));
	stash_drop(d, c);
	d->n_fencing -= c->fencing && !c->fenced;
	list_remove(&c->busy);
	list_remove(&c->link);
	free(c);
}

/* ---- Works ---- */

void work_free(struct impaired_conn *c, struct work *w)
{
	struct domain *inner = conn_domain(c)->inner;

	if (w->has_lkey)
		inner->transport->mr_dereg(inner, w->lkey);
	free(w->copy);
	list_remove(&w->link);
	list_append(&c->free_works, &w->link);
}

void work_end(struct impaired_conn *c, struct work *w, int status)
{
	w->state = WORK_ENDED;
	w->status = status;
	c->n_ended++;
}

int work_post(struct impaired_conn *c, struct work *w, enum wr_op op)
{
	struct wr wr = w->wr;
	int rc;

	wr.op = (uint8_t)op;
	rc = c->inner->domain->transport->post(c->inner, &wr, 1, NULL);
	c->dirty |= rc == 1;
	return rc;
}

void impaired_work_done(struct impaired_conn *c, uint64_t place, int status)
{
	struct work *w = &c->pool[place % IMPAIRED_WRS];

	if (w->state == WORK_POSTED) {
		work_end(c, w, c->dead || c->stopping ? -ECONNABORTED : status);
	} else if (w->state == WORK_LANDING) {
		c->n_late--;
		work_free(c, w);
	}
	impaired_busy(c);
}

/* ---- Posting to us ---- */

/* When its last byte has left under the cap, and what comes on top of it. Without reorder it also
 * waits for those before it. */
static uint64_t choose_due(struct impaired_conn *c, uint64_t len, uint64_t now)
{
	struct impaired_domain *d = conn_domain(c);
	const struct impair *im = &d->impair;
	uint64_t cap = im->cap[c->conn.domain->index], due = now;

	if (cap) {
		if (d->cap_until < now)
			d->cap_until = now;
		d->cap_until += (uint64_t)((unsigned __int128)len * 8 * NS_PER_SEC / cap);
		due = d->cap_until;
	}
	due += im->delay_ns + splitmix64_below(&d->random, im->jitter_ns + 1);
	return im->reorder ? due + splitmix64_below(&d->random, REORDER_NS) : due;
}

/* How much later than it lands we hear of it, where times vary. */
static uint64_t choose_lag(struct impaired_conn *c)
{
	struct impaired_domain *d = conn_domain(c);
	uint64_t lag = splitmix64_below(&d->random, d->impair.jitter_ns + 1);

	return d->impair.reorder ? lag + splitmix64_below(&d->random, REORDER_NS) : lag;
}

static void append(struct impaired_conn *c, const struct wr *wr, uint64_t now)
{
	struct impaired_domain *d = conn_domain(c);
	struct work *w = work_of(c->free_works.next);

	list_remove(&w->link);
	*w = (struct work){
		.wr = *wr,
		.id = wr->id,
		.seq = c->next_seq++,
		.state = WORK_QUEUED,
		.due = choose_due(c, wr->len, now),
		.fails = splitmix64_below(&d->random, IMPAIR_CERTAIN) < d->impair.fail,
	};
	w->wr.id = (uint64_t)(w - c->pool);
	list_append(&c->works, &w->link);
	c->in_flight++;
	c->n_messages += wr->op == WR_SEND;
}

int impaired_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct impaired_conn *c = impaired_conn(conn);
	unsigned depth = conn->domain->caps.max_outstanding, i = 0;
	uint64_t now = clock_ns();

	if (c->dead || c->stopping)
		return error_set(err, -ECONNABORTED, "the connection over %s %s",
				 conn->domain->name,
				 c->dead ? "was broken on purpose" : "was stopped");
	for (; i < n && c->in_flight < depth; i++) {
		if (wrs[i].op == WR_SEND && c->n_messages >= (depth + 1) / 2)
			break;
		append(c, &wrs[i], now);
	}
	if (!i)
		return -EAGAIN;
	impaired_start_clock(now);
	impaired_busy(c);
	return (int)i;
}

/* What is due is posted by the next poll. */
void impaired_flush(struct conn *conn)
{
	(void)conn;
}

/* ---- Posting below ---- */

/* The next of the window, which begins at the first that waits. Messages do not overtake each
 * other; nor do those that nobody takes hold up what is behind them. */
static struct work *next_work(struct impaired_conn *c)
{
	unsigned reorder = conn_domain(c)->impair.reorder, window = reorder ? reorder : 1;
	struct work *first = NULL, *next = NULL;
	bool message = false;

	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		struct work *w = work_of(l);
		bool send = w->wr.op == WR_SEND;

		if (w->state != WORK_QUEUED || (send && c->no_messages))
			continue;
		if (!first)
			first = w;
		if (w->seq - first->seq >= window)
			break;
		if ((!next || w->due < next->due) && !(send && message))
			next = w;
		message |= send;
	}
	return next;
}

static void post_due(struct impaired_conn *c, uint64_t now)
{
	struct work *w;

	while ((w = next_work(c)) && w->due <= now) {
		int rc;

		if (w->fails) {
			impaired_break(c, -EIO, now);
			return;
		}
		rc = work_post(c, w, (enum wr_op)w->wr.op);
		if (rc == -EAGAIN && w->wr.op == WR_SEND) {
			c->no_messages = true;
			continue;
		}
		if (rc == -EAGAIN) {
			c->blocked = true;
			return;
		}
		if (rc < 0) {
			work_end(c, w, rc);
		} else if (c->inner->domain->caps.sync_post) {
			w->state = WORK_LANDED;
			w->due = now + choose_lag(c);
		} else {
			w->state = WORK_POSTED;
		}
	}
}

/* Ends what has landed and is heard of by now; when the next will be. */
static uint64_t hear(struct impaired_conn *c, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		struct work *w = work_of(l);

		if (w->state != WORK_LANDED)
			continue;
		if (w->due <= now)
			work_end(c, w, 0);
		else if (w->due < next)
			next = w->due;
	}
	return next;
}

static void tell_done(struct impaired_conn *c, struct room *room)
{
	struct list *l = c->works.next;

	while (l != &c->works && c->n_ended && room->left) {
		struct work *w = work_of(l);

		l = l->next;
		if (w->state != WORK_ENDED)
			continue;
		tell(room, (struct arrival){ .kind = ARRIVAL_DONE,
					     .status = w->status,
					     .conn = &c->conn,
					     .id = w->id });
		c->in_flight--;
		c->n_messages -= w->wr.op == WR_SEND;
		c->n_ended--;
		if (w->late)
			w->state = WORK_LATE;
		else
			work_free(c, w);
	}
}

static bool owes_dead(const struct impaired_conn *c)
{
	return c->dead && c->attached && !c->told_dead && !c->stopping;
}

static bool owes_stopped(const struct impaired_conn *c)
{
	return c->stopping && !c->stopped && !c->in_flight;
}

bool impaired_has_news(const struct impaired_conn *c)
{
	return c->n_ended || owes_dead(c) || owes_stopped(c);
}

static void conn_tell(struct impaired_conn *c, struct room *room)
{
	tell_done(c, room);
	if (owes_dead(c) && room->left) {
		tell(room, (struct arrival){
				   .kind = ARRIVAL_DEAD, .status = c->status, .conn = &c->conn });
		c->told_dead = true;
	}
	if (owes_stopped(c) && room->left) {
		tell(room, (struct arrival){ .kind = ARRIVAL_STOPPED, .conn = &c->conn });
		c->stopped = true;
	}
}

/* Those that stay busy go to the end, lest one with much traffic fill the room for ever. */
void impaired_serve(struct impaired_domain *d, uint64_t now, struct room *room)
{
	struct list list;

	list_take_all(&list, &d->busy);
	while (!list_empty(&list)) {
		struct impaired_conn *c = LIST_ENTRY(list.next, struct impaired_conn, busy);

		list_remove(&c->busy);
		c->blocked = c->no_messages = false;
		post_due(c, now);
		hear(c, now);
		impaired_land(c, now);
		if (c->dirty)
			c->inner->domain->transport->flush(c->inner);
		c->dirty = false;
		conn_tell(c, room);
		if (c->in_flight || c->n_late || impaired_has_news(c))
			impaired_busy(c);
	}
}

uint64_t impaired_due(struct impaired_conn *c)
{
	struct work *queued, *late;
	uint64_t due = hear(c, 0);

	if (c->blocked) /* the transport below wakes us when there is credit */
		return due;
	queued = next_work(c);
	late = impaired_next_late(c);
	if (queued && queued->due < due)
		due = queued->due;
	return late && late->due < due ? late->due : due;
}

/* ---- For others ---- */

/* Whether one posted before seq has not been told, or may land yet. */
static bool left_before(struct impaired_conn *c, uint64_t seq)
{
	struct work *first = work_of(c->works.next);

	return !list_empty(&c->works) && first->seq < seq;
}

bool impaired_visible(struct conn *conn, uint64_t *mark)
{
	struct impaired_conn *c = impaired_conn(conn);
	const struct transport *t = c->inner->domain->transport;

	if (!*mark)
		*mark = OURS | c->next_seq;
	if (*mark & OURS) {
		if (left_before(c, *mark & ~OURS))
			return false;
		*mark = 0;
	}
	return !t->visible || t->visible(c->inner, mark);
}

void impaired_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct impaired_conn *c = LIST_ENTRY(conn, const struct impaired_conn, conn);
	const struct transport *t = c->inner->domain->transport;
	int n = snprintf(buf, size, "%u held back, %u to land late%s%s; ", c->in_flight, c->n_late,
			 c->dead ? ", broken" : "", c->stopping ? ", stopped" : "");

	if (t->describe && n > 0 && (size_t)n < size)
		t->describe(c->inner, buf + n, size - (size_t)n);
}
