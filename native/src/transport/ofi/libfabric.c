/* SPDX-License-Identifier: MIT */
#include "transport/ofi/libfabric.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "util/error.h"
#include "util/signals.h"

#define LIBRARY "libfabric.so.1"
#define MAX_OPENED 8
#define MAX_PATH 256

/* AWS installs its own where the loader does not look by itself. */
static const char *const places[] = {
	LIBRARY,
	"/opt/amazon/efa/lib/" LIBRARY,
	"/opt/amazon/efa/lib64/" LIBRARY,
};

/* One that was asked for, and was found or not. */
struct opened {
	char path[MAX_PATH];
	struct libfabric lib;
	char missing[256]; /* "": nothing is */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct opened opened[MAX_OPENED];
static unsigned n_opened;

static void *try(struct opened *o, const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (handle)
		o->lib.path = path;
	/* What is wrong with the one that the loader finds; the others are but a try. */
	else if (!o->missing[0])
		snprintf(o->missing, sizeof(o->missing),
			 "%s; install libfabric1, on AWS the EFA software", dlerror());
	return handle;
}

static void *open_library(struct opened *o)
{
	void *handle = NULL;

	if (o->path[0])
		return try(o, o->path);
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]) && !handle; i++)
		handle = try(o, places[i]);
	return handle;
}

static void *find(struct opened *o, void *handle, const char *name, const char *since)
{
	void *at = dlvsym(handle, name, since);

	if (!at && !o->missing[0])
		snprintf(o->missing, sizeof(o->missing), "%s is too old: it has no %s of %s",
			 o->lib.path, name, since);
	return at;
}

static void load(struct opened *o)
{
	struct libfabric *lib = &o->lib;
	void *handle = open_library(o);

	if (!handle)
		return;
	o->missing[0] = '\0';
#define LIBFABRIC_FIND(name, since) \
	lib->name = (__typeof__(lib->name))find(o, handle, "fi_" #name, since);
	LIBFABRIC_FUNCTIONS(LIBFABRIC_FIND)
#undef LIBFABRIC_FIND
	if (o->missing[0])
		return;
	lib->api = lib->version() < LIBFABRIC_API ? lib->version() : LIBFABRIC_API;
}

/* NULL: there is no room for another. */
static struct opened *find_opened(const char *path)
{
	for (unsigned i = 0; i < n_opened; i++)
		if (!strcmp(opened[i].path, path))
			return &opened[i];
	if (n_opened == MAX_OPENED || strlen(path) >= MAX_PATH)
		return NULL;
	memcpy(opened[n_opened].path, path, strlen(path) + 1);
	load(&opened[n_opened]);
	return &opened[n_opened++];
}

int libfabric_getinfo(const struct libfabric *lib, const struct fi_info *hints,
		      struct fi_info **list)
{
	struct signals signals;
	int rc;

	*list = NULL;
	signals_save(&signals);
	rc = lib->getinfo(lib->api, NULL, NULL, 0, hints, list);
	signals_restore(&signals);
	return rc;
}

const struct libfabric *libfabric(const char *path, struct pg_error *err)
{
	struct signals signals;
	struct opened *o;

	pthread_mutex_lock(&lock);
	signals_save(&signals);
	o = find_opened(path);
	signals_restore(&signals);
	pthread_mutex_unlock(&lock);
	if (o && !o->missing[0])
		return &o->lib;
	error_set(err, -ENODEV, "%s", o ? o->missing : "too many libraries of libfabric are open");
	return NULL;
}
