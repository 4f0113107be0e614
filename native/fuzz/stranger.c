/* SPDX-License-Identifier: MIT
 *
 * Where he is, and what he hears. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stranger.h"

/* ---- Streams -------------------------------------------------------------------------------- */

struct line *stranger_line(struct stranger *s, struct input *in)
{
	struct line *l = &s->lines[input_u8(in) % STREAMS];

	return l->fd >= 0 ? l : NULL;
}

static struct line *free_line(struct stranger *s)
{
	for (unsigned i = 0; i < STREAMS; i++)
		if (s->lines[i].fd < 0)
			return &s->lines[i];
	return NULL;
}

static void open_line(struct line *l, int fd, bool tcp)
{
	l->fd = fd;
	l->tcp = tcp;
	l->deaf = l->confused = false;
	l->in.len = 0;
	memset(l->incarnation, 0, sizeof(l->incarnation));
	for (unsigned i = 0; i < CONTROL_TYPES; i++)
		l->last[i].len = 0;
}

/* At once: nothing that an input has left behind lingers in the kernel. */
static void close_socket(int *fd)
{
	struct linger now = { .l_onoff = 1 };

	if (*fd < 0)
		return;
	setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(*fd);
	*fd = -1;
}

static socklen_t unix_name(struct sockaddr_un *un, const uint8_t id[16])
{
	int n = 7;

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = "\0pgctl-" };
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(un->sun_path + n, 3, "%02x", id[i]);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
}

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				     .sin_port = htons(port) };
}

void stranger_dial(struct stranger *s, struct input *in)
{
	bool tcp = input_u8(in) & 1;
	const struct net_addr *to = &s->g->addr;
	struct line *l = free_line(s);
	struct sockaddr_in at = loopback(to->port);
	struct sockaddr_un un;
	socklen_t len = unix_name(&un, to->unix_id);
	int fd;

	if (!l || (tcp && !to->port))
		return;
	fd = socket(tcp ? AF_INET : AF_UNIX, (tcp ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC,
		    0);
	CHECK(fd >= 0);
	CHECK(connect(fd, tcp ? (struct sockaddr *)&at : (struct sockaddr *)&un,
		      tcp ? sizeof(at) : len) == 0);
	open_line(l, fd, tcp);
}

void stranger_accept(struct stranger *s, struct input *in)
{
	unsigned which = input_u8(in);
	bool tcp = which & 1;
	int listener = (tcp ? s->tcp_listeners : s->unix_listeners)[which / 2 % STRANGERS];
	struct line *l = free_line(s);
	int fd = l && listener >= 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;

	if (fd >= 0)
		open_line(l, fd, tcp);
}

void stranger_hang_up(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);

	switch (input_u8(in) % 3) {
	case 0:
		if (l)
			close_socket(&l->fd);
		break;
	case 1:
		if (l)
			shutdown(l->fd, SHUT_WR);
		break;
	default:
		if (l) {
			l->deaf = !l->deaf;
			l->confused = true;
		}
		break;
	}
}

static bool hear_packet(struct line *l)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
	} control;
	struct iovec iov = { l->in.bytes, sizeof(l->in.bytes) };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(l->fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n <= 0)
		return false;
	CHECK(!(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		int *fds = (int *)(void *)CMSG_DATA(c);

		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
			close(fds[i]);
	}
	l->in.len = (size_t)n;
	return true;
}

static bool hear_bytes(struct line *l)
{
	uint32_t len = 0;
	ssize_t n = 1;

	while (n > 0) {
		size_t need = HEAD;

		if (l->in.len >= HEAD) {
			memcpy(&len, l->in.bytes + 8, sizeof(len));
			CHECK(len <= CONTROL_MAX);
			need += len;
		}
		if (l->in.len == need)
			return true;
		n = recv(l->fd, l->in.bytes + l->in.len, need - l->in.len, MSG_DONTWAIT);
		l->in.len += n > 0 ? (size_t)n : 0;
	}
	return false;
}

/* The group itself keeps to the protocol. */
static void hear(const struct stranger *s, struct line *l)
{
	while (l->tcp ? hear_bytes(l) : hear_packet(l)) {
		uint32_t magic, len;
		uint16_t type;

		CHECK(l->in.len >= HEAD);
		memcpy(&magic, l->in.bytes, sizeof(magic));
		memcpy(&type, l->in.bytes + 6, sizeof(type));
		memcpy(&len, l->in.bytes + 8, sizeof(len));
		CHECK_EQ(magic, STRANGER_MAGIC);
		CHECK(type > 0 && type < CONTROL_TYPES);
		CHECK_EQ(len + HEAD, l->in.len);
		if (type == CONTROL_PATH && !l->confused)
			stranger_hears_path(s, l);
		l->last[type] = l->in;
		l->in.len = 0;
	}
}

