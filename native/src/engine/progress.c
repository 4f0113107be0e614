/* SPDX-License-Identifier: MIT
 *
 * One thread at a time holds the progress lock and makes progress: the worker, or in an inline
 * group whoever waits or submits. It polls for spin_ns and then sleeps in one epoll over everything
 * that can wake it. Other waiters sleep on a futex that rises when something completes; when the
 * holder leaves, one of them takes over.
 *
 * Sleeping is Dekker's: the sleeper sets `sleeping` (here and, through arm, in every domain),
 * fences and looks once more; whoever produces work makes it visible, fences and looks at
 * `sleeping`. One of the two sees the other.
 */
#include "engine/progress.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/control.h"
#include "engine/message.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "util/clock.h"
#include "util/futex.h"

#define SCAN_NS (10 * 1000000ull) /* deadlines are looked at this often, while there are any */
#define CONTROL_NS 50000ull       /* and control sockets, whose poll is a system call, this often */
#define CLOCK_ROUNDS 16u          /* the clock costs as much as a round */
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
static int serve_watches(struct pg_group *g, int timeout_ms)
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
	unsigned n = d->transport->poll(d, arrivals, POLL_BATCH, message_room(g));
	bool imms = false, rest = false;

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

static int tick(struct pg_group *g)
{
	int n = 0;

	g->now = clock_ns();
	if (g->now >= g->next_control || g->handshakes) {
		g->next_control = g->now + CONTROL_NS;
		n = serve_watches(g, 0);
	}
	if (g->n_live && g->now >= g->next_scan) {
		g->next_scan = g->now + SCAN_NS;
		peers_scan_deadlines(g);
	}
	return n > 0 ? n : 0;
}

/* Waiters look at memory that deliver() wrote; the fence orders that before the look at `waiters`
 * (Dekker, with the fence in group_wait). */
void group_wake(struct pg_group *g)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&g->waiters, memory_order_relaxed) == 0)
		return;
	/* relaxed: the futex syscall orders it, and the waiter re-checks what it waits for */
	atomic_fetch_add_explicit(&g->wake_seq, 1, memory_order_relaxed);
	futex_wake(&g->wake_seq, INT32_MAX);
}

int group_round(struct pg_group *g)
{
	int n = take_submitted(g);

	for (unsigned i = 0; i < g->n_domains; i++)
		n += poll_domain(g, g->domains[i]);
	if (!list_empty(&g->active))
		n += run_active(g);
	peers_flush(g);
	if (++g->rounds % CLOCK_ROUNDS == 0 || g->handshakes)
		n += tick(g);
	return n;
}

/* ---- Sleeping ---- */

void group_kick(struct pg_group *g)
{
	/* Dekker's fence: what the caller produced, before the look at `sleeping`. */
	atomic_thread_fence(memory_order_seq_cst);
	/* relaxed exchange: only one of several kickers pays for the syscall */
	if (atomic_load_explicit(&g->sleeping, memory_order_relaxed) &&
	    atomic_exchange_explicit(&g->sleeping, 0, memory_order_relaxed)) {
		uint64_t one = 1;

		(void)!write(g->kick.fd, &one, sizeof(one));
	}
}

static bool arm_domains(struct pg_group *g)
{
	bool safe = true;

	for (unsigned i = 0; i < g->n_domains; i++)
		safe &= g->domains[i]->transport->arm(g->domains[i], true);
	return safe;
}

/* Peers that wait for credit or a handshake stay active and yet let us sleep: that wakes us. */
static bool may_sleep(struct pg_group *g)
{
	if (!ring_empty(&g->submitted) ||
	    atomic_load_explicit(&g->visitors, memory_order_relaxed) ||
	    atomic_load_explicit(&g->stopping, memory_order_relaxed))
		return false;
	for (struct list *l = g->active.next; l != &g->active; l = l->next)
		if (!peer_blocked(LIST_ENTRY(l, struct peer, active)))
			return false;
	return true;
}

