/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "check.h"
#include "engine/pair.h"

#define FULL 0xffff
#define CELL(i, j) (1U << (PG_MAX_DOMAINS * (i) + (j)))

struct pairing {
	struct pair_nic local[PG_MAX_DOMAINS], remote[PG_MAX_DOMAINS];
	unsigned n, m;
	pair_reach reach;
};

static uint64_t cases, mirrored, cyclic;

__attribute__((noreturn)) static void wrong(const struct pairing *p, const char *what)
{
	for (unsigned i = 0; i < p->n; i++)
		fprintf(stderr, "local %u: %u Mbit/s, rail %u\n", i, p->local[i].mbit_s,
			p->local[i].rail);
	for (unsigned j = 0; j < p->m; j++)
		fprintf(stderr, "remote %u: %u Mbit/s, rail %u\n", j, p->remote[j].mbit_s,
			p->remote[j].rail);
	fprintf(stderr, "reach 0x%04x: %s\n", p->reach, what);
	exit(1);
}

static void expect(const struct pairing *p, bool condition, const char *what)
{
	if (!condition)
		wrong(p, what);
}

/* The reference: what the header promises, by other means than the code. */

struct reference {
	uint64_t caps[2 * PG_MAX_DOMAINS]; /* local NICs, remote ones at PG_MAX_DOMAINS */
	uint64_t flow, same_rail;
};

static void set_caps(const struct pairing *p, struct reference *r)
{
	bool known = true;

	for (unsigned i = 0; i < p->n; i++)
		known &= p->local[i].mbit_s > 0;
	for (unsigned j = 0; j < p->m; j++)
		known &= p->remote[j].mbit_s > 0;
	for (unsigned i = 0; i < p->n; i++)
		r->caps[i] = known ? p->local[i].mbit_s : p->m;
	for (unsigned j = 0; j < p->m; j++)
		r->caps[PG_MAX_DOMAINS + j] = known ? p->remote[j].mbit_s : p->n;
}

/* The smallest cut: some local NICs themselves, and all that the others reach. */
static void set_flow(const struct pairing *p, struct reference *r)
{
	r->flow = UINT64_MAX;
	for (unsigned cut = 0; cut < 1U << p->n; cut++) {
		unsigned reached = 0;
		uint64_t sum = 0;

		for (unsigned i = 0; i < p->n; i++) {
			if (cut & 1U << i)
				sum += r->caps[i];
			else
				reached |= p->reach >> (PG_MAX_DOMAINS * i) & 0xf;
		}
		for (unsigned j = 0; j < p->m; j++)
			if (reached & 1U << j)
				sum += r->caps[PG_MAX_DOMAINS + j];
		if (sum < r->flow)
			r->flow = sum;
	}
}

/* What flow is worth at most, by the dual: the cheapest prices of NICs such that those of each edge
 * add up to its value. The values are whole, so prices may be, and none is above the highest value;
 * that leaves few to try for the local NICs, and the remote ones follow. An augmenting path takes
 * back at most three edges: at a value of 4, and 5 on the same rail, more flow always pays. */
enum { CROSS_VALUE = 4, SAME_VALUE = 5 };

static uint64_t remote_prices(const struct pairing *p, const struct reference *r, const int *prices)
{
	uint64_t sum = 0;

	for (unsigned j = 0; j < p->m; j++) {
		int price = 0;

		for (unsigned i = 0; i < p->n; i++) {
			int value = p->local[i].rail == p->remote[j].rail ? SAME_VALUE
									  : CROSS_VALUE;

			if (p->reach & CELL(i, j) && value - prices[i] > price)
				price = value - prices[i];
		}
		sum += (uint64_t)price * r->caps[PG_MAX_DOMAINS + j];
	}
	return sum;
}

static void set_same_rail(const struct pairing *p, struct reference *r)
{
	uint64_t best = UINT64_MAX;
	unsigned combinations = 1;

	for (unsigned i = 0; i < p->n; i++)
		combinations *= SAME_VALUE + 1;
	for (unsigned c = 0; c < combinations; c++) {
		int prices[PG_MAX_DOMAINS];
		uint64_t sum = 0;
		unsigned rest = c;

		for (unsigned i = 0; i < p->n; i++, rest /= SAME_VALUE + 1) {
			prices[i] = (int)(rest % (SAME_VALUE + 1));
			sum += (uint64_t)prices[i] * r->caps[i];
		}
		if (sum < best)
			sum += remote_prices(p, r, prices);
		if (sum < best)
			best = sum;
	}
	r->same_rail = best - CROSS_VALUE * r->flow;
}

