/* SPDX-License-Identifier: MIT */
#include "engine/imm_source.h"

#include "engine/imm_counter.h"
#include "engine/shard.h"

/* ---- Records ------------------------------------------------------------------------------- */

/* The sources of one counter lie side by side; one source of many counters does not pile up. */
static uint32_t record_hash(const struct sources *s, uint32_t counter, uint32_t source)
{
	uint64_t block = (uint64_t)counter * (IMM_SOURCES / INDEX_BLOCK) + source / INDEX_BLOCK;

	return index_hash(&s->index, block, source + counter);
}

struct record *record_find(struct sources *s, uint32_t counter, const struct origin *o,
			   uint32_t source)
{
	uint32_t hash, i;

	if (!o->records)
		return NULL;
	hash = record_hash(s, counter, source);
	for (i = index_home(&s->index, hash); s->index.slots[i].id; i = index_next(&s->index, i)) {
		struct record *r = &s->records[s->index.slots[i].id];

		if (s->index.slots[i].hash == hash && r->counter == counter && r->source == source)
			return r;
	}
	return NULL;
}

struct record *record_add(struct sources *s, uint32_t counter, struct origin *o, uint32_t source)
{
	uint32_t id = s->free;

	if (id)
		s->free = s->records[id].next;
	else
		id = ++s->used;
	s->n++;
	s->records[id] =
		(struct record){ .counter = counter, .source = source, .next = o->records };
	if (o->records)
		s->records[o->records].prev = id;
	o->records = id;
	index_add(&s->index, record_hash(s, counter, source), id);
	return &s->records[id];
}

static void record_remove(struct sources *s, struct origin *o, struct record *r)
{
	uint32_t id = (uint32_t)(r - s->records);

	if (r->prev)
		s->records[r->prev].next = r->next;
	else
		o->records = r->next;
	if (r->next)
		s->records[r->next].prev = r->prev;
	index_remove(&s->index, record_hash(s, r->counter, r->source), id);
	r->next = s->free;
	s->free = id;
	s->n--;
}

uint64_t record_add_parts(struct record *r, int64_t parts)
{
	uint64_t whole;

	r->parts += parts;
	if (r->parts <= 0)
		r->forgotten = false; /* that write was taken back */
	if (r->parts < IMM_PARTS)
		return 0;
	whole = (uint64_t)(r->parts / IMM_PARTS - r->forgotten);
	r->parts %= IMM_PARTS;
	r->forgotten = false;
	return whole;
}

static bool tally_empty(const struct tally *tally)
{
	return !tally->count && !tally->owes;
}

void record_tidy(struct sources *s, struct origin *o, struct record *r)
{
	if (tally_empty(&r->tally) && !r->parts)
		record_remove(s, o, r);
}

/* ---- Tallies ------------------------------------------------------------------------------- */

struct tally *origin_find(struct sources *s, uint32_t counter, struct origin *o, uint32_t source)
{
	struct record *r;

	if (o->source == source)
		return &o->first;
	r = record_find(s, counter, o, source);
	return r ? &r->tally : NULL;
}

/* Whether the place in the counter itself is nobody's, or only remembers whose it was. */
static bool first_is_free(const struct origin *o)
{
	return o->source == NO_SOURCE || tally_empty(&o->first);
}

struct tally *origin_get(struct sources *s, uint32_t counter, struct origin *o, uint32_t source)
{
	struct record *r;

	if (o->source == source)
		return &o->first;
	r = record_find(s, counter, o, source);
	if (r && !tally_empty(&r->tally))
		return &r->tally;
	if (first_is_free(o)) {
		o->source = source;
		return &o->first;
	}
	if (!r && !sources_full(s))
		r = record_add(s, counter, o, source);
	return r ? &r->tally : NULL;
}

