/* SPDX-License-Identifier: MIT
 *
 * Tables of things that callers name by a 64-bit handle: generation (high half) and slot.
 *
 * The slots of a table live as long as the table and are never moved, so that a submitter may look
 * at one without a lock. A generation is odd while its slot is in use; taking or releasing a slot
 * changes it, which turns every older handle stale. Tables change only under the progress lock.
 */
#ifndef PGCTL_ENGINE_HANDLE_H
#define PGCTL_ENGINE_HANDLE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* First member of every kind of slot. */
struct handle {
	_Atomic uint32_t generation;
	uint32_t index;
	uint32_t next_free;
	/* Who uses it: operations in flight; of a peer, its imported regions; of a region, the peers
	 * that may write there; of a peer group, expectations. Written under the progress lock only;
	 * a waiter reads it without, see handle_unref. */
	_Atomic uint32_t refs;
};

struct handles {
	void *slots;
	size_t slot_size;
	uint32_t capacity;
	uint32_t used; /* slots ever taken; the rest has never been touched */
	uint32_t free;
};

int handles_init(struct handles *t, uint32_t capacity, size_t slot_size);
void handles_fini(struct handles *t);

/* A slot, or NULL when all are taken. The caller fills every member (there may be old ones), then
 * publishes it. */
void *handles_take(struct handles *t);
void handles_publish(struct handle *h);
/* Turns handles stale; the slot stays taken. */
void handles_retire(struct handle *h);
/* Undoes handles_retire. */
void handles_revive(struct handle *h);
/* Gives back a retired or unpublished slot. */
void handles_release(struct handles *t, struct handle *h);

static inline struct handle *handles_slot(const struct handles *t, uint32_t i)
{
	return (struct handle *)(void *)((char *)t->slots + i * t->slot_size);
}

static inline uint64_t handle_of(const struct handle *h)
{
	/* relaxed: whoever asks for the handle made it or holds the lock */
	return (uint64_t)atomic_load_explicit(&h->generation, memory_order_relaxed) << 32 |
	       (h->index + 1);
}

/* The slot, or NULL; *code says 0, -EINVAL (never a handle) or -ESTALE. */
static inline void *handles_get(const struct handles *t, uint64_t handle, int *code)
{
	uint32_t index = (uint32_t)handle - 1, generation = (uint32_t)(handle >> 32);
	struct handle *h;

	*code = -EINVAL;
	if (index >= t->capacity || !(generation & 1))
		return NULL;
	h = handles_slot(t, index);
	/* acquire: pairs with handles_publish, so that the slot's contents are seen */
	*code = atomic_load_explicit(&h->generation, memory_order_acquire) == generation ? 0
											 : -ESTALE;
	return *code ? NULL : h;
}

static inline void handle_ref(struct handle *h)
{
	atomic_store_explicit(&h->refs, atomic_load_explicit(&h->refs, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

static inline void handle_unref(struct handle *h)
{
	/* release: a waiter that sees 0 may free what the operation used */
	atomic_store_explicit(&h->refs, atomic_load_explicit(&h->refs, memory_order_relaxed) - 1,
			      memory_order_release);
}

static inline bool handle_unused(struct handle *h)
{
	/* acquire: pairs with handle_unref */
	return atomic_load_explicit(&h->refs, memory_order_acquire) == 0;
}

/* Of what was just read from the slot, which may have changed hands meanwhile: it counts if the
 * handle still holds. 0 or -ESTALE. */
static inline int handle_still(const struct handle *h, uint64_t handle)
{
	/* acquire: what was read was read before the generation is, again */
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&h->generation, memory_order_relaxed) == handle >> 32 ? 0
											  : -ESTALE;
}

#endif
