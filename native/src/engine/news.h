/* SPDX-License-Identifier: MIT
 *
 * News on the event queue of what stays: peers, NICs, watched words. Each has one place, which holds
 * its latest news until that is polled, so nothing can run out. Written under the progress lock.
 */
#ifndef PGCTL_ENGINE_NEWS_H
#define PGCTL_ENGINE_NEWS_H

#include "engine/group.h"

int news_create(struct pg_group *g);
void news_destroy(struct pg_group *g);

/* How many places there are. */
static inline uint32_t news_places(const struct pg_config *c)
{
	return c->max_peers + PG_MAX_DOMAINS + PG_MAX_WATCHERS;
}

void news_of_peer(struct pg_group *g, struct peer *p, enum pg_event_kind kind);
void news_of_nic(struct pg_group *g, const struct domain *d, int status);
void news_of_watcher(struct pg_group *g, const struct watcher *w, uint64_t old, uint64_t value);

/* Takes what is in a place of the queue; any thread. */
void news_take(struct pg_group *g, uint32_t place, struct pg_event *event);

/* Nobody shall hear of a watcher that is gone. */
void news_forget_watcher(struct pg_group *g, const struct watcher *w);

#endif
