/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "transport/transport.h"

/* The order is the order of preference. A new transport is one more line. */
static const struct transport *const transports[] = {
	&transport_shm,
	&transport_verbs,
	&transport_ofi,
};

#define N_TRANSPORTS (sizeof(transports) / sizeof(transports[0]))

const struct transport *transport_at(unsigned i)
{
	return i < N_TRANSPORTS ? transports[i] : NULL;
}

const struct transport *transport_find(const char *name)
{
	for (unsigned i = 0; i < N_TRANSPORTS; i++) {
		if (!strcmp(transports[i]->name, name))
			return transports[i];
	}
	return NULL;
}
