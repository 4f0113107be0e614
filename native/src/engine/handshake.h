/* SPDX-License-Identifier: MIT
 *
 * How two groups connect, what else their control messages mean, and how a stream ends.
 */
#ifndef PGCTL_ENGINE_HANDSHAKE_H
#define PGCTL_ENGINE_HANDSHAKE_H

#include "engine/control.h"

/* Opens a stream and says HELLO, if that can be done now; else it is to be called again. The peer is
 * down if it never can. */
void handshake_start(struct pg_group *g, struct peer *p);

/* Says goodbye on every stream. */
void handshake_bye(struct pg_group *g);

/* Of control.c: a message; -errno closes the stream. */
int handshake_message(struct pg_group *g, struct stream *s, struct control_msg *msg);
/* The stream ended or spoke nonsense. */
void handshake_hangup(struct pg_group *g, struct stream *s, int status);

#endif