void stranger_hears(struct stranger *s)
{
	for (unsigned i = 0; i < STREAMS; i++)
		if (s->lines[i].fd >= 0 && !s->lines[i].deaf)
			hear(s, &s->lines[i]);
}

const uint8_t *stranger_heard(const struct line *l, unsigned type)
{
	return l->last[type].len ? l->last[type].bytes + HEAD : NULL;
}

/* ---- Addresses ------------------------------------------------------------------------------ */

enum address {
	AT_UNIX = 1, /* somebody listens there */
	AT_TCP = 2,
	NO_UNIX = 4,
	SAME_PLACE = 8, /* as the first of the three */
	ELSEWHERE = 16, /* on another host, he says */
	OTHER_GROUP = 32,
	OTHER_NICS = 64,
};

static void listen_unix(struct stranger *s, unsigned who, const struct net_addr *addr)
{
	struct sockaddr_un un;
	socklen_t len = unix_name(&un, addr->unix_id);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(fd >= 0);
	if (bind(fd, (struct sockaddr *)&un, len) || listen(fd, 4))
		close_socket(&fd); /* another of the three is there */
	s->unix_listeners[who] = fd;
}

static void listen_tcp(struct stranger *s, unsigned who)
{
	struct sockaddr_in at = loopback(0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 4) == 0);
	s->tcp_listeners[who] = fd;
}

static uint16_t port_of(int listener)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);

	CHECK(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
	return ntohs(at.sin_port);
}

/* Nobody but him is ever named in it: the group must not dial others for the sake of a test. */
static void address_of(struct stranger *s, unsigned who, unsigned what, struct net_addr *a)
{
	static const uint8_t host[16] = { [10] = 0xff, 0xff, 127, 0, 0, 1 };

	*a = s->g->addr;
	memset(a->incarnation, (int)(who + 1), sizeof(a->incarnation));
	memset(a->token, (int)(who + 1), sizeof(a->token));
	a->group = what & OTHER_GROUP ? 1 : 0;
	a->host[0] ^= what & ELSEWHERE ? 1 : 0;
	/* Other processes may play the same at the same time. */
	memcpy(a->unix_id, &(pid_t){ getpid() }, sizeof(pid_t));
	memset(a->unix_id + sizeof(pid_t), what & SAME_PLACE ? 1 : (int)(who + 1),
	       sizeof(a->unix_id) - sizeof(pid_t));
	if (what & NO_UNIX)
		memset(a->unix_id, 0, sizeof(a->unix_id));
	a->port = 0;
	a->n_hosts = 0;
	if (what & AT_UNIX && !(what & NO_UNIX) && s->unix_listeners[who] < 0)
		listen_unix(s, who, a);
	if (what & AT_TCP && s->tcp_listeners[who] < 0)
		listen_tcp(s, who);
	if (what & AT_TCP) {
		a->port = port_of(s->tcp_listeners[who]);
		a->n_hosts = 1;
		memcpy(a->hosts[0], host, sizeof(host));
	}
}

static void other_nics(struct net_addr *a, struct input *in)
{
	a->n_domains = input_u8(in) % PG_MAX_DOMAINS + 1;
	for (unsigned i = 0; i < a->n_domains; i++) {
		unsigned what = input_u8(in);

		a->domains[i] = (struct net_domain){ .rail = what & 3,
						     .link_mbit_s = (what >> 2 & 3) * 1000 };
		strcpy(a->domains[i].transport, what & 16 ? "other" : what & 32 ? "shm" : "bare");
	}
}

void stranger_address(struct stranger *s, struct input *in, struct net_addr *addr)
{
	unsigned who = input_u8(in) % STRANGERS, what = input_u8(in);

	address_of(s, who, what, addr);
	if (what & OTHER_NICS)
		other_nics(addr, in);
}

/* ---- Life ----------------------------------------------------------------------------------- */

void stranger_init(struct stranger *s, struct pg_group *g, void (*round)(struct pg_group *g))
{
	s->g = g;
	s->round = round;
	for (unsigned i = 0; i < STREAMS; i++)
		s->lines[i].fd = -1;
	for (unsigned i = 0; i < STRANGERS; i++)
		s->unix_listeners[i] = s->tcp_listeners[i] = -1;
	for (unsigned i = 0; i < 8; i++)
		s->palette[i] = -1;
}

void stranger_close(struct stranger *s)
{
	for (unsigned i = 0; i < STREAMS; i++)
		close_socket(&s->lines[i].fd);
	for (unsigned i = 0; i < STRANGERS; i++) {
		close_socket(&s->unix_listeners[i]);
		close_socket(&s->tcp_listeners[i]);
	}
	for (unsigned i = 0; i < 8; i++)
		if (s->palette[i] >= 0)
			close(s->palette[i]);
}
