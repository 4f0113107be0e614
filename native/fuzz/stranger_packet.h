/* SPDX-License-Identifier: MIT
 *
 * A message of the stranger's on its way. */
#ifndef PGCTL_FUZZ_STRANGER_PACKET_H
#define PGCTL_FUZZ_STRANGER_PACKET_H

#include "stranger.h"

struct packet {
	uint8_t bytes[HEAD + CONTROL_MAX + 64];
	size_t len;
	int fds[CONTROL_FDS + 2];
	unsigned n_fds;
};

/* Framed; its length is not in it yet. */
struct packet packet_of(uint16_t type);
void packet_add(struct packet *p, const void *data, size_t len);
/* Of a connection or a region; the input changes a byte of it, and which descriptors come along. */
void packet_add_offer(struct stranger *s, struct packet *p, struct input *in, bool shm,
		      bool region);
/* With the right length, then as the input spoils it. */
void packet_say(struct stranger *s, struct line *l, struct packet *p, struct input *in);

#endif
