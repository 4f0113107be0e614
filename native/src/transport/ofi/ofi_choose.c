/* SPDX-License-Identifier: MIT
 *
 * Which provider and NIC it is to be, and why. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "transport/ofi/ofi.h"
#include "util/cuda.h"
#include "util/error.h"
#include "util/rail.h"

#define MR_MODES (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT)
#define MBIT 1000000

/* The providers that keep what we promise. Those of lower rank are better; of one rank, libfabric's order
 * decides. Not among them is tcp;ofi_rxm, which ends messages that were not delivered. */
struct provider {
	const char *name, *asked; /* by which it is asked for, if another */
	int rank;
	bool own_endpoints;      /* they are cheap */
	bool local;              /* it reaches this host alone */
	bool fences;             /* its device or kernel does not send for ever what was given up */
	bool keeps, lingers;     /* see struct ofi_nic, */
	unsigned bare;           /* also of this */
	bool names_sources, rxm; /* likewise */
};

/* efa is the first, see struct ofi_nic. */
static const struct provider providers[] = {
	{ .name = "efa", .rank = 0, .fences = true, .names_sources = true },
	/* Its queue goes on looking at endpoints that were closed (up to 2.6), and 1.17 crashes when one is
	 * closed that has something in flight. */
	{ .name = "verbs;ofi_rxm",
	  .asked = "verbs",
	  .rank = 1,
	  .fences = true,
	  .keeps = true,
	  .rxm = true },
	{ .name = "cxi", .rank = 2, .fences = true },
	{ .name = "tcp", .rank = 3, .own_endpoints = true, .fences = true },
	/* What is tcp since libfabric 1.18, as 1.17 has it. */
	{ .name = "net", .asked = "tcp", .rank = 4, .own_endpoints = true, .fences = true },
	{ .name = "shm",
	  .rank = 5,
	  .local = true,
	  .fences = true,
	  .keeps = true,
	  .lingers = true,
	  .bare = 1 },
};

#define N_PROVIDERS (sizeof(providers) / sizeof(providers[0]))

static const struct provider *provider_of(const struct fi_info *info)
{
	for (unsigned i = 0; i < N_PROVIDERS; i++)
		if (!strcmp(info->fabric_attr->prov_name, providers[i].name))
			return &providers[i];
	return NULL;
}

const char *ofi_provider_name(unsigned n)
{
	return n < N_PROVIDERS ? providers[n].name : "unknown";
}

static bool is_asked(const struct provider *p, const char *name)
{
	return !strcmp(p->name, name) || (p->asked && !strcmp(p->asked, name));
}

/* ---- What there is ---- */

static const char *device_of(const struct fi_info *info)
{
	const struct fi_device_attr *device = info->nic ? info->nic->device_attr : NULL;

	return device && device->name ? device->name : info->domain_attr->name;
}

static bool is_named(const struct fi_info *info, const char *device)
{
	return !strcmp(device_of(info), device) || !strcmp(info->domain_attr->name, device);
}

/* Addresses that lead nowhere else, or only with a scope that a peer does not know. */
static bool is_local(const struct fi_info *info)
{
	const struct sockaddr *sa = info->src_addr;

	if (!sa || (info->addr_format != FI_SOCKADDR_IN && info->addr_format != FI_SOCKADDR_IN6))
		return false;
	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *in = info->src_addr;

		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	}
	if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = info->src_addr;

		return IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) ||
		       IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	}
	return false;
}

static bool can_serve(const struct fi_info *info)
{
	/* efa has a second fabric, without messages in order or delivery complete. */
	return provider_of(info) && info->ep_attr->type == FI_EP_RDM &&
	       info->domain_attr->cq_data_size >= 4 &&
	       !((uint64_t)info->domain_attr->mr_mode & ~(uint64_t)(MR_MODES | FI_MR_HMEM)) &&
	       info->src_addrlen <= OFI_NAME && strcmp(info->fabric_attr->name, "efa-direct") != 0;
}

/* Lower is better: the provider, then addresses that lead elsewhere, then the older protocol. */
static int score(const struct fi_info *info)
{
	return provider_of(info)->rank * 4 + (is_local(info) ? 2 : 0) +
	       (info->addr_format == FI_SOCKADDR_IN6 ? 1 : 0);
}

/* Providers leave out what is asked for with more than they can. */
static int list(const struct libfabric *lib, bool hmem, struct fi_info **all, struct pg_error *err)
{
	struct fi_info *hints = lib->dupinfo(NULL);
	int rc;

	if (!hints)
		return error_set(err, -ENOMEM, "no memory for what to ask libfabric");
	hints->caps = FI_MSG | FI_RMA | FI_SOURCE | (hmem ? FI_HMEM : 0);
	hints->mode = FI_CONTEXT | FI_CONTEXT2;
	hints->ep_attr->type = FI_EP_RDM;
	hints->tx_attr->msg_order = FI_ORDER_SAS;
	hints->rx_attr->msg_order = FI_ORDER_SAS;
	hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
	hints->domain_attr->mr_mode = MR_MODES | (hmem ? FI_MR_HMEM : 0);
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	hints->domain_attr->control_progress = FI_PROGRESS_MANUAL;
	hints->domain_attr->data_progress = FI_PROGRESS_MANUAL;
	hints->domain_attr->cq_data_size = 4;
	rc = libfabric_getinfo(lib, hints, all);
	lib->freeinfo(hints);
	if (!rc || rc == -FI_ENODATA)
		return 0;
	return error_set(err, rc > -FI_ERRNO_OFFSET ? rc : -EIO, "fi_getinfo: %s",
			 lib->strerror(-rc));
}

/* ---- The choice ---- */

/* NICs in the order of preference: each the best of its infos. */
struct choice {
	const char *provider, *device; /* "": any */
	const struct fi_info *nics[64];
	unsigned n;
};

