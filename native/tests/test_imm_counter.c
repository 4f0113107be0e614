/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"
#include "imm_calls.h"

#define SOURCES 5

static uint64_t seed = 42;

static unsigned pick(unsigned n)
{
	return (unsigned)(check_random(&seed) % n);
}

static void test_arguments(void)
{
	struct imm_table *t = NULL;
	struct pg_error err;
	struct imm_fired fired;
	struct pg_done done = { .cookie = 1 };

	CHECK_EQ(imm_table_create(0, &t), -EINVAL);
	CHECK_EQ(imm_table_create(UINT32_MAX, &t), -EINVAL);
	CHECK(!t);
	imm_table_destroy(NULL);
	t = create(4);
	CHECK_EQ(imm_expect(t, PG_IMM_MAX + 1, 1, NULL, 0, &done, &fired, &err), -EINVAL);
	CHECK_EQ(err.code, -EINVAL);
	CHECK(strstr(err.text, "0x40000000"));
	CHECK_EQ(imm_expect(t, 1, 0, NULL, 0, &done, &fired, &err), -EINVAL);
	CHECK_EQ(imm_expect(t, 1, UINT64_MAX, NULL, 0, &done, &fired, &err), 0);
	CHECK_EQ(imm_expect(t, 1, 1, NULL, 0, &done, &fired, &err), -EBUSY);
	CHECK(strstr(err.text, "0x1"));
	CHECK_EQ(imm_value(t, UINT32_MAX), 0);
	CHECK_EQ(imm_free(t, UINT32_MAX, 0, &fired), -ENOENT);
	CHECK_EQ(imm_free(t, 2, 0, &fired), -ENOENT);
	imm_table_destroy(t);
}

/* Each source has one write in flight at a time, split as it likes; the shards of all come in any
 * order. The value is then exact at every moment. */
static void test_exact(void)
{
	struct imm_table *t = create(SOURCES);
	unsigned k[SOURCES] = { 0 };
	unsigned left[SOURCES] = { 0 };
	uint64_t whole = 0;

	for (unsigned step = 0; step < 100000; step++) {
		unsigned s = pick(SOURCES);

		if (!left[s])
			left[s] = k[s] = pick(PG_MAX_DOMAINS) + 1;
		CHECK_EQ(arrive(t, s, imm_wire(7, k[s]), 1), 0);
		whole += --left[s] == 0;
		CHECK_EQ(imm_value(t, 7), whole);
	}
	CHECK(whole > 30000);
	imm_table_destroy(t);
}

/* Nothing stays behind of immediates that have come and gone, in whatever order of the two
 * sides. */
static void test_fresh_for_ever(void)
{
	struct imm_table *t = create(1);

	for (uint32_t i = 0; i < 300000; i++) {
		uint32_t imm = i * 2654435761U & PG_IMM_MAX;

		if (i & 1) {
			CHECK_EQ(expect(t, imm, 2), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 2), 2), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 4), 3), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 4), 1), 1);
		} else {
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 1), 2), 0);
			CHECK_EQ(expect(t, imm, 2), 1);
		}
		CHECK_EQ(imm_value(t, imm), 0);
	}
	imm_table_destroy(t);
}

