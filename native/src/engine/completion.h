/* SPDX-License-Identifier: MIT
 *
 * How the end of something is told: callback, flag or event queue. Each exactly once.
 */
#ifndef PGCTL_ENGINE_COMPLETION_H
#define PGCTL_ENGINE_COMPLETION_H

#include "engine/group.h"

int events_create(struct pg_group *g);
void events_destroy(struct pg_group *g);

/* Reserves what delivery will need, before anything is accepted, so that a completion is never
 * lost: a place in the queue, remembered in done->arg. Sets the flag to 0. Any thread. -EAGAIN:
 * full. */
int done_prepare(struct pg_group *g, struct pg_done *done);
/* Undoes it. */
void done_abandon(struct pg_group *g, struct pg_done *done);

/* What is told of an operation or an expectation. */
struct ending {
	enum pg_event_kind kind;
	int32_t status;
	uint32_t imm;
	pg_peer_t peer;
	const char *text; /* NULL or the sentence; used when status is not 0 */
};

/* Tells. Any thread, but for callbacks, which run here and under the progress lock. */
void deliver(struct pg_group *g, const struct pg_done *done, const struct ending *end);
/* The same of an expectation; under the progress lock. why: of -EHOSTDOWN, or NULL. */
void deliver_fired(struct pg_group *g, const struct imm_fired *fired, const char *why);
/* Only tells; any thread, unless it is told by a callback. */
void tell_fired(struct pg_group *g, const struct imm_fired *fired, const char *why);

/* Those that a peer which has ended still owes writes end with it. Under the progress lock. */
void end_expectations(struct pg_group *g, const struct peer *p);
/* Once more, of all peers that have ended: when g->recheck says that there may be some left. */
void recheck_expectations(struct pg_group *g);

/* What callbacks expect and has arrived already is told when they have returned: from within they
 * would nest as deep as there are writes. */
void deliver_due(struct pg_group *g);

/* Places in ready_events: operations and expectations, then receive buffers, then news. */
static inline uint32_t recv_index(const struct pg_group *g, uint32_t i)
{
	return g->config->max_events + i;
}

static inline uint32_t news_index(const struct pg_group *g, uint32_t place)
{
	return 2 * g->config->max_events + place;
}

/* The table of counters, for who holds the progress lock. With a worker it has a lock of its own,
 * since callers shall not wait for the worker; inline the progress lock does, which saves the hot
 * path one. */
static inline void counters_lock(struct pg_group *g)
{
	if (g->worker_mode)
		imm_lock(g->imms);
}

static inline void counters_unlock(struct pg_group *g)
{
	if (g->worker_mode)
		imm_unlock(g->imms);
}

#endif
