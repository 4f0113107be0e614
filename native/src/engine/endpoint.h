/* SPDX-License-Identifier: MIT
 *
 * Sockets of control streams: where to listen, what to tell peers of it, how to reach them.
 */
#ifndef PGCTL_ENGINE_ENDPOINT_H
#define PGCTL_ENGINE_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "engine/address.h"

/* A listening socket, non-blocking, whose name is put into addr; or -errno. */
int endpoint_listen_unix(struct net_addr *addr, struct pg_error *err);
/* where: see control in struct pg_config. Groups of one engine take successive ports. */
int endpoint_listen_tcp(struct net_addr *addr, const char *where, struct pg_error *err);

/* A socket on its way to addr by its route-th way; 0 is the unix socket, then come the hosts. -ENOENT:
 * there is no such way; -EAGAIN: try again later; another -errno. */
int endpoint_connect(const struct net_addr *addr, unsigned route, bool *connecting);

/* Has the kernel find out whether the other host lives. */
void endpoint_tune(int fd, uint64_t dead_ns);

/* Who is at the other end of a unix socket, as the kernel says; pid 0: not visible from here. */
struct ucred endpoint_credentials(int fd);

/* For sentences. */
void endpoint_describe(const struct net_addr *addr, unsigned route, char *buf, size_t size);

/* Whether two addresses name the same place to connect to, which only one engine can have. */
bool endpoint_same(const struct net_addr *a, const struct net_addr *b);

#endif
