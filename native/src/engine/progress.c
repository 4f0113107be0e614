/* SPDX-License-Identifier: MIT
 *
 * A round of progress: everything that can have happened is looked at once.
 */
#include "engine/progress.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/control.h"
#include "engine/message.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "util/clock.h"

#define CONTROL_NS 50000ull /* control sockets this often: their poll is a system call */
#define CLOCK_ROUNDS 16u    /* the clock costs as much as a round */
#define SUBMIT_BATCH 256
#define MAX_WATCHED 32

/* ---- Watches ---- */

int watch_add(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = w };

	return epoll_ctl(g->epoll, EPOLL_CTL_ADD, w->fd, &e) ? -errno : 0;
}

void watch_close(struct pg_group *g, struct watch *w)
{
	if (w->fd < 0)
		return;
	epoll_ctl(g->epoll, EPOLL_CTL_DEL, w->fd, NULL);
	close(w->fd);
	w->fd = -1;
}

/* One event per call of epoll_wait keeps a handler free to close other watches. */
int watches_serve(struct pg_group *g, int timeout_ms)
{
	struct epoll_event e;
	int served = 0, n;

	while ((n = epoll_wait(g->epoll, &e, 1, timeout_ms)) > 0) {
		struct watch *w = e.data.ptr;

		timeout_ms = 0;
		if (w) /* domains have none: it is enough that they woke us */
			w->ready(g, w, e.events);
		if (++served == MAX_WATCHED)
			break;
	}
	return n < 0 && served == 0 ? -errno : served;
}

/* ---- A round ---- */

static int take_submitted(struct pg_group *g)
{
	uint32_t slot;
	int n = 0;

	while (n < SUBMIT_BATCH && ring_pop(&g->submitted, &slot)) {
		op_start(g, &g->ops[slot]);
		n++;
	}
	return n;
}

static int take_imms(struct pg_group *g, struct arrival *a, unsigned n)
{
	struct imm_fired fired[POLL_BATCH];
	unsigned n_fired = 0;

	if (g->worker_mode) /* see counters_enter */
		imm_lock(g->imms);
	for (unsigned i = 0; i < n; i++) {
		struct peer *p = a[i].conn->owner;
		int rc;

		if (a[i].kind != ARRIVAL_IMM)
			continue;
		a[i].conn->domain->stats.imms_in += a[i].count;
		rc = imm_arrive(g->imms, p->h.index, a[i].imm, a[i].count, &fired[n_fired]);
		a[i].status = rc < 0 ? rc : 0; /* its peer is reset once the lock is released */
		if (rc > 0)
			n_fired++;
	}
	if (g->worker_mode)
		imm_unlock(g->imms);
	for (unsigned i = 0; i < n_fired; i++)
		deliver_fired(g, &fired[i]);
	return (int)n_fired;
}

static void take_rest(struct pg_group *g, struct arrival *a)
{
	struct peer *p = a->conn->owner;

	switch (a->kind) {
	case ARRIVAL_IMM:
		if (a->status)
			peer_down(g, p, -ENOBUFS,
				  "more than %u counters, or half-arrived writes, that nobody "
				  "asked for",
				  g->config->max_unclaimed);
		break;
	case ARRIVAL_MSG:
		a->conn->domain->stats.msgs_in++;
		message_arrived(g, p, a->data, a->len);
		break;
	case ARRIVAL_DONE:
		op_wr_done(g, a);
		break;
	case ARRIVAL_DEAD:
		peer_down(g, p, a->status, "connection over %s broke", a->conn->domain->name);
		break;
	default:
		break;
	}
}

static int poll_domain(struct pg_group *g, struct domain *d)
{
	struct arrival arrivals[POLL_BATCH];
	unsigned room = message_room(g);
	unsigned n = d->transport->poll(d, arrivals, POLL_BATCH, room);
	bool imms = false, rest = false;

	g->no_room |= room == 0;
	for (unsigned i = 0; i < n; i++) {
		if (arrivals[i].kind == ARRIVAL_IMM)
			imms = true;
		else
			rest = true;
	}
	if (imms) {
		take_imms(g, arrivals, n);
		for (unsigned i = 0; i < n && !rest; i++)
			rest = arrivals[i].kind == ARRIVAL_IMM && arrivals[i].status;
	}
	for (unsigned i = 0; rest && i < n; i++)
		take_rest(g, &arrivals[i]);
	return (int)n;
}

/* The active list is served once around; a peer that stays active goes to its end. */
static int run_active(struct pg_group *g)
{
	struct list *last = g->active.prev;
	int n = 0;

	while (!list_empty(&g->active)) {
		struct list *node = g->active.next;
		struct peer *p = LIST_ENTRY(node, struct peer, active);

		list_remove(node);
		n += peer_run(g, p);
		if (!list_empty(&p->ready) && list_empty(&p->active))
			list_append(&g->active, &p->active);
		if (node == last)
			break;
	}
	return n;
}

int group_tick(struct pg_group *g)
{
	int n = 0;

	g->now = clock_ns();
	if (g->now >= g->next_control || g->handshakes) {
		g->next_control = g->now + CONTROL_NS;
		n = watches_serve(g, 0);
	}
	if (g->n_live && g->now >= g->next_scan) {
		g->next_scan = g->now + SCAN_NS;
		peers_scan_deadlines(g);
	}
	return n > 0 ? n : 0;
}

bool group_read_clock(const struct pg_group *g)
{
	return g->rounds % CLOCK_ROUNDS == 0 || g->handshakes;
}

int group_round(struct pg_group *g)
{
	int n = take_submitted(g);

	g->no_room = false;
	for (unsigned i = 0; i < g->n_domains; i++)
		n += poll_domain(g, g->domains[i]);
	if (!list_empty(&g->active))
		n += run_active(g);
	peers_flush(g);
	g->rounds++;
	if (group_read_clock(g)) {
		ops_share(g);
		n += group_tick(g);
	}
	return n;
}
