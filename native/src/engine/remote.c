/* SPDX-License-Identifier: MIT
 *
 * Peers' regions as we see them: imported, mapped if that is how they are written to, released.
 */
#include "engine/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "util/error.h"

int rmr_len(const struct pg_group *g, pg_rmr_t rmr, uint64_t *len)
{
	int rc;
	struct rmr *r = handles_get(&g->rmrs, rmr, &rc);

	if (!r)
		return rc;
	*len = atomic_load_explicit(&r->len, memory_order_relaxed);
	return handle_still(&r->h, rmr);
}

int rmr_usable(struct pg_group *g, pg_rmr_t handle, bool locked, struct pg_error *err)
{
	int rc;
	const struct rmr *r = handles_get(&g->rmrs, handle, &rc);

	if (r && rmr_state(r) != RMR_FAILED)
		return 0;
	/* Why is read under the lock, as its place may become another's. */
	if (!locked)
		group_enter(g);
	r = handles_get(&g->rmrs, handle, &rc);
	if (!r)
		error_set(err, rc, "the destination region has been released");
	else if (rmr_state(r) == RMR_FAILED)
		rc = error_set(err, r->status, "%s", r->reason);
	if (!locked)
		group_leave(g);
	return rc;
}

bool rmr_ready(struct pg_group *g, struct rmr *rmr)
{
	if (rmr_state(rmr) == RMR_KNOWN)
		region_ask(g, rmr);
	return rmr_state(rmr) == RMR_READY;
}

void rmr_fail(struct rmr *rmr, int status, const char *text)
{
	rmr->status = status;
	snprintf(rmr->reason, sizeof(rmr->reason), "%s: %.180s", peer_name(rmr->peer).text, text);
	rmr_set_state(rmr, RMR_FAILED);
}

void rmr_mapped(struct pg_group *g, struct rmr *rmr, int status, const struct offer *offer)
{
	struct domain *d = g->domains[0];
	struct pg_error err = { 0 };
	int rc = 0;

	if (status == -ESTALE) {
		rmr_fail(rmr, status, "the region was unregistered");
	} else if (status) {
		rmr_fail(rmr, -EPROTO, "its owner cannot share the region");
	} else if (rmr->desc.kind == MR_ENGINE && d->caps.maps_peer) {
		rc = d->transport->mr_import(d, offer, rmr->desc.len, &rmr->mapped, &err);
		if (rc)
			rmr_fail(rmr, rc, err.text);
	}
	if (!status && !rc)
		rmr_set_state(rmr, RMR_READY);
	g->delivered = true; /* for those who wait for its state */
}

static void fail_with_peer(struct rmr *rmr)
{
	rmr->status = rmr->peer->status;
	memcpy(rmr->reason, rmr->peer->reason, sizeof(rmr->reason));
	rmr_set_state(rmr, RMR_FAILED);
}

void rmrs_of_peer_failed(struct pg_group *g, struct peer *p)
{
	for (uint32_t i = 0; i < g->rmrs.used; i++) {
		struct rmr *rmr = (struct rmr *)handles_slot(&g->rmrs, i);

		if (rmr->peer != p || rmr_state(rmr) == RMR_FAILED)
			continue;
		g->handshakes -= rmr_state(rmr) == RMR_ASKED;
		fail_with_peer(rmr);
	}
}

void rmrs_of_peer_stale(struct pg_group *g, const struct peer *p, const char *why)
{
	for (uint32_t i = 0; i < g->rmrs.used; i++) {
		struct rmr *rmr = (struct rmr *)handles_slot(&g->rmrs, i);

		if (rmr->peer == p && !rmr->released)
			rmr_fail(rmr, -ESTALE, why);
	}
}

static int take_rmr(struct pg_group *g, const struct mr_desc *desc, pg_rmr_t *handle,
		    struct pg_error *err)
{
	struct peer *p = peer_find(g, desc->incarnation, desc->group);
	struct rmr *rmr;

	if (!p)
		return error_set(
			err, -ENOENT,
			"the owner of this region is not a known peer: add its address first");
	if (desc->n_keys != p->addr.n_domains)
		return error_set(err, -EPROTO, "the region has %u keys, its owner %u NICs",
				 desc->n_keys, p->addr.n_domains);
	rmr = handles_take(&g->rmrs);
	if (!rmr)
		return error_set(err, -ENOSPC,
				 "no room for more than %u imported regions (PGCTL_MAX_REGIONS)",
				 g->rmrs.capacity);
	rmr->peer = p;
	rmr->desc = *desc;
	rmr->mapped = NULL;
	rmr->exposed = rmr->claimed = rmr->released = false;
	list_init(&rmr->leaving);
	rmr->status = 0;
	handle_ref(&p->h);
	atomic_store_explicit(&rmr->len, desc->len, memory_order_relaxed);
	rmr_set_state(rmr, RMR_KNOWN);
	if (!peer_alive(p))
		fail_with_peer(rmr);
	handles_publish(&rmr->h);
	*handle = rmr->cookie = handle_of(&rmr->h);
	return 0;
}

