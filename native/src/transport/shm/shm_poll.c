/* SPDX-License-Identifier: MIT
 *
 * Connections with recent traffic are hot: polled each time. The others are cold and found through
 * the pending bits of the inbox. Nothing is lost between the two, nor on the way to sleep, by
 * Dekker's handshake, in which each side writes, fences, and then reads what the other side writes:
 *
 *   sender    publishes the entry    | fence | reads the bit; sets it if clear
 *   receiver  clears the bit (cool)  | fence | reads the entry; stays hot if it is there
 *
 *   sender    publishes, sets bit    | fence | reads `sleeping`; rings the bell if set
 *   receiver  sets `sleeping` (arm)  | fence | reads the bits and the entries of hot connections
 *
 *   receiver  says what it has taken | fence | reads `wanted`; rings the bell if set
 *   sender    sets `wanted` (arm)    | fence | reads what has been taken
 *
 * Of two such reads at least one sees the other side's write. A bit stays set while its connection
 * is hot, so that a sender in full flow writes nothing but entries. */
#include <errno.h>
#include <unistd.h>

#include "transport/shm/shm.h"

/* Empty polls of all hot connections together after which one that has been idle turns cold. Costs
 * a few tens of ns on each side, so it should not happen within a round trip. */
#define PATIENCE 8192
/* The sender is told about taken entries in strides: it needs to know only when its ring looks
 * full, and then there is more than one stride to be taken. */
#define TELL_STRIDE (ENTRIES / 4)

static void heat_up(struct shm_conn *c)
{
	struct shm_domain *lane = conn_lane(c);

	lane->cold[c->slot / 64] &= ~(1ULL << c->slot % 64);
	c->is_hot = true;
	c->idle = 0;
	c->hot_index = lane->n_hot;
	lane->hot[lane->n_hot++] = c;
	lane->patience = PATIENCE / lane->n_hot;
}

void cool_down(struct shm_conn *c)
{
	struct shm_domain *lane = conn_lane(c);
	struct shm_conn *last = lane->hot[--lane->n_hot];

	lane->hot[c->hot_index] = last;
	last->hot_index = c->hot_index;
	c->is_hot = false;
	if (lane->n_hot)
		lane->patience = PATIENCE / lane->n_hot;
}

void conn_break(struct shm_conn *c, int status)
{
	struct shm_domain *lane = conn_lane(c);

	if (c->status)
		return;
	if (c->is_hot)
		cool_down(c);
	lane->cold[c->slot / 64] &= ~(1ULL << c->slot % 64);
	c->status = status;
	lane->n_dying++;
}

static inline uint64_t next_entry(const struct shm_conn *c)
{
	/* Acquire: with the entry we see the payload and the record that came before it. */
	return atomic_load_explicit(&c->in->entries[c->taken % ENTRIES], memory_order_acquire);
}

/* Nothing to take: the next entry is the one of the lap before. */
static inline bool is_idle(const struct shm_conn *c)
{
	return entry_is_at(next_entry(c), c->taken - ENTRIES) && !c->waiting;
}

static void turn_cold(struct shm_conn *c)
{
	_Atomic uint64_t *word = &conn_lane(c)->inbox->pending[c->slot / 64];
	uint64_t bit = 1ULL << c->slot % 64;

	/* Relaxed, here and below: the fence orders. */
	atomic_fetch_and_explicit(word, ~bit, memory_order_relaxed);
	full_fence();
	if (entry_is_at(next_entry(c), c->taken)) {
		atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
		c->idle = 0;
		return;
	}
	cool_down(c);
	conn_lane(c)->cold[c->slot / 64] |= bit;
}

