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

/* True when it can be written to; else asks its owner for it, the peer being up. */
bool rmr_ready(struct pg_group *g, struct rmr *rmr);

/* The owner's answer. */
void rmr_mapped(struct pg_group *g, struct rmr *rmr, int status, const struct offer *offer);

/* Those that wait for an answer of p will not get one. */
void rmrs_of_peer_failed(struct pg_group *g, struct peer *p);

/* What a peer needs to map a region of ours. -ESTALE: there is none of this name. */
int memory_export(struct pg_group *g, uint64_t region, uint32_t generation, struct offer *offer);

/* Length of a region by handle, for bounds; any thread. -EINVAL, -ESTALE. */
int mr_len(const struct pg_group *g, pg_mr_t mr, uint64_t *len);
int rmr_len(const struct pg_group *g, pg_rmr_t rmr, uint64_t *len);

/* Forgets everything: ours, theirs. */
void memory_close(struct pg_group *g);
void remote_close(struct pg_group *g);

#endif
