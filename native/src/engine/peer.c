/* SPDX-License-Identifier: MIT */
#include "engine/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/handshake.h"
#include "engine/paths.h"
#include "engine/progress.h"

/* ---- Who ---- */

struct peer_name peer_name(const struct peer *p)
{
	const uint8_t *i = p->addr.incarnation;
	struct peer_name name;
	int n = snprintf(name.text, sizeof(name.text), "peer %02x%02x%02x%02x.%u", i[0], i[1], i[2],
			 i[3], p->addr.group);

	if (p->pid)
		snprintf(name.text + n, sizeof(name.text) - (size_t)n, " (pid %d)", p->pid);
	return name;
}

struct peer *peer_find(struct pg_group *g, const uint8_t incarnation[16], uint32_t group)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (p && p->addr.group == group &&
		    memcmp(p->addr.incarnation, incarnation, 16) == 0)
			return p;
	}
	return NULL;
}

static bool reusable(const struct pg_group *g, const struct peer *p, bool news)
{
	return !peer_alive(p) && p->end != END_POLL && !p->n_holders &&
	       !atomic_load_explicit(&p->h.refs, memory_order_relaxed) &&
	       (news || !g->news[p->h.index].queued) && peer_stopped(g, p);
}

/* A peer that has ended keeps its place, so that what it sent is still counted and what it owed is
 * still told, until the place is needed; at last also if nobody has polled the news of it. */
static struct peer *reuse_place(struct pg_group *g)
{
	/* A callback may come from between the arrivals of one of its connections. */
	if (group_in_callback(g))
		return NULL;
	for (uint32_t i = 0; i < 2 * g->peers.used; i++) {
		struct peer *p = peer_slot(g, i % g->peers.used);

		if (!p || !reusable(g, p, i >= g->peers.used))
			continue;
		list_remove(&p->ending);
		list_remove(&p->salvage);
		paths_close(g, p);
		process_forget(g, p);
		handles_retire(&p->h);
		handles_release(&g->peers, &p->h);
		return handles_take(&g->peers);
	}
	return NULL;
}

static void init(const struct pg_group *g, struct peer *p, const struct net_addr *addr,
		 pair_reach reach)
{
	memset((char *)p + sizeof(p->h), 0, sizeof(*p) - sizeof(p->h));
	p->addr = *addr;
	p->possible = p->reach = reach;
	p->nics = UINT8_MAX;
	p->reach = paths_alive(g, p);
	list_init(&p->ready);
	list_init(&p->waiting);
	list_init(&p->active);
	list_init(&p->dirty_link);
	list_init(&p->ending);
	list_init(&p->orphans);
	list_init(&p->makeups);
	list_init(&p->salvage);
}

int peer_of_addr(struct pg_group *g, const struct net_addr *addr, struct peer **peer,
		 struct pg_error *err)
{
	struct peer *p = peer_find(g, addr->incarnation, addr->group);
	pair_reach reach;

	if (p) {
		*peer = p;
		return 0;
	}
	reach = paths_reach(g, addr, err);
	if (!reach)
		return -EHOSTUNREACH;
	p = handles_take(&g->peers);
	if (!p)
		p = reuse_place(g);
	if (!p)
		return error_set(err, -ENOSPC, "no room for more than %u peers (PGCTL_MAX_PEERS)",
				 g->peers.capacity);
	init(g, p, addr, reach);
	handles_publish(&p->h);
	*peer = p;
	return 0;
}

void peer_set_state(struct peer *p, enum peer_state state)
{
	/* release: pairs with peer_state */
	atomic_store_explicit(&p->state, state, memory_order_release);
}

bool peer_ready(struct pg_group *g, struct peer *p)
{
	/* relaxed: only the holder of the lock changes it */
	switch (atomic_load_explicit(&p->state, memory_order_relaxed)) {
	case PEER_UP:
		return true;
	case PEER_KNOWN:
		handshake_start(g, p);
		break;
	default:
		break;
	}
	return false;
}

/* ---- Public ---- */

int pg_main_address(struct pg_group *g, void *buf, size_t *len)
{
	return group_forked(g) ? -ESTALE : net_addr_encode(&g->addr, buf, len);
}

int pg_add_peer(struct pg_group *g, const void *addr, size_t len, pg_peer_t *peer,
		struct pg_error *err)
{
	struct net_addr decoded;
	struct peer *p;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	rc = net_addr_decode(addr, len, &decoded, err);
	if (rc)
		return rc;
	group_enter(g);
	rc = peer_of_addr(g, &decoded, &p, err);
	if (!rc)
		*peer = handle_of(&p->h);
	group_leave(g);
	return rc;
}

static bool connected(struct pg_group *g, void *arg)
{
	enum peer_state state = peer_state(arg);

	(void)g;
	return state == PEER_UP || state == PEER_DOWN;
}

static void connect_peer(struct pg_group *g, void *arg)
{
	peer_ready(g, arg);
}

static int wait_connected(struct pg_group *g, struct peer *p, uint64_t timeout_ns,
			  struct pg_error *err)
{
	int rc = group_retry(g, connect_peer, connected, p, timeout_ns);

	if (rc)
		return error_set(err, rc, "%s: %s", peer_name(p).text,
				 rc == -ETIMEDOUT ? "not connected in time; does it make progress?"
						  : strerror(-rc));
	if (!peer_alive(p))
		return error_set(err, p->status, "%s", p->reason);
	return 0;
}

int pg_connect(struct pg_group *g, pg_peer_t peer, uint64_t timeout_ns, struct pg_error *err)
{
	struct peer *p;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	group_hold(g);
	group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p)
		handle_ref(&p->h);
	group_leave(g);
	if (p) {
		rc = wait_connected(g, p, timeout_ns, err);
		group_enter(g);
		handle_unref(&p->h);
		group_leave(g);
	} else {
		error_set(err, rc, "0x%llx is not a peer", (unsigned long long)peer);
	}
	group_drop(g);
	return rc;
}

int pg_peer_info(struct pg_group *g, pg_peer_t peer, struct pg_peer_info *info)
{
	int rc = 0;
	struct peer *p;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p) {
		*info = (struct pg_peer_info){
			.up = peer_state(p) == PEER_UP,
			.responsive = peer_state(p) == PEER_UP && !p->silent,
			.local = p->local,
			.status = p->status,
			.n_connections = (uint32_t)__builtin_popcount(p->usable),
		};
		for (unsigned i = 0; i < 16; i++)
			snprintf(info->incarnation + 2 * i, 3, "%02x", p->addr.incarnation[i]);
		if (p->usable)
			snprintf(info->path, sizeof(info->path), "%s",
				 p->paths[p->spread.order[0]].conn->note);
		snprintf(info->reason, sizeof(info->reason), "%s", p->reason);
	}
	group_leave(g);
	return p ? 0 : rc;
}
