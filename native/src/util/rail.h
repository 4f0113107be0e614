/* SPDX-License-Identifier: MIT
 *
 * NICs of one subnet are one rail, whatever moves their bytes. Any thread. */
#ifndef PGCTL_UTIL_RAIL_H
#define PGCTL_UTIL_RAIL_H

#include <stdint.h>

#define RAIL_PREFIX 8 /* bytes: of an IPv6 address or a GID */

/* Of the subnet that these bytes begin an address of; never 0. */
uint32_t rail_of_prefix(const uint8_t prefix[RAIL_PREFIX]);

/* Of the interface that has this IPv4 address, in network order. 0: none has it. */
uint32_t rail_of_ipv4(uint32_t ip);

#endif
