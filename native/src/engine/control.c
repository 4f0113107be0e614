/* SPDX-License-Identifier: MIT */
#include "engine/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/endpoint.h"
#include "engine/handshake.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "util/clock.h"
#include "util/fork_fds.h"
#include "util/log.h"

#define CONTROL_MAGIC 0x6c746370u /* "pctl" */
#define MAX_QUEUED 1024           /* messages to an end that does not read */
#define MAX_STRANGERS 256

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "messages go as they lie in memory");

struct frame {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t len;
};

/* A message, or the rest of one, that waits for room. Its descriptors are duplicates. */
struct queued {
	struct list link;
	size_t at, len;
	unsigned n_fds;
	int fds[CONTROL_FDS];
	uint8_t bytes[];
};

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

static int check_frame(const struct frame *f)
{
	if (f->magic != CONTROL_MAGIC)
		return -EPROTO;
	if (f->version != PG_WIRE_VERSION)
		return -EPROTONOSUPPORT;
	return f->len > CONTROL_MAX || !f->type || f->type >= CONTROL_TYPES ? -EPROTO : 0;
}

static int lost(ssize_t n)
{
	if (n == 0)
		return -EPIPE;
	return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
}

/* A packet is a message. */
static int receive_packet(struct stream *s, struct control_msg *msg)
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
	int rc;

	if (n < 0)
		return lost(n);
	/* Before anything else: also an empty message can carry some. */
	msg->n_fds = (uint16_t)take_fds(&h, msg->fds);
	if (n == 0)
		return -EPIPE;
	if ((size_t)n < sizeof(frame) || (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return -EPROTO;
	rc = check_frame(&frame);
	if (!rc && frame.len != (size_t)n - sizeof(frame))
		rc = -EPROTO;
	msg->type = frame.type;
	msg->len = frame.len;
	return rc;
}

/* Reads no further than the message, so that what follows still wakes us. */
static int receive_bytes(struct stream *s, struct control_msg *msg)
{
	struct frame *frame = (struct frame *)(void *)s->in;

	for (;;) {
		uint32_t need = sizeof(*frame);
		ssize_t n;

		if (s->in_len >= sizeof(*frame)) {
			int rc = check_frame(frame);

			if (rc)
				return rc;
			need += frame->len;
			if (s->in_len == need)
				break;
		}
		n = recv(s->watch.fd, s->in + s->in_len, need - s->in_len, MSG_DONTWAIT);
		if (n <= 0)
			return lost(n);
		s->in_len += (uint32_t)n;
	}
	msg->type = frame->type;
	msg->len = frame->len;
	memcpy(msg->data, s->in + sizeof(*frame), frame->len);
	s->in_len = 0;
	return 0;
}

/* ---- Sending ---- */

static void want(struct pg_group *g, struct stream *s, bool room)
{
	struct epoll_event e = { .events = EPOLLIN | (room ? EPOLLOUT : 0u),
				 .data.ptr = &s->watch };

	epoll_ctl(g->epoll, EPOLL_CTL_MOD, s->watch.fd, &e);
}

static ssize_t put(struct stream *s, const void *bytes, size_t len, const int *fds, unsigned n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)bytes, len };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds) {
		struct cmsghdr *c;

		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	n = sendmsg(s->watch.fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	return n;
}

static void queued_free(struct queued *q)
{
	for (unsigned i = 0; i < q->n_fds; i++)
		close(q->fds[i]);
	list_remove(&q->link);
	free(q);
}

static int enqueue(struct pg_group *g, struct stream *s, const uint8_t *bytes, size_t len,
		   size_t at, const struct control_msg *msg)
{
	struct queued *q;

	if (s->n_out == MAX_QUEUED)
		return -ENOBUFS;
	q = malloc(sizeof(*q) + len);
	if (!q)
		return -ENOMEM;
	*q = (struct queued){ .at = at, .len = len };
	memcpy(q->bytes, bytes, len);
	list_append(&s->out, &q->link);
	/* The originals may be gone when there is room. */
	while (q->n_fds < msg->n_fds) {
		int fd = fcntl(msg->fds[q->n_fds], F_DUPFD_CLOEXEC, 0);

		if (fd < 0) {
			int rc = -errno;

			queued_free(q);
			return rc;
		}
		q->fds[q->n_fds++] = fd;
	}
	if (s->n_out++ == 0)
		want(g, s, true);
	return 0;
}

static int send_queued(struct pg_group *g, struct stream *s)
{
	while (!list_empty(&s->out)) {
		struct queued *q = LIST_ENTRY(s->out.next, struct queued, link);
		ssize_t n = put(s, q->bytes + q->at, q->len - q->at, q->fds, q->n_fds);

		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		q->at += (size_t)n;
		if (q->at == q->len) {
			s->n_out--;
			queued_free(q);
		}
	}
	want(g, s, false);
	return 0;
}

static int send_or_queue(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	struct frame frame = { CONTROL_MAGIC, PG_WIRE_VERSION, msg->type, msg->len };
	uint8_t bytes[sizeof(frame) + CONTROL_MAX];
	size_t len = sizeof(frame) + msg->len;
	ssize_t n = -EAGAIN;

	memcpy(bytes, &frame, sizeof(frame));
	memcpy(bytes + sizeof(frame), msg->data, msg->len);
	if (!s->connecting && list_empty(&s->out))
		n = put(s, bytes, len, msg->fds, msg->n_fds);
	if (n < 0 && n != -EAGAIN)
		return (int)n;
	if (n == (ssize_t)len)
		return 0;
	return enqueue(g, s, bytes, len, n > 0 ? (size_t)n : 0, msg);
}

int control_send(struct pg_group *g, struct stream *s, const struct control_msg *msg)
{
	int rc = s->cut || s->closing ? -EPIPE : send_or_queue(g, s, msg);

	log_debug("%s: control message %u, %u bytes: %d", g->domains[0]->name, msg->type, msg->len,
		  rc);
	if (rc && !s->closing)
		control_cut(s, rc);
	return rc;
}

/* ---- Streams ---- */

/* 0, or why the connection could not be made. */
static int finish_connecting(struct pg_group *g, struct stream *s)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(s->watch.fd, SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	if (error)
		return -error;
	s->connecting = false;
	return send_queued(g, s);
}

/* The kernel closes descriptors that come along. -EAGAIN until its end. */
static int discard(struct stream *s)
{
	char bytes[256];
	ssize_t n = recv(s->watch.fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	return n > 0 ? -EAGAIN : lost(n);
}

static int serve(struct pg_group *g, struct stream *s, uint32_t events, struct control_msg *msg)
{
	int rc = 0;

	if (s->cut)
		return s->why;
	if (s->connecting)
		rc = finish_connecting(g, s);
	else if (events & EPOLLOUT)
		rc = send_queued(g, s);
	if (!rc && !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return -EAGAIN;
	if (!rc && s->closing)
		rc = discard(s);
	else if (!rc)
		rc = s->local ? receive_packet(s, msg) : receive_bytes(s, msg);
	if (!rc)
		s->heard = true;
	/* What is wrong with a message says nothing of the other end. */
	s->ended = rc && rc != -EAGAIN && rc != -EPROTO && rc != -EPROTONOSUPPORT;
	return rc;
}

/* A peer that is not through with us keeps its stream, since to close it would say that nothing of
 * ours can land there any more: see control_end. */
static void stream_over(struct pg_group *g, struct stream *s)
{
	struct peer *p = s->peer;

	if (p && !peer_alive(p) && (p->end == END_POLL || !(s->ended || s->cut))) {
		if (s->ended || s->cut)
			epoll_ctl(g->epoll, EPOLL_CTL_DEL, s->watch.fd, NULL);
		else if (p->end == END_POLL)
			s->closing = true;
		else
			control_end(g, s);
		return;
	}
	control_close(g, s);
	if (p && !peer_alive(p))
		peer_if_stopped(g, p);
}

static void stream_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct stream *s = (struct stream *)w;
	struct control_msg msg;
	int rc;

	msg.n_fds = 0;
	/* One message a turn: its handler may hang up. */
	rc = serve(g, s, events, &msg);
	if (rc == 0)
		rc = handshake_message(g, s, &msg);
	for (unsigned i = 0; i < msg.n_fds; i++)
		close(msg.fds[i]);
	if (rc == 0 || rc == -EAGAIN)
		return;
	handshake_hangup(g, s, rc);
	stream_over(g, s);
}

void control_cut(struct stream *s, int why)
{
	if (s->cut)
		return;
	s->cut = true;
	s->why = why;
	/* Who has hung up need not be heard doing so. */
	if (s->peer && why != -EPIPE && why != -ECONNRESET)
		s->peer->unheard = true;
	shutdown(s->watch.fd, SHUT_RDWR);
}

void control_end(struct pg_group *g, struct stream *s)
{
	if (s->ended || s->cut) {
		control_close(g, s);
		return;
	}
	s->closing = true;
	shutdown(s->watch.fd, SHUT_WR);
}

void control_close(struct pg_group *g, struct stream *s)
{
	while (!list_empty(&s->out))
		queued_free(LIST_ENTRY(s->out.next, struct queued, link));
	watch_close(g, &s->watch);
	list_remove(&s->link);
	free(s->in);
	free(s);
}

/* Takes fd over, also on failure. */
static int stream_create(struct pg_group *g, int fd, bool local, bool connecting,
			 struct stream **stream)
{
	struct stream *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		goto err_close;
	s->watch = (struct watch){ .fd = fd, .ready = stream_ready };
	s->local = local;
	s->connecting = connecting;
	s->born = clock_ns(); /* g->now may be from before a sleep */
	list_init(&s->out);
	if (local)
		s->pid = endpoint_credentials(fd).pid;
	else if (!(s->in = malloc(sizeof(struct frame) + CONTROL_MAX)))
		goto err_free;
	rc = watch_add(g, &s->watch, EPOLLIN | (connecting ? EPOLLOUT : 0u));
	if (rc)
		goto err_free;
	fork_fds_add(fd);
	list_append(&g->streams, &s->link);
	*stream = s;
	return 0;
err_free:
	free(s->in);
	free(s);
err_close:
	close(fd);
	return rc;
}

/* One that does not greet, or an attempt that nothing answers. */
void control_scan(struct pg_group *g)
{
	for (struct list *l = g->streams.next; l != &g->streams; l = l->next) {
		struct stream *s = LIST_ENTRY(l, struct stream, link);

		if ((s->connecting || !s->peer) && g->now > s->born + g->config->dead_ns)
			control_cut(s, -ETIMEDOUT);
	}
}

/* ---- Ends ---- */

static unsigned strangers(const struct pg_group *g)
{
	unsigned n = 0;

	for (const struct list *l = g->streams.next; l != &g->streams; l = l->next)
		n += !LIST_ENTRY(l, struct stream, link)->peer;
	return n;
}

/* Without descriptors, or with too many who have not said who they are, the next one is refused:
 * left to wait, it would keep us awake. */
static int accept_one(struct pg_group *g, struct watch *w)
{
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && g->spare >= 0) {
		close(g->spare);
		fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		log_warn("refused a control connection: no more file descriptors");
		close(fd);
		g->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return -1;
	}
	if (fd >= 0 && strangers(g) >= MAX_STRANGERS) {
		log_warn("refused a control connection: %d others have not greeted", MAX_STRANGERS);
		close(fd);
		return -1;
	}
	return fd;
}

static void unix_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	int fd = accept_one(g, w);
	struct stream *s;
	uid_t uid;

	(void)events;
	if (fd < 0)
		return;
	/* Another user has no business here, and could otherwise use up our descriptors. */
	uid = endpoint_credentials(fd).uid;
	if (uid == geteuid() || uid == 0) {
		stream_create(g, fd, true, false, &s);
	} else {
		log_warn("refused a control connection of user %u", uid);
		close(fd);
	}
}

