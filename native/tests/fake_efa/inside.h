/* SPDX-License-Identifier: MIT
 *
 * Inside the stand-in for EFA.
 *
 * An endpoint has a segment of shared memory with slots. Who sends to it fills a slot and rings (post.c);
 * what is in the slots moves when the receiver reads its completion queue (arrive.c), which copies the
 * payload straight out of the sender's memory; then the slot says how that went, and the sender, when it
 * reads its own queue, ends the operation (reap.c). So everything needs the target's progress; of EFA only
 * first contact does, and messages.
 *
 * A slot is FREE, CLAIMED by a sender that fills it, POSTED, BUSY while the receiver copies, and DONE until
 * the sender has seen that. A sender that gives up makes it CANCELLED if it is POSTED; the receiver frees it. */
#ifndef PGCTL_TESTS_FAKE_EFA_INSIDE_H
#define PGCTL_TESTS_FAKE_EFA_INSIDE_H

#include <pthread.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_ext.h>
#include <rdma/fi_rma.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fake_efa.h"
#include "util/clock.h"
#include "util/splitmix.h"

#define CONTAINER(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define FAKE_VERSION FI_VERSION(1, 22)
#define FAKE_OLDEST FI_VERSION(1, 18) /* that gets efa with RDMA */
#define FAKE_MAX_NICS 32
#define FAKE_SLOTS 1024
#define FAKE_MAX_TX 1024
#define FAKE_INJECT 256
#define FAKE_PATH 256
#define FAKE_MTU 8192
#define RNR_RETRY_FOREVER 7 /* FI_OPT_EFA_RNR_RETRY, from here on */

#define MSEC 1000000ULL
#define NEVER UINT64_MAX

/* How long: until a peer that does not answer is given up; a closing endpoint waits for receivers to see
 * what became of what it has in flight; something may land after that, and is lost if nobody looked. */
#define UNRESPONSIVE_NS (100 * MSEC)
#define CLOSING_NS (15 * MSEC)
#define LATE_NS (25 * MSEC)
#define LATE_BOUND_NS (30 * MSEC)

/* prov_errno, as efa has them. */
enum {
	STATUS_OK = 0,
	STATUS_INVALID_LKEY = 5,
	STATUS_BAD_ADDRESS = 7,
	STATUS_BAD_DEST_QPN = 9,
	STATUS_RNR = 10,
	STATUS_UNREACHABLE = 15,
	STATUS_OTHER = 4096, /* here: what only the stand-in meets */
	STATUS_UNRESPONSIVE = 4124,
};

/* Options of newer headers. */
enum {
	OPT_RNR_RETRY = -FI_PROV_SPECIFIC_EFA,
	OPT_EMULATED_READ,
	OPT_EMULATED_WRITE,
	OPT_EMULATED_ATOMICS,
	OPT_USE_DEVICE_RDMA,
	OPT_SENDRECV_IN_ORDER,
	OPT_WRITE_IN_ORDER,
	OPT_HOMOGENEOUS_PEERS,
	OPT_USE_UNSOLICITED_WRITE_RECV,
	OPT_CUDA_API_PERMITTED = FI_OPT_XPU_TRIGGER + 1,
	OPT_SHARED_MEMORY_PERMITTED,
	OPT_MAX_MSG_SIZE,
	OPT_MAX_TAGGED_SIZE,
	OPT_MAX_RMA_SIZE,
	OPT_MAX_ATOMIC_SIZE,
	OPT_INJECT_MSG_SIZE,
	OPT_INJECT_TAGGED_SIZE,
	OPT_INJECT_RMA_SIZE,
};

/* ---- settings.c ---- */

enum fate { FATE_LOST, FATE_PLACED, FATE_COUNTED, FATE_LATE, FATE_ANY };
enum dead { DEAD_SILENT, DEAD_FAILED, DEAD_ANY };

struct settings {
	unsigned nics;
	uint64_t seed;
	uint64_t again, twice, echo, hold;
	uint64_t rdma, tx, rx;
	uint64_t fate, dead;
	bool emulated, wait_fd, stats;
	const char *provider;
};

const struct settings *fake_settings(void);
/* Reads them, unless a fabric is open; and opens or closes one. */
void fake_settings_read(void);
void fake_settings_hold(void);
void fake_settings_release(void);
void fake_count(enum fake_efa_manner manner);
uint64_t fake_counted(enum fake_efa_manner manner);
/* Another one each time; the same again once all fabrics have been closed. */
uint64_t fake_seed(void);

/* Once in n times; never if n is 0. */
static inline bool fake_chance(uint64_t *random, uint64_t n)
{
	return n && !splitmix64_below(random, n);
}

/* ---- Segments ---- */

/* What fi_getname gives. */
struct fake_addr {
	uint64_t magic;
	uint64_t nonce;
	int32_t pid;
	int32_t fd; /* of the segment, in pid */
	uint32_t nic;
	uint32_t reserved;
};
_Static_assert(sizeof(struct fake_addr) == 32, "efa's are as long");

