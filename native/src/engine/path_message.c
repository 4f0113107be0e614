/* SPDX-License-Identifier: MIT */
#include "engine/path_message.h"

#include <errno.h>
#include <string.h>

#include "engine/failover.h"
#include "engine/form.h"
#include "engine/paths.h"
#include "engine/peer.h"

struct path_head path_head(const struct path *path, enum path_word word)
{
	return (struct path_head){
		.word = (uint8_t)word,
		.local = path->edge.local,
		.remote = path->edge.remote,
		.serial = path->serial,
	};
}

void path_say(struct pg_group *g, struct peer *p, const struct path_head *head,
	      const struct path_sum *sums)
{
	struct control_msg msg = { .type = CONTROL_PATH };

	form_put(&msg, head, sizeof(*head));
	if (head->n)
		form_put(&msg, sums, head->n * sizeof(*sums));
	control_send(g, p->stream, &msg);
}

void path_say_open(struct pg_group *g, struct peer *p, const struct path *path)
{
	struct path_head head = path_head(path, PATH_OPEN);
	struct control_msg msg = { .type = CONTROL_PATH };

	head.bits = !path_ordered(path);
	form_put(&msg, &head, sizeof(head));
	form_put_offer(&msg, &path->offer);
	control_send(g, p->stream, &msg);
}

/* The connection that is meant; NULL: it is gone, or of another time. */
static struct path *meant(struct peer *p, const struct path_head *head)
{
	struct path *path = path_find(p, head->remote, head->local);

	return path && path->serial == head->serial ? path : NULL;
}

static int dispatch(struct pg_group *g, struct peer *p, struct path_head *head,
		    struct path_sum *sums)
{
	struct path *path = meant(p, head);

	if (!path)
		return 0;
	switch (head->word) {
	case PATH_READY:
		path_ready_said(g, p, path);
		return 0;
	case PATH_REFUSED:
		return path_refused(g, p, path, head->status);
	case PATH_STOPPED:
		return path_stop_said(g, p, path, head);
	case PATH_ARRIVED:
		return path_arrived_said(g, p, path, head);
	case PATH_ASK:
		return path_asked(g, p, path, head, sums);
	case PATH_TOLD:
		return path_told(g, p, path, head, sums);
	case PATH_OVER:
		return path_over_said(g, p, path);
	case PATH_COUNTED:
		return path_counted(path, head, sums);
	default:
		return -EPROTO;
	}
}

int path_message(struct pg_group *g, struct peer *p, const struct control_msg *msg, pid_t pid)
{
	struct reader r = { .msg = msg };
	struct path_head head;
	struct path_sum sums[PATH_SUMS];
	struct offer offer;

	if (!form_read(&r, &head, sizeof(head)) || head.local >= p->addr.n_domains ||
	    head.remote >= g->n_domains || head.n > PATH_SUMS ||
	    !form_read(&r, sums, head.n * sizeof(sums[0])))
		return -EPROTO;
	if (head.word == PATH_OPEN && !form_get_offer(&r, &offer, pid))
		return -EPROTO;
	if (!form_at_end(&r))
		return -EPROTO;
	/* Of those that are not up yet nothing but HELLO and READY can be meant. */
	if (peer_state(p) != PEER_UP)
		return 0;
	if (head.word == PATH_NICS) {
		nics_told(g, p, head.bits);
		return 0;
	}
	return head.word == PATH_OPEN ? path_offered(g, p, &head, &offer)
				      : dispatch(g, p, &head, sums);
}
