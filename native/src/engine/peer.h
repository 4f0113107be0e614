/* SPDX-License-Identifier: MIT
 *
 * The peers of a group: who they are, whether they live, and the turn-taking of what is owed to
 * them. All under the progress lock, except peer_alive.
 */
#ifndef PGCTL_ENGINE_PEER_H
#define PGCTL_ENGINE_PEER_H

#include "engine/group.h"

/* ---- peer.c: who ---- */

/* The peer of this address: known already or made now. An older engine that could be found at the
 * same place has ended. -EPROTO, -ENOSPC, -EHOSTUNREACH. */
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

void peer_set_state(struct peer *p, enum peer_state state);

/* True when it can be posted to; else starts what is needed for that. */
bool peer_ready(struct pg_group *g, struct peer *p);

/* The i-th slot, if it is in use. */
static inline struct peer *peer_slot(const struct pg_group *g, uint32_t i)
{
	struct peer *p = (struct peer *)handles_slot(&g->peers, i);

	/* odd: in use, see handle.h */
	return atomic_load_explicit(&p->h.generation, memory_order_relaxed) & 1 ? p : NULL;
}

/* ---- life.c: up, down, death ---- */

void peer_up(struct pg_group *g, struct peer *p);

/* Its operations fail with this and it is not talked to again. What has arrived from it is still
 * taken; see peers_end. */
__attribute__((format(printf, 4, 5))) void peer_down(struct pg_group *g, struct peer *p, int status,
						     const char *fmt, ...);

/* Its process, for the news of its death. */
void peer_watch_process(struct pg_group *g, struct peer *p, pid_t pid);
void process_forget(struct pg_group *g, struct peer *p);

/* From now on it can write to us. */
void peer_can_write(struct pg_group *g, struct peer *p);

/* Whether a peer that is down is known to write no more: it has died, or has hung up. */
bool peer_stopped(const struct pg_group *g, const struct peer *p);
/* Of one that is down: lets go what was kept in case it had not. */
void peer_if_stopped(struct pg_group *g, struct peer *p);

/* Arrivals of peers that are down put off their end. */
void peers_still_heard(struct pg_group *g, const struct arrival *arrivals, unsigned n);

/* A control message has come from it. */
void peer_heard(struct pg_group *g, struct peer *p);

/* Once in a heartbeat: tells peers that we live, and notes who does not tell us. */
void peers_beat(struct pg_group *g);

/* What is left to do of those that are down, after a round of polling. */
void peers_end(struct pg_group *g);
/* Whether there is something of that now. */
bool peers_ending(const struct pg_group *g);

void peers_down(struct pg_group *g, int status, const char *text);
/* Closes everything; operations in flight end with status. */
void peers_close(struct pg_group *g, int status, const char *text);

/* ---- turns.c: what is owed ---- */

/* All that is ready has been tried and could not be posted. There are n_live operations at most. */
static inline bool peer_blocked(const struct pg_group *g, const struct peer *p)
{
	return p->n_blocked >= g->n_live;
}

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

#endif
