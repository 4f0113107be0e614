/* SPDX-License-Identifier: MIT
 *
 * pgctl transfer engine: the public C API.
 *
 * An engine owns one DomainGroup ("group") per GPU or slot. A group owns 1..4 Domains, one per NIC;
 * a Transport implements a Domain. Peers are named by a NetAddr, their memory by an MrDesc: plain
 * bytes that travel by any channel. Transfers are one-sided, reliable and NOT ordered: not
 * messages, not the shards of one message, not NICs. The bytes of a destination are undefined until
 * the write is counted.
 *
 * Errors: functions return 0 (or a count) or -errno. Where a function takes a `struct pg_error *`
 * it may be NULL; otherwise, on failure, it holds one sentence with the offending value. The
 * library never prints.
 *
 * Threads: every function may be called from any thread, at any time between create and destroy,
 * unless it says otherwise. Callbacks run on the thread that makes progress and must not block.
 *
 * Time is in nanoseconds, sizes are in bytes. A timeout of PG_DEFAULT_TIMEOUT stands for
 * op_timeout_ns of the configuration.
 *
 * Fork: the engine belongs to the process that made it. In a forked child every call is -ESTALE, or
 * does nothing where it returns nothing; memory of pg_alloc_mr is not there.
 *
 * This header is also the only source of the Python bindings: besides guards and includes it has no
 * preprocessor lines but `#define NAME integer`.
 */
#ifndef PGCTL_ENGINE_H
#define PGCTL_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PG_WIRE_VERSION 3
#define PG_MAX_DOMAINS 4
#define PG_ADDR_MAX 512
#define PG_DESC_MAX 192
#define PG_ERROR_MAX 240
#define PG_MSG_MAX 4096
#define PG_IMM_MAX 0x3fffffff
#define PG_NO_IMM 0xffffffff
#define PG_MAX_CONNS 8 /* to one peer */
#define PG_MAX_WATCHERS 256
#define PG_IMPAIR_MAX 256
#define PG_DEFAULT_TIMEOUT 0xffffffffffffffff
#define PG_SPIN_AUTO 0xffffffffffffffff /* 50 us; 0 for a worker where cores are scarce */

struct pg_engine;
struct pg_group;

/* Handles are checked at every use; a stale one is -ESTALE, an invented one -EINVAL. 0 is never
 * valid. */
typedef uint64_t pg_mr_t;         /* a region of ours */
typedef uint64_t pg_rmr_t;        /* an imported region of a peer */
typedef uint64_t pg_peer_t;       /* a peer's group */
typedef uint64_t pg_peer_group_t; /* several peers, prepared to be addressed together */
typedef uint64_t pg_watcher_t;    /* a word whose changes are told */

struct pg_error {
	int32_t code; /* -errno */
	char text[PG_ERROR_MAX];
};

const char *pg_version(void);

/* ---- Log ------------------------------------------------------------------------------------ */

enum pg_log_level {
	PG_LOG_OFF,
	PG_LOG_WARN,  /* a peer lost, a stranger refused, a timeout with what was in flight */
	PG_LOG_INFO,  /* a peer found, how it is reached, a goodbye */
	PG_LOG_DEBUG, /* every control message */
};

/* One line, without a newline. Called on whichever thread has something to say, perhaps with locks
 * held: it must not block, nor call the engine. */
typedef void (*pg_log_fn)(void *arg, int level, const char *line);

/* Of the process; replaces what was set before. NULL: silence, which is the default. */
void pg_set_log(pg_log_fn fn, void *arg, int level);

/* The same, to a file descriptor: a line each, lost where it would block. -1: silence. */
void pg_log_to_fd(int fd, int level);

/* ---- Transports ---------------------------------------------------------------------------- */

/* What a transport promises, as data. */
struct pg_caps {
	uint64_t max_write;       /* one work request; larger writes go as several */
	uint32_t max_msg;         /* submit_send */
	uint32_t max_outstanding; /* work requests per connection */
	uint32_t imm_bits;        /* 0: cannot write with immediate */
	uint32_t split_min;       /* writes below this many bytes use one NIC */
	uint32_t max_inline;      /* a payload up to this is copied when it is posted; 0: never */
	uint64_t link_mbit_s;     /* 0: unknown */
	bool ordered;             /* work requests of one connection land in order */
	bool reports_source;      /* an arriving immediate names its connection */
	bool can_fence;           /* a broken connection can be stopped and drained, so that others
				     take over */
	bool placement_once;      /* payload is written at most once */
	bool wait_fd;             /* can sleep until something arrives */
	bool sync_post;           /* a posted work request has completed when post returns */
	bool maps_peer;           /* a peer's engine memory is mapped before the first write */
	bool exact_failure;       /* a work request that ended with an error of its own, not of its
				     connection, has not been counted */
	bool reaches_hosts;       /* peers may be on other hosts */
	bool gpu;                 /* memory of GPUs can be registered; known when it is opened, so
				     that CUDA has to be loaded before */
};

