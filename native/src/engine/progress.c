/* SPDX-License-Identifier: MIT
 *
 * A round of progress: everything that can have happened is looked at once.
 */
#include "engine/progress.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/control.h"
#include "engine/failover.h"
#include "engine/message.h"
#include "engine/news.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "engine/regions.h"
#include "engine/wait_fd.h"
#include "engine/watcher.h"
#include "util/clock.h"
#include "util/fork_fds.h"

#define CONTROL_NS 50000ull /* control sockets this often: their poll is a system call */
/* A round costs as much as the clock, or much less where that is a system call. Powers of two. */
#define CLOCK_ROUNDS 16
#define SLOW_CLOCK_ROUNDS 1024
#define PACE_NS MS /* but where they take long it is read about so often */
#define SUBMIT_BATCH 256
#define MAX_WATCHED 32
#define MS 1000000ull
#define HOUR (3600000 * MS)

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
	fork_fds_remove(w->fd);
	close(w->fd);
	w->fd = -1;
}

/* epoll_wait knows milliseconds only; since Linux 5.11 there is another one. */
static int wait_event(struct pg_group *g, struct epoll_event *e, uint64_t ns)
{
	if (ns > 0 && ns < MS) {
		struct timespec t = { .tv_nsec = (long)ns };
		int n = epoll_pwait2(g->epoll, e, 1, &t, NULL);

		if (n >= 0 || errno != ENOSYS)
			return n;
	}
	ns = ns > HOUR ? HOUR : ns;
	return epoll_wait(g->epoll, e, 1, (int)((ns + MS - 1) / MS));
}

/* One event per call keeps a handler free to close other watches. */
int watches_serve(struct pg_group *g, uint64_t timeout_ns)
{
	struct epoll_event e;
	int served = 0, n;

	while ((n = wait_event(g, &e, timeout_ns)) > 0) {
		struct watch *w = e.data.ptr;

		timeout_ns = 0;
		if (w) /* domains have none: it is enough that they woke us */
			w->ready(g, w, e.events);
		if (++served == MAX_WATCHED)
			break;
	}
	return n < 0 && served == 0 ? -errno : served;
}

/* ---- A round ---- */

int group_start_submitted(struct pg_group *g)
{
	uint32_t slot;
	int n = 0;

	while (n < SUBMIT_BATCH && ring_pop(&g->submitted, &slot)) {
		op_start(g, &g->ops[slot]);
		n++;
	}
	return n;
}

/* Where order says nothing, what has come of each value has to be known when a connection breaks. */
static bool is_noted(const struct domain *d, const struct peer *p, const struct arrival *a)
{
	return can_take_over(&d->caps) && p->paths[a->conn->slot].peer_unordered;
}

static int take_imms(struct pg_group *g, const struct domain *d, struct arrival *a, unsigned n)
{
	struct imm_fired fired[POLL_BATCH];
	struct peer *overfull = NULL;
	unsigned n_fired = 0;

	counters_lock(g);
	for (unsigned i = 0; i < n; i++) {
		struct peer *p;
		int rc;

		if (a[i].kind != ARRIVAL_IMM)
			continue;
		p = a[i].conn->owner;
		/* Nobody can tell its writes any more from those of who gets its place. */
		if (__builtin_expect(!peer_alive(p) && p->end != END_POLL, 0))
			continue;
		a[i].conn->stats.imms_in += a[i].count;
		if (__builtin_expect(is_noted(d, p, &a[i]), 0) && conn_received(g, &a[i]))
			overfull = p;
		rc = imm_arrive(g->imms, p->h.index, a[i].imm, a[i].count, &fired[n_fired]);
		a[i].status = rc < 0 ? rc : 0; /* its peer is reset once the lock is released */
		if (rc > 0)
			n_fired++;
	}
	counters_unlock(g);
	if (overfull)
		peer_down(g, overfull, -ENOBUFS,
			  "no room for what it does not say has certainly arrived");
	for (unsigned i = 0; i < n_fired; i++)
		deliver_fired(g, &fired[i], NULL);
	return (int)n_fired;
}

/* There is no room for another counter that nobody asked for. Whoever has made the most of them is
 * reset, and loses them; then there is room for p, unless it was p. */
static void make_counters(struct pg_group *g, struct peer *p, const struct arrival *a)
{
	struct imm_fired fired;
	uint32_t source;
	struct peer *hoarder;
	int rc;

	counters_lock(g);
	source = imm_hoarder(g->imms, p->h.index);
	counters_unlock(g);
	hoarder = source < g->peers.used ? peer_slot(g, source) : NULL;
	if (!hoarder)
		hoarder = p;
	peer_down(g, hoarder, -ENOBUFS,
		  "more than %u counters, or half-arrived writes, that nobody asked for",
		  g->config->max_unclaimed);
	counters_lock(g);
	imm_forget_unclaimed(g->imms, hoarder->h.index);
	rc = hoarder == p ? 0 : imm_arrive(g->imms, p->h.index, a->imm, a->count, &fired);
	counters_unlock(g);
	if (rc > 0)
		deliver_fired(g, &fired, NULL);
	else if (rc < 0)
		peer_down(g, p, -ENOBUFS, "no room for counters that nobody asked for");
}

