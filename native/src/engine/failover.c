/* SPDX-License-Identifier: MIT */
#include "engine/failover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/path_message.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "util/clock.h"
#include "util/log.h"

static struct flight *flight_at(struct list *l)
{
	return LIST_ENTRY(l, struct flight, link);
}

const char *advice(const struct peer *p, const struct domain *d)
{
	return d->if_silent && !p->silent ? d->if_silent : "";
}

/* ---- 1. It breaks, and stops ---- */

static void end_path(struct pg_group *g, struct peer *p, unsigned k, int status, bool noticed)
{
	struct path *path = &p->paths[k];
	struct domain *d = path->conn->domain;

	if (path->state == PATH_BROKEN || !peer_alive(p))
		return;
	if (!can_take_over(&d->caps) || peer_state(p) != PEER_UP) {
		peer_down(g, p, status, "connection over %s broke: %s", d->name, strerror(-status));
		return;
	}
	log_warn("%s: connection over %s to its NIC %u broke: %s%s", peer_name(p).text, d->name,
		 path_remote(p, k), strerror(-status), status == -ETIMEDOUT ? advice(p, d) : "");
	path->state = PATH_BROKEN;
	g->n_broken++;
	path->to = (struct takeover){ .limit = clock_ns() + g->config->op_timeout_ns,
				      .status = status };
	path->conn->stats.failovers++;
	p->usable &= ~(1u << k);
	paths_share(g, p);
	path_back_off(g, p, path, status, noticed);
	d->transport->conn_stop(path->conn);
	/* Ops that were blocked for want of its credit may go elsewhere. */
	p->n_blocked = 0;
}

void path_broke(struct pg_group *g, struct peer *p, unsigned k, int status)
{
	end_path(g, p, k, status, true);
}

void conn_died(struct pg_group *g, struct conn *c, int status)
{
	struct peer *p = c->owner;
	struct path *path = &p->paths[c->slot];

	/* Before it was up on both sides the peer may still have to hear that it was. */
	if (path->state == PATH_OPENING && can_take_over(&c->domain->caps) && peer_alive(p))
		path->status = status;
	else
		path_broke(g, p, c->slot, status);
}

/* ---- 2. Nothing lands any more ---- */

static void fence_if_stopped(struct path *path)
{
	if (!path->to.stopped || !path->to.peer_stopped || path->to.fencing)
		return;
	path->to.fencing = true;
	path->conn->domain->transport->conn_fence(path->conn);
}

void conn_stopped(struct pg_group *g, struct conn *c)
{
	struct peer *p = c->owner;
	struct path *path = &p->paths[c->slot];
	struct path_head head = path_head(path, PATH_STOPPED);

	if (peer_state(p) != PEER_UP)
		return;
	head.status = path->to.status;
	path->to.stopped = true;
	path_say(g, p, &head, NULL);
	fence_if_stopped(path);
}

int path_stop_said(struct pg_group *g, struct peer *p, struct path *path,
		   const struct path_head *head)
{
	if (path->state == PATH_OPENING || path->to.peer_stopped)
		return -EPROTO;
	end_path(g, p, path_slot(p, path), head->status < 0 ? head->status : -ECONNABORTED, false);
	if (path->state != PATH_BROKEN) /* it could not be taken over */
		return 0;
	path->to.peer_stopped = true;
	fence_if_stopped(path);
	return 0;
}

void conn_fenced(struct pg_group *g, struct conn *c)
{
	struct peer *p = c->owner;
	struct path *path = &p->paths[c->slot];
	struct path_head head = path_head(path, PATH_ARRIVED);

	if (peer_state(p) != PEER_UP)
		return;
	head.imms = (uint32_t)c->stats.imms_in;
	head.msgs = (uint32_t)c->stats.msgs_in;
	path->to.fenced = true;
	path_say(g, p, &head, NULL);
}

/* ---- 3. What has arrived ---- */

