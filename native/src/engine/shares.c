/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "engine/paths.h"

/* One turn of a smooth rotation of n connections by weight, from place `first` of the order: each
 * earns its weight, the richest goes and pays for all. */
static unsigned rotate(const struct peer *p, int64_t *credit, unsigned first, unsigned n)
{
	unsigned best = first;
	int64_t total = 0;

	for (unsigned i = first; i < first + n; i++) {
		uint32_t weight = p->paths[p->spread.order[i]].edge.weight;

		credit[i] += weight;
		total += weight;
		if (credit[i] > credit[best])
			best = i;
	}
	credit[best] -= total;
	return p->spread.order[best];
}

/* Weights that do not add up to more than 32 bits hold. */
static void scale_down(struct peer *p)
{
	uint64_t total = 0;

	for (unsigned k = 0; k < p->n_paths; k++)
		total += p->paths[k].edge.weight;
	for (unsigned k = 0; k < p->n_paths && total > UINT32_MAX; k++)
		if (p->paths[k].edge.weight)
			p->paths[k].edge.weight =
				1 + p->paths[k].edge.weight / (uint32_t)(2 * PG_MAX_CONNS);
}

static unsigned nic_of(const struct pair_edge *e, bool by_remote)
{
	return by_remote ? e->remote : e->local;
}

/* New ones may be on their way, and only others be there as yet. */
static void use_spares(struct peer *p)
{
	uint64_t total = 0;

	for (unsigned k = 0; k < p->n_paths; k++)
		total += p->usable >> k & 1 ? p->paths[k].edge.weight : 0;
	for (unsigned k = 0; k < p->n_paths && !total; k++)
		if (p->usable >> k & 1)
			p->paths[k].edge.weight = 1;
}

/* Usable ones, by NIC of the larger side, then by the other. */
static unsigned put_in_order(struct peer *p, bool by_remote)
{
	unsigned n = 0;

	for (unsigned nic = 0; nic < PG_MAX_DOMAINS * PG_MAX_DOMAINS; nic++)
		for (unsigned k = 0; k < p->n_paths; k++) {
			const struct pair_edge *e = &p->paths[k].edge;

			if (p->usable >> k & 1 &&
			    nic == nic_of(e, by_remote) * PG_MAX_DOMAINS + nic_of(e, !by_remote))
				p->spread.order[n++] = (uint8_t)k;
		}
	return n;
}

/* Connections of one NIC of the larger side stand together; unsplit work goes round them all. */
void paths_share(struct pg_group *g, struct peer *p)
{
	struct spread *s = &p->spread;
	bool by_remote = p->addr.n_domains > g->n_domains;
	int64_t credit[PG_MAX_CONNS] = { 0 };
	unsigned n;

	memset(s, 0, sizeof(*s));
	use_spares(p);
	scale_down(p);
	n = put_in_order(p, by_remote);
	for (unsigned i = 0; i < n; i++) {
		const struct pair_edge *e = &p->paths[s->order[i]].edge;
		const struct pair_edge *before = i ? &p->paths[s->order[i - 1]].edge : NULL;

		if (!before || nic_of(before, by_remote) != nic_of(e, by_remote))
			s->lanes[s->n++].first = (uint8_t)i;
		s->lanes[s->n - 1].n++;
		s->lanes[s->n - 1].weight += e->weight;
	}
	for (unsigned turn = 0; n && turn < SCHEDULE; turn++)
		p->schedule[turn] = (uint8_t)rotate(p, credit, 0, n);
}

unsigned paths_split(struct peer *p, unsigned paths[MAX_LANES], uint32_t weights[MAX_LANES])
{
	struct spread *s = &p->spread;

	for (unsigned l = 0; l < s->n; l++) {
		paths[l] = rotate(p, s->turns, s->lanes[l].first, s->lanes[l].n);
		weights[l] = s->lanes[l].weight;
	}
	return s->n;
}
