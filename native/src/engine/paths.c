/* SPDX-License-Identifier: MIT */
#include "engine/paths.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/flight.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "util/log.h"

/* ---- Which NICs ---- */

static unsigned nics_of(const struct net_addr *addr, struct pair_nic *nics)
{
	for (unsigned i = 0; i < addr->n_domains; i++)
		nics[i] = (struct pair_nic){ addr->domains[i].link_mbit_s, addr->domains[i].rail };
	return addr->n_domains;
}

/* "shm on rail 2, shm on rail 3" */
static void name_nics(const struct net_addr *addr, char *buf, size_t size)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < addr->n_domains && at < size; i++) {
		const struct net_domain *d = &addr->domains[i];
		char rail[24] = "";

		if (d->rail)
			snprintf(rail, sizeof(rail), " on rail %u", d->rail);
		at += (size_t)snprintf(buf + at, size - at, "%s%s%s", i ? ", " : "", d->transport,
				       rail);
	}
}

static int unreachable(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err)
{
	char ours[80], theirs[80];

	name_nics(&g->addr, ours, sizeof(ours));
	name_nics(addr, theirs, sizeof(theirs));
	return error_set(err, -EHOSTUNREACH, "no NIC of ours (%s) reaches one of the peer's (%s)",
			 ours, theirs);
}

pair_reach paths_reach(const struct pg_group *g, const struct net_addr *addr, struct pg_error *err)
{
	struct pair_nic ours[PG_MAX_DOMAINS] = { 0 }, theirs[PG_MAX_DOMAINS] = { 0 };
	unsigned n = nics_of(&g->addr, ours), m = nics_of(addr, theirs);
	pair_reach reach = pair_reach_of(ours, n, theirs, m, g->rail_only);

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < m; j++)
			if (strcmp(g->addr.domains[i].transport, addr->domains[j].transport))
				reach &= (pair_reach)~pair_cell(i, j);
	if (!reach)
		unreachable(g, addr, err);
	return reach;
}

/* The cells of one NIC of ours; of one of the peer's. */
static pair_reach row(unsigned local)
{
	return (pair_reach)(((1u << PG_MAX_DOMAINS) - 1) << (PG_MAX_DOMAINS * local));
}

static pair_reach column(unsigned remote)
{
	return pair_transpose(row(remote));
}

pair_reach paths_cells(unsigned nic, bool ours)
{
	return ours ? row(nic) : column(nic);
}

pair_reach paths_alive(const struct pg_group *g, const struct peer *p)
{
	pair_reach reach = p->reach;

	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++) {
		if (!(g->nics >> i & 1))
			reach &= (pair_reach)~row(i);
		if (!(p->nics >> i & 1))
			reach &= (pair_reach)~column(i);
	}
	return reach;
}

unsigned paths_pair(const struct pg_group *g, const struct peer *p, pair_reach reach,
		    struct pair_edge edges[PAIR_MAX])
{
	struct pair_nic ours[PG_MAX_DOMAINS] = { 0 }, theirs[PG_MAX_DOMAINS] = { 0 };
	unsigned n = nics_of(&g->addr, ours), m = nics_of(&p->addr, theirs);

	return pair_nics(ours, n, theirs, m, reach, edges);
}

/* ---- Connections ---- */

struct path *path_find(struct peer *p, unsigned local, unsigned remote)
{
	for (unsigned k = 0; k < p->n_paths; k++) {
		struct path *path = &p->paths[k];

		if (path->conn && path->edge.local == local && path->edge.remote == remote)
			return path;
	}
	return NULL;
}

bool paths_visible(struct peer *p, uint64_t marks[PG_MAX_CONNS])
{
	bool visible = true;

	for (unsigned k = 0; k < p->n_paths; k++)
		visible &= path_visible(p, k, &marks[k]);
	return visible;
}

static struct path *free_path(struct peer *p)
{
	for (unsigned k = 0; k < PG_MAX_CONNS; k++)
		if (!p->paths[k].conn)
			return &p->paths[k];
	return NULL;
}

bool path_has_room(struct peer *p)
{
	return free_path(p) != NULL;
}

struct path *path_open(struct pg_group *g, struct peer *p, const struct pair_edge *edge,
		       struct pg_error *err)
{
	struct domain *d = g->domains[edge->local];
	struct path *path = free_path(p);
	unsigned k;

	if (!path) {
		error_set(err, -ENOSPC, "%d connections to it are there already", PG_MAX_CONNS);
		return NULL;
	}
	memset(path, 0, sizeof(*path));
	if (d->transport->conn_open(d, &path->conn, &path->offer, err)) {
		path->conn = NULL;
		return NULL;
	}
	k = path_slot(p, path);
	path->conn->owner = p;
	path->conn->slot = k;
	path->edge = *edge;
	path->state = PATH_OPENING;
	path->serial = p->serials[edge->local][edge->remote];
	list_init(&path->flights);
	if (p->n_paths <= k)
		p->n_paths = k + 1;
	return path;
}

