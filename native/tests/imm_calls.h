/* SPDX-License-Identifier: MIT
 *
 * The calls of an ImmCounter table as tests make them most: what fired is known by its immediate. */
#ifndef PGCTL_TESTS_IMM_CALLS_H
#define PGCTL_TESTS_IMM_CALLS_H

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"

static inline struct imm_table *create(uint32_t max)
{
	struct imm_table *t = NULL;

	CHECK_EQ(imm_table_create(max, &t), 0);
	return t;
}

static inline int arrive(struct imm_table *t, uint32_t source, uint32_t wire, uint32_t count)
{
	struct imm_fired fired;

	return imm_arrive(t, source, wire, count, &fired);
}

static inline int settle(struct imm_table *t, uint32_t source, uint32_t wire, unsigned shards)
{
	struct imm_fired fired;

	return imm_settle(t, source, wire, shards, &fired);
}

static inline int expect(struct imm_table *t, uint32_t imm, uint64_t n)
{
	struct pg_done done = { .cookie = imm };
	struct imm_fired fired;

	return imm_expect(t, imm, n, NULL, 0, &done, &fired, NULL);
}

static inline int bury(struct imm_table *t, uint32_t imm, uint64_t born)
{
	struct imm_fired fired;

	return imm_free(t, imm, born, &fired);
}

static inline struct imm_stats stats_of(const struct imm_table *t)
{
	struct imm_stats stats;

	imm_stats(t, &stats);
	return stats;
}

static inline void check_fired(const struct imm_fired *fired, uint32_t imm, int status)
{
	CHECK_EQ(fired->imm, imm);
	CHECK_EQ(fired->status, status);
	CHECK_EQ(fired->done.cookie, imm);
}

#endif
