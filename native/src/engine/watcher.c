/* SPDX-License-Identifier: MIT */
#include "engine/watcher.h"

#include <string.h>
#include <sys/mman.h>

#include "engine/news.h"
#include "engine/progress.h"

#define LINE 64
#define SLEEP_MIN_NS 50000ull
#define SLEEP_MAX_NS 1000000ull

int watchers_create(struct pg_group *g)
{
	void *words = mmap(NULL, PG_MAX_WATCHERS * LINE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (words == MAP_FAILED)
		return -ENOMEM;
	g->words = words;
	return handles_init(&g->watchers, PG_MAX_WATCHERS, sizeof(struct watcher));
}

void watchers_destroy(struct pg_group *g)
{
	if (g->words)
		munmap(g->words, PG_MAX_WATCHERS * LINE);
	handles_fini(&g->watchers);
}

int watchers_poll(struct pg_group *g)
{
	int n = 0;

	for (uint32_t i = 0; i < g->watchers.used; i++) {
		struct watcher *w = (struct watcher *)handles_slot(&g->watchers, i);
		uint64_t old = w->seen, value;

		if (!(atomic_load_explicit(&w->h.generation, memory_order_relaxed) & 1))
			continue;
		/* acquire: what was written before the word is seen by who hears of it */
		value = atomic_load_explicit(w->word, memory_order_acquire);
		if (value == old)
			continue;
		w->seen = value;
		g->watch_ns = SLEEP_MIN_NS;
		news_of_watcher(g, w, old, value);
		n++;
	}
	return n;
}

uint64_t watchers_sleep_ns(struct pg_group *g)
{
	uint64_t ns = g->watch_ns ? g->watch_ns : SLEEP_MIN_NS;

	g->watch_ns = 2 * ns < SLEEP_MAX_NS ? 2 * ns : SLEEP_MAX_NS;
	return ns;
}

int pg_alloc_watcher(struct pg_group *g, const struct pg_done *done, uint64_t **word,
		     pg_watcher_t *watcher, struct pg_error *err)
{
	struct watcher *w;

	if (group_forked(g))
		return group_stale(err);
	group_enter(g);
	w = handles_take(&g->watchers);
	if (w) {
		w->word = (_Atomic uint64_t *)(g->words + w->h.index * (LINE / sizeof(*g->words)));
		/* relaxed: nobody else has it yet */
		atomic_store_explicit(w->word, 0, memory_order_relaxed);
		w->seen = 0;
		w->done = *done;
		handles_publish(&w->h);
		g->n_watchers++;
		*word = (uint64_t *)w->word;
		*watcher = handle_of(&w->h);
	}
	group_leave(g);
	return w ? 0
		 : error_set(err, -ENOSPC, "no room for more than %d watchers", PG_MAX_WATCHERS);
}

int pg_watcher_set(struct pg_group *g, pg_watcher_t watcher, uint64_t value)
{
	struct watcher *w;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	w = handles_get(&g->watchers, watcher, &rc);
	if (!w)
		return rc;
	/* release: pairs with the acquire in watchers_poll */
	atomic_store_explicit(w->word, value, memory_order_release);
	group_kick(g);
	return 0;
}

int pg_free_watcher(struct pg_group *g, pg_watcher_t watcher)
{
	struct watcher *w;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	w = handles_get(&g->watchers, watcher, &rc);
	if (w) {
		handles_retire(&w->h);
		news_forget_watcher(g, w);
		handles_release(&g->watchers, &w->h);
		g->n_watchers--;
	}
	group_leave(g);
	return w ? 0 : rc;
}
