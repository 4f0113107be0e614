/* SPDX-License-Identifier: MIT
 *
 * What libfabric offers on this machine, whether or not a transport would use it. */
#include <errno.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <stdio.h>
#include <string.h>

#include "transport/ofi/libfabric.h"
#include "util/error.h"

/* What a caller of ours could live with: providers that demand more are left out. */
#define MODES (FI_CONTEXT | FI_CONTEXT2 | FI_RX_CQ_DATA)
#define MR_MODES (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT)

#define MBIT 1000000

/* Connectionless endpoints with messages, RMA and these capabilities; NULL for none. */
static int list_offers(const struct libfabric *fabric, uint64_t caps, struct fi_info **list,
		       struct pg_error *err)
{
	struct fi_info *hints = fabric->dupinfo(NULL);
	int rc;

	if (!hints)
		return error_set(err, -ENOMEM, "no memory for what to ask libfabric");
	hints->caps = FI_MSG | FI_RMA | caps;
	hints->mode = MODES;
	hints->ep_attr->type = FI_EP_RDM;
	hints->domain_attr->mr_mode = MR_MODES | (caps & FI_HMEM ? FI_MR_HMEM : 0);
	rc = libfabric_getinfo(fabric, hints, list);
	fabric->freeinfo(hints);
	if (!rc || rc == -FI_ENODATA)
		return 0;
	return error_set(err, rc > -FI_ERRNO_OFFSET ? rc : -EIO, "fi_getinfo: %s",
			 fabric->strerror(-rc));
}

static bool same(const struct fi_info *a, const struct fi_info *b)
{
	return !strcmp(a->fabric_attr->prov_name, b->fabric_attr->prov_name) &&
	       !strcmp(a->domain_attr->name, b->domain_attr->name);
}

/* The first from here on that is of the same provider and domain: each is there once for every address and
 * protocol. */
static const struct fi_info *find(const struct fi_info *from, const struct fi_info *like)
{
	while (from && !same(from, like))
		from = from->next;
	return from;
}

static void describe(const struct fi_info *first, const struct fi_info *hmem,
		     struct pg_fabric_facts *facts)
{
	*facts = (struct pg_fabric_facts){ .hmem = find(hmem, first) };
	snprintf(facts->provider, sizeof(facts->provider), "%s", first->fabric_attr->prov_name);
	snprintf(facts->fabric, sizeof(facts->fabric), "%s", first->fabric_attr->name);
	snprintf(facts->domain, sizeof(facts->domain), "%s", first->domain_attr->name);
	for (const struct fi_info *info = first; info; info = find(info->next, first)) {
		const struct fi_link_attr *link = info->nic ? info->nic->link_attr : NULL;

		facts->cq_data |= info->domain_attr->cq_data_size >= sizeof(uint32_t);
		if (info->ep_attr->max_msg_size > facts->max_msg)
			facts->max_msg = info->ep_attr->max_msg_size;
		if (link && link->speed / MBIT > facts->link_mbit_s)
			facts->link_mbit_s = link->speed / MBIT;
	}
}

int pg_fabric_facts(struct pg_fabric_facts *facts, uint32_t max, uint32_t *version,
		    struct pg_error *err)
{
	const struct libfabric *fabric = libfabric("", err);
	struct fi_info *all, *hmem;
	uint32_t n = 0;
	int rc;

	if (!fabric)
		return -ENODEV;
	rc = list_offers(fabric, 0, &all, err);
	if (rc)
		return rc;
	/* A provider speaks of GPU memory only to those who ask for it. */
	rc = list_offers(fabric, FI_HMEM, &hmem, err);
	if (rc)
		goto out_free_all;
	for (const struct fi_info *info = all; info; info = info->next) {
		if (find(all, info) != info)
			continue;
		if (n < max)
			describe(info, hmem, &facts[n]);
		n++;
	}
	*version = fabric->version();
	rc = (int)n;
	if (hmem)
		fabric->freeinfo(hmem);
out_free_all:
	if (all)
		fabric->freeinfo(all);
	return rc;
}
