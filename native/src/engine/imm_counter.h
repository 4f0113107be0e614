/* SPDX-License-Identifier: MIT
 *
 * The ImmCounters of a group: how many writes with each immediate have arrived, and who waits for
 * how many.
 *
 * A counter that is 0, has no expectation and no half-arrived write is forgotten at once: nobody
 * could tell it from one never seen, and a program may use fresh immediates for ever. What remains
 * is bounded: max_unclaimed counters that arrivals made and nobody asked for, as many that somebody
 * did (an expectation, or imm_value), and max_unclaimed half-arrived writes. */
#ifndef PGCTL_ENGINE_IMM_COUNTER_H
#define PGCTL_ENGINE_IMM_COUNTER_H

#include <stdint.h>

#include "pgctl/engine.h"

struct imm_table;

/* The end of an expectation: what the caller must now tell whoever armed it. */
struct imm_fired {
	uint32_t imm;
	int32_t status; /* 0 or -ECANCELED */
	struct pg_done done;
};

/* All memory is reserved here and used as needed. -EINVAL unless max_unclaimed is 1..2^24;
 * -ENOMEM. */
int imm_table_create(uint32_t max_unclaimed, struct imm_table **table);
/* NULL is fine. Whoever still expects is not told: imm_cancel_all first. */
void imm_table_destroy(struct imm_table *t);

/* Every function below needs the lock. */
void imm_lock(struct imm_table *t);
void imm_unlock(struct imm_table *t);

/* count arrivals of wire_imm from source, a dense small number of the peer incarnation. Unsplit,
 * each adds 1 to the counter; a shard of a write split k ways adds IMM_PARTS / k to what has
 * arrived of source's writes, and every whole write adds 1. 1: the expectation has fired, see
 * *fired; 0: not; -ENOSPC: a bound is reached and nothing has changed. */
int imm_arrive(struct imm_table *t, uint32_t source, uint32_t wire_imm, uint32_t count,
	       struct imm_fired *fired);

/* Fires once, when the counter reaches n, and subtracts n. 1: at once, see *fired; 0: armed, and if
 * fired is NULL it may be for imm_due; -EBUSY: an expectation is outstanding; -EINVAL: imm >
 * PG_IMM_MAX or n is 0; -ENOSPC: too many counters. */
int imm_expect(struct imm_table *t, uint32_t imm, uint64_t n, const struct pg_done *done,
	       struct imm_fired *fired, struct pg_error *err);

/* Expectations armed without fired, whose counters had reached n already. 1: one has fired, see
 * *fired; 0: there are no more. */
int imm_due(struct imm_table *t, struct imm_fired *fired);

uint64_t imm_value(struct imm_table *t, uint32_t imm);

/* Sets the counter to 0. Of a write that has half arrived, the rest will not count either. 1: an
 * expectation ends with -ECANCELED, see *fired; 0; -ENOENT: there is nothing to forget. */
int imm_free(struct imm_table *t, uint32_t imm, struct imm_fired *fired);

/* Forgets the half-arrived writes of an incarnation that has ended. */
void imm_drop_source(struct imm_table *t, uint32_t source);

/* Ends up to max expectations with -ECANCELED; how many. */
unsigned imm_cancel_all(struct imm_table *t, struct imm_fired *fired, unsigned max);

#endif
