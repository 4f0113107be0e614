/* SPDX-License-Identifier: MIT */
#include "ofi_end.h"

#include <errno.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define API FI_VERSION(FI_MAJOR_VERSION, FI_MINOR_VERSION)
#define MR_MODES (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT)
#define CQ_ENTRIES 4096
#define KEY 1 /* where it is ours to choose */
#define AT_ONCE 64

/* What an end has to know of the other. */
struct acquaintance {
	char name[256];
	size_t length;
	uint64_t memory, key;
};

void ofi_die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("ofi_raw: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void must(int rc, const char *what)
{
	if (rc)
		ofi_die("%s: %s", what, fi_strerror(-rc));
}

static struct fi_info *make_hints(const char *provider)
{
	struct fi_info *hints = fi_allocinfo();

	if (!hints)
		ofi_die("no memory for hints");
	hints->caps = FI_MSG | FI_RMA;
	hints->ep_attr->type = FI_EP_RDM;
	hints->domain_attr->mr_mode = MR_MODES;
	hints->domain_attr->cq_data_size = sizeof(uint32_t);
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
	hints->fabric_attr->prov_name = strdup(provider);
	return hints;
}

/* Layered providers answer to the names of those below them, too. */
static bool is_meant(const struct fi_info *info, const char *provider, const char *domain)
{
	return !strcmp(info->fabric_attr->prov_name, provider) &&
	       (!domain || !strcmp(info->domain_attr->name, domain));
}

static struct fi_info *find(const char *provider, const char *domain)
{
	struct fi_info *hints = make_hints(provider), *list, *found;

	must(fi_getinfo(API, NULL, NULL, 0, hints, &list), "fi_getinfo");
	found = list;
	while (found && !is_meant(found, provider, domain))
		found = found->next;
	if (!found)
		ofi_die("provider %s has no domain %s", provider, domain ? domain : "at all");
	found = fi_dupinfo(found);
	fi_freeinfo(list);
	fi_freeinfo(hints);
	return found;
}

static void open_endpoint(struct ofi_end *end)
{
	struct fi_cq_attr cq = { .size = CQ_ENTRIES, .format = FI_CQ_FORMAT_DATA };
	struct fi_av_attr av = { .type = FI_AV_TABLE, .count = 1 };

	must(fi_fabric(end->info->fabric_attr, &end->fabric, NULL), "fi_fabric");
	must(fi_domain(end->fabric, end->info, &end->domain, NULL), "fi_domain");
	must(fi_av_open(end->domain, &av, &end->av, NULL), "fi_av_open");
	must(fi_cq_open(end->domain, &cq, &end->cq, NULL), "fi_cq_open");
	must(fi_endpoint(end->domain, end->info, &end->ep, NULL), "fi_endpoint");
	must(fi_ep_bind(end->ep, &end->av->fid, 0), "fi_ep_bind");
	must(fi_ep_bind(end->ep, &end->cq->fid, FI_TRANSMIT | FI_RECV), "fi_ep_bind");
	must(fi_enable(end->ep), "fi_enable");
}

/* Shared and of whole pages, as an engine's is. */
static void open_memory(struct ofi_end *end)
{
	const uint64_t access = FI_WRITE | FI_REMOTE_WRITE;
	size_t size = 2 * end->half;
	int fd = memfd_create("ofi_raw", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size))
		ofi_die("a memfd of %zu bytes: %s", size, strerror(errno));
	end->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (end->memory == MAP_FAILED)
		ofi_die("mmap of %zu bytes: %s", size, strerror(errno));
	close(fd);
	must(fi_mr_reg(end->domain, end->memory, size, access, 0, KEY, 0, &end->mr, NULL),
	     "fi_mr_reg");
	if (end->info->domain_attr->mr_mode & FI_MR_ENDPOINT) {
		must(fi_mr_bind(end->mr, &end->ep->fid, 0), "fi_mr_bind");
		must(fi_mr_enable(end->mr), "fi_mr_enable");
	}
	end->desc = fi_mr_desc(end->mr);
}

