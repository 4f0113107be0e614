/* SPDX-License-Identifier: MIT
 *
 * Counters and residues (half-arrived writes) lie in two pools that are mapped once, at their
 * bound, and reused last in, first out, so that the memory in use is the memory in the cache. An
 * index by open addressing leads from an immediate to its counter; the residues of a counter are a
 * short list. In all links 0 is none. */
#include "engine/imm_counter.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/shard.h"
#include "util/error.h"
#include "util/lock.h"
#include "util/random.h"

#define MAX_UNCLAIMED (1U << 24)
#define LINE 64
#define BLOCK (LINE / sizeof(struct slot)) /* as many successive immediates share a line */

struct counter {
	uint32_t key;      /* immediate + 1; 0: not in use */
	uint32_t residues; /* first of the list; of a free counter, the next free one */
	uint64_t value;
	uint64_t want; /* 0: no expectation */
	struct pg_done done;
	bool claimed;
	bool is_due; /* in the list of these; perhaps not any more in truth */
	uint32_t next_due;
};

static_assert(sizeof(struct counter) == LINE, "an arrival touches one line of its counter");

/* Twelfths of a source's writes that have arrived beyond the whole ones. */
struct residue {
	uint32_t source;
	uint32_t next;
	uint8_t parts;  /* 1..IMM_PARTS-1 */
	bool forgotten; /* by imm_free: the write that it completes does not count */
};

struct slot {
	uint32_t key; /* of the counter; 0: empty */
	uint32_t counter;
};

struct pool {
	uint32_t used; /* entries 1..used have been handed out at least once */
	uint32_t free; /* those that came back */
};

struct imm_table {
	struct lock lock;
	uint32_t last; /* the counter last looked up: arrivals come in runs */
	struct counter *counters;
	struct slot *slots; /* at most half of them taken */
	struct residue *residues;
	uint64_t multiplier; /* secret and odd: nobody can aim at one slot */
	uint32_t mask;
	uint32_t max; /* bound of each of these three */
	uint32_t n_claimed;
	uint32_t n_unclaimed;
	uint32_t n_residues;
	uint32_t due; /* first of the list */
	struct pool counter_pool;
	struct pool residue_pool;
	void *map;
	size_t map_len;
};

static struct imm_fired end_expectation(struct counter *c, int status)
{
	c->want = 0;
	return (struct imm_fired){ .imm = c->key - 1, .status = status, .done = c->done };
}

/* ---- Index --------------------------------------------------------------------------------- */

/* Blocks of immediates are scattered, so that strides of powers of two do not meet; the immediates
 * of one block stay in one line. */
static uint32_t slot_home(const struct imm_table *t, uint32_t key)
{
	uint64_t block = key / BLOCK * t->multiplier >> 32;

	return (uint32_t)(block * BLOCK + key % BLOCK) & t->mask;
}

static uint32_t slot_next(const struct imm_table *t, uint32_t i)
{
	return (i + 1) & t->mask;
}

/* The slot of key, or the empty one where it belongs. */
static uint32_t slot_find(const struct imm_table *t, uint32_t key)
{
	uint32_t i = slot_home(t, key);

	while (t->slots[i].key && t->slots[i].key != key)
		i = slot_next(t, i);
	return i;
}

/* Moves back what a lookup would no longer reach across the hole, instead of leaving a
 * tombstone. */
static void slot_remove(struct imm_table *t, uint32_t hole)
{
	for (uint32_t i = slot_next(t, hole); t->slots[i].key; i = slot_next(t, i)) {
		uint32_t from_home = (i - slot_home(t, t->slots[i].key)) & t->mask;
		uint32_t from_hole = (i - hole) & t->mask;

		if (from_home < from_hole)
			continue;
		t->slots[hole] = t->slots[i];
		hole = i;
	}
	t->slots[hole].key = 0;
}

/* ---- Counters ------------------------------------------------------------------------------ */

static struct counter *counter_find(struct imm_table *t, uint32_t imm)
{
	struct counter *c = &t->counters[t->last];
	const struct slot *slot;

	if (c->key == imm + 1)
		return c;
	slot = &t->slots[slot_find(t, imm + 1)];
	if (!slot->key)
		return NULL;
	t->last = slot->counter;
	return &t->counters[slot->counter];
}

/* NULL: the bound is reached. */
static struct counter *counter_add(struct imm_table *t, uint32_t imm, bool claimed)
{
	uint32_t *count = claimed ? &t->n_claimed : &t->n_unclaimed;
	uint32_t id = t->counter_pool.free;