static void test_bounds(uint32_t max, uint32_t stride)
{
	struct imm_table *t = create(max);
	struct imm_fired fired;

	for (uint32_t i = 0; i < max; i++)
		CHECK_EQ(arrive(t, i, imm_wire(i * stride, 1), 1), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 1), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 2), 1), -ENOSPC);
	CHECK_EQ(imm_value(t, max * stride), 0);
	/* Known ones still count, and those that are expected have room of their own. */
	CHECK_EQ(arrive(t, 0, imm_wire(0, 1), 1), 0);
	for (uint32_t i = 0; i < max; i++)
		CHECK_EQ(expect(t, (max + i) * stride, 1), 0);
	CHECK_EQ(expect(t, 2 * max * stride, 1), -ENOSPC);
	CHECK_EQ(expect(t, 0, 3), -ENOSPC);
	CHECK_EQ(imm_value(t, 0), 2);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 1), 1), 1);
	CHECK_EQ(expect(t, 0, 3), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(2 * max * stride, 1), 1), 0);
	/* Half-arrived writes. */
	for (uint32_t i = 0; i < 4 * max; i++)
		CHECK_EQ(arrive(t, i, imm_wire(0, 3), 1), 0);
	CHECK_EQ(stats_of(t).records, 4 * max);
	CHECK_EQ(arrive(t, 4 * max, imm_wire(0, 3), 1), -ENOSPC);
	CHECK_EQ(settle(t, 4 * max, imm_wire(0, 3), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 1, imm_wire(stride, 3), 2), -ENOSPC);
	CHECK_EQ(arrive(t, 1, imm_wire(stride, 3), 3), 0);
	CHECK_EQ(imm_value(t, stride), 2);
	/* A further source, too. */
	CHECK_EQ(arrive(t, 4 * max, imm_wire(0, 1), 1), -ENOSPC);
	CHECK_EQ(imm_value(t, 0), 2);
	CHECK_EQ(arrive(t, 0, imm_wire(0, 1), 1), 1);
	imm_drop_source(t, 0);
	CHECK_EQ(arrive(t, 4 * max, imm_wire(0, 3), 1), 0);
	/* Freed, they remain as forgotten ones. */
	CHECK_EQ(imm_free(t, 0, 0, &fired), 0);
	CHECK_EQ(stats_of(t).records, 4 * max);
	imm_table_destroy(t);
}

/* The rest of a write that had half arrived when its counter was freed does not count, and a later
 * write of that source does. */
static void test_free_half_arrived(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(imm_free(t, 5, 0, &fired), 0);
	CHECK_EQ(imm_free(t, 5, 0, &fired), -ENOENT);
	CHECK_EQ(expect(t, 5, 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(imm_value(t, 5), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 1);
	CHECK_EQ(imm_free(t, 5, 0, &fired), -ENOENT);
	imm_table_destroy(t);
}

/* ---- Tombstones ---------------------------------------------------------------------------- */

static void test_tombstone(void)
{
	struct imm_table *t = create(4);

	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 2), 0);
	CHECK_EQ(bury(t, 5, 7), 0);
	CHECK_EQ(bury(t, 5, 7), -ENOENT);
	CHECK_EQ(stats_of(t).tombstones, 1);
	CHECK_EQ(stats_of(t).unclaimed, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 3), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 2), 2), 0);
	CHECK_EQ(stats_of(t).swallowed, 5);
	CHECK_EQ(stats_of(t).unclaimed, 0);
	CHECK_EQ(imm_value(t, 5), 0);
	CHECK_EQ(stats_of(t).tombstones, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 1), 0);
	CHECK_EQ(imm_value(t, 5), 1);
	/* An expectation digs up as well, and one that was never seen can be buried. */
	CHECK_EQ(bury(t, 6, 7), -ENOENT);
	CHECK_EQ(arrive(t, 1, imm_wire(6, 1), 1), 0);
	CHECK_EQ(expect(t, 6, 1), 0);
	CHECK_EQ(stats_of(t).tombstones, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(6, 1), 1), 1);
	CHECK_EQ(stats_of(t).swallowed, 6);
	/* Without born there is none, and an old one goes. */
	CHECK_EQ(bury(t, 6, 8), -ENOENT);
	CHECK_EQ(bury(t, 6, 0), -ENOENT);
	CHECK_EQ(arrive(t, 1, imm_wire(6, 1), 1), 0);
	CHECK_EQ(imm_value(t, 6), 1);
	imm_table_destroy(t);
}

/* The rest of what half arrived before it was freed, or while it was buried, makes no whole write
 * with the next one's shards. */
