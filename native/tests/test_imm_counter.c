/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"

#define IMMS 48
#define SOURCES 5
#define MODEL_OPS 400000U

/* The same, as plainly as can be. */
struct model_counter {
	uint32_t imm;
	uint64_t value;
	uint64_t want;
	uint64_t cookie;
	bool claimed;
	unsigned parts[SOURCES];
	bool forgotten[SOURCES];
};

struct model {
	struct model_counter counters[IMMS];
	uint32_t max;
	unsigned n_fired, n_full;
};

static uint64_t seed = 42;

static unsigned pick(unsigned n)
{
	return (unsigned)(check_random(&seed) % n);
}

static struct imm_table *create(uint32_t max)
{
	struct imm_table *t = NULL;

	CHECK_EQ(imm_table_create(max, &t), 0);
	return t;
}

static int arrive(struct imm_table *t, uint32_t source, uint32_t wire, uint32_t count)
{
	struct imm_fired fired;

	return imm_arrive(t, source, wire, count, &fired);
}

static int expect(struct imm_table *t, uint32_t imm, uint64_t n)
{
	struct pg_done done = { .cookie = imm };
	struct imm_fired fired;

	return imm_expect(t, imm, n, &done, &fired, NULL);
}

/* ---- The model ----------------------------------------------------------------------------- */

static unsigned n_residues(const struct model_counter *c)
{
	unsigned n = 0;

	for (unsigned s = 0; s < SOURCES; s++)
		n += c->parts[s] > 0;
	return n;
}

static bool exists(const struct model_counter *c)
{
	return c->value || c->want || n_residues(c);
}

static void tidy(struct model_counter *c)
{
	if (!exists(c))
		c->claimed = false;
}

static unsigned total(const struct model *m, bool claimed)
{
	unsigned n = 0;

	for (unsigned i = 0; i < IMMS; i++)
		n += exists(&m->counters[i]) && m->counters[i].claimed == claimed;
	return n;
}

static unsigned total_residues(const struct model *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < IMMS; i++)
		n += n_residues(&m->counters[i]);
	return n;
}

static bool model_fire(struct model *m, struct model_counter *c)
{
	bool fires = c->want && c->value >= c->want;

	if (fires) {
		c->value -= c->want;
		c->want = 0;
		m->n_fired++;
	}
	tidy(c);
	return fires;
}

static int model_arrive(struct model *m, struct model_counter *c, unsigned source, unsigned k,
			unsigned count)
{
	unsigned parts = c->parts[source];

	if (!count)
		return 0;
	if (!exists(c) && total(m, false) == m->max)
		return -ENOSPC;
	if (k > 1 && !parts && count % k && total_residues(m) == m->max)
		return -ENOSPC;
	if (k == 1) {
		c->value += count;
		return model_fire(m, c);
	}
	for (unsigned i = 0; i < count * IMM_PARTS / k; i++) {
		if (++parts < IMM_PARTS)
			continue;
		parts = 0;
		c->value += !c->forgotten[source];
		c->forgotten[source] = false;
	}
	c->parts[source] = parts;
	return model_fire(m, c);
}

static int model_expect(struct model *m, struct model_counter *c, uint64_t n, uint64_t cookie)
{
	if (!n)
		return -EINVAL;
	if (c->want)
		return -EBUSY;
	if (!(exists(c) && c->claimed) && total(m, true) == m->max)
		return -ENOSPC;
	c->claimed = true;
	c->want = n;
	c->cookie = cookie;
	return model_fire(m, c);
}

static uint64_t model_value(struct model *m, struct model_counter *c)
{
	if (exists(c) && !c->claimed && total(m, true) < m->max)
		c->claimed = true;
	return c->value;
}

static int model_free(struct model_counter *c)
{
	int rc = c->value ? 0 : -ENOENT;

	for (unsigned s = 0; s < SOURCES; s++) {
		if (c->parts[s] && !c->forgotten[s]) {
			c->forgotten[s] = true;
			rc = 0;
		}
	}
	if (c->want)
		rc = 1;
	c->want = 0;
	c->value = 0;
	tidy(c);
	return rc;
}

