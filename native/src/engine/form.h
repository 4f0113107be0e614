/* SPDX-License-Identifier: MIT
 *
 * Control messages, field by field: writing what certainly fits, reading what cannot be trusted.
 */
#ifndef PGCTL_ENGINE_FORM_H
#define PGCTL_ENGINE_FORM_H

#include <string.h>

#include "engine/control.h"

/* There is room: see the assertion in handshake.c. */
static inline void form_put(struct control_msg *msg, const void *data, size_t len)
{
	memcpy(msg->data + msg->len, data, len);
	msg->len += (uint32_t)len;
}

static inline void form_put_offer(struct control_msg *msg, const struct offer *o)
{
	form_put(msg, &o->len, sizeof(o->len));
	form_put(msg, &o->n_fds, sizeof(o->n_fds));
	form_put(msg, o->bytes, o->len);
	memcpy(msg->fds + msg->n_fds, o->fds, o->n_fds * sizeof(int));
	msg->n_fds = (uint16_t)(msg->n_fds + o->n_fds);
}

struct reader {
	const struct control_msg *msg;
	uint32_t pos;
	uint32_t fd;
};

/* NULL: the message ends before. */
static inline const void *form_get(struct reader *r, size_t len)
{
	const void *at = r->msg->data + r->pos;

	if (len > r->msg->len - r->pos)
		return NULL;
	r->pos += (uint32_t)len;
	return at;
}

static inline bool form_read(struct reader *r, void *field, size_t len)
{
	const void *at = form_get(r, len);

	if (at)
		memcpy(field, at, len);
	return at != NULL;
}

static inline bool form_get_offer(struct reader *r, struct offer *o, pid_t pid)
{
	const void *bytes;

	memset(o, 0, sizeof(*o));
	if (!form_read(r, &o->len, sizeof(o->len)) || !form_read(r, &o->n_fds, sizeof(o->n_fds)))
		return false;
	o->pid = pid;
	if (o->len > OFFER_BYTES || o->n_fds > OFFER_FDS || o->n_fds > r->msg->n_fds - r->fd)
		return false;
	bytes = form_get(r, o->len);
	if (!bytes)
		return false;
	memcpy(o->bytes, bytes, o->len);
	memcpy(o->fds, r->msg->fds + r->fd, o->n_fds * sizeof(int));
	r->fd += o->n_fds;
	return true;
}

static inline bool form_at_end(const struct reader *r)
{
	return r->pos == r->msg->len && r->fd == r->msg->n_fds;
}

#endif