static void test_tombstone_half_arrived(void)
{
	struct imm_table *t = create(1);

	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(bury(t, 5, 7), 0);
	CHECK_EQ(expect(t, 5, 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 2), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 1);
	/* Ends while it is buried. */
	CHECK_EQ(arrive(t, 1, imm_wire(5, 4), 1), 0);
	CHECK_EQ(bury(t, 5, 7), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 4), 3), 0);
	CHECK_EQ(stats_of(t).records, 0);
	/* Begins while it is buried, is settled there, and begins again. */
	CHECK_EQ(arrive(t, 1, imm_wire(5, 3), 2), 0);
	CHECK_EQ(settle(t, 1, imm_wire(5, 3), 2), 0);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 3), 2), 0);
	/* Its tombstone goes before it ends. */
	imm_tombstones_expire(t, 8);
	CHECK_EQ(stats_of(t).tombstones, 0);
	CHECK_EQ(stats_of(t).unclaimed, 1);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 3), 1), 0);
	CHECK_EQ(stats_of(t).unclaimed, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 3), 3), 0);
	CHECK_EQ(imm_value(t, 5), 1);
	CHECK_EQ(bury(t, 5, 0), 0);
	/* Its source goes. */
	CHECK_EQ(bury(t, 5, 8), -ENOENT);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	imm_drop_source(t, 1);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(expect(t, 5, 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 2), 1);
	imm_table_destroy(t);
}

static void test_tombstones_expire(void)
{
	struct imm_table *t = create(4);

	for (uint32_t imm = 0; imm < 6; imm++)
		CHECK_EQ(bury(t, imm, imm + 1), -ENOENT);
	/* The oldest two have made room. */
	CHECK_EQ(stats_of(t).tombstones, 4);
	CHECK_EQ(arrive(t, 0, imm_wire(1, 1), 1), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(2, 1), 1), 0);
	CHECK_EQ(stats_of(t).swallowed, 1);
	/* Who is buried once more is young. */
	CHECK_EQ(bury(t, 2, 6), -ENOENT);
	imm_tombstones_expire(t, 5);
	CHECK_EQ(stats_of(t).tombstones, 3);
	imm_tombstones_expire(t, 6);
	CHECK_EQ(stats_of(t).tombstones, 2);
	CHECK_EQ(arrive(t, 0, imm_wire(4, 1), 1), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(2, 1), 1), 0);
	CHECK_EQ(stats_of(t).swallowed, 2);
	imm_tombstones_expire(t, UINT64_MAX);
	CHECK_EQ(stats_of(t).tombstones, 0);
	CHECK_EQ(stats_of(t).unclaimed, 2);
	imm_table_destroy(t);
}

/* ---- Settling ------------------------------------------------------------------------------ */

static void test_settle(void)
{
	struct imm_table *t = create(4);

	CHECK_EQ(settle(t, 1, imm_wire(5, 2), 0), -EINVAL);
	CHECK_EQ(settle(t, 1, imm_wire(5, 2), 2), -EINVAL);
	CHECK_EQ(settle(t, 1, imm_wire(5, 1), 1), -EINVAL);
	/* After its shards, and before. */
	CHECK_EQ(arrive(t, 1, imm_wire(5, 4), 3), 0);
	CHECK_EQ(settle(t, 1, imm_wire(5, 4), 3), 0);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(settle(t, 1, imm_wire(5, 4), 3), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 4), 2), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 4), 1), 0);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(stats_of(t).unclaimed, 0);
	/* A whole write is one still; of another source nothing is taken. */
	CHECK_EQ(arrive(t, 2, imm_wire(5, 2), 1), 0);
	CHECK_EQ(settle(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 2), 1), 0);
	CHECK_EQ(imm_value(t, 5), 1);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 3), 0);
	CHECK_EQ(imm_value(t, 5), 2);
	CHECK_EQ(stats_of(t).records, 1); /* the first source to count needs none */
	/* A failed write's shard made a whole with another's: in the end there is exactly one. */
	CHECK_EQ(arrive(t, 3, imm_wire(6, 2), 1), 0);
	CHECK_EQ(arrive(t, 3, imm_wire(6, 2), 1), 0);
	CHECK_EQ(imm_value(t, 6), 1);
	CHECK_EQ(settle(t, 3, imm_wire(6, 2), 1), 0);
	CHECK_EQ(imm_value(t, 6), 1);
	CHECK_EQ(arrive(t, 3, imm_wire(6, 2), 1), 0);
	CHECK_EQ(imm_value(t, 6), 1);
	CHECK_EQ(arrive(t, 3, imm_wire(6, 2), 2), 0);
	CHECK_EQ(imm_value(t, 6), 2);
	imm_table_destroy(t);
}

