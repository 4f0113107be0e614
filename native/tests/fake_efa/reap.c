/* SPDX-License-Identifier: MIT
 *
 * How what an endpoint of the stand-in for EFA has posted ends. FI_DELIVERY_COMPLETE is all there is: success
 * is told when the payload is placed and the receiver's queue has its entry. */
#include <unistd.h>

#include "inside.h"

#define NAP_US 100

static void complete(struct fake_ep *ep, struct op *op)
{
	struct fi_cq_err_entry entry = { .op_context = op->context, .flags = op->flags };

	if (!op->quiet)
		fake_cq_push(ep->tx_cq, &entry, FI_ADDR_NOTAVAIL);
	op->used = false;
}

/* Errors are told of all, also of what is injected. */
static void report(struct fake_ep *ep, struct op *op)
{
	struct fi_cq_err_entry entry = { .op_context = op->context,
					 .flags = op->flags,
					 .err = fake_errno(op->status),
					 .prov_errno = (int)op->status };

	if (op->status == STATUS_UNRESPONSIVE || op->status == STATUS_UNREACHABLE)
		fake_count(FAKE_EFA_UNRESPONSIVE);
	fake_cq_push(ep->tx_cq, &entry, FI_ADDR_NOTAVAIL);
	op->used = false;
}

static void fail(struct op *op, uint32_t status, uint64_t at)
{
	op->slot = NULL;
	op->status = status;
	op->fail_at = at;
}

/* Nobody answers any more, or the NIC that would hear it is dead. */
static void fail_unresponsive(struct fake_ep *ep, struct op *op, uint64_t now, bool own_down)
{
	uint64_t after =
		UNRESPONSIVE_NS / 4 + splitmix64_below(&ep->random, UNRESPONSIVE_NS * 3 / 4);

	fail(op, STATUS_UNRESPONSIVE, own_down && ep->silent ? NEVER : now + after);
}

/* Whether the receiver will not touch it any more; false while it is at it. */
static bool take_back(struct slot *s)
{
	uint32_t state = SLOT_POSTED;

	/* Acquire and release: either side has done with it before the other goes on. */
	return atomic_compare_exchange_strong_explicit(&s->state, &state, SLOT_CANCELLED,
						       memory_order_acq_rel, memory_order_relaxed);
}

/* The receiver has done with it. What ended well while the NIC died may not get to know. */
static void answered(struct fake_ep *ep, struct op *op, uint64_t now, bool own_down)
{
	uint32_t status = op->slot->status;

	/* Release: it has been read. */
	atomic_store_explicit(&op->slot->state, SLOT_FREE, memory_order_release);
	op->slot = NULL;
	op->to->met = true;
	if (!status && own_down && fake_chance(&ep->random, 2)) {
		fake_count(FAKE_EFA_FATE_COUNTED);
		status = STATUS_UNRESPONSIVE;
	}
	if (status == STATUS_UNRESPONSIVE)
		fail_unresponsive(ep, op, now, own_down);
	else if (status)
		fail(op, status, now);
	else
		complete(ep, op);
}

/* While the NIC is dead the receiver is asked what becomes of it; if it does not look, it is lost. */
static void doom(struct fake_ep *ep, struct op *op, uint64_t now)
{
	if (!op->doomed_at) {
		op->doomed_at = now;
		/* Relaxed: that it is seen late, or never, is as good. */
		atomic_store_explicit(&op->slot->doomed, 1, memory_order_relaxed);
	} else if (now > op->doomed_at + CLOSING_NS && take_back(op->slot)) {
		fake_count(FAKE_EFA_FATE_LOST);
		fail_unresponsive(ep, op, now, true);
	}
}

static void look(struct fake_ep *ep, struct op *op, uint64_t now, bool own_down)
{
	struct segment *segment = op->to->segment;
	/* Acquire: what it has said of the slots is from before. */
	bool closed = atomic_load_explicit(&segment->closed, memory_order_acquire);
	uint64_t down;

	if (atomic_load_explicit(&op->slot->state, memory_order_acquire) == SLOT_DONE) {
		answered(ep, op, now, own_down);
		return;
	}
	if (closed) {
		fail(op, STATUS_BAD_DEST_QPN, now);
		return;
	}
	if (fake_remote_gone(op->to, now)) {
		fail_unresponsive(ep, op, now, own_down);
		return;
	}
	if (own_down) {
		doom(ep, op, now);
		return;
	}
	down = fake_nic_down(segment->nic_state, &op->to->watch, now);
	if (down && now > down + UNRESPONSIVE_NS && take_back(op->slot))
		fail(op, STATUS_UNRESPONSIVE, now);
}

void fake_reap(struct fake_ep *ep)
{
	uint64_t now = clock_ns();
	bool own_down = fake_nic_down(ep->domain->nic_state, &ep->domain->watch, now);

	for (uint32_t i = 0; i < ep->n_ops; i++) {
		struct op *op = &ep->ops[i];

		if (!op->used)
			continue;
		if (!fake_cq_has_room(ep->tx_cq))
			return;
		if (op->slot)
			look(ep, op, now, own_down);
		else if (op->fail_at <= now)
			report(ep, op);
	}
}

/* ---- Closing -------------------------------------------------------------------------------- */

static bool in_flight(struct op *op, uint64_t now)
{
	uint32_t state;

	if (!op->used || !op->slot || fake_remote_gone(op->to, now) ||
	    atomic_load_explicit(&op->to->segment->closed, memory_order_acquire))
		return false;
	state = atomic_load_explicit(&op->slot->state, memory_order_acquire);
	return state == SLOT_POSTED || state == SLOT_BUSY;
}

static bool any_in_flight(struct fake_ep *ep)
{
	uint64_t now = clock_ns();

	for (uint32_t i = 0; i < ep->n_ops; i++) {
		if (in_flight(&ep->ops[i], now))
			return true;
	}
	return false;
}

/* Once it is taken back, or the receiver has done with it, nobody reads our memory for it any more. A receiver
 * that is stopped in the middle of a copy does not count: it stands still. */
static void abandon(struct op *op)
{
	while (in_flight(op, clock_ns()) && !take_back(op->slot))
		usleep(NAP_US);
	if (!fake_remote_gone(op->to, clock_ns()) &&
	    atomic_load_explicit(&op->slot->state, memory_order_acquire) == SLOT_DONE)
		atomic_store_explicit(&op->slot->state, SLOT_FREE, memory_order_release);
}

void fake_reap_all(struct fake_ep *ep)
{
	uint64_t until = clock_ns() + CLOSING_NS;

	for (uint32_t i = 0; i < ep->n_ops; i++) {
		if (ep->ops[i].used && ep->ops[i].slot)
			atomic_store_explicit(&ep->ops[i].slot->doomed, 1, memory_order_relaxed);
	}
	while (any_in_flight(ep) && clock_ns() < until)
		usleep(NAP_US);
	for (uint32_t i = 0; i < ep->n_ops; i++) {
		if (ep->ops[i].used && ep->ops[i].slot)
			abandon(&ep->ops[i]);
	}
}