enum slot_state { SLOT_FREE, SLOT_CLAIMED, SLOT_POSTED, SLOT_BUSY, SLOT_CANCELLED, SLOT_DONE };
enum slot_kind { SLOT_WRITE, SLOT_WRITE_IMM, SLOT_SEND };

struct slot {
	_Atomic uint32_t state;
	_Atomic uint32_t
		doomed; /* the sender: its NIC is dead or its endpoint is about to be closed */
	uint32_t kind;
	uint32_t imm;
	uint32_t status;    /* the receiver, before DONE */
	uint32_t rnr_retry; /* of messages: how often its receiver may look in vain for a buffer */
	uint64_t src, len;  /* in the memory of from.pid */
	uint64_t raddr, rkey;
	uint64_t turn,
		send_turn; /* of all that one endpoint has posted to another; of messages alone */
	struct fake_addr from;
};

struct segment {
	uint64_t magic;
	uint64_t nonce;
	char nic_state[FAKE_PATH]; /* the file that says whether its NIC is up; "": always */
	uint32_t
		unread_max; /* immediates that may come between two reads of the queue; 0: any number */
	_Atomic uint32_t unread;
	_Atomic uint32_t overrun;
	_Atomic uint32_t closed;
	_Atomic uint64_t
		posted[FAKE_SLOTS / 64]; /* slots that the receiver has not looked at yet */
	struct slot slots[FAKE_SLOTS];
};

/* The state of a port, as it was a millisecond ago at most. */
struct nic_watch {
	uint64_t looked;
	uint64_t down_since; /* 0: up */
};

/* ---- Objects ---- */

struct fake_fabric {
	struct fid_fabric fid;
	_Atomic unsigned refs;
};

struct fake_domain {
	struct fid_domain fid;
	struct fake_fabric *fabric;
	unsigned nic;
	char nic_state[FAKE_PATH];
	struct nic_watch watch;
	unsigned refs; /* of what is open in it */
	struct fake_ep *eps;
	struct fake_mr **mrs;
	uint32_t n_mrs, generation;
	bool thread_safe;
	pthread_mutex_t lock;
	_Atomic bool inside;
};

struct fake_mr {
	struct fid_mr fid;
	struct fake_domain *domain;
	uint64_t base, len, access;
};

struct fake_av {
	struct fid_av fid;
	struct fake_domain *domain;
	unsigned refs;
	struct fake_addr *addrs; /* magic 0: none */
	size_t n;
};

/* Errors are entries whose err is not 0; the beginning is what all formats have in common. */
struct cq_item {
	struct fi_cq_err_entry entry;
	fi_addr_t source;
};

struct fake_cq {
	struct fid_cq fid;
	struct fake_domain *domain;
	unsigned refs;
	size_t entry_size;
	struct cq_item *items;
	size_t size, head, tail; /* head and tail only grow */
	bool broken;
	int wait_fd; /* -1: none */
};

/* Another endpoint, as one that sends to it sees it. */
struct remote {
	struct remote *next;
	struct fake_addr addr;
	struct segment *segment; /* NULL: it could not be reached */
	int pidfd;
	bool met;  /* it has answered once */
	bool gone; /* its process has ended */
	uint64_t looked;
	struct nic_watch watch;
	uint64_t turn, send_turn;
};

/* What an endpoint has posted and what has not ended. */
struct op {
	bool used, quiet;
	void *context;
	uint64_t flags;
	struct remote *to;
	struct slot *slot;  /* NULL: it has gone nowhere, or has come back */
	uint32_t status;    /* what it fails with, at: */
	uint64_t fail_at;   /* NEVER */
	uint64_t doomed_at; /* 0: it is not */
	uint8_t copy[FAKE_INJECT];
};

/* 0 to n - 1 in an order of its own. */
struct shuffle {
	uint32_t n, start, stride;
};

enum inbound_phase { PHASE_PLACE, PHASE_COUNT, PHASE_ECHO };

/* What the receiver knows of a slot that has not ended. */
struct inbound {
	uint32_t slot;
	uint32_t hold;   /* reads of the queue that it stands still for */
	uint32_t looked; /* in vain for a buffer */
	struct shuffle segments, pieces;
	uint32_t segment, piece; /* so many are done */
	enum inbound_phase phase;
};

struct recv {
	void *buf, *context;
	size_t len;
};

/* Whose messages have come, and how many. */
struct source {
	uint64_t nonce;
	uint64_t send_turn; /* of the next message */
	uint64_t last_turn; /* the latest that has ended; for FAKE_EFA_OVERTAKEN */
};

/* Payload that has been taken out of the sender's memory and is yet to land. */
struct late {
	struct late *next;
	uint64_t due, until;
	uint64_t raddr, rkey, len;
	uint32_t imm, counts;
	struct fake_addr from;
	uint8_t payload[];
};

