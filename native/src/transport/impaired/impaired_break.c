/* SPDX-License-Identifier: MIT
 *
 * How a connection ends: what becomes of the works that wait here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/impaired/impaired.h"
#include "util/clock.h"
#include "util/splitmix.h"

#define LATE_NS 20000000

static uint64_t below(struct impaired_conn *c, uint64_t n)
{
	return splitmix64_below(&conn_domain(c)->random, n);
}

/* ---- The four fates ---- */

/* As far as we hear. */
static void lose(struct impaired_conn *c, struct work *w)
{
	work_end(c, w, -ECONNABORTED);
}

/* false: it was lost, as the transport below takes it no more than any other. */
static bool place(struct impaired_conn *c, struct work *w, enum wr_op op)
{
	bool placed = work_post(c, w, op) == 1;

	if (placed && !c->inner->domain->caps.sync_post)
		w->state = WORK_POSTED;
	else
		lose(c, w);
	return placed;
}

/* There is no payload without count in a message or in an immediate alone. */
static void place_uncounted(struct impaired_conn *c, struct work *w)
{
	if (w->wr.op == WR_SEND || !w->wr.len)
		lose(c, w);
	else
		place(c, w, WR_WRITE);
}

/* The payload, for as long as it takes to land: once told, the source is the caller's again. */
static bool copy_payload(struct impaired_conn *c, struct work *w)
{
	struct domain *inner = conn_domain(c)->inner;
	struct memory memory = { .len = w->wr.len, .fd = -1 };
	uint64_t key;

	if (!w->wr.len)
		return true;
	w->copy = memory.base = malloc(w->wr.len);
	if (!w->copy)
		return false;
	memcpy(w->copy, w->wr.src, w->wr.len);
	w->wr.src = w->copy;
	if (w->wr.op == WR_SEND)
		return true;
	w->has_lkey = !inner->transport->mr_reg(inner, &memory, &w->lkey, &key, NULL);
	w->wr.lkey = w->lkey;
	return w->has_lkey;
}

/* false: it is lost for want of memory. */
static bool make_late(struct impaired_conn *c, struct work *w, uint64_t due)
{
	w->late = copy_payload(c, w);
	w->due = due;
	c->n_late += w->late;
	lose(c, w);
	return w->late;
}

/* ---- Who has which ---- */

/* A prefix lands, and perhaps the payload of the next, or a few more later. */
static void end_in_order(struct impaired_conn *c, unsigned n, uint64_t now)
{
	uint64_t placed = below(c, n + 1), late = 0, due = now, i = 0;
	bool torn = below(c, 2);

	if (!torn)
		late = below(c, n - placed + 1);
	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		struct work *w = work_of(l);

		if (w->state != WORK_QUEUED)
			continue;
		if (i < placed) {
			if (!place(c, w, (enum wr_op)w->wr.op)) {
				placed = late = 0;
				torn = false;
			}
		} else if (i == placed && torn) {
			place_uncounted(c, w);
		} else if (i < placed + late) {
			due += below(c, LATE_NS / n);
			if (!make_late(c, w, due))
				late = 0;
		} else {
			lose(c, w);
		}
		i++;
	}
}

/* Each for itself, but that of messages a prefix lands, in order. */
static void end_unordered(struct impaired_conn *c, uint64_t now)
{
	uint64_t message = 0;
	bool lost = false;

	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		struct work *w = work_of(l);
		uint64_t fate, due;
		bool send = w->wr.op == WR_SEND;

		if (w->state != WORK_QUEUED)
			continue;
		fate = below(c, 4);
		due = now + below(c, LATE_NS);
		if (send && message) {
			fate = fate ? 3 : 0;
			due = due < message ? message : due;
		}
		if (send && lost)
			fate = 0;
		lost |= send && fate < 2;
		if (fate == 0)
			lose(c, w);
		else if (fate == 1)
			place_uncounted(c, w);
		else if (fate == 2)
			place(c, w, (enum wr_op)w->wr.op);
		else
			make_late(c, w, due);
		if (send && w->late)
			message = due;
	}
}

static void end_all(struct impaired_conn *c, uint64_t now)
{
	unsigned n = 0;

	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		/* It has landed and been counted, and we shall not hear of that. */
		if (work_of(l)->state == WORK_LANDED)
			lose(c, work_of(l));
		n += work_of(l)->state == WORK_QUEUED;
	}
	if (n && c->conn.domain->caps.ordered)
		end_in_order(c, n, now);
	else if (n)
		end_unordered(c, now);
	impaired_busy(c);
}

void impaired_break(struct impaired_conn *c, int status, uint64_t now)
{
	if (c->dead)
		return;
	c->dead = true;
	c->status = status;
	end_all(c, now);
}

void impaired_conn_stop(struct conn *conn)
{
	struct impaired_conn *c = impaired_conn(conn);

	c->stopping = true;
	end_all(c, clock_ns());
}

/* ---- Landing late ---- */

struct work *impaired_next_late(struct impaired_conn *c)
{
	struct work *next = NULL;

	for (struct list *l = c->works.next; l != &c->works; l = l->next) {
		struct work *w = work_of(l);

		if (w->state == WORK_LATE && (!next || w->due < next->due))
			next = w;
	}
	return next;
}

void impaired_land(struct impaired_conn *c, uint64_t now)
{
	struct work *w;

	while ((w = impaired_next_late(c)) && w->due <= now) {
		int rc = work_post(c, w, (enum wr_op)w->wr.op);

		if (rc == -EAGAIN) {
			c->blocked = true;
			return;
		}
		if (rc == 1 && !c->inner->domain->caps.sync_post) {
			w->state = WORK_LANDING;
			continue;
		}
		c->n_late--;
		work_free(c, w);
	}
}
