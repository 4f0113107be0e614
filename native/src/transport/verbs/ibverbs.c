/* SPDX-License-Identifier: MIT */
#include "transport/verbs/ibverbs.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "util/error.h"
#include "util/log.h"

#define LIBRARY "libibverbs.so.1"

static struct ibverbs lib;
static char missing[128];

static void *find(void *handle, const char *name)
{
	void *at = dlsym(handle, name);

	if (!at && !missing[0])
		snprintf(missing, sizeof(missing), LIBRARY " is too old: it has no %s", name);
	return at;
}

static void load(void)
{
	void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (!handle) {
		snprintf(missing, sizeof(missing), "%s; install libibverbs1 and ibverbs-providers",
			 dlerror());
		return;
	}
#define IBVERBS_FIND(name) lib.name = (__typeof__(lib.name))find(handle, "ibv_" #name);
	IBVERBS_FUNCTIONS(IBVERBS_FIND)
#undef IBVERBS_FIND
	lib.query_gid_ex = (__typeof__(lib.query_gid_ex))find(handle, "_ibv_query_gid_ex");
	lib.fork_init = (__typeof__(lib.fork_init))find(handle, "ibv_fork_init");
	lib.reg_dmabuf_mr = (__typeof__(lib.reg_dmabuf_mr))dlsym(handle, "ibv_reg_dmabuf_mr");
	/* Before Linux 5.12 a fork would leave us other pages than the device has; since then it does
	 * nothing. Too late where this process has used RDMA before. */
	if (!missing[0] && lib.fork_init())
		log_warn("%s: not made safe for forks: RDMA was in use before", LIBRARY);
}

const struct ibverbs *ibverbs(struct pg_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (!missing[0])
		return &lib;
	error_set(err, -ENODEV, "%s", missing);
	return NULL;
}

int ibverbs_query_port(const struct ibverbs *ib, struct ibv_context *context, uint8_t port,
		       struct ibv_port_attr *attr)
{
	struct verbs_context *v = verbs_get_ctx_op(context, query_port);

	memset(attr, 0, sizeof(*attr));
	if (v)
		return v->query_port(context, port, attr, sizeof(*attr));
	return ib->query_port(context, port, (struct _compat_ibv_port_attr *)attr);
}
