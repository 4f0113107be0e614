/* SPDX-License-Identifier: MIT
 *
 * Taking operations back.
 */
#include <errno.h>

#include "engine/op.h"
#include "engine/progress.h"

static bool told_by(const struct pg_done *done, const struct pg_done *name)
{
	if (name->callback)
		return done->callback == name->callback && done->arg == name->arg;
	if (name->flag)
		return !done->callback && done->flag == name->flag;
	return !done->callback && !done->flag && done->cookie == name->cookie;
}

/* What is posted already ends as it does. */
static void cancel(struct pg_group *g, struct op *op)
{
	if (op->status || !op_unposted(op))
		return;
	list_remove(&op->link);
	op_fail(op, -ECANCELED, "canceled");
	op_settle(g, op, OP_POSTED);
}

static void cancel_family(struct pg_group *g, struct op *op)
{
	if (!op->children) {
		cancel(g, op);
		return;
	}
	/* Once the last child has ended, so has the parent, and its slot may be another's. */
	for (uint32_t i = 0; i < g->config->max_ops && op->live && op->children; i++)
		if (g->ops[i].live && g->ops[i].parent == op->slot)
			cancel(g, &g->ops[i]);
}

int pg_cancel(struct pg_group *g, const struct pg_done *done)
{
	int rc = -ENOENT;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	/* What waits to be started; from within a callback it would nest, and stays. */
	while (!group_in_callback(g) && group_start_submitted(g) > 0)
		;
	for (uint32_t i = 0; i < g->config->max_ops && rc; i++) {
		struct op *op = &g->ops[i];

		if (!op->live || op->parent != NO_OP || !told_by(&op->desc.done, done))
			continue;
		cancel_family(g, op);
		rc = 0;
	}
	group_leave(g);
	return rc;
}
