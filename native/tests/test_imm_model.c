/* SPDX-License-Identifier: MIT
 *
 * Random steps of the ImmCounters and of their model, compared after each. */
#include <errno.h>
#include <stdbool.h>

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"
#include "imm_steps.h"

#define MODEL_OPS 200000U

static uint64_t seed;

static unsigned pick(unsigned n)
{
	return (unsigned)(check_random(&seed) % n);
}

static void test_model(uint32_t max, bool meets_bound)
{
	struct imm_table *t = NULL;
	struct model m;

	CHECK_EQ(imm_table_create(max, &t), 0);
	model_init(&m, max);
	while (m.step < MODEL_OPS)
		step(t, &m);
	CHECK(m.n_fired > 500);
	CHECK(m.n_died > 20);
	CHECK(m.n_due > 20);
	CHECK(m.swallowed > 1000);
	CHECK(meets_bound == (m.n_full > 100));
	CHECK(meets_bound == (m.n_evicted > 50));
	imm_table_destroy(t);
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 42;

	printf("seed %ju\n", (uintmax_t)first);
	seed = first;
	test_model(1, true);
	test_model(4, true);
	test_model(IMMS / 3, true);
	test_model(IMMS * SOURCES, false);
	printf("imm_model: 4 x %u steps against a model\n", MODEL_OPS);
	return 0;
}
