/* SPDX-License-Identifier: MIT
 *
 * New connections in place of broken ones, also of NICs that come back. Each side opens what it finds
 * missing, and what the other side opens: OPEN carries our half of it. Who has attached the peer's
 * says READY, and who is ready and has heard so may post. Who cannot, says REFUSED.
 *
 * Where a connection has broken we wait for a while before we open another, which doubles each time, lest
 * one that breaks again and again holds up what it is given. What the peer opens is taken nevertheless.
 * Nothing is waited for when there is no other connection, or after news of either NIC.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/failover.h"
#include "engine/news.h"
#include "engine/path_message.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "util/log.h"

#define FIRST_NS 1000000000ull
#define LONGEST_NS (30 * FIRST_NS)

/* ---- Which have to wait ---- */

/* Whether another connection might do no better. */
static bool is_fault(int status)
{
	return status != -ENETDOWN && status != -ENOSPC && status != -ECANCELED;
}

/* For as long as it was left alone before, its own traffic having ended. What moved here says nothing to
 * what the peer has noticed. */
static bool went_well(const struct pg_group *g, const struct path *path, uint64_t ns)
{
	return path->ended && g->now >= path->up_at + path->quiet * SCAN_NS + ns;
}

void path_back_off(struct pg_group *g, struct peer *p, const struct path *path, int status,
		   bool noticed)
{
	const struct pair_edge *edge = &path->edge;
	struct back_off *b = &p->back_offs[edge->local][edge->remote];

	if (!is_fault(status))
		return;
	if (noticed && went_well(g, path, b->ns))
		b->ns = 0;
	b->ns = b->ns ? 2 * b->ns : FIRST_NS;
	if (b->ns > LONGEST_NS)
		b->ns = LONGEST_NS;
	b->until = g->now + b->ns;
	p->held |= pair_cell(edge->local, edge->remote);
	log_info("%s: over %s to its NIC %u again in %llu s, or when nothing else is left",
		 peer_name(p).text, path->conn->domain->name, edge->remote,
		 (unsigned long long)(b->ns / FIRST_NS));
}

static bool has_unbroken(const struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].state == PATH_UP || p->paths[k].state == PATH_OPENING)
			return true;
	return false;
}

void paths_retry(struct pg_group *g, struct peer *p)
{
	pair_reach held = p->held;

	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		for (unsigned j = 0; j < PG_MAX_DOMAINS; j++)
			if (g->now >= p->back_offs[i][j].until)
				p->held &= (pair_reach)~pair_cell(i, j);
	/* One that the peer had no room for is not opened again at once. */
	if (p->held != held || !has_unbroken(p))
		paths_mend(g, p);
}

/* A NIC of ours, or of the peer's, is back: what was is no more. */
static void welcome(struct peer *p, unsigned nic, bool ours)
{
	p->reach |= p->possible & paths_cells(nic, ours);
	p->held &= (pair_reach)~paths_cells(nic, ours);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		p->back_offs[ours ? nic : i][ours ? i : nic].ns = 0;
}

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
	pair_reach held = has_unbroken(p) ? p->held : 0;

	for (unsigned k = 0; k < p->n_paths; k++)
		p->paths[k].edge.weight = 0;
	for (unsigned i = 0; i < n; i++) {
		struct path *path = path_find(p, edges[i].local, edges[i].remote);

		if (path)
			path->edge.weight = edges[i].weight;
	}
	for (unsigned i = 0; i < n; i++) {
		if (path_find(p, edges[i].local, edges[i].remote) ||
		    held & pair_cell(edges[i].local, edges[i].remote))
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
				welcome(p, i, true);
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
		welcome(p, d->index, true);
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
			welcome(p, i, false);
	}
	paths_mend(g, p);
}
