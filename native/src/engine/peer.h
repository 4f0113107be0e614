/* SPDX-License-Identifier: MIT
 *
 * The peers of a group: who they are, whether they live, and the turn-taking of what is owed to
 * them. All under the progress lock, except peer_alive.
 */
#ifndef PGCTL_ENGINE_PEER_H
#define PGCTL_ENGINE_PEER_H

#include "engine/group.h"

/* The peer of this address: known already or made now. -EPROTO, -ENOSPC, -EHOSTUNREACH. */
int peer_of_addr(struct pg_group *g, const struct net_addr *addr, struct peer **peer,
		 struct pg_error *err);
struct peer *peer_find(struct pg_group *g, const uint8_t incarnation[16], uint32_t group);

/* For sentences: "peer 1a2b3c4d.0 (pid 7)". */
struct peer_name {
	char text[48];
};
struct peer_name peer_name(const struct peer *p);

/* Any thread. */
static inline enum peer_state peer_state(const struct peer *p)
{
	/* acquire: who sees UP or DOWN sees the connections or the reason */
	return atomic_load_explicit(&p->state, memory_order_acquire);
}

static inline bool peer_alive(const struct peer *p)
{
	return peer_state(p) != PEER_DOWN;
}

/* All that is ready has been tried and could not be posted. There are n_live operations at most. */
static inline bool peer_blocked(const struct pg_group *g, const struct peer *p)
{
	return p->n_blocked >= g->n_live;
}

/* The domains that connection k joins: every NIC of the side that has more is used once. */
static inline unsigned peer_local_domain(const struct pg_group *g, unsigned k)
{
	return k % g->n_domains;
}

static inline unsigned peer_remote_domain(const struct peer *p, unsigned k)
{
	return k % p->addr.n_domains;
}

/* Share of a split write. */
uint32_t peer_conn_weight(const struct peer *p, unsigned k);

void peer_set_state(struct peer *p, enum peer_state state);

/* True when it can be posted to; else starts what is needed for that. */
bool peer_ready(struct pg_group *g, struct peer *p);

/* Makes our half of the connections; p->offers is what the peer must know. */
int peer_open_conns(struct pg_group *g, struct peer *p, struct pg_error *err);

/* Its operations fail with this and it is not talked to again. What has arrived from it stays. */
__attribute__((format(printf, 4, 5))) void peer_down(struct pg_group *g, struct peer *p, int status,
						     const char *fmt, ...);

/* Its process, for the news of its death. */
void peer_watch_process(struct pg_group *g, struct peer *p, pid_t pid);

void process_forget(struct pg_group *g, struct peer *p);

/* Notes that connection k was posted to, for peers_flush. */
static inline void peer_posted(struct pg_group *g, struct peer *p, unsigned k)
{
	if (!p->dirty)
		list_append(&g->dirty, &p->dirty_link);
	p->dirty |= 1u << k;
}

/* One turn of what is owed to it. */
int peer_run(struct pg_group *g, struct peer *p);

void peers_flush(struct pg_group *g);
void peers_scan_deadlines(struct pg_group *g);

/* Closes everything; operations in flight end with status. */
void peers_close(struct pg_group *g, int status, const char *text);

#endif