/* In the order of a sequence number that wraps. */
static bool before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static bool landed(const struct path *path, const struct flight *f)
{
	if (f->wr_op == WR_SEND)
		return before(f->index, path->to.msgs);
	return path_ordered(path) && before(f->index, path->to.imms);
}

static void over_if_told(struct pg_group *g, struct peer *p, struct path *path);

/* Asks for each value that is in doubt, once. */
static void ask(struct pg_group *g, struct peer *p, struct path *path)
{
	struct path_head head = path_head(path, PATH_ASK);
	struct path_sum sums[PATH_SUMS];

	for (struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		struct flight *f = flight_at(l);

		if (!flight_is_imm(f) || f->asked)
			continue;
		for (struct list *m = l; m != &path->flights; m = m->next)
			if (flight_is_imm(flight_at(m)) && flight_at(m)->imm == f->imm)
				flight_at(m)->asked = true;
		sums[head.n++] = (struct path_sum){ .imm = f->imm };
		path->to.asked++;
		if (head.n == PATH_SUMS) {
			path_say(g, p, &head, sums);
			head.n = 0;
		}
	}
	if (head.n)
		path_say(g, p, &head, sums);
}

/* What has ended well must be among what has arrived. */
static bool lost_acknowledged(const struct path *path, const struct path_head *head)
{
	uint32_t imms = 0, msgs = 0;

	for (const struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		const struct flight *f = LIST_ENTRY(l, struct flight, link);

		imms += flight_is_imm(f);
		msgs += f->wr_op == WR_SEND;
	}
	return before(head->imms, path->imms_out - imms) ||
	       before(head->msgs, path->msgs_out - msgs);
}

static bool sent_fewer(const struct path *path, const struct path_head *head)
{
	return before(path->imms_out, head->imms) || before(path->msgs_out, head->msgs);
}

int path_arrived_said(struct pg_group *g, struct peer *p, struct path *path,
		      const struct path_head *head)
{
	/* Only who has stopped can be told; and nothing can have arrived that was not sent. */
	if (path->state != PATH_BROKEN || !path->to.stopped || path->to.told ||
	    (!path->unsure && sent_fewer(path, head)))
		return -EPROTO;
	if (path->unsure && !list_empty(&path->flights)) {
		peer_down(g, p, -EIO,
			  "connection over %s broke, and it cannot be known what of a write that "
			  "had failed on it was counted",
			  path->conn->domain->name);
		return 0;
	}
	if (!path->unsure && lost_acknowledged(path, head)) {
		peer_down(g, p, -EIO, "its NIC %u has lost what it had acknowledged",
			  path->edge.remote);
		return 0;
	}
	path->to.imms = head->imms;
	path->to.msgs = head->msgs;
	path->to.told = true;
	if (!path_ordered(path))
		ask(g, p, path);
	over_if_told(g, p, path);
	return 0;
}

/* The immediates of one value in doubt, and those of them that were posted before an expectation fired
 * which may have taken them. */
struct doubt {
	uint32_t n, n_before, n_owed;
	uint64_t last_before; /* operations there were when the last of those was posted */
	uint64_t first_after; /* the first operation that the others are of */
};

static bool in_doubt(const struct flight *f, uint32_t imm)
{
	return f->asked && f->imm == imm;
}

static struct doubt doubt(const struct pg_group *g, struct path *path, const struct path_sum *sum)
{
	struct doubt d = { .first_after = UINT64_MAX };

	for (struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		const struct flight *f = flight_at(l);
		uint64_t serial = g->ops[f->op].serial;

		if (!in_doubt(f, sum->imm))
			continue;
		d.n++;
		if (before(f->index, (uint32_t)sum->taken)) {
			d.n_before++;
			d.last_before = f->serial;
		} else if (serial < d.first_after) {
			d.first_after = serial;
		}
	}
	return d;
}

/* Some have arrived and some have not, and some may have been taken: those must not be written again,
 * if it was they that have arrived, and have to be if it was not. It is known if they and the others
 * were in flight together: then more were than the expectation was for, nobody can have told by it
 * which have arrived, and none is in use. */
