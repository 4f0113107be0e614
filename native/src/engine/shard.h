/* SPDX-License-Identifier: MIT
 *
 * How one write is split over the lanes (NICs) of a group, and how its parts are told apart on the
 * wire. Pure functions. */
#ifndef PGCTL_ENGINE_SHARD_H
#define PGCTL_ENGINE_SHARD_H

#include <stdint.h>

#include "pgctl/engine.h"

#define SHARD_ALIGN 64 /* a cache line: no two lanes write the same one */

struct shard {
	uint32_t lane;
	uint64_t offset;
	uint64_t len;
};

/* Splits [0, len) over n lanes (1..PG_MAX_DOMAINS) in proportion to weights, in the order of the
 * lanes, at multiples of align (a power of two), each share within align of its ideal. Lanes whose
 * share is empty are left out, so that weight 0 gets nothing. Returns the number of shards, k >= 1;
 * when it is 1, the lane is the heaviest (the first of equals) and the caller may as well take
 * another. At least one weight and len must be positive. */
unsigned shard_split(uint64_t len, unsigned n, const uint32_t *weights, uint64_t align,
		     struct shard *out);

/* What a whole write is worth: divisible by every k from 1 to PG_MAX_DOMAINS. */
#define IMM_PARTS 12

/* An immediate on the wire: k - 1 in the two high bits, for a shard of a write split k ways, and 30
 * bits of identifier. */
static inline uint32_t imm_wire(uint32_t imm, unsigned k)
{
	return (uint32_t)(k - 1) << 30 | imm;
}

static inline uint32_t imm_wire_id(uint32_t wire_imm)
{
	return wire_imm & PG_IMM_MAX;
}

static inline unsigned imm_wire_k(uint32_t wire_imm)
{
	return (wire_imm >> 30) + 1;
}

#endif
