/* SPDX-License-Identifier: MIT
 *
 * What is to go wrong, as text and as data; see pg_impair_check for the grammar. */
#ifndef PGCTL_IMPAIRED_SPEC_H
#define PGCTL_IMPAIRED_SPEC_H

#include "pgctl/engine.h"

#define IMPAIR_WINDOW_MAX 128
#define IMPAIR_EVENTS 16
#define IMPAIR_CERTAIN 1000000000 /* of fail: probability 1 */

struct impair_event {
	uint64_t at_ns; /* since the first work request or arrival */
	int32_t nic;    /* -1: the whole process */
	bool up;
};

struct impair {
	bool active; /* something may go wrong */
	uint32_t reorder;
	uint32_t depth;
	uint32_t fail;
	int32_t rank;        /* -1: every one */
	int32_t highest_nic; /* that is named; -1: none is */
	uint64_t delay_ns;
	uint64_t jitter_ns;
	uint64_t cap[PG_MAX_DOMAINS]; /* bits per second; 0: as fast as it can */
	unsigned n_events;
	struct impair_event events[IMPAIR_EVENTS]; /* by time */
};

/* -EINVAL names the piece and what it should have been. An empty text is no piece. */
int impair_parse(const char *spec, struct impair *impair, struct pg_error *err);

#endif