/* The i-th transport of this build, NULL past the last. Order is the order of preference. */
const char *pg_transport_name(unsigned i);

/* -ENOENT for an unknown name; -ENODEV with the reason when this machine cannot run it. */
int pg_transport_caps(const char *name, struct pg_caps *caps, struct pg_error *err);

/* What the driver of an RDMA device says of it, and of one of its ports. */
struct pg_nic_facts {
	char firmware[64];
	uint64_t max_mr_size;
	uint32_t max_mr; /* registrations */
	uint32_t max_qp;
	uint32_t max_qp_wr;
	uint32_t max_sge;
	uint32_t max_cqe;
	uint32_t max_srq_wr;
	uint32_t max_reads; /* reads and atomics in flight on a queue pair */
	uint32_t max_mtu;
	uint32_t active_mtu;
	uint64_t link_mbit_s; /* 0: unknown */
	bool atomics;
	int32_t dmabuf; /* whether it registers DMA-BUFs, thus GPU memory: 1, 0, or -errno: unknown */
};

/* nic: "mlx5_0", or "mlx5_0:2" for its second port; may be down, and of a kind that no transport uses.
 * Asks the driver, which takes as long as it takes. -ENODEV with the reason: there is none, or no
 * libibverbs. */
int pg_nic_facts(const char *nic, struct pg_nic_facts *facts, struct pg_error *err);

/* What libfabric offers on a domain of a provider: endpoints without connections (FI_EP_RDM) for messages
 * and RMA. Of several such offers, the best of each. */
struct pg_fabric_facts {
	char provider[64]; /* "efa", "verbs;ofi_rxm" */
	char fabric[64];
	char domain[64];
	uint64_t max_msg;     /* one message or write */
	uint64_t link_mbit_s; /* 0: unknown */
	bool cq_data;         /* a write can bring 32 bits to the target's completion queue */
	bool hmem;            /* also from and to GPU memory */
};

/* Of this machine, whether or not a transport uses it: the first max, and libfabric's version, major << 16 |
 * minor. Returns how many there are, which may be more. Takes as long as the providers take, and they read
 * FI_* variables. -ENODEV with the reason: there is no libfabric, or one older than 1.9. */
int pg_fabric_facts(struct pg_fabric_facts *facts, uint32_t max, uint32_t *version,
		    struct pg_error *err);

/* Whether a text says what is to go wrong on purpose with the NICs of a group, which has so many (0:
 * any number), and for which rank that is meant: -1 if for all. "" is nothing. -EINVAL names the
 * piece that does not, and what was expected there. The pieces, separated by commas:
 *
 *   none            nothing goes wrong, in the same way; it stands alone
 *   reorder=N       work requests of a connection overtake each other within a window of N, 2 to 128
 *   delay=TIME      each is held back by this much, and
 *   jitter=TIME     by up to this much more
 *   cap=RATE        every NIC sends at most so much; cap=nicI:RATE: one of them
 *   depth=N         -EAGAIN beyond N in flight on a connection, 1 to 128
 *   fail=P          each work request breaks its connection with this probability
 *   kill=nicI@TIME  the NIC goes down, revive=nicI@TIME: comes back; in turns, 16 of both at most
 *   kill=rank@TIME  the process is killed
 *   rank=N          this is for rank N alone; who starts the ranks has to see to that
 *
 * TIME is a number and ns, us, ms or s, RATE a number and K, M or G bits per second, both with decimals
 * if need be. Kills and revivals count from the first work request or arrival of the process. */
int pg_impair_check(const char *impair, uint32_t nics, int32_t *rank, struct pg_error *err);

/* ---- Engine and groups --------------------------------------------------------------------- */

