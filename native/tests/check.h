/* SPDX-License-Identifier: MIT
 *
 * What a test is made of. Unlike assert(), never compiled out. */
#ifndef PGCTL_TESTS_CHECK_H
#define PGCTL_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))

#define CHECK_EQ(got, want) \
	check_eq(__FILE__, __LINE__, #got, (intmax_t)(got), #want, (intmax_t)(want))

__attribute__((noreturn, unused)) static void check_failed(const char *file, int line,
							   const char *cond)
{
	fprintf(stderr, "%s:%d: not true: %s\n", file, line, cond);
	exit(1);
}

__attribute__((unused)) static void check_eq(const char *file, int line, const char *got_text,
					     intmax_t got, const char *want_text, intmax_t want)
{
	if (got == want)
		return;
	fprintf(stderr, "%s:%d: %s is %jd, not %s = %jd\n", file, line, got_text, got, want_text,
		want);
	exit(1);
}

/* A seeded generator (splitmix64), so that a failure can be repeated. */
__attribute__((unused)) static uint64_t check_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

#endif
