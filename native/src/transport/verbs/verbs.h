/* SPDX-License-Identifier: MIT
 *
 * What the files of the verbs transport share. A domain is one port of one RDMA device, opened by
 * itself; a connection is two reliable (RC) queue pairs: writes on one, messages on the other, so that
 * a message for which the receiver has no room holds no write up.
 *
 * Receives are taken from two shared receive queues per domain, of immediates and of messages. All
 * completions come into one queue, which cannot overrun: room for every receive is kept, and what is
 * posted takes its room from `sends_left` and gives it back when it has ended.
 *
 * Threads: everything but registration belongs to the caller, who holds the engine's lock. */
#ifndef PGCTL_VERBS_H
#define PGCTL_VERBS_H

#include "transport/transport.h"
#include "transport/verbs/ibverbs.h"
#include "util/list.h"

#define VERBS_MAX_WRITE (1u << 20)
/* Places of a queue of writes, and of messages. More would not fit into 64 KiB a connection. Devices
 * round up to a power of two, some after they have added one; and one is for the last (VERBS_ID_LAST). */
#define VERBS_WRS 128
#define VERBS_MSG_WRS 16
#define VERBS_KEPT 2
#define VERBS_SIGNAL 16 /* of so many writes one completes visibly; so does the last of a chain */
#define VERBS_ROOM 32   /* a full queue takes writes again when there is room for so many */
#define VERBS_CHAIN 32  /* work requests to one doorbell */
#define VERBS_INLINE 48
#define VERBS_SENDS 8192 /* work requests in flight on a NIC */
#define VERBS_IMMS 4096  /* receives of immediates posted, see struct verbs_options */
#define VERBS_MSGS 64    /* receives of messages posted, and messages that wait to be sent */
#define VERBS_REFILL 64  /* receives posted at once */
#define VERBS_WCS 32     /* completions taken at once */

/* Who says nothing of a field is -1 there. */
struct verbs_options {
	int gid;           /* index in the port's table */
	int pkey;          /* value */
	int mtu;           /* bytes */
	int traffic_class; /* 0..255 */
	int service_level; /* 0..15 */
	int timeout;       /* until a packet is sent again: 4.096 us times 2 to this, 1..31 */
	int retry;         /* so often before the connection breaks, 0..7 */
	int rnr;           /* code of the pause of a sender whose receiver has no receive, 0..31 */
	int imms;          /* receives of immediates kept posted */
	int relaxed;       /* 1: the NIC may write to memory in any order (PCIe) */
};

/* Which port of which device, and how it is reached. */
struct verbs_port {
	struct ibv_context *context;
	char device[64]; /* its name: "mlx5_0" */
	uint8_t number;
	struct ibv_port_attr attr;
	struct ibv_device_attr limits;
	union ibv_gid gid;
	uint8_t gid_index;
	uint16_t pkey;
	uint16_t pkey_index;
	enum ibv_mtu mtu;
	uint32_t rail;
};

enum verbs_kind {
	QUEUE_WRITES,
	QUEUE_MESSAGES,
	N_QUEUES,
};

/* A work request that was posted and whose end was not told. */
struct verbs_sent {
	uint64_t id;
	int32_t status;
	uint32_t buffer; /* of a message that was copied, else NO_BUFFER */
};

#define NO_BUFFER UINT32_MAX

/* A region's lkey as the engine has it: its struct ibv_mr, and a bit if the CPU cannot read it. */
#define VERBS_LKEY_GPU 1ull

static inline const struct ibv_mr *verbs_mr(uint64_t lkey)
{
	return (const struct ibv_mr *)(uintptr_t)(lkey & ~VERBS_LKEY_GPU);
}

/* What a completion is of: the kind, and the position of a send or the buffer of a message. Of one that
 * failed this and the number of the queue pair are all that is valid. */
#define VERBS_ID(kind) ((uint64_t)(kind) << 32)
#define VERBS_ID_SEND VERBS_ID(1)
#define VERBS_ID_LAST VERBS_ID(2) /* posted behind all others when the queue pair is in error */
#define VERBS_ID_IMM VERBS_ID(3)
#define VERBS_ID_MESSAGE VERBS_ID(4)

/* One queue pair. Positions count work requests and wrap; told <= ended <= posted. */
struct verbs_queue {
	struct verbs_conn *conn;
	struct ibv_qp *qp;
	enum verbs_kind kind;
	uint32_t size; /* places, a power of two; VERBS_KEPT of them stay free */
	uint32_t posted;
	uint32_t ended;
	uint32_t told;
	uint32_t psn;
	bool last_wqe; /* it takes no receive any more */
	struct verbs_sent *sent;
};

struct verbs_conn {
	struct conn conn;
	struct list link;      /* in its domain */
	struct list news_link; /* in domain->news, when there may be something to tell */
	struct verbs_queue queues[N_QUEUES];
	uint64_t zero_addr; /* where immediates without payload go at the peer */
	uint32_t zero_rkey;
	uint32_t messages; /* received and not told */
	uint64_t
		fence_ns; /* when we stop waiting for the device to say that it takes nothing more */
	int status;       /* not 0: it broke */
	bool attached, dead_told;
	bool stopping, stopped_told, fencing, fenced_told;
	bool still;        /* nothing more is received, */
	uint64_t still_at; /* since so many completions were taken */
	struct verbs_sent sent_writes[VERBS_WRS];
	struct verbs_sent sent_messages[VERBS_MSG_WRS];
};

/* Work requests that wait for the doorbell, all of one queue. */
struct verbs_chain {
	struct verbs_queue *queue;
	unsigned n;
	struct ibv_send_wr wrs[VERBS_CHAIN];
	struct ibv_sge sges[VERBS_CHAIN];
};

