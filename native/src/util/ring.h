/* SPDX-License-Identifier: MIT
 *
 * A bounded lock-free queue of numbers for any number of producers and consumers, after Dmitry
 * Vyukov.
 *
 * Each cell carries a ticket. With p the position of the next push (or pop) that will use it, it
 * reads p when the cell is free for that push, and p + 1 when it holds the value for that pop. Who
 * wins the position owns the cell until it writes the next ticket. A thread that is preempted in
 * between delays nobody but at that cell, where the ring looks full (or empty) although it is not:
 * hence ring_put. */
#ifndef PGCTL_UTIL_RING_H
#define PGCTL_UTIL_RING_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RING_LINE 64

struct ring_cell {
	_Atomic uint32_t ticket; /* the low bits of a position */
	uint32_t value;
};

/* Kept apart by padding and not by alignment, so that whatever embeds a ring can come from calloc.
 * The positions have 64 bits: they never come round while a thread sleeps before its
 * compare-exchange. */
struct ring {
	struct ring_cell *cells;
	uint32_t mask;
	char pad_cells[RING_LINE];
	_Atomic uint64_t tail; /* next push */
	char pad_tail[RING_LINE];
	_Atomic uint64_t head; /* next pop */
	char pad_head[RING_LINE];
};

/* -EINVAL unless capacity is a power of two from 2 to 2^30; -ENOMEM. */
int ring_init(struct ring *r, uint32_t capacity);
/* Fine on a ring that is all zeros or already finished. */
void ring_fini(struct ring *r);

/* false: full, or a pop of this cell has not ended. */
static inline bool ring_push(struct ring *r, uint32_t v)
{
	/* Relaxed, and so the compare-exchange: positions only share out cells, tickets order
	 * them. */
	uint64_t pos = atomic_load_explicit(&r->tail, memory_order_relaxed);

	for (;;) {
		struct ring_cell *cell = &r->cells[pos & r->mask];
		/* Acquire: the pop that freed this cell has read its value. */
		uint32_t ticket = atomic_load_explicit(&cell->ticket, memory_order_acquire);
		int32_t ahead = (int32_t)(ticket - (uint32_t)pos);

		if (ahead < 0)
			return false;
		if (ahead > 0) {
			pos = atomic_load_explicit(&r->tail, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(&r->tail, &pos, pos + 1,
								 memory_order_relaxed,
								 memory_order_relaxed)) {
			cell->value = v;
			/* Release: who sees the ticket sees the value. */
			atomic_store_explicit(&cell->ticket, (uint32_t)pos + 1,
					      memory_order_release);
			return true;
		}
	}
}

/* For a ring with a place for everything there is: it can look full, but only until that pop
 * ends. */
static inline void ring_put(struct ring *r, uint32_t v)
{
	while (!ring_push(r, v))
		sched_yield();
}

/* false: empty, or the push of this cell has not ended. */
static inline bool ring_pop(struct ring *r, uint32_t *v)
{
	/* Orders as in ring_push. */
	uint64_t pos = atomic_load_explicit(&r->head, memory_order_relaxed);

	for (;;) {
		struct ring_cell *cell = &r->cells[pos & r->mask];
		/* Acquire: the push that filled this cell has written its value. */
		uint32_t ticket = atomic_load_explicit(&cell->ticket, memory_order_acquire);
		int32_t ahead = (int32_t)(ticket - ((uint32_t)pos + 1));

		if (ahead < 0)
			return false;
		if (ahead > 0) {
			pos = atomic_load_explicit(&r->head, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(&r->head, &pos, pos + 1,
								 memory_order_relaxed,
								 memory_order_relaxed)) {
			*v = cell->value;
			/* Release: the push that reuses the cell comes after our read of it. */
			atomic_store_explicit(&cell->ticket, (uint32_t)pos + r->mask + 1,
					      memory_order_release);
			return true;
		}
	}
}

/* A hint: true when a pop would have found nothing just now. Relaxed: whoever acts on it pops. */
static inline bool ring_empty(const struct ring *r)
{
	uint64_t pos = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint32_t ticket =
		atomic_load_explicit(&r->cells[pos & r->mask].ticket, memory_order_relaxed);

	return (int32_t)(ticket - ((uint32_t)pos + 1)) < 0;
}

#endif
