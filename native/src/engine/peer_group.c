/* SPDX-License-Identifier: MIT
 *
 * Peers that are addressed together: looked up and connected once, so that a barrier or a scatter to
 * all of them only has to see that the group is still there.
 */
#include "engine/peer_group.h"

#include <stdlib.h>
#include <string.h>

#include "engine/peer.h"
#include "engine/progress.h"
#include "util/clock.h"

struct peer_group *peer_group_get(const struct pg_group *g, pg_peer_group_t handle,
				  struct pg_error *err)
{
	int rc;
	struct peer_group *pg = handles_get(&g->peer_groups, handle, &rc);

	if (!pg)
		error_set(err, rc,
			  rc == -ESTALE ? "peer group 0x%llx has been removed"
					: "0x%llx is not a peer group",
			  (unsigned long long)handle);
	return pg;
}

int peer_group_size(const struct pg_group *g, pg_peer_group_t handle, uint32_t *n,
		    struct pg_error *err)
{
	const struct peer_group *pg = peer_group_get(g, handle, err);

	if (!pg)
		return -ESTALE;
	*n = atomic_load_explicit(&pg->n, memory_order_relaxed);
	return handle_still(&pg->h, handle);
}

static int check_members(struct pg_group *g, const pg_peer_t *peers, uint32_t n,
			 struct pg_error *err)
{
	if (n == 0 || !peers)
		return error_set(err, -EINVAL, "a group of 0 peers");
	if (n >= g->config->max_ops)
		return error_set(err, -EINVAL, "a group of %u peers; less than max_ops, %u", n,
				 g->config->max_ops);
	for (uint32_t i = 0; i < n; i++) {
		int rc;

		if (!handles_get(&g->peers, peers[i], &rc))
			return error_set(err, rc, "member %u: 0x%llx is not a peer", i,
					 (unsigned long long)peers[i]);
		for (uint32_t j = 0; j < i; j++)
			if (peers[j] == peers[i])
				return error_set(err, -EINVAL,
						 "members %u and %u are the same peer", j, i);
	}
	return 0;
}

/* All at once, then each is waited for. */
static int connect_all(struct pg_group *g, const pg_peer_t *peers, uint32_t n, uint64_t timeout_ns,
		       struct pg_error *err)
{
	uint64_t start = clock_ns();
	int rc;

	if (timeout_ns == PG_DEFAULT_TIMEOUT)
		timeout_ns = g->config->op_timeout_ns;
	group_enter(g);
	for (uint32_t i = 0; i < n; i++) {
		struct peer *p = handles_get(&g->peers, peers[i], &rc);

		if (p)
			peer_ready(g, p);
	}
	group_leave(g);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t gone = clock_ns() - start;

		rc = pg_connect(g, peers[i], gone < timeout_ns ? timeout_ns - gone : 0, err);
		if (rc)
			return rc;
	}
	return 0;
}

int pg_add_peer_group(struct pg_group *g, const pg_peer_t *peers, uint32_t n, uint64_t timeout_ns,
		      pg_peer_group_t *peer_group, struct pg_error *err)
{
	struct peer_group *pg;
	pg_peer_t *copy;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	rc = check_members(g, peers, n, err);
	if (rc)
		return rc;
	group_hold(g);
	rc = connect_all(g, peers, n, timeout_ns, err);
	group_drop(g);
	if (rc)
		return rc;
	copy = malloc(n * sizeof(*copy));
	if (!copy)
		return error_set(err, -ENOMEM, "no memory for a group of %u peers", n);
	memcpy(copy, peers, n * sizeof(*copy));
	group_enter(g);
	pg = handles_take(&g->peer_groups);
	if (pg) {
		/* relaxed: who reads it without the lock looks at the handle again afterwards */
		atomic_store_explicit(&pg->n, n, memory_order_relaxed);
		pg->peers = copy;
		handles_publish(&pg->h);
		*peer_group = handle_of(&pg->h);
	}
	group_leave(g);
	if (!pg) {
		free(copy);
		return error_set(err, -ENOSPC, "no room for more than %u peer groups",
				 g->peer_groups.capacity);
	}
	return 0;
}

int pg_remove_peer_group(struct pg_group *g, pg_peer_group_t handle, struct pg_error *err)
{
	struct peer_group *pg;
	int rc = 0;

	if (group_forked(g))
		return group_stale(err);
	group_enter(g);
	pg = peer_group_get(g, handle, err);
	if (!pg) {
		rc = -ESTALE;
	} else if (!handle_unused(&pg->h)) {
		rc = error_set(err, -EBUSY, "operations or expectations use the peer group");
	} else {
		handles_retire(&pg->h);
		free(pg->peers);
		pg->peers = NULL;
		handles_release(&g->peer_groups, &pg->h);
	}
	group_leave(g);
	return rc;
}

void peer_groups_close(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->peer_groups.used; i++) {
		struct peer_group *pg = (struct peer_group *)handles_slot(&g->peer_groups, i);

		free(pg->peers);
	}
	handles_fini(&g->peer_groups);
}