enum pg_progress {
	PG_PROGRESS_AUTO,   /* worker where a core is spare (more than two), else inline */
	PG_PROGRESS_INLINE, /* callers' threads make progress; stop calling and peers may stall */
	PG_PROGRESS_WORKER, /* one thread per group, and for shm one more per extra lane */
};

struct pg_domain_config {
	char transport[16]; /* "shm"; "" picks the first that this machine can run */
	char device[64];    /* NIC; "" lets the transport choose */
	char options[512];  /* the transport's own: "gid=3,tc=106"; -EINVAL names the piece that it
				 does not know. "": as the transport's environment variable says */
	int32_t cpu;        /* pin this domain's own thread, if it has one; -1: not pinned */
	uint32_t link_mbit_s; /* share of split writes; 0: as the transport says */
	uint32_t rail;        /* NICs of one rail prefer each other; 0: as the transport says */
};

struct pg_group_config {
	uint32_t n_domains; /* 1..PG_MAX_DOMAINS */
	struct pg_domain_config domains[PG_MAX_DOMAINS];
	int32_t progress;   /* enum pg_progress */
	int32_t worker_cpu; /* -1: not pinned */
	bool rail_only;     /* NICs of different rails do not reach each other */
	/* What goes wrong with its NICs on purpose: see pg_impair_check. A rank in there is refused,
	 * as an engine has none. "": PGCTL_IMPAIR with PGCTL_IMPAIR_SEED (0), or nothing. */
	char impair[PG_IMPAIR_MAX];
	uint64_t impair_seed; /* of what is left to chance */
};

/* Every number here can be overridden by the environment variable named behind it, read by
 * pg_config_init. */
struct pg_config {
	uint32_t n_groups;
	const struct pg_group_config *groups;
	uint32_t max_ops; /* operations in flight per group, a power of two: PGCTL_MAX_OPS (4096) */
	uint32_t max_events; /* completions kept for pg_poll_events: PGCTL_MAX_EVENTS (8192) */
	uint32_t
		max_unclaimed; /* counters nobody asked for yet: PGCTL_MAX_UNCLAIMED (65536); beyond it
				   whoever made the most is reset, and they are forgotten */
	uint32_t max_peers;    /* per group: PGCTL_MAX_PEERS (1024) */
	uint32_t max_regions;   /* local, and as many imported: PGCTL_MAX_REGIONS (4096) */
	uint64_t op_timeout_ns; /* PGCTL_OP_TIMEOUT_MS (30000): without progress it fails */
	uint64_t op_limit_ns;   /* PGCTL_OP_LIMIT_MS (0: none): it fails, progress or not */
	uint64_t spin_ns;       /* PGCTL_SPIN_US: polled this long before sleeping */
	uint64_t heartbeat_ns;  /* PGCTL_HEARTBEAT_MS (1000): peers hear of us this often */
	uint64_t silent_ns; /* PGCTL_SILENT_MS (3000): unheard this long, a peer is unresponsive */
	uint64_t dead_ns;   /* PGCTL_DEAD_MS (3500): unacknowledged this long, a host is dead; twice
				as long a connection, while the peer is heard */
	uint64_t goodbye_ns; /* PGCTL_GOODBYE_MS (1000): destroy waits this long for peers that may
				still write to memory of the caller */
	bool busy_poll;      /* PGCTL_BUSY_POLL (0): never sleep, burn a core */
	/* PGCTL_CONTROL: where peers on other hosts find us: "ADDRESS", "ADDRESS:PORT",
	 * "[ADDRESS]:PORT" or the name of an interface; "": every address, a free port. Used when a
	 * transport reaches other hosts. */
	char control[64];
};

/* Defaults, then the environment. n_groups is 1: one domain of the default transport. -EINVAL names
 * the variable that is not a number. */
int pg_config_init(struct pg_config *config, struct pg_error *err);

/* NULL config: defaults. */
int pg_engine_create(const struct pg_config *config, struct pg_engine **engine,
		     struct pg_error *err);

/* Says goodbye to peers, wakes all waiters with -ESHUTDOWN, stops, drains, frees. Handles and groups
 * are gone afterwards; no other call may be running that was not a wait. Returns once no peer writes
 * to memory of ours any more, or after goodbye_ns. -EDEADLK from inside a callback. */
int pg_engine_destroy(struct pg_engine *engine);

unsigned pg_engine_groups(const struct pg_engine *engine);
struct pg_group *pg_engine_group(struct pg_engine *engine, unsigned i); /* NULL past the last */

