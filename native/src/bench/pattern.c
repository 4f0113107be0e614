/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "pgctl/bench.h"

#define WORD sizeof(uint64_t)
#define PAGE 4096

/* Word i of the pattern. Consecutive words have nothing in common, and neither have seeds. */
static inline uint64_t word(uint64_t seed, uint64_t i)
{
	uint64_t x = (i ^ seed) * 0x9e3779b97f4a7c15;

	x ^= x >> 32;
	return x * 0xd6e8feb86659fd93;
}

/* The part of [at, end) that lies in one word of the pattern; at is an offset in the pattern. */
static uint64_t part(uint64_t at, uint64_t end, uint64_t seed, uint8_t *bytes)
{
	uint64_t skip = at % WORD;
	uint64_t n = WORD - skip < end - at ? WORD - skip : end - at;
	uint64_t value = word(seed, at / WORD);

	memcpy(bytes, (const uint8_t *)&value + skip, n);
	return n;
}

void pg_bench_fill(void *ptr, uint64_t len, uint64_t seed, uint64_t origin)
{
	uint8_t *out = ptr;
	uint64_t at = origin, end = origin + len;

	if (at % WORD && at < end) {
		uint64_t n = part(at, end, seed, out);

		at += n;
		out += n;
	}
	for (; end - at >= WORD; at += WORD, out += WORD) {
		uint64_t value = word(seed, at / WORD);

		memcpy(out, &value, WORD);
	}
	if (at < end)
		part(at, end, seed, out);
}

/* The offset of the first byte that differs, or len. */
static uint64_t compare(const uint8_t *in, uint64_t len, uint64_t seed, uint64_t origin)
{
	uint64_t at = origin, end = origin + len;

	while (at < end) {
		uint8_t expected[WORD];
		uint64_t n;

		/* Whole words fast; the first that differs, and the edges, with care. */
		for (; at % WORD == 0 && end - at >= WORD; at += WORD) {
			uint64_t value = word(seed, at / WORD);

			if (memcmp(in + (at - origin), &value, WORD))
				break;
		}
		n = part(at, end, seed, expected);

		if (memcmp(in + (at - origin), expected, n)) {
			uint64_t i = 0;

			while (in[at - origin + i] == expected[i])
				i++;
			return at - origin + i;
		}
		at += n;
	}
	return len;
}

uint64_t pg_bench_verify(const void *ptr, uint64_t len, uint64_t n, uint64_t step, uint64_t seed,
			 uint64_t origin)
{
	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *piece = (const uint8_t *)ptr + i * step;
		uint64_t at = compare(piece, len, seed, origin + i * step);

		if (at < len)
			return i * step + at;
	}
	return UINT64_MAX;
}

void pg_bench_touch(const void *ptr, uint64_t len)
{
	const volatile uint8_t *bytes = ptr;

	for (uint64_t at = 0; at < len; at += PAGE)
		(void)bytes[at];
}
