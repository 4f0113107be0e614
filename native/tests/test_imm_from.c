/* SPDX-License-Identifier: MIT
 *
 * ImmCounters whose sources are named, and die. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"
#include "imm_calls.h"

#define MANY 256

/* Sources 1 and 2 of one write each, or more. */
static int expect_two(struct imm_table *t, uint32_t imm, uint64_t first, uint64_t second)
{
	const uint32_t sources[] = { 1, 2 };
	const uint64_t owes[] = { first, second };
	struct imm_from from = { .n = 2, .sources = sources, .owes = owes };
	struct pg_done done = { .cookie = imm };
	struct imm_fired fired;

	return imm_expect(t, imm, first + second, &from, imm + 100, &done, &fired, NULL);
}

static bool dies(struct imm_table *t, uint32_t source, struct imm_fired *fired)
{
	struct imm_fired more;
	unsigned n = imm_source_died(t, source, fired, 1);

	CHECK(n <= 1);
	CHECK_EQ(imm_source_died(t, source, &more, 1), 0);
	return n;
}

static void test_arguments(void)
{
	const uint32_t sources[] = { 1, 2, 1, IMM_SOURCES };
	const uint64_t owes[] = { 2, 3, 0, UINT64_MAX };
	struct imm_from from = { .n = 2, .sources = sources, .owes = owes };
	struct imm_table *t = create(4);
	struct pg_done done = { .cookie = 5 };
	struct imm_fired fired;
	struct pg_error err;

	CHECK_EQ(imm_expect(t, 5, 4, &from, 0, &done, &fired, &err), -EINVAL);
	CHECK(strstr(err.text, "owe 5"));
	from.n = 3;
	CHECK_EQ(imm_expect(t, 5, 5, &from, 0, &done, &fired, &err), -EINVAL);
	CHECK(strstr(err.text, "source 1 is named twice"));
	from.n = 4;
	from.sources = (const uint32_t[]){ 1, 2, 3, IMM_SOURCES };
	CHECK_EQ(imm_expect(t, 5, 5, &from, 0, &done, &fired, &err), -EINVAL);
	CHECK(strstr(err.text, "65536"));
	/* The sum is past the end of 64 bits, and 4 there. */
	from.sources = (const uint32_t[]){ 1, 2, 3, 4 };
	CHECK_EQ(imm_expect(t, 5, 4, &from, 0, &done, &fired, &err), -EINVAL);
	from.n = 0;
	CHECK_EQ(imm_expect(t, 5, 1, &from, 0, &done, &fired, &err), -EINVAL);
	CHECK_EQ(stats_of(t).claimed, 0);
	from.n = 2;
	CHECK_EQ(imm_expect(t, 5, 5, &from, 0, &done, &fired, &err), 0);
	CHECK_EQ(imm_expect(t, 5, 5, &from, 0, &done, &fired, &err), -EBUSY);
	imm_table_destroy(t);
}

/* One that still owes ends it, and one that does not owe any more or was not named does not. */
static void test_died(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(expect_two(t, 5, 2, 1), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 1), 0);
	CHECK(!dies(t, 2, &fired));
	CHECK(!dies(t, 3, &fired));
	CHECK(dies(t, 1, &fired));
	check_fired(&fired, 5, -EHOSTDOWN);
	CHECK_EQ(fired.source, 1);
	CHECK_EQ(fired.tag, 105);
	CHECK_EQ(fired.have, 2);
	CHECK_EQ(fired.want, 3);
	CHECK_EQ(imm_value(t, 5), 2);
	/* What it has counted stays, so that it owes one more only. */
	CHECK_EQ(expect_two(t, 5, 2, 2), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 1), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 1), 1);
	CHECK_EQ(stats_of(t).claimed, 0);
	/* Nobody is named any more once it has ended. */
	CHECK_EQ(expect(t, 5, 1), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK_EQ(imm_free(t, 5, 0, &fired), 1);
	CHECK_EQ(fired.tag, 0);
	CHECK_EQ(expect_two(t, 5, 1, 1), 0);
	CHECK_EQ(imm_cancel_all(t, &fired, 1), 1);
	CHECK_EQ(fired.tag, 105);
	CHECK_EQ(stats_of(t).claimed, 0);
	CHECK(!dies(t, 1, &fired));
	imm_table_destroy(t);
}

