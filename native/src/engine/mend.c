/* SPDX-License-Identifier: MIT
 *
 * New connections in place of broken ones, also of NICs that come back. Each side opens what it finds
 * missing, and what the other side opens: OPEN carries our half of it. Who has attached the peer's
 * says READY, and who is ready and has heard so may post. Who cannot, says REFUSED.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/failover.h"
#include "engine/news.h"
#include "engine/path_message.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "util/log.h"

/* ---- Which are missing ---- */

/* One that is not up is closed; the peer closes its half as well. */
static void refuse(struct pg_group *g, struct peer *p, struct path *path, int status)
{
	struct path_head head = path_head(path, PATH_REFUSED);

	head.status = status;
	path_say(g, p, &head, NULL);
	path_close(g, p, path);
}

/* Whether it may be tried again when something else has changed. */
static bool will_pass(int status)
{
	return status == -ENOSPC || status == -ENOMEM || status == -EMFILE || status == -ENFILE;
}

static struct path *open_path(struct pg_group *g, struct peer *p, const struct pair_edge *edge)
{
	struct pg_error err = { 0 };
	struct path *path = path_open(g, p, edge, &err);

	if (path) {
		path_say_open(g, p, path);
		return path;
	}
	log_warn("%s: cannot connect over %s to its NIC %u: %s", peer_name(p).text,
		 g->domains[edge->local]->name, edge->remote, err.text);
	if (!will_pass(err.code))
		p->reach &= (pair_reach)~pair_cell(edge->local, edge->remote);
	return NULL;
}

/* One that the pairing has no use for any more makes room; what comes of it mends again. */
static void retire_spare(struct pg_group *g, struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths; k++) {
		if (p->paths[k].state != PATH_UP || p->paths[k].edge.weight)
			continue;
		path_broke(g, p, k, -ENOSPC);
		return;
	}
}

/* Opens what is missing of the pairing; false: one cannot be opened, and it has to be paired again. */
static bool mend(struct pg_group *g, struct peer *p, pair_reach alive)
{
	struct pair_edge edges[PAIR_MAX];
	unsigned n = paths_pair(g, p, alive, edges);

	for (unsigned k = 0; k < p->n_paths; k++)
		p->paths[k].edge.weight = 0;
	for (unsigned i = 0; i < n; i++) {
		struct path *path = path_find(p, edges[i].local, edges[i].remote);

		if (path)
			path->edge.weight = edges[i].weight;
	}
	for (unsigned i = 0; i < n; i++) {
		if (path_find(p, edges[i].local, edges[i].remote))
			continue;
		if (!path_has_room(p)) {
			retire_spare(g, p);
			break;
		}
		if (!open_path(g, p, &edges[i]) &&
		    !(p->reach & pair_cell(edges[i].local, edges[i].remote)))
			return false;
	}
	paths_share(g, p);
	return true;
}

void paths_mend(struct pg_group *g, struct peer *p)
{
	pair_reach alive;

	if (peer_state(p) != PEER_UP)
		return;
	do {
		alive = paths_alive(g, p);
		if (!alive)
			peer_down(g, p, -ENETDOWN, "no NIC is left by which it is reached");
	} while (alive && !mend(g, p, alive));
}

/* ---- What the peer says ---- */

static void up_if_ready(struct pg_group *g, struct peer *p, struct path *path)
{
	if (path->state != PATH_OPENING || !path->attached || !path->peer_ready)
		return;
	path_up(g, p, path);
	paths_mend(g, p);
	p->n_blocked = 0;
	log_info("%s: connected again over %s to its NIC %u", peer_name(p).text,
		 path->conn->domain->name, path->edge.remote);
	if (path->status)
		path_broke(g, p, path_slot(p, path), path->status);
}

/* There will be no connection between these NICs, unless it is for now only. */
static void forgo(struct pg_group *g, struct peer *p, struct pair_edge edge, int status)
{
	if (will_pass(status))
		return;
	p->reach &= (pair_reach)~pair_cell(edge.local, edge.remote);
	paths_mend(g, p);
}

static int attach(struct pg_group *g, struct peer *p, struct path *path, const struct offer *offer,
		  bool unordered)
{
	struct path_head ready = path_head(path, PATH_READY);
	const struct pair_edge edge = path->edge;
	struct pg_error err = { 0 };
	int rc = path_attach(g, path, offer, unordered, &err);

	if (rc == -EPROTO)
		return rc;
	if (rc) {
		log_warn("%s: cannot connect over %s to its NIC %u: %s", peer_name(p).text,
			 path->conn->domain->name, edge.remote, err.text);
		refuse(g, p, path, rc);
		forgo(g, p, edge, rc);
		return 0;
	}
	path_say(g, p, &ready, NULL);
	up_if_ready(g, p, path);
	return 0;
}

