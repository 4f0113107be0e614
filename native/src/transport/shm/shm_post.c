/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"

#define MARKED (1ull << 32) /* in a mark beside the position, which may be 0 */

#define likely(x) __builtin_expect(!!(x), 1)

/* Immediates of one value in a row, all of whose payload has landed: one entry. */
struct run {
	uint32_t imm;
	uint32_t count;
};

static inline void publish(struct shm_conn *c, enum entry_kind kind, uint32_t imm, uint32_t count)
{
	/* Release: who sees the entry sees the payload and the record before it. */
	atomic_store_explicit(&c->out->entries[c->entries % ENTRIES],
			      entry_make(c->entries, kind, imm, count), memory_order_release);
	c->entries++;
	c->dirty = true;
}

static inline void run_end(struct shm_conn *c, struct run *run)
{
	if (run->count)
		publish(c, ENTRY_IMM, run->imm, run->count);
	run->count = 0;
}

static inline void run_add(struct shm_conn *c, struct run *run, const struct wr *wr)
{
	if (wr->op != WR_WRITE_IMM)
		return;
	if (run->imm != wr->imm || run->count == ENTRY_COUNT_MAX)
		run_end(c, run);
	run->imm = wr->imm;
	run->count++;
}

/* A word is not worth the call. */
static inline void copy(void *dst, const void *src, uint64_t len)
{
	if (len == sizeof(uint64_t))
		memcpy(dst, src, sizeof(uint64_t));
	else
		memcpy(dst, src, len);
}

bool refresh_credit(struct shm_conn *c)
{
	struct taken *taken = &c->out->taken;

	/* Acquire: the receiver has read what it says it has taken, so we may write over it. */
	c->seen.entries = atomic_load_explicit(&taken->entries, memory_order_acquire);
	c->seen.messages = atomic_load_explicit(&taken->messages, memory_order_acquire);
	c->seen.pieces = atomic_load_explicit(&taken->pieces, memory_order_acquire);
	if (c->entries - c->seen.entries <= ENTRIES &&
	    c->messages - c->seen.messages <= RECORD_RING &&
	    c->pieces - c->seen.pieces <= RECORD_RING)
		return true;
	conn_break(c, -EPROTO);
	return false;
}

bool credit_returned(const struct shm_conn *c)
{
	struct taken *taken = &c->out->taken;

	/* Relaxed: only a hint to try again. */
	return atomic_load_explicit(&taken->entries, memory_order_relaxed) != c->seen.entries ||
	       atomic_load_explicit(&taken->messages, memory_order_relaxed) != c->seen.messages ||
	       atomic_load_explicit(&taken->pieces, memory_order_relaxed) != c->seen.pieces;
}

static bool record_fits(struct shm_conn *c, const uint32_t *pos, const uint32_t *seen,
			uint32_t size)
{
	if (RECORD_RING - (*pos - *seen) >= size)
		return true;
	return refresh_credit(c) && RECORD_RING - (*pos - *seen) >= size;
}

int put_record(struct shm_conn *c, const struct wr *wr, struct pg_error *err)
{
	bool message = wr->op == WR_SEND;
	uint64_t max = message ? PG_MSG_MAX : PIECE_MAX;
	uint8_t *ring = message ? c->out->messages : c->out->pieces;
	uint32_t *pos = message ? &c->messages : &c->pieces;
	const uint32_t *seen = message ? &c->seen.messages : &c->seen.pieces;
	uint32_t len = (uint32_t)wr->len;
	struct record *record;

	if (wr->len > max)
		return error_set(err, -EMSGSIZE,
				 "%llu bytes, and shared memory takes %llu at a time",
				 (unsigned long long)wr->len, (unsigned long long)max);
	if (!record_fits(c, pos, seen, record_size(len)))
		return 0;
	record = record_at(ring, *pos);
	atomic_store_explicit(&record->rkey, wr->rkey, memory_order_relaxed);
	atomic_store_explicit(&record->raddr, wr->raddr, memory_order_relaxed);
	atomic_store_explicit(&record->len, len, memory_order_relaxed);
	record_put(ring, *pos, wr->src, len);
	*pos += record_size(len);
	if (message)
		return ENTRY_MSG;
	return wr->op == WR_WRITE_IMM ? ENTRY_PIECE_IMM : ENTRY_PIECE;
}

static int post_record(struct shm_conn *c, const struct wr *wr, struct pg_error *err)
{
	int kind = put_record(c, wr, err);

	if (kind <= 0)
		return kind;
	publish(c, (enum entry_kind)kind, wr->imm, 1);
	return 1;
}

static int post_cma(struct shm_conn *c, const struct wr *wrs, unsigned n, struct run *run,
		    struct pg_error *err)
{
	unsigned together = 1;
	int done;

