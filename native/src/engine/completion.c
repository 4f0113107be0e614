/* SPDX-License-Identifier: MIT */
#include "engine/completion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/message.h"
#include "engine/news.h"
#include "engine/progress.h"

int events_create(struct pg_group *g)
{
	uint32_t n = g->config->max_events, places = 2;
	int rc = ring_init(&g->free_events, n);

	if (rc)
		return rc;
	/* completions, as many received messages, and news */
	while (places < 2 * n + news_places(g->config))
		places *= 2;
	rc = ring_init(&g->ready_events, places);
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
	event->nic = 0;
	event->old_value = event->value = 0;
	event->text[0] = '\0';
	if (end->status && end->text)
		snprintf(event->text, sizeof(event->text), "%s", end->text);
}

static bool take_due(struct pg_group *g, struct imm_fired *fired)
{
	int rc;

	counters_lock(g);
	rc = imm_due(g->imms, fired);
	counters_unlock(g);
	return rc > 0;
}

void deliver_due(struct pg_group *g)
{
	struct imm_fired fired;

	if (g->telling || g->calling)
		return;
	g->telling = true;
	while (take_due(g, &fired))
		deliver_fired(g, &fired, NULL);
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

static const char *why_fired(const struct imm_fired *fired, const char *why)
{
	if (fired->status == -ECANCELED)
		return "the counter was freed";
	return fired->status == -ESHUTDOWN ? "the engine is shutting down" : why;
}

/* Says how far it had come, when it ends without. */
void tell_fired(struct pg_group *g, const struct imm_fired *fired, const char *why)
{
	char text[PG_ERROR_MAX];
	struct ending end = {
		.kind = PG_EVENT_IMM,
		.status = fired->status,
		.imm = fired->imm,
		.text = text,
	};

	if (__builtin_expect(fired->status, 0)) {
		const char *cause = why_fired(fired, why);

		snprintf(text, sizeof(text), "%ju of %ju writes with immediate %#x: %.160s",
			 (uintmax_t)fired->have, (uintmax_t)fired->want, fired->imm,
			 cause ? cause : strerror(-fired->status));
	}
	deliver(g, &fired->done, &end);
}

/* The tag of an expectation is the group of peers that it names, or 0. */
void deliver_fired(struct pg_group *g, const struct imm_fired *fired, const char *why)
{
	struct peer_group *pg = (struct peer_group *)(uintptr_t)fired->tag;

	if (pg)
		handle_unref(&pg->h);
	tell_fired(g, fired, why);
	g->delivered = true;
}

/* A receive buffer or a place of news as an event; false: it is no news any more. */
static bool take_place(struct pg_group *g, uint32_t i, struct pg_event *event)
{
	uint32_t n = g->config->max_events;

	if (i < 2 * n) {
		memcpy(event, &g->recvs[i - n].event, sizeof(*event));
		return true;
	}
	news_take(g, i - 2 * n, event);
	return event->kind != 0;
}

static unsigned take_events(struct pg_group *g, struct pg_event *events, unsigned max)
{
	unsigned n = 0;
	uint32_t i;

	while (n < max && ring_pop(&g->ready_events, &i)) {
		const struct pg_event *e = &g->events[i];

		if (i >= g->config->max_events) {
			n += take_place(g, i, &events[n]);
			continue;
		}
		/* the sentence only if there is one */
		memcpy(&events[n], e, e->status ? sizeof(*e) : offsetof(struct pg_event, text));
		if (!e->status)
			events[n].text[0] = '\0';
		n++;
		ring_put(&g->free_events, i);
	}
	return n;
}

int pg_poll_events(struct pg_group *g, struct pg_event *events, unsigned max)
{
	unsigned n;

	if (group_forked(g))
		return -ESTALE;
	n = take_events(g, events, max);
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

	if (group_forked(g))
		return -ESTALE;
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

	return group_forked(g) ? -ESTALE : group_wait(g, flags_set, &w, timeout_ns);
}
