/* SPDX-License-Identifier: MIT
 *
 * One of the two ends of ofi_raw: an endpoint of libfabric as it is, and memory that the other end writes to. No
 * error is survived: it is said on stderr, and the process ends. */
#ifndef PGCTL_OFI_END_H
#define PGCTL_OFI_END_H

#include <rdma/fabric.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What every write brings along. */
#define OFI_IMM 0x1234

struct ofi_end {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_av *av;
	struct fid_cq *cq;
	struct fid_ep *ep;
	struct fid_mr *mr;
	char *memory; /* the first half is sent, the second is written to */
	size_t half;
	void *desc;
	fi_addr_t peer;
	uint64_t peer_memory, peer_key; /* its second half */
	int control;                    /* a socket to the other end's process */
	uint64_t completed, arrived;
};

/* domain: NULL for the first of the provider's. half: bytes of the longest write. */
void ofi_open(struct ofi_end *end, const char *provider, const char *domain, size_t half,
	      int control);
void ofi_close(struct ofi_end *end);

/* One write to where the other end's memory begins: whether there was room for it. Complete when it has been
 * delivered. imm: the other end sees it arrive. */
bool ofi_post(struct ofi_end *end, size_t size, bool imm);

/* Looks once for what has completed and arrived, and counts it. */
void ofi_poll(struct ofi_end *end);

/* To and from the other process. Who waits makes progress for what the other end has in flight. */
void ofi_tell(struct ofi_end *end, const void *data, size_t size);
void ofi_hear(struct ofi_end *end, void *data, size_t size);

/* Ends the process. */
void ofi_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
