/* SPDX-License-Identifier: MIT
 *
 * Control streams: framed messages between two groups, beside the NICs. On one host a unix socket
 * with an abstract name, which belongs to a network namespace, so that connecting proves locality,
 * and which carries file descriptors; to other hosts TCP. What the messages mean is handshake.c's
 * and regions.c's; here they are only moved and checked for form.
 *
 * Wire: struct frame, then len bytes; little-endian. Magic and version stay where they are in every
 * version. Two engines talk if their versions are equal.
 */
#ifndef PGCTL_ENGINE_CONTROL_H
#define PGCTL_ENGINE_CONTROL_H

#include "engine/group.h"

#define CONTROL_MAX 2048
#define CONTROL_FDS (PG_MAX_CONNS * OFFER_FDS)

enum control_type {
	CONTROL_HELLO = 1, /* who I am, my token for you, my halves of our connections */
	CONTROL_READY,     /* I have attached your halves */
	CONTROL_MAP,       /* I will write to this region of yours: let me */
	CONTROL_MAPPED,    /* here it is, or why not */
	CONTROL_UNMAP,     /* nothing of mine can land there any more */
	CONTROL_REVOKE,    /* stop writing to this region of mine */
	CONTROL_FENCE,     /* answer this */
	CONTROL_FENCED,    /* the answer */
	CONTROL_SETTLE,    /* so many shards of a split write will never come */
	CONTROL_PATH,      /* of one connection: see path_message.h */
	CONTROL_PING,      /* I make progress */
	CONTROL_BYE,       /* I am leaving; not a crash */
	CONTROL_TYPES,
};

struct stream {
	struct watch watch; /* first */
	struct list link;   /* in group.streams */
	struct peer *peer;  /* NULL until its HELLO */
	pid_t pid;          /* of the other end, as the kernel says; 0: not visible from here */
	bool local;         /* a unix socket */
	bool connecting;
	bool heard; /* something came */
	bool cut;   /* by us: it goes as soon as its watch is served, and why: */
	int why;
	bool closing; /* we have hung up; what comes is not read any more, but for its end */
	bool ended;   /* the other end has hung up */
	uint64_t born;
	struct list out; /* what the socket had no room for */
	unsigned n_out;
	uint8_t *in; /* of TCP: a message that has not come whole */
	uint32_t in_len;
};

struct control_msg {
	uint16_t type; /* enum control_type */
	uint16_t n_fds;
	uint32_t len;
	int fds[CONTROL_FDS]; /* of a received one: closed after it was handled */
	uint8_t data[CONTROL_MAX];
};

/* Fills in where g is found in g->addr. TCP only if a NIC of it reaches other hosts. */
int control_listen(struct pg_group *g, struct pg_error *err);

/* Begins to connect by one of the ways in addr, 0 being the unix socket. -EAGAIN: try again later;
 * -ENOENT: there are no more ways; -ECONNREFUSED: nobody is there; another -errno. What fails later
 * is told by handshake_hangup. */
int control_connect(struct pg_group *g, const struct net_addr *addr, unsigned route,
		    struct stream **stream);

/* Queues what the socket has no room for. A stream that fails, or whose other end does not read for
 * too long, hangs up by and by; nothing else needs to be done about -errno. */
int control_send(struct pg_group *g, struct stream *s, const struct control_msg *msg);

/* Cuts it: its watch tells of it, with this cause, and closes it. */
void control_cut(struct stream *s, int why);

/* Nothing of ours will come any more. It closes when the other end has said the same. */
void control_end(struct pg_group *g, struct stream *s);

void control_close(struct pg_group *g, struct stream *s);

/* Streams that have not greeted, or not connected, within dead_ns hang up. */
void control_scan(struct pg_group *g);

#endif
