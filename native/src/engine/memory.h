/* SPDX-License-Identifier: MIT
 *
 * Our regions, and peers' regions as we see them. Under the progress lock, except rmr_state and the
 * bounds.
 */
#ifndef PGCTL_ENGINE_MEMORY_H
#define PGCTL_ENGINE_MEMORY_H

#include "engine/group.h"

static inline enum rmr_state rmr_state(const struct rmr *rmr)
{
	/* acquire: who sees READY or FAILED sees the mapping or the reason */
	return atomic_load_explicit(&rmr->state, memory_order_acquire);
}

static inline void rmr_set_state(struct rmr *rmr, enum rmr_state state)
{
	/* release: pairs with rmr_state */
	atomic_store_explicit(&rmr->state, state, memory_order_release);
}

/* Our i-th region if there is one, also while it is being revoked. */
static inline struct mr *mr_slot(const struct pg_group *g, uint32_t i)
{
	struct mr *mr = (struct mr *)handles_slot(&g->mrs, i);

	return mr->region ? mr : NULL;
}

/* What a peer needs to reach a region of ours; maybe nothing. */
int memory_export(struct pg_group *g, const struct mr *mr, struct offer *offer);

/* True when it can be written to; else asks its owner for it, the peer being up. */
bool rmr_ready(struct pg_group *g, struct rmr *rmr);

/* The owner's answer. */
void rmr_mapped(struct pg_group *g, struct rmr *rmr, int status, const struct offer *offer);

/* Nothing is written there any more, and why. */
void rmr_fail(struct rmr *rmr, int status, const char *text);
/* All of p. */
void rmrs_of_peer_failed(struct pg_group *g, struct peer *p);

/* The same when they have failed already: another engine is in its place. */
void rmrs_of_peer_stale(struct pg_group *g, const struct peer *p, const char *why);

void rmr_unmap(struct pg_group *g, struct rmr *rmr);
/* Of one that was released. */
void rmr_free(struct pg_group *g, struct rmr *rmr);

/* Whether writes there can be accepted; any thread. -ESTALE and the like, with the sentence. */
int rmr_usable(struct pg_group *g, pg_rmr_t rmr, bool locked, struct pg_error *err);

/* Length of a region by handle, for bounds; any thread. -EINVAL, -ESTALE. */
int mr_len(const struct pg_group *g, pg_mr_t mr, uint64_t *len);
int rmr_len(const struct pg_group *g, pg_rmr_t rmr, uint64_t *len);

/* Forgets everything: ours, theirs. */
void memory_close(struct pg_group *g);
void remote_close(struct pg_group *g);

#endif
