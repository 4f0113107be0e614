/* SPDX-License-Identifier: MIT
 *
 * Control streams: framed messages with file descriptors between two groups, beside the NICs. On
 * one host a unix socket with an abstract name, so that connecting proves locality. What the
 * messages mean is handshake.c's; here they are only moved and checked for form.
 */
#ifndef PGCTL_ENGINE_CONTROL_H
#define PGCTL_ENGINE_CONTROL_H

#include "engine/group.h"

#define CONTROL_MAX 2048
#define CONTROL_FDS (MAX_CONNS * OFFER_FDS)

enum control_type {
	CONTROL_HELLO = 1,   /* who I am, my token for you, my halves of our connections */
	CONTROL_HELLO_REPLY, /* the same, in answer */
	CONTROL_MAP,         /* let me map this region of yours */
	CONTROL_MAPPED,      /* here it is, or why not */
	CONTROL_BYE,         /* I am leaving; not a crash */
};

struct stream {
	struct watch watch; /* first */
	struct list link;   /* in group.streams */
	struct peer *peer;  /* NULL until its HELLO */
	pid_t pid;          /* of the other end, as the kernel says; 0: not visible from here */
};

struct control_msg {
	uint16_t type; /* enum control_type */
	uint16_t n_fds;
	uint32_t len;
	int fds[CONTROL_FDS]; /* of a received one: closed after it was handled */
	uint8_t data[CONTROL_MAX];
};

/* Fills g->addr.control. */
int control_listen(struct pg_group *g, struct pg_error *err);

/* -EAGAIN: its backlog is full, try again; -ECONNREFUSED: nobody is there. */
int control_connect(struct pg_group *g, const char *name, struct stream **stream);

/* -EAGAIN: the other end does not read. */
int control_send(struct stream *s, const struct control_msg *msg);

void control_close(struct pg_group *g, struct stream *s);

#endif
