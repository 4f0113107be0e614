/* SPDX-License-Identifier: MIT */
#include "engine/regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/form.h"
#include "engine/memory.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "util/log.h"

struct map_msg {
	uint64_t cookie; /* the asker's handle of it */
	uint64_t region;
	uint32_t generation;
	int32_t status; /* of an answer */
};

/* A peer that may write to a region, once for each import of it there. */
struct holder {
	struct list link; /* in mr.holders */
	struct peer *peer;
	uint64_t cookie;
};

static bool read_msg(const struct control_msg *msg, struct map_msg *m)
{
	if (msg->len < sizeof(*m))
		return false;
	memcpy(m, msg->data, sizeof(*m));
	return true;
}

static int send_msg(struct pg_group *g, struct peer *p, enum control_type type,
		    const struct map_msg *m, const struct offer *offer)
{
	struct control_msg msg = { .type = (uint16_t)type };

	if (!p->stream)
		return -EPIPE;
	form_put(&msg, m, sizeof(*m));
	if (offer)
		form_put_offer(&msg, offer);
	return control_send(g, p->stream, &msg);
}

/* ---- The owner's side ---- */

static struct mr *find_mr(struct pg_group *g, const struct map_msg *m)
{
	for (uint32_t i = 0; i < g->mrs.used; i++) {
		struct mr *mr = mr_slot(g, i);

		if (mr && mr->region == m->region && mr->generation == m->generation)
			return mr;
	}
	return NULL;
}

static struct holder *find_holder(const struct mr *mr, const struct peer *p, uint64_t cookie)
{
	for (struct list *l = mr->holders.next; l != &mr->holders; l = l->next) {
		struct holder *h = LIST_ENTRY(l, struct holder, link);

		if (h->peer == p && h->cookie == cookie)
			return h;
	}
	return NULL;
}

static int add_holder(struct pg_group *g, struct mr *mr, struct peer *p, uint64_t cookie)
{
	struct holder *h;

	if (find_holder(mr, p, cookie))
		return 0;
	/* As many as it could have of us if it is made like us. */
	if (p->n_holders >= g->config->max_regions)
		return -ENOSPC;
	h = malloc(sizeof(*h));
	if (!h)
		return -ENOMEM;
	*h = (struct holder){ .peer = p, .cookie = cookie };
	list_append(&mr->holders, &h->link);
	handle_ref(&mr->h);
	p->n_holders++;
	return 0;
}

static void drop_holder(struct pg_group *g, struct mr *mr, struct holder *h)
{
	list_remove(&h->link);
	h->peer->n_holders--;
	free(h);
	handle_unref(&mr->h);
	g->delivered = true; /* for who waits in pg_unreg_mr */
}

int region_asked(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct offer offer = { 0 };
	struct map_msg m;
	struct mr *mr;

	if (!read_msg(msg, &m) || !s->peer)
		return -EPROTO;
	mr = find_mr(g, &m);
	m.status = !mr || mr->revoked ? -ESTALE : memory_export(g, mr, &offer);
	if (!m.status)
		m.status = add_holder(g, mr, s->peer, m.cookie);
	send_msg(g, s->peer, CONTROL_MAPPED, &m, m.status ? NULL : &offer);
	return 0;
}

int region_returned(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	struct holder *h;
	struct map_msg m;
	struct mr *mr;

	if (!read_msg(msg, &m))
		return -EPROTO;
	mr = find_mr(g, &m);
	h = mr ? find_holder(mr, p, m.cookie) : NULL;
	if (h)
		drop_holder(g, mr, h);
	return 0;
}

void region_revoke(struct pg_group *g, struct mr *mr)
{
	struct map_msg m = { .region = mr->region, .generation = mr->generation };

	if (mr->revoked)
		return;
	mr->revoked = true;
	for (struct list *l = mr->holders.next; l != &mr->holders; l = l->next) {
		struct holder *h = LIST_ENTRY(l, struct holder, link);

		m.cookie = h->cookie;
		send_msg(g, h->peer, CONTROL_REVOKE, &m, NULL);
	}
}

const struct peer *region_holder(const struct mr *mr)
{
	return list_empty(&mr->holders) ? NULL
					: LIST_ENTRY(mr->holders.next, struct holder, link)->peer;
}

