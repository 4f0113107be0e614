/* SPDX-License-Identifier: MIT */
#include "engine/handle.h"

#include <sys/mman.h>

#define NO_SLOT UINT32_MAX

int handles_init(struct handles *t, uint32_t capacity, size_t slot_size)
{
	/* Untouched slots cost no memory. */
	void *slots = mmap(NULL, capacity * slot_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (slots == MAP_FAILED)
		return -errno;
	*t = (struct handles){
		.slots = slots, .slot_size = slot_size, .capacity = capacity, .free = NO_SLOT
	};
	return 0;
}

void handles_fini(struct handles *t)
{
	if (t->slots)
		munmap(t->slots, t->capacity * t->slot_size);
	t->slots = NULL;
}

void *handles_take(struct handles *t)
{
	struct handle *h;

	if (t->free != NO_SLOT) {
		h = handles_slot(t, t->free);
		t->free = h->next_free;
	} else if (t->used < t->capacity) {
		h = handles_slot(t, t->used);
		h->index = t->used++;
	} else {
		return NULL;
	}
	atomic_store_explicit(&h->refs, 0, memory_order_relaxed);
	return h;
}

/* The generation has one writer at a time (progress lock), so plain load and store do. */
static void bump(struct handle *h, uint32_t by)
{
	uint32_t g = atomic_load_explicit(&h->generation, memory_order_relaxed);

	/* release: readers that see the new generation see the slot's contents */
	atomic_store_explicit(&h->generation, g + by, memory_order_release);
}

void handles_publish(struct handle *h)
{
	bump(h, 1);
}

void handles_retire(struct handle *h)
{
	bump(h, 1);
}

void handles_revive(struct handle *h)
{
	bump(h, (uint32_t)-1);
}

void handles_release(struct handles *t, struct handle *h)
{
	h->next_free = t->free;
	t->free = h->index;
}
