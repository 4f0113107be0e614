/* SPDX-License-Identifier: MIT
 *
 * The writes of a plan as plain copies, and as process_vm_writev: what an engine cannot beat.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

#include "bench/loop.h"
#include "bench/plan.h"
#include "util/error.h"

#define MAX_THREADS 16
#define LINE 64ULL
#define MAX_IOV 512

/* One thread's part of a plan. */
struct copy {
	const struct pg_bench_stream *plan;
	const char *src;
	char *const *dsts;
	pid_t pid;
	uint64_t remote;
	unsigned thread, threads;
	/* Copies one batch from position on; the next one's position in *position. */
	int (*batch)(const struct copy *c, uint64_t *position);
	struct crew *crew;
	struct loop loop;
	uint64_t from, to; /* ticks */
	int rc;
};

/* Threads start together. */
struct crew {
	_Atomic unsigned ready;
	unsigned threads;
	_Atomic int failed;
};

/* A thread's share of [0, len), at cache lines. */
static void share(const struct copy *c, uint64_t len, uint64_t *from, uint64_t *n)
{
	uint64_t each = (len / c->threads + LINE - 1) & ~(LINE - 1);
	uint64_t end;

	if (c->threads == 1) {
		*from = 0;
		*n = len;
		return;
	}
	*from = c->thread * each < len ? c->thread * each : len;
	end = c->thread + 1 == c->threads || *from + each > len ? len : *from + each;
	*n = end - *from;
}

static int copy_writes(const struct copy *c, uint64_t *position)
{
	const struct pg_write *w = &c->plan->op.u.write;
	uint64_t from, n, at = *position;

	share(c, w->len, &from, &n);
	for (uint32_t i = 0; i < c->plan->batch; i++) {
		memcpy(c->dsts[0] + w->dst_offset + at + from, c->src + w->src_offset + at + from,
		       n);
		at = plan_next(c->plan, at);
	}
	*position = at;
	return 0;
}

static int copy_pages(const struct copy *c, uint64_t *position)
{
	const struct pg_paged *p = &c->plan->op.u.paged;
	uint64_t at = *position;

	for (uint32_t i = 0; i < c->plan->batch; i++) {
		const char *src = c->src + p->src_offset + at;
		char *dst = c->dsts[0] + p->dst_offset + at;

		for (uint32_t page = c->thread; page < p->n_pages; page += c->threads)
			memcpy(dst + p->dst_indices[page] * p->dst_stride,
			       src + p->src_indices[page] * p->src_stride, p->page_len);
		at = plan_next(c->plan, at);
	}
	*position = at;
	return 0;
}

static int copy_slices(const struct copy *c, uint64_t *position)
{
	const struct pg_scatter *s = &c->plan->op.u.scatter;
	uint64_t at = *position;

	for (uint32_t i = 0; i < c->plan->batch; i++) {
		for (uint32_t d = c->thread; d < s->n; d += c->threads)
			memcpy(c->dsts[d] + s->dsts[d].dst_offset + at,
			       c->src + s->dsts[d].src_offset + at, s->dsts[d].len);
		at = plan_next(c->plan, at);
	}
	*position = at;
	return 0;
}

/* The whole of local into remote; the kernel may do it in parts, at the borders of both. */
static int vm_write(const struct copy *c, struct iovec *local, struct iovec *remote, unsigned n)
{
	while (n) {
		ssize_t done = process_vm_writev(c->pid, local, n, remote, n, 0);

		if (done < 0)
			return error_set(c->loop.err, -errno,
					 "process_vm_writev into process %d: %s", c->pid,
					 strerror(errno));
		for (; n && (size_t)done >= local->iov_len; n--, local++, remote++)
			done -= (ssize_t)local->iov_len;
		if (n && done) {
			local->iov_base = (char *)local->iov_base + done;
			local->iov_len -= (size_t)done;
			remote->iov_base = (char *)remote->iov_base + done;
			remote->iov_len -= (size_t)done;
		}
	}
	return 0;
}

/* A page or a whole write: the i-th pair of ranges of the operation at position. */
static void ranges(const struct copy *c, uint64_t position, uint32_t i, struct iovec *local,
		   struct iovec *remote)
{
	const struct pg_op *op = &c->plan->op;
	uint64_t src, dst, len;

	if (op->opcode == PG_OP_PAGED) {
		const struct pg_paged *p = &op->u.paged;

		src = p->src_offset + p->src_indices[i] * p->src_stride;
		dst = p->dst_offset + p->dst_indices[i] * p->dst_stride;
		len = p->page_len;
	} else {
		src = op->u.write.src_offset;
		dst = op->u.write.dst_offset;
		len = op->u.write.len;
	}
	*local = (struct iovec){ (char *)(uintptr_t)(c->src + src + position), len };
	*remote = (struct iovec){ (char *)(uintptr_t)(c->remote + dst + position), len };
}

