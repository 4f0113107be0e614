/* SPDX-License-Identifier: MIT
 *
 * Words that a CPU or a GPU writes and the engine watches. Under the progress lock.
 */
#ifndef PGCTL_ENGINE_WATCHER_H
#define PGCTL_ENGINE_WATCHER_H

#include "engine/group.h"

int watchers_create(struct pg_group *g);
void watchers_destroy(struct pg_group *g);

/* Looks at all of them; how many have changed. */
int watchers_poll(struct pg_group *g);

/* How long a sleep may last: shorter after a change, up to a millisecond. */
uint64_t watchers_sleep_ns(struct pg_group *g);

#endif
