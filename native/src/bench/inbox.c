/* SPDX-License-Identifier: MIT */
#include "bench/inbox.h"

#include <errno.h>

#define TAKE 32

void inbox_begin(struct inbox *in, struct pg_group *group, uint32_t imm, int32_t *flags)
{
	*in = (struct inbox){ .group = group, .imm = imm, .flags = flags };
}

int inbox_expect(struct inbox *in, unsigned parity, uint64_t n, struct pg_error *err)
{
	if (in->imm == PG_NO_IMM) {
		in->due[parity] = n;
		return 0;
	}
	return pg_expect_imm_flag(in->group, in->imm + parity, n, &in->flags[parity], err);
}

static int keep(struct inbox *in, const struct pg_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		if (events[i].kind != PG_EVENT_RECV)
			continue;
		if (events[i].data)
			pg_recv_release(in->group, events[i].data);
		if (events[i].status)
			return events[i].status;
		in->surplus++;
	}
	return n < 0 ? n : 0;
}

static int settle(struct inbox *in, unsigned parity)
{
	uint64_t n = in->surplus < in->due[parity] ? in->surplus : in->due[parity];

	in->surplus -= n;
	in->due[parity] -= n;
	return in->due[parity] == 0;
}

int inbox_poll(struct inbox *in, struct loop *l, unsigned parity)
{
	struct pg_event events[TAKE];
	int rc;

	if (in->imm != PG_NO_IMM) {
		if (l->control->wait != PG_BENCH_SLEEP)
			pg_progress(in->group);
		return flag_load(&in->flags[parity]);
	}
	if (settle(in, parity))
		return 1;
	rc = keep(in, events, pg_poll_events(in->group, events, TAKE));
	return rc ? rc : settle(in, parity);
}

int inbox_idle(struct inbox *in, struct loop *l, unsigned parity)
{
	struct pg_event events[TAKE];
	int n;

	if (in->imm != PG_NO_IMM || l->control->wait != PG_BENCH_SLEEP)
		return loop_idle(l, &in->flags[parity]);
	n = pg_wait_events(in->group, events, TAKE, LOOP_SLICE_NS);
	if (n == -ETIMEDOUT || n == -EINTR)
		return loop_check(l, ticks());
	return keep(in, events, n);
}

int inbox_wait(struct inbox *in, struct loop *l, unsigned parity)
{
	for (;;) {
		int rc = inbox_poll(in, l, parity);

		if (rc)
			return rc < 0 ? rc : 0;
		rc = inbox_idle(in, l, parity);
		if (rc)
			return rc;
	}
}
