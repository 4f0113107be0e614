/* SPDX-License-Identifier: MIT
 *
 * Fabric and domain of the stand-in for EFA, and who may be inside at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "inside.h"

int fake_no_bind(struct fid *fid, struct fid *bfid, uint64_t flags)
{
	(void)fid;
	(void)bfid;
	(void)flags;
	return -FI_ENOSYS;
}

int fake_no_control(struct fid *fid, int command, void *arg)
{
	(void)fid;
	(void)command;
	(void)arg;
	return -FI_ENOSYS;
}

int fake_no_ops_open(struct fid *fid, const char *name, uint64_t flags, void **ops, void *context)
{
	(void)fid;
	(void)name;
	(void)flags;
	(void)ops;
	(void)context;
	return -FI_ENOSYS;
}

/* Relaxed: it must not order the callers, whose races a sanitizer would then not see. */
void fake_enter(struct fake_domain *d)
{
	if (d->thread_safe) {
		pthread_mutex_lock(&d->lock);
	} else if (atomic_exchange_explicit(&d->inside, true, memory_order_relaxed)) {
		fprintf(stderr, "fake_efa: two threads are in one domain of FI_THREAD_DOMAIN\n");
		abort();
	}
}

void fake_leave(struct fake_domain *d)
{
	if (d->thread_safe)
		pthread_mutex_unlock(&d->lock);
	else
		atomic_store_explicit(&d->inside, false, memory_order_relaxed);
}

/* ---- Domain --------------------------------------------------------------------------------- */

static int domain_close(struct fid *fid)
{
	struct fake_domain *d = CONTAINER(fid, struct fake_domain, fid.fid);

	if (d->refs)
		return -FI_EBUSY;
	/* Relaxed: only whether it is 0 matters, to who closes the fabric. */
	atomic_fetch_sub_explicit(&d->fabric->refs, 1, memory_order_relaxed);
	pthread_mutex_destroy(&d->lock);
	free(d->mrs);
	free(d);
	return 0;
}

static int domain_ops_open(struct fid *fid, const char *name, uint64_t flags, void **ops,
			   void *context)
{
	static struct fake_efa_ops fake_ops = { .count = fake_counted };

	(void)fid;
	(void)flags;
	(void)context;
	if (strcmp(name, FAKE_EFA_OPS))
		return -FI_EINVAL;
	*ops = &fake_ops;
	return 0;
}

static struct fi_ops domain_fid_ops = {
	.size = sizeof(domain_fid_ops),
	.close = domain_close,
	.bind = fake_no_bind,
	.control = fake_no_control,
	.ops_open = domain_ops_open,
};

static struct fi_ops_domain domain_ops = {
	.size = sizeof(domain_ops),
	.av_open = fake_av_open,
	.cq_open = fake_cq_open,
	.endpoint = fake_ep_open,
};

int fake_domain_open(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain,
		     void *context)
{
	struct fake_domain *d;
	unsigned nic;

	if (!info->domain_attr->name ||
	    sscanf(info->domain_attr->name, "fake_efa_%u-rdm", &nic) != 1 ||
	    nic >= fake_settings()->nics)
		return -FI_EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -FI_ENOMEM;
	/* Payload is read by who receives it, which some systems let a parent do but nobody else. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	d->fabric = CONTAINER(fabric, struct fake_fabric, fid);
	atomic_fetch_add_explicit(&d->fabric->refs, 1, memory_order_relaxed);
	d->nic = nic;
	fake_nic_state_path(d->nic_state, nic);
	d->thread_safe = info->domain_attr->threading != FI_THREAD_DOMAIN;
	pthread_mutex_init(&d->lock, NULL);
	d->fid.fid = (struct fid){ .fclass = FI_CLASS_DOMAIN,
				   .context = context,
				   .ops = &domain_fid_ops };
	d->fid.ops = &domain_ops;
	d->fid.mr = &fake_mr_ops;
	*domain = &d->fid;
	return 0;
}

/* ---- Fabric --------------------------------------------------------------------------------- */

static int fabric_close(struct fid *fid)
{
	struct fake_fabric *f = CONTAINER(fid, struct fake_fabric, fid.fid);

	if (atomic_load_explicit(&f->refs, memory_order_relaxed))
		return -FI_EBUSY;
	free(f);
	fake_settings_release();
	return 0;
}

static struct fi_ops fabric_fid_ops = {
	.size = sizeof(fabric_fid_ops),
	.close = fabric_close,
	.bind = fake_no_bind,
	.control = fake_no_control,
	.ops_open = fake_no_ops_open,
};

static struct fi_ops_fabric fabric_ops = {
	.size = sizeof(fabric_ops),
	.domain = fake_domain_open,
	.trywait = fake_trywait,
};

int fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context)
{
	struct fake_fabric *f;

	if (!attr->prov_name || strcmp(attr->prov_name, fake_settings()->provider))
		return -FI_ENODEV;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -FI_ENOMEM;
	f->fid.fid = (struct fid){ .fclass = FI_CLASS_FABRIC,
				   .context = context,
				   .ops = &fabric_fid_ops };
	f->fid.ops = &fabric_ops;
	f->fid.api_version = attr->api_version;
	fake_settings_hold();
	*fabric = &f->fid;
	return 0;
}
