/* SPDX-License-Identifier: MIT */
#include "bench/loop.h"

#include <errno.h>
#include <sched.h>

/* The deadline is looked at after so many ticks (0.2 to 1 ms), and no more often. */
#define CHECK_TICKS (1 << 20)
#define IDLE_ROUNDS 64

void loop_begin(struct loop *l, struct pg_group *group, const struct pg_bench_control *control,
		struct pg_error *err)
{
	*l = (struct loop){ .group = group, .control = control, .err = err };
	l->start_ns = clock_ns();
	l->start_ticks = ticks();
	l->checked = l->start_ticks;
}

int loop_check(struct loop *l, uint64_t now)
{
	/* Relaxed: the word carries nothing but itself. */
	if (atomic_load_explicit((const _Atomic int32_t *)l->control->stop, memory_order_relaxed))
		return -ECANCELED;
	if (now - l->checked < CHECK_TICKS)
		return 0;
	l->checked = now;
	return clock_ns() - l->start_ns > l->control->timeout_ns ? -ETIMEDOUT : 0;
}

int loop_idle(struct loop *l, const int32_t *flag)
{
	int happened = 0;

	if (l->control->wait == PG_BENCH_SLEEP && l->group) {
		int rc = pg_wait_flags(l->group, flag, 1, LOOP_SLICE_NS);

		if (rc < 0 && rc != -ETIMEDOUT && rc != -EINTR)
			return rc;
		return loop_check(l, ticks());
	}
	if (l->group)
		happened = pg_progress(l->group);
	if (happened < 0)
		return happened;
	if (!happened && l->control->wait != PG_BENCH_SPIN)
		sched_yield();
	/* Looking at the clock each time would make us slower to notice. */
	if (++l->idle % IDLE_ROUNDS)
		return 0;
	return loop_check(l, ticks());
}

void loop_end(struct loop *l)
{
	uint64_t ns = clock_ns() - l->start_ns;
	uint64_t counted = ticks() - l->start_ticks;

	l->ns_per_tick = counted ? (double)ns / (double)counted : 1.0;
}

uint64_t loop_ns(const struct loop *l, uint64_t n)
{
	return (uint64_t)((double)n * l->ns_per_tick + 0.5);
}

void loop_samples_to_ns(const struct loop *l, uint64_t *samples, uint64_t n)
{
	for (uint64_t i = 0; samples && i < n; i++)
		samples[i] = loop_ns(l, samples[i]);
}
