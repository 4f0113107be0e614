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
#include "engine/pair.h"
#include "engine/shard.h"
#include "engine/sums.h"
#include "transport/transport.h"
#include "util/error.h"
#include "util/list.h"
#include "util/lock.h"
#include "util/ring.h"

#define NO_OP UINT32_MAX
#define MAX_LANES PG_MAX_DOMAINS
#define POLL_BATCH 64
#define SCHEDULE 32 /* a power of two: turns of unsplit writes, in proportion to weights */
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
	uint64_t region; /* random: what peers ask for; 0: the slot is free */
	uint32_t generation; /* what its descriptor says */
	struct memory memory;
	uint64_t lkeys[PG_MAX_DOMAINS], keys[PG_MAX_DOMAINS];
	struct list holders; /* peers that may write there; each is one of h.refs */
	bool revoked;        /* no peer gets it any more */
};

enum rmr_state {
	RMR_KNOWN, /* its owner does not know yet that we may write there */
	RMR_ASKED, /* the owner was asked for it */
	RMR_READY,
	RMR_FAILED, /* revoked, or its owner is gone */
};

struct rmr {
	struct handle h;
	_Atomic uint64_t len;   /* as in struct mr */
	_Atomic uint32_t state; /* enum rmr_state; waiters read it: release/acquire */
	struct peer *peer;
	struct mr_desc desc;
	uint64_t cookie; /* its handle, also after it was released */
	void *mapped;
	bool exposed;        /* the caller has `mapped`: it stays until released */
	bool claimed;        /* the owner counts us among its holders */
	bool released;       /* the slot is free once the owner has been told */
	struct list leaving; /* in group.leaving until nothing of ours can land there */
	uint64_t marks[PG_MAX_CONNS];
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

/* What is left to do of a peer that is down; see peers_end. */
enum peer_end {
	END_POLL,  /* take what it has sent before */
	END_CLOSE, /* take the messages that there was no room for */
	END_OVER,
};

/* What two sides have said and done to agree on what of a broken connection has arrived. */
struct takeover {
	uint64_t limit;    /* it takes no longer than this, or the peer is given up */
	int32_t status;    /* why it broke */
	bool stopped;      /* our half has ended all that it had posted; */
	bool peer_stopped; /* so has the peer's */
	bool fencing;
	bool fenced;    /* nothing of the peer's lands any more: it was told what has arrived */
	bool told;      /* the peer has told us the same; */
	bool peer_told; /* and knows what it wanted to know */
	uint32_t asked; /* immediates whose answer is still to come */
	uint32_t imms;  /* of ours that have arrived */
	uint32_t msgs;
};

enum path_state {
	PATH_FREE,    /* it joins nothing */
	PATH_OPENING, /* our half is there */
	PATH_UP,      /* it can be posted to */
	PATH_BROKEN,  /* others take over, see failover.c */
};

/* How long there is to be no new connection between two NICs, as those before have broken. */
struct back_off {
	uint64_t until;
	uint64_t ns; /* how long that was the last time; 0: nothing is known against them */
};

/* A connection to a peer. It keeps its slot as long as it is there. */
struct path {
	struct conn *conn; /* NULL: PATH_FREE */
	struct pair_edge edge;
	uint8_t state;       /* enum path_state */
	bool attached;       /* our half knows the peer's; */
	bool peer_ready;     /* so does the peer's ours */
	bool peer_unordered; /* what the peer sends is noted, see carried.c */
	int32_t status;      /* not 0: it broke before it was up */
	uint16_t serial;     /* of this connection among those between these NICs */
	struct takeover to;  /* while PATH_BROKEN */
	struct list flights; /* in the order of posting; unused when caps.sync_post */
	uint32_t imms_out;   /* immediates posted, without those that failed; likewise */
	uint32_t msgs_out;
	bool unsure; /* one of those that failed may have been counted */
	uint64_t up_at;
	uint32_t ended;             /* work requests, but those that it took with it, */
	uint32_t ended_seen;        /* and by the last scan */
	uint32_t quiet;             /* scans in a row that saw none, see look_for_stall */
	struct sums sent, received; /* immediates by value; only when not caps.ordered */
	struct offer offer;         /* ours, until attached */
};

struct peer {
	struct handle h;
	_Atomic uint32_t
		state;      /* enum peer_state; waiters and submitters read it: release/acquire */
	uint32_t usable;    /* paths that are PATH_UP, a bit each */
	unsigned next_path; /* turn of unsplit writes in */
	uint8_t schedule[SCHEDULE]; /* usable paths */
	struct spread {             /* of split writes: a share per NIC of the side with more */
		unsigned n;
		struct {
			uint8_t first, n; /* places in `order` of that NIC's, which take turns */
			uint32_t weight;  /* of all of them */
		} lanes[MAX_LANES];
		uint8_t order[PG_MAX_CONNS]; /* usable paths */
		int64_t turns[PG_MAX_CONNS]; /* credit of each in its lane's rotation */
	} spread;
	struct path paths[PG_MAX_CONNS];
	unsigned n_paths;    /* slots that have been in use */
	pair_reach possible; /* cells, as far as both addresses say; */
	pair_reach reach;    /* of those, without what has failed; both sides' in the end */
	pair_reach held;     /* cells that we do not join again yet: see mend.c */
	struct back_off back_offs[PG_MAX_DOMAINS][PG_MAX_DOMAINS]; /* by NICs */
	uint8_t nics;         /* of the peer, that are up: a bit each */
	uint8_t greeted_nics; /* of ours, that were up when we greeted */
	uint16_t serials[PG_MAX_DOMAINS][PG_MAX_DOMAINS]; /* the next path's, by NICs */
	struct list orphans;          /* flights of broken paths, to be sent again */
	struct list makeups;          /* those that wait for rewritten payload, */
	uint64_t marks[PG_MAX_CONNS]; /* until it is visible */
	uint32_t n_rewriting;
	struct list salvage;     /* in group.salvaging while it has any of those */
	struct list ready;       /* operations with something to post; served in turn */
	struct list waiting;     /* operations that only wait for the transport */
	struct list active;      /* in group.active while `ready` is not empty */
	struct stream *stream;   /* the one we talk on */
	struct process *process; /* tells of its death; NULL: not known */
	uint32_t n_blocked;      /* operations of `ready` in a row that could not be posted */
	uint32_t dirty;          /* bit per conn: posted to since the last flush */
	struct list dirty_link;  /* in group.dirty while dirty != 0 */
	struct list ending;      /* in group.ending once it is down, until it is over */
	uint32_t end;            /* enum peer_end */
	uint32_t end_round;      /* the last round in which something came of it */
	uint32_t end_rounds;     /* in how many something has come of it since */
	uint64_t end_since;
	uint64_t serial;    /* rises with every peer that can write to us */
	uint32_t n_holders; /* regions of ours that it may write to */
	uint64_t heard;     /* when its last control message came */
	uint32_t max_msg;
	uint8_t route;   /* next way to reach its control stream; see control_connect */
	bool greeted;    /* our HELLO with this reach is on its way */
	bool attached;   /* our half of each connection knows the other one; */
	bool peer_ready; /* so does the peer's */
	bool local;      /* on this host */
	bool silent;     /* its heartbeat is missing */
	bool dead;       /* its process is known to have ended */
	bool unplaced;   /* what we sent may land after we gave it up */
	bool unheard;    /* we have cut a stream, and so shall not hear it hang up */
	pid_t pid;
	int32_t status;
	char reason[PG_ERROR_MAX];
	struct net_addr addr;
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
	unsigned path;
	bool moved;  /* some of it was posted over a connection that broke */
	bool cut;    /* not all of it was posted, or has arrived: it has not been counted */
	bool failed; /* not all of it has ended well */
	uint64_t marks[PG_MAX_CONNS]; /* of transport->visible, once it has moved */
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
	bool live;    /* started and not completed */
	bool asked;   /* of a fence, or when its counts are settled: the peer was asked, */
	bool fenced;  /* and has answered */
	bool expired; /* what is in flight was to be taken back */
	struct pg_op desc;
	struct peer *peer;
	struct mr *mr;
	struct rmr *rmr;
	struct peer_group *group; /* of a scatter or barrier; or NULL */
	struct list link;         /* in peer.ready or peer.waiting */
	struct list linger;       /* in group.lingering: ends when something has become visible */
	uint64_t serial;          /* rises with every operation that is started */
	uint64_t deadline;        /* 0: to be set by the next scan; see peers_scan_deadlines */
	uint64_t limit;           /* likewise, but never moved */
	struct lane lanes[MAX_LANES];
	uint64_t marks[PG_MAX_CONNS]; /* of transport->visible */
	char text[PG_ERROR_MAX];
};

/* ---- Received messages ---- */

struct recv_buffer {
	struct pg_event event;
	uint32_t size;
	_Atomic uint32_t state; /* any thread: 1 while with the caller, released by exchange */
	uint8_t *data;
};

/* ---- News: what is told of things that stay, so that only the latest is kept ---- */

struct news {
	bool queued;
	struct pg_event event;
};

/* ---- Watched words ---- */

struct watcher {
	struct handle h;
	_Atomic uint64_t *word;
	uint64_t seen;
	struct pg_done done;
};

/* ---- Peers that are addressed together ---- */

struct peer_group {
	struct handle h; /* refs: operations and expectations that use it */
	_Atomic uint32_t n;
	pg_peer_t *peers;
};

/* ---- The group ---- */

struct pg_group {
	const struct pg_config *config;
	bool forked; /* this is a child's copy: nothing works */
	unsigned n_domains;
	struct domain *domains[PG_MAX_DOMAINS];
	uint8_t nics; /* domains whose NIC is up, a bit each */
	bool worker_mode;

