/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "transport/verbs/verbs.h"
#include "util/cuda.h"
#include "util/error.h"
#include "util/log.h"

int verbs_mr_refused(const struct verbs_domain *d, uint64_t len, int code, struct pg_error *err)
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

static int access_of(const struct verbs_domain *d)
{
	return IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
	       (d->options.relaxed ? IBV_ACCESS_RELAXED_ORDERING : 0);
}

static struct ibv_mr *reg_address(const struct verbs_domain *d, const struct memory *m)
{
	unsigned access = (unsigned)access_of(d);

	if (access & IBV_ACCESS_OPTIONAL_RANGE)
		return d->lib->reg_mr_iova2(d->pd, m->base, m->len, (uintptr_t)m->base, access);
	return d->lib->reg_mr(d->pd, m->base, m->len, (int)access);
}

static struct ibv_mr *reg_dmabuf(const struct verbs_domain *d, const struct memory *m,
				 struct pg_error *err)
{
	struct ibv_mr *mr = NULL;
	uint64_t offset;
	int fd;

	if (!d->lib->reg_dmabuf_mr) {
		error_set(err, -EOPNOTSUPP, "libibverbs is older than rdma-core 34");
		return NULL;
	}
	fd = cuda_dmabuf(m->base, m->len, &offset, err);
	if (fd < 0)
		return NULL;
	mr = d->lib->reg_dmabuf_mr(d->pd, offset, m->len, (uintptr_t)m->base, fd, access_of(d));
	if (!mr)
		error_set(err, -errno, "ibv_reg_dmabuf_mr: %s", strerror(errno));
	close(fd);
	return mr;
}

/* By DMA-BUF, which kernel, device and driver have to know; or by its address, for which a module
 * (nvidia_peermem) has to translate. */
static struct ibv_mr *reg_gpu(const struct verbs_domain *d, const struct memory *m,
			      struct pg_error *err)
{
	struct pg_error dmabuf = { 0 };
	struct ibv_mr *mr = reg_dmabuf(d, m, &dmabuf);
	int code;

	if (mr)
		return mr;
	mr = reg_address(d, m);
	if (mr) {
		log_info("%s: GPU memory by address, not by DMA-BUF: %s", d->domain.name,
			 dmabuf.text);
		return mr;
	}
	code = errno;
	error_set(err, -code,
		  "%s cannot register %llu bytes of GPU memory: by DMA-BUF: %s; by address: %s, is "
		  "nvidia_peermem loaded?",
		  d->domain.name, (unsigned long long)m->len, dmabuf.text, strerror(code));
	errno = code;
	return NULL;
}

int verbs_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
		 struct pg_error *err)
{
	struct verbs_domain *d = verbs_domain(domain);
	bool gpu = memory->fd < 0 && cuda_is_device_memory(memory->base);
	struct ibv_mr *mr = gpu ? reg_gpu(d, memory, err) : reg_address(d, memory);

	if (!mr)
		return gpu ? -errno : verbs_mr_refused(d, memory->len, errno, err);
	*lkey = (uintptr_t)mr | (gpu ? VERBS_LKEY_GPU : 0);
	*key = mr->rkey;
	return 0;
}

void verbs_mr_dereg(struct domain *domain, uint64_t lkey)
{
	verbs_domain(domain)->lib->dereg_mr((struct ibv_mr *)(uintptr_t)(lkey & ~VERBS_LKEY_GPU));
}