/* Sleeps until something may have happened, at most timeout_ns. -EINTR when a signal came. */
static int group_sleep(struct pg_group *g, uint64_t timeout_ns)
{
	uint64_t limit = g->n_live ? SCAN_NS : UINT64_MAX;
	int ms, rc = 0;

	if (timeout_ns < limit)
		limit = timeout_ns;
	ms = limit > 3600000000000ull ? 3600000 : (int)((limit + 999999) / 1000000);
	/* relaxed: ordered by the fence below, the sleeper's half of Dekker's */
	atomic_store_explicit(&g->sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (arm_domains(g) && may_sleep(g))
		rc = serve_watches(g, ms);
	atomic_store_explicit(&g->sleeping, 0, memory_order_relaxed);
	for (unsigned i = 0; i < g->n_domains; i++)
		g->domains[i]->transport->arm(g->domains[i], false);
	tick(g);
	return rc == -EINTR ? rc : 0;
}

/* ---- Sharing the lock ---- */

void group_enter(struct pg_group *g)
{
	if (lock_try(&g->progress))
		return;
	/* relaxed: the fence in group_kick orders it before the look at `sleeping` */
	atomic_fetch_add_explicit(&g->visitors, 1, memory_order_relaxed);
	group_kick(g);
	lock_acquire(&g->progress);
	atomic_fetch_sub_explicit(&g->visitors, 1, memory_order_relaxed);
}

/* Whoever lets go of the lock wakes the followers, one of which finds it free and leads; and, since
 * a submitter that found it taken left its operation in the ring, looks there once more. */
void group_unlock(struct pg_group *g)
{
	for (;;) {
		g->delivered = false;
		lock_release(&g->progress);
		/* seq_cst, as are lock_release and both accesses in follow(): Dekker without a
		 * fence, for the lock and for what was delivered while we held it */
		if (atomic_load(&g->waiters)) {
			atomic_fetch_add_explicit(&g->wake_seq, 1, memory_order_relaxed);
			futex_wake(&g->wake_seq, INT32_MAX);
		}
		if (g->worker_mode || ring_empty(&g->submitted) || !lock_try(&g->progress))
			return;
		group_round(g);
	}
}

/* A submitter that found the lock taken, when its holder was about to let go of it. */
void group_settle(struct pg_group *g)
{
	if (!g->worker_mode && !ring_empty(&g->submitted) && lock_try(&g->progress)) {
		group_round(g);
		group_unlock(g);
	}
}

void group_leave(struct pg_group *g)
{
	peers_flush(g);
	group_unlock(g);
}

static void step_aside(struct pg_group *g)
{
	lock_release(&g->progress);
	while (atomic_load_explicit(&g->visitors, memory_order_relaxed))
		sched_yield();
	lock_acquire(&g->progress);
}

/* ---- Waiting ---- */

struct wait {
	wait_done done;
	void *arg;
	uint64_t end; /* UINT64_MAX: never */
};

static uint64_t time_left(const struct wait *w, uint64_t now)
{
	return w->end == UINT64_MAX ? UINT64_MAX : w->end > now ? w->end - now : 0;
}

static void tell_waiters(struct pg_group *g)
{
	g->delivered = false;
	group_wake(g);
}

/* Holds the lock and makes progress until the wait is over or somebody else wants the lock. */
static int lead(struct pg_group *g, const struct wait *w)
{
	uint64_t idle_since = 0;

	tick(g);
	for (;;) {
		int n = group_round(g);

		if (w->done(g, w->arg))
			return 0;
		if (g->delivered)
			tell_waiters(g);
		if (atomic_load_explicit(&g->stopping, memory_order_relaxed))
			return -ESHUTDOWN;
		if (atomic_load_explicit(&g->visitors, memory_order_relaxed))
			return -EAGAIN;
		if (g->now >= w->end)
			return -ETIMEDOUT;
		if (n > 0) {
			idle_since = 0;
			continue;
		}
		cpu_relax();
		if (idle_since == 0)
			idle_since = g->now;
		if (!g->config->busy_poll && g->now - idle_since >= g->config->spin_ns) {
			int rc = group_sleep(g, time_left(w, g->now));

			if (rc)
				return rc;
		}
	}
}

static int follow(struct pg_group *g, const struct wait *w)
{
	uint32_t seq = atomic_load_explicit(&g->wake_seq, memory_order_relaxed);
	uint64_t spin_end, now = clock_ns();
	int rc = 0;

	for (spin_end = now + g->config->spin_ns; now < spin_end; now = clock_ns()) {
		if (w->done(g, w->arg))
			return 0;
		cpu_relax();
	}
	atomic_fetch_add(&g->waiters, 1);
	/* Dekker, with group_wake: `waiters` first, then the look at what was delivered. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!w->done(g, w->arg) && !atomic_load_explicit(&g->stopping, memory_order_relaxed) &&
	    (g->worker_mode || !lock_idle(&g->progress)))
		rc = futex_wait(&g->wake_seq, seq, time_left(w, now));
	atomic_fetch_sub_explicit(&g->waiters, 1, memory_order_relaxed);
	return rc == -EINTR ? rc : 0;
}

static int wait_loop(struct pg_group *g, const struct wait *w)
{
	for (;;) {
		int rc;

		if (w->done(g, w->arg))
			return 0;
		if (atomic_load_explicit(&g->stopping, memory_order_relaxed))
			return -ESHUTDOWN;
		if (!g->worker_mode && lock_try(&g->progress)) {
			rc = lead(g, w);
			group_unlock(g);
			while (rc == -EAGAIN &&
			       atomic_load_explicit(&g->visitors, memory_order_relaxed))
				sched_yield();
			if (rc != -EAGAIN)
				return rc;
		} else {
			rc = follow(g, w);
			if (rc)
				return rc;
		}
		if (w->end != UINT64_MAX && clock_ns() >= w->end)
			return w->done(g, w->arg) ? 0 : -ETIMEDOUT;
	}
}

int group_wait(struct pg_group *g, wait_done done, void *arg, uint64_t timeout_ns)
{
	struct wait w = { .done = done, .arg = arg, .end = UINT64_MAX };
	int rc;

	if (done(g, arg))
		return 0;
	if (group_in_callback(g))
		return -EDEADLK;
	if (timeout_ns == PG_DEFAULT_TIMEOUT)
		timeout_ns = g->config->op_timeout_ns;
	if (timeout_ns < UINT64_MAX / 2)
		w.end = clock_ns() + timeout_ns;
	/* relaxed: destroy waits for it to fall to 0 and joins through the lock */
	atomic_fetch_add_explicit(&g->inside, 1, memory_order_relaxed);
	rc = wait_loop(g, &w);
	/* release: what this thread read of the group happens before destroy frees it */
	atomic_fetch_sub_explicit(&g->inside, 1, memory_order_release);
	return rc;
}

static bool never(struct pg_group *g, void *arg)
{
	(void)g;
	(void)arg;
	return false;
}

void *group_worker(void *arg)
{
	struct pg_group *g = arg;
	struct wait w = { .done = never, .end = UINT64_MAX };

	lock_acquire(&g->progress);
	while (lead(g, &w) != -ESHUTDOWN)
		step_aside(g);
	lock_release(&g->progress);
	return NULL;
}

int pg_progress(struct pg_group *g)
{
	int n = 0;

	if (!g->worker_mode && lock_try(&g->progress)) {
		n = group_round(g);
		group_unlock(g);
	}
	return n;
}
