/* SPDX-License-Identifier: MIT
 *
 * What the ImmCounters of a group lie in. Internal to them; the lock guards all of it.
 *
 * Counters lie in a pool that is mapped once, at its bound, and reused last in, first out, so that
 * the memory in use is the memory in the cache. An index leads from an immediate to its counter;
 * whose the value is, imm_source.h knows. A tombstone is a counter of which only the half-arrived
 * writes matter: one lookup finds either. In all links 0 is none. */
#ifndef PGCTL_ENGINE_IMM_TABLE_H
#define PGCTL_ENGINE_IMM_TABLE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/imm_index.h"
#include "engine/imm_source.h"
#include "engine/sums.h"
#include "pgctl/engine.h"
#include "util/lock.h"

enum state {
	UNCLAIMED,
	CLAIMED,
	BURIED, /* value and tallies are 0 */
	N_STATES,
};

struct counter {
	uint32_t key;       /* immediate + 1; 0: not in use */
	uint32_t next_free; /* of a free counter */
	uint8_t state;
	bool named;  /* the expectation names its sources */
	bool listed; /* the expectation is in the list DUE or FROM */
	bool kept;   /* among imm_table.kept */
	uint64_t value;
	uint64_t want; /* 0: no expectation */
	struct origin origin;
};

static_assert(sizeof(struct counter) == 64, "an arrival touches one line of its counter");

/* What only arming, firing and burying touch. */
struct expectation {
	struct pg_done done;
	uint64_t tag;
	uint64_t born; /* of a tombstone */
};

/* Rings of nodes; each list is a node too. A counter has two: where its state puts it, and where
 * its expectation does. */
enum list {
	LIVE = 1, /* counters that are no tombstones */
	GRAVES,   /* tombstones, the oldest first */
	DUE,      /* for imm_due */
	FROM,     /* expectations that name their sources and have not got all yet */
	N_LISTS,
};

struct node {
	uint32_t next;
	uint32_t prev;
};

#define KEPT 16 /* a power of two */

struct imm_table {
	struct lock lock;
	uint32_t last; /* the counter last looked up: arrivals come in runs */
	struct counter *counters;
	struct expectation *expectations;
	struct node *nodes;
	struct index index;
	struct sources sources;
	uint32_t max; /* of each state */
	uint32_t n[N_STATES];
	uint32_t used; /* counters 1..used have been handed out at least once */
	uint32_t free; /* those that came back */
	uint64_t swallowed;
	bool tracks_fires;
	uint32_t fire;       /* the serial number of the last one, never 0; */
	struct sums fires;   /* of the last of each immediate */
	uint32_t kept[KEPT]; /* counters that may be empty, see counter_tidy; 0: none */
	uint32_t next_kept;
	void *map;
	size_t map_len;
};

static inline uint32_t counter_id(const struct imm_table *t, const struct counter *c)
{
	return (uint32_t)(c - t->counters);
}

static inline uint32_t state_node(uint32_t id)
{
	return N_LISTS + 2 * id;
}

static inline uint32_t wait_node(uint32_t id)
{
	return N_LISTS + 2 * id + 1;
}

static inline struct counter *node_counter(const struct imm_table *t, uint32_t node)
{
	return &t->counters[(node - N_LISTS) / 2];
}

/* node must be in no list. */
static inline void list_append(struct imm_table *t, enum list list, uint32_t node)
{
	uint32_t last = t->nodes[list].prev;

	t->nodes[node].next = list;
	t->nodes[node].prev = last;
	t->nodes[last].next = node;
	t->nodes[list].prev = node;
}

static inline void list_remove(struct imm_table *t, uint32_t node)
{
	uint32_t next = t->nodes[node].next;
	uint32_t prev = t->nodes[node].prev;

	t->nodes[prev].next = next;
	t->nodes[next].prev = prev;
}

static inline uint32_t key_hash(const struct imm_table *t, uint32_t key)
{
	return index_hash(&t->index, key / INDEX_BLOCK, key);
}

/* NULL: there is none. Finds a tombstone, too. */
static inline struct counter *counter_find(struct imm_table *t, uint32_t imm)
{
	struct counter *c = &t->counters[t->last];
	uint32_t hash, i;

	if (c->key == imm + 1)
		return c;
	hash = key_hash(t, imm + 1);
	for (i = index_home(&t->index, hash); t->index.slots[i].id; i = index_next(&t->index, i)) {
		if (t->index.slots[i].hash != hash)
			continue;
		c = &t->counters[t->index.slots[i].id];
		if (c->key != imm + 1)
			continue;
		t->last = t->index.slots[i].id;
		return c;
	}
	return NULL;
}

/* Whether there is no room for one more. */
bool state_full(struct imm_table *t, enum state state);

/* NULL: the bound is reached. */
struct counter *counter_add(struct imm_table *t, uint32_t imm, enum state state);
/* There must be room in that state. */
void counter_move(struct imm_table *t, struct counter *c, enum state state);
/* Nobody could tell it from one never seen. */
static inline bool counter_empty(const struct counter *c)
{
	return !c->value && !c->want && !c->origin.records && c->state != BURIED;
}

/* Forgets a counter that is empty. The last few stay for a while, as the same immediates are used
 * again and again; where there is no room, they go. */
void counter_tidy(struct imm_table *t, struct counter *c);
/* Leaves a tombstone: of c, whose value, tallies and expectation are gone, or if NULL of imm. */
void counter_bury(struct imm_table *t, struct counter *c, uint32_t imm, uint64_t born);
/* A tombstone goes. What has half arrived is remembered as forgotten, as long as there is room:
 * else the rest of it would make a whole write with the beginning of the next. */
void counter_exhume(struct imm_table *t, struct counter *c, enum state state);

#endif
