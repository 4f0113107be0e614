/* SPDX-License-Identifier: MIT
 *
 * The socket NIC: lanes, and the registry. The sockets of a lane are touched only under the engine's
 * lock; what a test tells the NIC waits in its control until the engine calls next. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_socket_lane.h"
#include "util/error.h"

#define EVENTS 64
#define ACCEPTS 32

static const struct pg_caps fake_caps = {
	.max_write = FAKE_MAX_WRITE,
	.max_msg = PG_MSG_MAX,
	.max_outstanding = FAKE_OUTSTANDING,
	.imm_bits = 32,
	.split_min = 64 << 10,
	.reports_source = true,
	.placement_once = true,
	.wait_fd = true,
	.reaches_hosts = true,
};

/* ---- The registry --------------------------------------------------------------------------- */

/* In place of the library's: the linker takes registry.c's object out of the archive only for want
 * of these two, and here they are. */
static const struct transport *const transports[] = {
	&transport_fake_socket,
	&transport_shm,
};

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

/* ---- Sockets -------------------------------------------------------------------------------- */

static struct epoll_event event_of(uint32_t events, enum sock_kind kind, unsigned index)
{
	return (struct epoll_event){ .events = events, .data.u64 = (uint64_t)kind << 32 | index };
}

int fake_sock_watch(struct lane *lane, struct sock *s, uint32_t events, enum sock_kind kind,
		    unsigned index)
{
	struct epoll_event event = event_of(events, kind, index);

	s->events = events;
	return epoll_ctl(lane->domain.fd, EPOLL_CTL_ADD, s->fd, &event) ? -errno : 0;
}

void fake_sock_want(struct lane *lane, struct sock *s, uint32_t events, enum sock_kind kind,
		    unsigned index)
{
	struct epoll_event event = event_of(events, kind, index);

	if (s->fd < 0 || s->events == events)
		return;
	s->events = events;
	epoll_ctl(lane->domain.fd, EPOLL_CTL_MOD, s->fd, &event);
}

void fake_sock_close(struct lane *lane, struct sock *s, bool abrupt)
{
	struct linger now = { .l_onoff = 1 };

	if (s->fd < 0)
		return;
	if (abrupt)
		setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	/* By itself it would go with the last copy, which a forked child may hold. */
	epoll_ctl(lane->domain.fd, EPOLL_CTL_DEL, s->fd, NULL);
	close(s->fd);
	s->fd = -1;
}

/* Of what a socket call said: 0 if it only has to be tried again. A peer that is gone is a reset
 * connection, however we come to know. */
int fake_sock_verdict(ssize_t n)
{
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n < 0 && errno == EFAULT ? -EFAULT : -ECONNRESET;
}

static int listen_at(struct lane *lane, uint16_t port, struct pg_error *err)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = lane->at.ip,
				  .sin_port = port };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, rc;

	if (fd < 0)
		return error_set(err, -errno, "socket: %m");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, SOMAXCONN) ||
	    getsockname(fd, (struct sockaddr *)&at, &len)) {
		rc = error_set(err, errno == EADDRNOTAVAIL ? -ENODEV : -errno, "listen at %s: %m",
			       inet_ntoa(at.sin_addr));
		goto close_fd;
	}
	lane->listener.fd = fd;
	rc = fake_sock_watch(lane, &lane->listener, EPOLLIN, SOCK_LISTENER, 0);
	if (rc) {
		error_set(err, rc, "epoll_ctl: %m");
		goto close_fd;
	}
	lane->at.port = at.sin_port;
	return 0;

close_fd:
	close(fd);
	lane->listener.fd = -1;
	return rc;
}

/* ---- The cable ------------------------------------------------------------------------------ */

static void pull_out(struct lane *lane)
{
	for (unsigned i = 0; i < lane->n_used; i++) {
		if (lane->conns[i])
			fake_conn_break(lane->conns[i], -ECONNRESET);
	}
	for (unsigned i = 0; i < FAKE_STRANGERS; i++)
		fake_sock_close(lane, &lane->strangers[i].sock, true);
	fake_sock_close(lane, &lane->listener, true);
	lane->down = true;
	/* If it does not know that we were up again, there is nothing to tell. */
	lane->tell_down |= !lane->tell_up;
	lane->tell_up = false;
}

/* At the old port if nobody has taken it; offers say which it is. */
static void put_in(struct lane *lane)
{
	if (listen_at(lane, lane->at.port, NULL) && listen_at(lane, 0, NULL))
		return; /* the next call tries again */
	lane->down = false;
	lane->tell_up = true;
}