static bool is_undecidable(const struct doubt *d, uint32_t missing)
{
	return d->n_before && missing <= d->n - d->n_before && d->first_after > d->last_before;
}

/* What is to be done about those of one value, of which so many have not arrived. */
static int decide(struct pg_group *g, struct peer *p, struct path *path, const struct path_sum *sum,
		  uint32_t missing)
{
	struct doubt d = doubt(g, path, sum);

	if (!d.n || missing > d.n)
		return -EPROTO;
	if (missing && missing < d.n && is_undecidable(&d, missing)) {
		peer_down(g, p, -EIO,
			  "connection over %s broke, and it cannot be told whether writes with "
			  "immediate %#x were lost before or after it was expected last",
			  path->conn->domain->name, imm_wire_id(sum->imm));
		return 0;
	}
	for (struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		struct flight *f = flight_at(l);

		if (!in_doubt(f, sum->imm))
			continue;
		f->asked = false;
		if (!missing)
			f->kind = FLIGHT_LANDED;
		else if (missing < d.n)
			salvage_rewrite(p, f, d.n_owed++ < missing);
	}
	return 0;
}

int path_told(struct pg_group *g, struct peer *p, struct path *path, const struct path_head *head,
	      const struct path_sum *sums)
{
	if (path->state != PATH_BROKEN || !path->to.told || head->n > path->to.asked)
		return -EPROTO;
	for (unsigned i = 0; i < head->n; i++) {
		uint32_t sent = (uint32_t)sums_get(&path->sent, sums[i].imm);

		if (decide(g, p, path, &sums[i], sent - (uint32_t)sums[i].count))
			return -EPROTO;
		if (!peer_alive(p))
			return 0;
	}
	path->to.asked -= head->n;
	over_if_told(g, p, path);
	return 0;
}

/* ---- 4. Others take over ---- */

/* Payload that was cut into several pieces has to be there before its immediate goes, whichever
 * connections they take. */
static bool in_pieces(const struct pg_group *g, const struct flight *f)
{
	const struct op *op = &g->ops[f->op];

	return f->len < op->lanes[f->lane].page_len && op->desc.opcode != PG_OP_SEND;
}

static void settle(const struct pg_group *g, struct peer *p, const struct path *path,
		   struct flight *f)
{
	if (f->kind == FLIGHT_LANDED || f->kind == FLIGHT_REWRITE)
		return;
	if (landed(path, f)) {
		f->kind = FLIGHT_LANDED;
	} else if (g->ops[f->op].status && f->kind == FLIGHT_WHOLE) {
		f->kind = FLIGHT_DROPPED;
	} else if (f->kind == FLIGHT_WHOLE && in_pieces(g, f)) {
		salvage_rewrite(p, f, f->wr_op == WR_WRITE_IMM);
	}
}

static void close_if_over(struct pg_group *g, struct peer *p, struct path *path)
{
	if (!path->to.peer_told || !path->to.told || path->to.asked)
		return;
	while (!list_empty(&path->flights)) {
		struct flight *f = flight_at(path->flights.next);

		list_remove(&f->link);
		settle(g, p, path, f);
		salvage(g, p, f);
	}
	log_info("%s: others have taken over from %s", peer_name(p).text, path->conn->domain->name);
	path_close(g, p, path);
	paths_mend(g, p);
}

static void over_if_told(struct pg_group *g, struct peer *p, struct path *path)
{
	struct path_head head = path_head(path, PATH_OVER);

	if (!path->to.told || path->to.asked)
		return;
	path_say(g, p, &head, NULL);
	close_if_over(g, p, path);
}

int path_over_said(struct pg_group *g, struct peer *p, struct path *path)
{
	if (!path->to.fenced || path->to.peer_told)
		return -EPROTO;
	path->to.peer_told = true;
	close_if_over(g, p, path);
	return 0;
}

/* ---- Work requests that end ---- */

