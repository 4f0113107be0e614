/* SPDX-License-Identifier: MIT */
#include "bare_nic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/peer.h"
#include "util/error.h"

#define CONNS 64
#define QUEUE 64
#define LOOK_AT 4096 /* bytes of a payload */

struct bare_conn {
	struct conn conn;
	bool attached;
	bool broken;
	bool stopping; /* the engine has called conn_stop, */
	bool stopped;  /* knows that it has stopped, */
	bool fencing;  /* has called conn_fence, */
	bool fenced;   /* and knows that it is */
};

struct queued {
	struct arrival arrival;
	bool ended; /* of what may be late: it is not any more */
};

struct bare_lane {
	struct domain domain;
	struct bare_conn *conns[CONNS];
	unsigned n_conns;
	struct queued queue[QUEUE + 2 * CONNS]; /* each connection can stop and be fenced */
	unsigned n_queued;
};

static unsigned caps_bits;
static int post_status;
static bool post_room = true;
static bool all_late;

static struct bare_lane *lane_of(struct domain *domain)
{
	return (struct bare_lane *)domain;
}

/* ---- The registry --------------------------------------------------------------------------- */

extern const struct transport transport_bare;

static const struct transport *const transports[] = { &transport_bare, &transport_shm };

#define N_TRANSPORTS (sizeof(transports) / sizeof(transports[0]))

const struct transport *transport_at(unsigned i)
{
	return i < N_TRANSPORTS ? transports[i] : NULL;
}

const struct transport *transport_find(const char *name)
{
	for (unsigned i = 0; i < N_TRANSPORTS; i++) {
		if (!strcmp(transports[i]->name, name))
			return transports[i];
	}
	return NULL;
}

/* ---- What the target says ------------------------------------------------------------------- */

void bare_nic_caps(unsigned caps)
{
	caps_bits = caps;
	bare_nic_answers(0, true, false);
}

void bare_nic_answers(int status, bool room, bool late)
{
	post_status = status;
	post_room = room;
	all_late = late;
}

static void enqueue(struct bare_lane *lane, struct arrival arrival)
{
	lane->queue[lane->n_queued++] = (struct queued){ .arrival = arrival };
}

static bool can_be_late(const struct queued *q)
{
	return q->arrival.kind == ARRIVAL_DONE || q->arrival.kind == ARRIVAL_STOPPED ||
	       q->arrival.kind == ARRIVAL_FENCED;
}

static bool is_late(const struct queued *q)
{
	return all_late && can_be_late(q) && !q->ended;
}

static void end(struct queued *q, int status)
{
	q->ended = true;
	if (q->arrival.kind == ARRIVAL_DONE)
		q->arrival.status = status;
}

void bare_nic_ends(struct domain *domain, unsigned n, int status)
{
	struct bare_lane *lane = lane_of(domain);
	unsigned late = 0;

	for (unsigned i = 0; i < lane->n_queued; i++)
		late += is_late(&lane->queue[i]);
	n = late ? n % late : 0;
	for (unsigned i = 0; i < lane->n_queued; i++) {
		if (is_late(&lane->queue[i]) && n-- == 0) {
			end(&lane->queue[i], status);
			return;
		}
	}
}

/* Nothing more will come of what it carries. */
static void abort_work(struct bare_lane *lane, const struct conn *conn)
{
	for (unsigned i = 0; i < lane->n_queued; i++) {
		struct queued *q = &lane->queue[i];

		if (q->arrival.conn == conn && q->arrival.kind == ARRIVAL_DONE && !q->ended)
			end(q, -ECONNABORTED);
	}
}

void bare_nic_says(struct domain *domain, unsigned n, struct arrival arrival)
{
	struct bare_lane *lane = lane_of(domain);
	struct bare_conn *c = lane->n_conns ? lane->conns[n % lane->n_conns] : NULL;
	bool of_nic = arrival.kind == ARRIVAL_NIC;

	if (lane->n_queued >= QUEUE || (!of_nic && (!c || !c->attached || c->fencing)))
		return;
	if (arrival.kind == ARRIVAL_DEAD) {
		if (c->broken)
			return;
		c->broken = true;
		abort_work(lane, &c->conn);
	}
	arrival.conn = of_nic ? NULL : &c->conn;
	enqueue(lane, arrival);
}

/* ---- The transport -------------------------------------------------------------------------- */

