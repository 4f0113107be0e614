/* SPDX-License-Identifier: MIT
 *
 * Where the operations of a plan work: the same for the engine and for the limits beside it.
 */
#ifndef PGCTL_BENCH_PLAN_H
#define PGCTL_BENCH_PLAN_H

#include "pgctl/bench.h"

/* From one operation's offset to the next one's. */
static inline uint64_t plan_next(const struct pg_bench_stream *plan, uint64_t position)
{
	position += plan->step;
	return position + plan->step > plan->span ? 0 : position;
}

/* -EINVAL: the plan cannot be carried out. */
int plan_check(const struct pg_bench_stream *plan, struct pg_error *err);

/* Blocks of which there is a sample. */
static inline uint64_t plan_blocks(const struct pg_bench_stream *plan)
{
	return plan->block_ns ? plan->batches / plan->block : 0;
}

#endif
