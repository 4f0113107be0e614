/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_ENGINE_CHECK_H
#define PGCTL_ENGINE_CHECK_H

#include "engine/group.h"

/* Whether an operation can be accepted, room aside; with the sentence if not. Any thread; locked: this
 * one holds the progress lock. */
int op_check(struct pg_group *g, const struct pg_op *op, bool locked, struct pg_error *err);

#endif
