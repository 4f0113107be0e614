/* SPDX-License-Identifier: MIT */
#include "engine/completion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/message.h"
#include "engine/progress.h"

int events_create(struct pg_group *g)
{
	uint32_t n = g->config->max_events;
	int rc = ring_init(&g->free_events, n);

	if (rc)
		return rc;
	/* completions, and as many received messages */
	rc = ring_init(&g->ready_events, 2 * n);
	if (rc)
		return rc;
	g->events = mmap(NULL, n * sizeof(*g->events), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (g->events == MAP_FAILED) {
		g->events = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++)
		ring_put(&g->free_events, i);
	return 0;
}

void events_destroy(struct pg_group *g)
{
	if (g->events)
		munmap(g->events, g->config->max_events * sizeof(*g->events));
	ring_fini(&g->ready_events);
	ring_fini(&g->free_events);
}

int done_prepare(struct pg_group *g, struct pg_done *done)
{
	uint32_t i;

	if (done->callback)
		return 0;
	if (done->flag) {
		/* relaxed: the caller sees its own store, the engine's comes after */
		atomic_store_explicit((_Atomic int32_t *)done->flag, 0, memory_order_relaxed);
		return 0;
	}
	if (!ring_pop(&g->free_events, &i))
		return -EAGAIN;
	done->arg = (void *)(uintptr_t)i;
	return 0;
}

void done_abandon(struct pg_group *g, struct pg_done *done)
{
	if (!done->callback && !done->flag)
		ring_put(&g->free_events, (uint32_t)(uintptr_t)done->arg);
}

static void fill(struct pg_event *event, const struct pg_done *done, const struct ending *end)
{
	event->kind = end->kind;
	event->status = end->status;
	event->cookie = done->cookie;
	event->peer = end->peer;
	event->data = NULL;
	event->len = 0;
	event->imm = end->imm;
	event->text[0] = '\0';
	if (end->status && end->text)
		snprintf(event->text, sizeof(event->text), "%s", end->text);
}

static bool take_due(struct pg_group *g, struct imm_fired *fired)
{
	int rc;

	if (g->worker_mode) /* see counters_enter */
		imm_lock(g->imms);
	rc = imm_due(g->imms, fired);
	if (g->worker_mode)
		imm_unlock(g->imms);
	return rc > 0;
}

/* What callbacks expect and has arrived already is told when they have returned: from within they
 * would nest as deep as there are writes. */
static void deliver_due(struct pg_group *g)
{
	struct imm_fired fired;

	if (g->telling || g->calling)
		return;
	g->telling = true;
	while (take_due(g, &fired))
		deliver_fired(g, &fired);
	g->telling = false;
}

void deliver(struct pg_group *g, const struct pg_done *done, const struct ending *end)
{
	if (done->callback) {
		struct pg_event event;

		fill(&event, done, end);
		group_callback(g, done, &event);
		deliver_due(g);
	} else if (done->flag) {
		/* release: what was done happens before the caller's acquire of the flag */
		atomic_store_explicit((_Atomic int32_t *)done->flag, end->status ? end->status : 1,
				      memory_order_release);
	} else {
		uint32_t i = (uint32_t)(uintptr_t)done->arg;

		fill(&g->events[i], done, end);
		ring_put(&g->ready_events, i);
	}
}

static void tell_fired(struct pg_group *g, const struct imm_fired *fired)
{
	struct ending end = {
		.kind = PG_EVENT_IMM,
		.status = fired->status,
		.imm = fired->imm,
		.text = fired->status == -ECANCELED ? "the counter was freed"
						    : "the engine is shutting down",
	};

	deliver(g, &fired->done, &end);
}

void deliver_fired(struct pg_group *g, const struct imm_fired *fired)
{
	tell_fired(g, fired);
	g->delivered = true;
}

static unsigned take_events(struct pg_group *g, struct pg_event *events, unsigned max)
{
	unsigned n = 0;
	uint32_t i;

	while (n < max && ring_pop(&g->ready_events, &i)) {
		const struct pg_event *e = i < g->config->max_events
						   ? &g->events[i]
						   : &g->recvs[i - g->config->max_events].event;

		memcpy(&events[n], e, e->status ? sizeof(*e) : offsetof(struct pg_event, text));
		if (!e->status)
			events[n].text[0] = '\0';
		n++;
		if (i < g->config->max_events)
			ring_put(&g->free_events, i);
	}
	return n;
}

int pg_poll_events(struct pg_group *g, struct pg_event *events, unsigned max)
{
	unsigned n = take_events(g, events, max);

	if (n == 0 && pg_progress(g) > 0)
		n = take_events(g, events, max);
	return (int)n;
}

struct events_wait {
	struct pg_event *events;
	unsigned max, n;
};

static bool have_events(struct pg_group *g, void *arg)
{
	struct events_wait *w = arg;

	if (w->n == 0)
		w->n = take_events(g, w->events, w->max);
	return w->n > 0;
}

int pg_wait_events(struct pg_group *g, struct pg_event *events, unsigned max, uint64_t timeout_ns)
{
	struct events_wait w = { .events = events, .max = max };
	int rc;

	if (max == 0)
		return -EINVAL;
	rc = group_wait(g, have_events, &w, timeout_ns);
	return rc ? rc : (int)w.n;
}

struct flags_wait {
	const int32_t *flags;
	unsigned n;
};

static bool flags_set(struct pg_group *g, void *arg)
{
	struct flags_wait *w = arg;

	(void)g;
	/* acquire: pairs with deliver. Those seen set are not looked at again. */
	while (w->n > 0 && atomic_load_explicit((const _Atomic int32_t *)&w->flags[w->n - 1],
						memory_order_acquire))
		w->n--;
	return w->n == 0;
}

int pg_wait_flags(struct pg_group *g, const int32_t *flags, unsigned n, uint64_t timeout_ns)
{
	struct flags_wait w = { .flags = flags, .n = n };

	return group_wait(g, flags_set, &w, timeout_ns);
}

/* ---- Counters: the table is its own, telling is ours ---- */

/* With a worker the table has a lock of its own, since callers shall not wait for the worker; inline
 * the progress lock does, which saves the hot path one. */
static void counters_enter(struct pg_group *g)
{
	if (g->worker_mode)
		imm_lock(g->imms);
	else
		group_enter(g);
}

/* Tells of the expectation that ended meanwhile, if any. Inline, the holder of the lock may be about
 * to sleep until just that, so it is told before the lock is let go. */
static void counters_leave(struct pg_group *g, const struct imm_fired *fired)
{
	if (g->worker_mode) {
		imm_unlock(g->imms);
		if (!fired)
			return;
		if (!fired->done.callback) {
			tell_fired(g, fired);
			group_wake(g);
			return;
		}
		group_enter(g);
	}
	if (fired)
		deliver_fired(g, fired);
	group_leave(g);
}

int pg_expect_imm(struct pg_group *g, uint32_t imm, uint64_t n, const struct pg_done *done,
		  struct pg_error *err)
{
	struct imm_fired fired;
	struct pg_done d = *done;
	int rc;

	/* For callbacks: one that always expects more would keep destroy from its end. relaxed:
	 * what is armed at the last moment is cancelled. */
	if (atomic_load_explicit(&g->stopping, memory_order_relaxed))
		return error_set(err, -ESHUTDOWN, "the engine is shutting down");
	rc = done_prepare(g, &d);
	if (rc)
		return error_set(err, rc, "%u events are waiting to be polled; no room for more",
				 g->config->max_events);
	counters_enter(g);
	rc = imm_expect(g->imms, imm, n, &d, group_in_callback(g) ? NULL : &fired, err);
	counters_leave(g, rc > 0 ? &fired : NULL);
	if (rc < 0)
		done_abandon(g, &d);
	return rc < 0 ? rc : 0;
}

int pg_expect_imm_flag(struct pg_group *g, uint32_t imm, uint64_t n, int32_t *flag,
		       struct pg_error *err)
{
	struct pg_done done = { .flag = flag };

	return pg_expect_imm(g, imm, n, &done, err);
}

int pg_imm_value(struct pg_group *g, uint32_t imm, uint64_t *value)
{
	if (imm > PG_IMM_MAX)
		return -EINVAL;
	counters_enter(g);
	*value = imm_value(g->imms, imm);
	counters_leave(g, NULL);
	return 0;
}

int pg_free_imm(struct pg_group *g, uint32_t imm)
{
	struct imm_fired fired;
	int rc;

	if (imm > PG_IMM_MAX)
		return -EINVAL;
	counters_enter(g);
	rc = imm_free(g->imms, imm, &fired); /* -ENOENT: one at 0 may be forgotten already */
	counters_leave(g, rc > 0 ? &fired : NULL);
	return 0;
}