/* What had half arrived when it was freed is settled: the next write counts. */
static void test_settle_freed(void)
{
	struct imm_table *t = create(4);

	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(bury(t, 5, 0), 0);
	CHECK_EQ(settle(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(stats_of(t).unclaimed, 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 2), 0);
	CHECK_EQ(imm_value(t, 5), 1);
	/* Settled before its shard came and before it was freed. */
	CHECK_EQ(settle(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(bury(t, 5, 0), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 3), 0);
	CHECK_EQ(imm_value(t, 5), 1);
	imm_table_destroy(t);
}

/* ---- All of them --------------------------------------------------------------------------- */

static void test_cancel(void)
{
	struct imm_table *t = create(64);
	struct imm_fired fired[10];
	bool seen[30] = { false };
	unsigned ended = 0;
	unsigned n;

	CHECK_EQ(expect(t, 5, 3), 0);
	CHECK_EQ(imm_free(t, 5, 0, &fired[0]), 1);
	check_fired(&fired[0], 5, -ECANCELED);
	for (uint32_t imm = 0; imm < 30; imm++) {
		CHECK_EQ(arrive(t, 0, imm_wire(imm, 1), imm % 2), 0);
		CHECK_EQ(expect(t, imm, 3), 0);
	}
	while ((n = imm_cancel_all(t, fired, 10))) {
		for (unsigned i = 0; i < n; i++) {
			CHECK(fired[i].imm < 30 && !seen[fired[i].imm]);
			seen[fired[i].imm] = true;
			check_fired(&fired[i], fired[i].imm, -ECANCELED);
		}
		ended += n;
	}
	CHECK_EQ(ended, 30);
	for (uint32_t imm = 0; imm < 30; imm++)
		CHECK_EQ(imm_value(t, imm), imm % 2);
	imm_table_destroy(t);
}

struct traffic {
	struct imm_table *table;
	unsigned n_fired; /* guarded by the table's lock */
};

static void *arrive_often(void *arg)
{
	struct traffic *traffic = arg;

	for (unsigned i = 0; i < 50000; i++) {
		imm_lock(traffic->table);
		traffic->n_fired += arrive(traffic->table, 0, imm_wire(i % 7, 1), 1) == 1;
		imm_unlock(traffic->table);
	}
	return NULL;
}

/* Two threads arrive, one expects: every arrival is in a value or has fired. */
static void test_threads(void)
{
	struct traffic traffic = { .table = create(16) };
	uint64_t values = 0;
	pthread_t threads[2];

	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, arrive_often, &traffic), 0);
	for (uint32_t i = 0; i < 30000; i++) {
		imm_lock(traffic.table);
		traffic.n_fired += expect(traffic.table, i % 7, 1) == 1;
		imm_unlock(traffic.table);
		if (i % 64 == 0)
			sched_yield();
	}
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	for (uint32_t imm = 0; imm < 7; imm++)
		values += imm_value(traffic.table, imm);
	CHECK(traffic.n_fired > 0);
	CHECK_EQ(values + traffic.n_fired, 100000);
	imm_table_destroy(traffic.table);
}

int main(void)
{
	test_arguments();
	test_exact();
	test_fresh_for_ever();
	test_bounds(1000, 1);
	test_bounds(1000, 1 << 18);
	test_bounds(4096, 1 << 16);
	test_free_half_arrived();
	test_tombstone();
	test_tombstone_half_arrived();
	test_tombstones_expire();
	test_settle();
	test_settle_freed();
	test_cancel();
	test_threads();
	printf("imm_counter: exact counts, bounds, free, settle, tombstones, cancel\n");
	return 0;
}
