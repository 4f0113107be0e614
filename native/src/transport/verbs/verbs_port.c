/* SPDX-License-Identifier: MIT
 *
 * Which device, which port, and by which of its addresses it is reached. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"
#include "util/log.h"
#include "util/rail.h"

#define PKEY_MASK 0x7fff /* bit 15 says whether it is a full member */

/* ---- The port ---- */

uint64_t verbs_port_speed(const struct ibv_port_attr *attr)
{
	static const struct {
		uint8_t code;
		uint32_t mbit_s;
	} lanes[] = { { 1, 2500 },   { 2, 5000 },   { 4, 10000 },  { 8, 10000 },
		      { 16, 14000 }, { 32, 25000 }, { 64, 50000 }, { 128, 100000 } };
	static const struct {
		uint8_t code, lanes;
	} widths[] = { { 1, 1 }, { 16, 2 }, { 2, 4 }, { 4, 8 }, { 8, 12 } };
	uint64_t speed = 0, width = 0;

	for (unsigned i = 0; i < sizeof(lanes) / sizeof(lanes[0]); i++)
		if (lanes[i].code == attr->active_speed)
			speed = lanes[i].mbit_s;
	for (unsigned i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
		if (widths[i].code == attr->active_width)
			width = widths[i].lanes;
	return speed * width;
}

static bool is_ethernet(const struct verbs_port *port)
{
	return port->attr.link_layer == IBV_LINK_LAYER_ETHERNET;
}

/* ---- Its address ---- */

static bool is_mapped_ipv4(const union ibv_gid *gid)
{
	return IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)gid->raw);
}

static bool is_link_local(const union ibv_gid *gid)
{
	return IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)(const void *)gid->raw);
}

/* How good an address is: RoCE v2 goes through routers if what it carries does. 0: none. */
static int gid_rank(const struct ibv_gid_entry *entry)
{
	if (entry->gid_type != IBV_GID_TYPE_ROCE_V2)
		return 1;
	return is_mapped_ipv4(&entry->gid) ? 4 : is_link_local(&entry->gid) ? 2 : 3;
}

static bool gid_at(const struct ibverbs *lib, const struct verbs_port *port, int i,
		   struct ibv_gid_entry *entry)
{
	static const union ibv_gid none;

	return !lib->query_gid_ex(port->context, port->number, (uint32_t)i, entry, 0,
				  sizeof(*entry)) &&
	       memcmp(&entry->gid, &none, sizeof(none));
}

static int choose_gid(const struct ibverbs *lib, const struct verbs_options *options,
		      struct verbs_port *port, struct pg_error *err)
{
	struct ibv_gid_entry entry;
	int first = options->gid >= 0 ? options->gid : 0, best = 0;
	/* On InfiniBand all are of one port, and the first is always there. */
	int end = options->gid >= 0 || !is_ethernet(port) ? first + 1 : port->attr.gid_tbl_len;

	for (int i = first; i < end; i++) {
		if (!gid_at(lib, port, i, &entry) || gid_rank(&entry) <= best)
			continue;
		best = gid_rank(&entry);
		port->gid = entry.gid;
		port->gid_index = (uint8_t)i;
	}
	if (!best && options->gid >= 0)
		return error_set(err, -EINVAL,
				 "%s port %u has no GID %d; it has %d places for them",
				 port->device, port->number, options->gid, port->attr.gid_tbl_len);
	if (!best)
		return error_set(err, -EADDRNOTAVAIL,
				 "%s port %u has no GID: give its interface an address",
				 port->device, port->number);
	if (is_ethernet(port) && best == 1)
		log_warn("%s port %u has only addresses of RoCE v1, which no router passes on",
			 port->device, port->number);
	return 0;
}

static uint32_t rail_of(const union ibv_gid *gid)
{
	uint32_t ip;

	if (!is_mapped_ipv4(gid))
		return rail_of_prefix(gid->raw);
	memcpy(&ip, gid->raw + 12, sizeof(ip));
	return rail_of_ipv4(ip);
}

static int choose_pkey(const struct ibverbs *lib, const struct verbs_options *options,
		       struct verbs_port *port, struct pg_error *err)
{
	__be16 raw;

	for (int i = 0; i < port->attr.pkey_tbl_len; i++) {
		if (lib->query_pkey(port->context, port->number, i, &raw))
			break;
		port->pkey = ntohs(raw);
		port->pkey_index = (uint16_t)i;
		if (port->pkey & PKEY_MASK &&
		    (options->pkey < 0 || (port->pkey & PKEY_MASK) == (options->pkey & PKEY_MASK)))
			return 0;
	}
	if (options->pkey < 0)
		return error_set(err, -ENODEV, "%s port %u is in no partition", port->device,
				 port->number);
	return error_set(err, -EINVAL, "%s port %u is not in the partition of P_Key %#x",
			 port->device, port->number, options->pkey);
}

static int choose_mtu(const struct verbs_options *options, struct verbs_port *port,
		      struct pg_error *err)
{
	port->mtu = port->attr.active_mtu;
	if (options->mtu < 0)
		return 0;
	port->mtu = (enum ibv_mtu)(__builtin_ctz((unsigned)options->mtu) - 7);
	if (port->mtu <= port->attr.active_mtu)
		return 0;
	return error_set(err, -EINVAL, "%s port %u has an MTU of %d, less than %d", port->device,
			 port->number, 128 << port->attr.active_mtu, options->mtu);
}

