/* SPDX-License-Identifier: MIT
 *
 * Memory regions of the stand-in for EFA: its keys are its own, and never the same twice. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "inside.h"

#define INDEX_BITS 16
#define MAX_MRS (1u << INDEX_BITS)

int fake_copy(pid_t pid, uint64_t to, uint64_t from, uint64_t len)
{
	while (len) {
		struct iovec local = { .iov_base = (void *)(uintptr_t)to, .iov_len = len };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)from, .iov_len = len };
		/* Not the function: sanitizers would look at what it writes. */
		long n = syscall(SYS_process_vm_readv, pid, &local, 1UL, &remote, 1UL, 0UL);

		if (n <= 0)
			return n < 0 ? -errno : -EFAULT;
		to += (uint64_t)n;
		from += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static bool covers(const struct fake_mr *mr, uint64_t addr, uint64_t len, uint64_t access)
{
	return (mr->access & access) == access && addr >= mr->base && len <= mr->len &&
	       addr - mr->base <= mr->len - len;
}

bool fake_mr_allows(struct fake_domain *d, uint64_t key, uint64_t addr, uint64_t len,
		    uint64_t access)
{
	uint64_t index = key & (MAX_MRS - 1);
	const struct fake_mr *mr = index < d->n_mrs ? d->mrs[index] : NULL;

	return mr && mr->fid.key == key && covers(mr, addr, len, access);
}

/* The descriptor may be anything. */
bool fake_mr_desc_allows(struct fake_domain *d, const void *desc, const void *addr, uint64_t len,
			 uint64_t access)
{
	for (uint32_t i = 0; i < d->n_mrs; i++) {
		if (d->mrs[i] && d->mrs[i]->fid.mem_desc == desc)
			return covers(d->mrs[i], (uintptr_t)addr, len, access);
	}
	return false;
}

static int mr_close(struct fid *fid)
{
	struct fake_mr *mr = CONTAINER(fid, struct fake_mr, fid.fid);
	struct fake_domain *d = mr->domain;

	fake_enter(d);
	d->mrs[mr->fid.key & (MAX_MRS - 1)] = NULL;
	d->refs--;
	fake_leave(d);
	free(mr);
	return 0;
}

static struct fi_ops mr_fid_ops = {
	.size = sizeof(mr_fid_ops),
	.close = mr_close,
	.bind = fake_no_bind,
	.control = fake_no_control,
	.ops_open = fake_no_ops_open,
};

static int take_index(struct fake_domain *d, struct fake_mr *mr)
{
	struct fake_mr **mrs;
	uint32_t i = 0;

	while (i < d->n_mrs && d->mrs[i])
		i++;
	if (i == MAX_MRS)
		return -FI_ENOSPC;
	if (i == d->n_mrs) {
		mrs = realloc(d->mrs, (i + 64) * sizeof(*mrs));
		if (!mrs)
			return -FI_ENOMEM;
		d->mrs = mrs;
		for (uint32_t k = i; k < i + 64; k++)
			mrs[k] = NULL;
		d->n_mrs = i + 64;
	}
	d->mrs[i] = mr;
	mr->fid.key = (uint64_t)(++d->generation & (MAX_MRS - 1)) << INDEX_BITS | i;
	d->refs++;
	return 0;
}

/* Nothing is asked of the memory itself: it may go before its region does, and then is not found. */
static int regattr(struct fid *fid, const struct fi_mr_attr *attr, uint64_t flags,
		   struct fid_mr **out)
{
	struct fake_domain *d = CONTAINER(fid, struct fake_domain, fid.fid);
	struct fake_mr *mr;
	int rc;

	if (flags || attr->iov_count != 1 || !attr->mr_iov->iov_len ||
	    attr->iface != FI_HMEM_SYSTEM)
		return -FI_EINVAL;
	mr = calloc(1, sizeof(*mr));
	if (!mr)
		return -FI_ENOMEM;
	mr->domain = d;
	mr->base = (uintptr_t)attr->mr_iov->iov_base;
	mr->len = attr->mr_iov->iov_len;
	mr->access = attr->access;
	mr->fid.mem_desc = mr;
	mr->fid.fid =
		(struct fid){ .fclass = FI_CLASS_MR, .context = attr->context, .ops = &mr_fid_ops };
	fake_enter(d);
	rc = take_index(d, mr);
	fake_leave(d);
	if (rc)
		free(mr);
	else
		*out = &mr->fid;
	return rc;
}

static int regv(struct fid *fid, const struct iovec *iov, size_t count, uint64_t access,
		uint64_t offset, uint64_t requested_key, uint64_t flags, struct fid_mr **mr,
		void *context)
{
	struct fi_mr_attr attr = {
		.mr_iov = iov, .iov_count = count, .access = access, .context = context
	};

	/* With FI_MR_VIRT_ADDR and FI_MR_PROV_KEY these two are the provider's. */
	(void)offset;
	(void)requested_key;
	return regattr(fid, &attr, flags, mr);
}

static int reg(struct fid *fid, const void *buf, size_t len, uint64_t access, uint64_t offset,
	       uint64_t requested_key, uint64_t flags, struct fid_mr **mr, void *context)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };

	return regv(fid, &iov, 1, access, offset, requested_key, flags, mr, context);
}

struct fi_ops_mr fake_mr_ops = {
	.size = sizeof(fake_mr_ops),
	.reg = reg,
	.regv = regv,
	.regattr = regattr,
};
