/* SPDX-License-Identifier: MIT
 *
 * libfabric, opened at run time: the build needs its header alone, and who has no use for it needs nothing.
 * Functions that its header has inline go through an object's own table and are called as they are, but
 * for fi_allocinfo(), which is dupinfo(NULL). */
#ifndef PGCTL_LIBFABRIC_H
#define PGCTL_LIBFABRIC_H

#include <rdma/fabric.h>
#include <stdint.h>

#include "pgctl/engine.h"

/* The newest version of the API that we know how to ask for. What the header at hand lacks of it is not
 * used, or is in ofi.h; structures are those of the symbols' versions. */
#define LIBFABRIC_API FI_VERSION(1, 20)

/* With the oldest version of each symbol that has what we use. Those of 1.3 deal in struct fi_info as it is
 * since libfabric 1.9: newer libraries keep them for programs of that time, and a newer header has only
 * more members at the ends of structures, which are not ours to touch. */
#define LIBFABRIC_FUNCTIONS(X)    \
	X(dupinfo, "FABRIC_1.3")  \
	X(fabric, "FABRIC_1.1")   \
	X(freeinfo, "FABRIC_1.3") \
	X(getinfo, "FABRIC_1.3")  \
	X(strerror, "FABRIC_1.0") \
	X(version, "FABRIC_1.0")

struct libfabric {
#define LIBFABRIC_MEMBER(name, since) __typeof__(fi_##name) *name;
	LIBFABRIC_FUNCTIONS(LIBFABRIC_MEMBER)
#undef LIBFABRIC_MEMBER
	uint32_t api;     /* the version to ask for: what both the library and we know */
	const char *path; /* where it is, as far as that is known */
};

/* fi_getinfo, which opens the providers. Those of psm and shm take signals over, which is undone. */
int libfabric_getinfo(const struct libfabric *lib, const struct fi_info *hints,
		      struct fi_info **list);

/* The library at path ("": where it usually is), opened once and for good; NULL and the reason. Any
 * thread. */
const struct libfabric *libfabric(const char *path, struct pg_error *err);

#endif
