/* SPDX-License-Identifier: MIT
 *
 * The ImmCounters, written as plainly as can be: what the real ones are compared with. */
#ifndef PGCTL_TESTS_IMM_MODEL_H
#define PGCTL_TESTS_IMM_MODEL_H

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"

#define IMMS 24
#define SOURCES 6
#define RECORDS 4 /* per unclaimed */
#define NONE (-1)

struct model_source {
	int64_t parts;
	bool forgotten;
	bool record;
	uint64_t count;
	uint64_t owes;
};

struct model_counter {
	uint32_t imm;
	uint64_t value;
	uint64_t want;
	uint64_t cookie;
	bool claimed;
	bool named;
	bool due;
	bool buried;
	uint64_t born;
	uint64_t since; /* buried, or armed: the step */
	uint64_t nobody;
	int first; /* the source without a record */
	struct model_source s[SOURCES];
	int order[SOURCES]; /* those with records, the youngest first */
	unsigned n_records;
};

struct model {
	struct model_counter counters[IMMS];
	uint32_t max;
	uint64_t step;
	uint64_t swallowed;
	unsigned n_fired, n_full, n_died, n_due, n_evicted;
};

/* ---- Bounds -------------------------------------------------------------------------------- */

static bool lives(const struct model_counter *c)
{
	return !c->buried && (c->value || c->want || c->n_records);
}

static uint32_t total(const struct model *m, bool claimed)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < IMMS; i++)
		n += lives(&m->counters[i]) && m->counters[i].claimed == claimed;
	return n;
}

static uint32_t total_buried(const struct model *m)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < IMMS; i++)
		n += m->counters[i].buried;
	return n;
}

static uint32_t total_records(const struct model *m)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < IMMS; i++)
		n += m->counters[i].n_records;
	return n;
}

static void tidy(struct model_counter *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n_records; i++) {
		struct model_source *s = &c->s[c->order[i]];

		/* That of first is in s as well. */
		s->record = s->parts || (c->first != c->order[i] && (s->count || s->owes));
		if (s->record)
			c->order[n++] = c->order[i];
	}
	c->n_records = n;
	if (c->first != NONE && !c->s[c->first].count && !c->s[c->first].owes)
		c->first = NONE;
	if (!lives(c))
		c->claimed = false;
}

static bool add_record(struct model *m, struct model_counter *c, int source)
{
	if (c->s[source].record)
		return true;
	if (total_records(m) == RECORDS * m->max)
		return false;
	memmove(c->order + 1, c->order, c->n_records++ * sizeof(*c->order));
	c->order[0] = source;
	c->s[source].record = true;
	return true;
}

static bool note(struct model *m, struct model_counter *c, int source)
{
	bool noted = c->s[source].count || c->s[source].owes;

	if (!noted && c->first == NONE)
		c->first = source;
	return noted || c->first == source || add_record(m, c, source);
}

/* ---- Steps --------------------------------------------------------------------------------- */

static uint64_t take(uint64_t *from, uint64_t n)
{
	n = n < *from ? n : *from;
	*from -= n;
	return n;
}

static void subtract(struct model_counter *c, uint64_t n)
{
	c->value -= n;
	for (unsigned i = 0; i < SOURCES; i++) {
		n -= take(&c->s[i].count, c->s[i].owes);
		c->s[i].owes = 0;
	}
	n -= take(&c->nobody, n);
	for (unsigned i = 0; i < c->n_records; i++) {
		if (c->order[i] != c->first)
			n -= take(&c->s[c->order[i]].count, n);
	}
	if (c->first != NONE)
		n -= take(&c->s[c->first].count, n);
	CHECK_EQ(n, 0);
}

static int fire(struct model *m, struct model_counter *c)
{
	bool fires = c->want && c->value >= c->want;

	if (fires) {
		subtract(c, c->want);
		c->want = 0;
		m->n_fired++;
	}
	tidy(c);
	return fires;
}

static void end(struct model_counter *c)
{
	c->want = 0;
	for (unsigned i = 0; i < SOURCES; i++)
		c->s[i].owes = 0;
	tidy(c);
}

static bool forget(struct model_counter *c)
{
	bool any = c->value;

	for (unsigned i = 0; i < SOURCES; i++) {
		struct model_source *s = &c->s[i];

		any |= s->parts > 0 && !s->forgotten;
		s->forgotten = s->parts > 0;
		s->count = 0;
		s->owes = 0;
	}
	c->value = 0;
	c->nobody = 0;
	return any;
}

static void dig_up(struct model *m, struct model_counter *c, bool claimed)
{
	bool room = total(m, claimed) < m->max;

	forget(c);
	for (unsigned i = 0; i < SOURCES && !room; i++)
		c->s[i] = (struct model_source){ 0 };
	c->buried = false;
	c->claimed = claimed;
	tidy(c);
}