static void take_rest(struct pg_group *g, struct domain *d, struct arrival *a)
{
	struct peer *p = a->conn ? a->conn->owner : NULL;

	switch (a->kind) {
	case ARRIVAL_IMM:
		if (a->status)
			make_counters(g, p, a);
		break;
	case ARRIVAL_MSG:
		a->conn->stats.msgs_in++;
		message_arrived(g, p, a->data, a->len);
		break;
	case ARRIVAL_DONE:
		flight_done(g, a);
		break;
	case ARRIVAL_STOPPED:
		conn_stopped(g, a->conn);
		break;
	case ARRIVAL_FENCED:
		conn_fenced(g, a->conn);
		break;
	case ARRIVAL_DEAD:
		conn_died(g, a->conn, a->status);
		break;
	case ARRIVAL_NIC:
		nic_changed(g, d, a->status);
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
	if (__builtin_expect(!list_empty(&g->ending), 0))
		peers_still_heard(g, arrivals, n);
	for (unsigned i = 0; i < n; i++) {
		if (arrivals[i].kind == ARRIVAL_IMM)
			imms = true;
		else
			rest = true;
	}
	if (imms) {
		take_imms(g, d, arrivals, n);
		for (unsigned i = 0; i < n && !rest; i++)
			rest = arrivals[i].kind == ARRIVAL_IMM && arrivals[i].status;
	}
	for (unsigned i = 0; rest && i < n; i++)
		take_rest(g, d, &arrivals[i]);
	return (int)n;
}

/* Each peer has a turn; one that stays active goes to the end of the list. */
static int run_active(struct pg_group *g)
{
	struct list now;
	int n = 0;

	list_take_all(&now, &g->active);
	while (!list_empty(&now)) {
		struct peer *p = LIST_ENTRY(now.next, struct peer, active);

		list_remove(&p->active);
		n += peer_run(g, p);
		if (!list_empty(&p->ready) && list_empty(&p->active))
			list_append(&g->active, &p->active);
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
	/* After what they have said was heard. */
	if (g->now >= g->next_beat)
		peers_beat(g);
	if ((g->n_live || g->n_broken) && g->now >= g->next_scan) {
		g->next_scan = g->now + SCAN_NS;
		peers_scan_deadlines(g);
	}
	return n > 0 ? n : 0;
}

bool group_read_clock(const struct pg_group *g)
{
	return (g->rounds & g->clock_mask) == 0 || g->handshakes;
}

/* What there seldom is: waits for visibility, regions that are given back, peers that end, watched
 * words. */
static bool has_chores(const struct pg_group *g)
{
	return !list_empty(&g->salvaging) || !list_empty(&g->lingering) ||
	       !list_empty(&g->leaving) || !list_empty(&g->ending) || g->n_watchers || g->recheck;
}

static int chores(struct pg_group *g)
{
	int n = salvage_run(g);

	ops_linger(g);
	regions_leave(g);
	peers_end(g);
	if (g->recheck)
		recheck_expectations(g);
	return n + (g->n_watchers ? watchers_poll(g) : 0);
}

/* The time since the clock was read last. */
static void set_pace(struct pg_group *g, uint64_t ns)
{
	uint32_t most = (g->slow_clock ? SLOW_CLOCK_ROUNDS : CLOCK_ROUNDS) - 1;

	if (ns > PACE_NS)
		g->clock_mask = 0;
	else if (ns < PACE_NS / 4 && g->clock_mask < most)
		g->clock_mask = 2 * g->clock_mask + 1;
}

int group_round(struct pg_group *g)
{
	int n = group_start_submitted(g);
	bool was_armed = g->fd_armed;

	if (__builtin_expect(was_armed, 0))
		wait_fd_disarm(g);
	g->no_room = false;
	for (unsigned i = 0; i < g->n_domains; i++)
		n += poll_domain(g, g->domains[i]);
	if (!list_empty(&g->active))
		n += run_active(g);
	if (__builtin_expect(has_chores(g), 0))
		n += chores(g);
	peers_flush(g);
	g->rounds++;
	/* What woke wait_fd has to be served, or it stays readable. */
	if (group_read_clock(g) || __builtin_expect(was_armed, 0)) {
		uint64_t before = g->now;

		ops_share(g);
		n += group_tick(g);
		set_pace(g, g->now - before);
	}
	return n;
}
