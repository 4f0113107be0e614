/* SPDX-License-Identifier: MIT
 *
 * The seam between the engine and how bytes move.
 *
 * A transport is one table of functions, one line in registry.c and one file or folder. It moves
 * work requests (WRs) over connections and reports arrivals; splitting, counting, fairness,
 * deadlines and completion are the engine's. It never calls the engine.
 *
 * Threads: the engine calls post, flush, poll, arm and the conn_* functions of one domain under one
 * lock, never concurrently. mr_* may come from any thread at any time, concurrently with those.
 * Errors: 0 or -errno; on failure the sentence is in err (which may be NULL).
 */
#ifndef PGCTL_TRANSPORT_H
#define PGCTL_TRANSPORT_H

#include <sys/types.h>

#include "pgctl/engine.h"

#define OFFER_BYTES 128
#define OFFER_FDS 3
#define DOMAIN_ADDR_MAX 64

/* What one side sends the other to make a connection or to share a region: bytes and file
 * descriptors. The fds of a received offer belong to the engine, which closes them after the call.
 * An offer that a transport fills holds fds that stay the transport's; the engine does not close
 * them. */
struct offer {
	uint16_t len;
	uint16_t n_fds;
	pid_t pid; /* of a received offer: its sender, as the kernel says; 0 if unknown */
	uint8_t bytes[OFFER_BYTES];
	int fds[OFFER_FDS];
};

/* A local region, made by the engine. */
struct memory {
	void *base;
	uint64_t len;
	int fd;          /* sealed memfd of engine-owned memory, else -1 */
	uint64_t fd_len; /* its size: len rounded up to pages */
};

/* An open NIC. Transports embed it first in their own. */
struct domain {
	const struct transport *transport;
	struct pg_caps caps;
	struct pg_nic_stats stats; /* the engine's: of connections that are closed */
	int fd;         /* readable when something may have arrived after arm; -1: none */
	int nic_fd;     /* readable when there may be news of the NIC; 0: fd says that as well */
	unsigned index; /* in its group, 0..PG_MAX_DOMAINS-1 */
	uint32_t rail;  /* NICs of one rail prefer each other; 0: none is known */
	char name[32];  /* for people: "shm0", "mlx5_0:1" */
	/* What is often wrong when a peer's NIC does not answer, although its control stream does: "; is
	 * ...?", to end a sentence. NULL: nothing to say. */
	const char *if_silent;
};

/* One domain's connection to one domain of a peer; both directions. Transports embed it first. */
struct conn {
	struct domain *domain;
	void *owner; /* the engine's, as are: */
	unsigned slot;
	struct pg_nic_stats stats;
	char note[128]; /* how it reaches memory, for people; set by conn_attach */
	/* The longest WR to memory that is not mapped here, <= caps.max_write; by conn_attach. */
	uint64_t max_unmapped;
	/* The transport's: it is not worth while to post writes until this is false again. One that
	 * never sets it refuses them one by one. */
	bool full;
};

enum wr_op {
	WR_WRITE,     /* payload only */
	WR_WRITE_IMM, /* payload, then the immediate; len 0 and no region is a bare immediate */
	WR_SEND, /* a message; those of one connection arrive in the order of posting, always */
};

struct wr {
	uint8_t op;   /* enum wr_op */
	uint32_t imm; /* as on the wire: two bits k-1, 30 bits identifier */
	uint64_t id;  /* comes back in ARRIVAL_DONE; unused when caps.sync_post */
	const void *src;
	uint64_t len;
	uint64_t lkey;
	uint64_t raddr; /* in the owner's address space, */
	uint64_t rbase; /* where its region begins there */
	uint64_t rkey;
	void *mapped; /* raddr as mapped here by mr_import, else NULL */
};

enum arrival_kind {
	ARRIVAL_IMM, /* count writes with immediate imm are visible */
	ARRIVAL_MSG, /* data, len; valid until the next poll of the domain */
	ARRIVAL_DONE, /* the WR named id has ended with status; -ECONNABORTED: its connection broke or
			 was stopped, and it may be sent again elsewhere; others: its own fault */
	ARRIVAL_DEAD,    /* the connection broke: status */
	ARRIVAL_STOPPED, /* the last of what conn_stop has begun */
	ARRIVAL_FENCED, /* the last of all: nothing of the connection lands or is reported any more */
	ARRIVAL_NIC,    /* the domain's NIC came up (status 0) or went down (why); conn is NULL */
};

struct arrival {
	uint32_t kind;
	int32_t status; /* of DONE, DEAD and NIC; the others leave it alone */
	struct conn *conn;
	uint64_t id;
	const void *data;
	uint32_t len;
	uint32_t imm;
	uint32_t count;
};