static void model_drop_source(struct model *m, unsigned source)
{
	for (unsigned i = 0; i < IMMS; i++) {
		m->counters[i].parts[source] = 0;
		m->counters[i].forgotten[source] = false;
		tidy(&m->counters[i]);
	}
}

/* Sequential ones, those of a large stride, and the extremes. */
static void model_init(struct model *m, uint32_t max)
{
	*m = (struct model){ .max = max };
	for (uint32_t i = 0; i < IMMS; i++) {
		uint32_t imm = i;

		if (i % 3 == 1)
			imm = i << 18;
		if (i % 3 == 2)
			imm = PG_IMM_MAX - (i << 24 & PG_IMM_MAX);
		m->counters[i].imm = imm;
	}
}

static void check_fired(const struct imm_fired *fired, uint32_t imm, int status, uint64_t cookie)
{
	CHECK_EQ(fired->imm, imm);
	CHECK_EQ(fired->status, status);
	CHECK_EQ(fired->done.cookie, cookie);
}

static void model_step(struct imm_table *t, struct model *m, uint64_t step)
{
	struct model_counter *c = &m->counters[pick(IMMS)];
	struct imm_fired fired = { .imm = UINT32_MAX };
	struct pg_done done = { .cookie = step };
	unsigned what = pick(1000);
	unsigned source = pick(SOURCES);
	unsigned k = pick(2) ? 1 : pick(PG_MAX_DOMAINS) + 1;
	unsigned n = pick(5);
	int want_status = 0;
	int want;
	int rc;

	if (what < 550) {
		want = model_arrive(m, c, source, k, n);
		rc = imm_arrive(t, source, imm_wire(c->imm, k), n, &fired);
	} else if (what < 850) {
		want = model_expect(m, c, n * n, step);
		rc = imm_expect(t, c->imm, n * n, &done, &fired, NULL);
	} else if (what < 900) {
		CHECK_EQ(imm_value(t, c->imm), model_value(m, c));
		return;
	} else if (what < 995) {
		want_status = -ECANCELED;
		want = model_free(c);
		rc = imm_free(t, c->imm, &fired);
	} else {
		model_drop_source(m, source);
		imm_drop_source(t, source);
		return;
	}
	CHECK_EQ(rc, want);
	m->n_full += rc == -ENOSPC;
	if (rc == 1)
		check_fired(&fired, c->imm, want_status, c->cookie);
	else
		CHECK_EQ(fired.imm, UINT32_MAX);
}

static void test_model(uint32_t max, bool meets_bound)
{
	struct imm_table *t = create(max);
	struct model m;

	model_init(&m, max);
	for (unsigned step = 0; step < MODEL_OPS; step++) {
		model_step(t, &m, step);
		if (step % 997)
			continue;
		for (unsigned i = 0; i < IMMS; i++)
			CHECK_EQ(imm_value(t, m.counters[i].imm), model_value(&m, &m.counters[i]));
	}
	CHECK(m.n_fired > 1000);
	CHECK(meets_bound == (m.n_full > 100));
	imm_table_destroy(t);
}

/* ---- Single promises ----------------------------------------------------------------------- */

