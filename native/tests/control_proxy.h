/* SPDX-License-Identifier: MIT
 *
 * Somebody between two groups of one host: what one says to the other on a control stream passes
 * here, and can be held back, changed, said again or kept for later.
 */
#ifndef PGCTL_TESTS_CONTROL_PROXY_H
#define PGCTL_TESTS_CONTROL_PROXY_H

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine/control.h"
#include "engine_pair.h"

#define PROXY_HEAD 12 /* of a frame: magic, version, type, length */

struct said {
	uint8_t bytes[PROXY_HEAD + CONTROL_MAX];
	size_t len;
	int fds[CONTROL_FDS];
	unsigned n_fds;
};

struct proxy {
	struct net_addr to; /* whom the second is */
	int listener;
	int ends[2]; /* of who dials, and of who is dialed; -1: none yet, or gone */
	void *arg;
	/* What passes from ends[from]; false: it shall not. May call proxy_say. */
	bool (*pass)(struct proxy *p, unsigned from, struct said *said);
};

static inline uint16_t said_type(const struct said *said)
{
	uint16_t type;

	memcpy(&type, said->bytes + 6, sizeof(type));
	return type;
}

static inline uint8_t *said_data(struct said *said)
{
	return said->bytes + PROXY_HEAD;
}

static inline socklen_t proxy_name(struct sockaddr_un *un, const uint8_t id[16])
{
	int n = 7;

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = "\0pgctl-" };
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(un->sun_path + n, 3, "%02x", id[i]);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
}

static inline int proxy_dial(const uint8_t id[16])
{
	struct sockaddr_un un;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(connect(fd, (struct sockaddr *)&un, proxy_name(&un, id)) == 0);
	return fd;
}

/* Has s take the proxy for the other side. */
static inline void proxy_open(struct proxy *p, struct side *s, struct side *other)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	struct sockaddr_un un;
	struct net_addr addr;
	socklen_t n;

	CHECK(pg_main_address(other->g, buf, &len) == 0);
	CHECK(net_addr_decode(buf, len, &p->to, NULL) == 0);
	addr = p->to;
	addr.unix_id[0] ^= 0xff;
	p->ends[0] = p->ends[1] = -1;
	p->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	n = proxy_name(&un, addr.unix_id);
	CHECK(bind(p->listener, (struct sockaddr *)&un, n) == 0 && listen(p->listener, 4) == 0);
	len = sizeof(buf);
	CHECK(net_addr_encode(&addr, buf, &len) == 0);
	CHECK(pg_add_peer(s->g, buf, len, &s->peer, NULL) == 0);
	len = sizeof(buf);
	CHECK(pg_mr_desc(other->g, other->mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &s->remote, NULL) == 0);
}

static inline void said_forget(struct said *said)
{
	while (said->n_fds)
		close(said->fds[--said->n_fds]);
}

/* -EAGAIN, -EPIPE, or 0. */
static inline int proxy_hear(int fd, struct said *said)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(said->fds))];
	} control = { 0 };
	struct iovec iov = { said->bytes, sizeof(said->bytes) };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *c;

	said->n_fds = 0;
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
	said->len = (size_t)n;
	c = CMSG_FIRSTHDR(&h);
	if (c) {
		said->n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(said->fds, CMSG_DATA(c), said->n_fds * sizeof(int));
	}
	return 0;
}

static inline void proxy_say(int fd, const struct said *said)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(said->fds))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)said->bytes, said->len };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (said->n_fds) {
		struct cmsghdr *c;

		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(said->n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(said->n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), said->fds, said->n_fds * sizeof(int));
	}
	/* It may have hung up. */
	CHECK(sendmsg(fd, &h, MSG_NOSIGNAL) == (ssize_t)said->len || errno == EPIPE);
}

static inline void proxy_hang_up(struct proxy *p)
{
	for (unsigned i = 0; i < 2; i++) {
		if (p->ends[i] >= 0)
			close(p->ends[i]);
		p->ends[i] = -1;
	}
}

/* Passes on what there is. */
static inline void proxy_run(struct proxy *p)
{
	struct said said;
	int rc = -EAGAIN;

	if (p->ends[0] < 0) {
		p->ends[0] = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (p->ends[0] < 0)
			return;
		p->ends[1] = proxy_dial(p->to.unix_id);
	}
	for (unsigned from = 0; from < 2 && p->ends[0] >= 0; from++) {
		while ((rc = proxy_hear(p->ends[from], &said)) == 0) {
			if (!p->pass || p->pass(p, from, &said))
				proxy_say(p->ends[!from], &said);
			said_forget(&said);
		}
		if (rc == -EPIPE)
			proxy_hang_up(p);
	}
}

static inline void proxy_close(struct proxy *p)
{
	proxy_hang_up(p);
	close(p->listener);
}

#endif
