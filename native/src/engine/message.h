/* SPDX-License-Identifier: MIT
 *
 * The pool that arriving messages are copied into.
 */
#ifndef PGCTL_ENGINE_MESSAGE_H
#define PGCTL_ENGINE_MESSAGE_H

#include "engine/group.h"

int messages_create(struct pg_group *g);
void messages_destroy(struct pg_group *g);

/* How many more messages can be taken now; the transport keeps the others at their senders. */
unsigned message_room(struct pg_group *g);

/* Copies one in; there is room. */
void message_arrived(struct pg_group *g, struct peer *p, const void *data, uint32_t len);

#endif