	if (*count == t->max)
		return NULL;
	++*count;
	if (id)
		t->counter_pool.free = t->counters[id].residues;
	else
		id = ++t->counter_pool.used;
	t->slots[slot_find(t, imm + 1)] = (struct slot){ .key = imm + 1, .counter = id };
	t->counters[id] = (struct counter){ .key = imm + 1, .claimed = claimed };
	t->last = id;
	return &t->counters[id];
}

static bool counter_claim(struct imm_table *t, struct counter *c)
{
	if (c->claimed)
		return true;
	if (t->n_claimed == t->max)
		return false;
	t->n_unclaimed--;
	t->n_claimed++;
	c->claimed = true;
	return true;
}

/* Forgets a counter that cannot be told from one never seen. */
static void counter_tidy(struct imm_table *t, struct counter *c)
{
	if (c->value || c->want || c->residues || c->is_due)
		return;
	--*(c->claimed ? &t->n_claimed : &t->n_unclaimed);
	slot_remove(t, slot_find(t, c->key));
	c->key = 0;
	c->residues = t->counter_pool.free;
	t->counter_pool.free = (uint32_t)(c - t->counters);
}

/* To be called after every rise of the value. */
static int counter_fire(struct imm_table *t, struct counter *c, struct imm_fired *fired)
{
	int n = 0;

	if (c->want && c->value >= c->want) {
		c->value -= c->want;
		*fired = end_expectation(c, 0);
		n = 1;
	}
	counter_tidy(t, c);
	return n;
}

/* ---- Residues ------------------------------------------------------------------------------ */

/* The link that leads to source's residue, or to 0. */
static uint32_t *residue_find(struct imm_table *t, struct counter *c, uint32_t source)
{
	uint32_t *link = &c->residues;

	while (*link && t->residues[*link].source != source)
		link = &t->residues[*link].next;
	return link;
}

static void residue_add(struct imm_table *t, struct counter *c, uint32_t source, uint8_t parts)
{
	uint32_t id = t->residue_pool.free;

	if (id)
		t->residue_pool.free = t->residues[id].next;
	else
		id = ++t->residue_pool.used;
	t->n_residues++;
	/* In front, where the other shards of the write, which arrive soon, will find it. */
	t->residues[id] = (struct residue){ .source = source, .next = c->residues, .parts = parts };
	c->residues = id;
}

static void residue_remove(struct imm_table *t, uint32_t *link)
{
	uint32_t id = *link;

	*link = t->residues[id].next;
	t->residues[id].next = t->residue_pool.free;
	t->residue_pool.free = id;
	t->n_residues--;
}

static int arrive_split(struct imm_table *t, uint32_t source, uint32_t imm, uint64_t parts,
			struct imm_fired *fired)
{
	struct counter *c = counter_find(t, imm);
	uint32_t *link = c ? residue_find(t, c, source) : NULL;
	struct residue *r = link && *link ? &t->residues[*link] : NULL;
	uint8_t rest;

	if (r)
		parts += r->parts;
	rest = (uint8_t)(parts % IMM_PARTS);
	if (rest && !r && t->n_residues == t->max)
		return -ENOSPC;
	if (!c)
		c = counter_add(t, imm, false);
	if (!c)
		return -ENOSPC;
	c->value += parts / IMM_PARTS;
	if (r && r->forgotten && parts >= IMM_PARTS) {
		r->forgotten = false;
		c->value--;
	}
	if (rest && r)
		r->parts = rest;
	else if (rest)
		residue_add(t, c, source, rest);
	else if (r)
		residue_remove(t, link);
	return counter_fire(t, c, fired);
}

/* ---- The table ----------------------------------------------------------------------------- */

int imm_table_create(uint32_t max_unclaimed, struct imm_table **table)
{
	size_t n_counters = 2 * (size_t)max_unclaimed + 1; /* claimed ones too, and none */
	size_t n_residues = (size_t)max_unclaimed + 1;
	size_t n_slots = 2 * BLOCK;
	struct imm_table *t;
	int rc;

	if (!max_unclaimed || max_unclaimed > MAX_UNCLAIMED)
		return -EINVAL;
	while (n_slots < 4 * (size_t)max_unclaimed)
		n_slots *= 2;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	rc = random_bytes(&t->multiplier, sizeof(t->multiplier));
	if (rc)
		goto free_table;
	t->multiplier |= 1;
	t->map_len = n_counters * sizeof(*t->counters) + n_slots * sizeof(*t->slots) +
		     n_residues * sizeof(*t->residues);
	t->map = mmap(NULL, t->map_len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->map == MAP_FAILED) {
		rc = -errno;
		goto free_table;
	}
	/* One counter in use shall cost a few pages, not a huge one; without them this fails:
	 * fine. */
	madvise(t->map, t->map_len, MADV_NOHUGEPAGE);
	/* In this order each begins a line. */
	t->counters = t->map;
	t->slots = (struct slot *)(t->counters + n_counters);
	t->residues = (struct residue *)(t->slots + n_slots);
	t->mask = (uint32_t)n_slots - 1;
	t->max = max_unclaimed;
	*table = t;
	return 0;

free_table:
	free(t);
	return rc;
}

