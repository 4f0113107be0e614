/* SPDX-License-Identifier: MIT
 *
 * The content of messages: apart from the timed loops, which only count them.
 */
#include <errno.h>

#include "bench/loop.h"
#include "util/error.h"

#define TAKE 32

static bool is_wrong(const struct pg_event *event, uint32_t len, uint64_t seed)
{
	return event->len != len ||
	       pg_bench_verify(event->data, len, 1, len, seed, 0) != UINT64_MAX;
}

/* The next messages. Their number, or -errno. */
static int take(struct loop *l, struct pg_event *events, unsigned max)
{
	int n;

	if (l->control->wait != PG_BENCH_SLEEP)
		return pg_poll_events(l->group, events, max);
	n = pg_wait_events(l->group, events, max, LOOP_SLICE_NS);
	return n == -ETIMEDOUT || n == -EINTR ? 0 : n;
}

int pg_bench_take_messages(struct pg_group *group, const struct pg_bench_control *control,
			   uint64_t count, uint32_t len, uint64_t seed, uint64_t *wrong,
			   struct pg_error *err)
{
	struct pg_event events[TAKE];
	uint64_t taken = 0, bad = 0;
	struct loop l;
	int32_t never = 0;

	loop_begin(&l, group, control, err);
	while (taken < count) {
		uint64_t left = count - taken;
		int n = take(&l, events, left < TAKE ? (unsigned)left : TAKE);

		for (int i = 0; i < n; i++) {
			if (events[i].kind != PG_EVENT_RECV)
				continue;
			bad += events[i].status || is_wrong(&events[i], len, seed);
			if (events[i].data)
				pg_recv_release(group, events[i].data);
			taken++;
		}
		if (!n)
			n = control->wait == PG_BENCH_SLEEP ? loop_check(&l, ticks())
							    : loop_idle(&l, &never);
		if (n < 0)
			return error_set(err, n, "%llu of %llu messages came",
					 (unsigned long long)taken, (unsigned long long)count);
	}
	*wrong = bad;
	return 0;
}