struct pg_limits {
	uint32_t n_domains;
	uint32_t max_ops;
	uint32_t max_msg;
	uint32_t imm_bits;  /* of the identifier: 30 */
	uint64_t max_write; /* of one work request */
	uint32_t split_min;
	int32_t progress; /* the mode in force, never AUTO */
	char transport[16];
	struct pg_caps caps; /* of the first NIC */
};
int pg_limits(struct pg_group *group, struct pg_limits *limits);

/* Totals of one NIC since create, or of one connection. Payload bytes; operations as work
 * requests. */
struct pg_nic_stats {
	uint64_t bytes_out;
	uint64_t posted;
	uint64_t imms_in; /* arrived immediates, a split write's shards each counted */
	uint64_t msgs_in;
	uint64_t eagain;    /* posts refused for want of credit */
	uint64_t retries;   /* work requests sent again here, after another connection broke */
	uint64_t failovers; /* connections that broke, and whose work others took over */
};
int pg_stats(struct pg_group *group, unsigned domain, struct pg_nic_stats *stats);

/* Writes to fd, for people, what is in flight and what each waiter waits for: operations, peers,
 * connections and their credit, have and want of each counter. 0 or -errno of the write. */
int pg_dump(struct pg_group *group, int fd);

/* ---- Peers --------------------------------------------------------------------------------- */

/* Writes this group's NetAddr; *len is the buffer's size, then the address's. -ENOSPC. */
int pg_main_address(struct pg_group *group, void *buf, size_t *len);

/* Makes a peer known. Does not connect; the first operation does. The same address again gives the
 * same handle. -EPROTO: truncated, foreign or of another wire version. */
int pg_add_peer(struct pg_group *group, const void *addr, size_t len, pg_peer_t *peer,
		struct pg_error *err);

/* Connects now and waits for it. */
int pg_connect(struct pg_group *group, pg_peer_t peer, uint64_t timeout_ns, struct pg_error *err);

struct pg_peer_info {
	bool up;
	bool responsive; /* false: up, and its heartbeat is missing; stopped, or makes no progress */
	bool local;      /* on this host */
	int32_t status;  /* why it is down, -errno; 0 if it is not */
	uint32_t n_connections;
	char incarnation[33]; /* hexadecimal */
	char path[128];       /* transport and how it reaches memory, for people */
	char reason[PG_ERROR_MAX];
};
int pg_peer_info(struct pg_group *group, pg_peer_t peer, struct pg_peer_info *info);

/* Connection i of a peer: which NICs it joins, its share, what it has carried. -ERANGE past the
 * last. */
struct pg_conn_info {
	uint32_t nic;      /* ours */
	uint32_t peer_nic; /* the peer's */
	uint32_t weight;   /* of the sum over all its connections */
	struct pg_nic_stats stats;
};
int pg_conn_info(struct pg_group *group, pg_peer_t peer, unsigned i, struct pg_conn_info *info);

/* Several peers that will be addressed together: connects to all and waits for it. Order counts: a
 * scatter to the group sends its slice i to member i. */
int pg_add_peer_group(struct pg_group *group, const pg_peer_t *peers, uint32_t n,
		      uint64_t timeout_ns, pg_peer_group_t *peer_group, struct pg_error *err);
/* The peers stay. -EBUSY: an operation or an expectation uses it. */
int pg_remove_peer_group(struct pg_group *group, pg_peer_group_t peer_group, struct pg_error *err);

/* ---- Memory -------------------------------------------------------------------------------- */

#define PG_ALLOC_HUGEPAGES 1 /* huge pages, -ENOMEM when there are none */
#define PG_ALLOC_PREFAULT 2  /* touch every page now */

/* Engine-owned memory, which local peers map. numa: -1 for any node. */
int pg_alloc_mr(struct pg_group *group, uint64_t len, int numa, unsigned flags, void **ptr,
		pg_mr_t *mr, struct pg_error *err);

/* Memory of the caller, which must stay valid until pg_unreg_mr. Regions may overlap. */
int pg_reg_mr(struct pg_group *group, void *ptr, uint64_t len, pg_mr_t *mr, struct pg_error *err);

