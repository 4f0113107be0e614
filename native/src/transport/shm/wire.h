/* SPDX-License-Identifier: MIT
 *
 * What two processes share: the layout of the inbox and of the channel. The other side may write
 * anything here at any time, so each word is read once, into a local, and checked before its use.
 *
 * A domain has one inbox. Each direction of a connection has a channel, made and read by the
 * receiver and written by the one sender: a sender that dies in the middle of anything wedges
 * nobody else.
 *
 * The ring of entries alone decides what has arrived, and in which order. An entry is one atomic
 * word and tells by its lap that it is there, so that a poll reads one cache line and no index.
 * Messages, and payload that the receiver has to copy, lie in a ring of records of their own; their
 * entry says that the next record is complete. Hence nothing in shared memory says where a ring
 * ends, and messages that may not be taken yet hold up neither immediates nor payload. */
#ifndef PGCTL_SHM_WIRE_H
#define PGCTL_SHM_WIRE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "pgctl/engine.h"

#define WIRE_LAYOUT 1 /* raised with every change in this file */
#define LINE 64
#define SHM_PAGE 4096

#define ENTRIES 2048      /* divides 2^32: positions run freely and wrap */
#define RECORD_RING 16384 /* likewise */
#define PIECE_MAX 4096    /* payload of one record that the receiver copies */
#define ENTRY_COUNT_MAX 4095
#define INBOX_WORDS 511
#define INBOX_SLOTS (64 * INBOX_WORDS)

/* A domain's, one page, mapped by every peer. Each connection has a slot. */
struct inbox {
	/* Not 0 while the owner sleeps; another number each time, so that a sender can tell whether
	 * it has rung the bell for this sleep already. Written by the owner alone: a sender that
	 * dies while ringing leaves nothing behind that would keep others from it. */
	_Atomic uint32_t sleeping;
	uint32_t unused;
	/* Set by the sender: look at this slot. Cleared by the owner when it stops polling the
	 * slot. */
	_Atomic uint64_t pending[INBOX_WORDS];
};

_Static_assert(sizeof(struct inbox) == SHM_PAGE, "an inbox is one page");

/* How far the receiver has taken each ring. */
struct taken {
	_Atomic uint32_t entries;
	_Atomic uint32_t messages;
	_Atomic uint32_t pieces;
};

struct channel {
	alignas(LINE) struct taken taken;      /* written by the receiver */
	alignas(LINE) _Atomic uint32_t wanted; /* by the sender: it is about to sleep for credit */
	alignas(LINE) _Atomic uint64_t probe;  /* at attach: is this the process we think it is? */
	alignas(SHM_PAGE) _Atomic uint64_t entries[ENTRIES];
	alignas(SHM_PAGE) uint8_t messages[RECORD_RING];
	uint8_t pieces[RECORD_RING];
};

_Static_assert(sizeof(struct channel) <= 64 << 10, "a channel costs 64 KiB at most");

/* ---- Entries: immediate 32 | lap 16 | count 12 | kind 4, from the low end ------------------- */

enum entry_kind {
	ENTRY_IMM = 1,   /* count writes with this immediate have landed */
	ENTRY_MSG,       /* the next record of messages is complete */
	ENTRY_PIECE,     /* the next record of pieces is complete: copy it where it belongs */
	ENTRY_PIECE_IMM, /* the same, and then the immediate has landed */
	ENTRY_SKIP,      /* nothing: the write that was meant to be here has failed */
};

/* Starts at 1, so that the zeros of a new channel are no entries. */
static inline uint16_t entry_lap(uint32_t pos)
{
	return (uint16_t)(pos / ENTRIES + 1);
}

static inline uint64_t entry_make(uint32_t pos, enum entry_kind kind, uint32_t imm, uint32_t count)
{
	return (uint64_t)kind << 60 | (uint64_t)count << 48 | (uint64_t)entry_lap(pos) << 32 | imm;
}

static inline bool entry_is_at(uint64_t entry, uint32_t pos)
{
	return (uint16_t)(entry >> 32) == entry_lap(pos);
}

static inline uint32_t entry_count(uint64_t entry)
{
	return (uint32_t)(entry >> 48) & ENTRY_COUNT_MAX;
}

static inline unsigned entry_kind(uint64_t entry)
{
	return (unsigned)(entry >> 60);
}

/* ---- Records: a header and its payload, which may wrap -------------------------------------- */

/* Atomic so that the compiler reads each once; relaxed, because the entry orders them. */
struct record {
	_Atomic uint64_t rkey;
	_Atomic uint64_t raddr;
	_Atomic uint32_t len;
};

#define RECORD_HEAD 32

/* Whole lines: sender and receiver never share one, and a header never wraps. */
static inline uint32_t record_size(uint32_t len)
{
	return (RECORD_HEAD + len + LINE - 1) & ~(uint32_t)(LINE - 1);
}

static inline struct record *record_at(uint8_t *ring, uint32_t pos)
{
	return (struct record *)(void *)(ring + pos % RECORD_RING);
}

static inline void record_put(uint8_t *ring, uint32_t pos, const void *src, uint32_t len)
{
	uint32_t at = (pos + RECORD_HEAD) % RECORD_RING;
	uint32_t first = len < RECORD_RING - at ? len : RECORD_RING - at;

	memcpy(ring + at, src, first);
	memcpy(ring, (const uint8_t *)src + first, len - first);
}

static inline void record_get(const uint8_t *ring, uint32_t pos, void *dst, uint32_t len)
{
	uint32_t at = (pos + RECORD_HEAD) % RECORD_RING;
	uint32_t first = len < RECORD_RING - at ? len : RECORD_RING - at;

	memcpy(dst, ring + at, first);
	memcpy((uint8_t *)dst + first, ring, len - first);
}

/* ---- Offers --------------------------------------------------------------------------------- */

enum conn_fd {
	FD_CHANNEL,
	FD_INBOX,
	FD_BELL,
	CONN_FDS,
};

struct conn_offer {
	uint32_t layout;
	uint32_t slot;  /* in the sender's inbox */
	uint64_t probe; /* address of channel.probe in the sender, */
	uint64_t nonce; /* and what is to be found there */
};

struct memory_offer {
	uint32_t layout;
	uint32_t unused;
	uint64_t size;
};

#endif