int pg_import_mr(struct pg_group *g, const void *desc, size_t len, pg_rmr_t *rmr,
		 struct pg_error *err)
{
	struct mr_desc decoded;
	int rc = group_forked(g) ? group_stale(err) : mr_desc_decode(desc, len, &decoded, err);

	if (rc)
		return rc;
	group_enter(g);
	rc = take_rmr(g, &decoded, rmr, err);
	group_leave(g);
	return rc;
}

void rmr_unmap(struct pg_group *g, struct rmr *rmr)
{
	if (rmr->mapped)
		g->domains[0]->transport->mr_unimport(g->domains[0], rmr->mapped, rmr->desc.len);
	rmr->mapped = NULL;
}

void rmr_free(struct pg_group *g, struct rmr *rmr)
{
	handle_unref(&rmr->peer->h);
	rmr->peer = NULL;
	handles_release(&g->rmrs, &rmr->h);
}

int pg_release_rmr(struct pg_group *g, pg_rmr_t handle, struct pg_error *err)
{
	struct rmr *rmr;
	int rc = 0;

	if (group_forked(g))
		return group_stale(err);
	group_enter(g);
	rmr = handles_get(&g->rmrs, handle, &rc);
	if (!rmr) {
		error_set(err, rc, "0x%llx is not an imported region", (unsigned long long)handle);
	} else if (!handle_unused(&rmr->h)) {
		rc = error_set(err, -EBUSY, "operations in flight still write to the region");
	} else {
		handles_retire(&rmr->h);
		rmr->released = true;
		g->handshakes -= rmr_state(rmr) == RMR_ASKED;
		rmr_set_state(rmr, RMR_FAILED);
		region_leave(g, rmr);
	}
	group_leave(g);
	return rc;
}

static void map_rmr(struct pg_group *g, void *arg)
{
	struct rmr *rmr = arg;

	if (peer_ready(g, rmr->peer))
		rmr_ready(g, rmr);
}

static bool mapped_or_not(struct pg_group *g, void *arg)
{
	const struct rmr *rmr = arg;
	enum rmr_state state = rmr_state(rmr);

	(void)g;
	return state == RMR_READY || state == RMR_FAILED || !peer_alive(rmr->peer);
}

static int wait_mapped(struct pg_group *g, struct rmr *rmr, uint64_t timeout_ns, void **ptr,
		       struct pg_error *err)
{
	int rc = group_retry(g, map_rmr, mapped_or_not, rmr, timeout_ns);

	if (rc)
		return error_set(err, rc, "the region is not mapped: %s",
				 rc == -ETIMEDOUT ? "no answer in time; does its owner make "
						    "progress?"
						  : strerror(-rc));
	if (rmr_state(rmr) == RMR_FAILED)
		return error_set(err, rmr->status, "%s", rmr->reason);
	if (rmr_state(rmr) != RMR_READY)
		return error_set(err, rmr->peer->status, "%s", rmr->peer->reason);
	if (!rmr->mapped)
		return error_set(err, -ENOTSUP,
				 "memory that its owner registered is not mapped here");
	*ptr = rmr->mapped;
	return 0;
}

int pg_remote_ptr(struct pg_group *g, pg_rmr_t handle, uint64_t timeout_ns, void **ptr,
		  struct pg_error *err)
{
	struct rmr *rmr;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	group_hold(g);
	group_enter(g);
	rmr = handles_get(&g->rmrs, handle, &rc);
	if (rmr) {
		handle_ref(&rmr->h);
		rmr->exposed = true;
	}
	group_leave(g);
	if (!rmr) {
		group_drop(g);
		return error_set(err, rc, "0x%llx is not an imported region",
				 (unsigned long long)handle);
	}
	rc = wait_mapped(g, rmr, timeout_ns, ptr, err);
	group_enter(g);
	handle_unref(&rmr->h);
	group_leave(g);
	group_drop(g);
	return rc;
}

void remote_close(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->rmrs.used; i++) {
		struct rmr *rmr = (struct rmr *)handles_slot(&g->rmrs, i);

		if (rmr->peer)
			rmr_unmap(g, rmr);
	}
}
