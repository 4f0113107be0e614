/* SPDX-License-Identifier: MIT
 *
 * What the files of the shm transport share. A domain is a "lane"; there can be several, because
 * each copies on one thread.
 *
 * Threads: everything but the table of regions belongs to the caller, who holds the engine's lock.
 * A lane with a mover shares with it the jobs, and what a job points at: channel and inbox of the
 * peer. */
#ifndef PGCTL_SHM_H
#define PGCTL_SHM_H

#include <sys/mman.h>

#include "transport/shm/wire.h"
#include "transport/transport.h"
#include "util/lock.h"

/* Since Linux 5.14; older ones refuse, and pages come when they are touched. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define SHM_MAX_WRITE (1 << 20)
#define CMA_BATCH 64 /* pieces per process_vm_writev */
#define STAGED_MESSAGES 16

struct mover;

struct region {
	uint64_t key; /* 0: free */
	uint8_t *base;
	uint64_t len; /* when free: the next free one */
};

/* The regions that peers may have us write to. */
struct regions {
	struct lock lock;
	struct region *list;
	uint32_t n;
	uint32_t free; /* n: none */
};

struct shm_domain {
	struct domain domain;
	struct inbox *inbox;
	struct mover *mover;     /* NULL: the caller's thread copies */
	uint64_t *cold;          /* slots that are found through the inbox, not polled */
	struct shm_conn **hot;   /* connections that are polled */
	struct shm_conn **conns; /* by slot */
	unsigned n_words;        /* of the inbox in use */
	unsigned n_hot;
	unsigned turn;     /* which hot one is served first */
	unsigned patience; /* empty polls before a hot one turns cold */
	unsigned n_starved;
	unsigned n_dying; /* broken, and not reported yet */
	uint32_t sleep;   /* the last value of inbox->sleeping that was not 0 */
	bool armed;
	bool cma;         /* process_vm_writev is wanted */
	uint8_t *staging; /* copies of messages: the peer could change them in the ring */
	unsigned n_slots;
	int inbox_fd;
	struct regions regions;
};

struct shm_conn {
	struct conn conn;

	/* To the peer. */
	struct channel *out; /* NULL: not attached */
	struct inbox *inbox; /* the peer's */
	uint32_t entries;    /* where the next one goes */
	uint32_t messages;
	uint32_t pieces;
	struct {
		uint32_t entries, messages, pieces;
	} seen;                /* out->taken, when it was last read */
	_Atomic uint32_t rung; /* the sleep of the peer for which the bell has been rung */
	uint32_t peer_slot;
	int bell;
	int pidfd; /* -1: no process_vm_writev */
	pid_t pid;
	bool dirty;   /* something is published and not announced */
	bool starved; /* a post found no credit */

	/* From the peer. */
	alignas(LINE) struct channel *in;
	uint32_t taken;       /* entries, */
	uint32_t told;        /* of which the peer has been told; */
	uint32_t messages_in; /* likewise bytes of records */
	uint32_t pieces_in;
	uint32_t waiting; /* messages whose entry has been taken */
	unsigned idle;    /* empty polls in a row */
	unsigned hot_index;
	bool is_hot;
	bool reported;
	int status; /* not 0: it broke the protocol */
	unsigned slot;
	int channel_fd; /* until attached */
	uint64_t nonce;
};

static inline struct shm_domain *shm_domain(struct domain *domain)
{
	return (struct shm_domain *)domain;
}

static inline struct shm_conn *shm_conn(struct conn *conn)
{
	return (struct shm_conn *)conn;
}

static inline struct shm_domain *conn_lane(const struct shm_conn *c)
{
	return (struct shm_domain *)c->conn.domain;
}

static inline bool is_unmapped_write(const struct wr *wr)
{
	return wr->op != WR_SEND && !wr->mapped && wr->len;
}

/* Everything before it is visible before anything after it is read: one half of Dekker's handshake,
 * the other half being the same on the other side. Costs 6 ns, plus the wait for our last store. */
static inline void full_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}

/* shm_segment.c */
int segment_make(const char *name, size_t size, int *fd, void **map, struct pg_error *err);
int segment_check(int fd, uint64_t size, struct pg_error *err);
int segment_map(int fd, size_t size, void **map, struct pg_error *err);

/* shm_conn.c */
int shm_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		  struct pg_error *err);
int shm_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err);
void shm_conn_close(struct conn *conn);

/* shm_cma.c: process_vm_writev */
void cma_allow(void);
/* Proves that it works towards this peer and keeps a pidfd of it; else -errno with the reason. */
int cma_attach(struct shm_conn *c, pid_t pid, const struct conn_offer *theirs,
	       struct pg_error *err);
/* Writes the payload of up to n WRs, which all have some and are not mapped; how many, or
 * -errno. */
int cma_write(struct shm_conn *c, const struct wr *wrs, unsigned n, struct pg_error *err);

/* shm_post.c */
int shm_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
void shm_flush(struct conn *conn);
bool shm_visible(struct conn *conn, uint64_t *mark);
void shm_describe(const struct conn *conn, char *buf, size_t size);
/* Tells the peer to look at the connection, and wakes it. After a full fence. */
void announce(struct shm_conn *c);
/* Wakes the peer if it sleeps. After a full fence. */
void ring_bell(struct shm_conn *c);
/* Reads what the peer has taken. false: that cannot be, and the connection is broken now. */
bool refresh_credit(struct shm_conn *c);
bool credit_returned(const struct shm_conn *c);
/* Copies the payload of a message, or of a write that the receiver is to place, into a record. Its
 * entry, but for position and count: the kind; 0: no credit; or -errno. */
int put_record(struct shm_conn *c, const struct wr *wr, struct pg_error *err);

/* shm_poll.c */
unsigned shm_poll(struct domain *domain, struct arrival *arrivals, unsigned max, unsigned max_msgs);
bool shm_arm(struct domain *domain, bool sleep);
void cool_down(struct shm_conn *c);
void conn_break(struct shm_conn *c, int status);

/* shm_memory.c */
int shm_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
	       struct pg_error *err);
void shm_mr_dereg(struct domain *domain, uint64_t lkey);
int shm_mr_export(struct domain *domain, const struct memory *memory, struct offer *offer);
int shm_mr_import(struct domain *domain, const struct offer *offer, uint64_t len, void **mapped,
		  struct pg_error *err);
void shm_mr_unimport(struct domain *domain, void *mapped, uint64_t len);
/* Takes the next piece out of the channel and puts it where it belongs. */
int place_piece(struct shm_conn *c);

/* shm_mover.c: the lane's own thread */
int mover_start(struct shm_domain *lane, int cpu, struct pg_error *err);
void mover_stop(struct shm_domain *lane);
int mover_post(struct shm_conn *c, const struct wr *wrs, unsigned n, struct pg_error *err);
void mover_flush(struct mover *m);
unsigned mover_reap(struct mover *m, struct arrival *arrivals, unsigned max);
bool mover_has_done(const struct mover *m);
/* Waits until the mover has finished with the connection, and drops its completions. */
void mover_forget(struct mover *m, const struct shm_conn *c);

#endif
