/* SPDX-License-Identifier: MIT
 *
 * HELLO carries the token of the one it is for, the address of the one it is from, which of its NICs
 * it believes to reach which of the peer's, and its halves of the connections that follow from that.
 * Each side greets the other; it does not matter who comes first, nor if both do at once, nor if it
 * is said again.
 *
 * A side that knows of less reach than the other side said takes what both believe, pairs again
 * and greets again; so the two agree in the end, as reach only shrinks. Who has attached the halves
 * of a HELLO with the same reach says READY, and who is ready and has heard so is up: from then on
 * neither can have to pair again, and nothing that is posted gets lost.
 */
#include "engine/handshake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/endpoint.h"
#include "engine/failover.h"
#include "engine/fence.h"
#include "engine/form.h"
#include "engine/op.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/regions.h"
#include "util/log.h"

/* ---- HELLO ---- */

/* What the sender can do; behind the token. */
struct hello {
	uint32_t features; /* none yet; what the receiver does not know it may ignore */
	uint32_t max_msg;
	uint16_t reach;
	uint16_t addr_len;
	uint16_t n_offers;
	uint16_t
		unordered; /* offers of connections on which what is sent is not ordered, a bit each */
};

/* Before each offer: the NICs that it joins, as the sender sees them. */
struct joined {
	uint8_t local, remote;
};

_Static_assert(16 + sizeof(struct hello) + PG_ADDR_MAX +
			       PG_MAX_CONNS * (sizeof(struct joined) + 4 + OFFER_BYTES) <=
		       CONTROL_MAX,
	       "a HELLO fits");

struct greeting {
	struct hello head;
	struct net_addr from;
	struct joined joined[PG_MAX_CONNS];
	struct offer offers[PG_MAX_CONNS];
};

static int send_hello(struct pg_group *g, struct peer *p)
{
	struct control_msg msg = { .type = CONTROL_HELLO };
	struct hello head = { .max_msg = g->domains[0]->caps.max_msg,
			      .reach = p->reach,
			      .n_offers = (uint16_t)p->n_paths };
	uint8_t addr[PG_ADDR_MAX];
	size_t len = sizeof(addr);
	int rc = net_addr_encode(&g->addr, addr, &len);

	if (rc)
		return rc;
	head.addr_len = (uint16_t)len;
	for (unsigned k = 0; k < p->n_paths; k++)
		head.unordered |= (uint16_t)(!path_ordered(&p->paths[k]) << k);
	form_put(&msg, p->addr.token, sizeof(p->addr.token));
	form_put(&msg, &head, sizeof(head));
	form_put(&msg, addr, len);
	for (unsigned k = 0; k < p->n_paths; k++) {
		const struct path *path = &p->paths[k];
		struct joined j = { path->edge.local, path->edge.remote };

		if (path->offer.n_fds && !p->stream->local) {
			peer_down(g, p, -EHOSTUNREACH,
				  "%s does not leave this host, and it is on another, or in "
				  "another network namespace",
				  path->conn->domain->transport->name);
			return -EHOSTUNREACH;
		}
		form_put(&msg, &j, sizeof(j));
		form_put_offer(&msg, &path->offer);
	}
	return control_send(g, p->stream, &msg);
}

static bool parse_hello(struct pg_group *g, const struct control_msg *msg, pid_t pid,
			struct greeting *gr)
{
	struct reader r = { .msg = msg };
	const void *token = form_get(&r, sizeof(g->addr.token)), *addr;

	if (!token || memcmp(token, g->addr.token, sizeof(g->addr.token)) ||
	    !form_read(&r, &gr->head, sizeof(gr->head)) || gr->head.n_offers > PG_MAX_CONNS)
		return false;
	addr = form_get(&r, gr->head.addr_len);
	if (!addr || net_addr_decode(addr, gr->head.addr_len, &gr->from, NULL))
		return false;
	for (unsigned k = 0; k < gr->head.n_offers; k++)
		if (!form_read(&r, &gr->joined[k], sizeof(gr->joined[k])) ||
		    !form_get_offer(&r, &gr->offers[k], pid))
			return false;
	return form_at_end(&r);
}

/* ---- Connecting ---- */

/* Our HELLO with what we believe now, on the peer's stream. */
static int greet(struct pg_group *g, struct peer *p)
{
	struct pg_error err = { 0 };
	int rc;

	if (!p->n_paths) {
		p->attached = p->peer_ready = false;
		p->reach = paths_alive(g, p);
		rc = paths_open(g, p, &err);
		if (rc) {
			peer_down(g, p, rc, "cannot connect: %s", err.text);
			return rc;
		}
	}
	p->greeted = true;
	p->greeted_nics = g->nics;
	return send_hello(g, p);
}

