/* SPDX-License-Identifier: MIT
 *
 * What each NIC carries when NICs differ in number, speed and rail, as the totals say.
 */
#include <errno.h>
#include <stdio.h>

#include "engine_pair.h"

#define MEM (12u << 20)
#define WRITES 24

struct nics {
	unsigned n;
	uint32_t mbit[PG_MAX_DOMAINS], rails[PG_MAX_DOMAINS];
	bool rail_only;
};

static void open_nics(struct side *s, const struct nics *nics)
{
	struct pg_group_config group = { .n_domains = nics->n,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .rail_only = nics->rail_only };
	struct pg_config config;
	void *ptr;

	CHECK(pg_config_init(&config, NULL) == 0);
	for (unsigned i = 0; i < nics->n; i++)
		group.domains[i] = (struct pg_domain_config){ .cpu = -1,
							      .link_mbit_s = nics->mbit[i],
							      .rail = nics->rails[i] };
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static void write_to(struct side *a, struct side *b, uint64_t len)
{
	int32_t sent;

	CHECK(pg_submit_single_write(a->g, len, 1, a->mr, 0, a->remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
}

static uint64_t carried(struct side *s, unsigned nic)
{
	struct pg_nic_stats stats;

	CHECK(pg_stats(s->g, nic, &stats) == 0);
	return stats.bytes_out;
}

/* got is part of total, of which it should have weight / sum. */
static void check_share(uint64_t got, uint64_t total, uint64_t weight, uint64_t sum, uint64_t slack)
{
	uint64_t want = total * weight / sum;

	if (got + slack < want || got > want + slack) {
		fprintf(stderr, "%llu of %llu bytes, not %llu\n", (unsigned long long)got,
			(unsigned long long)total, (unsigned long long)want);
		check_failed(__FILE__, __LINE__, "a NIC carries its share");
	}
}

/* As the speeds are of the side that has more NICs, or is slower; and over the connections of a NIC,
 * as their weights say. */
static void check_shares(struct side *a, struct side *b, const struct nics *nics, uint64_t len)
{
	uint64_t before[PG_MAX_DOMAINS], on_conn[PG_MAX_CONNS], total = 0, speed = 0, weights = 0;
	struct pg_conn_info info;
	unsigned n;

	for (unsigned i = 0; i < nics->n; i++) {
		before[i] = carried(a, i);
		speed += nics->mbit[i];
	}
	for (n = 0; pg_conn_info(a->g, a->peer, n, &info) == 0; n++) {
		on_conn[n] = info.stats.bytes_out;
		weights += info.weight;
	}
	for (unsigned i = 0; i < WRITES; i++)
		write_to(a, b, len);
	total = WRITES * len;
	for (unsigned i = 0; i < nics->n; i++)
		check_share(carried(a, i) - before[i], total, nics->mbit[i], speed, 2 * len);
	for (unsigned k = 0; k < n; k++) {
		CHECK(pg_conn_info(a->g, a->peer, k, &info) == 0);
		check_share(info.stats.bytes_out - on_conn[k], total, info.weight, weights,
			    2 * len);
	}
}

static void test_speeds(const struct nics *x, const struct nics *y)
{
	struct side a, b;

	open_nics(&a, x);
	open_nics(&b, y);
	side_meet(&a, &b);
	side_meet(&b, &a);
	write_to(&a, &b, 8);
	write_to(&b, &a, 8);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t len = i ? 4096 : MEM; /* whole, by turns; or split */

		check_shares(&a, &b, x, len);
		check_shares(&b, &a, y, len);
	}
	pair_close(&a, &b);
}

/* A split write has the share of each NIC exactly. */
static void test_one_write(void)
{
	static const struct nics two = { .n = 2, .mbit = { 100, 300 } };
	static const struct nics one = { .n = 1, .mbit = { 400 } };
	struct side a, b;

	open_nics(&a, &two);
	open_nics(&b, &one);
	side_meet(&a, &b);
	write_to(&a, &b, MEM);
	CHECK_EQ(carried(&a, 0), MEM / 4);
	CHECK_EQ(carried(&a, 1), MEM / 4 * 3);
	pair_close(&a, &b);
}

/* Where both reach both, NICs of the same rail still go together. */
static void test_same_rail(void)
{
	static const struct nics x = { .n = 2, .mbit = { 100, 100 }, .rails = { 1, 2 } };
	static const struct nics y = { .n = 2, .mbit = { 100, 100 }, .rails = { 2, 1 } };
	struct side a, b;
	struct pg_conn_info info;

	open_nics(&a, &x);
	open_nics(&b, &y);
	side_meet(&a, &b);
	write_to(&a, &b, 8);
	for (unsigned i = 0; i < 2; i++) {
		CHECK(pg_conn_info(a.g, a.peer, i, &info) == 0);
		CHECK(info.nic == i && info.peer_nic == 1 - i);
	}
	CHECK(pg_conn_info(a.g, a.peer, 2, &info) == -ERANGE);
	pair_close(&a, &b);
}

/* A split write has one shard for each NIC of the side that has more, also where one of those is
 * joined to several. */
static void test_shards(void)
{
	static const struct nics two = { .n = 2, .mbit = { 150, 150 }, .rails = { 1, 2 } };
	static const struct nics three = { .n = 3,
					   .mbit = { 100, 100, 100 },
					   .rails = { 0, 1, 2 } };
	struct pg_conn_info info;
	struct pg_nic_stats stats;
	struct side a, b;
	uint64_t shards = 0;

	open_nics(&a, &two);
	open_nics(&b, &three);
	side_meet(&a, &b);
	write_to(&a, &b, MEM);
	CHECK(pg_conn_info(a.g, a.peer, 3, &info) == 0); /* four connections */
	CHECK_EQ(carried(&a, 0) + carried(&a, 1), MEM);
	pg_wait_flags(b.g, &(int32_t){ 0 }, 1, 0);
	for (unsigned i = 0; i < three.n; i++) {
		CHECK(pg_stats(b.g, i, &stats) == 0);
		shards += stats.imms_in;
	}
	CHECK_EQ(shards, three.n);
	pair_close(&a, &b);
}

/* Only one side knows that rails do not meet: both keep to it, whoever begins. */
static void test_one_knows(bool who_knows_begins)
{
	static const struct nics knows = {
		.n = 2, .mbit = { 300, 100 }, .rails = { 1, 2 }, .rail_only = true
	};
	static const struct nics not = { .n = 2, .mbit = { 100, 300 }, .rails = { 1, 2 } };
	struct side a, b;
	struct pg_conn_info info;

	open_nics(&a, who_knows_begins ? &knows : &not);
	open_nics(&b, who_knows_begins ? &not : &knows);
	side_meet(&a, &b);
	side_meet(&b, &a);
	write_to(&a, &b, MEM);
	write_to(&b, &a, MEM);
	for (unsigned i = 0; i < 2; i++) {
		CHECK(pg_conn_info(a.g, a.peer, i, &info) == 0);
		CHECK(info.nic == i && info.peer_nic == i);
		CHECK(pg_conn_info(b.g, b.peer, i, &info) == 0);
		CHECK(info.nic == i && info.peer_nic == i);
	}
	CHECK(pg_conn_info(a.g, a.peer, 2, &info) == -ERANGE);
	CHECK(pg_conn_info(b.g, b.peer, 2, &info) == -ERANGE);
	pair_close(&a, &b);
}

int main(void)
{
	static const struct nics some[] = {
		{ .n = 1, .mbit = { 400 } },
		{ .n = 2, .mbit = { 100, 300 } },
		{ .n = 2, .mbit = { 200, 200 } },
		{ .n = 3, .mbit = { 100, 100, 200 } },
		{ .n = 4, .mbit = { 100, 100, 100, 100 } },
	};
	const unsigned n = sizeof(some) / sizeof(some[0]);

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j <= i; j++)
			test_speeds(&some[i], &some[j]);
	test_one_write();
	test_same_rail();
	test_shards();
	test_one_knows(true);
	test_one_knows(false);
	printf("shares: 15 pairings of speeds, whole and split; rails\n");
	return 0;
}