static int bare_query(struct pg_caps *caps, struct pg_error *err)
{
	(void)err;
	*caps = (struct pg_caps){
		.max_write = caps_bits & BARE_SHORT ? 16 : 1 << 20,
		.max_msg = PG_MSG_MAX,
		.max_outstanding = QUEUE,
		.imm_bits = 32,
		.split_min = 32,
		.ordered = caps_bits & BARE_ORDERED,
		.reports_source = caps_bits & BARE_SOURCES,
		.can_fence = caps_bits & BARE_FENCES,
		.placement_once = true,
		.sync_post = caps_bits & BARE_SYNC,
		.maps_peer = caps_bits & BARE_MAPS,
		.exact_failure = caps_bits & BARE_EXACT,
		.reaches_hosts = true,
	};
	return 0;
}

static int bare_open(const struct domain_options *options, struct domain **domain,
		     struct pg_error *err)
{
	struct bare_lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return error_set(err, -ENOMEM, "no memory for a NIC");
	lane->domain.transport = &transport_bare;
	lane->domain.index = options->index;
	lane->domain.fd = -1;
	bare_query(&lane->domain.caps, err);
	snprintf(lane->domain.name, sizeof(lane->domain.name), "bare%u", options->index);
	*domain = &lane->domain;
	return 0;
}

static void bare_close(struct domain *domain)
{
	if (lane_of(domain)->n_conns)
		abort();
	free(domain);
}

static int bare_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	(void)domain;
	(void)buf;
	*len = 0;
	return 0;
}

static int bare_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey,
		       uint64_t *key, struct pg_error *err)
{
	(void)domain;
	(void)memory;
	(void)err;
	*lkey = *key = 1;
	return 0;
}

static void bare_mr_dereg(struct domain *domain, uint64_t lkey)
{
	(void)domain;
	(void)lkey;
}

static void make_offer(struct offer *offer)
{
	*offer = (struct offer){ .len = 1, .bytes = { BARE_GOOD } };
}

static int check_offer(const struct offer *offer, struct pg_error *err)
{
	if (offer->len != 1 || offer->n_fds || offer->bytes[0] == BARE_FORGED)
		return error_set(err, -EPROTO, "no offer of a bare NIC");
	if (offer->bytes[0] == BARE_UNREACHABLE)
		return error_set(err, -ENETUNREACH, "no cable");
	return 0;
}

static int bare_mr_export(struct domain *domain, const struct memory *memory, struct offer *offer)
{
	(void)domain;
	(void)memory;
	make_offer(offer);
	return 0;
}

/* Of its size, as shm may be a NIC of the same group; and a sanitizer sees if it is not given back. */
static int bare_mr_import(struct domain *domain, const struct offer *offer, uint64_t len,
			  void **mapped, struct pg_error *err)
{
	int rc = check_offer(offer, err);

	(void)domain;
	if (!rc && !(*mapped = malloc(len)))
		rc = error_set(err, -ENOMEM, "no memory for a region");
	return rc;
}

static void bare_mr_unimport(struct domain *domain, void *mapped, uint64_t len)
{
	(void)domain;
	(void)len;
	free(mapped);
}

static int bare_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
			  struct pg_error *err)
{
	struct bare_lane *lane = lane_of(domain);
	struct bare_conn *c = lane->n_conns < CONNS ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return error_set(err, -ENOSPC, "all connections are in use");
	c->conn.domain = domain;
	lane->conns[lane->n_conns++] = c;
	make_offer(offer);
	*conn = &c->conn;
	return 0;
}

static int bare_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct bare_conn *c = (struct bare_conn *)conn;
	int rc = check_offer(offer, err);

	if (c->attached)
		abort();
	c->attached = !rc;
	conn->max_unmapped = conn->domain->caps.max_write;
	return rc;
}

/* The engine calls these in this order, each once. */
static void bare_conn_stop(struct conn *conn)
{
	struct bare_conn *c = (struct bare_conn *)conn;

	if (!conn->domain->caps.can_fence || !c->attached || c->stopping)
		abort();
	c->stopping = true;
	abort_work(lane_of(conn->domain), conn);
	enqueue(lane_of(conn->domain), (struct arrival){ .kind = ARRIVAL_STOPPED, .conn = conn });
}

static void bare_conn_fence(struct conn *conn)
{
	struct bare_conn *c = (struct bare_conn *)conn;

	if (!c->stopped || c->fencing)
		abort();
	c->fencing = true;
	enqueue(lane_of(conn->domain), (struct arrival){ .kind = ARRIVAL_FENCED, .conn = conn });
}

