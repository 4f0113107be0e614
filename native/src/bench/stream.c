/* SPDX-License-Identifier: MIT
 *
 * Throughput. Batches complete in any order; they are retired in the order of their submission.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/inbox.h"
#include "bench/loop.h"
#include "bench/plan.h"
#include "util/error.h"

struct stream {
	const struct pg_bench_stream *plan;
	struct loop loop;
	uint64_t now; /* the last look at the clock, which costs as much as a small operation */

	/* sending, in batches */
	struct pg_op *ring; /* one per flag */
	struct pg_scatter_dst *dsts;
	uint64_t *started; /* ticks, per batch in flight */
	uint64_t total, submitted, retired;
	uint32_t accepted;   /* operations of the batch that is being submitted */
	uint32_t done;       /* operations of the oldest batch known to be complete */
	uint32_t head, tail; /* submitted and retired, modulo depth */
	uint64_t position;
	uint64_t block_left;
	uint64_t *block, *complete; /* where the next sample goes */
	uint64_t block_from, sent_from, sent_to;

	/* counting */
	struct inbox inbox;
	uint64_t expected, uncounted; /* in the current expectation; after it */
	bool warm;
	uint64_t arrived_from, arrived_to;
};

static void place(struct pg_op *op, const struct pg_op *origin, uint64_t position)
{
	switch (op->opcode) {
	case PG_OP_WRITE:
		op->u.write.src_offset = origin->u.write.src_offset + position;
		op->u.write.dst_offset = origin->u.write.dst_offset + position;
		break;
	case PG_OP_PAGED:
		op->u.paged.src_offset = origin->u.paged.src_offset + position;
		op->u.paged.dst_offset = origin->u.paged.dst_offset + position;
		break;
	case PG_OP_SCATTER: {
		struct pg_scatter_dst *dsts = (struct pg_scatter_dst *)op->u.scatter.dsts;

		for (uint32_t i = 0; i < op->u.scatter.n; i++) {
			dsts[i].src_offset = origin->u.scatter.dsts[i].src_offset + position;
			dsts[i].dst_offset = origin->u.scatter.dsts[i].dst_offset + position;
		}
		break;
	}
	default:
		break;
	}
}

static int stream_create(struct stream *s)
{
	const struct pg_bench_stream *plan = s->plan;
	size_t n = (size_t)plan->depth * plan->batch;
	size_t n_dsts = plan->op.opcode == PG_OP_SCATTER ? plan->op.u.scatter.n : 0;

	s->ring = calloc(n, sizeof(*s->ring));
	s->started = calloc(plan->depth, sizeof(*s->started));
	s->dsts = calloc(n * n_dsts + 1, sizeof(*s->dsts));
	if (!s->ring || !s->started || !s->dsts)
		return error_set(s->loop.err, -ENOMEM, "no memory for %zu operations", n);
	for (size_t i = 0; i < n; i++) {
		s->ring[i] = plan->op;
		s->ring[i].done = (struct pg_done){ .flag = &plan->flags[i] };
		if (n_dsts) {
			memcpy(s->dsts + i * n_dsts, plan->op.u.scatter.dsts,
			       n_dsts * sizeof(*s->dsts));
			s->ring[i].u.scatter.dsts = s->dsts + i * n_dsts;
		}
	}
	s->total = plan->warmup_batches + plan->batches;
	s->block = plan->block_ns;
	s->complete = plan->complete_ns;
	s->block_left = plan->block;
	inbox_begin(&s->inbox, s->loop.group, plan->op.imm, &plan->flags[n]);
	return 0;
}

static void stream_free(struct stream *s)
{
	free(s->dsts);
	free(s->started);
	free(s->ring);
}

/* Starts or goes on with the next batch. The number of operations accepted, or -errno. */
static int stream_submit(struct stream *s)
{
	const struct pg_bench_stream *plan = s->plan;
	struct pg_op *ops = s->ring + (size_t)s->head * plan->batch;
	int n;

	if (!s->accepted) {
		if (plan->step) {
			for (uint32_t i = 0; i < plan->batch; i++) {
				place(&ops[i], &plan->op, s->position);
				s->position = plan_next(plan, s->position);
			}
		}
		s->now = ticks();
		s->started[s->head] = s->now;
	}
	n = pg_submit(s->loop.group, ops + s->accepted, plan->batch - s->accepted, 0, s->loop.err);
	if (n < 0)
		return n == -EAGAIN ? 0 : n;
	s->accepted += (uint32_t)n;
	if (s->accepted == plan->batch) {
		s->accepted = 0;
		s->submitted++;
		s->head = s->head + 1 == plan->depth ? 0 : s->head + 1;
	}
	return n;
}

static void sample(struct stream *s)
{
	uint64_t now = s->now = ticks();
	uint64_t measured = s->retired - s->plan->warmup_batches;

	if (s->retired < s->plan->warmup_batches)
		return;
	if (!measured) {
		s->sent_from = s->block_from = now;
		return;
	}
	s->sent_to = now;
	if (!s->block || --s->block_left)
		return;
	*s->block++ = now - s->block_from;
	if (s->complete)
		*s->complete++ = now - s->started[s->tail];
	s->block_from = now;
	s->block_left = s->plan->block;
}

