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
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "engine/message.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/wait_fd.h"
#include "engine/watcher.h"
#include "util/clock.h"
#include "util/futex.h"

#define RETRY_NS SCAN_NS /* a refused attempt is made again this often */
#define PAUSE 5000000ull /* nanoseconds, or ticks, of which there are more */

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

/* Peers that wait for credit or a handshake stay active and yet let us sleep: that wakes us.
 * Messages left behind for want of a buffer do not, but the buffer that comes back does. */
static bool may_sleep(struct pg_group *g)
{
	if (!ring_empty(&g->submitted) ||
	    atomic_load_explicit(&g->visitors, memory_order_relaxed) ||
	    atomic_load_explicit(&g->stopping, memory_order_relaxed) ||
	    (g->no_room && message_room(g)) || peers_ending(g) || g->salvage_due)
		return false;
	for (struct list *l = g->active.next; l != &g->active; l = l->next)
		if (!peer_blocked(g, LIST_ENTRY(l, struct peer, active)))
			return false;
	return true;
}

static void try_all_again(struct pg_group *g)
{
	for (struct list *l = g->active.next; l != &g->active; l = l->next)
		LIST_ENTRY(l, struct peer, active)->n_blocked = 0;
}

bool group_arm(struct pg_group *g, bool sleep)
{
	bool safe = true;

	/* relaxed: ordered by the fence below, the sleeper's half of Dekker's */
	atomic_store_explicit(&g->sleeping, sleep, memory_order_relaxed);
	if (sleep)
		atomic_thread_fence(memory_order_seq_cst);
	for (unsigned i = 0; i < g->n_domains; i++)
		safe &= g->domains[i]->transport->arm(g->domains[i], sleep);
	return safe && may_sleep(g);
}

uint64_t group_sleep_ns(struct pg_group *g, uint64_t limit_ns)
{
	uint64_t beat = g->next_beat > g->now ? g->next_beat - g->now : 0;
	uint64_t words = g->n_watchers ? watchers_sleep_ns(g) : UINT64_MAX;
	uint64_t ns = g->n_live || g->n_broken ? SCAN_NS : UINT64_MAX;

	/* Streams that have to be given up are there without peers, too. */
	if (!list_empty(&g->streams) && beat < ns)
		ns = beat;
	if (words < ns)
		ns = words;
	return limit_ns < ns ? limit_ns : ns;
}

/* Sleeps until something may have happened, at most timeout_ns; whether it did. -EINTR when a signal came. */
static int group_sleep(struct pg_group *g, uint64_t timeout_ns)
{
	uint64_t limit;
	bool safe;
	int rc = 0;

	if (!may_sleep(g))
		return 0;
	ops_share(g);
	limit = group_sleep_ns(g, timeout_ns);
	safe = group_arm(g, true);
	if (safe)
		rc = watches_serve(g, limit);
	group_arm(g, false);
	try_all_again(g);
	group_tick(g);
	return rc == -EINTR ? rc : safe;
}

/* ---- Sharing the lock ---- */

void group_enter(struct pg_group *g)
{
	if (lock_try(&g->progress) || group_in_callback(g))
		return;
	/* relaxed: the fence in group_kick orders it before the look at `sleeping` */
	atomic_fetch_add_explicit(&g->visitors, 1, memory_order_relaxed);
	group_kick(g);
	lock_acquire(&g->progress);
	atomic_fetch_sub_explicit(&g->visitors, 1, memory_order_relaxed);
}

