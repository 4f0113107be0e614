/* SPDX-License-Identifier: MIT */
#include "engine/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/error.h"
#include "util/random.h"

#define BACKLOG 4096
#define PROBE_S 1

static const uint8_t mapped_prefix[12] = { [10] = 0xff, [11] = 0xff };

/* ---- Unix ---- */

static socklen_t unix_name(struct sockaddr_un *un, const uint8_t id[16])
{
	int n = 6;

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(un->sun_path + 1, "pgctl-", 6);
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(un->sun_path + 1 + n, 3, "%02x", id[i]);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

int endpoint_listen_unix(struct net_addr *addr, struct pg_error *err)
{
	struct sockaddr_un un;
	int rc, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(err, -errno, "cannot open a unix socket: %m");
	rc = random_bytes(addr->unix_id, sizeof(addr->unix_id));
	if (rc) {
		error_set(err, rc, "cannot read random bytes: %s", strerror(-rc));
		goto err_close;
	}
	if (bind(fd, (struct sockaddr *)&un, unix_name(&un, addr->unix_id)) ||
	    listen(fd, BACKLOG)) {
		rc = error_set(err, -errno, "cannot listen on unix socket @%s: %m",
			       un.sun_path + 1);
		goto err_close;
	}
	return fd;
err_close:
	close(fd);
	return rc;
}

struct ucred endpoint_credentials(int fd)
{
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(cred);

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	return cred;
}

/* ---- Where to listen ---- */

static void map_ipv4(uint8_t out[16], const struct in_addr *in)
{
	memcpy(out, mapped_prefix, sizeof(mapped_prefix));
	memcpy(out + sizeof(mapped_prefix), in, sizeof(*in));
}

static bool host_of(const struct sockaddr *sa, uint8_t out[16])
{
	if (sa && sa->sa_family == AF_INET) {
		map_ipv4(out, &((const struct sockaddr_in *)(const void *)sa)->sin_addr);
		return true;
	}
	if (sa && sa->sa_family == AF_INET6) {
		const struct in6_addr *in =
			&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;

		memcpy(out, in, 16);
		return !IN6_IS_ADDR_LINKLOCAL(in); /* means nothing without an interface */
	}
	return false;
}

/* The addresses of an interface, or of all that are up: others before loopback. */
static unsigned interface_hosts(const char *name, uint8_t hosts[NET_HOSTS][16])
{
	struct ifaddrs *all;
	unsigned n = 0;

	if (getifaddrs(&all))
		return 0;
	for (int loopback = 0; loopback < 2; loopback++) {
		for (struct ifaddrs *i = all; i && n < NET_HOSTS; i = i->ifa_next) {
			if (!(i->ifa_flags & IFF_UP) || (*name && strcmp(name, i->ifa_name)) ||
			    !(i->ifa_flags & IFF_LOOPBACK) != !loopback)
				continue;
			/* Loopback is for machines that have nothing else. */
			if (loopback && n > 0)
				break;
			n += host_of(i->ifa_addr, hosts[n]);
		}
	}
	freeifaddrs(all);
	return n;
}

static bool parse_host(const char *text, uint8_t out[16])
{
	struct in_addr v4;

	if (inet_pton(AF_INET, text, &v4) == 1) {
		map_ipv4(out, &v4);
		return true;
	}
	return inet_pton(AF_INET6, text, out) == 1;
}

static bool is_any(const uint8_t host[16])
{
	static const uint8_t any[16];

	return !memcmp(host, any, 16) || (!memcmp(host, mapped_prefix, sizeof(mapped_prefix)) &&
					  !memcmp(host + sizeof(mapped_prefix), any, 4));
}

/* "ADDRESS", "ADDRESS:PORT", "[ADDRESS]:PORT" or an interface. */
static int parse_where(const char *where, struct net_addr *addr, struct pg_error *err)
{
	char host[64], *colon, *end = NULL;
	unsigned long port = 0;

	snprintf(host, sizeof(host), "%s", where);
	colon = strrchr(host, ':');
	if (host[0] == '[' || (colon && colon == strchr(host, ':'))) {
		char *close = host[0] == '[' ? strchr(host, ']') : colon;

		if (close && colon > host && (host[0] != '[' || colon == close + 1)) {
			port = strtoul(colon + 1, &end, 10);
			*close = '\0';
		}
		if (!end || *end || !port || port > UINT16_MAX)
			return error_set(err, -EINVAL, "control \"%s\" has no port after its colon",
					 where);
		if (host[0] == '[')
			memmove(host, host + 1, strlen(host));
	}
	addr->port = (uint16_t)port;
	addr->n_hosts = 1;
	memset(addr->hosts[0], 0xff, sizeof(addr->hosts[0]));
	if (parse_host(host, addr->hosts[0]) && !is_any(addr->hosts[0]))
		return 0;
	/* Peers are told of addresses, never of "any". */
	if (is_any(addr->hosts[0]))
		host[0] = '\0';
	addr->n_hosts = interface_hosts(host, addr->hosts);
	if (!addr->n_hosts && *where)
		return error_set(
			err, -EADDRNOTAVAIL,
			"control \"%s\" is no address and no interface that is up and has one",
			where);
	return 0;
}

/* IPv4 by its own family: a host may have no IPv6 at all. */
union address {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address_of(union address *a, const uint8_t host[16], uint16_t port)
{
	memset(a, 0, sizeof(*a));
	if (!memcmp(host, mapped_prefix, sizeof(mapped_prefix))) {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(port);
		memcpy(&a->v4.sin_addr, host + sizeof(mapped_prefix), 4);
		return sizeof(a->v4);
	}
	a->v6.sin6_family = AF_INET6;
	a->v6.sin6_port = htons(port);
	memcpy(&a->v6.sin6_addr, host, 16);
	return sizeof(a->v6);
}

static int listen_at(const uint8_t host[16], uint16_t *port)
{
	union address a;
	socklen_t len = address_of(&a, host, *port);
	int off = 0, on = 1, rc;
	int fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (a.sa.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, &a.sa, len) || listen(fd, BACKLOG) || getsockname(fd, &a.sa, &len)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	*port = ntohs(a.sa.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
	return fd;
}

int endpoint_listen_tcp(struct net_addr *addr, const char *where, struct pg_error *err)
{
	static const uint8_t any[16];
	uint8_t any4[16] = { 0 };
	int fd, rc = parse_where(where, addr, err);
	bool one = *where && addr->n_hosts == 1;

	if (rc)
		return rc;
	if (addr->port && addr->port + addr->group > UINT16_MAX)
		return error_set(err, -EINVAL, "control \"%s\" leaves no port for group %u", where,
				 addr->group);
	if (addr->port)
		addr->port = (uint16_t)(addr->port + addr->group);
	fd = listen_at(one ? addr->hosts[0] : any, &addr->port);
	if (fd == -EAFNOSUPPORT && !one) {
		memcpy(any4, mapped_prefix, sizeof(mapped_prefix));
		fd = listen_at(any4, &addr->port);
	}
	if (fd < 0)
		return error_set(err, fd,
				 "cannot listen for control connections on \"%s\", port "
				 "%u: %s",
				 where, addr->port, strerror(-fd));
	return fd;
}

/* ---- Connecting ---- */

void endpoint_tune(int fd, uint64_t dead_ns)
{
	unsigned dead_ms = (unsigned)(dead_ns / 1000000);
	int on = 1, probe = PROBE_S, probes = dead_ms > 2000 ? (int)(dead_ms / 1000) - 1 : 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe, sizeof(probe));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe, sizeof(probe));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

static bool has_unix(const struct net_addr *addr)
{
	static const uint8_t none[16];

	return memcmp(addr->unix_id, none, sizeof(none)) != 0;
}

static int connect_to(int domain, int type, const void *sa, socklen_t len, bool *connecting)
{
	int fd = socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, sa, len) && errno != EINPROGRESS) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	*connecting = domain != AF_UNIX;
	return fd;
}

