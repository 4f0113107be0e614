/* SPDX-License-Identifier: MIT
 *
 * What an RDMA device says of itself, whether or not this transport would use it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"

#define PAGE 4096

/* The device of "mlx5_0" or "mlx5_0:1", opened. */
static int open_device(const struct ibverbs *lib, const char *nic, struct ibv_context **context,
		       struct pg_error *err)
{
	struct ibv_device **list = lib->get_device_list(NULL);
	size_t len = strcspn(nic, ":");
	int rc = -ENODEV;

	if (!list)
		return error_set(err, -ENODEV, "cannot list RDMA devices: %m");
	error_set(err, rc, "there is no RDMA device \"%.*s\"", (int)len, nic);
	for (unsigned i = 0; list[i] && rc == -ENODEV; i++) {
		const char *name = lib->get_device_name(list[i]);

		if (strlen(name) != len || strncmp(name, nic, len))
			continue;
		*context = lib->open_device(list[i]);
		rc = *context ? 0
			      : error_set(err, errno ? -errno : -EIO, "cannot open %s: %m", name);
		break;
	}
	lib->free_device_list(list);
	return rc;
}

/* -ENODEV for one that the device does not have. */
static int port_number(const char *nic, const struct ibv_device_attr *limits, struct pg_error *err)
{
	const char *colon = strchr(nic, ':');
	char *end = NULL;
	unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 1;

	if (!(end && *end) && number >= 1 && number <= limits->phys_port_cnt)
		return (int)number;
	return error_set(err, -ENODEV, "\"%s\" is no port: there are 1 to %u", nic,
			 limits->phys_port_cnt);
}

/* Nothing is registered: a descriptor that is none is refused for being none, or for what it was to be
 * used for. */
static int registers_dmabuf(const struct ibverbs *lib, struct ibv_context *context)
{
	struct ibv_pd *pd = lib->reg_dmabuf_mr ? lib->alloc_pd(context) : NULL;
	int rc;

	if (!lib->reg_dmabuf_mr)
		return -ENOSYS;
	if (!pd)
		return errno ? -errno : -EIO;
	errno = 0;
	lib->reg_dmabuf_mr(pd, 0, PAGE, 0, -1, 0);
	rc = -errno;
	lib->dealloc_pd(pd);
	if (rc == -EBADF)
		return 1;
	return rc == -EOPNOTSUPP || rc == -EPROTONOSUPPORT ? 0 : rc;
}

static int fill(const struct ibverbs *lib, struct ibv_context *context, const char *nic,
		struct pg_nic_facts *facts, struct pg_error *err)
{
	struct ibv_device_attr limits;
	struct ibv_port_attr port;
	int rc = lib->query_device(context, &limits), number;

	if (rc)
		return error_set(err, -rc, "cannot query %s: %s", nic, strerror(rc));
	number = port_number(nic, &limits, err);
	if (number < 0)
		return number;
	rc = ibverbs_query_port(lib, context, (uint8_t)number, &port);
	if (rc)
		return error_set(err, -rc, "cannot query port %d of %s: %s", number, nic,
				 strerror(rc));
	*facts = (struct pg_nic_facts){
		.max_mr_size = limits.max_mr_size,
		.max_mr = (uint32_t)limits.max_mr,
		.max_qp = (uint32_t)limits.max_qp,
		.max_qp_wr = (uint32_t)limits.max_qp_wr,
		.max_sge = (uint32_t)limits.max_sge,
		.max_cqe = (uint32_t)limits.max_cqe,
		.max_srq_wr = (uint32_t)limits.max_srq_wr,
		.max_reads = (uint32_t)limits.max_qp_rd_atom,
		.max_mtu = 128u << port.max_mtu,
		.active_mtu = 128u << port.active_mtu,
		.link_mbit_s = verbs_port_speed(&port),
		.atomics = limits.atomic_cap != IBV_ATOMIC_NONE,
		.dmabuf = registers_dmabuf(lib, context),
	};
	snprintf(facts->firmware, sizeof(facts->firmware), "%s", limits.fw_ver);
	return 0;
}

int pg_nic_facts(const char *nic, struct pg_nic_facts *facts, struct pg_error *err)
{
	const struct ibverbs *lib = ibverbs(err);
	struct ibv_context *context;
	int rc = lib ? open_device(lib, nic, &context, err) : -ENODEV;

	if (rc)
		return rc;
	rc = fill(lib, context, nic, facts, err);
	lib->close_device(context);
	return rc;
}