	/* any thread */
	struct lock progress;
	struct ring submitted; /* op slots on their way to the lock's holder */
	struct ring free_ops;
	struct ring free_events;  /* indices into events */
	struct ring ready_events; /* those, or an index into recvs or news; see completion.h */
	struct ring free_recvs;   /* indices into recvs, empty buffers */
	struct imm_table *imms;
	_Atomic uint32_t sleeping; /* the holder sleeps in epoll: kick it */
	_Atomic uint32_t visitors; /* threads that want the lock for something else */
	_Atomic uint32_t waiters;  /* threads that wait on wake_seq */
	_Atomic uint32_t wake_seq; /* futex: rises when something completed */
	_Atomic uint32_t inside;   /* threads in a wait */
	_Atomic uint32_t stopping;
	_Atomic uint32_t armed; /* somebody sleeps on wait_fd */
	struct lock news_lock;
	struct news *news;

	struct op *ops;
	struct flight *flights;
	uint32_t free_flight;
	uint32_t n_flights; /* that have been in use */
	uint8_t *messages;  /* PG_MSG_MAX per op: payload of sends that must wait */
	struct pg_event *events;
	struct recv_buffer *recvs;
	_Atomic uint32_t n_recvs;
	_Atomic uint32_t next_release; /* any thread: where pg_recv_release looks first */