void wake_followers(struct pg_group *g)
{
	if (!atomic_load(&g->waiters))
		return;
	atomic_fetch_add_explicit(&g->wake_seq, 1, memory_order_relaxed);
	futex_wake(&g->wake_seq, INT32_MAX);
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
		wake_followers(g);
		wait_fd_notify(g);
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
	if (g->calling)
		return;
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

/* Waiters look at memory that deliver() wrote; the fence orders that before the look at `waiters`
 * (Dekker, with the fence in group_wait). */
void group_wake(struct pg_group *g)
{
	atomic_thread_fence(memory_order_seq_cst);
	wait_fd_notify(g);
	if (atomic_load_explicit(&g->waiters, memory_order_relaxed) == 0)
		return;
	/* relaxed: the futex syscall orders it, and the waiter re-checks what it waits for */
	atomic_fetch_add_explicit(&g->wake_seq, 1, memory_order_relaxed);
	futex_wake(&g->wake_seq, INT32_MAX);
}

struct wait {
	wait_done done;
	void *arg;
	uint64_t timeout_ns;
	uint64_t end; /* UINT64_MAX: never; 0: not yet known, so that a short wait reads no clock */
};

static uint64_t deadline(uint64_t timeout_ns, uint64_t now)
{
	return timeout_ns < UINT64_MAX / 2 ? now + timeout_ns : UINT64_MAX;
}

static uint64_t time_left(struct wait *w, uint64_t now)
{
	if (!w->end)
		w->end = deadline(w->timeout_ns, now);
	return w->end == UINT64_MAX ? UINT64_MAX : w->end > now ? w->end - now : 0;
}

static void tell_waiters(struct pg_group *g)
{
	g->delivered = false;
	group_wake(g);
}

/* Holds the lock and makes progress until the wait is over or somebody else wants the lock. */
static int lead(struct pg_group *g, struct wait *w)
{
	uint64_t idle_since = 0;

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
		if (n > 0)
			idle_since = 0;
		else
			cpu_relax();
		if (!group_read_clock(g))
			continue;
		if (time_left(w, g->now) == 0)
			return -ETIMEDOUT;
		if (n > 0)
			continue;
		if (idle_since == 0)
			idle_since = g->now;
		if (!g->config->busy_poll && g->now - idle_since >= g->spin_ns) {
			int rc = group_sleep(g, time_left(w, g->now));

			if (rc < 0)
				return rc;
			/* Much of a transfer may come before any of it has arrived. */
			if (rc == 0)
				idle_since = 0;
		}
	}
}

static int follow(struct pg_group *g, struct wait *w)
{
	uint32_t seq = atomic_load_explicit(&g->wake_seq, memory_order_relaxed);
	uint64_t spin_end, now = clock_ns();
	int rc = 0;

	for (spin_end = now + g->spin_ns; now < spin_end; now = clock_ns()) {
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

static int wait_loop(struct pg_group *g, struct wait *w)
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
		if (time_left(w, clock_ns()) == 0)
			return w->done(g, w->arg) ? 0 : -ETIMEDOUT;
	}
}

void group_hold(struct pg_group *g)
{
	/* relaxed: destroy waits for it to fall to 0 and joins through the lock */
	atomic_fetch_add_explicit(&g->inside, 1, memory_order_relaxed);
}

void group_drop(struct pg_group *g)
{
	/* release: what this thread read of the group happens before destroy frees it */
	atomic_fetch_sub_explicit(&g->inside, 1, memory_order_release);
}

static int wait_held(struct pg_group *g, struct wait *w)
{
	int rc;

	group_hold(g);
	rc = wait_loop(g, w);
	group_drop(g);
	return rc;
}

static uint64_t or_default(const struct pg_group *g, uint64_t timeout_ns)
{
	return timeout_ns == PG_DEFAULT_TIMEOUT ? g->config->op_timeout_ns : timeout_ns;
}

int group_wait(struct pg_group *g, wait_done done, void *arg, uint64_t timeout_ns)
{
	struct wait w = { .done = done, .arg = arg, .timeout_ns = or_default(g, timeout_ns) };

	if (done(g, arg))
		return 0;
	if (group_in_callback(g))
		return -EDEADLK;
	return wait_held(g, &w);
}

int group_retry(struct pg_group *g, void (*attempt)(struct pg_group *g, void *arg), wait_done done,
		void *arg, uint64_t timeout_ns)
{
	struct wait w = { .done = done, .arg = arg };
	uint64_t end, again;
	int rc;

	if (done(g, arg))
		return 0;
	if (group_in_callback(g))
		return -EDEADLK;
	end = deadline(or_default(g, timeout_ns), clock_ns());
	do {
		group_enter(g);
		attempt(g, arg);
		group_leave(g);
		again = clock_ns() + RETRY_NS;
		w.end = again < end ? again : end;
		rc = wait_held(g, &w);
	} while (rc == -ETIMEDOUT && again < end);
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

/* Who calls seldom would serve control only each 16th time. */
static int tick_after_pause(struct pg_group *g)
{
	/* Neither needs a system call. The coarse clock is the cheaper one where both are there. */
	uint64_t now = g->slow_clock ? ticks() : clock_coarse_ns();
	bool paused = now - g->last_poll > PAUSE;

	g->last_poll = now;
	return paused ? group_tick(g) : 0;
}

int pg_progress(struct pg_group *g)
{
	int n = 0;

	if (group_forked(g))
		return -ESTALE;
	if (!g->worker_mode && lock_try(&g->progress)) {
		n = group_round(g);
		n += tick_after_pause(g);
		group_unlock(g);
	}
	return n;
}
