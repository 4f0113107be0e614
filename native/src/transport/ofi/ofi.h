/* SPDX-License-Identifier: MIT
 *
 * What the files of the ofi transport share. A domain is one NIC as a libfabric provider has it: a
 * fid_domain with one completion queue and one address vector. Endpoints are connectionless (FI_EP_RDM),
 * a connection is a pair of addresses and what is in flight between them.
 *
 * A NIC has one endpoint for messages and another for writes, so that messages for which a receiver has
 * no room hold no write up. Who gives up a connection has to know that nothing of it lands any more, and
 * libfabric can take back nothing but an endpoint. So where those are cheap (tcp), each connection writes
 * through one of its own, which is closed to stop it. Where they are not (efa: a queue pair with its
 * buffers), one is stopped when the provider has ended what was posted, and a device that gives up
 * sending is taken at its word. In both cases an endpoint is closed when the last of its connections has
 * been stopped.
 *
 * Immediates name their connection at the receiver: in the upper half of the 64 bits that most providers
 * carry, else (efa: 32 bits) by the address they come from. Where they have neither (verbs;ofi_rxm) they are
 * messages, sent when their write has been placed. Messages name it in a header.
 *
 * Threads: everything but registration belongs to the caller, who holds the engine's lock. Providers are
 * asked for FI_THREAD_DOMAIN, so that `lock` keeps registration apart from the rest. */
#ifndef PGCTL_OFI_H
#define PGCTL_OFI_H

#include <pthread.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include "transport/ofi/libfabric.h"
#include "transport/transport.h"
#include "util/list.h"

#define OFI_MAX_WRITE (1u << 20)
/* In flight on a connection, so that it does not take for ever to stop: at 400 Gbit/s there are so many on
 * the way in 0.3 ms. */
#define OFI_BYTES (16u << 20)
#define OFI_WRITES 128 /* likewise, */
#define OFI_ROOM 32    /* and once full it takes writes again when there is room for so many */
#define OFI_MESSAGES 8 /* in flight on a connection; */
#define OFI_BUFFERS 64 /* on a NIC; and receives posted */
#define OFI_SENDS 8192 /* of both, on a NIC */
#define OFI_BATCH 32   /* completions read at once */
#define OFI_NAME 40    /* bytes of an endpoint's address */

struct ofi_options {
	char provider[32]; /* "": choose */
	char library[256]; /* path of libfabric; "": where it usually is */
	char sysfs[256];   /* where RDMA devices are listed */
	int emulated;      /* 1: efa may emulate writes */
};

/* A NIC of a provider that was chosen. */
struct ofi_nic {
	struct fi_info *info; /* whoever has it frees it */
	char name[32];        /* of the netdev or the RDMA device */
	char why[64];         /* it was chosen */
	uint8_t provider;     /* for ofi_provider_name */
	uint64_t link_mbit_s;
	uint32_t rail;
	bool efa, local;    /* it is EFA's; it reaches this host alone */
	bool names_sources; /* of immediates, by their address */
	/* It is ofi_rxm's, whose queue gives fewer completions than there are: also none, a few times. */
	bool rxm;
	bool own_endpoints; /* a connection writes through an endpoint of its own */
	bool fences;        /* what a stopped connection had sent does not land for ever */
	/* An endpoint is not closed before its NIC: others use its memory, or the queue does, or regions are
	 * bound to it. */
	bool keeps;
	/* Nor a NIC before all of its kind in the process, which go on using its memory (shm). */
	bool lingers;
	/* Bytes that go with an immediate without payload (shm 1.17 never ends a write of none). */
	unsigned bare;
};

/* What an op_context points at begins with this. */
struct ofi_token {
	struct fi_context2 fi; /* the provider's while it is posted */
	bool is_receive;
};

/* In front of a message. */
struct ofi_header {
	uint64_t nonce; /* of the connection at the receiver */
	uint32_t tag;
	enum { OFI_DATA, OFI_IMM } kind : 32;
};

/* An immediate as a message. */
struct ofi_imm {
	struct ofi_header header;
	uint32_t imm;
};

/* A write or message that was posted and whose end was not told. */
struct ofi_send {
	struct ofi_token token;
	struct list link;       /* in its endpoint, domain->owing, domain->ended; or a free one */
	struct ofi_conn *conn;  /* NULL: nobody waits for its end */
	struct ofi_address *to; /* while it is in flight: an address outlives what goes there */
	uint64_t id;
	int32_t status;
	uint32_t len;    /* of a write */
	uint32_t buffer; /* of a message in flight, else NO_BUFFER */
	bool is_message;
	bool owes; /* its immediate, which is sent when it has been placed: */
	struct ofi_imm imm;
};

#define NO_BUFFER UINT32_MAX

struct ofi_packet {
	struct ofi_header header;
	uint8_t data[PG_MSG_MAX];
};

struct ofi_receive {
	struct ofi_token token;
	struct ofi_endpoint *endpoint;
	struct list link; /* in domain->inbox or domain->handed */
	struct ofi_conn *conn;
	uint32_t len; /* of its data */
	struct ofi_packet *packet;
};