/* Tells the peer how far we are, and wakes it if it waits for that. */
static void tell(struct shm_conn *c)
{
	struct taken *taken = &c->in->taken;

	/* Release: our reads of what is given back come before. */
	atomic_store_explicit(&taken->entries, c->taken, memory_order_release);
	atomic_store_explicit(&taken->messages, c->messages_in, memory_order_release);
	atomic_store_explicit(&taken->pieces, c->pieces_in, memory_order_release);
	c->told = c->taken;
	full_fence();
	if (!atomic_load_explicit(&c->in->wanted, memory_order_relaxed))
		return;
	/* Acquire: if this takes back what the peer has just set on its way to sleep, we see it
	 * asleep. */
	atomic_exchange_explicit(&c->in->wanted, 0, memory_order_acquire);
	ring_bell(c);
}

/* The effect of one entry. 1: an arrival has been filled in, 0: none, or -errno. */
static int take(struct shm_conn *c, uint64_t entry, struct arrival *arrival)
{
	int rc;

	switch (entry_kind(entry)) {
	case ENTRY_IMM:
		break;
	case ENTRY_PIECE:
		return place_piece(c);
	case ENTRY_PIECE_IMM:
		rc = place_piece(c);
		if (rc)
			return rc;
		break;
	case ENTRY_MSG:
		return ++c->waiting > RECORD_RING / LINE ? -EPROTO : 0;
	case ENTRY_SKIP:
		return 0;
	default:
		return -EPROTO;
	}
	if (!entry_count(entry))
		return -EPROTO;
	arrival->kind = ARRIVAL_IMM;
	arrival->conn = &c->conn;
	arrival->imm = (uint32_t)entry;
	arrival->count = entry_count(entry);
	return 1;
}

/* Up to a ring full: a fast sender does not keep us here for ever. */
static unsigned take_entries(struct shm_conn *c, struct arrival *arrivals, unsigned max)
{
	uint32_t end = c->taken + ENTRIES;
	unsigned n = 0;

	while (n < max && c->taken != end) {
		uint64_t entry = next_entry(c);
		int rc;

		if (!entry_is_at(entry, c->taken)) {
			/* Else it must be the one of the lap before. */
			if (!entry_is_at(entry, c->taken - ENTRIES))
				conn_break(c, -EPROTO);
			break;
		}
		c->taken++;
		rc = take(c, entry, &arrivals[n]);
		if (rc < 0) {
			conn_break(c, rc);
			break;
		}
		n += (unsigned)rc;
	}
	return n;
}

static unsigned take_messages(struct shm_conn *c, unsigned staged, struct arrival *arrivals,
			      unsigned max)
{
	uint8_t *to = conn_lane(c)->staging + (size_t)staged * PG_MSG_MAX;
	unsigned n = 0;

	for (; n < max && c->waiting; n++, to += PG_MSG_MAX) {
		struct record *record = record_at(c->in->messages, c->messages_in);
		uint32_t len = atomic_load_explicit(&record->len, memory_order_relaxed);

		if (len > PG_MSG_MAX) {
			conn_break(c, -EPROTO);
			break;
		}
		record_get(c->in->messages, c->messages_in, to, len);
		c->messages_in += record_size(len);
		c->waiting--;
		arrivals[n].kind = ARRIVAL_MSG;
		arrivals[n].conn = &c->conn;
		arrivals[n].data = to;
		arrivals[n].len = len;
	}
	return n;
}

static inline unsigned at_most(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static unsigned poll_conn(struct shm_conn *c, struct arrival *arrivals, unsigned max,
			  unsigned *staged, unsigned max_msgs)
{
	uint32_t pieces = c->pieces_in;
	unsigned n = take_entries(c, arrivals, max), messages = 0;

	if (c->waiting && !c->status)
		messages = take_messages(c, *staged, arrivals + n,
					 at_most(max - n, max_msgs - *staged));
	*staged += messages;
	c->idle = 0;
	/* Records are few and large: their space goes back at once. */
	if (messages || c->pieces_in != pieces || c->taken - c->told >= TELL_STRIDE)
		tell(c);
	return n + messages;
}

static unsigned report_dead(struct shm_domain *lane, struct arrival *arrivals, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < lane->n_slots && n < max && lane->n_dying; i++) {
		struct shm_conn *c = lane->conns[i];

		if (!c || !c->status || c->reported)
			continue;
		c->reported = true;
		lane->n_dying--;
		arrivals[n].kind = ARRIVAL_DEAD;
		arrivals[n].status = c->status;
		arrivals[n++].conn = &c->conn;
	}
	return n;
}

