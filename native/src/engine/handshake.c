/* SPDX-License-Identifier: MIT
 *
 * HELLO carries the token of the one it is for, the address of the one it is from and its halves of
 * the connections. Who gets a HELLO from a peer it has not greeted answers with its own; who has
 * greeted already (both did at once) needs no answer: the crossing HELLO is one. Whichever comes
 * first is attached, the rest is ignored.
 */
#include "engine/handshake.h"

#include <errno.h>
#include <string.h>

#include "engine/memory.h"
#include "engine/peer.h"

/* ---- Form ---- */

static void put(struct control_msg *msg, const void *data, size_t len)
{
	/* The largest message is a HELLO of MAX_CONNS offers and an address: see the assertion
	 * below. */
	memcpy(msg->data + msg->len, data, len);
	msg->len += (uint32_t)len;
}

_Static_assert(16 + 4 + PG_ADDR_MAX + MAX_CONNS * (4 + OFFER_BYTES) <= CONTROL_MAX, "a HELLO fits");

static void put_offer(struct control_msg *msg, const struct offer *o)
{
	put(msg, &o->len, sizeof(o->len));
	put(msg, &o->n_fds, sizeof(o->n_fds));
	put(msg, o->bytes, o->len);
	memcpy(msg->fds + msg->n_fds, o->fds, o->n_fds * sizeof(int));
	msg->n_fds = (uint16_t)(msg->n_fds + o->n_fds);
}

struct reader {
	const struct control_msg *msg;
	uint32_t pos;
	uint32_t fd;
};

/* NULL: the message ends before. */
static const void *get(struct reader *r, size_t len)
{
	const void *at = r->msg->data + r->pos;

	if (len > r->msg->len - r->pos)
		return NULL;
	r->pos += (uint32_t)len;
	return at;
}

static bool get_offer(struct reader *r, struct offer *o, pid_t pid)
{
	const void *len = get(r, sizeof(o->len)), *n_fds = get(r, sizeof(o->n_fds)), *bytes;

	if (!len || !n_fds)
		return false;
	memset(o, 0, sizeof(*o));
	memcpy(&o->len, len, sizeof(o->len));
	memcpy(&o->n_fds, n_fds, sizeof(o->n_fds));
	o->pid = pid;
	if (o->len > OFFER_BYTES || o->n_fds > OFFER_FDS || o->n_fds > r->msg->n_fds - r->fd)
		return false;
	bytes = get(r, o->len);
	if (!bytes)
		return false;
	memcpy(o->bytes, bytes, o->len);
	memcpy(o->fds, r->msg->fds + r->fd, o->n_fds * sizeof(int));
	r->fd += o->n_fds;
	return true;
}

/* ---- HELLO ---- */

static int send_hello(struct pg_group *g, struct stream *s, struct peer *p, enum control_type type)
{
	struct control_msg msg = { .type = (uint16_t)type };
	uint8_t addr[PG_ADDR_MAX];
	size_t len = sizeof(addr);
	uint16_t addr_len, n = (uint16_t)p->n_conns;
	int rc = net_addr_encode(&g->addr, addr, &len);

	if (rc)
		return rc;
	addr_len = (uint16_t)len;
	put(&msg, p->addr.token, sizeof(p->addr.token));
	put(&msg, &addr_len, sizeof(addr_len));
	put(&msg, addr, len);
	put(&msg, &n, sizeof(n));
	for (unsigned k = 0; k < p->n_conns; k++)
		put_offer(&msg, &p->offers[k]);
	return control_send(s, &msg);
}

/* From KNOWN to CONNECTING. */
static int greet(struct pg_group *g, struct stream *s, struct peer *p, enum control_type type)
{
	struct pg_error err = { 0 };
	int rc;

	s->peer = p;
	p->stream = s;
	peer_set_state(p, PEER_CONNECTING);
	g->handshakes++;
	rc = peer_open_conns(g, p, &err);
	if (rc) {
		peer_down(g, p, rc, "cannot connect: %s", err.text);
		return rc;
	}
	rc = send_hello(g, s, p, type);
	if (rc)
		peer_down(g, p, -EHOSTDOWN, "cannot say hello: %s", strerror(-rc));
	return rc;
}

void handshake_start(struct pg_group *g, struct peer *p)
{
	struct stream *s;
	int rc = control_connect(g, p->addr.control, &s);

	if (rc == -EAGAIN)
		return;
	if (rc) {
		peer_down(g, p, rc == -ECONNREFUSED ? -EHOSTDOWN : rc, "cannot connect to @%s: %s",
			  p->addr.control,
			  rc == -ECONNREFUSED
				  ? "nobody answers; it has ended, or is on another host"
				  : strerror(-rc));
		return;
	}
	if (greet(g, s, p, CONTROL_HELLO))
		control_close(g, s);
}

static int attach(struct pg_group *g, struct peer *p, const struct offer *offers)
{
	struct pg_error err = { 0 };

	for (unsigned k = 0; k < p->n_conns; k++) {
		int rc = p->conns[k]->domain->transport->conn_attach(p->conns[k], &offers[k], &err);

		if (rc) {
			peer_down(g, p, rc, "cannot connect over %s: %s", p->conns[k]->domain->name,
				  err.text);
			return rc;
		}
	}
	g->handshakes--;
	peer_set_state(p, PEER_UP);
	g->delivered = true; /* for those who wait for its state */
	return 0;
}

