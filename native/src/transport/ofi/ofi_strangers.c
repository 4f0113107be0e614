/* SPDX-License-Identifier: MIT
 *
 * Who connects to an endpoint of tcp and has not said yet who it is outlives the endpoint, and when it says so
 * or leaves, the provider looks at what the endpoint was (all versions up to 2.6). Anybody may do that. So
 * all sockets of an endpoint's address are shut down, and the provider forgets them, before it is closed.
 * Some it forgets without closing them (1.17, which takes their leaving for a wait while errno says EAGAIN
 * from before): they are closed after it. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"

/* Whether the socket is bound to that address. Of all that has such a number here, only the provider's can
 * be, as it listens there. */
static bool is_at(int fd, const struct ofi_endpoint *e)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage room;
	} at, name = { 0 };
	socklen_t len = sizeof(at);

	memcpy(&name, e->name, e->name_len);
	if (getsockname(fd, &at.any, &len) || at.any.sa_family != name.any.sa_family)
		return false;
	if (at.any.sa_family == AF_INET)
		return at.in.sin_port == name.in.sin_port &&
		       at.in.sin_addr.s_addr == name.in.sin_addr.s_addr;
	return at.any.sa_family == AF_INET6 && at.in6.sin6_port == name.in6.sin6_port &&
	       IN6_ARE_ADDR_EQUAL(&at.in6.sin6_addr, &name.in6.sin6_addr);
}

/* So that nobody's who has the number since is closed. */
static ino_t socket_of(int fd)
{
	struct stat stat;

	return fstat(fd, &stat) ? 0 : stat.st_ino;
}

static void shut(struct ofi_strangers *s, int fd)
{
	struct ofi_stranger *more = reallocarray(s->all, s->n + 1, sizeof(*s->all));

	shutdown(fd, SHUT_RDWR);
	if (!more)
		return; /* it may stay open */
	s->all = more;
	s->all[s->n++] = (struct ofi_stranger){ .fd = fd, .socket = socket_of(fd) };
}

void ofi_strangers_leave(const struct ofi_domain *d, const struct ofi_endpoint *e,
			 struct ofi_strangers *s)
{
	DIR *dir = d->nic.own_endpoints && e->name_len ? opendir("/proc/self/fd") : NULL;
	const struct dirent *entry;

	*s = (struct ofi_strangers){ 0 };
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(dir) && is_at(fd, e))
			shut(s, fd);
	}
	closedir(dir);
	/* It makes progress; once for who may have come just before. */
	for (unsigned i = 0; i < 2; i++) {
		errno = 0;
		fi_cq_read(d->cq, NULL, 0);
	}
}

void ofi_strangers_close(struct ofi_strangers *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->all[i].socket && socket_of(s->all[i].fd) == s->all[i].socket)
			close(s->all[i].fd);
	free(s->all);
}