static struct pairing exchanged(const struct pairing *p)
{
	struct pairing e = { .n = p->m, .m = p->n, .reach = pair_transpose(p->reach) };

	memcpy(e.local, p->remote, sizeof(e.local));
	memcpy(e.remote, p->local, sizeof(e.remote));
	return e;
}

static unsigned pair_up(const struct pairing *p, struct pair_edge *edges)
{
	return pair_nics(p->local, p->n, p->remote, p->m, p->reach, edges);
}

static void check_agreement(const struct pairing *p, const struct pair_edge *edges, unsigned k)
{
	struct pairing e = exchanged(p);
	struct pair_edge theirs[PAIR_MAX];
	uint32_t weights[PG_MAX_DOMAINS][PG_MAX_DOMAINS] = { { 0 } };

	expect(p, pair_up(&e, theirs) == k, "the other side has as many edges");
	for (unsigned x = 0; x < k; x++)
		weights[theirs[x].remote][theirs[x].local] = theirs[x].weight;
	for (unsigned x = 0; x < k; x++)
		expect(p, weights[edges[x].local][edges[x].remote] == edges[x].weight,
		       "the other side has the same edges");
}

static bool is_mirrored(const struct pairing *p)
{
	bool same = p->n == p->m && p->reach == pair_transpose(p->reach);

	for (unsigned i = 0; i < p->n && same; i++)
		same = p->local[i].mbit_s == p->remote[i].mbit_s &&
		       p->local[i].rail == p->remote[i].rail;
	return same;
}

static bool diagonal_lacks(const struct pairing *p)
{
	for (unsigned i = 0; i < p->n; i++)
		if (!(p->reach & CELL(i, i)))
			return true;
	return false;
}

static unsigned find_root(const unsigned *parents, unsigned a)
{
	while (parents[a] != a)
		a = parents[a];
	return a;
}

static bool is_forest(const struct pair_edge *edges, unsigned k)
{
	unsigned parents[2 * PG_MAX_DOMAINS];

	for (unsigned a = 0; a < 2 * PG_MAX_DOMAINS; a++)
		parents[a] = a;
	for (unsigned x = 0; x < k; x++) {
		unsigned a = find_root(parents, edges[x].local);
		unsigned b = find_root(parents, PG_MAX_DOMAINS + edges[x].remote);

		if (a == b)
			return false;
		parents[a] = b;
	}
	return true;
}

static void check_shape(const struct pairing *p, const struct pair_edge *edges, unsigned k)
{
	unsigned last = 0;

	for (unsigned x = 0; x < k; x++) {
		expect(p, edges[x].local < p->n && edges[x].remote < p->m, "edges are of NICs");
		expect(p, p->reach & CELL(edges[x].local, edges[x].remote), "edges are in reach");
		expect(p, edges[x].weight > 0, "edges carry something");
		expect(p, CELL(edges[x].local, edges[x].remote) > last, "edges are ordered");
		last = CELL(edges[x].local, edges[x].remote);
	}
	if (is_mirrored(p) && diagonal_lacks(p)) {
		mirrored++;
		cyclic += !is_forest(edges, k);
		expect(p, k <= p->n + p->m, "few edges");
	} else {
		expect(p, is_forest(edges, k), "no cycle");
	}
}

struct loads {
	uint64_t nics[2 * PG_MAX_DOMAINS];
	uint64_t total, same_rail;
};

static struct loads add_up(const struct pairing *p, const struct pair_edge *edges, unsigned k)
{
	struct loads loads = { .total = 0 };

	for (unsigned x = 0; x < k; x++) {
		loads.nics[edges[x].local] += edges[x].weight;
		loads.nics[PG_MAX_DOMAINS + edges[x].remote] += edges[x].weight;
		loads.total += edges[x].weight;
		if (p->local[edges[x].local].rail == p->remote[edges[x].remote].rail)
			loads.same_rail += edges[x].weight;
	}
	return loads;
}