static bool fits(const struct choice *c, const struct fi_info *info)
{
	if (!can_serve(info) || (c->device[0] && !is_named(info, c->device)))
		return false;
	return c->provider[0] ? is_asked(provider_of(info), c->provider)
			      : !provider_of(info)->local;
}

static void add(struct choice *c, const struct fi_info *info)
{
	unsigned i = 0;

	while (i < c->n && strcmp(device_of(c->nics[i]), device_of(info)) != 0)
		i++;
	if (i == sizeof(c->nics) / sizeof(c->nics[0]))
		return;
	if (i == c->n)
		c->nics[c->n++] = info;
	else if (score(info) < score(c->nics[i]))
		c->nics[i] = info;
}

static void gather(struct choice *c, const struct fi_info *all)
{
	int best = INT32_MAX;
	unsigned n = 0;

	for (const struct fi_info *info = all; info; info = info->next)
		if (fits(c, info))
			add(c, info);
	/* None that leads nowhere, or of a worse provider, beside those that are better. */
	for (unsigned i = 0; i < c->n; i++)
		if (score(c->nics[i]) / 2 < best)
			best = score(c->nics[i]) / 2;
	for (unsigned i = 0; i < c->n; i++)
		if (score(c->nics[i]) / 2 == best)
			c->nics[n++] = c->nics[i];
	c->n = n;
}

/* "net (eth0, lo)", of what could serve. */
static void tell(const struct fi_info *all, char *text, size_t size)
{
	const struct fi_info *last = NULL;
	size_t len = 0;

	text[0] = '\0';
	for (const struct fi_info *info = all; info && len < size; info = info->next) {
		const char *name = info->fabric_attr->prov_name;

		if (!can_serve(info) || (last && !strcmp(device_of(last), device_of(info)) &&
					 !strcmp(last->fabric_attr->prov_name, name)))
			continue;
		len += (size_t)snprintf(text + len, size - len, "%s%s:%s", len ? ", " : "", name,
					device_of(info));
		last = info;
	}
}

static int nothing(const struct libfabric *lib, const struct choice *c, const struct fi_info *all,
		   struct pg_error *err)
{
	char there[200];

	tell(all, there, sizeof(there));
	return error_set(err, -ENODEV, "libfabric %u.%u (%s) has no %s%s%s%s; it has %s",
			 FI_MAJOR(lib->version()), FI_MINOR(lib->version()), lib->path,
			 c->provider[0] ? "provider " : "provider that reaches other hosts",
			 c->provider, c->device[0] ? " with a NIC " : "", c->device,
			 there[0] ? there : "none that can write with an immediate");
}

/* Whether better ones were looked for and are not there. */
static void say_why(const struct choice *c, const struct fi_info *info, char *why, size_t size)
{
	static const char *const missed[] = { "the best there is", "no efa here",
					      "no efa or verbs here" };
	size_t rank = (size_t)provider_of(info)->rank;

	snprintf(why, size, "%s",
		 c->provider[0]                              ? "asked for"
		 : rank < sizeof(missed) / sizeof(missed[0]) ? missed[rank]
							     : "no efa, verbs or cxi here");
}

/* ---- What is known of it ---- */

static uint32_t rail_of(const struct fi_info *info)
{
	switch (info->addr_format) {
	case FI_SOCKADDR_IN:
		return rail_of_ipv4(((const struct sockaddr_in *)info->src_addr)->sin_addr.s_addr);
	case FI_SOCKADDR_IN6:
		return rail_of_prefix(
			((const struct sockaddr_in6 *)info->src_addr)->sin6_addr.s6_addr);
	default:
		return 0;
	}
}

int ofi_choose(const struct libfabric *lib, const struct ofi_options *options, const char *device,
	       unsigned index, struct ofi_nic *nic, struct pg_error *err)
{
	struct choice c = { .provider = options->provider, .device = device };
	const struct provider *p;
	struct fi_info *all = NULL;
	const struct fi_info *info;
	bool binds;
	int rc = 0;

	*nic = (struct ofi_nic){ 0 };
	/* Who has no GPU memory gets providers that know nothing of it. */
	if (cuda_is_loaded()) {
		rc = list(lib, true, &all, err);
		gather(&c, all);
	}
	if (!c.n && !rc) {
		if (all)
			lib->freeinfo(all);
		rc = list(lib, false, &all, err);
		gather(&c, all);
	}
	if (!rc && !c.n)
		rc = nothing(lib, &c, all, err);
	if (rc)
		goto free_all;
	info = c.nics[index % c.n];
	p = provider_of(info);
	nic->info = lib->dupinfo(info);
	if (!nic->info) {
		rc = error_set(err, -ENOMEM, "no memory for a NIC of libfabric");
		goto free_all;
	}
	snprintf(nic->name, sizeof(nic->name), "%s", device_of(info));
	say_why(&c, info, nic->why, sizeof(nic->why));
	if (info->nic && info->nic->link_attr)
		nic->link_mbit_s = info->nic->link_attr->speed / MBIT;
	nic->rail = rail_of(info);
	nic->provider = (uint8_t)(p - providers);
	nic->efa = p == &providers[0];
	nic->names_sources = p->names_sources;
	nic->rxm = p->rxm;
	nic->local = p->local;
	/* Where regions are bound to the endpoint through which they are written, it is one and stays. */
	binds = info->domain_attr->mr_mode & FI_MR_ENDPOINT;
	nic->own_endpoints = p->own_endpoints && !binds;
	nic->fences = p->fences;
	nic->keeps = p->keeps || binds;
	nic->lingers = p->lingers;
	nic->bare = p->bare;
free_all:
	if (all)
		lib->freeinfo(all);
	return rc;
}
