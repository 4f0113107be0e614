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
void deliver_fired(struct pg_group *g, const struct imm_fired *fired);

#endif
