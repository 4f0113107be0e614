/* SPDX-License-Identifier: MIT
 *
 * Turns of what is owed to peers, and when that has taken too long.
 */
#include <errno.h>
#include <stdio.h>

#include "engine/dump.h"
#include "engine/failover.h"
#include "engine/memory.h"
#include "engine/op.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "util/log.h"

#define TURN_OPS 8

int peer_run(struct pg_group *g, struct peer *p)
{
	struct list *last = p->ready.prev;
	int moved = 0;

	for (int i = 0; i < TURN_OPS && !list_empty(&p->ready); i++) {
		struct op *op = LIST_ENTRY(p->ready.next, struct op, link);
		bool was_last = p->ready.next == last;
		enum op_turn turn = op_run(g, op);

		moved += turn != OP_BLOCKED;
		op_settle(g, op, turn);
		if (was_last)
			break;
	}
	return moved;
}

void peers_flush(struct pg_group *g)
{
	while (!list_empty(&g->dirty)) {
		struct peer *p = LIST_ENTRY(g->dirty.next, struct peer, dirty_link);

		list_remove(&p->dirty_link);
		for (unsigned k = 0; p->dirty; k++, p->dirty >>= 1)
			if ((p->dirty & 1) && path_usable(p, k))
				p->paths[k].conn->domain->transport->flush(p->paths[k].conn);
	}
}

/* ---- Deadlines ---- */

static const char *why_stuck(const struct op *op)
{
	if (peer_state(op->peer) == PEER_CONNECTING)
		return "it does not answer; does it make progress?";
	if (op->desc.opcode == PG_OP_FENCE)
		return op->asked ? "it does not answer" : "what was submitted before has not ended";
	if (op->rmr && rmr_state(op->rmr) != RMR_READY)
		return "it has not admitted us to its region yet; does it make progress?";
	if (!list_empty(&op->linger))
		return "the payload is not visible there yet; does it make progress?";
	return "no credit to post; does it make progress?";
}

static uint64_t limit_ns(const struct pg_group *g, const struct op *op)
{
	return op->desc.limit_ms ? op->desc.limit_ms * 1000000ull : g->config->op_limit_ns;
}

/* Measured from here, up to a scan late: the submit path reads no clock. */
static void start_clocks(const struct pg_group *g, struct op *op)
{
	uint64_t limit = limit_ns(g, op);

	if (!op->deadline)
		op->deadline = g->now + g->config->op_timeout_ns;
	if (!op->limit)
		op->limit = limit ? g->now + limit : UINT64_MAX;
}

/* It has run out of time. What was posted cannot be taken back but by resetting the connections that
 * carry it, and with them the peer. */
static void expire(struct pg_group *g, struct op *op)
{
	bool late = g->now >= op->limit;
	unsigned long long ms = (late ? limit_ns(g, op) : g->config->op_timeout_ns) / 1000000;
	const char *what = late ? "not done within" : "no progress for";
	struct peer *p = op->peer;
	char text[PG_ERROR_MAX];

	log_warn("%s: %s %llu ms", peer_name(p).text, what, ms);
	dump_log(g);
	if (op_in_flight(op)) {
		bool again = op->expired;
		const struct domain *d = g->domains[path_local(p, op->lanes[0].path)];

		snprintf(text, sizeof(text), "%s over %s: %s %llu ms: no completion%s",
			 peer_name(p).text, d->name, what, ms, advice(p, d));
		op_fail(op, -ETIMEDOUT, text);
		op->deadline = g->now + g->config->op_timeout_ns + g->config->dead_ns;
		op->limit = UINT64_MAX;
		op->expired = true;
		if (again || !failover_expire(g, op, late ? -ECANCELED : -ETIMEDOUT))
			peer_down(g, p, -ETIMEDOUT, "%s %llu ms over %s: no completion%s", what, ms,
				  d->name, advice(p, d));
		return;
	}
	if (op->asked && op->status) {
		peer_down(g, p, -ETIMEDOUT,
			  "%s %llu ms: it does not say that it has forgotten what it had counted "
			  "of a "
			  "write that failed",
			  what, ms);
		return;
	}
	snprintf(text, sizeof(text), "%s over %s: %s %llu ms: %s", peer_name(p).text,
		 g->domains[0]->name, what, ms, why_stuck(op));
	op_fail(op, -ETIMEDOUT, text);
	op_settle(g, op, OP_POSTED);
}

static struct op *first_late(const struct pg_group *g, struct list *ops)
{
	for (struct list *l = ops->next; l != ops; l = l->next) {
		struct op *op = LIST_ENTRY(l, struct op, link);

		start_clocks(g, op);
		if (g->now >= op->deadline || g->now >= op->limit)
			return op;
	}
	return NULL;
}

/* From the front each time: who hears of the one may do anything to the others. */
static void scan(struct pg_group *g, struct peer *p, struct list *ops)
{
	struct op *op;

	while (peer_alive(p) && (op = first_late(g, ops)))
		expire(g, op);
}

void peers_scan_deadlines(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (!p)
			continue;
		scan(g, p, &p->ready);
		scan(g, p, &p->waiting);
		failover_scan(g, p);
	}
}
