/* SPDX-License-Identifier: MIT
 *
 * Counts of a split write that failed half-way.
 */
#include <errno.h>
#include <string.h>

#include "engine/completion.h"
#include "engine/fence.h"
#include "engine/form.h"
#include "engine/op.h"
#include "engine/peer.h"

struct settle_msg {
	uint32_t wire_imm;
	uint32_t shards;
};

static void send_settle(struct pg_group *g, struct op *op, unsigned counted)
{
	struct settle_msg m = { op->lanes[0].wire_imm, counted };
	struct control_msg msg = { .type = CONTROL_SETTLE };

	form_put(&msg, &m, sizeof(m));
	control_send(g, op->peer->stream, &msg);
}

/* The shards that were counted would be taken for parts of the next write with this immediate, which
 * may be submitted as soon as this one has ended: so the peer has to have forgotten them by then. Where
 * it cannot be known which were, its count cannot be saved. */
bool op_settling(struct pg_group *g, struct op *op)
{
	unsigned counted = 0;
	bool known = true;

	if (op->desc.opcode != PG_OP_WRITE || op->desc.imm == PG_NO_IMM ||
	    peer_state(op->peer) != PEER_UP)
		return false;
	if (op->asked)
		return !op->fenced;
	for (unsigned i = 0; i < op->n_lanes; i++) {
		const struct lane *lane = &op->lanes[i];

		known &= !lane->failed || g->domains[0]->caps.exact_failure;
		counted += !lane->cut && !lane->failed;
	}
	if (!known && op->n_lanes > 1) {
		list_remove(&op->link); /* as in op_run */
		peer_down(g, op->peer, op->status,
			  "a split write failed, and it cannot be known what of it was counted: "
			  "%.120s",
			  op->text);
		return false;
	}
	if (!counted || counted == op->n_lanes)
		return false;
	send_settle(g, op, counted);
	fence_ask(g, op);
	op->deadline = 0;
	op->limit = UINT64_MAX;
	return true;
}

int op_settled(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	struct imm_fired fired;
	struct settle_msg m;
	int rc;

	if (msg->len != sizeof(m))
		return -EPROTO;
	memcpy(&m, msg->data, sizeof(m));
	if (m.shards == 0 || m.shards >= imm_wire_k(m.wire_imm))
		return -EPROTO;
	counters_lock(g);
	rc = imm_settle(g->imms, p->h.index, m.wire_imm, m.shards, &fired);
	counters_unlock(g);
	if (rc > 0)
		deliver_fired(g, &fired, NULL);
	return rc == -ENOSPC ? rc : 0;
}