/* The peer's view of a connection that is not there. */
static void refuse_offer(struct pg_group *g, struct peer *p, const struct path_head *head,
			 int status)
{
	struct path_head refused = { .word = PATH_REFUSED,
				     .local = head->remote,
				     .remote = head->local,
				     .serial = head->serial,
				     .status = status };

	path_say(g, p, &refused, NULL);
	p->serials[head->remote][head->local]++;
}

int path_offered(struct pg_group *g, struct peer *p, const struct path_head *head,
		 const struct offer *offer)
{
	const struct pair_edge edge = { head->remote, head->local, 1 };
	struct path *path = path_find(p, edge.local, edge.remote);

	if (head->serial != p->serials[edge.local][edge.remote])
		return 0; /* of one that is closed by now */
	if (path && (path->state != PATH_OPENING || path->attached))
		return -EPROTO;
	if (!path && !path_has_room(p)) {
		retire_spare(g, p);
		refuse_offer(g, p, head, -ENOSPC);
		return 0;
	}
	if (!path && paths_alive(g, p) & pair_cell(edge.local, edge.remote))
		path = open_path(g, p, &edge);
	if (!path) {
		refuse_offer(g, p, head, -ENETUNREACH);
		return 0;
	}
	return attach(g, p, path, offer, head->bits);
}

void path_ready_said(struct pg_group *g, struct peer *p, struct path *path)
{
	path->peer_ready = true;
	up_if_ready(g, p, path);
}

int path_refused(struct pg_group *g, struct peer *p, struct path *path, int status)
{
	const struct pair_edge edge = path->edge;

	if (path->state != PATH_OPENING || path->peer_ready)
		return -EPROTO;
	path_close(g, p, path);
	forgo(g, p, edge, status);
	return 0;
}

/* ---- NICs ---- */

/* A NIC has gone, of ours or of the peer's. */
static void leave_nic(struct pg_group *g, struct peer *p, unsigned nic, bool ours, int status)
{
	for (unsigned k = 0; k < p->n_paths; k++) {
		struct path *path = &p->paths[k];

		if (!path->conn || nic != (ours ? path->edge.local : path->edge.remote))
			continue;
		/* The peer may post there as soon as it has heard that we are ready. */
		if (path->state == PATH_OPENING && path->attached)
			path->status = status;
		else if (path->state == PATH_OPENING)
			refuse(g, p, path, status);
		else
			path_broke(g, p, k, status);
	}
}

void nics_tell(struct pg_group *g, struct peer *p)
{
	struct path_head head = { .word = PATH_NICS, .bits = g->nics };

	path_say(g, p, &head, NULL);
}

void nics_tell_first(struct pg_group *g, struct peer *p)
{
	uint8_t back = g->nics & (uint8_t)~p->greeted_nics;
	struct path_head head = { .word = PATH_NICS, .bits = g->nics & (uint8_t)~back };

	if (back) {
		path_say(g, p, &head, NULL);
		for (unsigned i = 0; i < g->n_domains; i++)
			if (back >> i & 1)
				p->reach |= p->possible & paths_cells(i, true);
	}
	if (back || g->nics != (1u << g->n_domains) - 1)
		nics_tell(g, p);
	if (back)
		paths_mend(g, p);
}

static void nic_changed_for(struct pg_group *g, struct peer *p, const struct domain *d, int status)
{
	/* While it connects its reach only shrinks: see peer_up. */
	if (!status && peer_state(p) != PEER_CONNECTING)
		p->reach |= p->possible & paths_cells(d->index, true);
	if (peer_state(p) != PEER_UP)
		return;
	nics_tell(g, p);
	if (status)
		leave_nic(g, p, d->index, true, status);
	paths_mend(g, p);
}

void nic_changed(struct pg_group *g, struct domain *d, int status)
{
	uint8_t bit = (uint8_t)(1u << d->index);

	news_of_nic(g, d, status);
	/* Others only tell of it, and then of each connection that breaks. */
	if (!can_take_over(&d->caps) || !(g->nics & bit) == !!status)
		return;
	g->nics ^= bit;
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (p)
			nic_changed_for(g, p, d, status);
	}
}

void nics_told(struct pg_group *g, struct peer *p, uint8_t nics)
{
	uint8_t before = p->nics;

	p->nics = nics;
	for (unsigned i = 0; i < p->addr.n_domains && peer_state(p) == PEER_UP; i++) {
		if (before >> i & 1 && !(nics >> i & 1))
			leave_nic(g, p, i, false, -ENETDOWN);
		else if (nics >> i & 1 && !(before >> i & 1))
			p->reach |= p->possible & paths_cells(i, false);
	}
	paths_mend(g, p);
}
