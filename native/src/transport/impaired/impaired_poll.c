/* SPDX-License-Identifier: MIT
 *
 * Time and what arrives: NICs that go down and come back, the arrivals of the transport below, and
 * the fence. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/impaired/impaired.h"
#include "util/clock.h"

/* ---- Kills and revivals ---- */

/* Of the process, so that all its NICs mean the same time; 0: nothing has happened yet. Relaxed, here
 * and below: it is a number and orders nothing. */
static _Atomic uint64_t started;

void impaired_start_clock(uint64_t now)
{
	uint64_t never = 0;

	if (!atomic_load_explicit(&started, memory_order_relaxed))
		atomic_compare_exchange_strong_explicit(&started, &never, now, memory_order_relaxed,
							memory_order_relaxed);
}

/* UINT64_MAX: none is left, or time has not begun, which another domain's traffic may do while this
 * one sleeps: its next poll will see. */
static uint64_t next_event_due(const struct impaired_domain *d)
{
	uint64_t start = atomic_load_explicit(&started, memory_order_relaxed);

	if (d->next_event == d->impair.n_events || !start)
		return UINT64_MAX;
	return start + d->impair.events[d->next_event].at_ns;
}

static void set_nic(struct impaired_domain *d, bool up, uint64_t now, struct room *room)
{
	tell(room, (struct arrival){ .kind = ARRIVAL_NIC, .status = up ? 0 : -ENETDOWN });
	d->down = !up;
	for (struct list *l = d->conns.next; l != &d->conns && !up; l = l->next)
		impaired_break(LIST_ENTRY(l, struct impaired_conn, link), -ENETDOWN, now);
}

static void serve_events(struct impaired_domain *d, uint64_t now, struct room *room)
{
	while (room->left && next_event_due(d) <= now) {
		const struct impair_event *e = &d->impair.events[d->next_event++];

		if (e->nic < 0)
			kill(getpid(), SIGKILL);
		else if ((unsigned)e->nic == d->domain.index)
			set_nic(d, e->up, now, room);
	}
}

/* ---- Messages that came before there was room ---- */

static void free_handed(struct impaired_domain *d)
{
	while (!list_empty(&d->handed)) {
		struct stashed *s = LIST_ENTRY(d->handed.next, struct stashed, link);

		list_remove(&s->link);
		free(s);
	}
}

void stash_drop(struct impaired_domain *d, const struct impaired_conn *c)
{
	struct list all;

	list_take_all(&all, &d->stash);
	while (!list_empty(&all)) {
		struct stashed *s = LIST_ENTRY(all.next, struct stashed, link);
		bool other = c && s->conn != c;

		list_remove(&s->link);
		d->n_stashed -= !other;
		list_append(other ? &d->stash : &d->handed, &s->link);
	}
	if (!c)
		free_handed(d);
}

/* Without memory the connection is as good as dead: the message is lost. */
static void stash_put(struct impaired_conn *c, const struct arrival *a, uint64_t now)
{
	struct impaired_domain *d = conn_domain(c);
	struct stashed *s = malloc(sizeof(*s) + a->len);

	if (!s) {
		impaired_break(c, -ENOMEM, now);
		return;
	}
	s->conn = c;
	s->len = a->len;
	memcpy(s->data, a->data, a->len);
	list_append(&d->stash, &s->link);
	d->n_stashed++;
}

static bool stash_has(struct impaired_domain *d, const struct impaired_conn *c)
{
	for (struct list *l = d->stash.next; l != &d->stash; l = l->next)
		if (LIST_ENTRY(l, struct stashed, link)->conn == c)
			return true;
	return false;
}

static unsigned stash_hand_out(struct impaired_domain *d, struct room *room, unsigned max)
{
	unsigned n = 0;

	for (; n < max && room->left && !list_empty(&d->stash); n++) {
		struct stashed *s = LIST_ENTRY(d->stash.next, struct stashed, link);

		list_remove(&s->link);
		list_append(&d->handed, &s->link);
		d->n_stashed--;
		tell(room, (struct arrival){ .kind = ARRIVAL_MSG,
					     .conn = &s->conn->conn,
					     .data = s->data,
					     .len = s->len });
	}
	return n;
}

/* ---- Arrivals ---- */

/* true: the arrival is passed on. */
static bool sift(struct arrival *a, bool stash, uint64_t now)
{
	struct impaired_conn *c = a->conn ? a->conn->owner : NULL;

	if (!c)
		return true;
	switch (a->kind) {
	case ARRIVAL_DONE:
		impaired_work_done(c, a->id, a->status);
		return false;
	case ARRIVAL_DEAD:
		impaired_break(c, a->status, now);
		return false;
	case ARRIVAL_IMM:
	case ARRIVAL_MSG:
		impaired_start_clock(now);
		if (c->fenced)
			return false;
		if (a->kind == ARRIVAL_MSG && stash) {
			stash_put(c, a, now);
			return false;
		}
		a->conn = &c->conn;
		return true;
	default:
		return false;
	}
}

