/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "engine/shard.h"

static uint64_t splits;

/* Within align of the ideal, len * weight / total. */
static void check_share(uint64_t got, uint64_t len, uint64_t weight, uint64_t total, uint64_t align)
{
	unsigned __int128 mine = (unsigned __int128)got * total;
	unsigned __int128 ideal = (unsigned __int128)len * weight;
	unsigned __int128 off = mine > ideal ? mine - ideal : ideal - mine;

	CHECK(off <= (unsigned __int128)align * total);
}

static void check_split(uint64_t len, unsigned n, const uint32_t *weights, uint64_t align)
{
	struct shard shards[PG_MAX_DOMAINS] = { { 0 } };
	uint64_t shares[PG_MAX_DOMAINS] = { 0 };
	uint64_t next = 0;
	uint64_t total = 0;
	unsigned k = shard_split(len, n, weights, align, shards);

	splits++;
	CHECK(k >= 1 && k <= n);
	for (unsigned i = 0; i < k; i++) {
		CHECK(shards[i].lane < n);
		CHECK(i == 0 || shards[i].lane > shards[i - 1].lane);
		CHECK(weights[shards[i].lane] > 0);
		CHECK(shards[i].len > 0);
		CHECK_EQ(shards[i].offset, next);
		CHECK_EQ(shards[i].offset % align, 0);
		next += shards[i].len;
		shares[shards[i].lane] = shards[i].len;
	}
	CHECK_EQ(next, len);
	for (unsigned i = 0; i < n; i++)
		total += weights[i];
	for (unsigned i = 0; i < n; i++) {
		if (k > 1)
			check_share(shares[i], len, weights[i], total, align);
		else
			CHECK(weights[shards[0].lane] >= weights[i]);
	}
}

static void check_lens(unsigned n, const uint32_t *weights)
{
	static const uint64_t lens[] = {
		65535,          65536,      65537,      1 << 20,          (1 << 20) + 1,
		1000000007,     1ULL << 32, 3ULL << 40, (1ULL << 63) + 1, UINT64_MAX - 64,
		UINT64_MAX - 1, UINT64_MAX,
	};

	for (uint64_t align = 1; align <= 4096; align *= 8) {
		for (uint64_t len = 1; len <= 300; len++)
			check_split(len, n, weights, align);
		for (unsigned i = 0; i < sizeof(lens) / sizeof(*lens); i++)
			check_split(lens[i], n, weights, align);
	}
	for (uint64_t len = 1; len < 5 * SHARD_ALIGN; len++)
		check_split(len, n, weights, SHARD_ALIGN);
}

/* Every combination of these weights over 1 to 4 lanes. */
static void test_all(void)
{
	static const uint32_t values[] = { 0, 1, 3, 100000, 400000, UINT32_MAX };
	const unsigned n_values = sizeof(values) / sizeof(*values);

	for (unsigned n = 1, combinations = n_values; n <= PG_MAX_DOMAINS;
	     n++, combinations *= n_values) {
		for (unsigned c = 1; c < combinations; c++) {
			uint32_t weights[PG_MAX_DOMAINS];
			unsigned rest = c;

			for (unsigned i = 0; i < n; i++, rest /= n_values)
				weights[i] = values[rest % n_values];
			check_lens(n, weights);
		}
	}
}

static void test_equal(void)
{
	static const uint32_t weights[] = { 400000, 400000, 400000, 400000 };
	struct shard shards[PG_MAX_DOMAINS];

	for (unsigned n = 1; n <= PG_MAX_DOMAINS; n++) {
		CHECK_EQ(shard_split(n * 65536, n, weights, SHARD_ALIGN, shards), n);
		for (unsigned i = 0; i < n; i++) {
			CHECK_EQ(shards[i].lane, i);
			CHECK_EQ(shards[i].len, 65536);
		}
	}
}

static void test_wire(void)
{
	static const uint32_t imms[] = { 0, 1, 0x2aaaaaaa, PG_IMM_MAX };

	for (unsigned i = 0; i < sizeof(imms) / sizeof(*imms); i++) {
		CHECK_EQ(imm_wire(imms[i], 1), imms[i]);
		for (unsigned k = 1; k <= PG_MAX_DOMAINS; k++) {
			CHECK_EQ(imm_wire_id(imm_wire(imms[i], k)), imms[i]);
			CHECK_EQ(imm_wire_k(imm_wire(imms[i], k)), k);
		}
	}
	CHECK_EQ(imm_wire(PG_IMM_MAX, 4), UINT32_MAX);
}

int main(void)
{
	test_all();
	test_equal();
	test_wire();
	printf("shard: %ju splits cover exactly, aligned, in proportion\n", (uintmax_t)splits);
	return 0;
}
