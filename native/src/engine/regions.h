/* SPDX-License-Identifier: MIT
 *
 * What two groups say to each other about regions. Who will write to a region asks its owner first
 * (MAP), so that the owner knows its holders; who will not any more says so (UNMAP), once nothing of
 * it can land there. The owner takes the region back by asking its holders for that (REVOKE). Under
 * the progress lock.
 */
#ifndef PGCTL_ENGINE_REGIONS_H
#define PGCTL_ENGINE_REGIONS_H

#include "engine/control.h"

/* ---- The owner's side ---- */

int region_asked(struct pg_group *g, struct stream *s, const struct control_msg *msg);
int region_returned(struct pg_group *g, struct peer *p, const struct control_msg *msg);

/* Asks all holders to let go of it; each is one of mr->h.refs until it has. */
void region_revoke(struct pg_group *g, struct mr *mr);

/* Some holder, or NULL. */
const struct peer *region_holder(const struct mr *mr);

/* Of a peer that is gone. */
void holders_drop(struct pg_group *g, struct peer *p);
/* Of a region that is. */
void holders_free(struct mr *mr);

/* Whether a peer may still write to memory of the caller. */
bool holders_of_caller_memory(struct pg_group *g);

/* ---- The writer's side ---- */

/* Asks the owner of an imported region. */
void region_ask(struct pg_group *g, struct rmr *rmr);
int region_answered(struct pg_group *g, struct stream *s, const struct control_msg *msg);
int region_revoked(struct pg_group *g, struct peer *p, const struct control_msg *msg);

/* Gives it back to its owner as soon as nothing of ours can land there. */
void region_leave(struct pg_group *g, struct rmr *rmr);
/* Goes on with those that were not over at once. */
void regions_leave(struct pg_group *g);

#endif