struct domain_options {
	const char *device;  /* "" : choose */
	const char *options; /* the transport's own, NULL or "": none are given */
	unsigned index;
	int32_t cpu; /* pin own threads; -1: not */
	uint32_t link_mbit_s;
	uint32_t max_peers;
	bool async; /* the group has a worker: a domain with index > 0 may move bytes on a thread of
		       its own */
};

struct transport {
	const char *name;

	/* Can this machine run it at all? Fills caps. -ENODEV with the reason. */
	int (*query)(struct pg_caps *caps, struct pg_error *err);

	int (*open)(const struct domain_options *options, struct domain **domain,
		    struct pg_error *err);
	/* Every connection and region is gone by now. */
	void (*close)(struct domain *domain);

	/* Up to DOMAIN_ADDR_MAX bytes that go into the NetAddr; may be empty. */
	int (*address)(struct domain *domain, uint8_t *buf, size_t *len);

	/* Registers memory. key goes into the MrDesc and comes back as wr.rkey at the writer; lkey
	 * is for wr.lkey. */
	int (*mr_reg)(struct domain *domain, const struct memory *memory, uint64_t *lkey,
		      uint64_t *key, struct pg_error *err);
	void (*mr_dereg)(struct domain *domain, uint64_t lkey);

	/* Only with caps.maps_peer. Owner: describes memory to peers, or -ENOTSUP if this memory is
	 * not mapped but reached through raddr and rkey. Writer: maps it; checks everything it is
	 * told. */
	int (*mr_export)(struct domain *domain, const struct memory *memory, struct offer *offer);
	int (*mr_import)(struct domain *domain, const struct offer *offer, uint64_t len,
			 void **mapped, struct pg_error *err);
	void (*mr_unimport)(struct domain *domain, void *mapped, uint64_t len);

	/* Makes our half of a connection and the offer for the other half. The offer can be asked
	 * for only once but stays valid until conn_attach has returned. */
	int (*conn_open)(struct domain *domain, struct conn **conn, struct offer *offer,
			 struct pg_error *err);
	/* Takes the peer's offer; from here WRs can be posted. It is hostile until checked. */
	int (*conn_attach)(struct conn *conn, const struct offer *offer, struct pg_error *err);
	/* Only with caps.can_fence, in this order, each once; neither blocks. A WR that ends with
	 * -ECONNABORTED may not be placed, be placed, be placed and counted, or be placed and counted
	 * later, until the peer has fenced its half.
	 * stop: nothing is posted any more, and all that was posted ends; then ARRIVAL_STOPPED. What
	 * the peer sends is still reported.
	 * fence: the peer's half has stopped. What it had sent with success is reported; then
	 * ARRIVAL_FENCED, after which nothing that it has sent lands or is reported. */
	void (*conn_stop)(struct conn *conn);
	void (*conn_fence)(struct conn *conn);
	/* Stops and forgets it; on return no thread of the transport reads or writes for it. */
	void (*conn_close)(struct conn *conn);

	/* Posts up to n WRs in order; returns how many (> 0); -EAGAIN: no credit for the first;
	 * another -errno: the first cannot be done, with the reason, and nothing was posted. A
	 * posted WR ends in one ARRIVAL_DONE, or has ended well already when caps.sync_post. With
	 * equal immediates in a row a transport may put them into one arrival with a count. */
	int (*post)(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
	/* Makes what was posted visible (doorbell). May be called with nothing posted. */
	void (*flush)(struct conn *conn);
	/* Whether all that has been posted, and has ended, is in the peer's memory. *mark is 0 at first
	 * and kept by the caller, so that what is posted later does not count; its highest bit is left
	 * to a decorator. Absent: what has ended is there. */
	bool (*visible)(struct conn *conn, uint64_t *mark);
	/* For people: what it waits for. Absent: nothing to say. */
	void (*describe)(const struct conn *conn, char *buf, size_t size);

	/* Takes up to max arrivals, at most max_msgs of them messages. Never blocks. */
	unsigned (*poll)(struct domain *domain, struct arrival *arrivals, unsigned max,
			 unsigned max_msgs);

	/* true: asks for fd to become readable at the next arrival or returned credit; true when it
	 * is safe to sleep, false when something is there already: poll again. false: stop asking,
	 * and drain fd. */
	bool (*arm)(struct domain *domain, bool sleep);
};

/* registry.c */
const struct transport *transport_at(unsigned i);
const struct transport *transport_find(const char *name);

extern const struct transport transport_shm;
extern const struct transport transport_verbs;
extern const struct transport transport_ofi;

/* impaired/: opens a domain of transport that misbehaves as spec says, which is not empty; grammar in
 * pg_impair_check. Its table and its capabilities are its own. */
int impaired_open(const struct transport *transport, const char *spec, uint64_t seed,
		  const struct domain_options *options, struct domain **domain,
		  struct pg_error *err);

#endif
