/* SPDX-License-Identifier: MIT
 *
 * What a loop waits for: counted immediates, or messages. Two expectations may stand at once, told
 * apart by parity.
 */
#ifndef PGCTL_BENCH_INBOX_H
#define PGCTL_BENCH_INBOX_H

#include "bench/loop.h"

struct inbox {
	struct pg_group *group;
	uint32_t imm;     /* of parity 0; parity 1 is the next; PG_NO_IMM: messages */
	int32_t *flags;   /* two words */
	uint64_t due[2];  /* messages that an expectation still lacks */
	uint64_t surplus; /* messages taken that nobody has expected yet */
};

void inbox_begin(struct inbox *in, struct pg_group *group, uint32_t imm, int32_t *flags);
int inbox_expect(struct inbox *in, unsigned parity, uint64_t n, struct pg_error *err);
/* Looks once, making progress if nobody else does. 1: all have come; 0: not yet; -errno. */
int inbox_poll(struct inbox *in, struct loop *l, unsigned parity);
/* Nothing has come: loop_idle. */
int inbox_idle(struct inbox *in, struct loop *l, unsigned parity);
/* inbox_poll until it is not 0. */
int inbox_wait(struct inbox *in, struct loop *l, unsigned parity);

#endif
