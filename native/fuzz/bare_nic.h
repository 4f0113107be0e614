/* SPDX-License-Identifier: MIT
 *
 * A transport without a cable, so that a target can play the other end of everything: what arrives
 * is what the target says, and what is posted is only looked at. Its registry, which has shm too,
 * replaces the library's. */
#ifndef PGCTL_FUZZ_BARE_NIC_H
#define PGCTL_FUZZ_BARE_NIC_H

#include "transport/transport.h"

/* What the NICs that are opened from now on can do. */
enum bare_caps {
	BARE_SYNC = 1, /* caps.sync_post */
	BARE_EXACT = 2,
	BARE_ORDERED = 4,
	BARE_FENCES = 8,
	BARE_MAPS = 16,
	BARE_SHORT = 32, /* writes of 16 bytes at a time, split from 32 */
	BARE_SOURCES = 64,
};
void bare_nic_caps(unsigned caps);

/* In the first byte of an offer of a connection or a region: what becomes of taking it. */
enum bare_offer {
	BARE_GOOD,
	BARE_FORGED,      /* -EPROTO */
	BARE_UNREACHABLE, /* -ENETUNREACH */
};

/* From now on all that is posted ends with status, or if room is false finds no credit. If it is late,
 * it has not ended until bare_nic_ends says so, its connection breaks, or nothing is late any more;
 * likewise with stops and fences. */
void bare_nic_answers(int status, bool room, bool late);

/* The n-th of what has not ended on a lane (modulo how much there is) ends, work requests with status. */
void bare_nic_ends(struct domain *domain, unsigned n, int status);

/* Puts an arrival into the queue of a lane, of its n-th connection (modulo how many there are); if it
 * has none, or no room, nothing arrives. */
void bare_nic_says(struct domain *domain, unsigned n, struct arrival arrival);

#endif
