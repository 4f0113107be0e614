/* SPDX-License-Identifier: MIT
 *
 * The connections to a peer: which NICs they join, and which of them carries what. Under the
 * progress lock.
 */
#ifndef PGCTL_ENGINE_PATHS_H
#define PGCTL_ENGINE_PATHS_H

#include "engine/group.h"

/* ---- paths.c: which there are ---- */

/* The domains that connection k joins. */
static inline unsigned path_local(const struct peer *p, unsigned k)
{
	return p->paths[k].edge.local;
}

static inline unsigned path_remote(const struct peer *p, unsigned k)
{
	return p->paths[k].edge.remote;
}

/* The one that joins these, or NULL. */
struct path *path_find(struct peer *p, unsigned local, unsigned remote);

static inline unsigned path_slot(const struct peer *p, const struct path *path)
{
	return (unsigned)(path - p->paths);
}

/* Whether what we send on it is ordered. */
static inline bool path_ordered(const struct path *path)
{
	return path->conn->domain->caps.ordered;
}

static inline bool path_usable(const struct peer *p, unsigned k)
{
	return p->usable >> k & 1;
}

/* What could reach what, as far as both addresses say; 0 and why, when nothing can. */
pair_reach paths_reach(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err);

/* The cells of a NIC: of ours, or of the peer's. */
pair_reach paths_cells(unsigned nic, bool ours);

/* Cells of p->reach whose NICs are up, as far as we know. */
pair_reach paths_alive(const struct pg_group *g, const struct peer *p);

/* Which NICs to join under reach; how many edges. */
unsigned paths_pair(const struct pg_group *g, const struct peer *p, pair_reach reach,
		    struct pair_edge edges[PAIR_MAX]);

/* Pairs the NICs under p->reach and makes our half of each connection; their offers are what the peer
 * must know. On failure nothing is left open. */
int paths_open(struct pg_group *g, struct peer *p, struct pg_error *err);
/* One more; NULL and the reason. */
struct path *path_open(struct pg_group *g, struct peer *p, const struct pair_edge *edge,
		       struct pg_error *err);
/* unordered: so is what the peer sends on it. */
int path_attach(struct pg_group *g, struct path *path, const struct offer *offer, bool unordered,
		struct pg_error *err);

/* Whether one more can be opened. */
bool path_has_room(struct peer *p);

/* From here they can be posted to. */
void paths_up(struct pg_group *g, struct peer *p);
void path_up(struct pg_group *g, struct peer *p, struct path *path);

/* Its statistics go to its domain. What is listed of it is forgotten. */
void path_close(struct pg_group *g, struct peer *p, struct path *path);
void paths_close(struct pg_group *g, struct peer *p);

#define MARK_SEEN UINT64_MAX

/* Whether what was posted over connection k has arrived in the peer's memory; see transport->visible. */
static inline bool path_visible(struct peer *p, unsigned k, uint64_t *mark)
{
	struct conn *c = p->paths[k].conn;
	const struct transport *t = c ? c->domain->transport : NULL;

	/* Once is for ever: while others are waited for, more is posted here. */
	if (*mark == MARK_SEEN || !t || !t->visible)
		return true;
	if (!t->visible(c, mark))
		return false;
	*mark = MARK_SEEN;
	return true;
}

/* The same of all; a mark for each. */
bool paths_visible(struct peer *p, uint64_t marks[PG_MAX_CONNS]);

/* ---- shares.c: which carries what ---- */

/* After a change of p->usable, or of weights. */
void paths_share(struct pg_group *g, struct peer *p);

/* The connection for something that is not split. One must be usable. */
static inline unsigned path_next(struct peer *p)
{
	return p->schedule[p->next_path++ % SCHEDULE];
}

static inline bool paths_single(const struct peer *p)
{
	return (p->usable & (p->usable - 1)) == 0;
}

/* Connections among which to split something, one for each NIC of the side that has more, and their
 * weights; how many. */
unsigned paths_split(struct peer *p, unsigned paths[MAX_LANES], uint32_t weights[MAX_LANES]);

#endif
