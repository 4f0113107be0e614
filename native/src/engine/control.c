/* SPDX-License-Identifier: MIT */
#include "engine/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/handshake.h"
#include "engine/progress.h"
#include "util/random.h"

#define CONTROL_MAGIC 0x6c746370u /* "pctl" */

struct frame {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
};

static socklen_t abstract_name(struct sockaddr_un *un, const char *name)
{
	size_t n = strlen(name); /* shorter than sun_path: address.c checks it */

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(un->sun_path + 1, name, n);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* ---- Receiving ---- */

/* The descriptors of a message, all of them or none: what does not fit is closed by the kernel. */
static unsigned take_fds(struct msghdr *h, int *fds)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < bytes / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (n < CONTROL_FDS)
				fds[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

/* -EAGAIN: nothing there; -EPIPE: closed; -EPROTO: not one of ours. */
static int receive(struct stream *s, struct control_msg *msg)
{
	struct frame frame;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
	} control;
	struct iovec iov[2] = { { &frame, sizeof(frame) }, { msg->data, sizeof(msg->data) } };
	struct msghdr h = { .msg_iov = iov,
			    .msg_iovlen = 2,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(s->watch.fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	msg->n_fds = 0;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
	/* Before anything else: also an empty message can carry some. */
	msg->n_fds = (uint16_t)take_fds(&h, msg->fds);
	if (n == 0)
		return -EPIPE;
	if ((size_t)n < sizeof(frame) || (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
	    frame.magic != CONTROL_MAGIC || frame.version != PG_WIRE_VERSION)
		return -EPROTO;
	msg->type = frame.type;
	msg->len = (uint32_t)((size_t)n - sizeof(frame));
	return 0;
}

static void stream_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct stream *s = (struct stream *)w;
	struct control_msg msg;
	int rc;

	(void)events;
	/* One message a turn: its handler may close the stream. */
	rc = receive(s, &msg);
	if (rc == 0)
		rc = handshake_message(g, s, &msg);
	else if (rc != -EAGAIN)
		handshake_hangup(g, s, rc);
	for (unsigned i = 0; i < msg.n_fds; i++)
		close(msg.fds[i]);
	if (rc && rc != -EAGAIN)
		control_close(g, s);
}

/* ---- Streams ---- */

/* Who is at the other end, as the kernel says; pid 0: not visible from here. */
static struct ucred credentials(int fd)
{
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(cred);

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	return cred;
}

/* Takes fd over, also on failure. */
static int stream_create(struct pg_group *g, int fd, struct stream **stream)
{
	struct stream *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		goto err_close;
	s->watch = (struct watch){ .fd = fd, .ready = stream_ready };
	s->pid = credentials(fd).pid;
	rc = watch_add(g, &s->watch, EPOLLIN);
	if (rc)
		goto err_free;
	list_append(&g->streams, &s->link);
	*stream = s;
	return 0;
err_free:
	free(s);
err_close:
	close(fd);
	return rc;
}

void control_close(struct pg_group *g, struct stream *s)
{
	watch_close(g, &s->watch);
	list_remove(&s->link);
	free(s);
}

static void listener_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct stream *s;
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	uid_t uid;

	(void)events;
	if (fd < 0)
		return;
	/* Another user has no business here, and could otherwise use up our descriptors. */
	uid = credentials(fd).uid;
	if (uid == geteuid() || uid == 0)
		stream_create(g, fd, &s);
	else
		close(fd);
}

int control_listen(struct pg_group *g, struct pg_error *err)
{
	struct sockaddr_un un;
	uint8_t id[16];
	int rc, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(err, -errno, "cannot open a unix socket: %s", strerror(errno));
	rc = random_bytes(id, sizeof(id));
	if (rc) {
		error_set(err, rc, "cannot read random bytes: %s", strerror(-rc));
		goto err_close;
	}
	strcpy(g->addr.control, "pgctl-");
	for (unsigned i = 0; i < sizeof(id); i++)
		snprintf(g->addr.control + 6 + 2 * i, 3, "%02x", id[i]);
	if (bind(fd, (struct sockaddr *)&un, abstract_name(&un, g->addr.control)) ||
	    listen(fd, 4096)) {
		rc = error_set(err, -errno, "cannot listen on unix socket @%s: %s", g->addr.control,
			       strerror(errno));
		goto err_close;
	}
	g->listener = (struct watch){ .fd = fd, .ready = listener_ready };
	rc = watch_add(g, &g->listener, EPOLLIN);
	if (rc) {
		g->listener.fd = -1;
		goto err_close;
	}
	return 0;
err_close:
	close(fd);
	return rc;
}

int control_connect(struct pg_group *g, const char *name, struct stream **stream)
{
	struct sockaddr_un un;
	socklen_t len = abstract_name(&un, name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&un, len)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return stream_create(g, fd, stream);
}

int control_send(struct stream *s, const struct control_msg *msg)
{
	struct frame frame = { CONTROL_MAGIC, PG_WIRE_VERSION, msg->type };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
	} control = { 0 };
	struct iovec iov[2] = { { &frame, sizeof(frame) },
				{ (void *)(uintptr_t)msg->data, msg->len } };
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = 2 };

	if (msg->n_fds) {
		struct cmsghdr *c;

		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * msg->n_fds);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * msg->n_fds);
		memcpy(CMSG_DATA(c), msg->fds, sizeof(int) * msg->n_fds);
	}
	if (sendmsg(s->watch.fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return -errno;
	return 0;
}
