/* SPDX-License-Identifier: MIT
 *
 * The parts of the decorator. A domain and a connection of it stand for one of the transport below,
 * whose conn->owner points back. Work requests wait here until their time, are posted below one by
 * one, and end with ARRIVAL_DONE; all of it happens in poll.
 *
 * A connection that breaks, or is stopped, gives each work request that waits here one of four fates:
 * lost; placed, not counted; placed and counted; landing late. All are told as -ECONNABORTED. Where
 * the transport below keeps order, they are one prefix that lands and a rest that does not.
 *
 * What lands late does so until our half is closed, as nothing tells us that the peer has fenced its
 * own: whoever sends it again closes our half first.
 */
#ifndef PGCTL_IMPAIRED_H
#define PGCTL_IMPAIRED_H

#include "transport/impaired/impaired_spec.h"
#include "transport/transport.h"
#include "util/list.h"

#define IMPAIRED_WRS 128
#define STASHED_MAX 64

enum work_state {
	WORK_QUEUED,
	WORK_POSTED, /* the transport below will say when it has ended */
	WORK_LANDED, /* and we hear of it when it is due */
	WORK_ENDED,  /* to be told */
	WORK_LATE,   /* was told, and lands when it is due */
	WORK_LANDING,
};

struct work {
	struct list link; /* in conn.works, in the order of posting, or free_works */
	struct wr wr;     /* whose id is its place in the pool */
	uint64_t id;
	uint64_t seq; /* its place in the order of posting */
	uint64_t due;
	enum work_state state;
	int32_t status;
	bool fails;    /* breaks the connection when it is due */
	bool late;     /* WORK_LATE once it was told */
	void *copy;    /* of the payload, as the source is the caller's again; or NULL */
	uint64_t lkey; /* of the copy, */
	bool has_lkey; /* if it has one */
};

struct impaired_conn {
	struct conn conn;
	struct conn *inner;
	struct list link; /* in domain.conns */
	struct list busy; /* in domain.busy while there is something to do */
	struct work pool[IMPAIRED_WRS];
	struct list works, free_works;
	uint64_t next_seq;
	unsigned in_flight;  /* posted to us and not told */
	unsigned n_messages; /* of those; no more than half, as nobody may take them */
	unsigned n_ended, n_late;
	int status; /* why it broke */
	bool attached;
	bool dirty;       /* posted to since the last flush below */
	bool blocked;     /* the transport below has no credit */
	bool no_messages; /* it has none for messages */
	bool dead;        /* it broke: nothing is posted any more, */
	bool told_dead;   /* which was told */
	bool stopping;
	bool stopped; /* told */
	bool fencing;
	bool fenced; /* told: nothing is reported any more */
};

/* A message that was taken, to see behind it, before there was room for it. */
struct stashed {
	struct list link;
	struct impaired_conn *conn;
	uint32_t len;
	uint8_t data[];
};

struct impaired_domain {
	struct domain domain;
	struct transport table;
	struct domain *inner;
	struct impair impair;
	uint64_t random;
	uint64_t cap_until; /* when all that was posted will have left under the cap */
	unsigned next_event;
	bool down;
	int timer;
	bool timer_runs;
	struct list conns, busy;
	struct list stash, handed; /* messages to be handed out; until the next poll */
	unsigned n_stashed, n_fencing;
	char text[PG_IMPAIR_MAX];
};

/* Where arrivals go. */
struct room {
	struct arrival *next;
	unsigned left;
};

static inline struct impaired_domain *impaired_domain(struct domain *domain)
{
	return LIST_ENTRY(domain, struct impaired_domain, domain);
}

static inline struct impaired_conn *impaired_conn(struct conn *conn)
{
	return LIST_ENTRY(conn, struct impaired_conn, conn);
}

static inline struct impaired_domain *conn_domain(const struct impaired_conn *c)
{
	return impaired_domain(c->conn.domain);
}

static inline void tell(struct room *room, struct arrival arrival)
{
	*room->next++ = arrival;
	room->left--;
}

/* impaired_conn.c: the queue. */
int impaired_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		       struct pg_error *err);
int impaired_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err);
void impaired_conn_close(struct conn *conn);
int impaired_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
void impaired_flush(struct conn *conn);
bool impaired_visible(struct conn *conn, uint64_t *mark);
void impaired_describe(const struct conn *conn, char *buf, size_t size);

/* For a loop over the works of a connection. */
static inline struct work *work_of(struct list *link)
{
	return LIST_ENTRY(link, struct work, link);
}

void work_end(struct impaired_conn *c, struct work *w, int status);
void work_free(struct impaired_conn *c, struct work *w);
/* Posts it below as op: 1, or -errno. */
int work_post(struct impaired_conn *c, struct work *w, enum wr_op op);
/* The transport below has ended it. */
void impaired_work_done(struct impaired_conn *c, uint64_t place, int status);
/* Posts what is due; tells what has ended. */
void impaired_serve(struct impaired_domain *d, uint64_t now, struct room *room);
/* When there will be something to post; UINT64_MAX: not known. */
uint64_t impaired_due(struct impaired_conn *c);
bool impaired_has_news(const struct impaired_conn *c);
void impaired_busy(struct impaired_conn *c);

/* impaired_break.c: the end of a connection. */
void impaired_break(struct impaired_conn *c, int status, uint64_t now);
void impaired_conn_stop(struct conn *conn);
void impaired_land(struct impaired_conn *c, uint64_t now);
struct work *impaired_next_late(struct impaired_conn *c);

/* impaired_poll.c: time, and what arrives. */
void impaired_start_clock(uint64_t now);
unsigned impaired_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
		       unsigned max_msgs);
bool impaired_arm(struct domain *domain, bool sleep);
void impaired_conn_fence(struct conn *conn);
void stash_drop(struct impaired_domain *d, const struct impaired_conn *c);

#endif