static void test_arguments(void)
{
	struct imm_table *t = NULL;
	struct pg_error err;
	struct imm_fired fired;
	struct pg_done done = { .cookie = 1 };

	CHECK_EQ(imm_table_create(0, &t), -EINVAL);
	CHECK_EQ(imm_table_create(UINT32_MAX, &t), -EINVAL);
	CHECK(!t);
	imm_table_destroy(NULL);
	t = create(4);
	CHECK_EQ(imm_expect(t, PG_IMM_MAX + 1, 1, &done, &fired, &err), -EINVAL);
	CHECK_EQ(err.code, -EINVAL);
	CHECK(strstr(err.text, "0x40000000"));
	CHECK_EQ(imm_expect(t, 1, 0, &done, &fired, &err), -EINVAL);
	CHECK_EQ(imm_expect(t, 1, UINT64_MAX, &done, &fired, &err), 0);
	CHECK_EQ(imm_expect(t, 1, 1, &done, &fired, &err), -EBUSY);
	CHECK(strstr(err.text, "0x1"));
	CHECK_EQ(imm_value(t, UINT32_MAX), 0);
	CHECK_EQ(imm_free(t, UINT32_MAX, &fired), -ENOENT);
	CHECK_EQ(imm_free(t, 2, &fired), -ENOENT);
	imm_table_destroy(t);
}

/* Each source has one write in flight at a time, split as it likes; the shards of all come in any
 * order. The value is then exact at every moment. */
static void test_exact(void)
{
	struct imm_table *t = create(SOURCES);
	unsigned k[SOURCES] = { 0 };
	unsigned left[SOURCES] = { 0 };
	uint64_t whole = 0;

	for (unsigned step = 0; step < 100000; step++) {
		unsigned s = pick(SOURCES);

		if (!left[s])
			left[s] = k[s] = pick(PG_MAX_DOMAINS) + 1;
		CHECK_EQ(arrive(t, s, imm_wire(7, k[s]), 1), 0);
		whole += --left[s] == 0;
		CHECK_EQ(imm_value(t, 7), whole);
	}
	CHECK(whole > 30000);
	imm_table_destroy(t);
}

/* Nothing stays behind of immediates that have come and gone, in whatever order of the two
 * sides. */
static void test_fresh_for_ever(void)
{
	struct imm_table *t = create(1);

	for (uint32_t i = 0; i < 300000; i++) {
		uint32_t imm = i * 2654435761U & PG_IMM_MAX;

		if (i & 1) {
			CHECK_EQ(expect(t, imm, 2), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 2), 2), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 4), 3), 0);
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 4), 1), 1);
		} else {
			CHECK_EQ(arrive(t, 0, imm_wire(imm, 1), 2), 0);
			CHECK_EQ(expect(t, imm, 2), 1);
		}
		CHECK_EQ(imm_value(t, imm), 0);
	}
	imm_table_destroy(t);
}

static void test_bounds(uint32_t max, uint32_t stride)
{
	struct imm_table *t = create(max);
	struct imm_fired fired;

	for (uint32_t i = 0; i < max; i++)
		CHECK_EQ(arrive(t, i, imm_wire(i * stride, 1), 1), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 1), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 2), 1), -ENOSPC);
	CHECK_EQ(imm_value(t, max * stride), 0);
	/* Known ones still count, and those that are expected have room of their own. */
	CHECK_EQ(arrive(t, 0, imm_wire(0, 1), 1), 0);
	for (uint32_t i = 0; i < max; i++)
		CHECK_EQ(expect(t, (max + i) * stride, 1), 0);
	CHECK_EQ(expect(t, 2 * max * stride, 1), -ENOSPC);
	CHECK_EQ(expect(t, 0, 3), -ENOSPC);
	CHECK_EQ(imm_value(t, 0), 2);
	CHECK_EQ(arrive(t, 0, imm_wire(max * stride, 1), 1), 1);
	CHECK_EQ(expect(t, 0, 3), 0);
	CHECK_EQ(arrive(t, 0, imm_wire(2 * max * stride, 1), 1), 0);
	/* Half-arrived writes. */
	for (uint32_t i = 0; i < max; i++)
		CHECK_EQ(arrive(t, i, imm_wire(0, 3), 1), 0);
	CHECK_EQ(arrive(t, max, imm_wire(0, 3), 1), -ENOSPC);
	CHECK_EQ(arrive(t, 1, imm_wire(stride, 3), 2), -ENOSPC);
	CHECK_EQ(arrive(t, max, imm_wire(0, 3), 3), 1);
	imm_drop_source(t, 0);
	CHECK_EQ(arrive(t, max, imm_wire(0, 3), 1), 0);
	CHECK_EQ(imm_free(t, 0, &fired), 0);
	imm_table_destroy(t);
}

