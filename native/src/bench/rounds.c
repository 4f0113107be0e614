/* SPDX-License-Identifier: MIT
 *
 * Latency. Everything that an answer does not wait for happens while it travels: the expectation of
 * the next round, and the look at the completion of the one before.
 */
#include <errno.h>
#include <string.h>

#include "bench/inbox.h"
#include "bench/loop.h"
#include "util/error.h"

struct rounds {
	const struct pg_bench_rounds *plan;
	struct loop loop;
	struct inbox inbox;
	struct pg_op ops[2]; /* of even and odd rounds */
	int32_t *flags;      /* theirs */
};

static void rounds_begin(struct rounds *r, struct pg_group *group,
			 const struct pg_bench_rounds *plan, struct pg_error *err)
{
	r->plan = plan;
	r->flags = plan->flags + 2;
	loop_begin(&r->loop, group, &plan->control, err);
	inbox_begin(&r->inbox, group, plan->op.imm, plan->flags);
	for (uint32_t parity = 0; parity < 2; parity++) {
		r->ops[parity] = plan->op;
		r->ops[parity].done = (struct pg_done){ .flag = &r->flags[parity] };
		if (plan->op.imm != PG_NO_IMM)
			r->ops[parity].imm = plan->op.imm + parity;
		r->flags[parity] = 1;
	}
}

/* Waits until the operation of an earlier round has completed. */
static int rounds_reap(struct rounds *r, unsigned parity)
{
	int32_t flag;

	while (!(flag = flag_load(&r->flags[parity]))) {
		int rc = loop_idle(&r->loop, &r->flags[parity]);

		if (rc)
			return rc;
	}
	if (flag < 0)
		return error_set(r->loop.err, flag, "an operation failed: %s", strerror(-flag));
	return 0;
}

static int rounds_submit(struct rounds *r, unsigned parity)
{
	int rc = rounds_reap(r, parity);

	while (!rc) {
		rc = pg_submit(r->loop.group, &r->ops[parity], 1, 0, r->loop.err);
		if (rc == 1)
			return 0;
		if (rc == -EAGAIN)
			rc = loop_idle(&r->loop, &r->flags[parity]);
	}
	return rc;
}

static int rounds_one(struct rounds *r, unsigned parity, bool last)
{
	int rc = 0;

	if (!r->plan->first)
		rc = inbox_wait(&r->inbox, &r->loop, parity);
	if (!rc)
		rc = rounds_submit(r, parity);
	if (!rc && !last)
		rc = inbox_expect(&r->inbox, !parity, r->plan->arrivals, r->loop.err);
	if (!rc && r->plan->first)
		rc = inbox_wait(&r->inbox, &r->loop, parity);
	return rc;
}

static int rounds_run(struct rounds *r, uint64_t *round)
{
	const struct pg_bench_rounds *plan = r->plan;
	uint64_t total = plan->warmup + plan->rounds;
	uint64_t *samples = plan->round_ns;
	uint64_t before = ticks();
	int rc = 0;

	*round = 0;
	if (total)
		rc = inbox_expect(&r->inbox, 0, plan->arrivals, r->loop.err);
	while (!rc && *round < total) {
		uint64_t now;

		rc = rounds_one(r, *round & 1, *round + 1 == total);
		if (rc)
			break;
		now = ticks();
		if (samples && *round >= plan->warmup)
			*samples++ = now - before;
		before = now;
		++*round;
	}
	for (unsigned parity = 0; !rc && parity < 2; parity++)
		rc = rounds_reap(r, parity);
	return rc;
}

int pg_bench_rounds(struct pg_group *group, const struct pg_bench_rounds *plan,
		    struct pg_error *err)
{
	struct rounds r;
	uint64_t round;
	int rc;

	rounds_begin(&r, group, plan, err);
	rc = rounds_run(&r, &round);
	if (rc == -ETIMEDOUT || rc == -ECANCELED)
		return error_set(err, rc, "%s in round %llu of %llu",
				 rc == -ETIMEDOUT ? "time ran out" : "stopped",
				 (unsigned long long)round,
				 (unsigned long long)(plan->warmup + plan->rounds));
	if (rc)
		return rc;
	loop_end(&r.loop);
	loop_samples_to_ns(&r.loop, plan->round_ns, plan->rounds);
	return 0;
}
