/* SPDX-License-Identifier: MIT
 *
 * Somebody who talks to a group over control streams, and says what the input has him say. Asked for
 * nothing but zeros he says what is right at that point, so that the input decides what he gets wrong.
 * He is three: who is taken for three engines. */
#ifndef PGCTL_FUZZ_STRANGER_H
#define PGCTL_FUZZ_STRANGER_H

#include "engine/control.h"
#include "fuzz.h"

#define STRANGERS 3
#define STREAMS 4
#define HEAD 12 /* of a frame: magic, version, type, length */
#define STRANGER_MAGIC 0x6c746370u

struct spoken {
	uint8_t bytes[HEAD + CONTROL_MAX];
	size_t len;
};

/* A stream, and what the group has said on it last of each type. */
struct line {
	int fd; /* -1: none */
	bool tcp;
	bool deaf;     /* nothing is read */
	bool confused; /* what is read may be old, or meant for somebody whom he no longer plays */
	struct spoken in; /* of TCP: a message that has not come whole */
	struct spoken last[CONTROL_TYPES];
	uint8_t incarnation[16]; /* who he has last said to be on it */
	uint32_t group;
};

struct stranger {
	struct pg_group *g;
	struct line lines[STREAMS];
	int unix_listeners[STRANGERS]; /* -1: nobody listens there */
	int tcp_listeners[STRANGERS];
	int palette[8]; /* descriptors to hand over, made when needed */
	void (*round)(struct pg_group *g);
};

void stranger_init(struct stranger *s, struct pg_group *g, void (*round)(struct pg_group *g));
void stranger_close(struct stranger *s);

/* His address: an engine like the group. Listens there if the input has him do so. */
void stranger_address(struct stranger *s, struct input *in, struct net_addr *addr);

/* Each takes what it needs from the input. */
void stranger_dial(struct stranger *s, struct input *in);
void stranger_accept(struct stranger *s, struct input *in);
void stranger_hang_up(struct stranger *s, struct input *in);
void stranger_hello(struct stranger *s, struct input *in);
void stranger_ready(struct stranger *s, struct input *in);
void stranger_asks(struct stranger *s, struct input *in);
void stranger_answers(struct stranger *s, struct input *in);
void stranger_settles(struct stranger *s, struct input *in);
void stranger_path(struct stranger *s, struct input *in);
void stranger_agrees(struct stranger *s, struct input *in);
void stranger_says(struct stranger *s, struct input *in);

/* Hears what the group has said. */
void stranger_hears(struct stranger *s);

/* ---- Between his files ---------------------------------------------------------------------- */

/* The one that the input names, or NULL. */
struct line *stranger_line(struct stranger *s, struct input *in);
/* What the group has said last of this type, without its frame; NULL: nothing. */
const uint8_t *stranger_heard(const struct line *l, unsigned type);
/* What has just come on it is CONTROL_PATH. */
void stranger_hears_path(const struct stranger *s, const struct line *l);

#endif
