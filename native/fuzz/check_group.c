/* SPDX-License-Identifier: MIT */
#include "check_group.h"

#include "engine/flight.h"
#include "engine/memory.h"
#include "engine/peer.h"
#include "fuzz.h"

/* ---- Regions -------------------------------------------------------------------------------- */

/* As in regions.c. */
struct holder {
	struct list link;
	struct peer *peer;
	uint64_t cookie;
};

/* How many of its holders are this peer. None holds it twice for the same import. */
static unsigned holds(const struct mr *mr, const struct peer *p)
{
	unsigned n = 0;

	for (const struct list *l = mr->holders.next; l != &mr->holders; l = l->next) {
		const struct holder *h = LIST_ENTRY(l, const struct holder, link);

		n += h->peer == p;
		for (const struct list *k = l->next; k != &mr->holders; k = k->next) {
			const struct holder *other = LIST_ENTRY(k, const struct holder, link);

			CHECK(h->peer != other->peer || h->cookie != other->cookie);
		}
	}
	return n;
}

static void check_held(const struct pg_group *g, const struct peer *p)
{
	unsigned held = 0;

	for (uint32_t i = 0; i < g->mrs.used; i++)
		if (mr_slot(g, i))
			held += holds(mr_slot(g, i), p);
	CHECK_EQ(p->n_holders, held);
	CHECK(held <= g->config->max_regions);
}

/* ---- Flights -------------------------------------------------------------------------------- */

#define MAX_OPS 32

struct flown {
	unsigned all, rewriting;
	unsigned of_op[MAX_OPS];
};

static void count(struct flown *n, const struct list *flights)
{
	for (const struct list *l = flights->next; l != flights; l = l->next) {
		const struct flight *f = LIST_ENTRY(l, const struct flight, link);

		CHECK(l->next->prev == l);
		CHECK(f->op < MAX_OPS);
		n->all++;
		n->rewriting += f->rewriting;
		n->of_op[f->op]++;
	}
}

/* One thing after the other. */
static void check_takeover(const struct takeover *to)
{
	CHECK(to->fencing == (to->stopped && to->peer_stopped));
	CHECK(to->fencing || !to->fenced);
	CHECK(to->stopped || !to->told);
	CHECK(to->told || !to->asked);
	CHECK(to->fenced || !to->peer_told);
}

static void check_paths(struct flown *n, const struct peer *p)
{
	n->rewriting = 0;
	for (unsigned k = 0; k < PG_MAX_CONNS; k++) {
		const struct path *path = &p->paths[k];

		CHECK(!!path->conn == (path->state != PATH_FREE));
		CHECK((p->usable >> k & 1) == (path->state == PATH_UP));
		if (!path->conn)
			continue;
		CHECK(path->conn->owner == p && path->conn->slot == k);
		count(n, &path->flights);
		check_takeover(&path->to);
	}
	count(n, &p->orphans);
	count(n, &p->makeups);
	if (peer_state(p) == PEER_UP)
		CHECK_EQ(p->n_rewriting, n->rewriting);
	/* Somebody will look at them again. */
	if (!list_empty(&p->orphans) || !list_empty(&p->makeups))
		CHECK(peer_alive(p) && !list_empty(&p->salvage));
}

static unsigned free_flights(const struct pg_group *g)
{
	unsigned n = 0;

	for (uint32_t i = g->free_flight; i != UINT32_MAX; i = g->flights[i].next)
		CHECK(n++ < g->n_flights && i < g->n_flights);
	return n;
}

/* Each is in one place, and its operation knows of it. */
static void check_flights(const struct pg_group *g, const struct flown *n)
{
	CHECK_EQ(g->n_flights, n->all + free_flights(g));
	for (uint32_t i = 0; i < g->config->max_ops; i++) {
		const struct op *op = &g->ops[i];
		unsigned inflight = 0;

		for (unsigned l = 0; op->live && l < op->n_lanes; l++)
			inflight += op->lanes[l].inflight;
		CHECK_EQ(inflight, n->of_op[i]);
	}
}

/* ---- All ------------------------------------------------------------------------------------ */

void check_group(const struct pg_group *g)
{
	struct flown flown = { 0 };
	unsigned handshakes = 0;

	CHECK(g->config->max_ops <= MAX_OPS);
	for (uint32_t i = 0; i < g->rmrs.used; i++) {
		const struct rmr *rmr = (const struct rmr *)handles_slot(&g->rmrs, i);

		handshakes += rmr->peer && rmr_state(rmr) == RMR_ASKED;
	}
	for (uint32_t i = 0; i < g->peers.used; i++) {
		const struct peer *p = peer_slot(g, i);

		if (!p)
			continue;
		handshakes += peer_state(p) == PEER_CONNECTING;
		check_held(g, p);
		check_paths(&flown, p);
	}
	CHECK_EQ(g->handshakes, handshakes);
	check_flights(g, &flown);
}

void check_group_at_rest(const struct pg_group *g)
{
	check_group(g);
	CHECK(list_empty(&g->salvaging));
	CHECK(list_empty(&g->lingering));
	CHECK_EQ(g->n_live, 0);
	CHECK_EQ(free_flights(g), g->n_flights);
}