/* How far the completion queue has been read. */
struct ofi_mark {
	uint64_t taken, empty; /* completions, and how often there were none */
};

struct ofi_endpoint {
	struct fid_ep *fid; /* NULL: it is closed; others in domain->closed refused to be */
	struct list link;   /* in domain->closed, when no connection uses it any more */
	struct list sends;  /* in flight */
	unsigned refs;      /* connections, */
	unsigned users;     /* and those of them that were not stopped */
	uint32_t name_len;
	uint8_t name[OFI_NAME];
	struct ofi_mark closed;
	/* Only of one that receives messages. */
	struct ofi_receive *receives;
	struct ofi_packet *packets;
	struct fid_mr *mr;
};

/* Of a peer's endpoint. There is one of each name, however many connections lead there: providers differ in
 * whether one that is inserted twice has to be removed twice. */
struct ofi_address {
	struct list link; /* in domain->addresses */
	unsigned refs;
	fi_addr_t at;
	uint8_t name[OFI_NAME];
};

struct ofi_conn {
	struct conn conn;
	struct list news_link; /* in domain->news, when there may be something to tell */
	struct ofi_endpoint *writer, *messenger;
	uint32_t tag;   /* ours, that the peer puts into what it sends */
	uint64_t nonce; /* likewise */
	uint32_t peer_tag;
	uint64_t peer_nonce;
	struct ofi_address *peer_writer, *peer_messenger;
	uint64_t zero_addr, zero_key; /* where immediates without payload go at the peer */
	uint32_t writes, messages;    /* in flight or ended and not told, */
	size_t bytes;                 /* and those of the writes */
	uint32_t received;            /* messages that were not told */
	int status;                   /* not 0: it broke */
	bool attached, dead_told;
	bool stopping, stopped_told, fencing, fenced_told;
	uint64_t fence_ns;     /* when what is still under way has landed, at the latest; */
	bool settled;          /* it has, */
	struct ofi_mark fence; /* by then */
};

struct ofi_link; /* ofi_link.c */

/* How an immediate says whose it is. */
enum ofi_whose { OFI_BY_DATA, OFI_BY_ADDRESS, OFI_BY_MESSAGE };

struct ofi_domain {
	struct domain domain;
	const struct libfabric *lib;
	struct ofi_options options;
	struct ofi_nic nic;
	pthread_mutex_t lock;
	struct fid_fabric *fabric;
	struct fid_domain *fid;
	struct fid_av *av;
	struct fid_cq *cq;
	enum ofi_whose whose;
	bool offsets;  /* peers' memory is addressed from the beginning of a region */
	bool local_mr; /* what is sent from has to be registered */
	struct ofi_endpoint *messenger, *writer; /* of all connections; opened for the first */
	struct list closed;
	struct list addresses;

	struct ofi_conn **conns; /* by the lower half of their tags */
	unsigned n_conns;
	struct ofi_conn **sources; /* by fi_addr_t, where immediates do not name theirs */
	fi_addr_t n_sources;
	struct list news;

	struct ofi_send *sends;
	struct fid_mr *sends_mr; /* where immediates are messages */
	struct list free_sends;
	unsigned n_free;
	struct list owing; /* writes that were placed and whose immediates are to be sent */
	struct list ended;
	struct ofi_mark read;

	struct ofi_packet *packets; /* to send from, */
	struct fid_mr *packets_mr;
	uint32_t spare[OFI_BUFFERS]; /* those that are free; */
	unsigned n_spare;
	uint8_t *zero; /* and a page that immediates are aimed at */
	struct fid_mr *zero_mr;
	struct list inbox;  /* receives that have come and were not taken */
	struct list handed; /* that the caller reads until the next poll */
	bool inbox_waits;   /* the caller has no room for messages */

	struct list lingering_link; /* among NICs that wait to be closed, see ofi.c */
	struct ofi_link *link;
	int cq_fd, nap_fd; /* either */
	int rung;          /* an epoll of cq_fd: whether it has become readable once more */
	uint64_t nap_ns;
	unsigned polls;
	bool down, tell_nic;
	bool lost; /* its completion queue has failed: it stays down */
};

static inline struct ofi_domain *ofi_domain(struct domain *domain)
{
	return (struct ofi_domain *)domain;
}

static inline struct ofi_conn *ofi_conn(struct conn *conn)
{
	return (struct ofi_conn *)conn;
}

static inline struct ofi_domain *conn_domain(const struct ofi_conn *c)
{
	return (struct ofi_domain *)c->conn.domain;
}

static inline const char *ofi_provider(const struct ofi_domain *d)
{
	return d->nic.info->fabric_attr->prov_name;
}

/* A region as the engine's lkey has it. */
struct ofi_mr {
	struct fid_mr *fid;
	void *desc;
};

static inline const struct ofi_mr *ofi_mr(uint64_t lkey)
{
	return (const struct ofi_mr *)(uintptr_t)lkey;
}

