/* SPDX-License-Identifier: MIT
 *
 * What a DomainGroup is made of. A group is self-contained: its own lock, worker, peers, memory,
 * counters and control sockets; an engine is a set of groups with one incarnation and token.
 *
 * One lock, `progress`, guards everything here that is not said to be otherwise. Who holds it makes
 * progress: the worker, or a caller of an inline group. Only these are used without it: the rings,
 * the handle tables' generations, the counter table (with a worker: a lock of its own) and the
 * members marked "any thread".
 */
#ifndef PGCTL_ENGINE_GROUP_H
#define PGCTL_ENGINE_GROUP_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/address.h"
#include "engine/handle.h"
#include "engine/imm_counter.h"
#include "engine/shard.h"
#include "transport/transport.h"
#include "util/error.h"
#include "util/list.h"
#include "util/lock.h"
#include "util/ring.h"

#define NO_OP UINT32_MAX
#define MAX_CONNS PG_MAX_DOMAINS
#define POLL_BATCH 64
#define OP_CACHE 128

/* ---- Things that epoll watches ---- */

struct watch {
	int fd;
	void (*ready)(struct pg_group *g, struct watch *w, uint32_t events);
};

/* ---- Memory ---- */

struct mr {
	struct handle h;
	_Atomic uint64_t
		len;     /* any thread, relaxed: valid if the generation still matches afterwards */
	uint64_t region; /* random: what peers ask for */
	struct memory memory;
	uint64_t lkeys[PG_MAX_DOMAINS], keys[PG_MAX_DOMAINS];
};

enum rmr_state {
	RMR_KNOWN, /* must be mapped before the first write */
	RMR_ASKED, /* the owner was asked for it */
	RMR_READY,
	RMR_FAILED,
};

struct rmr {
	struct handle h;
	_Atomic uint64_t len;   /* as in struct mr */
	_Atomic uint32_t state; /* enum rmr_state; waiters read it: release/acquire */
	struct peer *peer;
	struct mr_desc desc;
	void *mapped;
	int32_t status;
	char reason[PG_ERROR_MAX];
};

/* ---- Peers ---- */

enum peer_state {
	PEER_KNOWN,
	PEER_CONNECTING,
	PEER_UP,
	PEER_DOWN,
};

struct peer {
	struct handle h;
	_Atomic uint32_t
		state; /* enum peer_state; waiters and submitters read it: release/acquire */
	struct net_addr addr;
	struct conn *conns[MAX_CONNS];
	struct offer offers[MAX_CONNS]; /* ours, until attached */
	unsigned n_conns;
	unsigned next_conn;      /* round-robin of unsplit writes */
	struct list ready;       /* operations with something to post; served in turn */
	struct list waiting;     /* operations that only wait for the transport */
	struct list active;      /* in group.active while `ready` is not empty */
	struct stream *stream;   /* the one we talk on */
	struct process *process; /* tells of its death; NULL: not known */
	uint32_t n_blocked;      /* operations of `ready` in a row that could not be posted */
	uint32_t dirty;          /* bit per conn: posted to since the last flush */
	struct list dirty_link;  /* in group.dirty while dirty != 0 */
	pid_t pid;
	int32_t status;
	char reason[PG_ERROR_MAX];
};

/* ---- Operations ---- */

/* The part of an operation that goes over one connection: pages [next, end). A contiguous write is
 * a page per shard. */
struct lane {
	uint64_t page_len;
	uint64_t offset; /* of the shard in the write */
	uint64_t within; /* bytes of page `next` already posted */
	uint32_t next, end;
	uint32_t inflight; /* posted, not yet done */
	uint32_t wire_imm;
	unsigned conn;
};

struct op {
	uint32_t slot;
	uint32_t parent;   /* slot, or NO_OP */
	uint32_t next;     /* slot: next child while being submitted; next in the cache when free */
	uint32_t children; /* not yet completed */
	uint32_t dst;      /* of a child: its place in the parent's list */
	int32_t status;
	int32_t spread; /* enum pg_spread, of a child of a scatter */
	unsigned n_lanes;
	struct pg_op desc;
	struct peer *peer;
	struct mr *mr;
	struct rmr *rmr;
	struct list link;  /* in peer.ready or peer.waiting */
	uint64_t deadline; /* 0: to be set by the next scan; see peers_scan_deadlines */
	struct lane lanes[MAX_CONNS];
	char text[PG_ERROR_MAX];
};

/* ---- Received messages ---- */

struct recv_buffer {
	struct pg_event event;
	uint32_t size;
	_Atomic uint32_t state; /* any thread: 1 while with the caller, released by exchange */
	uint8_t *data;
};

/* ---- The group ---- */

struct pg_group {
	const struct pg_config *config;
	unsigned n_domains;
	struct domain *domains[PG_MAX_DOMAINS];
	bool worker_mode;

	/* any thread */
	struct lock progress;
	struct ring submitted; /* op slots on their way to the lock's holder */
	struct ring free_ops;
	struct ring free_events;  /* indices into events */
	struct ring ready_events; /* those, or max_events + index into recvs */
	struct ring free_recvs;   /* indices into recvs, empty buffers */
	struct imm_table *imms;
	_Atomic uint32_t sleeping; /* the holder sleeps in epoll: kick it */
	_Atomic uint32_t visitors; /* threads that want the lock for something else */
	_Atomic uint32_t waiters;  /* threads that wait on wake_seq */
	_Atomic uint32_t wake_seq; /* futex: rises when something completed */
	_Atomic uint32_t inside;   /* threads in a wait */
	_Atomic uint32_t stopping;

	struct op *ops;
	uint8_t *messages; /* PG_MSG_MAX per op: payload of sends that must wait */
	struct pg_event *events;
	struct recv_buffer *recvs;
	_Atomic uint32_t n_recvs;
	_Atomic uint32_t next_release; /* any thread: where pg_recv_release looks first */

	uint32_t cached_op; /* stack of free ops that stays hot */
	uint32_t n_cached;
	uint32_t n_live;    /* operations started and not completed */
	struct list active; /* peers with ready operations */
	struct list dirty;  /* peers to flush */
	struct handles mrs, rmrs, peers;
	uint64_t now, next_scan, next_control;
	uint64_t spin_ns;
	uint32_t rounds;
	bool delivered; /* something completed since the last wake */
	bool no_room;   /* the last round found no buffer for a message */
	bool calling;   /* in a callback, which is where the holder of the lock is then */
	bool telling;   /* see deliver_due */

	/* control */
	struct watch kick, listener;
	int epoll;
	unsigned handshakes; /* peers connecting or regions asked for */
	struct net_addr addr;
	struct list streams;
	pthread_t worker;
	bool worker_runs;
	int worker_cpu;
};

/* group.c */
int group_create(struct pg_engine *engine, unsigned index, const struct pg_group_config *config,
		 struct pg_group **group, struct pg_error *err);
/* Phase 1 wakes and joins, phase 2 frees. All groups stop before the first is freed. */
void group_stop(struct pg_group *g);
void group_free(struct pg_group *g);

/* Runs a callback, the progress lock being held, and knows that this thread is in one of this
 * group. */
void group_callback(struct pg_group *g, const struct pg_done *done, const struct pg_event *event);
bool group_in_callback(const struct pg_group *g);

#endif
