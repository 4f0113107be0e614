/* SPDX-License-Identifier: MIT
 *
 * Steps of the ImmCounters and of their model, compared after each. Which steps is up to pick(), of
 * who includes this: any number below n. */
#ifndef PGCTL_TESTS_IMM_STEPS_H
#define PGCTL_TESTS_IMM_STEPS_H

#include "imm_model.h"

static unsigned pick(unsigned n);

/* Counters of a model that may have max of each kind. */
static void model_init(struct model *m, uint32_t max)
{
	*m = (struct model){ .max = max };
	for (uint32_t i = 0; i < IMMS; i++) {
		/* Sequential ones, those of a large stride, and the extremes. */
		uint32_t imms[] = { i, i << 18, PG_IMM_MAX - (i << 24 & PG_IMM_MAX) };

		m->counters[i].imm = imms[i % 3];
		m->counters[i].first = NONE;
	}
}

/* ---- Comparing ----------------------------------------------------------------------------- */

static struct model_counter *model_find(struct model *m, uint32_t imm)
{
	for (unsigned i = 0; i < IMMS; i++) {
		if (m->counters[i].imm == imm)
			return &m->counters[i];
	}
	check_failed(__FILE__, __LINE__, "an immediate that was used before");
}

struct comparison {
	struct model *m;
	unsigned n;
};

static void compare_one(void *arg, uint32_t imm, uint64_t value, uint64_t want, uint32_t waiting)
{
	struct comparison *x = arg;
	const struct model_counter *c = model_find(x->m, imm);
	uint64_t sum = c->nobody;
	uint32_t owing = 0;

	for (unsigned i = 0; i < SOURCES; i++) {
		owing += c->s[i].owes > c->s[i].count;
		sum += c->s[i].count;
	}
	CHECK(lives(c));
	CHECK_EQ(sum, c->value);
	CHECK_EQ(value, c->value);
	CHECK_EQ(want, c->want);
	CHECK_EQ(waiting, owing);
	x->n++;
}

static void compare(struct imm_table *t, struct model *m)
{
	struct comparison x = { .m = m };
	struct imm_stats stats;

	imm_each(t, compare_one, &x);
	imm_stats(t, &stats);
	CHECK_EQ(x.n, total(m, true) + total(m, false));
	CHECK_EQ(stats.claimed, total(m, true));
	CHECK_EQ(stats.unclaimed, total(m, false));
	CHECK_EQ(stats.tombstones, total_buried(m));
	CHECK_EQ(stats.records, total_records(m));
	CHECK_EQ(stats.swallowed, m->swallowed);
}

static void check_fired(const struct imm_fired *fired, const struct model_counter *before,
			int status, uint64_t have)
{
	CHECK_EQ(fired->imm, before->imm);
	CHECK_EQ(fired->status, status);
	CHECK_EQ(fired->done.cookie, before->cookie);
	CHECK_EQ(fired->tag, ~before->cookie);
	CHECK_EQ(fired->want, before->want);
	CHECK_EQ(fired->have, have);
}

static void step_died(struct imm_table *t, struct model *m, unsigned source)
{
	struct imm_fired fired[2];
	unsigned n;

	while ((n = imm_source_died(t, source, fired, 2))) {
		for (unsigned i = 0; i < n; i++) {
			struct model_counter *c = model_find(m, fired[i].imm);

			CHECK(c->want && c->named && !c->due);
			CHECK(c->s[source].owes > c->s[source].count);
			CHECK_EQ(fired[i].source, source);
			check_fired(&fired[i], c, -EHOSTDOWN, c->value);
			end(c);
			m->n_died++;
		}
	}
	for (unsigned i = 0; i < IMMS; i++) {
		const struct model_counter *c = &m->counters[i];

		CHECK(!c->want || c->due || c->s[source].owes <= c->s[source].count);
	}
}

static void step_due(struct imm_table *t, struct model *m)
{
	struct imm_fired fired;

	while (imm_due(t, &fired)) {
		struct model_counter *c = model_find(m, fired.imm);

		CHECK(c->want && c->due);
		check_fired(&fired, c, 0, c->value);
		CHECK_EQ(fire(m, c), 1);
		m->n_due++;
	}
	for (unsigned i = 0; i < IMMS; i++)
		CHECK(!m->counters[i].want || !m->counters[i].due);
}

