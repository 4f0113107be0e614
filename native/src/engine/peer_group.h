/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_ENGINE_PEER_GROUP_H
#define PGCTL_ENGINE_PEER_GROUP_H

#include "engine/group.h"

#define MAX_PEER_GROUPS 1024

/* NULL, and why. Under the lock, as are its members. */
struct peer_group *peer_group_get(const struct pg_group *g, pg_peer_group_t handle,
				  struct pg_error *err);

/* How many members it has. Any thread. */
int peer_group_size(const struct pg_group *g, pg_peer_group_t handle, uint32_t *n,
		    struct pg_error *err);

void peer_groups_close(struct pg_group *g);

#endif
