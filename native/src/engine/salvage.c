/* SPDX-License-Identifier: MIT
 *
 * What of broken connections is sent again. Operations end here too, but only from salvage_run, where
 * whoever hears of it may do anything.
 */
#include <errno.h>
#include <string.h>

#include "engine/failover.h"
#include "engine/paths.h"
#include "engine/peer.h"

static void enlist(struct pg_group *g, struct peer *p)
{
	if (list_empty(&p->salvage))
		list_append(&g->salvaging, &p->salvage);
}

void salvage(struct pg_group *g, struct peer *p, struct flight *f)
{
	/* Its lane goes on elsewhere, also if another connection gets the place of this one. */
	lane_moves(&g->ops[f->op].lanes[f->lane]);
	list_append(&p->orphans, &f->link);
	enlist(g, p);
	g->salvage_due = true;
}

void salvage_rewrite(struct peer *p, struct flight *f, bool owes_imm)
{
	if (f->kind == FLIGHT_MAKEUP) /* there is no payload to it any more */
		f->len = 0;
	f->kind = FLIGHT_REWRITE;
	f->owes_imm = owes_imm;
	p->n_rewriting += !f->rewriting;
	f->rewriting = true;
}

/* One piece of its operation has ended. */
static void end(struct pg_group *g, struct flight *f, int status, const struct domain *d)
{
	struct op *op = &g->ops[f->op];
	unsigned lane = f->lane;

	if (f->kind == FLIGHT_DROPPED)
		op->lanes[lane].cut = true;
	flight_give(g, f);
	op_piece_ended(g, op, lane, status, d);
}

void salvage_ended(struct pg_group *g, struct peer *p, struct flight *f, int status,
		   const struct domain *d)
{
	bool owes_imm = f->kind == FLIGHT_REWRITE && f->owes_imm && !status &&
			peer_state(p) == PEER_UP;

	if (f->rewriting && peer_state(p) == PEER_UP && --p->n_rewriting == 0)
		memset(p->marks, 0, sizeof(p->marks)); /* what ends later is not waited for */
	f->rewriting = false;
	if (owes_imm) {
		f->kind = FLIGHT_MAKEUP;
		list_append(&p->makeups, &f->link);
		enlist(g, p);
		return;
	}
	end(g, f, status, d);
}

/* Nothing has to be sent for it. */
static bool is_over(const struct flight *f)
{
	return f->kind == FLIGHT_LANDED || f->kind == FLIGHT_DROPPED ||
	       (f->kind == FLIGHT_REWRITE && f->len == 0);
}

/* Whether it went, or ended. */
static bool send(struct pg_group *g, struct peer *p, struct flight *f)
{
	struct pg_error err = { 0 };
	unsigned k;
	int rc;

	if (is_over(f)) {
		salvage_ended(g, p, f, 0, NULL);
		return true;
	}
	if (!p->usable) {
		list_append(&p->orphans, &f->link);
		return false;
	}
	k = path_next(p);
	rc = flight_repost(g, f, k, &err);
	if (!rc)
		return true;
	if (rc == -EAGAIN || rc == -ECONNABORTED) {
		list_append(&p->orphans, &f->link);
		if (rc == -ECONNABORTED)
			path_broke(g, p, k, rc);
		return false;
	}
	salvage_ended(g, p, f, rc, p->paths[k].conn->domain);
	return true;
}

static unsigned length(const struct list *list)
{
	unsigned n = 0;

	for (const struct list *l = list->next; l != list; l = l->next)
		n++;
	return n;
}

/* Each is tried once: those that have to wait go to the end. */
static int run(struct pg_group *g, struct peer *p)
{
	int sent = 0;

	for (unsigned n = length(&p->orphans); n && !list_empty(&p->orphans); n--) {
		struct flight *f = LIST_ENTRY(p->orphans.next, struct flight, link);

		list_remove(&f->link);
		sent += send(g, p, f);
	}
	/* All payload that may belong to one of them is there. */
	if (p->n_rewriting || list_empty(&p->makeups) || !paths_visible(p, p->marks))
		return sent;
	while (!list_empty(&p->makeups)) {
		struct flight *f = LIST_ENTRY(p->makeups.next, struct flight, link);

		list_remove(&f->link);
		list_append(&p->orphans, &f->link);
		sent++;
	}
	return sent;
}

int salvage_run(struct pg_group *g)
{
	struct list now;
	int sent = 0;

	if (group_in_callback(g))
		return 0;
	g->salvage_due = false;
	list_take_all(&now, &g->salvaging);
	while (!list_empty(&now)) {
		struct peer *p = LIST_ENTRY(now.next, struct peer, salvage);

		list_remove(&p->salvage);
		sent += run(g, p);
		if (!list_empty(&p->orphans) || !list_empty(&p->makeups))
			enlist(g, p);
	}
	return sent;
}

static void drop(struct pg_group *g, struct list *flights)
{
	while (!list_empty(flights)) {
		struct flight *f = LIST_ENTRY(flights->next, struct flight, link);

		list_remove(&f->link);
		g->ops[f->op].lanes[f->lane].inflight--;
		flight_give(g, f);
	}
}

void salvage_drop(struct pg_group *g, struct peer *p)
{
	list_remove(&p->salvage);
	drop(g, &p->orphans);
	drop(g, &p->makeups);
	p->n_rewriting = 0;
}

static bool has_rest(const struct list *list, const struct op *op)
{
	for (const struct list *l = list->next; l != list; l = l->next) {
		const struct flight *f = LIST_ENTRY(l, struct flight, link);

		if (f->op == op->slot && (f->kind == FLIGHT_REWRITE || f->kind == FLIGHT_MAKEUP))
			return true;
	}
	return false;
}

bool salvage_forget(struct op *op)
{
	struct peer *p = op->peer;

	/* Nobody could tell which of its value are missing. */
	if (has_rest(&p->orphans, op) || has_rest(&p->makeups, op))
		return false;
	for (struct list *l = p->orphans.next; l != &p->orphans; l = l->next) {
		struct flight *f = LIST_ENTRY(l, struct flight, link);

		if (f->op == op->slot && f->kind == FLIGHT_WHOLE)
			f->kind = FLIGHT_DROPPED;
	}
	return true;
}