static void tcp_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	int fd = accept_one(g, w);
	struct stream *s;

	(void)events;
	if (fd < 0)
		return;
	endpoint_tune(fd, g->config->dead_ns);
	stream_create(g, fd, false, false, &s);
}

static int listen_on(struct pg_group *g, struct watch *w, int fd,
		     void (*ready)(struct pg_group *, struct watch *, uint32_t))
{
	if (fd < 0)
		return fd;
	*w = (struct watch){ .fd = fd, .ready = ready };
	fork_fds_add(fd);
	return watch_add(g, w, EPOLLIN);
}

int control_listen(struct pg_group *g, struct pg_error *err)
{
	int rc = listen_on(g, &g->listener, endpoint_listen_unix(&g->addr, err), unix_ready);

	for (unsigned i = 0; i < g->n_domains && !rc; i++) {
		if (!g->domains[i]->caps.reaches_hosts)
			continue;
		return listen_on(g, &g->tcp_listener,
				 endpoint_listen_tcp(&g->addr, g->config->control, err), tcp_ready);
	}
	return rc;
}

/* Lack of something here says nothing of the peer. */
static bool passes(int code)
{
	return code == -EMFILE || code == -ENFILE || code == -ENOMEM || code == -ENOBUFS ||
	       code == -EADDRNOTAVAIL;
}

int control_connect(struct pg_group *g, const struct net_addr *addr, unsigned route,
		    struct stream **stream)
{
	bool connecting = false;
	int fd = endpoint_connect(addr, route, &connecting);

	if (fd < 0)
		return passes(fd) ? -EAGAIN : fd;
	if (route > 0)
		endpoint_tune(fd, g->config->dead_ns);
	return stream_create(g, fd, route == 0, connecting, stream) ? -EAGAIN : 0;
}
