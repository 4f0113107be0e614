/* SPDX-License-Identifier: MIT */
#include "util/ring.h"

#include <errno.h>
#include <stdlib.h>

#define RING_MAX (1U << 30) /* tickets are compared by the sign of a 32-bit difference */

int ring_init(struct ring *r, uint32_t capacity)
{
	/* With one cell, "free for the next push" and "holds a value" would be the same ticket. */
	if (capacity < 2 || capacity > RING_MAX || (capacity & (capacity - 1)))
		return -EINVAL;
	r->cells = malloc(capacity * sizeof(*r->cells));
	if (!r->cells)
		return -ENOMEM;
	r->mask = capacity - 1;
	for (uint32_t i = 0; i < capacity; i++)
		atomic_init(&r->cells[i].ticket, i);
	atomic_init(&r->tail, 0);
	atomic_init(&r->head, 0);
	return 0;
}

void ring_fini(struct ring *r)
{
	free(r->cells);
	r->cells = NULL;
}