int endpoint_connect(const struct net_addr *addr, unsigned route, bool *connecting)
{
	struct sockaddr_un un;
	union address in;
	socklen_t len;

	*connecting = false;
	if (route == 0) {
		len = unix_name(&un, addr->unix_id);
		return has_unix(addr) ? connect_to(AF_UNIX, SOCK_SEQPACKET, &un, len, connecting)
				      : -ECONNREFUSED;
	}
	if (route > addr->n_hosts)
		return -ENOENT;
	len = address_of(&in, addr->hosts[route - 1], addr->port);
	return connect_to(in.sa.sa_family, SOCK_STREAM, &in, len, connecting);
}

/* ---- Names ---- */

void endpoint_describe(const struct net_addr *addr, unsigned route, char *buf, size_t size)
{
	struct sockaddr_un un;
	char host[INET6_ADDRSTRLEN] = "?";

	if (route == 0 || route > addr->n_hosts) {
		unix_name(&un, addr->unix_id);
		snprintf(buf, size, "@%s", un.sun_path + 1);
		return;
	}
	inet_ntop(AF_INET6, addr->hosts[route - 1], host, sizeof(host));
	if (!strncmp(host, "::ffff:", 7))
		snprintf(buf, size, "%s:%u", host + 7, addr->port);
	else
		snprintf(buf, size, "[%s]:%u", host, addr->port);
}

bool endpoint_same(const struct net_addr *a, const struct net_addr *b)
{
	if (a->group != b->group)
		return false;
	if (has_unix(a) && !memcmp(a->unix_id, b->unix_id, sizeof(a->unix_id)))
		return true;
	/* Addresses of private networks are the same on many hosts. */
	if (!a->port || a->port != b->port || memcmp(a->host, b->host, sizeof(a->host)))
		return false;
	for (unsigned i = 0; i < a->n_hosts; i++)
		for (unsigned j = 0; j < b->n_hosts; j++)
			if (!memcmp(a->hosts[i], b->hosts[j], 16))
				return true;
	return false;
}