/* Within [first, end), NICs of this rail carry in proportion to their capacity. */
static void check_proportion(const struct pairing *p, const struct pair_nic *nics, unsigned count,
			     const uint64_t *caps, const uint64_t *loads, bool by_rail)
{
	for (unsigned a = 0; a < count; a++)
		for (unsigned b = 0; b < a; b++)
			expect(p,
			       (by_rail && nics[a].rail != nics[b].rail) ||
				       loads[a] * caps[b] == loads[b] * caps[a],
			       "balanced");
}

static void check_balance(const struct pairing *p, const struct reference *r,
			  const struct loads *loads)
{
	pair_reach full = pair_reach_of(p->local, p->n, p->remote, p->m, false);
	pair_reach rails = pair_reach_of(p->local, p->n, p->remote, p->m, true);

	if (p->reach != rails && !(p->reach == full && !rails))
		return;
	check_proportion(p, p->local, p->n, r->caps, loads->nics, p->reach == rails);
	check_proportion(p, p->remote, p->m, r->caps + PG_MAX_DOMAINS, loads->nics + PG_MAX_DOMAINS,
			 p->reach == rails);
}

/* Weights whose sum is W are a flow of size F, scaled by W / F. */
static void check_pairing(const struct pairing *p)
{
	struct pair_edge edges[PAIR_MAX];
	struct pair_edge again[PAIR_MAX];
	struct reference r;
	struct loads loads;
	unsigned k = pair_up(p, edges);

	cases++;
	check_shape(p, edges, k);
	set_caps(p, &r);
	set_flow(p, &r);
	set_same_rail(p, &r);
	loads = add_up(p, edges, k);
	expect(p, !k == !r.flow, "edges where there is flow");
	for (unsigned a = 0; a < 2 * PG_MAX_DOMAINS; a++)
		if (loads.nics[a])
			expect(p, loads.nics[a] * r.flow <= r.caps[a] * loads.total,
			       "largest flow");
	expect(p, loads.same_rail * r.flow == r.same_rail * loads.total, "least between rails");
	check_balance(p, &r, &loads);
	check_agreement(p, edges, k);
	expect(p, pair_up(p, again) == k, "the same again");
	for (unsigned x = 0; x < k; x++)
		expect(p, edges[x].weight == again[x].weight, "the same again");
}

static void expect_edges(const struct pairing *p, const struct pair_edge *want, unsigned k)
{
	struct pair_edge edges[PAIR_MAX];

	check_pairing(p);
	CHECK_EQ(pair_up(p, edges), k);
	for (unsigned x = 0; x < k; x++) {
		CHECK_EQ(edges[x].local, want[x].local);
		CHECK_EQ(edges[x].remote, want[x].remote);
		CHECK_EQ(edges[x].weight, want[x].weight);
	}
}

#define COUNT(...) (sizeof((struct pair_edge[]){ __VA_ARGS__ }) / sizeof(struct pair_edge))
#define EXPECT(p, ...) \
	expect_edges((p), (struct pair_edge[]){ __VA_ARGS__ }, (unsigned)COUNT(__VA_ARGS__))

static struct pairing uniform(unsigned n, uint32_t local, unsigned m, uint32_t remote)
{
	struct pairing p = { .n = n, .m = m, .reach = FULL };

	for (unsigned i = 0; i < n; i++)
		p.local[i].mbit_s = local;
	for (unsigned j = 0; j < m; j++)
		p.remote[j].mbit_s = remote;
	return p;
}