	uint32_t cached_op; /* stack of free ops that stays hot */
	uint32_t n_cached;
	uint32_t n_live;       /* operations started and not completed */
	uint32_t n_broken;     /* paths that others are taking over from */
	struct list active;    /* peers with ready operations */
	struct list dirty;     /* peers to flush */
	struct list lingering; /* operations that wait for visibility, or are fences */
	struct list leaving;   /* imported regions that are being given back */
	struct list ending;    /* peers that are down, with something left to do */
	struct list salvaging; /* peers with something to be sent again */
	struct handles mrs, rmrs, peers, peer_groups, watchers;
	uint64_t *words; /* of the watchers, a line each */
	uint64_t now, next_scan, next_control, next_beat;
	uint64_t spin_ns;
	uint64_t last_poll; /* coarse nanoseconds, or ticks: see pg_progress */
	uint64_t op_serial;
	_Atomic uint64_t peer_serial; /* any thread */
	uint64_t watch_ns;            /* a sleep with watched words ends after so long */
	uint32_t rounds;
	bool slow_clock;     /* it is a system call */
	uint32_t clock_mask; /* the clock is read in rounds that have none of these bits */
	_Atomic uint32_t
		n_writers; /* any thread: peers that can write to us, or could and may have */
	uint32_t n_watchers;
	bool delivered;   /* something completed since the last wake */
	bool no_room;     /* the last round found no buffer for a message */
	bool calling;     /* in a callback, which is where the holder of the lock is then */
	bool telling;     /* see deliver_due */
	bool recheck;     /* see recheck_expectations */
	bool salvage_due; /* something was put there, or can go, since salvage_run looked */

	/* control */
	struct watch kick, listener, tcp_listener, timer;
	int epoll;
	int spare;           /* closed to refuse somebody when there are no more descriptors */
	int notify;          /* eventfd that tells who sleeps on wait_fd of what was delivered */
	int wait_fd;         /* epoll over `epoll` and `notify`; with a worker, `notify` */
	bool fd_armed;       /* the domains are armed for wait_fd */
	unsigned handshakes; /* peers connecting or regions asked for */
	struct net_addr addr;
	struct list streams;
	pthread_t worker;
	bool worker_runs;
	bool rail_only;
	int worker_cpu;
};

/* -ESTALE, and that the engine belongs to another process. */
int group_stale(struct pg_error *err);

static inline bool group_forked(const struct pg_group *g)
{
	return __builtin_expect(g->forked, 0);
}

/* group.c */
int group_create(struct pg_engine *engine, unsigned index, const struct pg_group_config *config,
		 struct pg_group **group, struct pg_error *err);
/* How it ends, each step in all groups of an engine before the next: wake and join; say goodbye and end
 * what is owed; give peers time to see it, as long as one of them may write to memory of the caller;
 * free. Only the first and the last are for a group that was not made whole. */
void group_stop(struct pg_group *g);
void group_goodbye(struct pg_group *g);
bool group_parting(struct pg_group *g);
void group_free(struct pg_group *g);

/* Runs a callback, the progress lock being held, and knows that this thread is in one of this
 * group. */
void group_callback(struct pg_group *g, const struct pg_done *done, const struct pg_event *event);
bool group_in_callback(const struct pg_group *g);

#endif
