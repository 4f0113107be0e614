/* SPDX-License-Identifier: MIT
 *
 * The fastest that one core can tell another anything.
 */
#include <errno.h>

#include "bench/loop.h"
#include "util/error.h"

/* Two lines, so that neighbours fetched together are not shared. */
#define APART 128

int pg_bench_cacheline(const struct pg_bench_control *control, void *mem, bool first,
		       uint64_t warmup, uint64_t rounds, uint64_t *round_ns, struct pg_error *err)
{
	_Atomic uint64_t *ours = (void *)((char *)mem + (first ? 0 : APART));
	_Atomic uint64_t *theirs = (void *)((char *)mem + (first ? APART : 0));
	struct loop l;
	uint64_t before;
	int32_t never = 0;

	loop_begin(&l, NULL, control, err);
	before = ticks();
	for (uint64_t round = 1; round <= warmup + rounds; round++) {
		uint64_t now;

		/* Release and acquire, as whoever sends data along would need. */
		if (first)
			atomic_store_explicit(ours, round, memory_order_release);
		while (atomic_load_explicit(theirs, memory_order_acquire) != round) {
			int rc = loop_idle(&l, &never);

			if (rc)
				return error_set(err, rc, "the peer did not answer round %llu",
						 (unsigned long long)round);
		}
		if (!first)
			atomic_store_explicit(ours, round, memory_order_release);
		now = ticks();
		if (round_ns && round > warmup)
			round_ns[round - warmup - 1] = now - before;
		before = now;
	}
	loop_end(&l);
	loop_samples_to_ns(&l, round_ns, rounds);
	return 0;
}