void holders_drop(struct pg_group *g, struct peer *p)
{
	for (uint32_t i = 0; i < g->mrs.used; i++) {
		struct mr *mr = mr_slot(g, i);
		struct list *l = mr ? mr->holders.next : NULL, *next;

		for (; mr && l != &mr->holders; l = next) {
			struct holder *h = LIST_ENTRY(l, struct holder, link);

			next = l->next;
			if (h->peer == p)
				drop_holder(g, mr, h);
		}
	}
}

void holders_free(struct mr *mr)
{
	while (!list_empty(&mr->holders)) {
		struct holder *h = LIST_ENTRY(mr->holders.next, struct holder, link);

		list_remove(&h->link);
		free(h);
	}
}

bool holders_of_caller_memory(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->mrs.used; i++) {
		const struct mr *mr = mr_slot(g, i);

		if (mr && mr->memory.fd < 0 && !list_empty(&mr->holders))
			return true;
	}
	return false;
}

/* ---- The writer's side ---- */

static struct map_msg msg_of(const struct rmr *rmr)
{
	return (struct map_msg){ .cookie = rmr->cookie,
				 .region = rmr->desc.region,
				 .generation = rmr->desc.generation };
}

void region_ask(struct pg_group *g, struct rmr *rmr)
{
	struct map_msg m = msg_of(rmr);

	if (send_msg(g, rmr->peer, CONTROL_MAP, &m, NULL))
		return; /* its stream hangs up */
	g->handshakes++;
	rmr_set_state(rmr, RMR_ASKED);
}

int region_answered(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct reader r = { .msg = msg };
	struct map_msg m;
	struct offer offer = { 0 };
	struct rmr *rmr;
	int rc;

	if (!read_msg(msg, &m))
		return -EPROTO;
	form_get(&r, sizeof(m));
	if (!m.status && !form_get_offer(&r, &offer, s->pid))
		return -EPROTO;
	rmr = handles_get(&g->rmrs, m.cookie, &rc);
	if (!rmr || rmr->peer != s->peer || rmr_state(rmr) != RMR_ASKED) {
		/* Released meanwhile: give back what it has let us have. */
		if (!rmr && !m.status && s->peer)
			send_msg(g, s->peer, CONTROL_UNMAP, &m, NULL);
		return rmr ? -EPROTO : 0;
	}
	g->handshakes--;
	rmr->claimed = !m.status;
	rmr_mapped(g, rmr, m.status, &offer);
	if (rmr_state(rmr) == RMR_FAILED)
		region_leave(g, rmr);
	return 0;
}

int region_revoked(struct pg_group *g, struct peer *p, const struct control_msg *msg)
{
	struct map_msg m;
	struct rmr *rmr;
	int rc;

	if (!read_msg(msg, &m))
		return -EPROTO;
	rmr = handles_get(&g->rmrs, m.cookie, &rc);
	if (!rmr || rmr->peer != p || rmr_state(rmr) != RMR_READY)
		return 0; /* an UNMAP is on its way */
	log_info("%s has revoked a region of %llu bytes", peer_name(p).text,
		 (unsigned long long)rmr->desc.len);
	rmr_fail(rmr, -ESTALE, "the region was unregistered");
	region_leave(g, rmr);
	return 0;
}

static void leave(struct pg_group *g, struct rmr *rmr)
{
	struct map_msg m = msg_of(rmr);

	if (!handle_unused(&rmr->h) ||
	    (peer_alive(rmr->peer) && !paths_visible(rmr->peer, rmr->marks)))
		return;
	if (rmr->released || !rmr->exposed)
		rmr_unmap(g, rmr);
	if (rmr->claimed && peer_state(rmr->peer) == PEER_UP)
		send_msg(g, rmr->peer, CONTROL_UNMAP, &m, NULL);
	rmr->claimed = false;
	list_remove(&rmr->leaving);
	if (rmr->released)
		rmr_free(g, rmr);
}

void region_leave(struct pg_group *g, struct rmr *rmr)
{
	memset(rmr->marks, 0, sizeof(rmr->marks));
	list_remove(&rmr->leaving);
	list_append(&g->leaving, &rmr->leaving);
	leave(g, rmr);
}

void regions_leave(struct pg_group *g)
{
	struct list *l = g->leaving.next;

	while (l != &g->leaving) {
		struct rmr *rmr = LIST_ENTRY(l, struct rmr, leaving);

		l = l->next;
		leave(g, rmr);
	}
}