/* One that is stopped is fenced before, as long as its peer lives. */
static void bare_conn_close(struct conn *conn)
{
	const struct bare_conn *c = (const struct bare_conn *)conn;
	struct bare_lane *lane = lane_of(conn->domain);
	unsigned n = 0, i = 0;

	if (c->stopping && !c->fenced && peer_alive(conn->owner))
		abort();
	for (unsigned k = 0; k < lane->n_queued; k++) {
		if (lane->queue[k].arrival.conn != conn)
			lane->queue[n++] = lane->queue[k];
	}
	lane->n_queued = n;
	while (&lane->conns[i]->conn != conn)
		i++;
	lane->conns[i] = lane->conns[--lane->n_conns];
	free(conn);
}

/* Payload must be readable, by a NIC as by us. */
static void look_at(const struct wr *wr)
{
	uint8_t bytes[LOOK_AT];
	uint64_t n = wr->len < sizeof(bytes) ? wr->len : sizeof(bytes);

	if (n)
		memcpy(bytes, wr->src, n);
}

static int bare_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct bare_lane *lane = lane_of(conn->domain);
	const struct bare_conn *c = (const struct bare_conn *)conn;
	bool sync = conn->domain->caps.sync_post;
	unsigned i = 0;

	if (!c->attached || c->stopping)
		abort();
	if (c->broken)
		return error_set(err, conn->domain->caps.can_fence ? -ECONNABORTED : -ECONNRESET,
				 "the connection is broken");
	if (sync && post_status)
		return error_set(err, post_status, "the NIC does not want it");
	for (; i < n && post_room && (sync || lane->n_queued < QUEUE); i++) {
		look_at(&wrs[i]);
		if (!sync)
			enqueue(lane, (struct arrival){ .kind = ARRIVAL_DONE,
							.status = post_status,
							.conn = conn,
							.id = wrs[i].id });
	}
	return i ? (int)i : -EAGAIN;
}

static void bare_flush(struct conn *conn)
{
	if (((const struct bare_conn *)conn)->stopping)
		abort();
}

/* The first of them are left in the queue: does a message of this connection have to go before? */
static bool has_message(const struct bare_lane *lane, unsigned left, const struct conn *conn)
{
	for (unsigned i = 0; i < left; i++)
		if (lane->queue[i].arrival.kind == ARRIVAL_MSG &&
		    lane->queue[i].arrival.conn == conn)
			return true;
	return false;
}

static unsigned bare_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
			  unsigned max_msgs)
{
	struct bare_lane *lane = lane_of(domain);
	unsigned n = 0, left = 0;

	for (unsigned i = 0; i < lane->n_queued; i++) {
		const struct queued *q = &lane->queue[i];
		const struct arrival *a = &q->arrival;
		bool msg = a->kind == ARRIVAL_MSG;

		if (n == max || (msg && !max_msgs) || is_late(q) ||
		    (a->kind == ARRIVAL_FENCED && has_message(lane, left, a->conn))) {
			lane->queue[left++] = *q;
			continue;
		}
		max_msgs -= msg;
		if (a->kind == ARRIVAL_STOPPED)
			((struct bare_conn *)a->conn)->stopped = true;
		if (a->kind == ARRIVAL_FENCED)
			((struct bare_conn *)a->conn)->fenced = true;
		arrivals[n++] = *a;
	}
	lane->n_queued = left;
	return n;
}

static bool bare_arm(struct domain *domain, bool sleep)
{
	return sleep && !lane_of(domain)->n_queued;
}

const struct transport transport_bare = {
	.name = "bare",
	.query = bare_query,
	.open = bare_open,
	.close = bare_close,
	.address = bare_address,
	.mr_reg = bare_mr_reg,
	.mr_dereg = bare_mr_dereg,
	.mr_export = bare_mr_export,
	.mr_import = bare_mr_import,
	.mr_unimport = bare_mr_unimport,
	.conn_open = bare_conn_open,
	.conn_attach = bare_conn_attach,
	.conn_stop = bare_conn_stop,
	.conn_fence = bare_conn_fence,
	.conn_close = bare_conn_close,
	.post = bare_post,
	.flush = bare_flush,
	.poll = bare_poll,
	.arm = bare_arm,
};