/* Shards of a write are not a write. */
static void test_died_half_arrived(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(expect_two(t, 5, 1, 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 2), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 2), 1), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK(dies(t, 2, &fired));
	imm_drop_source(t, 2);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(imm_value(t, 5), 1);
	imm_table_destroy(t);
}

static void test_died_many(void)
{
	struct imm_table *t = create(MANY);
	struct imm_fired fired[10];
	bool seen[MANY] = { false };
	unsigned ended = 0;
	unsigned n;

	for (uint32_t imm = 0; imm < MANY; imm++)
		CHECK_EQ(imm % 2 ? expect_two(t, imm, 1, 1) : expect(t, imm, 2), 0);
	while ((n = imm_source_died(t, 1, fired, 10))) {
		for (unsigned i = 0; i < n; i++) {
			CHECK(fired[i].imm % 2 && !seen[fired[i].imm]);
			seen[fired[i].imm] = true;
			check_fired(&fired[i], fired[i].imm, -EHOSTDOWN);
		}
		ended += n;
	}
	CHECK_EQ(ended, MANY / 2);
	CHECK_EQ(stats_of(t).claimed, MANY / 2);
	CHECK_EQ(stats_of(t).records, 0);
	imm_table_destroy(t);
}

/* Writes ahead of the next expectation are whose they are: each gives what it owed, and no more. */
static void test_ahead(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(expect_two(t, 5, 2, 2), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 3), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 1), 1); /* the total decides */
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 1), 0);
	CHECK_EQ(expect_two(t, 5, 1, 1), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK(dies(t, 2, &fired));
	/* Four of 1 and two of 2; half of each goes. */
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 3), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 2), 0);
	CHECK_EQ(expect_two(t, 5, 2, 1), 1);
	CHECK_EQ(expect_two(t, 5, 2, 2), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK(dies(t, 2, &fired));
	CHECK_EQ(imm_value(t, 5), 3);
	/* Of whom it does not matter takes all; then all owe again. */
	CHECK_EQ(expect(t, 5, 3), 1);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(expect_two(t, 5, 1, 1), 0);
	CHECK(dies(t, 1, &fired));
	imm_table_destroy(t);
}

/* What had reached n when it was armed has not failed. */
static void test_due(void)
{
	const uint32_t source = 1;
	const uint64_t owes = 2;
	struct imm_from from = { .n = 1, .sources = &source, .owes = &owes };
	struct pg_done done = { .cookie = 5 };
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 2), 0);
	CHECK_EQ(imm_expect(t, 5, 2, &from, 9, &done, NULL, NULL), 0);
	CHECK(!dies(t, 1, &fired));
	CHECK_EQ(imm_due(t, &fired), 1);
	check_fired(&fired, 5, 0);
	CHECK_EQ(fired.tag, 9);
	CHECK_EQ(imm_due(t, &fired), 0);
	/* Ended before anybody asked. */
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 2), 0);
	CHECK_EQ(imm_expect(t, 5, 2, &from, 9, &done, NULL, NULL), 0);
	CHECK_EQ(imm_free(t, 5, 1, &fired), 1);
	CHECK_EQ(imm_due(t, &fired), 0);
	CHECK_EQ(imm_expect(t, 5, 2, &from, 9, &done, NULL, NULL), 0);
	CHECK_EQ(imm_due(t, &fired), 0);
	CHECK(dies(t, 1, &fired));
	imm_table_destroy(t);
}

/* The number goes to another incarnation, who has counted nothing and owes nothing. */
static void test_drop(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 2), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 1), 0);
	CHECK_EQ(arrive(t, 2, imm_wire(5, 2), 1), 0);
	imm_drop_source(t, 1);
	imm_drop_source(t, 2);
	CHECK_EQ(stats_of(t).records, 0);
	CHECK_EQ(imm_value(t, 5), 3);
	CHECK_EQ(expect_two(t, 5, 2, 2), 0);
	CHECK(dies(t, 1, &fired));
	/* Satisfied and dropped: no debt is left, and what it counted is still good. */
	CHECK_EQ(expect_two(t, 5, 1, 4), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 1), 1), 0);
	imm_drop_source(t, 1);
	CHECK(!dies(t, 1, &fired));
	CHECK_EQ(arrive(t, 2, imm_wire(5, 1), 1), 1);
	CHECK_EQ(imm_value(t, 5), 0);
	CHECK_EQ(stats_of(t).claimed, 0);
	imm_table_destroy(t);
}

