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

#define PG_WIRE_VERSION 1
#define PG_MAX_DOMAINS 4
#define PG_ADDR_MAX 512
#define PG_DESC_MAX 192
#define PG_ERROR_MAX 240
#define PG_MSG_MAX 4096
#define PG_IMM_MAX 0x3fffffff
#define PG_NO_IMM 0xffffffff
#define PG_DEFAULT_TIMEOUT 0xffffffffffffffff
#define PG_SPIN_AUTO 0xffffffffffffffff /* 50 us; 0 for a worker where cores are scarce */

struct pg_engine;
struct pg_group;

/* Handles are checked at every use; a stale one is -ESTALE, an invented one -EINVAL. 0 is never
 * valid. */
typedef uint64_t pg_mr_t;   /* a region of ours */
typedef uint64_t pg_rmr_t;  /* an imported region of a peer */
typedef uint64_t pg_peer_t; /* a peer's group */

struct pg_error {
	int32_t code; /* -errno */
	char text[PG_ERROR_MAX];
};

const char *pg_version(void);

/* ---- Transports ---------------------------------------------------------------------------- */

/* What a transport promises, as data. */
struct pg_caps {
	uint64_t max_write;       /* one work request; larger writes go as several */
	uint32_t max_msg;         /* submit_send */
	uint32_t max_outstanding; /* work requests per connection */
	uint32_t imm_bits;        /* 0: cannot write with immediate */
	uint32_t split_min;       /* writes below this many bytes use one NIC */
	uint64_t link_mbit_s;     /* 0: unknown */
	bool ordered;             /* work requests of one connection land in order */
	bool reports_source;      /* an arriving immediate names its connection */
	bool can_fence;           /* a connection can be stopped and drained */
	bool placement_once;      /* payload is written at most once */
	bool wait_fd;             /* can sleep until something arrives */
	bool sync_post;           /* a posted work request has completed when post returns */
	bool maps_peer;           /* a peer's engine memory is mapped before the first write */
	bool gpu;
};

/* The i-th transport of this build, NULL past the last. Order is the order of preference. */
const char *pg_transport_name(unsigned i);

/* -ENOENT for an unknown name; -ENODEV with the reason when this machine cannot run it. */
int pg_transport_caps(const char *name, struct pg_caps *caps, struct pg_error *err);

/* ---- Engine and groups --------------------------------------------------------------------- */

enum pg_progress {
	PG_PROGRESS_AUTO,   /* worker where a core is spare (more than two), else inline */
	PG_PROGRESS_INLINE, /* callers' threads make progress; stop calling and peers may stall */
	PG_PROGRESS_WORKER, /* one thread per group, and for shm one more per extra lane */
};

struct pg_domain_config {
	char transport[16];   /* "shm"; "" picks the first that this machine can run */
	char device[64];      /* NIC; "" lets the transport choose */
	int32_t cpu;          /* pin this domain's own thread, if it has one; -1: not pinned */
	uint32_t link_mbit_s; /* share of split writes; 0: as the transport says */
};

struct pg_group_config {
	uint32_t n_domains; /* 1..PG_MAX_DOMAINS */
	struct pg_domain_config domains[PG_MAX_DOMAINS];
	int32_t progress;   /* enum pg_progress */
	int32_t worker_cpu; /* -1: not pinned */
};

/* Every number here can be overridden by the environment variable named behind it, read by
 * pg_config_init. */
struct pg_config {
	uint32_t n_groups;
	const struct pg_group_config *groups;
	uint32_t max_ops; /* operations in flight per group, a power of two: PGCTL_MAX_OPS (4096) */
	uint32_t max_events;    /* completions kept for pg_poll_events: PGCTL_MAX_EVENTS (8192) */
	uint32_t max_unclaimed; /* counters nobody asked for yet: PGCTL_MAX_UNCLAIMED (65536) */
	uint32_t max_peers;     /* per group: PGCTL_MAX_PEERS (1024) */
	uint32_t max_regions;   /* local, and as many imported: PGCTL_MAX_REGIONS (4096) */
	uint64_t op_timeout_ns; /* PGCTL_OP_TIMEOUT_MS (30000): without progress it fails */
	uint64_t spin_ns;       /* PGCTL_SPIN_US: polled this long before sleeping */
	bool busy_poll;         /* PGCTL_BUSY_POLL (0): never sleep, burn a core */
};

/* Defaults, then the environment. n_groups is 1: one domain of the default transport. -EINVAL names
 * the variable that is not a number. */
int pg_config_init(struct pg_config *config, struct pg_error *err);

/* NULL config: defaults. */
int pg_engine_create(const struct pg_config *config, struct pg_engine **engine,
		     struct pg_error *err);

