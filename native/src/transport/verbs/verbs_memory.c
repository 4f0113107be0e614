/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"

static int explain(const struct verbs_domain *d, uint64_t len, int code, struct pg_error *err)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (code == ENOMEM && limit.rlim_cur != RLIM_INFINITY)
		return error_set(err, -ENOMEM,
				 "%s cannot register %llu bytes: at most %llu KiB may be locked "
				 "(ulimit -l); raise memlock in limits.conf, LimitMEMLOCK in a "
				 "unit, or give CAP_IPC_LOCK",
				 d->domain.name, (unsigned long long)len,
				 (unsigned long long)limit.rlim_cur / 1024);
	return error_set(err, -code, "%s cannot register %llu bytes: %s", d->domain.name,
			 (unsigned long long)len, strerror(code));
}

int verbs_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
		 struct pg_error *err)
{
	struct verbs_domain *d = verbs_domain(domain);
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_mr *mr;

	if (d->options.relaxed)
		mr = d->lib->reg_mr_iova2(d->pd, memory->base, memory->len, (uintptr_t)memory->base,
					  (unsigned)access | IBV_ACCESS_RELAXED_ORDERING);
	else
		mr = d->lib->reg_mr(d->pd, memory->base, memory->len, access);
	if (!mr)
		return explain(d, memory->len, errno, err);
	*lkey = (uintptr_t)mr;
	*key = mr->rkey;
	return 0;
}

void verbs_mr_dereg(struct domain *domain, uint64_t lkey)
{
	verbs_domain(domain)->lib->dereg_mr((struct ibv_mr *)(uintptr_t)lkey);
}
