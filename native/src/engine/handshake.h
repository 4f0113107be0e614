/* SPDX-License-Identifier: MIT
 *
 * What the control messages mean: how two groups connect, how a region gets mapped, how a peer
 * ends.
 */
#ifndef PGCTL_ENGINE_HANDSHAKE_H
#define PGCTL_ENGINE_HANDSHAKE_H

#include "engine/control.h"

/* Opens the stream and says HELLO. -EAGAIN: later; else the peer is down on failure. */
void handshake_start(struct pg_group *g, struct peer *p);

/* Asks for the region of an imported MrDesc. */
void handshake_ask(struct pg_group *g, struct rmr *rmr);

/* Says goodbye on every stream. */
void handshake_bye(struct pg_group *g);

/* Of control.c: a message; -errno closes the stream. */
int handshake_message(struct pg_group *g, struct stream *s, struct control_msg *msg);
/* The stream ended or spoke nonsense. */
void handshake_hangup(struct pg_group *g, struct stream *s, int status);

#endif
