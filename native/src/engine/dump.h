/* SPDX-License-Identifier: MIT
 *
 * What is in flight and what is waited for, in words. Under the progress lock.
 */
#ifndef PGCTL_ENGINE_DUMP_H
#define PGCTL_ENGINE_DUMP_H

#include "engine/group.h"

/* To the log, as warnings. */
void dump_log(struct pg_group *g);

#endif
