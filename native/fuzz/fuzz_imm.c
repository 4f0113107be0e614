/* SPDX-License-Identifier: MIT
 *
 * The ImmCounters and their model, step by step as the input says; then what the model leaves out:
 * immediates and counts of any size, of which only the bounds are known. */
#include "fuzz.h"

#include "../tests/imm_steps.h"

static struct input in;

static unsigned pick(unsigned n)
{
	return (n > 256 ? input_u16(&in) : input_u8(&in)) % n;
}

static void try_model(uint32_t max)
{
	struct imm_table *t = NULL;
	struct model m;

	CHECK_EQ(imm_table_create(max, &t), 0);
	model_init(&m, max);
	while (input_more(&in))
		step(t, &m);
	imm_table_destroy(t);
}

static void count(void *arg, uint32_t imm, uint64_t value, uint64_t want, uint32_t waiting)
{
	CHECK(imm <= PG_IMM_MAX);
	CHECK(value || want || !waiting);
	++*(unsigned *)arg;
}

static void check_bounds(struct imm_table *t, uint32_t max)
{
	struct imm_stats stats;
	unsigned n = 0;

	imm_stats(t, &stats);
	imm_each(t, count, &n);
	CHECK_EQ(n, stats.claimed + stats.unclaimed);
	CHECK(stats.claimed <= max && stats.unclaimed <= max && stats.tombstones <= max);
	CHECK(stats.records <= RECORDS * max);
}

/* As a peer can have them come. */
static void try_anything(uint32_t max)
{
	struct imm_table *t = NULL;
	struct imm_fired fired;
	struct pg_done done = { 0 };

	CHECK_EQ(imm_table_create(max, &t), 0);
	while (input_more(&in)) {
		unsigned what = input_u8(&in);
		uint32_t source = what >> 4, wire = input_u32(&in), n = input_u32(&in);

		if (what % 4 == 0)
			imm_settle(t, source, wire, n, &fired);
		else if (what % 4 == 1)
			imm_expect(t, wire & PG_IMM_MAX, n, NULL, 0, &done, &fired, NULL);
		else
			imm_arrive(t, source, wire, n, &fired);
		if (what & 8)
			imm_forget_unclaimed(t, imm_hoarder(t, source));
		check_bounds(t, max);
	}
	imm_table_destroy(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned how;

	in = (struct input){ data, data + size };
	how = input_u8(&in);
	if (how & 1)
		try_anything(how / 2 % 8 + 1);
	else
		try_model(how / 2 % 16 + 1);
	return 0;
}
