/* SPDX-License-Identifier: MIT */
#include "engine/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/peer.h"
#include "engine/progress.h"

/* The pool grows up to max_events buffers: that many more places are in the event queue. */
int messages_create(struct pg_group *g)
{
	int rc = ring_init(&g->free_recvs, g->config->max_events);

	if (rc)
		return rc;
	g->recvs = calloc(g->config->max_events, sizeof(*g->recvs));
	return g->recvs ? 0 : -ENOMEM;
}

void messages_destroy(struct pg_group *g)
{
	/* relaxed: nobody else is left */
	uint32_t n = atomic_load_explicit(&g->n_recvs, memory_order_relaxed);

	for (uint32_t i = 0; i < n; i++)
		free(g->recvs[i].data);
	free(g->recvs);
	ring_fini(&g->free_recvs);
}

unsigned message_room(struct pg_group *g)
{
	/* The holder of the lock is the only one to take buffers, so what is seen here stays. One at
	 * a time: sixteen were 40 % slower, as each is staged in memory of its own. */
	return ring_empty(&g->free_recvs) ? 0 : 1;
}

void message_arrived(struct pg_group *g, struct peer *p, const void *data, uint32_t len)
{
	struct recv_buffer *b;
	uint32_t i;

	if (!ring_pop(&g->free_recvs, &i))
		return;
	b = &g->recvs[i];
	b->event = (struct pg_event){
		.kind = PG_EVENT_RECV,
		.peer = handle_of(&p->h),
		.data = b->data,
		.len = len < b->size ? len : b->size,
	};
	if (len > b->size) {
		b->event.status = -EMSGSIZE;
		snprintf(b->event.text, sizeof(b->event.text),
			 "%s: message of %u bytes cut to the buffer's %u", peer_name(p).text, len,
			 b->size);
	}
	memcpy(b->data, data, b->event.len);
	/* relaxed: the queue's release orders it before the caller's release of the buffer */
	atomic_store_explicit(&b->state, 1, memory_order_relaxed);
	ring_put(&g->ready_events, recv_index(g, i));
	g->delivered = true;
}

int pg_submit_recvs(struct pg_group *g, uint32_t len, uint32_t count, struct pg_error *err)
{
	uint32_t n, i;

	if (group_forked(g))
		return group_stale(err);
	if (len == 0 || len > PG_MSG_MAX)
		return error_set(err, -EINVAL, "receive buffers of %u bytes; 1 to %d", len,
				 PG_MSG_MAX);
	if (count == 0)
		return error_set(err, -EINVAL, "0 receive buffers");
	group_enter(g);
	/* relaxed: written under the lock; the release below is for pg_recv_release */
	n = atomic_load_explicit(&g->n_recvs, memory_order_relaxed);
	if (count > g->config->max_events - n) {
		group_leave(g);
		return error_set(
			err, -ENOSPC,
			"no room for %u more receive buffers beside %u (PGCTL_MAX_EVENTS %u)",
			count, n, g->config->max_events);
	}
	for (i = n; i < n + count; i++) {
		g->recvs[i].data = malloc(len);
		if (!g->recvs[i].data)
			break;
		g->recvs[i].size = len;
		atomic_store_explicit(&g->n_recvs, i + 1, memory_order_release);
		ring_put(&g->free_recvs, i);
	}
	group_leave(g);
	if (i < n + count)
		return error_set(err, -ENOMEM, "no memory for %u receive buffers of %u bytes",
				 count, len);
	return 0;
}

int pg_recv_release(struct pg_group *g, const void *data)
{
	uint32_t n = group_forked(g) ? 0 : atomic_load_explicit(&g->n_recvs, memory_order_acquire);
	/* Buffers mostly come back in the order they are used. relaxed: only where to look first */
	uint32_t at = atomic_load_explicit(&g->next_release, memory_order_relaxed);

	for (uint32_t k = 0; k < n; k++, at++) {
		uint32_t i = at % n;
		struct recv_buffer *b = &g->recvs[i];

		if (b->data != data)
			continue;
		/* acq_rel: the caller's reads happen before the buffer's next use; a second release
		 * of the same buffer finds 0 */
		if (!atomic_exchange_explicit(&b->state, 0, memory_order_acq_rel))
			return -EINVAL;
		atomic_store_explicit(&g->next_release, i + 1, memory_order_relaxed);
		ring_put(&g->free_recvs, i);
		group_kick(g);
		return 0;
	}
	return -EINVAL;
}