static void connecting(struct pg_group *g, struct peer *p, struct stream *s)
{
	s->peer = p;
	p->stream = s;
	p->local = s->local;
	p->greeted = false;
	if (peer_state(p) == PEER_KNOWN) {
		peer_set_state(p, PEER_CONNECTING);
		g->handshakes++;
	}
}

/* Nobody answered at the way that was tried last. */
static void try_next_way(struct pg_group *g, struct peer *p, int status)
{
	char where[80];

	endpoint_describe(&p->addr, p->route, where, sizeof(where));
	log_info("%s: cannot connect to %s: %s", peer_name(p).text, where, strerror(-status));
	if (p->route++ < p->addr.n_hosts)
		return;
	peer_down(g, p, -EHOSTDOWN, "cannot connect to %s: %s", where,
		  status == -ECONNREFUSED ? "nobody answers; it has ended, or is on another host"
		  : status == -EPIPE      ? "closed without an answer: another engine is there now"
					  : strerror(-status));
}

/* The unix socket is for this host; for others it only costs a moment. */
static bool leads_nowhere(const struct pg_group *g, const struct peer *p)
{
	return p->route == 0 && p->addr.n_hosts &&
	       memcmp(p->addr.host, g->addr.host, sizeof(g->addr.host));
}

void handshake_start(struct pg_group *g, struct peer *p)
{
	struct stream *s;
	int rc;

	if (leads_nowhere(g, p))
		p->route = 1;
	rc = control_connect(g, &p->addr, p->route, &s);
	if (rc == -EAGAIN)
		return;
	if (rc) {
		try_next_way(g, p, rc);
		return;
	}
	connecting(g, p, s);
	greet(g, p);
}

/* A connection that cannot be made takes its cell from what both believe. */
static int pair_again(struct pg_group *g, struct peer *p, unsigned k, const struct pg_error *err)
{
	const char *nic = p->paths[k].conn->domain->name;

	log_warn("%s: cannot connect over %s to its NIC %u: %s", peer_name(p).text, nic,
		 path_remote(p, k), err->text);
	p->reach &= (pair_reach)~pair_cell(path_local(p, k), path_remote(p, k));
	if (!p->reach) {
		peer_down(g, p, err->code,
			  "cannot connect over %s, nor between any other NICs: %.120s", nic,
			  err->text);
		return -EHOSTUNREACH;
	}
	paths_close(g, p);
	return greet(g, p);
}

static int attach(struct pg_group *g, struct peer *p, const struct greeting *gr)
{
	for (unsigned k = 0; k < p->n_paths; k++) {
		struct pg_error err = { 0 };
		unsigned i = 0;
		int rc;

		while (i < gr->head.n_offers && (gr->joined[i].local != path_remote(p, k) ||
						 gr->joined[i].remote != path_local(p, k)))
			i++;
		if (i == gr->head.n_offers) {
			peer_down(g, p, -EPROTO, "offers no connection from its NIC %u to our %u",
				  path_remote(p, k), path_local(p, k));
			return -EPROTO;
		}
		rc = path_attach(g, &p->paths[k], &gr->offers[i], gr->head.unordered >> i & 1,
				 &err);
		if (rc == -EPROTO) {
			peer_down(g, p, rc, "cannot connect over %s: %s",
				  p->paths[k].conn->domain->name, err.text);
			return rc;
		}
		if (rc) {
			err.code = rc;
			return pair_again(g, p, k, &err);
		}
	}
	p->attached = true;
	peer_can_write(g, p);
	return 0;
}

static void up_if_ready(struct pg_group *g, struct peer *p)
{
	if (p->attached && p->peer_ready && peer_state(p) == PEER_CONNECTING) {
		peer_up(g, p);
		g->delivered = true; /* for those who wait for its state */
	}
}

static int say_ready(struct pg_group *g, struct peer *p)
{
	struct control_msg msg = { .type = CONTROL_READY };

	form_put(&msg, &p->reach, sizeof(p->reach));
	return control_send(g, p->stream, &msg);
}

