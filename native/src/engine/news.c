/* SPDX-License-Identifier: MIT */
#include "engine/news.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/completion.h"
#include "engine/peer.h"
#include "util/log.h"

int news_create(struct pg_group *g)
{
	void *map = mmap(NULL, news_places(g->config) * sizeof(*g->news), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return -ENOMEM;
	g->news = map;
	return 0;
}

void news_destroy(struct pg_group *g)
{
	if (g->news)
		munmap(g->news, news_places(g->config) * sizeof(*g->news));
}

static uint32_t nic_place(const struct pg_group *g, unsigned index)
{
	return g->config->max_peers + index;
}

static uint32_t watcher_place(const struct pg_group *g, const struct watcher *w)
{
	return g->config->max_peers + PG_MAX_DOMAINS + w->h.index;
}

/* The lock is for those who take it meanwhile. */
static void put(struct pg_group *g, uint32_t place, const struct pg_event *event)
{
	struct news *n = &g->news[place];
	bool queued;

	lock_acquire(&g->news_lock);
	queued = n->queued;
	if (queued && event->kind == PG_EVENT_WATCH && n->event.kind == PG_EVENT_WATCH)
		n->event.value = event->value;
	else
		n->event = *event;
	n->queued = true;
	lock_release(&g->news_lock);
	if (!queued)
		ring_put(&g->ready_events, news_index(g, place));
	g->delivered = true;
}

void news_take(struct pg_group *g, uint32_t place, struct pg_event *event)
{
	struct news *n = &g->news[place];

	lock_acquire(&g->news_lock);
	*event = n->event;
	n->queued = false;
	lock_release(&g->news_lock);
}

void news_of_peer(struct pg_group *g, struct peer *p, enum pg_event_kind kind)
{
	struct pg_event event = { .kind = kind, .peer = handle_of(&p->h), .imm = PG_NO_IMM };

	if (kind == PG_EVENT_PEER_DOWN) {
		event.status = p->status;
		memcpy(event.text, p->reason, sizeof(event.text));
	}
	put(g, p->h.index, &event);
}

void news_of_nic(struct pg_group *g, const struct domain *d, int status)
{
	struct pg_event event = { .kind = status ? PG_EVENT_NIC_DOWN : PG_EVENT_NIC_UP,
				  .status = status,
				  .nic = d->index,
				  .imm = PG_NO_IMM };

	if (status)
		snprintf(event.text, sizeof(event.text), "%s is down: %s", d->name,
			 strerror(-status));
	log_warn("%s is %s", d->name, status ? "down" : "up again");
	put(g, nic_place(g, d->index), &event);
}

void news_of_watcher(struct pg_group *g, const struct watcher *w, uint64_t old, uint64_t value)
{
	struct pg_event event = { .kind = PG_EVENT_WATCH,
				  .cookie = w->done.cookie,
				  .old_value = old,
				  .value = value,
				  .imm = PG_NO_IMM };

	if (w->done.callback) {
		group_callback(g, &w->done, &event);
		deliver_due(g);
		return;
	}
	put(g, watcher_place(g, w), &event);
}

void news_forget_watcher(struct pg_group *g, const struct watcher *w)
{
	struct news *n = &g->news[watcher_place(g, w)];

	lock_acquire(&g->news_lock);
	n->event.kind = 0; /* skipped when it is taken */
	lock_release(&g->news_lock);
}
