/* SPDX-License-Identifier: MIT
 *
 * What holds in every group whenever nobody is in it. */
#ifndef PGCTL_FUZZ_CHECK_GROUP_H
#define PGCTL_FUZZ_CHECK_GROUP_H

#include "engine/group.h"

/* What it has counted is what there is, and no more than there may be. */
void check_group(const struct pg_group *g);

/* Also, nothing is on its way any more. */
void check_group_at_rest(const struct pg_group *g);

#endif
