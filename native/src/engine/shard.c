/* SPDX-License-Identifier: MIT */
#include "engine/shard.h"

#include <assert.h>

/* Where the lanes that carry `below` of `total` end: at the multiple of align next to the ideal. */
static uint64_t boundary(uint64_t len, uint64_t below, uint64_t total, uint64_t align)
{
	unsigned __int128 ideal = (unsigned __int128)len * below / total;
	unsigned __int128 nearest = (ideal + align / 2) & ~(unsigned __int128)(align - 1);

	return below < total && nearest < len ? (uint64_t)nearest : len;
}

/* Rounding the boundaries, not the shares, covers everything exactly, and leaves each share at most
 * half an align off at either end. */
unsigned shard_split(uint64_t len, unsigned n, const uint32_t *weights, uint64_t align,
		     struct shard *out)
{
	uint64_t total = 0;
	uint64_t below = 0;
	uint64_t offset = 0;
	unsigned heaviest = 0;
	unsigned k = 0;

	static_assert(IMM_PARTS % 1 == 0 && IMM_PARTS % 2 == 0 && IMM_PARTS % 3 == 0 &&
			      IMM_PARTS % 4 == 0 && PG_MAX_DOMAINS == 4,
		      "a write divides into whole parts however it is split");
	for (unsigned i = 0; i < n; i++) {
		total += weights[i];
		if (weights[i] > weights[heaviest])
			heaviest = i;
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t end;

		below += weights[i];
		end = boundary(len, below, total, align);
		if (end == offset)
			continue;
		out[k++] = (struct shard){ .lane = i, .offset = offset, .len = end - offset };
		offset = end;
	}
	if (k == 1)
		out[0].lane = heaviest;
	return k;
}