struct fake_ep {
	struct fid_ep fid;
	struct fake_domain *domain;
	struct fake_ep *next; /* in the domain */
	struct fake_av *av;
	struct fake_cq *tx_cq, *rx_cq;
	uint64_t random;
	uint64_t op_flags;
	bool enabled, selective, solicited;
	size_t rnr_retry;

	struct fake_addr addr;
	int fd;
	struct segment *segment;

	struct op *ops;
	uint32_t n_ops;
	bool silent; /* whether its operations fail when its NIC is dead */
	struct remote *remotes;

	struct inbound *inbound;
	uint32_t n_inbound;
	struct recv *recvs;
	size_t n_recvs, recv_head, recv_tail; /* head and tail only grow */
	struct source *sources;
	size_t n_sources;
	struct late *lates;
};

/* ---- domain.c ---- */

int fake_domain_open(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain,
		     void *context);
/* Around every call. With FI_THREAD_DOMAIN the caller sees to it that there is one at a time, and the
 * process ends if it has not; with FI_THREAD_SAFE it is seen to here. */
void fake_enter(struct fake_domain *d);
void fake_leave(struct fake_domain *d);
int fake_no_bind(struct fid *fid, struct fid *bfid, uint64_t flags);
int fake_no_control(struct fid *fid, int command, void *arg);
int fake_no_ops_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context);

/* ---- memory.c ---- */

extern struct fi_ops_mr fake_mr_ops;
/* Whether addr..addr+len is in a region of that key or descriptor with that access. */
bool fake_mr_allows(struct fake_domain *d, uint64_t key, uint64_t addr, uint64_t len,
		    uint64_t access);
bool fake_mr_desc_allows(struct fake_domain *d, const void *desc, const void *addr, uint64_t len,
			 uint64_t access);
/* Copies from the memory of a process to ours, as a device would: sanitizers do not see it. 0 or -errno. */
int fake_copy(pid_t pid, uint64_t to, uint64_t from, uint64_t len);

/* ---- av.c ---- */

int fake_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av,
		 void *context);
/* FI_ADDR_NOTAVAIL where nobody has inserted it. */
fi_addr_t fake_av_find(const struct fake_av *av, const struct fake_addr *addr);

/* ---- cq.c ---- */

int fake_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq,
		 void *context);
int fake_trywait(struct fid_fabric *fabric, struct fid **fids, int count);
bool fake_cq_has_room(const struct fake_cq *cq);
void fake_cq_push(struct fake_cq *cq, const struct fi_cq_err_entry *entry, fi_addr_t source);
int fake_errno(uint32_t status);
const char *fake_status_text(int status);

/* ---- endpoint.c, options.c ---- */

int fake_ep_open(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep,
		 void *context);
int fake_getopt(fid_t fid, int level, int name, void *value, size_t *len);
int fake_setopt(fid_t fid, int level, int name, const void *value, size_t len);

/* ---- segment.c, nic.c ---- */

int fake_segment_make(struct fake_ep *ep);
void fake_segment_drop(struct fake_ep *ep);
/* The endpoint of that address as ep sees it, made at first; NULL: no memory. */
struct remote *fake_remote(struct fake_ep *ep, const struct fake_addr *addr);
void fake_remotes_drop(struct fake_ep *ep);
bool fake_remote_gone(struct remote *to, uint64_t now);
void fake_nic_state_path(char path[FAKE_PATH], unsigned nic);
/* Since when the port is down; 0: it is up. */
uint64_t fake_nic_down(const char *state_path, struct nic_watch *watch, uint64_t now);

/* ---- post.c, reap.c ---- */

extern struct fi_ops_msg fake_msg_ops;
extern struct fi_ops_rma fake_rma_ops;
/* Ends what has ended. */
void fake_reap(struct fake_ep *ep);
/* Takes back all that is in flight. */
void fake_reap_all(struct fake_ep *ep);

/* ---- arrive.c, fate.c ---- */

void fake_arrive(struct fake_ep *ep);
/* One more step of a write; whether it has ended, and then *status. */
bool fake_write_step(struct fake_ep *ep, struct inbound *in, const struct slot *s,
		     uint32_t *status);
/* A whole message, if it is its turn and there is a buffer; likewise. */
bool fake_send_step(struct fake_ep *ep, struct inbound *in, const struct slot *s, uint32_t *status);
void fake_count_arrival(struct fake_ep *ep, const struct fake_addr *from, uint32_t imm,
			uint64_t len);
/* Decides on what was in flight when a NIC died or the sender's endpoint was closed. */
uint32_t fake_judge(struct fake_ep *ep, struct inbound *in, const struct slot *s);
void fake_land_lates(struct fake_ep *ep);
void fake_drop_lates(struct fake_ep *ep);

#endif
