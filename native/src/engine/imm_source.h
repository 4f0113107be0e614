/* SPDX-License-Identifier: MIT
 *
 * Whose a counter's value is: how much of it came from which source, what each source owes to the
 * expectation, and what has half arrived of its writes. Internal to the ImmCounters; the table's
 * lock guards all of it.
 *
 * One source is noted in the counter itself, in the line that an arrival touches anyhow. Each
 * further one, and each half-arrived write, has a record, found by (counter, source). A source is
 * noted in one of the two places, never in both; what has half arrived always in a record. */
#ifndef PGCTL_ENGINE_IMM_SOURCE_H
#define PGCTL_ENGINE_IMM_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/imm_index.h"

#define NO_SOURCE UINT32_MAX

struct tally {
	uint64_t count; /* of the value, from this source */
	uint64_t owes;  /* to the expectation, if that names it */
};

struct record {
	struct tally tally;
	int64_t parts; /* < IMM_PARTS; below 0: shards that are still to come and will not count */
	uint32_t counter;
	uint32_t source;
	uint32_t next; /* of this counter; of a free record, the next free one; 0: none */
	uint32_t prev;
	bool forgotten; /* the write that these parts (then above 0) complete does not count */
};

/* A counter's value is nobody + first.count + the counts of its records. */
struct origin {
	uint32_t source; /* whose first is, or NO_SOURCE: then it is 0 */
	uint32_t records;
	struct tally first;
	uint64_t nobody; /* of sources that are gone */
};

struct sources {
	struct record *records;
	struct index index;
	uint64_t *stamps; /* of each source: the last list that named it */
	uint64_t stamp;
	uint32_t max;
	uint32_t n;
	uint32_t used; /* records 1..used have been handed out at least once */
	uint32_t free; /* those that came back */
};

/* Room for one more record. */
static inline bool sources_full(const struct sources *s)
{
	return s->n == s->max;
}

/* The first in the list that is named for the second time or is no source, or n: there is none. */
uint32_t sources_check(struct sources *s, uint32_t n, const uint32_t *sources);

/* NULL: there is none. */
struct record *record_find(struct sources *s, uint32_t counter, const struct origin *o,
			   uint32_t source);
/* There must be none, and room. */
struct record *record_add(struct sources *s, uint32_t counter, struct origin *o, uint32_t source);
/* Twelfths that arrived, or were taken back; how many whole writes count now. */
uint64_t record_add_parts(struct record *r, int64_t parts);
/* Removes a record that says nothing. */
void record_tidy(struct sources *s, struct origin *o, struct record *r);

/* NULL: there is none. */
struct tally *origin_find(struct sources *s, uint32_t counter, struct origin *o, uint32_t source);
/* Made if need be; NULL: no room. Does not fail while the counter has no source yet, or this one a
 * record. */
struct tally *origin_get(struct sources *s, uint32_t counter, struct origin *o, uint32_t source);
/* Whether origin_get will do for all of these that owe something; o NULL: of a new counter. */
bool origin_has_room(struct sources *s, uint32_t counter, const struct origin *o,
		     uint32_t n_sources, const uint32_t *sources, const uint64_t *owes);

/* n leave the value. If sources are named, first what each of them owed, at most what it has, and
 * no one owes any more; the rest from nobody's, then from anybody's. */
void origin_take(struct sources *s, struct origin *o, uint64_t n, bool named);
/* No one owes any more. */
void origin_forgive(struct sources *s, struct origin *o);
/* The value becomes 0, and of half-arrived writes the rest will not count. Whether there were such
 * that nobody had forgotten yet. */
bool origin_forget(struct sources *s, struct origin *o);
/* What source had counted is nobody's, what had half arrived never was. */
void origin_drop(struct sources *s, uint32_t counter, struct origin *o, uint32_t source);
void origin_remove_records(struct sources *s, struct origin *o);
/* One that has counted, or half arrived; NO_SOURCE if there is none. */
uint32_t origin_any(const struct sources *s, const struct origin *o);
/* How many sources still owe something. */
uint32_t origin_owing(const struct sources *s, const struct origin *o);

#endif
