/* SPDX-License-Identifier: MIT
 *
 * Address vectors of the stand-in for EFA: tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inside.h"

fi_addr_t fake_av_find(const struct fake_av *av, const struct fake_addr *addr)
{
	for (size_t i = 0; i < av->n; i++) {
		if (!memcmp(&av->addrs[i], addr, sizeof(*addr)))
			return i;
	}
	return FI_ADDR_NOTAVAIL;
}

/* One that is there already is the same again. */
static fi_addr_t insert_one(struct fake_av *av, const struct fake_addr *addr)
{
	fi_addr_t at = fake_av_find(av, addr);
	struct fake_addr *addrs;

	if (addr->magic == 0)
		return FI_ADDR_NOTAVAIL;
	if (at != FI_ADDR_NOTAVAIL)
		return at;
	for (at = 0; at < av->n && av->addrs[at].magic; at++)
		;
	if (at == av->n) {
		addrs = realloc(av->addrs, (av->n + 1) * sizeof(*addrs));
		if (!addrs)
			return FI_ADDR_NOTAVAIL;
		av->addrs = addrs;
		av->n++;
	}
	av->addrs[at] = *addr;
	return at;
}

/* Nobody has to be there: an address is but a number until something is sent to it. */
static int av_insert(struct fid_av *fid, const void *bytes, size_t count, fi_addr_t *out,
		     uint64_t flags, void *context)
{
	struct fake_av *av = CONTAINER(fid, struct fake_av, fid);
	struct fake_addr addr;
	int inserted = 0;

	(void)flags;
	(void)context;
	fake_enter(av->domain);
	for (size_t i = 0; i < count; i++) {
		fi_addr_t at;

		memcpy(&addr, (const char *)bytes + i * sizeof(addr), sizeof(addr));
		at = insert_one(av, &addr);
		if (out)
			out[i] = at;
		inserted += at != FI_ADDR_NOTAVAIL;
	}
	fake_leave(av->domain);
	return inserted;
}

static int av_remove(struct fid_av *fid, fi_addr_t *addrs, size_t count, uint64_t flags)
{
	struct fake_av *av = CONTAINER(fid, struct fake_av, fid);
	int rc = 0;

	(void)flags;
	fake_enter(av->domain);
	for (size_t i = 0; i < count; i++) {
		if (addrs[i] < av->n && av->addrs[addrs[i]].magic)
			av->addrs[addrs[i]] = (struct fake_addr){ 0 };
		else
			rc = -FI_EINVAL;
	}
	fake_leave(av->domain);
	return rc;
}

static int av_lookup(struct fid_av *fid, fi_addr_t at, void *addr, size_t *len)
{
	struct fake_av *av = CONTAINER(fid, struct fake_av, fid);

	if (at >= av->n || !av->addrs[at].magic)
		return -FI_EINVAL;
	memcpy(addr, &av->addrs[at],
	       *len < sizeof(struct fake_addr) ? *len : sizeof(struct fake_addr));
	*len = sizeof(struct fake_addr);
	return 0;
}

static const char *av_straddr(struct fid_av *fid, const void *bytes, char *buf, size_t *len)
{
	struct fake_addr addr;
	int n;

	(void)fid;
	memcpy(&addr, bytes, sizeof(addr));
	n = snprintf(buf, *len, "fake_efa_%u of process %d, endpoint %016jx", addr.nic, addr.pid,
		     (uintmax_t)addr.nonce);
	*len = (size_t)n + 1;
	return buf;
}

static int av_close(struct fid *fid)
{
	struct fake_av *av = CONTAINER(fid, struct fake_av, fid.fid);

	if (av->refs)
		return -FI_EBUSY;
	fake_enter(av->domain);
	av->domain->refs--;
	fake_leave(av->domain);
	free(av->addrs);
	free(av);
	return 0;
}

static struct fi_ops av_fid_ops = {
	.size = sizeof(av_fid_ops),
	.close = av_close,
	.bind = fake_no_bind,
	.control = fake_no_control,
	.ops_open = fake_no_ops_open,
};

static struct fi_ops_av av_ops = {
	.size = sizeof(av_ops),
	.insert = av_insert,
	.remove = av_remove,
	.lookup = av_lookup,
	.straddr = av_straddr,
};

int fake_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **out,
		 void *context)
{
	struct fake_domain *d = CONTAINER(domain, struct fake_domain, fid);
	struct fake_av *av;

	if (attr->flags & FI_EVENT || attr->name)
		return -FI_ENOSYS;
	av = calloc(1, sizeof(*av));
	if (!av)
		return -FI_ENOMEM;
	av->domain = d;
	av->fid.fid = (struct fid){ .fclass = FI_CLASS_AV, .context = context, .ops = &av_fid_ops };
	av->fid.ops = &av_ops;
	attr->type = FI_AV_TABLE;
	fake_enter(d);
	d->refs++;
	fake_leave(d);
	*out = &av->fid;
	return 0;
}
