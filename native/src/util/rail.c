/* SPDX-License-Identifier: MIT */
#include "util/rail.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <stddef.h>

uint32_t rail_of_prefix(const uint8_t prefix[RAIL_PREFIX])
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (size_t i = 0; i < RAIL_PREFIX; i++)
		h = (h ^ prefix[i]) * 16777619u;
	return h ? h : 1;
}

/* The network mask of the interface that has this address. */
static uint32_t mask_of(uint32_t ip)
{
	struct ifaddrs *all;
	uint32_t mask = 0;

	if (getifaddrs(&all))
		return 0;
	for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
		const struct sockaddr_in *at = (const void *)i->ifa_addr;

		if (at && at->sin_family == AF_INET && at->sin_addr.s_addr == ip && i->ifa_netmask)
			mask = ((const struct sockaddr_in *)(const void *)i->ifa_netmask)
				       ->sin_addr.s_addr;
	}
	freeifaddrs(all);
	return mask;
}

uint32_t rail_of_ipv4(uint32_t ip)
{
	uint32_t mask = mask_of(ip), net[2] = { ip & mask, mask };

	return mask ? rail_of_prefix((const uint8_t *)net) : 0;
}
