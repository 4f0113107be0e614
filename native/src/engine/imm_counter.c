/* SPDX-License-Identifier: MIT */
#include "engine/imm_counter.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "engine/imm_source.h"
#include "engine/imm_table.h"
#include "engine/shard.h"
#include "util/error.h"
#include "util/lock.h"

/* ---- Expectations -------------------------------------------------------------------------- */

/* To be called before what it waited for is subtracted. */
static void expectation_end(struct imm_table *t, struct counter *c, int status,
			    struct imm_fired *fired)
{
	uint32_t id = counter_id(t, c);

	fired->imm = c->key - 1;
	fired->status = status;
	fired->done = t->expectations[id].done;
	fired->tag = t->expectations[id].tag;
	fired->have = c->value;
	fired->want = c->want;
	fired->source = NO_SOURCE;
	if (c->listed)
		list_remove(t, wait_node(id));
	c->listed = false;
	c->want = 0;
}

static void expectation_abort(struct imm_table *t, struct counter *c, int status,
			      struct imm_fired *fired)
{
	expectation_end(t, c, status, fired);
	if (c->named)
		origin_forgive(&t->sources, &c->origin);
}

/* On failure the last one of another time is remembered, and less is known to have been taken. */
static void note_fire(struct imm_table *t, uint32_t imm)
{
	t->fire += t->fire == UINT32_MAX ? 2 : 1;
	sums_add(&t->fires, imm, (int32_t)(t->fire - imm_last_fire(t, imm)));
}

/* To be called after every rise of the value. */
static int counter_fire(struct imm_table *t, struct counter *c, struct imm_fired *fired)
{
	if (!c->want || c->value < c->want)
		return 0;
	expectation_end(t, c, 0, fired);
	if (t->tracks_fires)
		note_fire(t, fired->imm);
	c->value -= fired->want;
	/* Else nothing remains that a tally could be of. */
	if (c->value || c->origin.records)
		origin_take(&t->sources, &c->origin, fired->want, c->named);
	counter_tidy(t, c);
	return 1;
}

static void expectation_list(struct imm_table *t, struct counter *c, enum list list)
{
	c->listed = true;
	list_append(t, list, wait_node(counter_id(t, c)));
}

void imm_lock(struct imm_table *t)
{
	lock_acquire(&t->lock);
}

void imm_unlock(struct imm_table *t)
{
	lock_release(&t->lock);
}

/* ---- Fires --------------------------------------------------------------------------------- */

void imm_track_fires(struct imm_table *t)
{
	t->tracks_fires = true;
}

uint32_t imm_last_fire(const struct imm_table *t, uint32_t imm)
{
	return (uint32_t)sums_get(&t->fires, imm);
}

bool imm_fires_full(const struct imm_table *t)
{
	return t->fires.n > SUMS_MAX / 2;
}

void imm_forget_fires(struct imm_table *t)
{
	sums_clear(&t->fires);
}

/* ---- Arrivals ------------------------------------------------------------------------------ */

/* The counter that an arrival is for: found, or one that nobody asked for. NULL: no room. */
static struct counter *arriving(struct imm_table *t, struct counter *c, uint32_t imm)
{
	if (c && !counter_empty(c))
		return c;
	if (state_full(t, UNCLAIMED))
		return NULL;
	c = counter_find(t, imm); /* that may have made room by forgetting this one */
	if (!c)
		return counter_add(t, imm, UNCLAIMED);
	if (c->state != UNCLAIMED)
		counter_move(t, c, UNCLAIMED);
	return c;
}

static int arrive_whole(struct imm_table *t, struct counter *c, uint32_t source, uint32_t imm,
			uint64_t n, struct imm_fired *fired)
{
	struct tally *tally;

	c = arriving(t, c, imm);
	if (!c)
		return -ENOSPC;
	if (c->state == BURIED)
		return 0;
	tally = origin_get(&t->sources, counter_id(t, c), &c->origin, source);
	if (!tally)
		return -ENOSPC;
	tally->count += n;
	c->value += n;
	return counter_fire(t, c, fired);
}

/* Shards of several writes, none of which came whole, may have made one until they were settled. What
 * has fired meanwhile stays, and the source's next shards make up for it. */