void imm_table_destroy(struct imm_table *t)
{
	if (!t)
		return;
	munmap(t->map, t->map_len);
	free(t);
}

void imm_lock(struct imm_table *t)
{
	lock_acquire(&t->lock);
}

void imm_unlock(struct imm_table *t)
{
	lock_release(&t->lock);
}

int imm_arrive(struct imm_table *t, uint32_t source, uint32_t wire_imm, uint32_t count,
	       struct imm_fired *fired)
{
	uint32_t imm = imm_wire_id(wire_imm);
	unsigned k = imm_wire_k(wire_imm);
	struct counter *c;

	if (!count)
		return 0;
	if (k > 1)
		return arrive_split(t, source, imm, (uint64_t)count * (IMM_PARTS / k), fired);
	c = counter_find(t, imm);
	if (!c)
		c = counter_add(t, imm, false);
	if (!c)
		return -ENOSPC;
	c->value += count;
	return counter_fire(t, c, fired);
}

int imm_expect(struct imm_table *t, uint32_t imm, uint64_t n, const struct pg_done *done,
	       struct imm_fired *fired, struct pg_error *err)
{
	struct counter *c;

	if (imm > PG_IMM_MAX)
		return error_set(err, -EINVAL, "immediate %#x is above %#x", imm, PG_IMM_MAX);
	if (!n)
		return error_set(err, -EINVAL, "cannot expect 0 writes with immediate %#x", imm);
	c = counter_find(t, imm);
	if (c && c->want)
		return error_set(err, -EBUSY,
				 "%ju of %ju writes with immediate %#x are expected already",
				 (uintmax_t)c->value, (uintmax_t)c->want, imm);
	if (c ? !counter_claim(t, c) : !(c = counter_add(t, imm, true)))
		return error_set(err, -ENOSPC, "immediate %#x: %u counters are in use", imm,
				 t->max);
	c->want = n;
	c->done = *done;
	if (fired)
		return counter_fire(t, c, fired);
	if (c->value >= n && !c->is_due) {
		c->is_due = true;
		c->next_due = t->due;
		t->due = (uint32_t)(c - t->counters);
	}
	return 0;
}

int imm_due(struct imm_table *t, struct imm_fired *fired)
{
	while (t->due) {
		struct counter *c = &t->counters[t->due];

		t->due = c->next_due;
		c->is_due = false;
		if (counter_fire(t, c, fired))
			return 1;
	}
	return 0;
}

uint64_t imm_value(struct imm_table *t, uint32_t imm)
{
	struct counter *c = imm > PG_IMM_MAX ? NULL : counter_find(t, imm);

	if (!c)
		return 0;
	counter_claim(t, c); /* past the bound it stays unclaimed, and no worse */
	return c->value;
}

int imm_free(struct imm_table *t, uint32_t imm, struct imm_fired *fired)
{
	struct counter *c = imm > PG_IMM_MAX ? NULL : counter_find(t, imm);
	int rc = -ENOENT;

	if (!c)
		return -ENOENT;
	for (uint32_t id = c->residues; id; id = t->residues[id].next) {
		if (!t->residues[id].forgotten)
			rc = 0;
		t->residues[id].forgotten = true;
	}
	if (c->value)
		rc = 0;
	c->value = 0;
	if (c->want) {
		*fired = end_expectation(c, -ECANCELED);
		rc = 1;
	}
	counter_tidy(t, c);
	return rc;
}

void imm_drop_source(struct imm_table *t, uint32_t source)
{
	for (uint32_t id = 1; id <= t->counter_pool.used && t->n_residues; id++) {
		struct counter *c = &t->counters[id];
		uint32_t *link;

		if (!c->key || !c->residues)
			continue;
		link = residue_find(t, c, source);
		if (*link)
			residue_remove(t, link);
		counter_tidy(t, c);
	}
}

unsigned imm_cancel_all(struct imm_table *t, struct imm_fired *fired, unsigned max)
{
	unsigned n = 0;

	for (uint32_t id = 1; id <= t->counter_pool.used && n < max; id++) {
		struct counter *c = &t->counters[id];

		if (!c->key || !c->want)
			continue;
		fired[n++] = end_expectation(c, -ECANCELED);
		counter_tidy(t, c);
	}
	return n;
}
