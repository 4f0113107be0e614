/* SPDX-License-Identifier: MIT */
#include "engine/paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/progress.h"

/* ---- Which NICs ---- */

static unsigned nics_of(const struct net_addr *addr, struct pair_nic *nics)
{
	for (unsigned i = 0; i < addr->n_domains; i++)
		nics[i] = (struct pair_nic){ addr->domains[i].link_mbit_s, addr->domains[i].rail };
	return addr->n_domains;
}

/* "shm on rail 2, shm on rail 3" */
static void name_nics(const struct net_addr *addr, char *buf, size_t size)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < addr->n_domains && at < size; i++) {
		const struct net_domain *d = &addr->domains[i];
		char rail[24] = "";

		if (d->rail)
			snprintf(rail, sizeof(rail), " on rail %u", d->rail);
		at += (size_t)snprintf(buf + at, size - at, "%s%s%s", i ? ", " : "", d->transport,
				       rail);
	}
}

static int unreachable(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err)
{
	char ours[80], theirs[80];

	name_nics(&g->addr, ours, sizeof(ours));
	name_nics(addr, theirs, sizeof(theirs));
	return error_set(err, -EHOSTUNREACH, "no NIC of ours (%s) reaches one of the peer's (%s)",
			 ours, theirs);
}

pair_reach paths_reach(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err)
{
	struct pair_nic ours[PG_MAX_DOMAINS] = { 0 }, theirs[PG_MAX_DOMAINS] = { 0 };
	unsigned n = nics_of(&g->addr, ours), m = nics_of(addr, theirs);
	pair_reach reach = pair_reach_of(ours, n, theirs, m, g->rail_only);

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < m; j++)
			if (strcmp(g->addr.domains[i].transport, addr->domains[j].transport))
				reach &= (pair_reach)~pair_cell(i, j);
	if (!reach)
		unreachable(g, addr, err);
	return reach;
}

/* ---- Shares ---- */

static int by_remote(const void *a, const void *b)
{
	const struct pair_edge *x = a, *y = b;

	return x->remote != y->remote ? x->remote - y->remote : x->local - y->local;
}

/* One turn of a smooth rotation of connections [first, first + n) by weight: each earns its weight,
 * the richest goes and pays for all. */
static unsigned rotate(const struct peer *p, int64_t *credit, unsigned first, unsigned n)
{
	unsigned best = first;
	int64_t total = 0;

	for (unsigned k = first; k < first + n; k++) {
		credit[k] += p->edges[k].weight;
		total += p->edges[k].weight;
		if (credit[k] > credit[best])
			best = k;
	}
	credit[best] -= total;
	return best;
}

/* Weights that do not add up to more than 32 bits hold. */
static void scale_down(struct peer *p)
{
	uint64_t total = 0;

	for (unsigned k = 0; k < p->n_conns; k++)
		total += p->edges[k].weight;
	for (unsigned k = 0; k < p->n_conns && total > UINT32_MAX; k++)
		p->edges[k].weight = 1 + p->edges[k].weight / (2 * PG_MAX_CONNS);
}

/* Connections of one NIC of the larger side stand together; unsplit work goes round them all. */
static void share_out(struct peer *p, unsigned n, unsigned m)
{
	struct spread *s = &p->spread;
	int64_t credit[PG_MAX_CONNS] = { 0 };

	scale_down(p);
	if (m > n)
		qsort(p->edges, p->n_conns, sizeof(p->edges[0]), by_remote);
	memset(s, 0, sizeof(*s));
	memset(p->turns, 0, sizeof(p->turns));
	for (unsigned k = 0; k < p->n_conns; k++) {
		const struct pair_edge *e = &p->edges[k], *before = k ? e - 1 : NULL;

		if (!before || (m > n ? before->remote != e->remote : before->local != e->local))
			s->lanes[s->n++].first = (uint8_t)k;
		s->lanes[s->n - 1].n++;
		s->lanes[s->n - 1].weight += e->weight;
	}
	for (unsigned turn = 0; turn < SCHEDULE; turn++)
		p->schedule[turn] = (uint8_t)rotate(p, credit, 0, p->n_conns);
}

unsigned paths_split(struct peer *p, unsigned conns[MAX_LANES], uint32_t weights[MAX_LANES])
{
	const struct spread *s = &p->spread;

	for (unsigned l = 0; l < s->n; l++) {
		conns[l] = s->lanes[l].n == 1
				   ? s->lanes[l].first
				   : rotate(p, p->turns, s->lanes[l].first, s->lanes[l].n);
		weights[l] = s->lanes[l].weight;
	}
	return s->n;
}

/* ---- Connections ---- */

bool paths_visible(struct peer *p, uint64_t marks[PG_MAX_CONNS])
{
	bool visible = true;

	for (unsigned k = 0; k < p->n_conns; k++)
		visible &= path_visible(p, k, &marks[k]);
	return visible;
}

int paths_open(struct pg_group *g, struct peer *p, struct pg_error *err)
{
	struct pair_nic ours[PG_MAX_DOMAINS] = { 0 }, theirs[PG_MAX_DOMAINS] = { 0 };
	unsigned n = nics_of(&g->addr, ours), m = nics_of(&p->addr, theirs);
	unsigned edges = pair_nics(ours, n, theirs, m, p->reach, p->edges);

	if (!edges)
		return unreachable(g, &p->addr, err);
	p->n_conns = edges;
	share_out(p, n, m);
	for (unsigned k = 0; k < edges; k++) {
		struct domain *d = g->domains[p->edges[k].local];
		int rc = d->transport->conn_open(d, &p->conns[k], &p->offers[k], err);

		if (rc) {
			p->n_conns = k;
			paths_close(p);
			return rc;
		}
		p->conns[k]->owner = p;
	}
	return 0;
}

static void add_stats(struct pg_nic_stats *to, const struct pg_nic_stats *from)
{
	to->bytes_out += from->bytes_out;
	to->posted += from->posted;
	to->imms_in += from->imms_in;
	to->msgs_in += from->msgs_in;
	to->eagain += from->eagain;
	to->retries += from->retries;
	to->failovers += from->failovers;
}

void paths_close(struct peer *p)
{
	for (unsigned k = 0; k < p->n_conns; k++) {
		struct domain *d = p->conns[k]->domain;

		add_stats(&d->stats, &p->conns[k]->stats);
		d->transport->conn_close(p->conns[k]);
	}
	p->n_conns = 0;
}

/* ---- Public ---- */

int pg_stats(struct pg_group *g, unsigned domain, struct pg_nic_stats *stats)
{
	if (group_forked(g))
		return -ESTALE;
	if (domain >= g->n_domains)
		return -EINVAL;
	group_enter(g);
	*stats = g->domains[domain]->stats;
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		for (unsigned k = 0; k < p->n_conns; k++)
			if (p->conns[k]->domain->index == domain)
				add_stats(stats, &p->conns[k]->stats);
	}
	group_leave(g);
	return 0;
}

int pg_conn_info(struct pg_group *g, pg_peer_t peer, unsigned i, struct pg_conn_info *info)
{
	struct peer *p;
	int rc = 0;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p && i >= p->n_conns)
		rc = -ERANGE;
	if (!rc)
		*info = (struct pg_conn_info){
			.nic = p->edges[i].local,
			.peer_nic = p->edges[i].remote,
			.weight = p->edges[i].weight,
			.stats = p->conns[i]->stats,
		};
	group_leave(g);
	return rc;
}