	while (together < n && is_unmapped_write(&wrs[together]))
		together++;
	done = cma_write(c, wrs, together, err);
	for (int i = 0; i < done; i++)
		run_add(c, run, &wrs[i]);
	return done;
}

/* At most one entry for each WR, and for so many there is room. */
static int post_now(struct shm_conn *c, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct run run = { 0 };
	unsigned i = 0;
	int done = 0;

	while (i < n) {
		const struct wr *wr = &wrs[i];

		if (likely(wr->mapped && wr->op != WR_SEND)) {
			copy(wr->mapped, wr->src, wr->len);
			run_add(c, &run, wr);
			done = 1;
		} else if (is_unmapped_write(wr) && c->pidfd >= 0) {
			done = post_cma(c, wr, n - i, &run, err);
		} else if (is_unmapped_write(wr) || wr->op == WR_SEND) {
			run_end(c, &run);
			done = post_record(c, wr, err);
		} else {
			run_add(c, &run, wr);
			done = 1;
		}
		if (done <= 0)
			break;
		i += (unsigned)done;
	}
	run_end(c, &run);
	return i ? (int)i : done;
}

/* How many entries can be written, up to n. */
static unsigned entry_room(struct shm_conn *c, unsigned n)
{
	uint32_t room = ENTRIES - (c->entries - c->seen.entries);

	if (room < n)
		room = refresh_credit(c) ? ENTRIES - (c->entries - c->seen.entries) : 0;
	return room < n ? room : n;
}

/* On the way to sleep the receiver is asked for it. */
static void want_credit(struct shm_conn *c)
{
	conn_lane(c)->n_starved += !c->starved;
	c->starved = true;
}

int shm_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct shm_conn *c = shm_conn(conn);
	struct shm_domain *lane = conn_lane(c);
	unsigned room = entry_room(c, n);
	int done = 0;

	if (likely(room && !c->status))
		done = lane->mover ? mover_post(c, wrs, room, err) : post_now(c, wrs, room, err);
	if (c->status && done <= 0)
		return error_set(err, c->status,
				 "the peer has broken the protocol of shared memory");
	if (!done) {
		want_credit(c);
		return -EAGAIN;
	}
	return done;
}

void ring_bell(struct shm_conn *c)
{
	/* Relaxed: the caller's fence orders it after what we published. The same thread set rung,
	 * or it does not matter if we ring twice. */
	uint32_t sleep = atomic_load_explicit(&c->inbox->sleeping, memory_order_relaxed);
	uint64_t one = 1;

	if (likely(!sleep) || sleep == atomic_load_explicit(&c->rung, memory_order_relaxed))
		return;
	atomic_store_explicit(&c->rung, sleep, memory_order_relaxed);
	/* Cannot fail but by a full counter, which has woken the peer as well. */
	(void)!write(c->bell, &one, sizeof(one));
}

/* The bit is set as long as the peer polls us, so that this is usually two reads of one line. */
void announce(struct shm_conn *c)
{
	_Atomic uint64_t *word = &c->inbox->pending[c->peer_slot / 64];
	uint64_t bit = 1ULL << c->peer_slot % 64;

	/* Relaxed: ordered by the caller's fence. */
	if (!(atomic_load_explicit(word, memory_order_relaxed) & bit)) {
		atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
		/* The peer may have looked at its inbox just before, on its way to sleep: Dekker
		 * again, with the bit in the place of the entry. */
		full_fence();
	}
	ring_bell(c);
}

void shm_flush(struct conn *conn)
{
	struct shm_conn *c = shm_conn(conn);
	struct mover *mover = conn_lane(c)->mover;

	if (mover) {
		mover_flush(mover);
	} else if (c->dirty) {
		c->dirty = false;
		full_fence();
		announce(c);
	}
}

/* Payload that the receiver has to copy is not there before it has; all other is when it is posted. */
bool shm_visible(struct conn *conn, uint64_t *mark)
{
	struct shm_conn *c = shm_conn(conn);

	if (!c->out || c->pieces == c->seen.pieces)
		return true;
	if (!*mark)
		*mark = MARKED | c->pieces;
	if (!refresh_credit(c))
		return false;
	/* Positions wrap: the difference tells which is ahead. */
	if ((int32_t)(c->seen.pieces - (uint32_t)*mark) >= 0)
		return true;
	want_credit(c);
	return false;
}

void shm_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct shm_conn *c = (const struct shm_conn *)conn;

	const struct taken *taken;

	if (!c->out)
		return;
	taken = &c->out->taken;
	/* Relaxed: for people. */
	snprintf(buf, size, "%u of %d entries and %u bytes of messages not taken%s",
		 c->entries - atomic_load_explicit(&taken->entries, memory_order_relaxed), ENTRIES,
		 c->messages - atomic_load_explicit(&taken->messages, memory_order_relaxed),
		 c->status ? "; broken" : "");
}