static bool parse_hello(struct pg_group *g, const struct control_msg *msg, pid_t pid,
			struct net_addr *from, struct offer *offers, unsigned *n_offers)
{
	struct reader r = { .msg = msg };
	const void *token = get(&r, sizeof(g->addr.token)), *field = get(&r, sizeof(uint16_t)),
		   *addr;
	uint16_t addr_len, n;

	if (!token || !field || memcmp(token, g->addr.token, sizeof(g->addr.token)))
		return false;
	memcpy(&addr_len, field, sizeof(addr_len));
	addr = get(&r, addr_len);
	field = get(&r, sizeof(n));
	if (!addr || !field || net_addr_decode(addr, addr_len, from, NULL))
		return false;
	memcpy(&n, field, sizeof(n));
	if (n > MAX_CONNS)
		return false;
	for (unsigned k = 0; k < n; k++)
		if (!get_offer(&r, &offers[k], pid))
			return false;
	*n_offers = n;
	return r.pos == msg->len && r.fd == msg->n_fds;
}

static int take_hello(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct offer offers[MAX_CONNS];
	struct net_addr from;
	struct peer *p;
	unsigned n;
	int rc;

	if (!parse_hello(g, msg, s->pid, &from, offers, &n))
		return -EPROTO;
	rc = peer_of_addr(g, &from, &p, NULL);
	if (rc)
		return rc;
	if ((s->peer && s->peer != p) || !peer_alive(p))
		return -EPROTO;
	s->peer = p;
	if (peer_state(p) == PEER_UP)
		return 0;
	if (peer_state(p) == PEER_KNOWN) {
		rc = greet(g, s, p, CONTROL_HELLO_REPLY);
		if (rc)
			return rc;
	}
	if (n != p->n_conns) {
		peer_down(g, p, -EPROTO, "offers %u connections, %u expected", n, p->n_conns);
		return -EPROTO;
	}
	peer_watch_process(g, p, s->pid);
	return attach(g, p, offers);
}

/* ---- Regions ---- */

struct map_request {
	uint64_t cookie;
	uint64_t region;
	uint32_t generation;
	uint32_t zero;
};

struct map_reply {
	uint64_t cookie;
	int32_t status;
	uint32_t zero;
};

void handshake_ask(struct pg_group *g, struct rmr *rmr)
{
	struct map_request ask = { .cookie = handle_of(&rmr->h),
				   .region = rmr->desc.region,
				   .generation = rmr->desc.generation };
	struct control_msg msg = { .type = CONTROL_MAP };

	put(&msg, &ask, sizeof(ask));
	/* A peer that does not read is asked again in the next turn. */
	if (control_send(rmr->peer->stream, &msg) == 0) {
		g->handshakes++;
		rmr_set_state(rmr, RMR_ASKED);
	}
}

static int take_map(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct reader r = { .msg = msg };
	const void *field = get(&r, sizeof(struct map_request));
	struct control_msg reply = { .type = CONTROL_MAPPED };
	struct map_reply head = { 0 };
	struct map_request ask;
	struct offer offer = { 0 };

	if (!field || !s->peer)
		return -EPROTO;
	memcpy(&ask, field, sizeof(ask));
	head.cookie = ask.cookie;
	head.status = memory_export(g, ask.region, ask.generation, &offer);
	put(&reply, &head, sizeof(head));
	if (!head.status)
		put_offer(&reply, &offer);
	return control_send(s, &reply);
}

static int take_mapped(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct reader r = { .msg = msg };
	const void *field = get(&r, sizeof(struct map_reply));
	struct map_reply head;
	struct offer offer;
	struct rmr *rmr;
	int rc;

	if (!field)
		return -EPROTO;
	memcpy(&head, field, sizeof(head));
	if (!head.status && !get_offer(&r, &offer, s->pid))
		return -EPROTO;
	rmr = handles_get(&g->rmrs, head.cookie, &rc);
	if (!rmr || rmr->peer != s->peer || rmr_state(rmr) != RMR_ASKED)
		return rmr ? -EPROTO : 0; /* released meanwhile */
	g->handshakes--;
	rmr_mapped(g, rmr, head.status, &offer);
	return 0;
}

/* ---- The end ---- */

static int take_bye(struct pg_group *g, struct stream *s)
{
	if (s->peer)
		peer_down(g, s->peer, -EHOSTDOWN, "it said goodbye");
	return -EPIPE;
}

void handshake_bye(struct pg_group *g)
{
	while (!list_empty(&g->streams)) {
		struct stream *s = LIST_ENTRY(g->streams.next, struct stream, link);
		struct control_msg msg = { .type = CONTROL_BYE };

		control_send(s, &msg); /* best effort: the hang-up says nearly as much */
		control_close(g, s);
	}
}

void handshake_hangup(struct pg_group *g, struct stream *s, int status)
{
	if (s->peer)
		peer_down(g, s->peer, status == -EPROTO ? -EPROTO : -EHOSTDOWN, "%s",
			  status == -EPROTO
				  ? "sent something that is no control message"
				  : "its control connection closed: it ended without a goodbye");
}

int handshake_message(struct pg_group *g, struct stream *s, struct control_msg *msg)
{
	int rc;

	switch (msg->type) {
	case CONTROL_HELLO:
	case CONTROL_HELLO_REPLY:
		rc = take_hello(g, s, msg);
		break;
	case CONTROL_MAP:
		rc = take_map(g, s, msg);
		break;
	case CONTROL_MAPPED:
		rc = take_mapped(g, s, msg);
		break;
	case CONTROL_BYE:
		return take_bye(g, s);
	default:
		rc = -EPROTO;
	}
	if (rc)
		handshake_hangup(g, s, rc == -EPROTO ? rc : -EPIPE);
	return rc;
}