/* All that there was below has been taken. */
static void end_fences(struct impaired_domain *d, struct room *room)
{
	for (struct list *l = d->conns.next; l != &d->conns && room->left; l = l->next) {
		struct impaired_conn *c = LIST_ENTRY(l, struct impaired_conn, link);

		if (!c->fencing || c->fenced || stash_has(d, c))
			continue;
		tell(room, (struct arrival){ .kind = ARRIVAL_FENCED, .conn = &c->conn });
		c->fenced = true;
		d->n_fencing--;
	}
}

/* A fence has to see behind messages that there is no room for; they are stashed. */
static bool look_behind(const struct impaired_domain *d)
{
	return d->n_fencing && d->n_stashed < STASHED_MAX;
}

static void poll_inner(struct impaired_domain *d, uint64_t now, struct room *room,
		       unsigned max_msgs)
{
	unsigned asked = room->left, messages = 0, n;
	unsigned wanted = list_empty(&d->stash) ? max_msgs : 0;
	bool stash = !wanted && look_behind(d);
	struct arrival *arrivals = room->next;

	if (!asked)
		return;
	n = d->inner->transport->poll(d->inner, arrivals, asked, stash ? 1 : wanted);
	for (unsigned i = 0; i < n; i++) {
		struct arrival a = arrivals[i];

		messages += a.kind == ARRIVAL_MSG;
		if (sift(&a, stash, now))
			tell(room, a);
	}
	/* It may take fewer messages at a time than it is allowed to: without any, none was left. */
	if (d->n_fencing && n < asked && !messages && (stash || wanted))
		end_fences(d, room);
}

unsigned impaired_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
		       unsigned max_msgs)
{
	struct impaired_domain *d = impaired_domain(domain);
	struct room room = { arrivals, max }, half;
	uint64_t now = clock_ns();

	free_handed(d);
	serve_events(d, now, &room);
	/* Neither what we tell nor what arrives can keep the other out for ever. */
	half = (struct room){ room.next, (room.left + 1) / 2 };
	impaired_serve(d, now, &half);
	room.left -= (unsigned)(half.next - room.next);
	room.next = half.next;
	max_msgs -= stash_hand_out(d, &room, max_msgs);
	poll_inner(d, now, &room, max_msgs);
	impaired_serve(d, now, &room);
	return max - room.left;
}

void impaired_conn_fence(struct conn *conn)
{
	struct impaired_conn *c = impaired_conn(conn);

	c->fencing = true;
	conn_domain(c)->n_fencing++;
}

/* ---- Sleep ---- */

/* When to wake by ourselves; 0: there is something already. */
static uint64_t next_due(struct impaired_domain *d)
{
	uint64_t next = next_event_due(d);

	for (struct list *l = d->busy.next; l != &d->busy; l = l->next) {
		struct impaired_conn *c = LIST_ENTRY(l, struct impaired_conn, busy);
		uint64_t due = impaired_has_news(c) ? 0 : impaired_due(c);

		next = due < next ? due : next;
	}
	/* One that waits for room for its messages does not keep us awake. */
	for (struct list *l = d->conns.next; l != &d->conns && d->n_fencing; l = l->next) {
		struct impaired_conn *c = LIST_ENTRY(l, struct impaired_conn, link);

		if (c->fencing && !c->fenced && !stash_has(d, c) && look_behind(d))
			return 0;
	}
	return next;
}

static void set_timer(struct impaired_domain *d, uint64_t at)
{
	struct itimerspec t = { .it_value = { (time_t)(at / NS_PER_SEC),
					      (long)(at % NS_PER_SEC) } };

	if (d->timer < 0 || (!at && !d->timer_runs))
		return;
	/* Setting it also takes back that it has rung. */
	timerfd_settime(d->timer, TFD_TIMER_ABSTIME, &t, NULL);
	d->timer_runs = at != 0;
}

bool impaired_arm(struct domain *domain, bool sleep)
{
	struct impaired_domain *d = impaired_domain(domain);
	uint64_t next = sleep ? next_due(d) : UINT64_MAX;

	if (next != UINT64_MAX && next <= clock_ns()) {
		d->inner->transport->arm(d->inner, false);
		return false;
	}
	set_timer(d, next == UINT64_MAX ? 0 : next);
	return d->inner->transport->arm(d->inner, sleep);
}
