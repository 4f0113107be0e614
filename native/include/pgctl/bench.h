/* SPDX-License-Identifier: MIT
 *
 * pgctl benchmarks: timed loops over the engine's public API, and the physical limits beside them.
 *
 * What is measured, and how often, is the caller's decision: a loop counts iterations, and who
 * wants a duration calibrates first. One loop at a time per group. The memory of samples and
 * completion flags is the caller's. Functions return 0 or -errno, with one sentence in the error.
 *
 * Samples are nanoseconds. They are taken with the processor's counter where it has one (10 ns a
 * sample), else with clock_gettime.
 */
#ifndef PGCTL_BENCH_H
#define PGCTL_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "pgctl/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a loop does when nothing has happened. */
enum pg_bench_wait {
	PG_BENCH_SPIN,  /* polls again: there is a core for it */
	PG_BENCH_YIELD, /* gives the core away, then polls: there are fewer cores than ranks */
	PG_BENCH_SLEEP, /* sleeps until the group's worker wakes it */
};

/* What every loop obeys. */
struct pg_bench_control {
	const int32_t *stop; /* another thread sets it: the loop ends with -ECANCELED */
	uint64_t timeout_ns; /* of the whole loop: -ETIMEDOUT */
	int32_t wait;        /* enum pg_bench_wait */
};

/* ---- Throughput: a window of operations in flight, and arrivals counted --------------------- */

/* Submissions of `batch` copies of op, `depth` of them in flight. Operation i works at offset
 * i * step % span from the offsets that op states, at its source and its destination: marching;
 * with step 0 it stays hot. Meanwhile `arrivals` are counted. Either side may be empty.
 *
 * An operation with an immediate uses that; arrivals are counted on it, too, in expectations of
 * `chunk`, which must be at least what the senders have in flight. With PG_NO_IMM the arrivals are
 * messages.
 *
 * Measuring starts when the warm-up's batches have completed, or its arrivals have been counted. */
struct pg_bench_stream {
	struct pg_bench_control control;
	struct pg_op op;
	uint32_t batch;
	uint32_t depth;
	uint64_t step;
	uint64_t span;
	uint64_t warmup_batches;
	uint64_t batches;   /* measured ones */
	uint64_t block;     /* batches per sample */
	uint64_t *block_ns; /* batches / block samples, or NULL */
	uint64_t *
		complete_ns; /* as many: from submission to completion of each block's last batch */
	uint64_t warmup_arrivals;
	uint64_t arrivals;
	uint64_t chunk;
	int32_t *flags; /* depth * batch + 2 words, valid until the group is destroyed */
};

struct pg_bench_times {
	uint64_t sent_ns;    /* for the measured batches; 0 without */
	uint64_t arrived_ns; /* for the measured arrivals; 0 without */
};

int pg_bench_stream(struct pg_group *group, const struct pg_bench_stream *plan,
		    struct pg_bench_times *times, struct pg_error *err);

/* ---- Latency: rounds of one operation and what answers it ----------------------------------- */

/* A round is: submit op, and wait for `arrivals`. Who is first submits before it waits: one of two
 * ranks in a ping-pong, all of them in a barrier. Odd rounds use the immediate imm + 1, so that a
 * rank that is ahead is not mistaken for one that is behind; each round's expectation is made during
 * the one before. With PG_NO_IMM the arrivals are messages. */
struct pg_bench_rounds {
	struct pg_bench_control control;
	struct pg_op op;
	bool first;
	uint32_t arrivals;
	uint64_t warmup;
	uint64_t rounds;
	uint64_t *round_ns; /* rounds samples, or NULL */
	int32_t *flags;     /* 4 words, valid until the group is destroyed */
};

int pg_bench_rounds(struct pg_group *group, const struct pg_bench_rounds *plan,
		    struct pg_error *err);

/* Takes `count` messages and compares each with pg_bench_fill(seed, origin 0); in *wrong, how many
 * differ or have another length than len. */
int pg_bench_take_messages(struct pg_group *group, const struct pg_bench_control *control,
			   uint64_t count, uint32_t len, uint64_t seed, uint64_t *wrong,
			   struct pg_error *err);

/* ---- Physical limits ----------------------------------------------------------------------- */

/* The writes of a plan, in its order, without an engine. dsts: where each destination's region is
 * mapped here, one for a write or pages, n for a scatter. threads share each operation's bytes. */
int pg_bench_memcpy(const struct pg_bench_stream *plan, const void *src, void *const *dsts,
		    unsigned threads, struct pg_bench_times *times, struct pg_error *err);

/* The same with process_vm_writev into process pid, where the region is at dst. No scatter. */
int pg_bench_vm_write(const struct pg_bench_stream *plan, const void *src, int32_t pid,
		      uint64_t dst, struct pg_bench_times *times, struct pg_error *err);

/* Two processes pass a number back and forth through two cache lines of memory that both have
 * mapped: PG_BENCH_CACHELINE_BYTES of zeros, aligned to 128. */
#define PG_BENCH_CACHELINE_BYTES 256
int pg_bench_cacheline(const struct pg_bench_control *control, void *mem, bool first,
		       uint64_t warmup, uint64_t rounds, uint64_t *round_ns, struct pg_error *err);

/* ---- Payload -------------------------------------------------------------------------------- */

/* A byte of the pattern depends on the seed and on its offset, of which the first is `origin`: a
 * page that lands in another's place is found. */
void pg_bench_fill(void *ptr, uint64_t len, uint64_t seed, uint64_t origin);
/* Compares n pieces of len bytes, step apart. The offset in ptr of the first byte that differs, or
 * UINT64_MAX. */
uint64_t pg_bench_verify(const void *ptr, uint64_t len, uint64_t n, uint64_t step, uint64_t seed,
			 uint64_t origin);

/* Reads a byte of each page, so that a mapping is in place before it is timed. */
void pg_bench_touch(const void *ptr, uint64_t len);

#ifdef __cplusplus
}
#endif
#endif
