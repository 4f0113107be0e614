/* SPDX-License-Identifier: MIT
 *
 * Who makes progress, how it sleeps and how others wait.
 */
#ifndef PGCTL_ENGINE_PROGRESS_H
#define PGCTL_ENGINE_PROGRESS_H

#include "engine/group.h"

#define SCAN_NS 10000000ull /* deadlines are looked at this often, while there are any */

/* Takes the progress lock for something other than progress, asking its holder to step aside. In a
 * callback, which runs under the lock, both do nothing. */
void group_enter(struct pg_group *g);
/* Flushes and lets go. */
void group_leave(struct pg_group *g);

/* One round of progress; the lock is held. The number of things that happened. */
int group_round(struct pg_group *g);
/* Whether the last round read the clock into g->now, which costs as much as the rest of one. */
bool group_read_clock(const struct pg_group *g);
/* The part of a round that needs the time, which only it reads. */
int group_tick(struct pg_group *g);

/* Starts what was left in the ring; the lock is held. */
int group_start_submitted(struct pg_group *g);

/* How long a sleep may last, at most limit_ns: until the next heartbeat, deadline or look at watched
 * words. */
uint64_t group_sleep_ns(struct pg_group *g, uint64_t limit_ns);

/* On the way to sleep, all but sleeping: false, when something is there already. Then, or after the
 * sleep: group_arm(g, false). */
bool group_arm(struct pg_group *g, bool sleep);

/* Wakes the holder of the lock if it sleeps. Call after making visible what it should see. */
void group_kick(struct pg_group *g);

/* Serves what was submitted, if nobody does: for who found the lock taken just before it was let
 * go. */
void group_settle(struct pg_group *g);

/* Lets go of the lock: wakes whoever should take it, serves what was submitted meanwhile. */
void group_unlock(struct pg_group *g);

/* Wakes the threads that sleep because somebody else led; after a seq_cst release of the lock. */
void wake_followers(struct pg_group *g);

/* Wakes the threads that wait for a completion, after one was delivered. Any thread. */
void group_wake(struct pg_group *g);

/* True when the wait is over; called with and without the lock. */
typedef bool (*wait_done)(struct pg_group *g, void *arg);

/* 0, -ETIMEDOUT, -EINTR, -ESHUTDOWN; -EDEADLK from inside a callback. */
int group_wait(struct pg_group *g, wait_done done, void *arg, uint64_t timeout_ns);

/* The same, for what may have to be tried again, a socket being full: under the lock, now and then
 * until it is over. */
int group_retry(struct pg_group *g, void (*attempt)(struct pg_group *g, void *arg), wait_done done,
		void *arg, uint64_t timeout_ns);

/* Around a call that waits and then still looks at the group: destroy lets it return first. */
void group_hold(struct pg_group *g);
void group_drop(struct pg_group *g);

/* Body of the worker thread; arg is the group. */
void *group_worker(void *arg);

int watch_add(struct pg_group *g, struct watch *w, uint32_t events);
void watch_close(struct pg_group *g, struct watch *w);
/* Serves what is ready, waiting up to timeout_ns for the first. How many, or -errno. */
int watches_serve(struct pg_group *g, uint64_t timeout_ns);

#endif
