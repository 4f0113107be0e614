/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_UTIL_SPLITMIX_H
#define PGCTL_UTIL_SPLITMIX_H

#include <stdint.h>

/* A seeded generator, so that what it decided can be repeated; anybody can guess it. */
static inline uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* 0 to n - 1. */
static inline uint64_t splitmix64_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)((unsigned __int128)splitmix64(state) * n >> 64);
}

#endif
