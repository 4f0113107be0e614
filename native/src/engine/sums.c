/* SPDX-License-Identifier: MIT */
#include "engine/sums.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/random.h"

#define FIRST_SLOTS 256

static uint32_t home(const struct sums *s, uint32_t imm)
{
	return (uint32_t)((imm + 1) * s->multiplier >> 32) & s->mask;
}

/* Where it is, or would be put. */
static struct sum *find(const struct sums *s, uint32_t imm)
{
	uint32_t i = home(s, imm);

	while (s->slots[i].count && s->slots[i].imm != imm)
		i = (i + 1) & s->mask;
	return &s->slots[i];
}

static int grow(struct sums *s)
{
	struct sums bigger = { .multiplier = s->multiplier,
			       .mask = s->slots ? 2 * s->mask + 1 : FIRST_SLOTS - 1,
			       .n = s->n };
	int rc;

	if (!s->slots) {
		rc = random_bytes(&bigger.multiplier, sizeof(bigger.multiplier));
		if (rc)
			return rc;
		bigger.multiplier |= 1;
	}
	bigger.slots = calloc(bigger.mask + 1ul, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; s->slots && i <= s->mask; i++)
		if (s->slots[i].count)
			*find(&bigger, s->slots[i].imm) = s->slots[i];
	free(s->slots);
	*s = bigger;
	return 0;
}

/* Moves back what a lookup would no longer reach across the hole. */
static void empty(struct sums *s, struct sum *sum)
{
	uint32_t hole = (uint32_t)(sum - s->slots);

	for (uint32_t i = (hole + 1) & s->mask; s->slots[i].count; i = (i + 1) & s->mask) {
		uint32_t from_home = (i - home(s, s->slots[i].imm)) & s->mask;
		uint32_t from_hole = (i - hole) & s->mask;

		if (from_home < from_hole)
			continue;
		s->slots[hole] = s->slots[i];
		hole = i;
	}
	s->slots[hole].count = 0;
	s->n--;
}

void sums_clear(struct sums *s)
{
	free(s->slots);
	memset(s, 0, sizeof(*s));
}

int sums_reserve(struct sums *s, uint32_t n)
{
	if (s->n + n > SUMS_MAX)
		return -ENOSPC;
	while (!s->slots || s->n + n > s->mask / 2) {
		int rc = grow(s);

		if (rc)
			return rc;
	}
	return 0;
}

int sums_add(struct sums *s, uint32_t imm, int32_t count)
{
	struct sum *sum;
	int rc = sums_get(s, imm) ? 0 : sums_reserve(s, 1);

	if (rc)
		return rc;
	sum = find(s, imm);
	if (!sum->count) {
		*sum = (struct sum){ .imm = imm };
		s->n += count != 0;
	}
	/* Unsigned: the two sides' counts are compared as differences. */
	sum->count = (int32_t)((uint32_t)sum->count + (uint32_t)count);
	if (!sum->count && count)
		empty(s, sum);
	return 0;
}

struct sum *sums_find(const struct sums *s, uint32_t imm)
{
	struct sum *sum = s->slots ? find(s, imm) : NULL;

	return sum && sum->count ? sum : NULL;
}

int32_t sums_get(const struct sums *s, uint32_t imm)
{
	const struct sum *sum = sums_find(s, imm);

	return sum ? sum->count : 0;
}

uint32_t sums_take(struct sums *s, struct sum *out, uint32_t max,
		   int (*keep)(void *arg, uint32_t imm), void *arg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; s->slots && i <= s->mask && n < max;) {
		struct sum *sum = &s->slots[i];

		/* What is moved back into an emptied slot is looked at next. */
		if (sum->count && !keep(arg, sum->imm)) {
			out[n++] = *sum;
			empty(s, sum);
		} else {
			i++;
		}
	}
	return n;
}
