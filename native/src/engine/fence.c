/* SPDX-License-Identifier: MIT */
#include "engine/fence.h"

#include <errno.h>
#include <string.h>

#include "engine/control.h"
#include "engine/op.h"
#include "engine/paths.h"
#include "engine/peer.h"

struct fence_msg {
	uint64_t serial;
};

static bool has_older(const struct list *ops, uint64_t serial)
{
	for (const struct list *l = ops->next; l != ops; l = l->next)
		if (LIST_ENTRY(l, struct op, link)->serial < serial)
			return true;
	return false;
}

void fence_ask(struct pg_group *g, struct op *op)
{
	struct fence_msg ask = { op->serial };
	struct control_msg msg = { .type = CONTROL_FENCE, .len = sizeof(ask) };

	memcpy(msg.data, &ask, sizeof(ask));
	/* On failure the stream hangs up, and the peer's end ends the fence. */
	control_send(g, op->peer->stream, &msg);
	op->asked = true;
}

/* Of a peer that is down: it may live, and take what we have left there. */
static void fail_if_lost(struct op *op)
{
	if (op->peer->unplaced && !op->peer->dead)
		op_fail(op, -EHOSTUNREACH, op->peer->reason);
}

bool fence_run(struct pg_group *g, struct op *op)
{
	struct peer *p = op->peer;

	if (op->status || op->fenced)
		return true;
	switch (peer_state(p)) {
	case PEER_DOWN:
		if (p->end == END_POLL)
			return false; /* fence_end follows */
		fail_if_lost(op);
		return true;
	case PEER_UP:
		break;
	default:
		/* Nothing was ever posted, so what is older only has to end. */
		return !has_older(&p->ready, op->serial) && !has_older(&p->waiting, op->serial);
	}
	if (op->asked)
		return false;
	if (has_older(&p->ready, op->serial) || has_older(&p->waiting, op->serial))
		op->deadline = 0; /* they have their own */
	/* Marks are of what had been posted when the fence first looked. */
	else if (paths_visible(p, op->marks))
		fence_ask(g, op);
	return false;
}

void fence_start(struct pg_group *g, struct op *op)
{
	memset(op->marks, 0, sizeof(op->marks));
	op_settle(g, op, OP_POSTED);
}

void fence_end(struct pg_group *g, struct op *op)
{
	fail_if_lost(op);
	op->fenced = true;
	op_settle(g, op, OP_POSTED);
}

int fence_asked(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	struct control_msg answer = *msg;

	if (msg->len != sizeof(struct fence_msg))
		return -EPROTO;
	answer.type = CONTROL_FENCED;
	answer.n_fds = 0;
	control_send(g, p->stream, &answer);
	return 0;
}

int fence_answered(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	struct fence_msg answer;

	if (msg->len != sizeof(answer))
		return -EPROTO;
	memcpy(&answer, msg->data, sizeof(answer));
	for (struct list *l = p->waiting.next; l != &p->waiting; l = l->next) {
		struct op *op = LIST_ENTRY(l, struct op, link);

		if (op->serial != answer.serial || !op->asked)
			continue;
		op->fenced = true;
		op_settle(g, op, OP_POSTED);
		return 0;
	}
	return 0; /* it has ended meanwhile */
}
