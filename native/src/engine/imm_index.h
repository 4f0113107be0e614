/* SPDX-License-Identifier: MIT
 *
 * From a hash to small numbers, by open addressing: what immediates and their sources are found by.
 * Who looks something up goes through the slots from index_home(hash) until an empty one, and
 * compares the hash and then its own key. */
#ifndef PGCTL_ENGINE_IMM_INDEX_H
#define PGCTL_ENGINE_IMM_INDEX_H

#include <stdint.h>

struct index_slot {
	uint32_t hash;
	uint32_t id; /* 0: empty */
};

#define INDEX_BLOCK 8U /* as many slots share a cache line */

struct index {
	struct index_slot *slots; /* at most half of them taken */
	uint64_t multiplier;      /* secret and odd: nobody can aim at one slot */
	uint32_t mask;
};

/* Blocks are scattered, so that strides of powers of two do not meet; what is successive in one
 * block (low 0..7) stays in one line. */
static inline uint32_t index_hash(const struct index *x, uint64_t block, uint32_t low)
{
	return (uint32_t)(block * x->multiplier >> 32) * INDEX_BLOCK + low % INDEX_BLOCK;
}

static inline uint32_t index_home(const struct index *x, uint32_t hash)
{
	return hash & x->mask;
}

static inline uint32_t index_next(const struct index *x, uint32_t i)
{
	return (i + 1) & x->mask;
}

static inline void index_add(struct index *x, uint32_t hash, uint32_t id)
{
	uint32_t i = index_home(x, hash);

	while (x->slots[i].id)
		i = index_next(x, i);
	x->slots[i] = (struct index_slot){ .hash = hash, .id = id };
}

/* Moves back what a lookup would no longer reach across the hole, so that no marks are left. */
static inline void index_remove(struct index *x, uint32_t hash, uint32_t id)
{
	uint32_t hole = index_home(x, hash);

	while (x->slots[hole].id != id)
		hole = index_next(x, hole);
	for (uint32_t i = index_next(x, hole); x->slots[i].id; i = index_next(x, i)) {
		uint32_t from_home = (i - index_home(x, x->slots[i].hash)) & x->mask;
		uint32_t from_hole = (i - hole) & x->mask;

		if (from_home < from_hole)
			continue;
		x->slots[hole] = x->slots[i];
		hole = i;
	}
	x->slots[hole].id = 0;
}

#endif