static bool heat_pending(struct shm_domain *lane)
{
	bool found = false;

	for (unsigned w = 0; w < lane->n_words; w++) {
		/* Acquire: whoever set the bit has published before. */
		uint64_t bits =
			atomic_load_explicit(&lane->inbox->pending[w], memory_order_acquire);

		for (bits &= lane->cold[w]; bits; bits &= bits - 1, found = true)
			heat_up(lane->conns[w * 64 + (unsigned)__builtin_ctzll(bits)]);
	}
	return found;
}

unsigned shm_poll(struct domain *domain, struct arrival *arrivals, unsigned max, unsigned max_msgs)
{
	struct shm_domain *lane = shm_domain(domain);
	unsigned staged = 0, n = 0, i;

	max_msgs = at_most(max_msgs, STAGED_MESSAGES);
	if (lane->mover)
		n = mover_reap(lane->mover, arrivals, max);
	if (__builtin_expect(lane->n_dying, 0))
		n += report_dead(lane, arrivals + n, max - n);
	heat_pending(lane);

	/* Another one goes first each time, lest one with much traffic fill arrivals for ever. */
	if (lane->turn >= lane->n_hot)
		lane->turn = 0;
	i = lane->turn++;
	for (unsigned left = lane->n_hot; left && lane->n_hot && n < max; left--, i++) {
		struct shm_conn *c;

		if (i >= lane->n_hot)
			i = 0;
		c = lane->hot[i];
		if (!is_idle(c))
			n += poll_conn(c, arrivals + n, max - n, &staged, max_msgs);
		else if (++c->idle > lane->patience)
			turn_cold(c);
	}
	return n;
}

/* On the way to sleep: whoever found no credit says so to the receiver. */
static bool ask_for_credit(struct shm_domain *lane)
{
	bool returned = false;

	for (unsigned i = 0; i < lane->n_slots && lane->n_starved; i++) {
		struct shm_conn *c = lane->conns[i];

		if (!c || !c->starved)
			continue;
		/* Release: the receiver that takes it sees that we sleep. */
		atomic_store_explicit(&c->out->wanted, 1, memory_order_release);
		full_fence();
		if (!credit_returned(c))
			continue;
		c->starved = false;
		lane->n_starved--;
		returned = true;
	}
	return returned;
}

/* Messages that the caller did not want to take do not count: it polls again when it does. */
static bool nothing_there(struct shm_domain *lane)
{
	bool there = lane->n_dying || (lane->mover && mover_has_done(lane->mover));

	there |= ask_for_credit(lane);
	there |= heat_pending(lane);
	for (unsigned i = 0; i < lane->n_hot && !there; i++)
		there = entry_is_at(next_entry(lane->hot[i]), lane->hot[i]->taken);
	return !there;
}

bool shm_arm(struct domain *domain, bool sleep)
{
	struct shm_domain *lane = shm_domain(domain);
	uint64_t rings;

	if (sleep) {
		lane->armed = true;
		if (!++lane->sleep)
			lane->sleep = 1;
		/* Relaxed: the fence orders it before all that we look at. */
		atomic_store_explicit(&lane->inbox->sleeping, lane->sleep, memory_order_relaxed);
		full_fence();
		if (nothing_there(lane))
			return true;
	}
	/* Relaxed: a sender that still sees the old value rings for nothing. */
	atomic_store_explicit(&lane->inbox->sleeping, 0, memory_order_relaxed);
	if (!sleep && lane->armed) {
		lane->armed = false;
		(void)!read(domain->fd, &rings, sizeof(rings));
	}
	return false;
}
