/* SPDX-License-Identifier: MIT */
#include "bench/plan.h"

#include <errno.h>

#include "util/error.h"

int plan_check(const struct pg_bench_stream *plan, struct pg_error *err)
{
	if (!plan->batch || !plan->depth)
		return error_set(err, -EINVAL, "a plan needs a batch and a depth, not %u and %u",
				 plan->batch, plan->depth);
	if (plan->step > plan->span)
		return error_set(err, -EINVAL, "a step of %llu leaves the span of %llu",
				 (unsigned long long)plan->step, (unsigned long long)plan->span);
	if (plan->block_ns && !plan->block)
		return error_set(err, -EINVAL, "samples are wanted of blocks of no batches");
	if (plan->warmup_arrivals + plan->arrivals && !plan->chunk)
		return error_set(err, -EINVAL, "arrivals cannot be counted in chunks of 0");
	return 0;
}