/* A message that has come and was not taken. */
struct verbs_inbound {
	struct verbs_conn *conn; /* NULL: of a connection that is closed */
	uint32_t buffer;
	uint32_t len;
};

#define QPN_BITS 24
#define QPN_PAGE 4096

struct verbs_domain {
	struct domain domain;
	const struct ibverbs *lib;
	struct verbs_options options;
	struct verbs_port port;
	struct ibv_td *td; /* NULL: the device offers none */
	struct ibv_pd *pd;
	struct ibv_pd *queue_pd; /* pd, or one whose queues need no locks */
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_srq *srqs[N_QUEUES];

	struct verbs_queue **qpns[(1 << QPN_BITS) / QPN_PAGE]; /* by number of the queue pair */
	struct list conns;
	struct list news;
	struct verbs_chain chain;

	struct ibv_wc *wcs; /* taken from cq, and not looked at */
	unsigned wc_at, n_wcs;
	uint32_t entries; /* of cq */
	uint64_t taken;   /* completions looked at */
	uint32_t sends, sends_left;
	uint32_t imms_missing; /* receives of immediates to post again */

	uint8_t *
		memory; /* of messages in, of messages out, and a page that immediates are aimed at */
	struct ibv_mr *mr, *zero_mr;
	struct verbs_inbound inbox[VERBS_MSGS];
	unsigned inbox_at, n_inbox;
	uint32_t handed[VERBS_MSGS]; /* buffers that the caller reads until the next poll */
	unsigned n_handed;
	uint32_t spare[VERBS_MSGS]; /* buffers to send from */
	unsigned n_spare;
	bool inbox_waits; /* the caller has no room for messages */

	unsigned polls;
	bool suspicious; /* something broke: the device may have said why */
	bool armed, notified;
	bool down;     /* its port */
	bool gone;     /* the device, for good */
	bool tell_nic; /* down is news */
	int nic_status;
};

static inline struct verbs_domain *verbs_domain(struct domain *domain)
{
	return (struct verbs_domain *)domain;
}

static inline struct verbs_conn *verbs_conn(struct conn *conn)
{
	return (struct verbs_conn *)conn;
}

static inline struct verbs_domain *conn_domain(const struct verbs_conn *c)
{
	return (struct verbs_domain *)c->conn.domain;
}

/* How many more work requests a queue takes. */
static inline uint32_t verbs_room(const struct verbs_queue *q)
{
	return q->size - VERBS_KEPT - (q->posted - q->told);
}

/* Of a message: the first VERBS_MSGS are received into, the others sent from. */
static inline uint8_t *verbs_buffer(const struct verbs_domain *d, uint32_t buffer)
{
	return d->memory + (size_t)buffer * PG_MSG_MAX;
}

/* verbs_options.c */
int verbs_options_parse(const char *text, struct verbs_options *options, struct pg_error *err);

/* verbs_port.c */
/* Opens the port that device names ("mlx5_0", "mlx5_0:1"), or the index-th that is active. */
int verbs_port_open(const struct ibverbs *lib, const char *device, unsigned index,
		    const struct verbs_options *options, struct verbs_port *port,
		    struct pg_error *err);
/* What may have changed while it was down. */
int verbs_port_refresh(const struct ibverbs *lib, const struct verbs_options *options,
		       struct verbs_port *port, struct pg_error *err);
/* Mbit/s of an active port; 0: unknown. */
uint64_t verbs_port_speed(const struct ibv_port_attr *attr);

/* verbs_conn.c */
int verbs_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		    struct pg_error *err);
int verbs_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err);
void verbs_conn_close(struct conn *conn);
struct verbs_queue *verbs_queue_find(const struct verbs_domain *d, uint32_t qpn);

/* verbs_post.c */
int verbs_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
void verbs_flush(struct conn *conn);
void verbs_ring(struct verbs_domain *d);
void verbs_describe(const struct conn *conn, char *buf, size_t size);
/* Receives; 0 or an errno. */
int verbs_post_imms(struct verbs_domain *d, unsigned n);
int verbs_post_message_buffer(struct verbs_domain *d, uint32_t buffer);

/* verbs_poll.c */
unsigned verbs_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
		    unsigned max_msgs);
bool verbs_arm(struct domain *domain, bool sleep);
/* There may be something to tell of it. */
void verbs_news(struct verbs_conn *c);
/* What was posted before this position and has not ended, has ended with status. */
void verbs_end(struct verbs_queue *q, uint32_t position, int status);
/* Takes all completions that are there, to be looked at by the next poll. */
void verbs_sweep(struct verbs_domain *d);
/* Those of a queue pair are of nobody any more. */
void verbs_forget(struct verbs_domain *d, uint32_t qpn);

/* verbs_break.c */
/* The connection is broken: posts are refused, and what is in flight ends. */
void verbs_break(struct verbs_conn *c, int status);
void verbs_conn_stop(struct conn *conn);
void verbs_conn_fence(struct conn *conn);
/* Whether nothing of it lands or is reported any more, but for what is in the completion queue. */
bool verbs_is_still(struct verbs_conn *c);
/* What the device says on its own account: of its port, queues, itself. */
void verbs_events(struct verbs_domain *d);

/* verbs_memory.c */
int verbs_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
		 struct pg_error *err);
void verbs_mr_dereg(struct domain *domain, uint64_t lkey);
/* Says why memory is not registered. */
int verbs_mr_refused(const struct verbs_domain *d, uint64_t len, int code, struct pg_error *err);

#endif