/* Revokes it: waits until no operation of ours reads it and no peer can write there any more, then
 * forgets it (and frees it, if engine-owned). A peer's later writes end with -ESTALE. -EBUSY on
 * timeout, and who it is that we wait for: still registered, but peers stay refused; call again to
 * go on. */
int pg_unreg_mr(struct pg_group *group, pg_mr_t mr, uint64_t timeout_ns, struct pg_error *err);

/* The MrDesc; *len as in pg_main_address. Possession of it is the authority to write there. */
int pg_mr_desc(struct pg_group *group, pg_mr_t mr, void *buf, size_t *len);

/* Makes a peer's region usable as a destination. Its owner must have been added. -EPROTO:
 * truncated, foreign or of another wire version; -ENOENT: the owner is unknown. */
int pg_import_mr(struct pg_group *group, const void *desc, size_t len, pg_rmr_t *rmr,
		 struct pg_error *err);
int pg_release_rmr(struct pg_group *group, pg_rmr_t rmr, struct pg_error *err); /* -EBUSY: in use */

/* Where a peer's engine memory is mapped here (connects and maps if needed), for reading or timing;
 * until pg_release_rmr, also when its owner has revoked it. -ENOTSUP when this transport or kind of
 * memory is not mapped. */
int pg_remote_ptr(struct pg_group *group, pg_rmr_t rmr, uint64_t timeout_ns, void **ptr,
		  struct pg_error *err);

/* ---- Operations ---------------------------------------------------------------------------- */

enum pg_event_kind {
	PG_EVENT_OP,          /* an operation completed: cookie, status */
	PG_EVENT_IMM,         /* an expectation fired: cookie, imm */
	PG_EVENT_RECV,        /* a message: peer, data, len; give it back with pg_recv_release */
	PG_EVENT_PEER_UP,     /* connected, or heard of again after PEER_SILENT: peer */
	PG_EVENT_PEER_DOWN,   /* it has ended or was given up: peer, status, text */
	PG_EVENT_PEER_SILENT, /* its heartbeat is missing; it is not known to be dead: peer */
	PG_EVENT_NIC_UP,      /* nic */
	PG_EVENT_NIC_DOWN,    /* nic, status, text */
	PG_EVENT_WATCH,       /* a watched word changed: cookie, old_value, value */
};

/* News of a peer or a NIC that nobody has polled is replaced by later news of the same one. */

struct pg_event {
	uint32_t kind;
	int32_t status; /* 0 or -errno */
	uint64_t cookie;
	pg_peer_t peer;
	const void *data;
	uint32_t len;
	uint32_t imm;
	uint32_t nic;
	uint64_t old_value, value;
	char text[PG_ERROR_MAX]; /* valid when status is not 0: names peer, NIC and cause */
};

typedef void (*pg_callback)(void *arg, const struct pg_event *event);

/* How the end of an operation is told; first that is set: callback, flag, else the event queue.
 * The flag is set to 0 when the operation is accepted, and at its end to 1 or -errno, with release
 * semantics; it must stay valid until then. */
struct pg_done {
	uint64_t cookie;
	int32_t *flag;
	pg_callback callback;
	void *arg;
};

enum pg_opcode {
	PG_OP_WRITE = 1, /* one contiguous region; may be split over NICs */
	PG_OP_PAGED,     /* n pages; a page is not split */
	PG_OP_SCATTER,   /* one slice to each of many regions */
	PG_OP_BARRIER,   /* an immediate to each of many peers */
	PG_OP_SEND,      /* a message to a peer's receive pool */
	PG_OP_FENCE,     /* ends when nothing submitted before it can land at a peer any more */
};

/* The operation ends only when its payload is visible at the peer, counted or not. */
#define PG_REMOTE_VISIBLE 1

enum pg_spread {
	PG_SPREAD_BYTES, /* large slices are split over the NICs, small ones go round-robin */
	PG_SPREAD_PEER,  /* destination i uses NIC i mod n */
	PG_SPREAD_ONE,   /* everything on the first NIC */
};

struct pg_write {
	pg_mr_t src;
	uint64_t src_offset;
	pg_rmr_t dst;
	uint64_t dst_offset;
	uint64_t len; /* > 0 */
};

/* Page i goes from src_offset + src_indices[i]*src_stride to dst_offset +
 * dst_indices[i]*dst_stride. The index arrays are borrowed until completion. */
