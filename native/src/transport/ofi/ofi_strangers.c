/* SPDX-License-Identifier: MIT
 *
 * Who connects to an endpoint of tcp and has not said yet who it is outlives the endpoint, and when it says so
 * or leaves, the provider looks at what the endpoint was (all versions up to 2.6). Anybody may do that. So
 * all sockets of an endpoint's address are shut down, and the provider forgets them, before it is closed. */
#include <arpa/inet.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

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

void ofi_strangers_leave(const struct ofi_domain *d, const struct ofi_endpoint *e)
{
	DIR *dir = d->nic.own_endpoints && e->name_len ? opendir("/proc/self/fd") : NULL;
	const struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(dir) && is_at(fd, e))
			shutdown(fd, SHUT_RDWR);
	}
	closedir(dir);
	/* It makes progress; once for who may have come just before. */
	for (unsigned i = 0; i < 2; i++)
		fi_cq_read(d->cq, NULL, 0);
}