static void take_back(struct imm_table *t, struct counter *c, uint32_t source, struct record *r)
{
	struct tally *tally = origin_find(&t->sources, counter_id(t, c), &c->origin, source);

	while (r->parts <= -IMM_PARTS && tally && tally->count) {
		r->parts += IMM_PARTS;
		tally->count--;
		c->value--;
	}
}

/* Below 0: settled. */
static int arrive_parts(struct imm_table *t, struct counter *c, uint32_t source, uint32_t imm,
			int64_t parts, struct imm_fired *fired)
{
	struct sources *s = &t->sources;
	struct record *r = c ? record_find(s, counter_id(t, c), &c->origin, source) : NULL;
	uint64_t n;
	int rc;

	if (!r && parts % IMM_PARTS == 0)
		return arrive_whole(t, c, source, imm, (uint64_t)parts / IMM_PARTS, fired);
	if (!r && sources_full(s))
		return -ENOSPC;
	c = arriving(t, c, imm);
	if (!c)
		return -ENOSPC;
	if (!r)
		r = record_add(s, counter_id(t, c), &c->origin, source);
	n = record_add_parts(r, parts);
	if (n && c->state != BURIED) {
		origin_get(s, counter_id(t, c), &c->origin, source)->count += n;
		c->value += n;
	}
	take_back(t, c, source, r);
	record_tidy(s, &c->origin, r);
	rc = counter_fire(t, c, fired);
	if (!rc)
		counter_tidy(t, c);
	return rc;
}

int imm_arrive(struct imm_table *t, uint32_t source, uint32_t wire_imm, uint32_t count,
	       struct imm_fired *fired)
{
	uint32_t imm = imm_wire_id(wire_imm);
	unsigned k = imm_wire_k(wire_imm);
	struct counter *c = counter_find(t, imm);
	int rc;

	if (!count)
		return 0;
	/* Never true of a tombstone, nor of one that is only kept. */
	if (k == 1 && c && c->origin.source == source && (c->want || c->value)) {
		c->origin.first.count += count;
		c->value += count;
		return counter_fire(t, c, fired);
	}
	if (k == 1)
		rc = arrive_whole(t, c, source, imm, count, fired);
	else
		rc = arrive_parts(t, c, source, imm, (int64_t)count * (IMM_PARTS / k), fired);
	if (!rc && c && c->state == BURIED)
		t->swallowed += count;
	return rc;
}

int imm_settle(struct imm_table *t, uint32_t source, uint32_t wire_imm, unsigned shards,
	       struct imm_fired *fired)
{
	uint32_t imm = imm_wire_id(wire_imm);
	unsigned k = imm_wire_k(wire_imm);

	if (!shards || shards >= k)
		return -EINVAL;
	return arrive_parts(t, counter_find(t, imm), source, imm,
			    -(int64_t)(shards * (IMM_PARTS / k)), fired);
}

/* ---- Who waits ----------------------------------------------------------------------------- */

static int check_from(struct imm_table *t, uint32_t imm, uint64_t n, const struct imm_from *from,
		      struct pg_error *err)
{
	uint32_t i = sources_check(&t->sources, from->n, from->sources);
	uint64_t sum = 0;

	if (i < from->n)
		return error_set(err, -EINVAL, "immediate %#x: source %u is %s", imm,
				 from->sources[i],
				 from->sources[i] < IMM_SOURCES ? "named twice" : "impossible");
	for (i = 0; i < from->n; i++) {
		if (__builtin_add_overflow(sum, from->owes[i], &sum))
			sum = UINT64_MAX;
	}
	if (sum != n)
		return error_set(err, -EINVAL,
				 "%ju writes with immediate %#x cannot be expected of %u peers "
				 "who owe %ju",
				 (uintmax_t)n, imm, from->n, (uintmax_t)sum);
	return 0;
}

/* The counter to arm: as it is, dug up, or new. */
static int counter_claim(struct imm_table *t, uint32_t imm, const struct imm_from *from,
			 struct counter **claimed, struct pg_error *err)
{
	struct counter *c = counter_find(t, imm);
	struct sources *s = &t->sources;