static void meet(struct ofi_end *end)
{
	struct acquaintance me = { .length = sizeof(me.name), .key = fi_mr_key(end->mr) }, you;
	bool absolute = end->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR;

	must(fi_getname(&end->ep->fid, me.name, &me.length), "fi_getname");
	me.memory = end->half + (absolute ? (uint64_t)(uintptr_t)end->memory : 0);
	ofi_tell(end, &me, sizeof(me));
	ofi_hear(end, &you, sizeof(you));
	if (fi_av_insert(end->av, you.name, 1, &end->peer, 0, NULL) != 1)
		ofi_die("fi_av_insert refuses the other end's address");
	end->peer_memory = you.memory;
	end->peer_key = you.key;
}

void ofi_open(struct ofi_end *end, const char *provider, const char *domain, size_t half,
	      int control)
{
	*end = (struct ofi_end){ .half = half, .control = control };
	end->info = find(provider, domain);
	open_endpoint(end);
	open_memory(end);
	meet(end);
}

void ofi_close(struct ofi_end *end)
{
	must(fi_close(&end->ep->fid), "fi_close of an endpoint");
	must(fi_close(&end->mr->fid), "fi_close of memory");
	must(fi_close(&end->cq->fid), "fi_close of a queue");
	must(fi_close(&end->av->fid), "fi_close of addresses");
	must(fi_close(&end->domain->fid), "fi_close of a domain");
	must(fi_close(&end->fabric->fid), "fi_close of a fabric");
	fi_freeinfo(end->info);
	munmap(end->memory, 2 * end->half);
}

bool ofi_post(struct ofi_end *end, size_t size, bool imm)
{
	struct iovec from = { .iov_base = end->memory, .iov_len = size };
	struct fi_rma_iov to = { .addr = end->peer_memory, .len = size, .key = end->peer_key };
	struct fi_msg_rma write = {
		.msg_iov = &from,
		.desc = &end->desc,
		.iov_count = 1,
		.addr = end->peer,
		.rma_iov = &to,
		.rma_iov_count = 1,
		.data = OFI_IMM,
	};
	/* Not every provider thinks of what an endpoint's operations were meant to be. */
	ssize_t rc =
		fi_writemsg(end->ep, &write,
			    FI_DELIVERY_COMPLETE | FI_COMPLETION | (imm ? FI_REMOTE_CQ_DATA : 0));

	if (rc && rc != -FI_EAGAIN)
		must((int)rc, "a write");
	return !rc;
}

static void fail_on_error(struct ofi_end *end)
{
	struct fi_cq_err_entry error = { 0 };

	if (fi_cq_readerr(end->cq, &error, 0) != 1)
		ofi_die("fi_cq_read says that there is an error, fi_cq_readerr does not");
	ofi_die("a completion failed: %s", fi_strerror(error.err));
}

void ofi_poll(struct ofi_end *end)
{
	struct fi_cq_data_entry entries[AT_ONCE];
	ssize_t n = fi_cq_read(end->cq, entries, AT_ONCE);

	if (n == -FI_EAGAIN)
		return;
	if (n == -FI_EAVAIL)
		fail_on_error(end);
	if (n < 0)
		must((int)n, "fi_cq_read");
	for (ssize_t i = 0; i < n; i++) {
		if (!(entries[i].flags & FI_REMOTE_CQ_DATA)) {
			end->completed++;
			continue;
		}
		if (entries[i].data != OFI_IMM)
			ofi_die("0x%llx arrived", (unsigned long long)entries[i].data);
		end->arrived++;
	}
}

void ofi_tell(struct ofi_end *end, const void *data, size_t size)
{
	if (send(end->control, data, size, MSG_NOSIGNAL) != (ssize_t)size)
		ofi_die("the other end is gone");
}

void ofi_hear(struct ofi_end *end, void *data, size_t size)
{
	ssize_t n;

	while ((n = recv(end->control, data, size, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		ofi_poll(end);
	if (n != (ssize_t)size)
		ofi_die("the other end is gone");
}