struct seen {
	unsigned n;
	uint64_t value;
	uint64_t want;
	uint32_t waiting_for;
};

static void see(void *arg, uint32_t imm, uint64_t value, uint64_t want, uint32_t waiting_for)
{
	struct seen *seen = arg;

	if (imm == 5)
		*seen = (struct seen){ seen->n, value, want, waiting_for };
	seen->n++;
}

/* Rounds of many to one, each its share, in changing order. */
static void test_round(void)
{
	struct imm_table *t = create(MANY);
	uint32_t sources[MANY];
	uint64_t owes[MANY];
	struct imm_from from = { .n = MANY, .sources = sources, .owes = owes };
	struct pg_done done = { .cookie = 5 };
	struct imm_fired fired;

	for (uint32_t i = 0; i < MANY; i++) {
		sources[i] = i;
		owes[i] = 1;
	}
	for (uint32_t round = 0; round < 100; round++) {
		CHECK_EQ(imm_expect(t, 5, MANY, &from, 0, &done, &fired, NULL), 0);
		CHECK_EQ(bury(t, round, 1 + round), round == 5 ? 1 : -ENOENT);
		if (round == 5)
			continue;
		for (uint32_t i = 0; i < MANY; i++) {
			struct seen seen = { 0 };

			imm_each(t, see, &seen);
			CHECK_EQ(seen.n, 1);
			CHECK_EQ(seen.value, i);
			CHECK_EQ(seen.want, MANY);
			CHECK_EQ(seen.waiting_for, MANY - i);
			CHECK_EQ(arrive(t, (i * 77 + round) % MANY, imm_wire(5, 1), 1),
				 i + 1 == MANY);
		}
		CHECK_EQ(stats_of(t).claimed, 0);
		CHECK_EQ(stats_of(t).records, 0);
	}
	imm_table_destroy(t);
}

static void test_bounds(void)
{
	const uint32_t sources[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
	const uint64_t owes[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 0 };
	struct imm_from from = { .n = 10, .sources = sources, .owes = owes };
	struct pg_done done = { .cookie = 5 };
	struct imm_table *t = create(2);
	struct imm_fired fired;
	struct pg_error err;

	/* Eight records are all there are; the ninth of its sources needs none. */
	CHECK_EQ(arrive(t, 7, imm_wire(6, 2), 1), 0);
	CHECK_EQ(bury(t, 5, 1), -ENOENT);
	CHECK_EQ(imm_expect(t, 5, 9, &from, 0, &done, &fired, &err), -ENOSPC);
	CHECK(strstr(err.text, "records"));
	CHECK_EQ(stats_of(t).claimed, 0);
	CHECK_EQ(stats_of(t).records, 1);
	CHECK_EQ(stats_of(t).tombstones, 1);
	imm_drop_source(t, 7);
	CHECK_EQ(imm_expect(t, 5, 9, &from, 0, &done, &fired, &err), 0);
	CHECK_EQ(stats_of(t).records, 8);
	CHECK_EQ(arrive(t, 10, imm_wire(5, 1), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 10, imm_wire(5, 2), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 10, imm_wire(6, 1), 1), 0);
	CHECK_EQ(settle(t, 10, imm_wire(6, 2), 1), -ENOSPC);
	for (uint32_t i = 1; i <= 9; i++)
		CHECK_EQ(arrive(t, i, imm_wire(5, 1), 1), i == 9);
	CHECK_EQ(stats_of(t).records, 0);
	/* Those that it has a place for already are none more. */
	for (uint32_t i = 1; i <= 9; i++)
		CHECK_EQ(arrive(t, i, imm_wire(5, 1), 1), 0);
	CHECK_EQ(stats_of(t).records, 8);
	CHECK_EQ(imm_expect(t, 5, 9, &from, 0, &done, &fired, &err), 1);
	CHECK_EQ(stats_of(t).records, 0);
	imm_table_destroy(t);
}

int main(void)
{
	test_arguments();
	test_died();
	test_died_half_arrived();
	test_died_many();
	test_ahead();
	test_due();
	test_drop();
	test_round();
	test_bounds();
	printf("imm_from: debts, deaths, what is ahead, dropped sources, bounds\n");
	return 0;
}