/* All that was in the completion queue at that mark has been read; no queue holds as many as the second
 * says. */
static inline bool ofi_is_read(const struct ofi_domain *d, const struct ofi_mark *mark)
{
	return d->read.empty - mark->empty >= (d->nic.rxm ? 4 : 1) ||
	       d->read.taken - mark->taken > 1u << 17;
}

/* ofi_options.c */
int ofi_options_parse(const char *text, struct ofi_options *options, struct pg_error *err);

/* ofi_choose.c */
/* The NIC that device names, or the index-th of the best provider. */
int ofi_choose(const struct libfabric *lib, const struct ofi_options *options, const char *device,
	       unsigned index, struct ofi_nic *nic, struct pg_error *err);

/* Of the n-th provider that we know, also where it is not there. */
const char *ofi_provider_name(unsigned n);

/* ofi_endpoint.c */
/* receives: it takes messages. */
int ofi_endpoint_open(struct ofi_domain *d, bool receives, struct ofi_endpoint **endpoint,
		      struct pg_error *err);
/* A connection has no use for it any more; the last one closes it. */
void ofi_endpoint_leave(struct ofi_domain *d, struct ofi_endpoint *e);
/* Whether it was closed and all completions of it have been read. */
bool ofi_endpoint_is_quiet(const struct ofi_domain *d, const struct ofi_endpoint *e);
/* Ends what was in flight on closed endpoints, and forgets those that nobody refers to. */
void ofi_endpoints_tidy(struct ofi_domain *d);
/* Whether reading on would let it do more of that. */
bool ofi_endpoints_wait(const struct ofi_domain *d);
/* All that are left. */
void ofi_endpoints_free(struct ofi_domain *d);
/* Posts a receive once more, if its endpoint is open; false: later. */
bool ofi_receive_again(struct ofi_receive *r);

/* ofi_strangers.c */
struct ofi_strangers {
	struct ofi_stranger {
		int fd;
		ino_t socket;
	} *all;
	size_t n;
};

/* Before an endpoint of tcp is closed, with the domain locked; */
void ofi_strangers_leave(const struct ofi_domain *d, const struct ofi_endpoint *e,
			 struct ofi_strangers *s);
/* after it. */
void ofi_strangers_close(struct ofi_strangers *s);

/* ofi_address.c, with the domain locked */
int ofi_address_take(struct ofi_domain *d, const uint8_t *name, uint32_t len,
		     struct ofi_address **address, struct pg_error *err);
/* NULL is none. */
void ofi_address_leave(struct ofi_domain *d, struct ofi_address *address);
/* All that are left, before the address vector is closed. */
void ofi_addresses_free(struct ofi_domain *d);

/* ofi_conn.c */
int ofi_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		  struct pg_error *err);
int ofi_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err);
void ofi_conn_stop(struct conn *conn);
void ofi_conn_fence(struct conn *conn);
void ofi_conn_close(struct conn *conn);
/* NULL: there is no such connection any more. */
struct ofi_conn *ofi_conn_find(const struct ofi_domain *d, uint32_t tag);
/* It is broken: posts are refused. */
void ofi_conn_break(struct ofi_conn *c, int status);
/* There may be something to tell of it. */
void ofi_news(struct ofi_conn *c);

/* ofi_post.c */
int ofi_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
void ofi_flush(struct conn *conn);
void ofi_describe(const struct conn *conn, char *buf, size_t size);
/* It has ended; whoever waits for it will be told. */
void ofi_send_ended(struct ofi_domain *d, struct ofi_send *send, int status);
void ofi_send_free(struct ofi_domain *d, struct ofi_send *send);
/* Sends the immediates that placed writes owe, as far as they are taken. */
void ofi_pay(struct ofi_domain *d);

/* ofi_poll.c */
unsigned ofi_poll(struct domain *domain, struct arrival *arrivals, unsigned max, unsigned max_msgs);
bool ofi_arm(struct domain *domain, bool sleep);

/* ofi_link.c: whether the port of a NIC is up */
int ofi_link_open(struct ofi_domain *d, struct pg_error *err);
void ofi_link_close(struct ofi_domain *d);
/* Readable when it may have changed; -1: it has to be looked at. */
int ofi_link_fd(const struct ofi_domain *d);
/* Looks, if it is time for that; domain->down says what was seen last. */
void ofi_link_look(struct ofi_domain *d);
/* It is down for good. */
void ofi_link_lost(struct ofi_domain *d);

/* ofi_memory.c */
int ofi_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
	       struct pg_error *err);
void ofi_mr_dereg(struct domain *domain, uint64_t lkey);
/* Registers memory of our own. */
int ofi_reg_own(struct ofi_domain *d, void *base, size_t len, uint64_t access, struct fid_mr **mr,
		struct pg_error *err);

/* Of what a call of libfabric returned: -errno, and a sentence. */
int ofi_refused(const struct ofi_domain *d, const char *what, int rc, struct pg_error *err);

#endif
