/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_ENGINE_ENGINE_H
#define PGCTL_ENGINE_ENGINE_H

#include "engine/group.h"

/* Groups share the configuration and who they are. */
struct pg_engine {
	struct list link; /* of all in this process */
	struct pg_config config;
	uint8_t incarnation[16];
	uint8_t token[16];
	uint8_t host[16];
	unsigned n_groups;
	struct pg_group *groups[];
};

/* What goes wrong with the NICs of a group: as it is configured, else as the environment says; "" is
 * nothing. The text is theirs. */
struct impairment {
	const char *spec;
	uint64_t seed;
};
int config_impairment(const struct pg_group_config *config, struct impairment *impair,
		      struct pg_error *err);

#endif
