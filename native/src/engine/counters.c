/* SPDX-License-Identifier: MIT
 *
 * Counters as callers see them: the table is its own (imm_counter.h), telling is completion.c's, and
 * who the writers are is found out here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/peer.h"
#include "engine/peer_group.h"
#include "engine/progress.h"
#include "util/error.h"

#define FEW 64 /* writers that are looked up without asking for memory */

/* Inline, the progress lock is the table's; with a worker its own is, as callers shall not wait for
 * the worker. */
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
		if (!fired->done.callback && !fired->tag) {
			tell_fired(g, fired, NULL);
			group_wake(g);
			return;
		}
		group_enter(g);
	}
	if (fired)
		deliver_fired(g, fired, NULL);
	group_leave(g);
}

static int expect_any(struct pg_group *g, uint32_t imm, uint64_t n, const struct pg_done *done,
		      struct pg_error *err)
{
	struct imm_fired fired;
	int rc;

	counters_enter(g);
	rc = imm_expect(g->imms, imm, n, NULL, 0, done, group_in_callback(g) ? NULL : &fired, err);
	counters_leave(g, rc > 0 ? &fired : NULL);
	return rc;
}

/* ---- Expectations of named writers ---- */

struct writers {
	struct peer_group *group; /* or NULL */
	struct imm_from from;
	uint32_t few_sources[FEW];
	uint64_t few_owes[FEW];
	uint32_t *sources;
	uint64_t *owes;
};

static int make_room(struct writers *w, uint32_t n, struct pg_error *err)
{
	w->sources = n <= FEW ? w->few_sources : malloc(n * sizeof(*w->sources));
	w->owes = n <= FEW ? w->few_owes : malloc(n * sizeof(*w->owes));
	if (!w->sources || !w->owes)
		return error_set(err, -ENOMEM, "no memory for %u writers", n);
	w->from = (struct imm_from){ .n = n, .sources = w->sources, .owes = w->owes };
	return 0;
}

static void free_writers(struct writers *w)
{
	if (w->sources != w->few_sources)
		free(w->sources);
	if (w->owes != w->few_owes)
		free(w->owes);
}

/* Under the lock. */
static int look_up(struct pg_group *g, uint64_t total, const struct pg_from *from,
		   struct writers *w, struct pg_error *err)
{
	const pg_peer_t *peers = from->peers;
	uint32_t n = from->n_peers;
	int rc;

	if (from->group) {
		if (n)
			return error_set(err, -EINVAL, "writers of a group and %u peers", n);
		w->group = peer_group_get(g, from->group, err);
		if (!w->group)
			return -ESTALE;
		peers = w->group->peers;
		n = atomic_load_explicit(&w->group->n, memory_order_relaxed);
	}
	if (!n || !peers)
		return error_set(err, -EINVAL, "no writers are named");
	if (!from->owes && total % n)
		return error_set(err, -EINVAL, "%ju writes cannot be shared by %u peers evenly",
				 (uintmax_t)total, n);
	rc = make_room(w, n, err);
	for (uint32_t i = 0; i < n && !rc; i++) {
		const struct peer *p = handles_get(&g->peers, peers[i], &rc);

		if (rc)
			return error_set(err, rc, "writer %u: 0x%llx is not a peer", i,
					 (unsigned long long)peers[i]);
		w->sources[i] = p->h.index;
		w->owes[i] = from->owes ? from->owes[i] : total / n;
	}
	return rc;
}

/* Those who hear of it may at once expect the same again, so this looks only once, and what is left
 * is for the next round. */
void end_expectations(struct pg_group *g, const struct peer *p)
{
	struct imm_fired fired[POLL_BATCH];
	unsigned n;

	counters_lock(g);
	n = imm_source_died(g->imms, p->h.index, fired, POLL_BATCH);
	counters_unlock(g);
	g->recheck |= n > 0;
	for (unsigned i = 0; i < n; i++)
		deliver_fired(g, &fired[i], p->reason);
}

