/* SPDX-License-Identifier: MIT */
#include "transport/ofi/libfabric.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "util/error.h"

#define LIBRARY "libfabric.so.1"

/* AWS installs its own where the loader does not look by itself. */
static const char *const places[] = {
	LIBRARY,
	"/opt/amazon/efa/lib/" LIBRARY,
	"/opt/amazon/efa/lib64/" LIBRARY,
};

static struct libfabric lib;
static char missing[256];

static void *open_library(void)
{
	void *handle;

	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		handle = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
		if (handle)
			return handle;
		/* What is wrong with the one that the loader finds; the others are but a try. */
		if (!i)
			snprintf(missing, sizeof(missing),
				 "%s; install libfabric1, on AWS the EFA software", dlerror());
	}
	return NULL;
}

static void *find(void *handle, const char *name, const char *since)
{
	void *at = dlvsym(handle, name, since);

	if (!at && !missing[0])
		snprintf(missing, sizeof(missing), LIBRARY " is too old: it has no %s of %s", name,
			 since);
	return at;
}

static void load(void)
{
	const uint32_t built_for = FI_VERSION(FI_MAJOR_VERSION, FI_MINOR_VERSION);
	void *handle = open_library();

	if (!handle)
		return;
	missing[0] = '\0';
#define LIBFABRIC_FIND(name, since) \
	lib.name = (__typeof__(lib.name))find(handle, "fi_" #name, since);
	LIBFABRIC_FUNCTIONS(LIBFABRIC_FIND)
#undef LIBFABRIC_FIND
	if (missing[0])
		return;
	lib.api = lib.version() < built_for ? lib.version() : built_for;
}

const struct libfabric *libfabric(struct pg_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (!missing[0])
		return &lib;
	error_set(err, -ENODEV, "%s", missing);
	return NULL;
}