void fake_lane_obey(struct lane *lane)
{
	struct control now = fake_control_read(lane);

	lane->hold = now.hold;
	lane->hold_acks = now.hold || now.hold_acks;
	if (lane->unplugs != now.unplugs)
		pull_out(lane);
	lane->unplugs = now.unplugs;
	if (lane->down && now.plugs == now.unplugs)
		put_in(lane);
}

/* ---- Strangers ------------------------------------------------------------------------------ */

static void hear_stranger(struct lane *lane, struct stranger *s)
{
	struct fake_conn *c = NULL;
	ssize_t n;
	int fd;

	if (s->sock.fd < 0)
		return;
	n = recv(s->sock.fd, (uint8_t *)&s->hello + s->got, sizeof(s->hello) - s->got, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	s->got += n > 0 ? (size_t)n : 0;
	if (n > 0 && s->got < sizeof(s->hello))
		return;
	if (n > 0 && s->hello.magic == FAKE_MAGIC && s->hello.slot < lane->n_slots)
		c = lane->conns[s->hello.slot];
	if (c && c->nonce == s->hello.nonce) {
		epoll_ctl(lane->domain.fd, EPOLL_CTL_DEL, s->sock.fd, NULL);
		fd = s->sock.fd;
		s->sock.fd = -1;
		if (fake_conn_adopt(c, fd))
			return;
		s->sock.fd = fd;
	}
	fake_sock_close(lane, &s->sock, true);
}

/* With too many of them, the one that has been silent longest goes. */
static void accept_strangers(struct lane *lane)
{
	for (unsigned i = 0; i < ACCEPTS; i++) {
		unsigned at = lane->next_stranger % FAKE_STRANGERS;
		struct stranger *s = &lane->strangers[at];
		int fd = accept4(lane->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		lane->next_stranger++;
		fake_sock_close(lane, &s->sock, true);
		*s = (struct stranger){ .sock.fd = fd };
		if (fake_sock_watch(lane, &s->sock, EPOLLIN, SOCK_STRANGER, at))
			fake_sock_close(lane, &s->sock, true);
		hear_stranger(lane, s);
	}
}

/* ---- Progress ------------------------------------------------------------------------------- */

/* What an event names may be gone by now, or be another; a needless look does no harm. */
static void serve_event(struct lane *lane, const struct epoll_event *event)
{
	enum sock_kind kind = (enum sock_kind)(event->data.u64 >> 32);
	uint32_t index = (uint32_t)event->data.u64;
	uint64_t kicks;

	switch (kind) {
	case SOCK_KICK:
		(void)!read(lane->kick.fd, &kicks, sizeof(kicks));
		break;
	case SOCK_LISTENER:
		accept_strangers(lane);
		break;
	case SOCK_STRANGER:
		hear_stranger(lane, &lane->strangers[index]);
		break;
	default:
		if (lane->conns[index])
			fake_conn_readable(lane->conns[index], kind,
					   event->events & (EPOLLERR | EPOLLHUP));
		break;
	}
}

/* After all connections: if there is room left, none has to be reported dead any more. */
static void tell_nic(struct lane *lane, struct room *room)
{
	if (lane->tell_down && room->left) {
		*room->next++ = (struct arrival){ .kind = ARRIVAL_NIC, .status = -ENETDOWN };
		room->left--;
		lane->tell_down = false;
	}
	if (lane->tell_up && !lane->tell_down && room->left) {
		*room->next++ = (struct arrival){ .kind = ARRIVAL_NIC };
		room->left--;
		lane->tell_up = false;
	}
}

static unsigned fake_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
			  unsigned max_msgs)
{
	struct lane *lane = lane_of(domain);
	struct room room = { .next = arrivals, .left = max, .messages = max_msgs };
	struct epoll_event events[EVENTS];
	int n = epoll_wait(domain->fd, events, EVENTS, 0);

	for (int i = 0; i < n; i++)
		serve_event(lane, &events[i]);
	/* After the kicks have been read: one that comes later is seen by the next poll. */
	fake_lane_obey(lane);
	/* Another one goes first each time, lest one with much traffic fill arrivals for ever. */
	lane->turn++;
	for (unsigned i = 0; i < lane->n_used; i++) {
		struct fake_conn *c = lane->conns[(lane->turn + i) % lane->n_used];

		if (c && c->attached)
			fake_conn_serve(c, &room);
	}
	tell_nic(lane, &room);
	return max - room.left;
}

/* domain->fd is level-triggered and asks at all times, so there is nothing to ask for or to drain;
 * but what has been read from a socket and not been taken does not show there. */
static bool fake_arm(struct domain *domain, bool sleep)
{
	struct lane *lane = lane_of(domain);
	struct epoll_event event;

	if (!sleep || lane->tell_down || lane->tell_up)
		return false;
	for (unsigned i = 0; i < lane->n_used; i++) {
		if (lane->conns[i] && fake_conn_has_news(lane->conns[i]))
			return false;
	}
	return epoll_wait(domain->fd, &event, 1, 0) == 0;
}

/* ---- Opening -------------------------------------------------------------------------------- */

static int fake_query(struct pg_caps *caps, struct pg_error *err)
{
	(void)err;
	*caps = fake_caps;
	return 0;
}

static int check_options(struct lane *lane, const struct domain_options *options,
			 struct pg_error *err)
{
	const char *device = options->device[0] ? options->device : "127.0.0.1";
	struct in_addr ip;

	if (options->index >= PG_MAX_DOMAINS)
		return error_set(err, -EINVAL, "a group has no NIC %u", options->index);
	if (inet_pton(AF_INET, device, &ip) != 1)
		return error_set(err, -EINVAL, "device \"%s\" is not an IPv4 address", device);
	lane->at = (struct fake_address){ .ip = ip.s_addr, .lane = (uint16_t)options->index };
	lane->domain.index = options->index;
	if (!options->max_peers)
		return error_set(err, -EINVAL, "max_peers is 0");
	lane->n_slots = options->max_peers * PG_MAX_DOMAINS;
	return 0;
}

static struct lane *make_lane(const struct domain_options *options)
{
	struct lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	lane->domain.transport = &transport_fake_socket;
	lane->domain.caps = fake_caps;
	lane->domain.caps.link_mbit_s = options->link_mbit_s;
	lane->kick.fd = lane->listener.fd = -1;
	for (unsigned i = 0; i < FAKE_STRANGERS; i++)
		lane->strangers[i].sock.fd = -1;
	snprintf(lane->domain.name, sizeof(lane->domain.name), "fakesock%u", options->index);
	return lane;
}

static int fake_open(const struct domain_options *options, struct domain **domain,
		     struct pg_error *err)
{
	struct lane *lane = make_lane(options);
	int rc;

	if (!lane)
		return error_set(err, -ENOMEM, "no memory for a lane");
	rc = check_options(lane, options, err);
	if (rc)
		goto free_lane;
	lane->conns = calloc(lane->n_slots, sizeof(struct fake_conn *));
	lane->domain.fd = epoll_create1(EPOLL_CLOEXEC);
	lane->kick.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!lane->conns || lane->domain.fd < 0 || lane->kick.fd < 0) {
		rc = error_set(err, -ENOMEM, "no memory or descriptors for a lane: %m");
		goto close_fds;
	}
	rc = fake_sock_watch(lane, &lane->kick, EPOLLIN, SOCK_KICK, 0);
	if (!rc)
		rc = listen_at(lane, 0, err);
	if (rc)
		goto close_fds;
	rc = fake_control_bind(lane);
	if (rc) {
		error_set(err, rc, "more than %d groups have a NIC %u", FAKE_GROUPS,
			  options->index);
		goto close_listener;
	}
	*domain = &lane->domain;
	return 0;

close_listener:
	close(lane->listener.fd);
close_fds:
	if (lane->kick.fd >= 0)
		close(lane->kick.fd);
	if (lane->domain.fd >= 0)
		close(lane->domain.fd);
	free(lane->conns);
free_lane:
	free(lane);
	return rc;
}

static void fake_close(struct domain *domain)
{
	struct lane *lane = lane_of(domain);

	fake_control_unbind(lane);
	for (unsigned i = 0; i < FAKE_STRANGERS; i++)
		fake_sock_close(lane, &lane->strangers[i].sock, true);
	fake_sock_close(lane, &lane->listener, true);
	fake_sock_close(lane, &lane->kick, false);
	close(domain->fd);
	free(lane->regions);
	free(lane->conns);
	free(lane);
}

static int fake_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	*len = sizeof(struct fake_address);
	memcpy(buf, &lane_of(domain)->at, *len);
	return 0;
}

const struct transport transport_fake_socket = {
	.name = "fakesock",
	.query = fake_query,
	.open = fake_open,
	.close = fake_close,
	.address = fake_address,
	.mr_reg = fake_mr_reg,
	.mr_dereg = fake_mr_dereg,
	.conn_open = fake_conn_open,
	.conn_attach = fake_conn_attach,
	.conn_close = fake_conn_close,
	.post = fake_post,
	.flush = fake_flush,
	.describe = fake_describe,
	.poll = fake_poll,
	.arm = fake_arm,
};
