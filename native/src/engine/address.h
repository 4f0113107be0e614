/* SPDX-License-Identifier: MIT
 *
 * NetAddr and MrDesc as bytes: little-endian, whatever the machine; magic, wire version, length,
 * fields, CRC-32. Magic and version stay where they are in every wire version. */
#ifndef PGCTL_ENGINE_ADDRESS_H
#define PGCTL_ENGINE_ADDRESS_H

#include <stddef.h>
#include <stdint.h>

#include "pgctl/engine.h"

#define NET_HOSTS 3

/* One NIC of a group. */
struct net_domain {
	char transport[16];
	uint8_t addr[64]; /* the transport's own */
	uint8_t addr_len;
	uint32_t link_mbit_s;
	uint32_t rail;
	uint32_t mtu;
	uint16_t pkey;
};

/* A group of a peer. */
struct net_addr {
	uint8_t incarnation[16];
	uint8_t token[16];
	uint8_t host[16];
	uint32_t group;
	uint32_t n_domains; /* 1..PG_MAX_DOMAINS */
	struct net_domain domains[PG_MAX_DOMAINS];
	uint8_t unix_id[16];          /* names the control socket on its host; zeros: none */
	uint16_t port;                /* of control over TCP; 0: none */
	uint32_t n_hosts;             /* 0..NET_HOSTS */
	uint8_t hosts[NET_HOSTS][16]; /* IPv6, or IPv4 mapped into it */
};

enum mr_kind {
	MR_USER,   /* host memory of the caller */
	MR_ENGINE, /* engine-owned host memory */
	MR_KINDS,
};

/* A region of a group. */
struct mr_desc {
	uint8_t incarnation[16];
	uint32_t group;
	uint32_t generation;
	uint64_t region;
	uint64_t base;   /* base + len does not overflow */
	uint64_t len;    /* > 0 */
	uint32_t kind;   /* enum mr_kind */
	uint32_t n_keys; /* 1..PG_MAX_DOMAINS */
	uint64_t keys[PG_MAX_DOMAINS];
};

/* *len is the buffer's size, then that of the address. PG_ADDR_MAX and PG_DESC_MAX are always
 * enough; -ENOSPC otherwise. -EINVAL: a field that decoding would refuse. */
int net_addr_encode(const struct net_addr *addr, void *buf, size_t *len);
int mr_desc_encode(const struct mr_desc *desc, void *buf, size_t *len);

/* -EPROTO, and why, for all but what the above have made. What is unused of a result is zero. */
int net_addr_decode(const void *buf, size_t len, struct net_addr *addr, struct pg_error *err);
int mr_desc_decode(const void *buf, size_t len, struct mr_desc *desc, struct pg_error *err);

#endif
