/* SPDX-License-Identifier: MIT
 *
 * A fence ends when what was submitted to its peer before has ended, is in the peer's memory, and
 * the peer has answered a message that was sent after that. Under the progress lock.
 */
#ifndef PGCTL_ENGINE_FENCE_H
#define PGCTL_ENGINE_FENCE_H

#include "engine/group.h"

struct control_msg;

void fence_start(struct pg_group *g, struct op *op);

/* Asks the peer; op->fenced says when it has answered, and handled all that it was sent before. */
void fence_ask(struct pg_group *g, struct op *op);

/* Goes on with it: true when it has ended. */
bool fence_run(struct pg_group *g, struct op *op);

/* Its peer is down, and nothing of ours is written there any more. */
void fence_end(struct pg_group *g, struct op *op);

/* Control messages: the question, and the answer to one of ours. */
int fence_asked(struct pg_group *g, struct peer *p, const struct control_msg *msg);
int fence_answered(struct pg_group *g, struct peer *p, const struct control_msg *msg);

#endif