/* Wakes all waiters with -ESHUTDOWN, stops, drains, frees. Handles and groups are gone afterwards;
 * no other call may be running that was not a wait. -EDEADLK from inside a callback. */
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
};
int pg_limits(struct pg_group *group, struct pg_limits *limits);

/* Totals of one NIC since create. Payload bytes; operations as work requests. */
struct pg_domain_stats {
	uint64_t bytes_out;
	uint64_t posted;
	uint64_t imms_in; /* arrived immediates, a split write's shards each counted */
	uint64_t msgs_in;
	uint64_t eagain; /* posts refused for want of credit */
};
int pg_stats(struct pg_group *group, unsigned domain, struct pg_domain_stats *stats);

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
	int32_t status; /* why it is down, -errno; 0 if it is not */
	uint32_t n_connections;
	char incarnation[33]; /* hexadecimal */
	char path[128];       /* transport and how it reaches memory, for people */
	char reason[PG_ERROR_MAX];
};
int pg_peer_info(struct pg_group *group, pg_peer_t peer, struct pg_peer_info *info);

/* ---- Memory -------------------------------------------------------------------------------- */

#define PG_ALLOC_HUGEPAGES 1 /* huge pages, -ENOMEM when there are none */
#define PG_ALLOC_PREFAULT 2  /* touch every page now */

/* Engine-owned memory, which local peers map. numa: -1 for any node. */
int pg_alloc_mr(struct pg_group *group, uint64_t len, int numa, unsigned flags, void **ptr,
		pg_mr_t *mr, struct pg_error *err);

/* Memory of the caller, which must stay valid until pg_unreg_mr. Regions may overlap. */
int pg_reg_mr(struct pg_group *group, void *ptr, uint64_t len, pg_mr_t *mr, struct pg_error *err);

/* Waits until no operation of ours reads it, then forgets it (and frees it, if engine-owned).
 * -EBUSY on timeout: still registered. */
int pg_unreg_mr(struct pg_group *group, pg_mr_t mr, uint64_t timeout_ns, struct pg_error *err);

/* The MrDesc; *len as in pg_main_address. Possession of it is the authority to write there. */
int pg_mr_desc(struct pg_group *group, pg_mr_t mr, void *buf, size_t *len);

/* Makes a peer's region usable as a destination. Its owner must have been added. -EPROTO:
 * truncated, foreign or of another wire version; -ENOENT: the owner is unknown. */
int pg_import_mr(struct pg_group *group, const void *desc, size_t len, pg_rmr_t *rmr,
		 struct pg_error *err);
int pg_release_rmr(struct pg_group *group, pg_rmr_t rmr, struct pg_error *err); /* -EBUSY: in use */

/* Where a peer's engine memory is mapped here (connects and maps if needed), for reading or timing.
 * -ENOTSUP when this transport or kind of memory is not mapped. */
int pg_remote_ptr(struct pg_group *group, pg_rmr_t rmr, uint64_t timeout_ns, void **ptr,
		  struct pg_error *err);

/* ---- Operations ---------------------------------------------------------------------------- */

enum pg_event_kind {
	PG_EVENT_OP,   /* an operation completed: cookie, status */
	PG_EVENT_IMM,  /* an expectation fired: cookie, imm */
	PG_EVENT_RECV, /* a message: peer, data, len; give it back with pg_recv_release */
};

struct pg_event {
	uint32_t kind;
	int32_t status; /* 0 or -errno */
	uint64_t cookie;
	pg_peer_t peer;
	const void *data;
	uint32_t len;
	uint32_t imm;
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
};

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
 * valid at completion; it is borrowed until then. */
struct pg_scatter {
	pg_mr_t src;
	const struct pg_scatter_dst *dsts;
	uint32_t n;
	int32_t spread; /* enum pg_spread */
	int32_t *status;
};

struct pg_barrier {
	const pg_peer_t *peers;
	uint32_t n;
	int32_t *status;
};

struct pg_send {
	pg_peer_t peer;
	const void *data; /* copied */
	uint32_t len;     /* <= pg_limits.max_msg */
};

struct pg_op {
	uint32_t opcode;
	uint32_t imm; /* <= PG_IMM_MAX, or PG_NO_IMM: then the peer's engine sees nothing */
	struct pg_done done;
	union {
		struct pg_write write;
		struct pg_paged paged;
		struct pg_scatter scatter;
		struct pg_barrier barrier;
		struct pg_send send;
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
int pg_imm_value(struct pg_group *group, uint32_t imm, uint64_t *value);
/* Forgets the counter; an outstanding expectation ends with -ECANCELED. */
int pg_free_imm(struct pg_group *group, uint32_t imm);

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

#ifdef __cplusplus
}
#endif
#endif
