/* SPDX-License-Identifier: MIT
 *
 * A mutex of four bytes, free when zero. It spins for a microsecond at most and then sleeps: on a
 * machine with few cores the holder may need ours. It is not fair and not recursive. */
#ifndef PGCTL_UTIL_LOCK_H
#define PGCTL_UTIL_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/futex.h"

enum lock_state {
	LOCK_FREE,
	LOCK_HELD,
	LOCK_WAITED, /* held, and somebody may sleep: the release must wake */
};

struct lock {
	_Atomic uint32_t state; /* enum lock_state */
};

void lock_acquire_contended(struct lock *lock);

static inline bool lock_try(struct lock *lock)
{
	uint32_t state = LOCK_FREE;

	/* Acquire: see what the last holder wrote. A failure promises nothing, hence relaxed. */
	return atomic_compare_exchange_strong_explicit(&lock->state, &state, LOCK_HELD,
						       memory_order_acquire, memory_order_relaxed);
}

static inline void lock_acquire(struct lock *lock)
{
	if (!lock_try(lock))
		lock_acquire_contended(lock);
}

static inline void lock_release(struct lock *lock)
{
	/* Release, for the next holder to see what we wrote; seq_cst, so that who then looks
	 * whether somebody waits for something else, and who waited and then looked at lock_idle,
	 * cannot miss each other. On x86 it costs the same. */
	if (atomic_exchange_explicit(&lock->state, LOCK_FREE, memory_order_seq_cst) == LOCK_WAITED)
		futex_wake(&lock->state, 1);
}

/* A hint: nobody holds it just now. */
static inline bool lock_idle(const struct lock *lock)
{
	return atomic_load_explicit(&lock->state, memory_order_seq_cst) == LOCK_FREE;
}

#endif
