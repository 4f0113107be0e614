/* SPDX-License-Identifier: MIT
 *
 * How many immediates of each value a connection has carried: what is left to say of it when it
 * breaks and nothing on it is ordered. Under the progress lock. */
#ifndef PGCTL_ENGINE_SUMS_H
#define PGCTL_ENGINE_SUMS_H

#include <stdint.h>

struct sum {
	uint32_t imm;  /* as on the wire */
	int32_t count; /* 0: the slot is free */
	/* Of those that were received: how many there were when an expectation last fired, as far as
	 * `fire`, the last one that is known of, says. */
	int32_t taken;
	uint32_t fire;
};

/* All zeros: empty. Open addressing; at most half of the slots are taken. */
struct sums {
	struct sum *slots;
	uint64_t multiplier; /* secret and odd: nobody can aim at one slot */
	uint32_t mask;
	uint32_t n; /* values whose count is not 0 */
};

#define SUMS_MAX 65536 /* values */

void sums_clear(struct sums *s);

/* -ENOMEM, or -ENOSPC beyond SUMS_MAX values; nothing has changed then. A count may be below 0. */
int sums_add(struct sums *s, uint32_t imm, int32_t count);

/* The next n of these succeed. */
int sums_reserve(struct sums *s, uint32_t n);

/* NULL: its count is 0. */
struct sum *sums_find(const struct sums *s, uint32_t imm);

int32_t sums_get(const struct sums *s, uint32_t imm);

/* Takes out up to max of the values of which keep(arg, imm) is false; how many. */
uint32_t sums_take(struct sums *s, struct sum *out, uint32_t max,
		   int (*keep)(void *arg, uint32_t imm), void *arg);

#endif