static int model_parts(struct model *m, struct model_counter *c, int source, int64_t parts)
{
	struct model_source *s = &c->s[source];
	bool remains = s->record || parts % IMM_PARTS;
	int64_t whole = 0;

	if (!lives(c) && !c->buried && total(m, false) == m->max)
		return -ENOSPC;
	if (remains && !add_record(m, c, source))
		return -ENOSPC;
	s->parts += parts;
	if (s->parts <= 0)
		s->forgotten = false;
	for (; s->parts <= -IMM_PARTS && s->count; s->parts += IMM_PARTS) {
		s->count--;
		c->value--;
	}
	for (; s->parts >= IMM_PARTS; s->parts -= IMM_PARTS) {
		whole += !s->forgotten;
		s->forgotten = false;
	}
	if (whole && !c->buried) {
		if (!note(m, c, source))
			return -ENOSPC;
		c->value += (uint64_t)whole;
		s->count += (uint64_t)whole;
	}
	return fire(m, c);
}

static int model_arrive(struct model *m, struct model_counter *c, int source, unsigned k,
			unsigned count)
{
	bool buried = c->buried;
	int rc;

	if (!count)
		return 0;
	if (k > 1)
		rc = model_parts(m, c, source, count * IMM_PARTS / k);
	else if (!lives(c) && !buried && total(m, false) == m->max)
		rc = -ENOSPC;
	else if (buried)
		rc = 0;
	else if (!note(m, c, source))
		rc = -ENOSPC;
	else {
		c->value += count;
		c->s[source].count += count;
		rc = fire(m, c);
	}
	if (buried && !rc)
		m->swallowed += count;
	return rc;
}

static bool may_name(const struct model *m, const struct model_counter *c,
		     const struct imm_from *from, uint64_t n, int *rc)
{
	uint32_t records = total_records(m);
	bool first = c->first == NONE;

	*rc = -EINVAL;
	for (uint32_t i = 0; i < from->n; i++) {
		n -= from->owes[i];
		for (uint32_t j = 0; j < i; j++) {
			if (from->sources[i] == from->sources[j])
				return false;
		}
	}
	if (n)
		return false;
	*rc = -ENOSPC;
	for (uint32_t i = 0; i < from->n; i++) {
		const struct model_source *s = &c->s[from->sources[i]];

		if (!from->owes[i] || s->count || s->owes)
			continue;
		records += !first && !s->record;
		first = false;
	}
	return records <= RECORDS * m->max;
}

static int model_expect(struct model *m, struct model_counter *c, uint64_t n,
			const struct imm_from *from, bool now)
{
	int no_room = 0;

	if (!n || (from && !may_name(m, c, from, n, &no_room) && no_room == -EINVAL))
		return -EINVAL;
	if (c->want)
		return -EBUSY;
	if (!(lives(c) && c->claimed) && total(m, true) == m->max)
		return -ENOSPC;
	if (from && !may_name(m, c, from, n, &no_room))
		return -ENOSPC;
	if (c->buried)
		dig_up(m, c, true);
	c->claimed = true;
	c->want = n;
	c->cookie = m->step;
	c->since = m->step;
	c->named = from;
	c->due = !now && c->value >= n;
	for (uint32_t i = 0; from && i < from->n; i++) {
		if (!from->owes[i])
			continue;
		CHECK(note(m, c, (int)from->sources[i]));
		c->s[from->sources[i]].owes = from->owes[i];
	}
	return now ? fire(m, c) : 0;
}

static uint64_t model_value(struct model *m, struct model_counter *c)
{
	if (c->buried)
		dig_up(m, c, total(m, true) < m->max);
	else if (lives(c) && !c->claimed && total(m, true) < m->max)
		c->claimed = true;
	return c->value;
}

static struct model_counter *oldest_grave(struct model *m)
{
	struct model_counter *oldest = NULL;

	for (unsigned i = 0; i < IMMS; i++) {
		struct model_counter *c = &m->counters[i];

		if (c->buried && (!oldest || c->since < oldest->since))
			oldest = c;
	}
	return oldest;
}

static int model_free(struct model *m, struct model_counter *c, uint64_t born)
{
	bool wanted = c->want;
	bool any;

	if (!born && c->buried) {
		dig_up(m, c, false);
		return -ENOENT;
	}
	any = !c->buried && forget(c);
	end(c);
	if (!born)
		return wanted ? 1 : any ? 0 : -ENOENT;
	c->buried = true;
	c->claimed = false;
	c->born = born;
	c->since = m->step;
	if (total_buried(m) > m->max) {
		dig_up(m, oldest_grave(m), false);
		m->n_evicted++;
	}
	return wanted ? 1 : any ? 0 : -ENOENT;
}

static void model_drop(struct model *m, int source)
{
	for (unsigned i = 0; i < IMMS; i++) {
		struct model_counter *c = &m->counters[i];

		c->nobody += c->s[source].count;
		c->s[source] = (struct model_source){ .record = c->s[source].record };
		tidy(c);
	}
}

#endif
