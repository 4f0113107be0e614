/* SPDX-License-Identifier: MIT
 *
 * The connections to a peer: which NICs they join, and which of them carries what. Under the
 * progress lock.
 */
#ifndef PGCTL_ENGINE_PATHS_H
#define PGCTL_ENGINE_PATHS_H

#include "engine/group.h"

/* The domains that connection k joins. */
static inline unsigned path_local(const struct peer *p, unsigned k)
{
	return p->edges[k].local;
}

static inline unsigned path_remote(const struct peer *p, unsigned k)
{
	return p->edges[k].remote;
}

/* What could reach what, as far as both addresses say; 0 and why, when nothing can. */
pair_reach paths_reach(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err);

/* Pairs the NICs under p->reach and makes our half of each connection; p->offers is what the peer
 * must know. On failure nothing is left open. */
int paths_open(struct pg_group *g, struct peer *p, struct pg_error *err);

/* Their statistics go to their domains. */
void paths_close(struct peer *p);

/* The connection for something that is not split. */
static inline unsigned path_next(struct peer *p)
{
	return p->n_conns == 1 ? 0 : p->schedule[p->next_conn++ % SCHEDULE];
}

/* Whether what was posted over connection k has arrived in the peer's memory; see transport->visible. */
static inline bool path_visible(struct peer *p, unsigned k, uint64_t *mark)
{
	const struct transport *t = p->conns[k]->domain->transport;

	return !t->visible || t->visible(p->conns[k], mark);
}

/* The same of all; a mark for each. */
bool paths_visible(struct peer *p, uint64_t marks[PG_MAX_CONNS]);

/* Connections among which to split something, one for each NIC of the side that has more, and their
 * weights; how many. */
unsigned paths_split(struct peer *p, unsigned conns[MAX_LANES], uint32_t weights[MAX_LANES]);

#endif