static void test_balance(void)
{
	struct pairing p = uniform(4, 100, 1, 100);

	EXPECT(&p, { 0, 0, 1 }, { 1, 0, 1 }, { 2, 0, 1 }, { 3, 0, 1 });
	p = uniform(1, 400, 4, 100);
	EXPECT(&p, { 0, 0, 1 }, { 0, 1, 1 }, { 0, 2, 1 }, { 0, 3, 1 });
	p = uniform(4, 100, 2, 200);
	EXPECT(&p, { 0, 0, 1 }, { 1, 0, 1 }, { 2, 1, 1 }, { 3, 1, 1 });
	p = uniform(4, 100, 4, 100);
	EXPECT(&p, { 0, 0, 1 }, { 1, 1, 1 }, { 2, 2, 1 }, { 3, 3, 1 });
	p = uniform(3, 100, 2, 100);
	EXPECT(&p, { 0, 0, 2 }, { 1, 0, 1 }, { 1, 1, 1 }, { 2, 1, 2 });
	p = uniform(2, 0, 4, 400000);
	EXPECT(&p, { 0, 0, 1 }, { 0, 1, 1 }, { 1, 2, 1 }, { 1, 3, 1 });
	p = uniform(1, 300, 2, 100);
	p.remote[1].mbit_s = 200;
	EXPECT(&p, { 0, 0, 1 }, { 0, 1, 2 });
}

static void test_rails(void)
{
	struct pairing p = uniform(2, 100, 1, 100);

	p.local[0].rail = p.remote[0].rail = 1;
	p.local[1].rail = 2;
	EXPECT(&p, { 0, 0, 1 });
	p.remote[0].mbit_s = 150; /* what its own rail lacks, the other carries */
	EXPECT(&p, { 0, 0, 2 }, { 1, 0, 1 });
	p = uniform(4, 400, 4, 400);
	for (unsigned i = 0; i < 4; i++) {
		p.local[i].rail = i + 1;
		p.remote[i].rail = 4 - i;
	}
	EXPECT(&p, { 0, 3, 1 }, { 1, 2, 1 }, { 2, 1, 1 }, { 3, 0, 1 });
	CHECK_EQ(pair_reach_of(p.local, 4, p.remote, 4, true), 0x1248);
	CHECK_EQ(pair_reach_of(p.local, 4, p.remote, 3, false), 0x7777);
}

static void test_reach(void)
{
	struct pairing p = uniform(2, 100, 2, 100);
	struct pair_edge edges[PAIR_MAX];

	p.reach = CELL(0, 1) | CELL(2, 2); /* NIC 1 reaches nothing, NIC 2 is not there */
	EXPECT(&p, { 0, 1, 1 });
	p.reach = CELL(3, 3);
	CHECK_EQ(pair_up(&p, edges), 0);
	CHECK_EQ(pair_transpose(0x8421), 0x8421);
	CHECK_EQ(pair_transpose(0x000f), 0x1111);
	/* More flow with less of it on the same rail: without it, only one NIC of two. */
	p.local[0].rail = p.remote[0].rail = 1;
	p.reach = CELL(0, 1) | CELL(1, 0) | CELL(1, 1);
	EXPECT(&p, { 0, 1, 1 }, { 1, 0, 1 });
}

/* Sides that cannot be told apart get what looks the same from both. */
static void test_mirror(void)
{
	struct pairing p = uniform(3, 100, 3, 100);

	p.reach = FULL & ~(CELL(0, 0) | CELL(1, 1) | CELL(2, 2));
	EXPECT(&p, { 0, 1, 1 }, { 0, 2, 1 }, { 1, 0, 1 }, { 1, 2, 1 }, { 2, 0, 1 }, { 2, 1, 1 });
	p.reach = FULL & ~(CELL(0, 0) | CELL(2, 2));
	EXPECT(&p, { 0, 2, 1 }, { 1, 1, 1 }, { 2, 0, 1 });
	p.reach = FULL & ~CELL(1, 1);
	EXPECT(&p, { 0, 1, 1 }, { 1, 0, 1 }, { 2, 2, 1 });
}

