/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_UTIL_CLOCK_H
#define PGCTL_UTIL_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_SEC 1000000000ULL

/* Monotonic time. Costs some 20 ns: not for the submit path. */
static inline uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

/* The same to a few milliseconds, for a quarter of that. */
static inline uint64_t clock_coarse_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

/* The cheapest monotonic count: on x86-64 of a constant rate above one a nanosecond, the same on all
 * cores; elsewhere of nanoseconds. */
static inline uint64_t ticks(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	return clock_ns();
#endif
}

/* Whether it takes a system call: of clocks that only the kernel can read, and in some virtual machines. */
bool clock_is_slow(void);

#endif
