/* SPDX-License-Identifier: MIT
 *
 * Descriptors that a forked child must not keep open, because their closing says that we have died.
 * (CLOEXEC closes them on exec; this is for children that do not.) Any thread.
 */
#ifndef PGCTL_UTIL_FORK_FDS_H
#define PGCTL_UTIL_FORK_FDS_H

/* Those above 65535 are not noted. */
void fork_fds_add(int fd);
/* Before it is closed. */
void fork_fds_remove(int fd);

/* In the child, where nothing else runs: closes all of them. */
void fork_fds_close(void);

#endif