struct pg_paged {
	pg_mr_t src;
	uint64_t src_offset;
	uint64_t src_stride;
	const uint32_t *src_indices;
	pg_rmr_t dst;
	uint64_t dst_offset;
	uint64_t dst_stride;
	const uint32_t *dst_indices;
	uint64_t page_len;
	uint32_t n_pages;
};

struct pg_scatter_dst {
	uint64_t src_offset;
	pg_rmr_t dst;
	uint64_t dst_offset;
	uint64_t len;
};

/* Takes one of max_ops per destination. status, if not NULL, gets one entry per destination and is
 * valid at completion; it is borrowed until then. Refused whole, with no status, if a destination is
 * known to be gone when it is submitted. With a group, -EINVAL at completion if dsts[i] is not member
 * i's. */
struct pg_scatter {
	pg_mr_t src;
	const struct pg_scatter_dst *dsts;
	uint32_t n;
	int32_t spread; /* enum pg_spread */
	int32_t *status;
	pg_peer_group_t group; /* or 0; else dsts[i] must be a region of its member i */
};

/* To peers, or to all of a group (then n is 0). */
struct pg_barrier {
	const pg_peer_t *peers;
	uint32_t n;
	int32_t *status; /* one per peer */
	pg_peer_group_t group;
};

struct pg_send {
	pg_peer_t peer;
	const void *data; /* copied */
	uint32_t len;     /* <= pg_limits.max_msg */
};

/* Ends well also when the peer is known to be dead. -EHOSTUNREACH: it is lost, and may yet live and
 * take what was on its way. */
struct pg_fence {
	pg_peer_t peer;
};

struct pg_op {
	uint32_t opcode;
	uint32_t imm;      /* <= PG_IMM_MAX, or PG_NO_IMM: then the peer's engine sees nothing */
	uint32_t flags;    /* PG_REMOTE_VISIBLE */
	uint32_t limit_ms; /* 0: op_limit_ns of the configuration */
	struct pg_done done;
	union {
		struct pg_write write;
		struct pg_paged paged;
		struct pg_scatter scatter;
		struct pg_barrier barrier;
		struct pg_send send;
		struct pg_fence fence;
	} u;
};

#define PG_SUBMIT_BLOCK 1 /* wait for room instead of -EAGAIN, up to op_timeout_ns */

/* Submits n operations, in one call with one doorbell. Returns how many were accepted, from the
 * front; they will each complete exactly once. Less than n: the next one had no room; submit the
 * rest again. When not even the first was accepted: -EAGAIN (no room), or -EINVAL, -ERANGE (out of
 * bounds), -ESTALE, -EMSGSIZE, -EHOSTDOWN with the sentence. Allocates nothing and takes no lock
 * that another thread can hold while it sleeps. What ops point to is read before it returns, but
 * for page indices, statuses and flags, which are borrowed until completion. With BLOCK, a thread
 * that alone polls events waits in vain for room among them: it gets -EAGAIN at op_timeout_ns. */
int pg_submit(struct pg_group *group, const struct pg_op *ops, unsigned n, unsigned flags,
	      struct pg_error *err);

/* The same, one operation each: 0 or -errno. */
int pg_submit_single_write(struct pg_group *group, uint64_t len, uint32_t imm, pg_mr_t src,
			   uint64_t src_offset, pg_rmr_t dst, uint64_t dst_offset, uint64_t cookie,
			   int32_t *flag, struct pg_error *err);
int pg_submit_paged_writes(struct pg_group *group, const struct pg_paged *paged, uint32_t imm,
			   uint64_t cookie, int32_t *flag, struct pg_error *err);
int pg_submit_scatter(struct pg_group *group, const struct pg_scatter *scatter, uint32_t imm,
		      uint64_t cookie, int32_t *flag, struct pg_error *err);
int pg_submit_barrier(struct pg_group *group, const pg_peer_t *peers, uint32_t n, uint32_t imm,
		      uint64_t cookie, int32_t *flag, struct pg_error *err);
int pg_submit_send(struct pg_group *group, pg_peer_t peer, const void *data, uint32_t len,
		   uint64_t cookie, int32_t *flag, struct pg_error *err);
int pg_fence_peer(struct pg_group *group, pg_peer_t peer, uint64_t cookie, int32_t *flag,
		  struct pg_error *err);

/* Takes back an operation, named by how its end is told: the flag, else the callback and its arg,
 * else the cookie. What was not posted is dropped, what was is awaited; it then ends with -ECANCELED,
 * or as it does if all of it was posted. -ENOENT: none in flight is told so. */