uint32_t sources_check(struct sources *s, uint32_t n, const uint32_t *sources)
{
	s->stamp++;
	for (uint32_t i = 0; i < n; i++) {
		if (sources[i] >= IMM_SOURCES || s->stamps[sources[i]] == s->stamp)
			return i;
		s->stamps[sources[i]] = s->stamp;
	}
	return n;
}

bool origin_has_room(struct sources *s, uint32_t counter, const struct origin *o,
		     uint32_t n_sources, const uint32_t *sources, const uint64_t *owes)
{
	bool has_place = !o || first_is_free(o);
	uint32_t room = s->max - s->n;
	uint32_t needs = 0;

	if (n_sources <= room)
		return true;
	for (uint32_t i = 0; i < n_sources; i++) {
		const struct record *r = o ? record_find(s, counter, o, sources[i]) : NULL;

		if (!owes[i] || (r && !tally_empty(&r->tally)) ||
		    (o && o->source == sources[i] && !first_is_free(o)))
			continue;
		if (!has_place)
			needs += !r;
		has_place = false;
	}
	return needs <= room;
}

static void origin_tidy(struct origin *o)
{
	if (tally_empty(&o->first))
		o->source = NO_SOURCE;
}

static uint64_t take(uint64_t *from, uint64_t n)
{
	if (n > *from)
		n = *from;
	*from -= n;
	return n;
}

static uint64_t tally_pay(struct tally *tally)
{
	uint64_t owes = tally->owes;

	tally->owes = 0;
	return take(&tally->count, owes);
}

void origin_take(struct sources *s, struct origin *o, uint64_t n, bool named)
{
	uint32_t id;

	if (named) {
		n -= tally_pay(&o->first);
		for (id = o->records; id; id = s->records[id].next)
			n -= tally_pay(&s->records[id].tally);
	}
	n -= take(&o->nobody, n);
	/* Records first: their room is limited. If sources were named, all are looked at. */
	for (id = o->records; id && (n || named);) {
		struct record *r = &s->records[id];

		id = r->next;
		n -= take(&r->tally.count, n);
		record_tidy(s, o, r);
	}
	take(&o->first.count, n);
	origin_tidy(o);
}

void origin_forgive(struct sources *s, struct origin *o)
{
	o->first.owes = 0;
	origin_tidy(o);
	for (uint32_t id = o->records; id;) {
		struct record *r = &s->records[id];

		id = r->next;
		r->tally.owes = 0;
		record_tidy(s, o, r);
	}
}

bool origin_forget(struct sources *s, struct origin *o)
{
	bool any = false;

	o->nobody = 0;
	o->first = (struct tally){ 0 };
	origin_tidy(o);
	for (uint32_t id = o->records; id;) {
		struct record *r = &s->records[id];

		id = r->next;
		r->tally = (struct tally){ 0 };
		any |= r->parts > 0 && !r->forgotten;
		r->forgotten = r->parts > 0;
		record_tidy(s, o, r);
	}
	return any;
}

void origin_drop(struct sources *s, uint32_t counter, struct origin *o, uint32_t source)
{
	struct record *r = record_find(s, counter, o, source);

	if (o->source == source) {
		o->nobody += o->first.count;
		o->first = (struct tally){ 0 };
		origin_tidy(o);
	}
	if (r) {
		o->nobody += r->tally.count;
		record_remove(s, o, r);
	}
}

void origin_remove_records(struct sources *s, struct origin *o)
{
	while (o->records)
		record_remove(s, o, &s->records[o->records]);
}

uint32_t origin_owing(const struct sources *s, const struct origin *o)
{
	uint32_t n = o->first.owes > o->first.count;

	for (uint32_t id = o->records; id; id = s->records[id].next)
		n += s->records[id].tally.owes > s->records[id].tally.count;
	return n;
}

uint32_t origin_any(const struct sources *s, const struct origin *o)
{
	if (!first_is_free(o))
		return o->source;
	return o->records ? s->records[o->records].source : NO_SOURCE;
}