	if (c && c->want)
		return error_set(err, -EBUSY,
				 "%ju of %ju writes with immediate %#x are expected already",
				 (uintmax_t)c->value, (uintmax_t)c->want, imm);
	if (!(c && c->state == CLAIMED)) {
		if (state_full(t, CLAIMED))
			return error_set(err, -ENOSPC, "immediate %#x: %u counters are in use", imm,
					 t->max);
		c = counter_find(t, imm); /* that may have made room by forgetting this one */
	}
	if (from && !origin_has_room(s, c ? counter_id(t, c) : 0, c ? &c->origin : NULL, from->n,
				     from->sources, from->owes))
		return error_set(err, -ENOSPC, "immediate %#x: %u of %u records are in use", imm,
				 s->n, s->max);
	if (c && c->state == BURIED)
		origin_forget(s, &c->origin);
	if (!c)
		c = counter_add(t, imm, CLAIMED);
	else if (c->state != CLAIMED)
		counter_move(t, c, CLAIMED);
	*claimed = c;
	return 0;
}

static void set_owes(struct imm_table *t, struct counter *c, const struct imm_from *from)
{
	uint32_t id = counter_id(t, c);

	for (uint32_t i = 0; i < from->n; i++) {
		if (!from->owes[i])
			continue;
		origin_get(&t->sources, id, &c->origin, from->sources[i])->owes = from->owes[i];
	}
}

int imm_expect(struct imm_table *t, uint32_t imm, uint64_t n, const struct imm_from *from,
	       uint64_t tag, const struct pg_done *done, struct imm_fired *fired,
	       struct pg_error *err)
{
	struct counter *c = NULL;
	struct expectation *e;
	int rc = 0;

	if (imm > PG_IMM_MAX)
		return error_set(err, -EINVAL, "immediate %#x is above %#x", imm, PG_IMM_MAX);
	if (!n)
		return error_set(err, -EINVAL, "cannot expect 0 writes with immediate %#x", imm);
	if (from)
		rc = check_from(t, imm, n, from, err);
	if (!rc)
		rc = counter_claim(t, imm, from, &c, err);
	if (rc)
		return rc;
	c->want = n;
	c->named = from;
	e = &t->expectations[counter_id(t, c)];
	e->done = *done;
	e->tag = tag;
	if (from)
		set_owes(t, c, from);
	if (c->value < n && from)
		expectation_list(t, c, FROM);
	else if (c->value >= n && !fired)
		expectation_list(t, c, DUE);
	return fired ? counter_fire(t, c, fired) : 0;
}

int imm_due(struct imm_table *t, struct imm_fired *fired)
{
	uint32_t node = t->nodes[DUE].next;

	return node == DUE ? 0 : counter_fire(t, node_counter(t, node), fired);
}

uint64_t imm_value(struct imm_table *t, uint32_t imm)
{
	struct counter *c = imm > PG_IMM_MAX ? NULL : counter_find(t, imm);
	enum state state;

	if (!c || counter_empty(c))
		return 0;
	state = state_full(t, CLAIMED) ? UNCLAIMED : CLAIMED;
	if (c->state == BURIED) {
		counter_exhume(t, c, state);
		return 0;
	}
	/* Past the bound it stays unclaimed, and no worse. */
	if (c->state == UNCLAIMED && state == CLAIMED)
		counter_move(t, c, CLAIMED);
	return c->value;
}

static int counter_reset(struct imm_table *t, struct counter *c, struct imm_fired *fired)
{
	bool had_value = c->value;
	bool had_parts;
	bool ended = c->want;

	if (ended)
		expectation_abort(t, c, -ECANCELED, fired);
	had_parts = origin_forget(&t->sources, &c->origin);
	c->value = 0;
	if (ended)
		return 1;
	return had_value || had_parts ? 0 : -ENOENT;
}

int imm_free(struct imm_table *t, uint32_t imm, uint64_t born, struct imm_fired *fired)
{
	struct counter *c;
	int rc = -ENOENT;

	if (imm > PG_IMM_MAX)
		return -ENOENT;
	c = counter_find(t, imm);
	if (c && c->state != BURIED)
		rc = counter_reset(t, c, fired);
	if (born)
		counter_bury(t, c, imm, born);
	else if (c && c->state == BURIED)
		counter_exhume(t, c, UNCLAIMED);
	else if (c)
		counter_tidy(t, c);
	return rc;
}

