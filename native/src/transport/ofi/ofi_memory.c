/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"
#include "util/cuda.h"
#include "util/error.h"
#include "util/log.h"
#include "util/random.h"

#define TRIES 8

/* As libfabric 1.20 and newer have it, in place of the first two members of struct fi_mr_attr. */
#define MR_DMABUF (1ull << 40)
#define DMABUF_API FI_VERSION(1, 20)

struct mr_dmabuf {
	int fd;
	uint64_t offset;
	size_t len;
	void *base_addr;
};

/* One that cannot be guessed, as whoever has it may write. */
static int random_key(const struct ofi_domain *d, uint64_t *key)
{
	size_t size = d->nic.info->domain_attr->mr_key_size;
	int rc = random_bytes(key, sizeof(*key));

	if (size && size < sizeof(*key))
		*key &= (1ull << 8 * size) - 1;
	return rc;
}

static int start(struct ofi_domain *d, struct fid_mr *mr)
{
	int rc = 0;

	if (!(d->nic.info->domain_attr->mr_mode & FI_MR_ENDPOINT))
		return 0;
	/* All is written through one endpoint then, which is there. */
	if (d->writer)
		rc = fi_mr_bind(mr, &d->writer->fid->fid, 0);
	return rc ? rc : fi_mr_enable(mr);
}

/* With the domain locked. */
static int reg(struct ofi_domain *d, struct fi_mr_attr *attr, uint64_t flags, struct fid_mr **mr)
{
	bool provides = d->nic.info->domain_attr->mr_mode & FI_MR_PROV_KEY;
	int rc = -FI_ENOKEY;

	attr->iov_count = 1;
	for (unsigned i = 0; i < TRIES && rc == -FI_ENOKEY; i++) {
		rc = provides ? 0 : random_key(d, &attr->requested_key);
		if (!rc)
			rc = fi_mr_regattr(d->fid, attr, flags, mr);
	}
	if (rc)
		return rc;
	rc = start(d, *mr);
	if (rc)
		fi_close(&(*mr)->fid);
	return rc;
}

int ofi_reg_own(struct ofi_domain *d, void *base, size_t len, uint64_t access, struct fid_mr **mr,
		struct pg_error *err)
{
	struct iovec iov = { .iov_base = base, .iov_len = len };
	struct fi_mr_attr attr = { .mr_iov = &iov, .access = access };
	int rc = reg(d, &attr, 0, mr);

	if (!rc)
		return 0;
	*mr = NULL;
	return ofi_refused(d, "it registers no memory", rc, err);
}

static struct fi_mr_attr attr_of(const struct iovec *iov, bool gpu)
{
	struct fi_mr_attr attr = {
		.mr_iov = iov,
		.access = FI_WRITE | FI_REMOTE_WRITE | FI_SEND | FI_RECV,
	};

	if (gpu) {
		attr.iface = FI_HMEM_CUDA;
		attr.device.cuda = cuda_device(iov->iov_base);
	}
	return attr;
}

/* By DMA-BUF. */
static int reg_dmabuf(struct ofi_domain *d, const struct iovec *iov, struct fid_mr **mr,
		      struct pg_error *err)
{
	struct mr_dmabuf dmabuf = { .len = iov->iov_len };
	struct fi_mr_attr attr = attr_of((const struct iovec *)(const void *)&dmabuf, true);
	int rc;

	if (d->lib->api < DMABUF_API)
		return error_set(err, -EOPNOTSUPP, "libfabric is older than 1.20");
	dmabuf.fd = cuda_dmabuf(iov->iov_base, iov->iov_len, &dmabuf.offset, err);
	if (dmabuf.fd < 0)
		return dmabuf.fd;
	dmabuf.base_addr = (char *)iov->iov_base - dmabuf.offset;
	pthread_mutex_lock(&d->lock);
	rc = reg(d, &attr, MR_DMABUF, mr);
	pthread_mutex_unlock(&d->lock);
	close(dmabuf.fd);
	return rc ? error_set(err, rc, "%s", d->lib->strerror(-rc)) : 0;
}

/* The provider's own way comes second: it may need a module, or copy by way of the host. */
static int reg_memory(struct ofi_domain *d, const struct memory *m, bool gpu, struct fid_mr **mr,
		      struct pg_error *err)
{
	struct iovec iov = { .iov_base = m->base, .iov_len = m->len };
	struct fi_mr_attr attr = attr_of(&iov, gpu);
	struct pg_error dmabuf = { 0 };
	int rc;

	if (gpu && !d->domain.caps.gpu)
		return error_set(err, -EOPNOTSUPP,
				 "%s (%s of libfabric) registers no memory of GPUs: it was not "
				 "offered for FI_HMEM",
				 d->domain.name, ofi_provider(d));
	if (gpu && !reg_dmabuf(d, &iov, mr, &dmabuf))
		return 0;
	pthread_mutex_lock(&d->lock);
	rc = reg(d, &attr, 0, mr);
	pthread_mutex_unlock(&d->lock);
	if (!rc && gpu)
		log_info("%s: GPU memory by address, not by DMA-BUF: %s", d->domain.name,
			 dmabuf.text);
	if (!rc)
		return 0;
	return error_set(err, rc > -FI_ERRNO_OFFSET ? rc : -EIO,
			 "%s cannot register %llu bytes%s: %s%s%s", d->domain.name,
			 (unsigned long long)m->len, gpu ? " of GPU memory by address" : "",
			 d->lib->strerror(-rc), gpu ? "; by DMA-BUF: " : "", dmabuf.text);
}

int ofi_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
	       struct pg_error *err)
{
	struct ofi_domain *d = ofi_domain(domain);
	bool gpu = memory->fd < 0 && cuda_is_device_memory(memory->base);
	struct ofi_mr *mr = malloc(sizeof(*mr));
	int rc;

	if (!mr)
		return error_set(err, -ENOMEM, "no memory for a region");
	rc = reg_memory(d, memory, gpu, &mr->fid, err);
	if (rc) {
		free(mr);
		return rc;
	}
	mr->desc = fi_mr_desc(mr->fid);
	*lkey = (uintptr_t)mr;
	*key = fi_mr_key(mr->fid);
	return 0;
}

void ofi_mr_dereg(struct domain *domain, uint64_t lkey)
{
	struct ofi_domain *d = ofi_domain(domain);
	struct ofi_mr *mr = (struct ofi_mr *)(uintptr_t)lkey;

	pthread_mutex_lock(&d->lock);
	fi_close(&mr->fid->fid);
	pthread_mutex_unlock(&d->lock);
	free(mr);
}
