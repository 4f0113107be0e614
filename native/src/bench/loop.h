/* SPDX-License-Identifier: MIT
 *
 * What the timed loops share: the clock, the deadline, and what to do when nothing happens.
 */
#ifndef PGCTL_BENCH_LOOP_H
#define PGCTL_BENCH_LOOP_H

#include <stdatomic.h>

#include "pgctl/bench.h"
#include "util/clock.h"

/* Whoever sleeps looks at the stop word this often. */
#define LOOP_SLICE_NS 10000000

struct loop {
	struct pg_group *group; /* NULL: no engine takes part */
	const struct pg_bench_control *control;
	struct pg_error *err;
	uint64_t start_ns, start_ticks;
	uint64_t checked; /* ticks when the deadline was last looked at */
	uint32_t idle;
	double ns_per_tick;
};

void loop_begin(struct loop *l, struct pg_group *group, const struct pg_bench_control *control,
		struct pg_error *err);

/* Has somebody stopped us, or time run out? Cheap enough for every submission. */
int loop_check(struct loop *l, uint64_t now);

/* Nothing has happened: makes progress, or waits for flag. Sentences for errors of the loop itself
 * are its caller's, who knows how far it came. */
int loop_idle(struct loop *l, const int32_t *flag);

/* Fits the clock; from here on ticks can be turned into nanoseconds. */
void loop_end(struct loop *l);
uint64_t loop_ns(const struct loop *l, uint64_t ticks);
void loop_samples_to_ns(const struct loop *l, uint64_t *samples, uint64_t n);

/* A completion flag: 0, 1 or -errno. Acquire: whatever it stands for can be read afterwards. */
static inline int32_t flag_load(const int32_t *flag)
{
	return atomic_load_explicit((const _Atomic int32_t *)flag, memory_order_acquire);
}

#endif