void flight_done(struct pg_group *g, const struct arrival *a)
{
	struct flight *f = &g->flights[a->id];
	struct peer *p = a->conn->owner;
	struct path *path = &p->paths[a->conn->slot];

	/* What became of it is still to be found out. */
	if (a->status == -ECONNABORTED && can_take_over(&a->conn->domain->caps) &&
	    peer_state(p) == PEER_UP) {
		path_broke(g, p, a->conn->slot, -EIO);
		return;
	}
	path->ended++;
	if (a->status)
		flight_failed(path, f);
	list_remove(&f->link);
	salvage_ended(g, p, f, a->status, a->conn->domain);
}

/* ---- Out of time ---- */

static bool carries(const struct path *path, const struct op *op)
{
	for (const struct list *l = path->flights.next; l != &path->flights; l = l->next)
		if (LIST_ENTRY(l, struct flight, link)->op == op->slot)
			return true;
	return false;
}

bool failover_expire(struct pg_group *g, struct op *op, int why)
{
	struct peer *p = op->peer;

	if (!salvage_forget(op))
		return false;
	for (unsigned k = 0; k < p->n_paths && peer_alive(p); k++) {
		struct path *path = &p->paths[k];

		if (!path->conn || !carries(path, op))
			continue;
		if (!can_take_over(&path->conn->domain->caps))
			return false;
		path_broke(g, p, k, why);
		if (path->to.limit > g->now + g->config->dead_ns)
			path->to.limit = g->now + g->config->dead_ns;
	}
	return true;
}

/* ---- Nothing moves ---- */

#define SLOWEST_NS_PER_BYTE 80 /* 100 Mbit/s */

/* A message may wait for its receiver, and what is behind it with it. */
static bool first_is_write(const struct path *path)
{
	return !list_empty(&path->flights) &&
	       LIST_ENTRY(path->flights.next, const struct flight, link)->wr_op != WR_SEND;
}

/* Longer than it takes to see that a peer makes no progress, and what is in flight to go. */
static uint64_t patience_ns(const struct pg_config *config, const struct path *path)
{
	uint64_t ns = config->dead_ns > config->silent_ns ? config->dead_ns : config->silent_ns;
	uint64_t bytes = 0;

	for (const struct list *l = path->flights.next; l != &path->flights; l = l->next)
		bytes += LIST_ENTRY(l, const struct flight, link)->len;
	bytes *= SLOWEST_NS_PER_BYTE;
	return 2 * ns > bytes ? 2 * ns : bytes;
}

/* Where no transport tells that nothing gets there any more. Scans are counted, not time: after a pause
 * of ours the first may come before what has ended meanwhile was heard of. */
static void look_for_stall(struct pg_group *g, struct peer *p, unsigned k)
{
	struct path *path = &p->paths[k];
	bool moves = path->ended != path->ended_seen;

	path->ended_seen = path->ended;
	if (moves || p->silent || !first_is_write(path)) {
		path->quiet = 0;
		return;
	}
	path->quiet++;
	if (path->quiet * SCAN_NS >= patience_ns(g->config, path))
		path_broke(g, p, k, -ETIMEDOUT);
}

static void look_for_limit(struct pg_group *g, struct peer *p, const struct path *path)
{
	const struct takeover *to = &path->to;

	if (g->now < to->limit)
		return;
	peer_down(g, p, -ETIMEDOUT, "connection over %s broke, and %s: %s",
		  path->conn->domain->name,
		  !to->stopped        ? "our half does not stop"
		  : !to->peer_stopped ? "the peer does not stop its half"
		  : !to->fenced       ? "what came over it is not taken"
				      : "the peer does not say what has arrived",
		  strerror(-to->status));
}

void failover_scan(struct pg_group *g, struct peer *p)
{
	for (unsigned k = 0; k < p->n_paths && peer_state(p) == PEER_UP; k++) {
		struct path *path = &p->paths[k];

		if (path->state == PATH_BROKEN)
			look_for_limit(g, p, path);
		else if (path->state == PATH_UP && can_take_over(&path->conn->domain->caps))
			look_for_stall(g, p, k);
	}
}