/* Retires batches from the oldest on. Their number, or -errno. */
static int stream_retire(struct stream *s)
{
	uint32_t batch = s->plan->batch;
	int n = 0;

	while (s->retired < s->submitted) {
		const int32_t *flags = s->plan->flags + (size_t)s->tail * batch;

		for (; s->done < batch; s->done++) {
			int32_t flag = flag_load(&flags[s->done]);

			if (!flag)
				return n;
			if (flag < 0)
				return error_set(s->loop.err, flag, "operation %llu failed: %s",
						 (unsigned long long)(s->retired * batch + s->done),
						 strerror(-flag));
		}
		s->done = 0;
		s->retired++;
		sample(s);
		s->tail = s->tail + 1 == s->plan->depth ? 0 : s->tail + 1;
		n++;
	}
	return n;
}

static int stream_expect(struct stream *s)
{
	uint64_t n = s->uncounted < s->plan->chunk ? s->uncounted : s->plan->chunk;

	s->expected = n;
	s->uncounted -= n;
	return n ? inbox_expect(&s->inbox, 0, n, s->loop.err) : 0;
}

/* The warm-up is counted first, by itself. */
static int stream_expect_first(struct stream *s)
{
	s->arrived_from = ticks();
	s->warm = !s->plan->warmup_arrivals;
	s->uncounted = s->warm ? s->plan->arrivals : s->plan->warmup_arrivals;
	return stream_expect(s);
}

/* 1 when an expectation has fired, 0 or -errno. */
static int stream_count(struct stream *s)
{
	int rc = inbox_poll(&s->inbox, &s->loop, 0);

	if (rc <= 0)
		return rc;
	s->arrived_to = s->now = ticks();
	if (!s->uncounted && !s->warm) {
		s->warm = true;
		s->arrived_from = s->arrived_to;
		s->uncounted = s->plan->arrivals;
	}
	rc = stream_expect(s);
	return rc ? rc : 1;
}

/* What the loop would rather see: its oldest operation complete, or else the arrivals counted. */
static int stream_idle(struct stream *s)
{
	uint32_t oldest = s->tail * s->plan->batch + s->done;

	if (s->retired < s->submitted || !s->expected)
		return loop_idle(&s->loop, &s->plan->flags[oldest]);
	return inbox_idle(&s->inbox, &s->loop, 0);
}

static int stream_step(struct stream *s)
{
	int moved = 0, rc;

	if (s->submitted < s->total && s->submitted - s->retired < s->plan->depth) {
		rc = stream_submit(s);
		if (rc < 0)
			return rc;
		moved |= rc;
	}
	rc = stream_retire(s);
	if (rc < 0)
		return rc;
	moved |= rc;
	if (s->expected) {
		rc = stream_count(s);
		if (rc < 0)
			return rc;
		moved |= rc;
	}
	return moved ? loop_check(&s->loop, s->now) : stream_idle(s);
}

static int stream_failed(struct stream *s, int rc)
{
	const char *what = rc == -ETIMEDOUT ? "time ran out" : "stopped";

	if (rc != -ETIMEDOUT && rc != -ECANCELED)
		return rc;
	return error_set(
		s->loop.err, rc,
		"%s after %llu of %llu submissions, with %llu of %llu arrivals counted", what,
		(unsigned long long)s->retired, (unsigned long long)s->total,
		(unsigned long long)(s->warm ? s->plan->arrivals - s->uncounted - s->expected : 0),
		(unsigned long long)s->plan->arrivals);
}

int pg_bench_stream(struct pg_group *group, const struct pg_bench_stream *plan,
		    struct pg_bench_times *times, struct pg_error *err)
{
	struct stream s = { .plan = plan };
	int rc = plan_check(plan, err);

	if (rc)
		return rc;
	loop_begin(&s.loop, group, &plan->control, err);
	rc = stream_create(&s);
	if (rc)
		goto free_stream;
	rc = stream_expect_first(&s);
	if (rc)
		goto free_stream;
	if (!plan->warmup_batches)
		s.sent_from = s.block_from = ticks();
	while (s.retired < s.total || s.expected) {
		rc = stream_step(&s);
		if (rc) {
			rc = stream_failed(&s, rc);
			goto free_stream;
		}
	}
	loop_end(&s.loop);
	loop_samples_to_ns(&s.loop, plan->block_ns, plan_blocks(plan));
	loop_samples_to_ns(&s.loop, plan->complete_ns, plan_blocks(plan));
	times->sent_ns = plan->batches ? loop_ns(&s.loop, s.sent_to - s.sent_from) : 0;
	times->arrived_ns = plan->arrivals ? loop_ns(&s.loop, s.arrived_to - s.arrived_from) : 0;
free_stream:
	stream_free(&s);
	return rc;
}
