/* SPDX-License-Identifier: MIT
 *
 * Inline, wait_fd is an epoll over the one that the group sleeps in and an eventfd: the first wakes
 * its sleeper when there is progress to make, the second when another thread has made it. With a
 * worker there is only the eventfd. It rings once for each pg_wait_arm.
 */
#include "engine/wait_fd.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine/progress.h"
#include "util/clock.h"

static void timer_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	uint64_t n;

	(void)g;
	(void)events;
	(void)!read(w->fd, &n, sizeof(n));
}

int wait_fd_open(struct pg_group *g)
{
	struct epoll_event e = { .events = EPOLLIN };

	g->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->notify < 0)
		return -errno;
	if (g->worker_mode) {
		g->wait_fd = g->notify;
		return 0;
	}
	g->timer =
		(struct watch){ .fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
				.ready = timer_ready };
	g->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (g->timer.fd < 0 || g->wait_fd < 0 || watch_add(g, &g->timer, EPOLLIN) ||
	    epoll_ctl(g->wait_fd, EPOLL_CTL_ADD, g->epoll, &e) ||
	    epoll_ctl(g->wait_fd, EPOLL_CTL_ADD, g->notify, &e))
		return -errno;
	return 0;
}

static void set_timer(struct pg_group *g, uint64_t ns)
{
	struct itimerspec t = { .it_value = { (time_t)(ns / NS_PER_SEC),
					      (long)(ns % NS_PER_SEC) } };

	if (ns == UINT64_MAX)
		t = (struct itimerspec){ 0 };
	else if (ns == 0) /* which would disarm it */
		t.it_value.tv_nsec = 1;
	timerfd_settime(g->timer.fd, 0, &t, NULL);
}

void wait_fd_disarm(struct pg_group *g)
{
	g->fd_armed = false;
	group_arm(g, false);
}

void wait_fd_ring(struct pg_group *g)
{
	uint64_t one = 1;

	/* relaxed: one of several tells */
	if (atomic_exchange_explicit(&g->armed, 0, memory_order_relaxed))
		(void)!write(g->notify, &one, sizeof(one));
}

int pg_wait_fd(struct pg_group *g)
{
	return group_forked(g) ? -ESTALE : g->wait_fd;
}

/* Who holds the lock will notify us when it delivers something or lets go. */
static int arm_inline(struct pg_group *g)
{
	bool safe;

	/* seq_cst, in lock_idle: whoever lets go after that sees us armed */
	while (!lock_try(&g->progress))
		if (!lock_idle(&g->progress))
			return 1;
	g->now = clock_ns();
	safe = group_arm(g, true) && ring_empty(&g->ready_events);
	if (safe) {
		g->fd_armed = true;
		set_timer(g, group_sleep_ns(g, UINT64_MAX));
	} else {
		group_arm(g, false);
	}
	lock_release(&g->progress);
	wake_followers(g); /* one of them may lead now */
	return safe;
}

int pg_wait_arm(struct pg_group *g)
{
	uint64_t n;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	(void)!read(g->notify, &n, sizeof(n));
	/* seq_cst: see wait_fd_notify */
	atomic_store(&g->armed, 1);
	if (!ring_empty(&g->ready_events))
		rc = 0;
	else
		rc = g->worker_mode ? 1 : arm_inline(g);
	if (!rc)
		atomic_store_explicit(&g->armed, 0, memory_order_relaxed);
	return rc;
}
