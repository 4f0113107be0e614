/* SPDX-License-Identifier: MIT */
#include "engine/imm_table.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/imm_counter.h"
#include "util/random.h"

#define MAX_UNCLAIMED (1U << 24)
#define RECORDS_PER_UNCLAIMED 4
#define LINE 64

/* ---- Counters ------------------------------------------------------------------------------ */

void counter_move(struct imm_table *t, struct counter *c, enum state state)
{
	uint32_t node = state_node(counter_id(t, c));

	t->n[c->state]--;
	t->n[state]++;
	c->state = (uint8_t)state;
	list_remove(t, node);
	list_append(t, state == BURIED ? GRAVES : LIVE, node);
}

static void counter_remove(struct imm_table *t, struct counter *c)
{
	uint32_t id = counter_id(t, c);

	for (uint32_t i = 0; i < KEPT && c->kept; i++) {
		c->kept = t->kept[i] != id;
		if (!c->kept)
			t->kept[i] = 0;
	}
	t->n[c->state]--;
	list_remove(t, state_node(id));
	index_remove(&t->index, key_hash(t, c->key), id);
	c->key = 0;
	c->next_free = t->free;
	t->free = id;
}

/* Takes its place among the kept from the one that came first. */
static void keep(struct imm_table *t, struct counter *c)
{
	uint32_t *place = &t->kept[t->next_kept++ % KEPT];
	struct counter *first = *place ? &t->counters[*place] : NULL;

	if (first) {
		first->kept = false;
		if (counter_empty(first))
			counter_remove(t, first);
	}
	c->kept = true;
	*place = counter_id(t, c);
}

static void forget_kept(struct imm_table *t)
{
	for (uint32_t i = 0; i < KEPT; i++) {
		struct counter *c = &t->counters[t->kept[i]];

		if (t->kept[i] && counter_empty(c))
			counter_remove(t, c);
	}
}

void counter_tidy(struct imm_table *t, struct counter *c)
{
	if (!counter_empty(c))
		return;
	/* Tallies of a value that is gone. The source is likely to come back. */
	c->origin.first = (struct tally){ 0 };
	c->origin.nobody = 0;
	if (!c->kept)
		keep(t, c);
}

bool state_full(struct imm_table *t, enum state state)
{
	if (t->n[state] == t->max)
		forget_kept(t);
	return t->n[state] == t->max;
}

struct counter *counter_add(struct imm_table *t, uint32_t imm, enum state state)
{
	uint32_t id;

	if (state_full(t, state))
		return NULL;
	id = t->free;
	t->n[state]++;
	if (id)
		t->free = t->counters[id].next_free;
	else
		id = ++t->used;
	t->counters[id] = (struct counter){
		.key = imm + 1,
		.state = (uint8_t)state,
		.origin.source = NO_SOURCE,
	};
	index_add(&t->index, key_hash(t, imm + 1), id);
	list_append(t, state == BURIED ? GRAVES : LIVE, state_node(id));
	t->last = id;
	return &t->counters[id];
}

void counter_exhume(struct imm_table *t, struct counter *c, enum state state)
{
	origin_forget(&t->sources, &c->origin);
	if (c->origin.records && !state_full(t, state)) {
		counter_move(t, c, state);
		return;
	}
	origin_remove_records(&t->sources, &c->origin);
	counter_remove(t, c);
}

void counter_bury(struct imm_table *t, struct counter *c, uint32_t imm, uint64_t born)
{
	if (c)
		counter_move(t, c, BURIED);
	if (t->n[BURIED] + !c > t->max)
		counter_exhume(t, node_counter(t, t->nodes[GRAVES].next), UNCLAIMED);
	if (!c)
		c = counter_add(t, imm, BURIED);
	t->expectations[counter_id(t, c)].born = born;
}

/* ---- The table ----------------------------------------------------------------------------- */

/* The next part of the map; at first, with map NULL, only its length. Each begins a line. */
static void *carve(void *map, size_t *at, size_t n, size_t size)
{
	char *part = map ? (char *)map + *at : NULL;

	*at += (n * size + LINE - 1) / LINE * LINE;
	return part;
}

static uint32_t slots_for(uint32_t n)
{
	uint32_t slots = 2 * INDEX_BLOCK;

	while (slots < 2 * (uint64_t)n)
		slots *= 2;
	return slots;
}

static size_t lay_out(struct imm_table *t, void *map)
{
	uint32_t n_counters = N_STATES * t->max;
	uint32_t n_slots = slots_for(n_counters);
	uint32_t n_source_slots = slots_for(t->sources.max);
	size_t at = 0;

	t->counters = carve(map, &at, n_counters + 1, sizeof(*t->counters));
	t->index.slots = carve(map, &at, n_slots, sizeof(*t->index.slots));
	t->nodes = carve(map, &at, state_node(n_counters + 1), sizeof(*t->nodes));
	t->expectations = carve(map, &at, n_counters + 1, sizeof(*t->expectations));
	t->sources.records = carve(map, &at, t->sources.max + 1, sizeof(*t->sources.records));
	t->sources.index.slots = carve(map, &at, n_source_slots, sizeof(*t->index.slots));
	t->sources.stamps = carve(map, &at, IMM_SOURCES, sizeof(*t->sources.stamps));
	t->index.mask = n_slots - 1;
	t->sources.index.mask = n_source_slots - 1;
	return at;
}

static int map_table(struct imm_table *t)
{
	t->map_len = lay_out(t, NULL);
	t->map = mmap(NULL, t->map_len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->map == MAP_FAILED)
		return -errno;
	/* One counter in use shall cost a few pages, not a huge one; without them this fails:
	 * fine. */
	madvise(t->map, t->map_len, MADV_NOHUGEPAGE);
	lay_out(t, t->map);
	for (uint32_t list = LIVE; list < N_LISTS; list++)
		t->nodes[list] = (struct node){ .next = list, .prev = list };
	return 0;
}

int imm_table_create(uint32_t max_unclaimed, struct imm_table **table)
{
	struct imm_table *t;
	int rc;

	if (!max_unclaimed || max_unclaimed > MAX_UNCLAIMED)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	rc = random_bytes(&t->index.multiplier, sizeof(t->index.multiplier));
	if (rc)
		goto free_table;
	t->index.multiplier |= 1;
	t->sources.index.multiplier = t->index.multiplier;
	t->max = max_unclaimed;
	t->sources.max = RECORDS_PER_UNCLAIMED * max_unclaimed;
	rc = map_table(t);
	if (rc)
		goto free_table;
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
	sums_clear(&t->fires);
	munmap(t->map, t->map_len);
	free(t);
}
