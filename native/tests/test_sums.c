/* SPDX-License-Identifier: MIT
 *
 * Sums by value, against an array.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine/sums.h"

#define VALUES 3000

static int32_t model[VALUES];
static uint32_t kept;

static uint32_t value_of(unsigned i)
{
	/* some close together, some far apart, both ends among them */
	return i % 2 ? i * 0x10001u : UINT32_MAX - i;
}

static int keep(void *arg, uint32_t imm)
{
	(void)arg;
	return imm % 3 == kept;
}

static void check_all(const struct sums *s)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < VALUES; i++) {
		CHECK_EQ(sums_get(s, value_of(i)), model[i]);
		n += model[i] != 0;
	}
	CHECK_EQ(s->n, n);
}

static void take(struct sums *s)
{
	struct sum out[7];
	uint32_t n;

	while ((n = sums_take(s, out, 7, keep, NULL)))
		for (uint32_t k = 0; k < n; k++)
			CHECK(out[k].count && out[k].imm % 3 != kept);
	for (unsigned i = 0; i < VALUES; i++)
		if (value_of(i) % 3 != kept)
			model[i] = 0;
}

static void test_model(void)
{
	struct sums s = { 0 };
	uint64_t seed = 1;

	CHECK_EQ(sums_get(&s, 5), 0);
	for (unsigned round = 0; round < 40; round++) {
		for (unsigned k = 0; k < 4000; k++) {
			unsigned i = (unsigned)(check_random(&seed) % VALUES);
			int32_t by = (int32_t)(check_random(&seed) % 5) - 2;

			CHECK_EQ(sums_add(&s, value_of(i), by), 0);
			model[i] += by;
		}
		check_all(&s);
		kept = round % 4;
		if (kept < 3)
			take(&s);
		check_all(&s);
	}
	sums_clear(&s);
	CHECK_EQ(sums_get(&s, 5), 0);
}

static void test_bound(void)
{
	struct sums s = { 0 };

	for (uint32_t i = 0; i < SUMS_MAX; i++)
		CHECK_EQ(sums_add(&s, i, 1), 0);
	CHECK_EQ(sums_add(&s, SUMS_MAX, 1), -ENOSPC);
	CHECK_EQ(s.n, SUMS_MAX);
	for (uint32_t i = 0; i < SUMS_MAX; i++)
		CHECK_EQ(sums_get(&s, i), 1);
	sums_clear(&s);
}

int main(void)
{
	test_model();
	test_bound();
	return 0;
}