static int vm_write_batch(const struct copy *c, uint64_t *position)
{
	const struct pg_op *op = &c->plan->op;
	uint32_t n = op->opcode == PG_OP_PAGED ? op->u.paged.n_pages : 1;
	struct iovec local[MAX_IOV], remote[MAX_IOV];
	int rc = 0;

	for (uint32_t i = 0; !rc && i < c->plan->batch; i++) {
		for (uint32_t first = 0; !rc && first < n; first += MAX_IOV) {
			uint32_t part = n - first < MAX_IOV ? n - first : MAX_IOV;

			for (uint32_t j = 0; j < part; j++)
				ranges(c, *position, first + j, &local[j], &remote[j]);
			rc = vm_write(c, local, remote, part);
		}
		*position = plan_next(c->plan, *position);
	}
	return rc;
}

static int copy_batches(struct copy *c, uint64_t n, uint64_t *position, uint64_t *samples)
{
	uint64_t left = c->plan->block, before = ticks();

	for (uint64_t i = 0; i < n; i++) {
		int rc = c->batch(c, position);
		uint64_t now = ticks();

		if (!rc)
			rc = loop_check(&c->loop, now);
		if (rc)
			return rc;
		if (!samples || --left)
			continue;
		*samples++ = now - before;
		before = now;
		left = c->plan->block;
	}
	return 0;
}

static void *copy_run(void *arg)
{
	struct copy *c = arg;
	uint64_t position = 0;

	c->rc = copy_batches(c, c->plan->warmup_batches, &position, NULL);
	/* Relaxed: nothing but the number is shared. */
	if (c->rc)
		atomic_store_explicit(&c->crew->failed, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->crew->ready, 1, memory_order_relaxed);
	while (atomic_load_explicit(&c->crew->ready, memory_order_relaxed) < c->crew->threads)
		if (atomic_load_explicit(&c->crew->failed, memory_order_relaxed))
			return NULL;
	if (c->rc)
		return NULL;
	c->from = ticks();
	c->rc = copy_batches(c, c->plan->batches, &position, c->thread ? NULL : c->plan->block_ns);
	c->to = ticks();
	return NULL;
}

static int copy_crew(const struct copy *model, unsigned threads, struct pg_bench_times *times,
		     struct pg_error *err)
{
	const struct pg_bench_stream *plan = model->plan;
	struct crew crew = { .threads = threads };
	struct copy copies[MAX_THREADS];
	pthread_t ids[MAX_THREADS];
	uint64_t from = 0, to = 0;
	unsigned started = 0;
	int rc = 0;

	for (unsigned i = 0; i < threads; i++) {
		copies[i] = *model;
		copies[i].thread = i;
		copies[i].threads = threads;
		copies[i].crew = &crew;
		loop_begin(&copies[i].loop, NULL, &plan->control, i ? NULL : err);
	}
	for (started = 1; started < threads; started++) {
		rc = pthread_create(&ids[started], NULL, copy_run, &copies[started]);
		if (rc) {
			/* Relaxed: it only has to be seen some time. */
			atomic_store_explicit(&crew.failed, 1, memory_order_relaxed);
			rc = error_set(err, -rc, "cannot start thread %u of %u: %s", started + 1,
				       threads, strerror(rc));
			break;
		}
	}
	if (!rc)
		copy_run(&copies[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(ids[i], NULL);
	loop_end(&copies[0].loop);
	for (unsigned i = 0; !rc && i < threads; i++) {
		rc = copies[i].rc;
		from = !i || copies[i].from < from ? copies[i].from : from;
		to = copies[i].to > to ? copies[i].to : to;
	}
	if (rc == -ETIMEDOUT || rc == -ECANCELED)
		return error_set(err, rc, "%s while measuring the limit",
				 rc == -ETIMEDOUT ? "time ran out" : "stopped");
	if (rc)
		return rc;
	loop_samples_to_ns(&copies[0].loop, plan->block_ns, plan_blocks(plan));
	*times = (struct pg_bench_times){ .sent_ns = loop_ns(&copies[0].loop, to - from) };
	return 0;
}

int pg_bench_memcpy(const struct pg_bench_stream *plan, const void *src, void *const *dsts,
		    unsigned threads, struct pg_bench_times *times, struct pg_error *err)
{
	struct copy model = { .plan = plan, .src = src, .dsts = (char *const *)dsts };
	int rc = plan_check(plan, err);

	if (rc)
		return rc;
	if (!threads || threads > MAX_THREADS)
		return error_set(err, -EINVAL, "%u threads are not between 1 and %d", threads,
				 MAX_THREADS);
	switch (plan->op.opcode) {
	case PG_OP_WRITE:
		model.batch = copy_writes;
		break;
	case PG_OP_PAGED:
		model.batch = copy_pages;
		break;
	case PG_OP_SCATTER:
		model.batch = copy_slices;
		break;
	default:
		return error_set(err, -EINVAL, "operation %u copies nothing", plan->op.opcode);
	}
	return copy_crew(&model, threads, times, err);
}

int pg_bench_vm_write(const struct pg_bench_stream *plan, const void *src, int32_t pid,
		      uint64_t dst, struct pg_bench_times *times, struct pg_error *err)
{
	struct copy model = { .plan = plan, .src = src, .pid = pid, .remote = dst };
	int rc = plan_check(plan, err);

	if (rc)
		return rc;
	if (plan->op.opcode != PG_OP_WRITE && plan->op.opcode != PG_OP_PAGED)
		return error_set(err, -EINVAL, "operation %u has not one destination",
				 plan->op.opcode);
	model.batch = vm_write_batch;
	return copy_crew(&model, 1, times, err);
}