/* The rest of a write that had half arrived when its counter was freed does not count, and a later
 * write of that source does. */
static void test_free_half_arrived(void)
{
	struct imm_table *t = create(4);
	struct imm_fired fired;

	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(imm_free(t, 5, &fired), 0);
	CHECK_EQ(imm_free(t, 5, &fired), -ENOENT);
	CHECK_EQ(expect(t, 5, 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(imm_value(t, 5), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 0);
	CHECK_EQ(arrive(t, 1, imm_wire(5, 2), 1), 1);
	CHECK_EQ(imm_free(t, 5, &fired), -ENOENT);
	imm_table_destroy(t);
}

static void test_cancel(void)
{
	struct imm_table *t = create(64);
	struct imm_fired fired[10];
	bool seen[30] = { false };
	unsigned ended = 0;
	unsigned n;

	CHECK_EQ(expect(t, 5, 3), 0);
	CHECK_EQ(imm_free(t, 5, &fired[0]), 1);
	check_fired(&fired[0], 5, -ECANCELED, 5);
	for (uint32_t imm = 0; imm < 30; imm++) {
		CHECK_EQ(arrive(t, 0, imm_wire(imm, 1), imm % 2), 0);
		CHECK_EQ(expect(t, imm, 3), 0);
	}
	while ((n = imm_cancel_all(t, fired, 10))) {
		for (unsigned i = 0; i < n; i++) {
			CHECK(fired[i].imm < 30 && !seen[fired[i].imm]);
			seen[fired[i].imm] = true;
			check_fired(&fired[i], fired[i].imm, -ECANCELED, fired[i].imm);
		}
		ended += n;
	}
	CHECK_EQ(ended, 30);
	for (uint32_t imm = 0; imm < 30; imm++)
		CHECK_EQ(imm_value(t, imm), imm % 2);
	imm_table_destroy(t);
}

struct traffic {
	struct imm_table *table;
	unsigned n_fired; /* guarded by the table's lock */
};

static void *arrive_often(void *arg)
{
	struct traffic *traffic = arg;

	for (unsigned i = 0; i < 50000; i++) {
		imm_lock(traffic->table);
		traffic->n_fired += arrive(traffic->table, 0, imm_wire(i % 7, 1), 1) == 1;
		imm_unlock(traffic->table);
	}
	return NULL;
}

/* Two threads arrive, one expects: every arrival is in a value or has fired. */
static void test_threads(void)
{
	struct traffic traffic = { .table = create(16) };
	uint64_t values = 0;
	pthread_t threads[2];

	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, arrive_often, &traffic), 0);
	for (uint32_t i = 0; i < 30000; i++) {
		imm_lock(traffic.table);
		traffic.n_fired += expect(traffic.table, i % 7, 1) == 1;
		imm_unlock(traffic.table);
		if (i % 64 == 0)
			sched_yield();
	}
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	for (uint32_t imm = 0; imm < 7; imm++)
		values += imm_value(traffic.table, imm);
	CHECK(traffic.n_fired > 0);
	CHECK_EQ(values + traffic.n_fired, 100000);
	imm_table_destroy(traffic.table);
}

int main(void)
{
	test_arguments();
	test_model(4, true);
	test_model(IMMS / 2, true);
	test_model(IMMS * SOURCES, false);
	test_exact();
	test_fresh_for_ever();
	test_bounds(1000, 1);
	test_bounds(1000, 1 << 18);
	test_bounds(4096, 1 << 16);
	test_free_half_arrived();
	test_cancel();
	test_threads();
	printf("imm_counter: 3 x %u steps against a model, exact counts, bounds, free, cancel\n",
	       MODEL_OPS);
	return 0;
}