/* One that cannot be opened takes its cell from what we believe. */
int paths_open(struct pg_group *g, struct peer *p, struct pg_error *err)
{
	struct pair_edge edges[PAIR_MAX];
	unsigned n, k = 0;

	err->code = 0;
	while ((n = paths_pair(g, p, p->reach, edges))) {
		for (k = 0; k < n && path_open(g, p, &edges[k], err);)
			k++;
		if (k == n)
			return 0;
		log_warn("%s: cannot connect over %s to its NIC %u: %s", peer_name(p).text,
			 g->domains[edges[k].local]->name, edges[k].remote, err->text);
		p->reach &= (pair_reach)~pair_cell(edges[k].local, edges[k].remote);
		paths_close(g, p);
	}
	return err->code ? err->code : unreachable(g, &p->addr, err);
}

int path_attach(struct pg_group *g, struct path *path, const struct offer *offer, bool unordered,
		struct pg_error *err)
{
	int rc = path->conn->domain->transport->conn_attach(path->conn, offer, err);

	if (rc)
		return rc;
	path->attached = true;
	path->peer_unordered = unordered;
	if (unordered) {
		counters_lock(g);
		imm_track_fires(g->imms);
		counters_unlock(g);
	}
	return 0;
}

static void make_usable(const struct pg_group *g, struct peer *p, struct path *path)
{
	path->state = PATH_UP;
	path->up_at = g->now;
	p->usable |= 1u << path_slot(p, path);
}

void path_up(struct pg_group *g, struct peer *p, struct path *path)
{
	make_usable(g, p, path);
	g->salvage_due = !list_empty(&g->salvaging);
	paths_share(g, p);
}

void paths_up(struct pg_group *g, struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].conn)
			make_usable(g, p, &p->paths[k]);
	paths_share(g, p);
}

static void add_stats(struct pg_nic_stats *to, const struct pg_nic_stats *from)
{
	to->bytes_out += from->bytes_out;
	to->posted += from->posted;
	to->imms_in += from->imms_in;
	to->msgs_in += from->msgs_in;
	to->eagain += from->eagain;
	to->retries += from->retries;
	to->failovers += from->failovers;
}

/* Marks are of one connection, and another may get its slot. */
static void forget_lane_marks(struct list *ops, unsigned k)
{
	for (struct list *l = ops->next; l != ops; l = l->next)
		for (unsigned i = 0; i < MAX_LANES; i++)
			LIST_ENTRY(l, struct op, link)->lanes[i].marks[k] = 0;
}

static void forget_marks(struct pg_group *g, struct peer *p, unsigned k)
{
	p->marks[k] = 0;
	forget_lane_marks(&p->ready, k);
	forget_lane_marks(&p->waiting, k);
	for (struct list *l = g->lingering.next; l != &g->lingering; l = l->next) {
		struct op *op = LIST_ENTRY(l, struct op, linger);

		if (op->peer == p)
			op->marks[k] = 0;
	}
	for (struct list *l = g->leaving.next; l != &g->leaving; l = l->next) {
		struct rmr *rmr = LIST_ENTRY(l, struct rmr, leaving);

		if (rmr->peer == p)
			rmr->marks[k] = 0;
	}
}

void path_close(struct pg_group *g, struct peer *p, struct path *path)
{
	struct domain *d = path->conn->domain;
	unsigned k = path_slot(p, path);

	p->usable &= ~(1u << k);
	forget_marks(g, p, k);
	flights_drop(g, &path->flights);
	sums_clear(&path->sent);
	sums_clear(&path->received);
	add_stats(&d->stats, &path->conn->stats);
	d->transport->conn_close(path->conn);
	g->n_broken -= path->state == PATH_BROKEN;
	path->conn = NULL;
	path->state = PATH_FREE;
	/* Of those that greet it is always the first. */
	if (peer_state(p) == PEER_UP)
		p->serials[path->edge.local][path->edge.remote]++;
}

void paths_close(struct pg_group *g, struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].conn)
			path_close(g, p, &p->paths[k]);
	p->n_paths = 0;
}

/* ---- Public ---- */

int pg_stats(struct pg_group *g, unsigned domain, struct pg_nic_stats *stats)
{
	if (group_forked(g))
		return -ESTALE;
	if (domain >= g->n_domains)
		return -EINVAL;
	group_enter(g);
	*stats = g->domains[domain]->stats;
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		for (unsigned k = 0; k < p->n_paths; k++)
			if (p->paths[k].conn && path_local(p, k) == domain)
				add_stats(stats, &p->paths[k].conn->stats);
	}
	group_leave(g);
	return 0;
}

/* The i-th that is there. */
static const struct path *path_at(const struct peer *p, unsigned i)
{
	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].conn && i-- == 0)
			return &p->paths[k];
	return NULL;
}

int pg_conn_info(struct pg_group *g, pg_peer_t peer, unsigned i, struct pg_conn_info *info)
{
	const struct path *path = NULL;
	struct peer *p;
	int rc = 0;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p)
		path = path_at(p, i);
	if (p && !path)
		rc = -ERANGE;
	if (path)
		*info = (struct pg_conn_info){
			.nic = path->edge.local,
			.peer_nic = path->edge.remote,
			.weight = path->edge.weight,
			.stats = path->conn->stats,
		};
	group_leave(g);
	return rc;
}
