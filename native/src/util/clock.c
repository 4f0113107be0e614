/* SPDX-License-Identifier: MIT */
#include "util/clock.h"

#define SLOW_NS 200
#define READS 8
#define TRIES 8

bool clock_is_slow(void)
{
	/* Some try is not interrupted. */
	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t begin = clock_ns(), end = begin;

		for (unsigned k = 0; k < READS; k++)
			end = clock_ns();
		if (end - begin < SLOW_NS * READS)
			return false;
	}
	return true;
}