static void step_cancel(struct imm_table *t, struct model *m)
{
	struct imm_fired fired[3];
	unsigned n;

	while ((n = imm_cancel_all(t, fired, 3))) {
		for (unsigned i = 0; i < n; i++) {
			struct model_counter *c = model_find(m, fired[i].imm);

			CHECK(c->want);
			check_fired(&fired[i], c, -ECANCELED, c->value);
			end(c);
		}
	}
	for (unsigned i = 0; i < IMMS; i++)
		CHECK(!m->counters[i].want);
}

static void step_expire(struct imm_table *t, struct model *m)
{
	uint64_t oldest = m->step / 64 + 1 - pick(4);
	struct model_counter *c;

	imm_tombstones_expire(t, oldest);
	while ((c = oldest_grave(m)) && c->born < oldest)
		dig_up(m, c, false);
}

static void pick_from(struct imm_from *from, uint32_t *sources, uint64_t *owes)
{
	*from = (struct imm_from){ .n = pick(SOURCES + 1), .sources = sources, .owes = owes };
	for (uint32_t i = 0; i < from->n; i++) {
		sources[i] = i * 5 % SOURCES; /* each once, but rarely */
		owes[i] = pick(3);
	}
	if (from->n && !pick(20))
		sources[0] = pick(SOURCES);
}

static int step_expect(struct imm_table *t, struct model *m, struct model_counter *c,
		       struct imm_fired *fired, int *want)
{
	struct pg_done done = { .cookie = m->step };
	uint32_t sources[SOURCES];
	uint64_t owes[SOURCES];
	struct imm_from from;
	bool named = pick(2);
	bool now = pick(4);
	uint64_t n = 0;

	pick_from(&from, sources, owes);
	for (uint32_t i = 0; i < from.n; i++)
		n += owes[i];
	if (!named || !pick(20))
		n = pick(5) * pick(5);
	*want = model_expect(m, c, n, named ? &from : NULL, now);
	return imm_expect(t, c->imm, n, named ? &from : NULL, ~m->step, &done, now ? fired : NULL,
			  NULL);
}

/* What ends at most the expectation of one counter. */
static void step_one(struct imm_table *t, struct model *m, unsigned what)
{
	struct model_counter *c = &m->counters[pick(IMMS)];
	struct model_counter before = *c;
	struct imm_fired fired = { .imm = UINT32_MAX };
	unsigned source = pick(SOURCES);
	unsigned k = pick(2) ? 1 : pick(PG_MAX_DOMAINS) + 1;
	unsigned n = pick(5);
	bool bury = pick(3);
	int status = 0;
	int want = 0;
	int rc;

	if (what < 500) {
		want = model_arrive(m, c, (int)source, k, n);
		rc = imm_arrive(t, source, imm_wire(c->imm, k), n, &fired);
		before.value += c->s[source].count - before.s[source].count;
	} else if (what < 620) {
		want = n && n < k ? model_parts(m, c, (int)source, -(int)(n * IMM_PARTS / k))
				  : -EINVAL;
		rc = imm_settle(t, source, imm_wire(c->imm, k), n, &fired);
	} else if (what < 850) {
		rc = step_expect(t, m, c, &fired, &want);
		before.cookie = m->step;
		before.want = fired.want;
	} else {
		status = -ECANCELED;
		want = model_free(m, c, bury ? m->step / 64 + 1 : 0);
		rc = imm_free(t, c->imm, bury ? m->step / 64 + 1 : 0, &fired);
	}
	CHECK_EQ(rc, want);
	m->n_full += rc == -ENOSPC;
	if (rc != 1)
		CHECK_EQ(fired.imm, UINT32_MAX);
	else if (status || what >= 500)
		check_fired(&fired, &before, status, before.value);
	else
		check_fired(&fired, &before, 0, c->value + before.want);
}

static void step(struct imm_table *t, struct model *m)
{
	unsigned what = pick(1000);
	unsigned i = pick(IMMS);
	unsigned source = pick(SOURCES);

	m->step++;
	if (what < 900) {
		step_one(t, m, what);
	} else if (what < 930) {
		CHECK_EQ(imm_value(t, m->counters[i].imm), model_value(m, &m->counters[i]));
	} else if (what < 950) {
		step_died(t, m, source);
		if (pick(2)) {
			model_drop(m, (int)source);
			imm_drop_source(t, source);
		}
	} else if (what < 975) {
		step_due(t, m);
	} else if (what < 998) {
		step_expire(t, m);
	} else {
		step_cancel(t, m);
	}
	compare(t, m);
}

#endif