void recheck_expectations(struct pg_group *g)
{
	g->recheck = false;
	for (uint32_t i = 0; i < g->peers.used; i++) {
		const struct peer *p = peer_slot(g, i);

		if (p && !peer_alive(p) && p->end != END_POLL)
			end_expectations(g, p);
	}
}

/* Who is dead already will not write any more; one that is only just down is told of by its end. */
static void end_if_dead(struct pg_group *g, const struct writers *w)
{
	for (uint32_t i = 0; i < w->from.n; i++) {
		const struct peer *p = (const struct peer *)handles_slot(&g->peers, w->sources[i]);

		if (peer_alive(p) || p->end == END_POLL)
			continue;
		/* From within callbacks this would nest without end. */
		if (group_in_callback(g))
			g->recheck = true;
		else
			end_expectations(g, p);
	}
}

static int expect_from(struct pg_group *g, uint32_t imm, uint64_t n, const struct pg_from *from,
		       const struct pg_done *done, struct pg_error *err)
{
	struct writers w = { 0 };
	struct imm_fired fired;
	int rc;

	group_enter(g);
	rc = look_up(g, n, from, &w, err);
	if (!rc) {
		counters_lock(g);
		rc = imm_expect(g->imms, imm, n, &w.from, (uintptr_t)w.group, done,
				group_in_callback(g) ? NULL : &fired, err);
		counters_unlock(g);
	}
	if (rc >= 0 && w.group)
		handle_ref(&w.group->h);
	if (rc > 0)
		deliver_fired(g, &fired, NULL);
	else if (rc == 0)
		end_if_dead(g, &w);
	group_leave(g);
	free_writers(&w);
	return rc;
}

/* ---- Public ---- */

int pg_expect_imm_from(struct pg_group *g, uint32_t imm, uint64_t n, const struct pg_from *from,
		       const struct pg_done *done, struct pg_error *err)
{
	struct pg_done d = *done;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	/* For callbacks: one that always expects more would keep destroy from its end. relaxed:
	 * what is armed at the last moment is cancelled. */
	if (atomic_load_explicit(&g->stopping, memory_order_relaxed))
		return error_set(err, -ESHUTDOWN, "the engine is shutting down");
	rc = done_prepare(g, &d);
	if (rc)
		return error_set(err, rc, "%u events are waiting to be polled; no room for more",
				 g->config->max_events);
	rc = from ? expect_from(g, imm, n, from, &d, err) : expect_any(g, imm, n, &d, err);
	if (rc < 0)
		done_abandon(g, &d);
	return rc < 0 ? rc : 0;
}

int pg_expect_imm(struct pg_group *g, uint32_t imm, uint64_t n, const struct pg_done *done,
		  struct pg_error *err)
{
	return pg_expect_imm_from(g, imm, n, NULL, done, err);
}

int pg_expect_imm_flag(struct pg_group *g, uint32_t imm, uint64_t n, int32_t *flag,
		       struct pg_error *err)
{
	struct pg_done done = { .flag = flag };

	return pg_expect_imm_from(g, imm, n, NULL, &done, err);
}

int pg_imm_value(struct pg_group *g, uint32_t imm, uint64_t *value)
{
	if (group_forked(g))
		return -ESTALE;
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
	uint64_t newest;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	if (imm > PG_IMM_MAX)
		return -EINVAL;
	counters_enter(g);
	/* relaxed: the newest peer that can have used it could write before the caller knew of that */
	newest = atomic_load_explicit(&g->n_writers, memory_order_relaxed)
			 ? atomic_load_explicit(&g->peer_serial, memory_order_relaxed)
			 : 0;
	rc = imm_free(g->imms, imm, newest,
		      &fired); /* -ENOENT: one at 0 may be forgotten already */
	counters_leave(g, rc > 0 ? &fired : NULL);
	return 0;
}
