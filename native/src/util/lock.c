/* SPDX-License-Identifier: MIT */
#include "util/lock.h"

#define LOCK_SPINS 32 /* pauses: longer than what we hold locks for, shorter than a sleep */

void lock_acquire_contended(struct lock *lock)
{
	for (int i = 0; i < LOCK_SPINS; i++) {
		/* Relaxed: only a hint. With sleepers about, spinning would jump the queue. */
		uint32_t state = atomic_load_explicit(&lock->state, memory_order_relaxed);

		if (state == LOCK_FREE && lock_try(lock))
			return;
		if (state == LOCK_WAITED)
			break;
		cpu_relax();
	}
	/* From here on we hold it as LOCK_WAITED: others may sleep, and we cannot know. Acquire: as
	 * in lock_try. */
	while (atomic_exchange_explicit(&lock->state, LOCK_WAITED, memory_order_acquire) !=
	       LOCK_FREE)
		futex_wait(&lock->state, LOCK_WAITED, UINT64_MAX);
}
