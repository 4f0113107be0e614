/* SPDX-License-Identifier: MIT
 *
 * The ImmCounters of a group: how many writes with each immediate have arrived, from whom, and who
 * waits for how many.
 *
 * A counter that is 0, has no expectation and no half-arrived write is forgotten at once: nobody
 * could tell it from one never seen, and a program may use fresh immediates for ever. What remains
 * is bounded, and beyond a bound the answer is -ENOSPC and nothing has changed:
 * - max_unclaimed counters that arrivals made and nobody asked for, and as many that somebody did
 *   (an expectation, or imm_value);
 * - 4 * max_unclaimed records, of pairs of a counter and a source: one for each source beyond the
 *   first that has counted there or is named by the expectation, and one for each that has a write
 *   half arrived;
 * - max_unclaimed tombstones of freed immediates; when one more is made, the oldest goes.
 *
 * A source is the small number of a peer incarnation; imm_drop_source makes it free for another. */
#ifndef PGCTL_ENGINE_IMM_COUNTER_H
#define PGCTL_ENGINE_IMM_COUNTER_H

#include <stdint.h>

#include "pgctl/engine.h"

#define IMM_SOURCES 65536 /* a source is below that */

struct imm_table;

/* Who will write, and how many of the n each. Copied. */
struct imm_from {
	uint32_t n;
	const uint32_t *sources;
	const uint64_t *owes;
};

/* The end of an expectation: what the caller must now tell whoever armed it. */
struct imm_fired {
	uint32_t imm;
	int32_t status; /* 0, -ECANCELED or -EHOSTDOWN */
	struct pg_done done;
	uint64_t tag;
	uint64_t have; /* the value when it ended, nothing subtracted yet */
	uint64_t want;
	uint32_t source; /* with -EHOSTDOWN: the one that died */
};

struct imm_stats {
	uint32_t claimed;
	uint32_t unclaimed;
	uint32_t records;
	uint32_t tombstones;
	uint64_t swallowed; /* arrivals, whole writes and shards, that met a tombstone */
};

/* All memory is reserved here and used as needed. -EINVAL unless max_unclaimed is 1..2^24;
 * -ENOMEM. */
int imm_table_create(uint32_t max_unclaimed, struct imm_table **table);
/* NULL is fine. Whoever still expects is not told: imm_cancel_all first. */
void imm_table_destroy(struct imm_table *t);

/* Every function below needs the lock. */
void imm_lock(struct imm_table *t);
void imm_unlock(struct imm_table *t);

/* count arrivals of wire_imm from source. Unsplit, each adds 1 to the counter; a shard of a write
 * split k ways adds IMM_PARTS / k to what has arrived of source's writes, and every whole write
 * adds 1. 1: the expectation has fired, see *fired; 0: not; -ENOSPC. */
int imm_arrive(struct imm_table *t, uint32_t source, uint32_t wire_imm, uint32_t count,
	       struct imm_fired *fired);

/* When an immediate's expectation last fired, for transports whose failover has to know which writes
 * were taken before: a serial number of all fires, or 0 if none is remembered. */
void imm_track_fires(struct imm_table *t);
uint32_t imm_last_fire(const struct imm_table *t, uint32_t imm);
/* There are very many: whoever has noted some of them looks once more before they are forgotten. */
bool imm_fires_full(const struct imm_table *t);
void imm_forget_fires(struct imm_table *t);

/* Of a write that source split (k from wire_imm) only so many shards were ever sent and the rest
 * never will be: they shall not count, whether they have arrived yet or not. What has counted is
 * not taken back: source's next shards make up for it. Returns as imm_arrive, and -EINVAL unless
 * shards is 1..k-1. */
int imm_settle(struct imm_table *t, uint32_t source, uint32_t wire_imm, unsigned shards,
	       struct imm_fired *fired);

/* Fires once, when the counter reaches n, and subtracts n: with from, of each source what it owes,
 * as far as it has come; what is missing then, and without from all, of any. tag is handed back
 * when it ends. 1: at once, see *fired; 0: armed, and if fired is NULL it may be for imm_due;
 * -EBUSY: an expectation is outstanding; -EINVAL: imm > PG_IMM_MAX, n is 0, or from names a source
 * twice or does not add up to n; -ENOSPC. */
int imm_expect(struct imm_table *t, uint32_t imm, uint64_t n, const struct imm_from *from,
	       uint64_t tag, const struct pg_done *done, struct imm_fired *fired,
	       struct pg_error *err);

/* Expectations armed without fired, whose counters had reached n already. 1: one has fired, see
 * *fired; 0: there are no more. */
int imm_due(struct imm_table *t, struct imm_fired *fired);

/* Digs up an immediate that was freed. */
uint64_t imm_value(struct imm_table *t, uint32_t imm);

/* Sets the counter to 0. Of a write that has half arrived, the rest will not count either, and
 * unless born is 0 nothing else will that still comes: a tombstone swallows it, until imm_expect or
 * imm_value dig it up, or it expires. born never decreases. 1: an expectation ends with -ECANCELED,
 * see *fired; 0; -ENOENT: there was nothing to forget (the tombstone is left all the same). */
int imm_free(struct imm_table *t, uint32_t imm, uint64_t born, struct imm_fired *fired);

/* Drops the tombstones with born < oldest. */
void imm_tombstones_expire(struct imm_table *t, uint64_t oldest);

/* Ends with -EHOSTDOWN up to max of the expectations that name source while it still owes some of
 * their writes and they have not reached n; how many. To be called again until 0, and after arming one that names it. What has
 * been counted stays. */
unsigned imm_source_died(struct imm_table *t, uint32_t source, struct imm_fired *fired,
			 unsigned max);

/* After imm_source_died: forgets the half-arrived writes of an incarnation that has ended. What it
 * has counted stays in the values, and is nobody's. */
void imm_drop_source(struct imm_table *t, uint32_t source);

/* The source that made the most of the counters that nobody asked for, counting the one more that
 * source wants to make. Slow. */
uint32_t imm_hoarder(struct imm_table *t, uint32_t source);
/* Forgets those that only source has counted in. */
void imm_forget_unclaimed(struct imm_table *t, uint32_t source);

/* Ends up to max expectations with -ECANCELED; how many. */
unsigned imm_cancel_all(struct imm_table *t, struct imm_fired *fired, unsigned max);

/* Every counter in use, in no order; waiting_for: how many named sources still owe. fn must leave
 * the table alone. */
void imm_each(struct imm_table *t,
	      void (*fn)(void *arg, uint32_t imm, uint64_t value, uint64_t want,
			 uint32_t waiting_for),
	      void *arg);
void imm_stats(const struct imm_table *t, struct imm_stats *stats);

#endif