static int query_port(const struct ibverbs *lib, struct verbs_port *port, struct pg_error *err)
{
	int rc = ibverbs_query_port(lib, port->context, port->number, &port->attr);

	if (rc)
		return error_set(err, -rc, "cannot query %s port %u: %s", port->device,
				 port->number, strerror(rc));
	if (port->attr.state != IBV_PORT_ACTIVE)
		return error_set(err, -ENETDOWN, "%s port %u is %s", port->device, port->number,
				 lib->port_state_str(port->attr.state));
	return 0;
}

int verbs_port_refresh(const struct ibverbs *lib, const struct verbs_options *options,
		       struct verbs_port *port, struct pg_error *err)
{
	int rc = query_port(lib, port, err);

	if (!rc)
		rc = choose_mtu(options, port, err);
	if (!rc)
		rc = choose_pkey(lib, options, port, err);
	if (!rc)
		rc = choose_gid(lib, options, port, err);
	if (!rc)
		port->rail = rail_of(&port->gid);
	return rc;
}

/* ---- The device ---- */

static int check_device(const struct ibverbs *lib, struct ibv_device *device, struct pg_error *err)
{
	const char *name = lib->get_device_name(device);

	if (device->transport_type == IBV_TRANSPORT_IB)
		return 0;
	if (device->transport_type == IBV_TRANSPORT_IWARP)
		return error_set(err, -EOPNOTSUPP,
				 "%s is iWARP, which cannot write with an immediate", name);
	return error_set(err, -EOPNOTSUPP,
			 "%s has no reliable connections that write with an immediate", name);
}

static int open_context(const struct ibverbs *lib, struct ibv_device *device,
			struct verbs_port *port, struct pg_error *err)
{
	int rc;

	snprintf(port->device, sizeof(port->device), "%s", lib->get_device_name(device));
	port->context = lib->open_device(device);
	if (!port->context)
		return error_set(
			err, errno ? -errno : -ENODEV,
			"cannot open %s: %m; is /dev/infiniband there, and may it be used?",
			port->device);
	rc = lib->query_device(port->context, &port->limits);
	if (!rc)
		return 0;
	lib->close_device(port->context);
	return error_set(err, -rc, "cannot query %s: %s", port->device, strerror(rc));
}

static int open_named(const struct ibverbs *lib, struct ibv_device **list, const char *name,
		      struct verbs_port *port, struct pg_error *err)
{
	const char *colon = strrchr(name, ':');
	size_t len = colon ? (size_t)(colon - name) : strlen(name);
	char all[128] = "", *end;
	size_t at = 0;
	unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 1;
	int rc;

	for (unsigned i = 0; list[i]; i++) {
		const char *other = lib->get_device_name(list[i]);

		if (at < sizeof(all))
			at += (size_t)snprintf(all + at, sizeof(all) - at, "%s%s", i ? ", " : "",
					       other);
		if (strlen(other) != len || strncmp(other, name, len))
			continue;
		rc = check_device(lib, list[i], err);
		if (!rc)
			rc = open_context(lib, list[i], port, err);
		if (rc)
			return rc;
		if (colon && (!colon[1] || *end))
			number = 0;
		port->number = (uint8_t)number;
		if (number >= 1 && number <= port->limits.phys_port_cnt)
			return 0;
		lib->close_device(port->context);
		return error_set(err, -EINVAL, "\"%s\": %s has ports 1 to %u", name, port->device,
				 port->limits.phys_port_cnt);
	}
	return error_set(err, -ENODEV, "there is no RDMA device \"%.*s\"; there is %s", (int)len,
			 name, all[0] ? all : "none");
}

/* The index-th port that is active, of devices that will do. */
static int open_active(const struct ibverbs *lib, struct ibv_device **list, unsigned index,
		       struct verbs_port *port, struct pg_error *err)
{
	unsigned active = 0;
	int rc = error_set(err, -ENODEV, "there is no RDMA device");

	for (unsigned i = 0; list[i]; i++) {
		if (check_device(lib, list[i], err) || open_context(lib, list[i], port, err)) {
			rc = err ? err->code : -ENODEV;
			continue;
		}
		for (unsigned n = 1; n <= port->limits.phys_port_cnt; n++) {
			port->number = (uint8_t)n;
			rc = query_port(lib, port, err);
			if (!rc && active++ == index)
				return 0;
		}
		lib->close_device(port->context);
	}
	if (active)
		return error_set(err, -ENODEV, "%u RDMA port%s active, and NIC %u was asked for",
				 active, active == 1 ? " is" : "s are", index);
	return rc;
}

int verbs_port_open(const struct ibverbs *lib, const char *device, unsigned index,
		    const struct verbs_options *options, struct verbs_port *port,
		    struct pg_error *err)
{
	struct ibv_device **list = lib->get_device_list(NULL);
	int rc;

	if (!list)
		return error_set(err, -ENODEV, "cannot list RDMA devices: %s",
				 errno == ENOSYS ? "this kernel has none (/sys/class/infiniband)"
						 : strerror(errno));
	rc = device[0] ? open_named(lib, list, device, port, err)
		       : open_active(lib, list, index, port, err);
	lib->free_device_list(list);
	if (rc)
		return rc;
	rc = verbs_port_refresh(lib, options, port, err);
	if (rc)
		lib->close_device(port->context);
	return rc;
}
