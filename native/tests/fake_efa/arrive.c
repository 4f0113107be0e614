/* SPDX-License-Identifier: MIT
 *
 * What comes for an endpoint of the stand-in for EFA. Each read of its queue moves what has come by a step, or
 * not at all: a few pieces of one segment of a write, its entry in the queue, an echo of a piece that is placed
 * already. So nothing is in any order, but that
 *   - an entry comes after all of its segment is placed, and
 *   - the sender is told after all of its entries are in the queue and all echoes are over, and
 *   - messages of one endpoint to another come as they were sent (FI_ORDER_SAS). */
#include <errno.h>
#include <stdlib.h>

#include "inside.h"

#define PIECES 16 /* of a segment, at most; they are of whole MTUs */

/* Of a sender that has ended: nobody is to be told. Not a status of efa. */
#define STATUS_NOBODY 0xffff

static uint32_t gcd(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static struct shuffle shuffle(uint64_t *random, uint32_t n)
{
	struct shuffle s = { .n = n, .stride = 1 };

	if (n < 2)
		return s;
	s.start = (uint32_t)splitmix64_below(random, n);
	do
		s.stride = 1 + (uint32_t)splitmix64_below(random, n - 1);
	while (gcd(s.stride, n) != 1);
	return s;
}

static uint32_t shuffled(const struct shuffle *s, uint32_t i)
{
	return (uint32_t)((s->start + (uint64_t)i * s->stride) % s->n);
}

/* ---- Whose it is ---------------------------------------------------------------------------- */

static struct source *source_of(struct fake_ep *ep, const struct fake_addr *from)
{
	struct source *sources;

	for (size_t i = 0; i < ep->n_sources; i++) {
		if (ep->sources[i].nonce == from->nonce)
			return &ep->sources[i];
	}
	sources = realloc(ep->sources, (ep->n_sources + 1) * sizeof(*sources));
	if (!sources)
		abort();
	ep->sources = sources;
	sources[ep->n_sources] = (struct source){ .nonce = from->nonce };
	return &sources[ep->n_sources++];
}

static void note_turn(struct fake_ep *ep, const struct slot *s)
{
	struct source *source = source_of(ep, &s->from);

	if (s->turn < source->last_turn)
		fake_count(FAKE_EFA_OVERTAKEN);
	else
		source->last_turn = s->turn;
}

/* ---- Writes --------------------------------------------------------------------------------- */

void fake_count_arrival(struct fake_ep *ep, const struct fake_addr *from, uint32_t imm,
			uint64_t len)
{
	struct fi_cq_err_entry entry = { .flags = FI_REMOTE_CQ_DATA | FI_RMA | FI_REMOTE_WRITE,
					 .len = len,
					 .data = imm };

	fake_cq_push(ep->rx_cq, &entry, fake_av_find(ep->av, from));
}

static uint64_t segment_at(const struct inbound *in)
{
	return shuffled(&in->segments, in->segment) * fake_settings()->rdma;
}

static uint64_t segment_len(const struct inbound *in, const struct slot *s)
{
	uint64_t left = s->len - segment_at(in);

	return left < fake_settings()->rdma ? left : fake_settings()->rdma;
}

static uint64_t piece_len(uint64_t segment)
{
	uint64_t mtus = (segment + FAKE_MTU - 1) / FAKE_MTU;

	return (mtus + PIECES - 1) / PIECES * FAKE_MTU;
}

static void begin_segment(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	uint64_t len = segment_len(in, s), piece = piece_len(len);

	in->phase = PHASE_PLACE;
	in->piece = 0;
	in->pieces = shuffle(&ep->random, len ? (uint32_t)((len + piece - 1) / piece) : 0);
}

static struct inbound begin(struct fake_ep *ep, uint32_t slot)
{
	const struct slot *s = &ep->segment->slots[slot];
	uint64_t rdma = fake_settings()->rdma, hold = fake_settings()->hold;
	struct inbound in = { .slot = slot,
			      .hold = (uint32_t)splitmix64_below(&ep->random, hold + 1) };

	in.segments = shuffle(&ep->random, s->len ? (uint32_t)((s->len + rdma - 1) / rdma) : 1);
	begin_segment(ep, &in, s);
	return in;
}

static uint32_t copied(int rc)
{
	if (!rc)
		return STATUS_OK;
	if (rc == -ESRCH)
		return STATUS_NOBODY;
	return rc == -EFAULT ? STATUS_INVALID_LKEY : STATUS_OTHER;
}

/* The k-th piece, in the order in which they are placed. */
static uint32_t place(const struct inbound *in, const struct slot *s, uint32_t k)
{
	uint64_t len = segment_len(in, s), piece = piece_len(len);
	uint64_t at = shuffled(&in->pieces, k) * piece;
	uint64_t n = len - at < piece ? len - at : piece;

	at += segment_at(in);
	return copied(fake_copy(s->from.pid, s->raddr + at, s->src + at, n));
}

static uint32_t place_some(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	uint32_t left = in->pieces.n - in->piece, status = STATUS_OK;
	uint32_t n = left ? 1 + (uint32_t)splitmix64_below(&ep->random, left) : 0;

	while (n-- && !status) {
		status = place(in, s, in->piece++);
		if (status || !fake_chance(&ep->random, fake_settings()->twice))
			continue;
		fake_count(FAKE_EFA_DOUBLE);
		status = place(in, s, (uint32_t)splitmix64_below(&ep->random, in->piece));
	}
	return status;
}

static bool next_segment(struct fake_ep *ep, struct inbound *in, const struct slot *s)
{
	if (++in->segment == in->segments.n)
		return true;
	begin_segment(ep, in, s);
	return false;
}

/* A segment is written and counted by itself: so is one write with an immediate counted more than once when it
 * is longer than the device writes at once. */
bool fake_write_step(struct fake_ep *ep, struct inbound *in, const struct slot *s, uint32_t *status)
{
	*status = STATUS_OK;
	if (!fake_mr_allows(ep->domain, s->rkey, s->raddr, s->len, FI_REMOTE_WRITE)) {
		fake_count(FAKE_EFA_REFUSED_KEY);
		*status = STATUS_BAD_ADDRESS;
		return true;
	}
	if (in->phase == PHASE_PLACE) {
		*status = place_some(ep, in, s);
		if (*status || in->piece < in->pieces.n)
			return *status;
		in->phase = PHASE_COUNT;
	}
	if (in->phase == PHASE_COUNT) {
		if (s->kind == SLOT_WRITE_IMM && !fake_cq_has_room(ep->rx_cq))
			return false;
		if (s->kind == SLOT_WRITE_IMM)
			fake_count_arrival(ep, &s->from, s->imm, segment_len(in, s));
		if (s->kind == SLOT_WRITE_IMM && in->segment)
			fake_count(FAKE_EFA_SEGMENT);
		if (!in->pieces.n || !fake_chance(&ep->random, fake_settings()->echo))
			return next_segment(ep, in, s);
		in->phase = PHASE_ECHO;
		return false;
	}
	fake_count(FAKE_EFA_ECHO);
	*status = place(in, s, (uint32_t)splitmix64_below(&ep->random, in->pieces.n));
	return *status || next_segment(ep, in, s);
}

/* ---- Messages ------------------------------------------------------------------------------- */

bool fake_send_step(struct fake_ep *ep, struct inbound *in, const struct slot *s, uint32_t *status)
{
	struct source *source = source_of(ep, &s->from);
	struct fi_cq_err_entry entry = { .flags = FI_MSG | FI_RECV };
	const struct recv *recv;

	*status = STATUS_OK;
	if (s->send_turn != source->send_turn || !fake_cq_has_room(ep->rx_cq))
		return false;
	if (ep->recv_head == ep->recv_tail) {
		fake_count(FAKE_EFA_RNR);
		if (s->rnr_retry >= RNR_RETRY_FOREVER || in->looked++ < s->rnr_retry)
			return false;
		*status = STATUS_RNR;
		source->send_turn++;
		return true;
	}
	recv = &ep->recvs[ep->recv_head % ep->n_recvs];
	entry.op_context = recv->context;
	entry.len = s->len < recv->len ? s->len : recv->len;
	entry.buf = recv->buf;
	entry.olen = s->len - entry.len;
	entry.err = entry.olen ? FI_ETRUNC : 0;
	*status = copied(fake_copy(s->from.pid, (uintptr_t)recv->buf, s->src, entry.len));
	source->send_turn++;
	if (*status)
		return true;
	ep->recv_head++;
	fake_cq_push(ep->rx_cq, &entry, fake_av_find(ep->av, &s->from));
	return true;
}

/* ---- Progress ------------------------------------------------------------------------------- */

static void collect(struct fake_ep *ep)
{
	for (uint32_t w = 0; w < FAKE_SLOTS / 64; w++) {
		/* Acquire: pairs with the release of who rang. */
		uint64_t bits =
			atomic_exchange_explicit(&ep->segment->posted[w], 0, memory_order_acquire);

		for (; bits; bits &= bits - 1)
			ep->inbound[ep->n_inbound++] =
				begin(ep, w * 64 + (uint32_t)__builtin_ctzll(bits));
	}
}

static bool step(struct fake_ep *ep, struct inbound *in, const struct slot *s, bool down,
		 uint32_t *status)
{
	if (down || atomic_load_explicit(&s->doomed, memory_order_relaxed)) {
		*status = fake_judge(ep, in, s);
		return true;
	}
	if (in->hold) {
		in->hold--;
		return false;
	}
	return s->kind == SLOT_SEND ? fake_send_step(ep, in, s, status)
				    : fake_write_step(ep, in, s, status);
}

/* Whether there is nothing more to be done about it. */
static bool serve(struct fake_ep *ep, struct inbound *in, bool down)
{
	struct slot *s = &ep->segment->slots[in->slot];
	uint32_t state = SLOT_POSTED, status = STATUS_OK;
	bool ended;

	/* Acquire: it is the receiver's again. Otherwise it has been cancelled, and is nobody's. */
	if (!atomic_compare_exchange_strong_explicit(&s->state, &state, SLOT_BUSY,
						     memory_order_acquire, memory_order_relaxed)) {
		atomic_store_explicit(&s->state, SLOT_FREE, memory_order_release);
		return true;
	}
	ended = step(ep, in, s, down, &status);
	if (ended)
		note_turn(ep, s);
	if (!ended)
		state = SLOT_POSTED;
	else
		state = status == STATUS_NOBODY ? SLOT_FREE : SLOT_DONE;
	s->status = status;
	/* Release: the sender may use its memory otherwise once it has seen this. */
	atomic_store_explicit(&s->state, state, memory_order_release);
	return ended;
}

static void look_for_overrun(struct fake_ep *ep)
{
	/* Relaxed: numbers only. */
	atomic_store_explicit(&ep->segment->unread, 0, memory_order_relaxed);
	if (!atomic_exchange_explicit(&ep->segment->overrun, 0, memory_order_relaxed))
		return;
	fake_count(FAKE_EFA_OVERRUN);
	ep->rx_cq->broken = true;
}

void fake_arrive(struct fake_ep *ep)
{
	bool down = fake_nic_down(ep->domain->nic_state, &ep->domain->watch, clock_ns());
	uint32_t at;

	look_for_overrun(ep);
	collect(ep);
	/* From anywhere on, and each once: one that has ended is replaced by the last. */
	at = ep->n_inbound ? (uint32_t)splitmix64_below(&ep->random, ep->n_inbound) : 0;
	for (uint32_t left = ep->n_inbound; left; left--) {
		if (at >= ep->n_inbound)
			at = 0;
		if (serve(ep, &ep->inbound[at], down))
			ep->inbound[at] = ep->inbound[--ep->n_inbound];
		else
			at++;
	}
	fake_land_lates(ep);
}