static int take_hello(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct greeting gr;
	struct peer *p;
	pair_reach theirs;
	int rc;

	if (!parse_hello(g, msg, s->pid, &gr)) {
		log_warn("refused a HELLO that has not our token, or no form");
		return -EPROTO;
	}
	rc = peer_of_addr(g, &gr.from, &p, NULL);
	if (rc)
		return rc;
	if ((s->peer && s->peer != p) || !peer_alive(p)) {
		log_warn("refused a HELLO: %s is %s", peer_name(p).text,
			 peer_alive(p) ? "not who this stream was of" : "gone");
		return -EPROTO;
	}
	s->peer = p;
	if (peer_state(p) == PEER_UP)
		return 0;
	/* Answer where it was said, unless ours is on its way already. */
	if (!p->stream)
		connecting(g, p, s);
	theirs = pair_transpose(gr.head.reach);
	p->max_msg = gr.head.max_msg;
	if (p->reach & ~theirs) {
		p->reach &= theirs;
		paths_close(g, p);
		p->greeted = false;
	}
	if (!p->greeted && greet(g, p))
		return 0;
	if (theirs != p->reach || p->attached)
		return 0; /* it will greet again; or it has done so already */
	peer_watch_process(g, p, s->pid);
	if (attach(g, p, &gr) || !p->attached)
		return 0;
	if (say_ready(g, p) == 0)
		up_if_ready(g, p);
	return 0;
}

static int take_ready(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	pair_reach theirs;

	if (msg->len != sizeof(theirs))
		return -EPROTO;
	memcpy(&theirs, msg->data, sizeof(theirs));
	if (peer_state(p) != PEER_CONNECTING || pair_transpose(theirs) != p->reach)
		return 0;
	p->peer_ready = true;
	up_if_ready(g, p);
	return 0;
}

/* ---- The end ---- */

void handshake_bye(struct pg_group *g)
{
	struct control_msg msg = { .type = CONTROL_BYE };

	/* Best effort: the hang-up says nearly as much. */
	for (struct list *l = g->streams.next; l != &g->streams; l = l->next)
		control_send(g, LIST_ENTRY(l, struct stream, link), &msg);
}

void handshake_hangup(struct pg_group *g, struct stream *s, int status)
{
	struct peer *p = s->peer;

	if (!p)
		return;
	if (p->stream == s)
		p->stream = NULL;
	if (status == -EPROTONOSUPPORT) {
		peer_down(
			g, p, -EPROTO,
			"it speaks another wire version than ours, %d; the same is needed on both "
			"sides",
			PG_WIRE_VERSION);
	} else if (status == -EPROTO) {
		peer_down(g, p, -EPROTO, "sent something that is no control message");
	} else if (peer_state(p) == PEER_CONNECTING && !s->heard && !p->attached) {
		g->handshakes--;
		peer_set_state(p, PEER_KNOWN);
		try_next_way(g, p, status);
	} else if (status == -ENOBUFS) {
		peer_down(g, p, -EHOSTDOWN, "it does not read its control connection");
	} else if (status == -ENOSPC) {
		peer_down(g, p, -ENOBUFS, "no room for what of its split writes has half arrived");
	} else if (status == -ETIMEDOUT || status == -EHOSTUNREACH || status == -ENETUNREACH) {
		peer_down(g, p, -EHOSTDOWN, "its host does not answer any more: %s",
			  strerror(-status));
	} else {
		peer_down(g, p, -EHOSTDOWN,
			  "its control connection closed: it ended without a goodbye");
	}
}

static int take_bye(struct pg_group *g, struct peer *p)
{
	log_info("%s says goodbye", peer_name(p).text);
	peer_down(g, p, -EHOSTDOWN, "it said goodbye");
	return 0;
}

/* ---- Messages ---- */

static int take_from_peer(struct pg_group *g, struct stream *s, struct control_msg *msg)
{
	struct peer *p = s->peer;

	if (!p)
		return -EPROTO;
	peer_heard(g, p);
	if (!peer_alive(p)) /* it hangs up when we have, see peers_end */
		return 0;
	if (!p->stream) /* the one that we had was only one of two */
		p->stream = s;
	switch (msg->type) {
	case CONTROL_READY:
		return take_ready(g, p, msg);
	case CONTROL_MAP:
		return region_asked(g, s, msg);
	case CONTROL_MAPPED:
		return region_answered(g, s, msg);
	case CONTROL_UNMAP:
		return region_returned(g, p, msg);
	case CONTROL_REVOKE:
		return region_revoked(g, p, msg);
	case CONTROL_FENCE:
		return fence_asked(g, p, msg);
	case CONTROL_FENCED:
		return fence_answered(g, p, msg);
	case CONTROL_SETTLE:
		return op_settled(g, p, msg);
	case CONTROL_PATH:
		return path_message(g, p, msg, s->pid);
	case CONTROL_PING:
		return 0;
	case CONTROL_BYE:
		return take_bye(g, p);
	default:
		return -EPROTO;
	}
}

int handshake_message(struct pg_group *g, struct stream *s, struct control_msg *msg)
{
	return msg->type == CONTROL_HELLO ? take_hello(g, s, msg) : take_from_peer(g, s, msg);
}