void imm_tombstones_expire(struct imm_table *t, uint64_t oldest)
{
	while (t->n[BURIED]) {
		struct counter *c = node_counter(t, t->nodes[GRAVES].next);

		if (t->expectations[counter_id(t, c)].born >= oldest)
			return;
		counter_exhume(t, c, UNCLAIMED);
	}
}

unsigned imm_source_died(struct imm_table *t, uint32_t source, struct imm_fired *fired,
			 unsigned max)
{
	uint32_t node = t->nodes[FROM].next;
	unsigned n = 0;

	while (node != FROM && n < max) {
		struct counter *c = node_counter(t, node);
		struct tally *tally =
			origin_find(&t->sources, counter_id(t, c), &c->origin, source);

		node = t->nodes[node].next;
		if (!tally || tally->count >= tally->owes)
			continue;
		expectation_abort(t, c, -EHOSTDOWN, &fired[n]);
		fired[n++].source = source;
		counter_tidy(t, c);
	}
	return n;
}

static void drop_in(struct imm_table *t, enum list list, uint32_t source)
{
	uint32_t node = t->nodes[list].next;

	while (node != list) {
		struct counter *c = node_counter(t, node);

		node = t->nodes[node].next;
		origin_drop(&t->sources, counter_id(t, c), &c->origin, source);
		counter_tidy(t, c);
	}
}

void imm_drop_source(struct imm_table *t, uint32_t source)
{
	drop_in(t, LIVE, source);
	drop_in(t, GRAVES, source);
}

uint32_t imm_hoarder(struct imm_table *t, uint32_t source)
{
	uint32_t *made = calloc(IMM_SOURCES, sizeof(*made)), most = source;

	if (!made)
		return source;
	made[source] = 1;
	for (uint32_t node = t->nodes[LIVE].next; node != LIVE; node = t->nodes[node].next) {
		const struct counter *c = node_counter(t, node);
		uint32_t maker = origin_any(&t->sources, &c->origin);

		if (c->state == UNCLAIMED && maker < IMM_SOURCES && ++made[maker] > made[most])
			most = maker;
	}
	free(made);
	return most;
}

void imm_forget_unclaimed(struct imm_table *t, uint32_t source)
{
	uint32_t node = t->nodes[LIVE].next;

	while (node != LIVE) {
		struct counter *c = node_counter(t, node);

		node = t->nodes[node].next;
		if (c->state != UNCLAIMED || origin_any(&t->sources, &c->origin) != source)
			continue;
		origin_forget(&t->sources, &c->origin);
		origin_remove_records(&t->sources, &c->origin);
		c->value = 0;
		counter_tidy(t, c);
	}
}

unsigned imm_cancel_all(struct imm_table *t, struct imm_fired *fired, unsigned max)
{
	uint32_t node = t->nodes[LIVE].next;
	unsigned n = 0;

	while (node != LIVE && n < max) {
		struct counter *c = node_counter(t, node);

		node = t->nodes[node].next;
		if (!c->want)
			continue;
		expectation_abort(t, c, -ECANCELED, &fired[n++]);
		counter_tidy(t, c);
	}
	return n;
}

void imm_each(struct imm_table *t,
	      void (*fn)(void *arg, uint32_t imm, uint64_t value, uint64_t want,
			 uint32_t waiting_for),
	      void *arg)
{
	for (uint32_t node = t->nodes[LIVE].next; node != LIVE; node = t->nodes[node].next) {
		const struct counter *c = node_counter(t, node);

		if (counter_empty(c))
			continue;
		fn(arg, c->key - 1, c->value, c->want, origin_owing(&t->sources, &c->origin));
	}
}

void imm_stats(const struct imm_table *t, struct imm_stats *stats)
{
	uint32_t empty[N_STATES] = { 0 };

	for (uint32_t i = 0; i < KEPT; i++) {
		const struct counter *c = &t->counters[t->kept[i]];

		empty[c->state] += t->kept[i] && counter_empty(c);
	}
	*stats = (struct imm_stats){
		.claimed = t->n[CLAIMED] - empty[CLAIMED],
		.unclaimed = t->n[UNCLAIMED] - empty[UNCLAIMED],
		.records = t->sources.n,
		.tombstones = t->n[BURIED],
		.swallowed = t->swallowed,
	};
}