int pg_cancel(struct pg_group *group, const struct pg_done *done);

/* Adds count buffers of len bytes to the pool that arriving messages are copied into. A message
 * that finds no buffer waits at its sender. One longer than its buffer arrives cut, with -EMSGSIZE.
 */
int pg_submit_recvs(struct pg_group *group, uint32_t len, uint32_t count, struct pg_error *err);
/* Gives event.data back to the pool. */
int pg_recv_release(struct pg_group *group, const void *data);

/* ---- ImmCounter ---------------------------------------------------------------------------- */

/* Fires once when the counter reaches n, and subtracts n. A counter rises by 1 per logical write
 * (per page of a paged write, per slice of a scatter, 1 for a barrier), whatever the number of
 * NICs, after the write's whole payload is visible. -EBUSY: an expectation on imm is outstanding.
 * The value is exact while at most n writes are in flight on imm. */
int pg_expect_imm(struct pg_group *group, uint32_t imm, uint64_t n, const struct pg_done *done,
		  struct pg_error *err);
/* The same, flag delivery. */
int pg_expect_imm_flag(struct pg_group *group, uint32_t imm, uint64_t n, int32_t *flag,
		       struct pg_error *err);

/* Who will write: these peers, or all of a group (then n_peers is 0). Peer i owes owes[i] of the n
 * writes; owes NULL: all the same, n being a multiple of their number. */
struct pg_from {
	const pg_peer_t *peers;
	const uint64_t *owes;
	uint32_t n_peers;
	pg_peer_group_t group;
};
/* The same as pg_expect_imm, and ends with -EHOSTDOWN as soon as one of them dies, or is dead, that
 * still owes writes. Tells peers apart as long as every expectation on this imm does. */
int pg_expect_imm_from(struct pg_group *group, uint32_t imm, uint64_t n, const struct pg_from *from,
		       const struct pg_done *done, struct pg_error *err);
int pg_imm_value(struct pg_group *group, uint32_t imm, uint64_t *value);
/* Forgets the counter; an outstanding expectation ends with -ECANCELED. Writes that still come are
 * not counted, until the immediate is expected or read again, or all who were peers then are gone. */
int pg_free_imm(struct pg_group *group, uint32_t imm);

/* ---- Watchers ------------------------------------------------------------------------------- */

/* A 64-bit word, 0 at first, that a CPU or a GPU sets with a plain aligned store. Each change is told
 * as PG_EVENT_WATCH by done, whose flag is not used; changes may coalesce, the last value is never
 * lost. A sleeping engine looks once in a millisecond at the latest. -ENOSPC. */
int pg_alloc_watcher(struct pg_group *group, const struct pg_done *done, uint64_t **word,
		     pg_watcher_t *watcher, struct pg_error *err);
/* Stores a value there with release semantics and has it looked at soon. */
int pg_watcher_set(struct pg_group *group, pg_watcher_t watcher, uint64_t value);
int pg_free_watcher(struct pg_group *group, pg_watcher_t watcher);

/* ---- Progress ------------------------------------------------------------------------------ */

/* One round; the number of things that happened. For inline groups; harmless with a worker. */
int pg_progress(struct pg_group *group);

/* Takes up to max events; never blocks; the number taken. Makes progress first if inline. */
int pg_poll_events(struct pg_group *group, struct pg_event *events, unsigned max);

/* Waits, making progress if inline: for at least one event; or until all n flags are not 0. The
 * number of events, or 0; -ETIMEDOUT, -EINTR (a signal; call again), -ESHUTDOWN (destroyed
 * meanwhile). */
int pg_wait_events(struct pg_group *group, struct pg_event *events, unsigned max,
		   uint64_t timeout_ns);
int pg_wait_flags(struct pg_group *group, const int32_t *flags, unsigned n, uint64_t timeout_ns);

/* For event loops: a file descriptor that is readable when there may be something, after
 * pg_wait_arm. Then call pg_progress and look at flags and events. It belongs to the engine. */
int pg_wait_fd(struct pg_group *group);
/* 1: armed: look at flags once more, then sleep on the fd. 0: something is there already, which is
 * also an event that nobody has polled: call pg_progress and take it first. */
int pg_wait_arm(struct pg_group *group);

#ifdef __cplusplus
}
#endif
#endif