static const struct pair_nic kinds[] = {
	{ 0, 0 }, { 0, 1 }, { 0, 2 }, { 1, 0 }, { 1, 1 }, { 1, 2 },
	{ 2, 0 }, { 2, 1 }, { 2, 2 }, { 4, 0 }, { 4, 1 }, { 4, 2 },
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* Up to two NICs a side: everything there is. */
static void test_all(void)
{
	for (unsigned shape = 0; shape < 4; shape++) {
		struct pairing p = { .n = 1 + shape / 2, .m = 1 + shape % 2 };
		unsigned combinations = 1;

		for (unsigned a = 0; a < p.n + p.m; a++)
			combinations *= KINDS;
		for (unsigned c = 0; c < combinations * 16; c++) {
			unsigned rest = c / 16;

			for (unsigned a = 0; a < p.n + p.m; a++, rest /= KINDS)
				*(a < p.n ? &p.local[a] : &p.remote[a - p.n]) = kinds[rest % KINDS];
			p.reach = (pair_reach)((c & 3) | (c & 12) << 2);
			if (p.reach ==
			    (p.reach & pair_reach_of(p.local, p.n, p.remote, p.m, false)))
				check_pairing(&p);
		}
	}
}

static struct pair_nic random_nic(uint64_t *seed, unsigned lowest)
{
	return kinds[lowest + check_random(seed) % (KINDS - lowest)];
}

/* As often full, of the rails only, lacking a few cells, or anything. */
static pair_reach random_reach(uint64_t *seed, const struct pairing *p)
{
	pair_reach full = pair_reach_of(p->local, p->n, p->remote, p->m, false);

	switch (check_random(seed) % 4) {
	case 0:
		return full;
	case 1:
		return pair_reach_of(p->local, p->n, p->remote, p->m, true);
	case 2:
		return full & (pair_reach)(check_random(seed) | check_random(seed));
	default:
		return full & (pair_reach)check_random(seed);
	}
}

static struct pairing random_pairing(uint64_t *seed)
{
	struct pairing p = {
		.n = 1 + (unsigned)(check_random(seed) % PG_MAX_DOMAINS),
		.m = 1 + (unsigned)(check_random(seed) % PG_MAX_DOMAINS),
	};
	unsigned lowest = check_random(seed) % 4 ? 3 : 0; /* a speed of 0 makes the others moot */

	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++) {
		p.local[i] = random_nic(seed, lowest);
		p.remote[i] = random_nic(seed, lowest);
	}
	p.reach = random_reach(seed, &p);
	return p;
}

static void test_random(void)
{
	uint64_t seed = 1;

	for (unsigned c = 0; c < 200000; c++) {
		struct pairing p = random_pairing(&seed);

		check_pairing(&p);
	}
}

/* The same NICs on both sides, and half of the time the same reach. */
static void test_random_mirror(void)
{
	uint64_t seed = 2;

	for (unsigned c = 0; c < 50000; c++) {
		struct pairing p = random_pairing(&seed);

		p.m = p.n;
		memcpy(p.remote, p.local, sizeof(p.remote));
		p.reach = random_reach(&seed, &p);
		if (c % 2)
			p.reach &= pair_transpose(p.reach);
		check_pairing(&p);
	}
}

/* Speeds whose ratios need more than 32 bits: weights are off by less than 1 each. */
static void test_odd_speeds(void)
{
	uint64_t seed = 3;

	for (unsigned c = 0; c < 20000; c++) {
		struct pairing p = random_pairing(&seed);
		struct pair_edge edges[PAIR_MAX];
		struct reference r;
		struct loads loads;
		unsigned k;

		for (unsigned i = 0; i < PG_MAX_DOMAINS; i++) {
			p.local[i].mbit_s = UINT32_MAX - (uint32_t)(check_random(&seed) % 3);
			p.remote[i].mbit_s = (uint32_t)check_random(&seed) | 1;
		}
		k = pair_up(&p, edges);
		check_shape(&p, edges, k);
		check_agreement(&p, edges, k);
		set_caps(&p, &r);
		set_flow(&p, &r);
		loads = add_up(&p, edges, k);
		for (unsigned a = 0; a < 2 * PG_MAX_DOMAINS; a++)
			if (loads.nics[a])
				expect(&p,
				       (unsigned __int128)loads.nics[a] * r.flow <=
					       (unsigned __int128)r.caps[a] * (loads.total + k) +
						       (unsigned __int128)k * r.flow,
				       "largest flow");
	}
}

int main(void)
{
	test_balance();
	test_rails();
	test_reach();
	test_mirror();
	test_all();
	test_random();
	test_random_mirror();
	test_odd_speeds();
	printf("pair: %ju pairings; of %ju mirrored with gaps, %ju need a cycle\n",
	       (uintmax_t)cases, (uintmax_t)mirrored, (uintmax_t)cyclic);
	return 0;
}
