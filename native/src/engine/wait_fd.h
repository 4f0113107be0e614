/* SPDX-License-Identifier: MIT
 *
 * A file descriptor for event loops of the application.
 */
#ifndef PGCTL_ENGINE_WAIT_FD_H
#define PGCTL_ENGINE_WAIT_FD_H

#include "engine/group.h"

int wait_fd_open(struct pg_group *g);

/* The domains are not armed any more, as somebody polls them. Under the lock. */
void wait_fd_disarm(struct pg_group *g);

void wait_fd_ring(struct pg_group *g);

/* Tells who sleeps on it that something was delivered, or that nobody makes progress any more. After
 * a full fence, or a seq_cst access. Any thread. */
static inline void wait_fd_notify(struct pg_group *g)
{
	/* seq_cst: Dekker with pg_wait_arm, which sets it and then looks for what was delivered */
	if (__builtin_expect(atomic_load(&g->armed), 0))
		wait_fd_ring(g);
}

#endif
