/* SPDX-License-Identifier: MIT
 *
 * What becomes of what is in flight when a NIC dies or an endpoint is closed: it is lost, or placed and not
 * counted, or placed and counted, or that later. The sender is told of none that it has ended well. */
#include <stdlib.h>
#include <unistd.h>

#include "inside.h"

/* How often it would be counted yet. */
static uint32_t counts_left(const struct inbound *in, const struct slot *s)
{
	uint32_t counted = in->segment + (in->phase == PHASE_ECHO);

	return s->kind == SLOT_WRITE_IMM ? in->segments.n - counted : 0;
}

static bool count(struct fake_ep *ep, const struct fake_addr *from, uint32_t imm, uint32_t counts,
		  uint64_t len)
{
	if (ep->rx_cq->tail - ep->rx_cq->head + counts > ep->rx_cq->size)
		return false;
	while (counts--)
		fake_count_arrival(ep, from, imm, len);
	return true;
}

/* The sender may use its memory otherwise long before it lands, so it is copied now. */
static bool put_off(struct fake_ep *ep, const struct inbound *in, const struct slot *s)
{
	struct late *late = malloc(sizeof(*late) + s->len);
	uint64_t now = clock_ns();

	if (!late)
		return false;
	if (fake_copy(s->from.pid, (uintptr_t)late->payload, s->src, s->len)) {
		free(late);
		return false;
	}
	late->due = now + splitmix64_below(&ep->random, LATE_NS);
	late->until = now + LATE_BOUND_NS;
	late->raddr = s->raddr;
	late->rkey = s->rkey;
	late->len = s->len;
	late->imm = s->imm;
	late->counts = counts_left(in, s);
	late->from = s->from;
	late->next = ep->lates;
	ep->lates = late;
	return true;
}

static enum fate choose(struct fake_ep *ep)
{
	enum fate fate = fake_settings()->fate;

	return fate == FATE_ANY ? splitmix64_below(&ep->random, FATE_ANY) : fate;
}

static enum fate judge_write(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	enum fate fate = choose(ep);

	if (!fake_mr_allows(ep->domain, s->rkey, s->raddr, s->len, FI_REMOTE_WRITE))
		return FATE_LOST;
	if (fate == FATE_LATE)
		return put_off(ep, in, s) ? FATE_LATE : FATE_LOST;
	if (fate == FATE_LOST || fake_copy(s->from.pid, s->raddr, s->src, s->len))
		return FATE_LOST;
	if (fate == FATE_COUNTED && count(ep, &s->from, s->imm, counts_left(in, s), s->len))
		return FATE_COUNTED;
	return FATE_PLACED;
}

/* A message is there as a whole or not at all. */
static enum fate judge_send(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	enum fate fate = choose(ep);
	uint32_t status;

	if (fate == FATE_LOST || fate == FATE_PLACED)
		return FATE_LOST;
	return fake_send_step(ep, in, s, &status) && !status ? FATE_COUNTED : FATE_LOST;
}

uint32_t fake_judge(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	enum fate fate = s->kind == SLOT_SEND ? judge_send(ep, in, s) : judge_write(ep, in, s);

	fake_count(FAKE_EFA_FATE_LOST + fate);
	return STATUS_UNRESPONSIVE;
}

/* Whether it has. What has not by its bound, as nobody looked, never does. */
static bool land(struct fake_ep *ep, const struct late *late, uint64_t now)
{
	if (now > late->until ||
	    !fake_mr_allows(ep->domain, late->rkey, late->raddr, late->len, FI_REMOTE_WRITE))
		return true;
	if (now < late->due ||
	    fake_copy(getpid(), late->raddr, (uintptr_t)late->payload, late->len) ||
	    !count(ep, &late->from, late->imm, late->counts, late->len))
		return false;
	fake_count(FAKE_EFA_LANDED_LATE);
	return true;
}

void fake_land_lates(struct fake_ep *ep)
{
	struct late **at = &ep->lates, *late;
	uint64_t now = ep->lates ? clock_ns() : 0;

	while (*at) {
		late = *at;
		if (land(ep, late, now)) {
			*at = late->next;
			free(late);
		} else {
			at = &late->next;
		}
	}
}

void fake_drop_lates(struct fake_ep *ep)
{
	while (ep->lates) {
		struct late *late = ep->lates;

		ep->lates = late->next;
		free(late);
	}
}
