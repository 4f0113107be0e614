/* SPDX-License-Identifier: MIT
 *
 * What the tests of the stand-in for EFA have in common: they use it as any program uses libfabric, but for
 * where they find it. Each test is a process of its own (in_child), with counts of its own. */
#ifndef PGCTL_TESTS_FAKE_EFA_ENDS_H
#define PGCTL_TESTS_FAKE_EFA_ENDS_H

#include <dlfcn.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fake_efa/fake_efa.h"
#include "util/clock.h"

#define DEADLINE_NS (20 * NS_PER_SEC)
#define API FI_VERSION(1, 18)
#define MR_MODE (FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY)
#define LEN 40000 /* of a write, in pieces */
#define ACCESS (FI_SEND | FI_RECV | FI_WRITE | FI_REMOTE_WRITE)

static struct {
	__typeof__(fi_getinfo) *getinfo;
	__typeof__(fi_freeinfo) *freeinfo;
	__typeof__(fi_dupinfo) *dupinfo;
	__typeof__(fi_fabric) *fabric;
	__typeof__(fi_version) *version;
	__typeof__(fi_strerror) *strerror;
} lib;

/* A NIC, open, with a queue. */
struct nic {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct fake_efa_ops *fake;
};

struct end {
	struct nic *nic;
	struct fid_ep *ep;
	struct fid_av *av;
	uint8_t addr[32];
};

/* An entry of a queue, good or bad; err is -1 while there is none. */
struct entry {
	struct fi_cq_data_entry e;
	fi_addr_t source;
	int err, prov_errno;
};

static inline void *find(void *handle, const char *name, const char *since)
{
	void *at = dlvsym(handle, name, since);

	CHECK(at);
	return at;
}

static inline void open_library(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		fprintf(stderr, "%s\n", dlerror());
	CHECK(handle);
#define FIND(name, since) lib.name = (__typeof__(lib.name))find(handle, "fi_" #name, since)
	FIND(getinfo, "FABRIC_1.3");
	FIND(freeinfo, "FABRIC_1.3");
	FIND(dupinfo, "FABRIC_1.3");
	FIND(fabric, "FABRIC_1.1");
	FIND(version, "FABRIC_1.0");
	FIND(strerror, "FABRIC_1.0");
#undef FIND
}

/* Its payload goes that way. */
static inline bool cannot_copy(void)
{
	char from = 1, to;
	struct iovec local = { &to, 1 }, remote = { &from, 1 };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1)
		return false;
	fprintf(stderr, "skipped: process_vm_readv: %m\n");
	return true;
}

/* How a process ends that runs test over the library, with FAKE_EFA as it is given. */
__attribute__((unused)) static int in_child(const char *library, const char *settings,
					    void (*test)(void))
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (!pid) {
		setenv("FAKE_EFA", settings, 1);
		open_library(library);
		test();
		exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return status;
}

static inline struct fi_info *good_hints(void)
{
	struct fi_info *hints = lib.dupinfo(NULL);

	CHECK(hints);
	hints->caps = FI_MSG | FI_RMA | FI_SOURCE;
	hints->ep_attr->type = FI_EP_RDM;
	hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
	hints->tx_attr->msg_order = hints->rx_attr->msg_order = FI_ORDER_SAS;
	hints->domain_attr->cq_data_size = 4;
	hints->domain_attr->mr_mode = MR_MODE;
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	hints->domain_attr->data_progress = FI_PROGRESS_MANUAL;
	return hints;
}

static inline struct nic open_nic(const char *domain, size_t cq_size)
{
	struct fi_cq_attr cq = { .size = cq_size,
				 .format = FI_CQ_FORMAT_DATA,
				 .wait_obj = FI_WAIT_NONE };
	struct fi_info *hints = good_hints();
	struct nic nic;
	void *ops;

	hints->domain_attr->name = strdup(domain);
	CHECK_EQ(lib.getinfo(API, NULL, NULL, 0, hints, &nic.info), 0);
	lib.freeinfo(hints);
	CHECK_EQ(lib.fabric(nic.info->fabric_attr, &nic.fabric, NULL), 0);
	CHECK_EQ(fi_domain(nic.fabric, nic.info, &nic.domain, NULL), 0);
	CHECK_EQ(fi_cq_open(nic.domain, &cq, &nic.cq, NULL), 0);
	CHECK_EQ(fi_open_ops(&nic.domain->fid, FAKE_EFA_OPS, 0, &ops, NULL), 0);
	nic.fake = ops;
	return nic;
}

static inline void close_nic(struct nic *nic)
{
	CHECK_EQ(fi_close(&nic->cq->fid), 0);
	CHECK_EQ(fi_close(&nic->domain->fid), 0);
	CHECK_EQ(fi_close(&nic->fabric->fid), 0);
	lib.freeinfo(nic->info);
}

/* Not enabled yet. */
static inline struct end make_end(struct nic *nic)
{
	struct fi_av_attr attr = { .type = FI_AV_TABLE };
	struct end end = { .nic = nic };

	CHECK_EQ(fi_av_open(nic->domain, &attr, &end.av, NULL), 0);
	CHECK_EQ(fi_endpoint(nic->domain, nic->info, &end.ep, NULL), 0);
	CHECK_EQ(fi_ep_bind(end.ep, &end.av->fid, 0), 0);
	CHECK_EQ(fi_ep_bind(end.ep, &nic->cq->fid, FI_TRANSMIT | FI_RECV), 0);
	return end;
}

static inline void enable_end(struct end *end)
{
	size_t len = sizeof(end->addr);

	CHECK_EQ(fi_enable(end->ep), 0);
	CHECK_EQ(fi_getname(&end->ep->fid, end->addr, &len), 0);
	CHECK_EQ(len, sizeof(end->addr));
}

static inline struct end open_end(struct nic *nic)
{
	struct end end = make_end(nic);

	enable_end(&end);
	return end;
}

static inline void close_end(struct end *end)
{
	CHECK_EQ(fi_close(&end->ep->fid), 0);
	CHECK_EQ(fi_close(&end->av->fid), 0);
}

static inline fi_addr_t insert(struct end *end, const uint8_t *addr)
{
	fi_addr_t at;

	CHECK_EQ(fi_av_insert(end->av, addr, 1, &at, 0, NULL), 1);
	return at;
}

static inline struct fid_mr *reg(struct nic *nic, const void *buf, size_t len, uint64_t access)
{
	struct fid_mr *mr;

	CHECK_EQ(fi_mr_reg(nic->domain, buf, len, access, 0, 0, 0, &mr, NULL), 0);
	return mr;
}

static inline struct entry read_one(struct nic *nic)
{
	struct entry entry = { .err = -1 };
	struct fi_cq_err_entry err = { 0 };
	ssize_t n = fi_cq_readfrom(nic->cq, &entry.e, 1, &entry.source);

	if (n == 1)
		entry.err = 0;
	if (n != -FI_EAVAIL) {
		CHECK(n == 1 || n == -FI_EAGAIN);
		return entry;
	}
	CHECK_EQ(fi_cq_readerr(nic->cq, &err, 0), 1);
	entry.e.op_context = err.op_context;
	entry.e.flags = err.flags;
	entry.err = err.err;
	entry.prov_errno = err.prov_errno;
	CHECK(err.err > 0);
	return entry;
}

/* Reads the queue of one, and goes on reading that of another, until something is there. */
static inline struct entry wait_one(struct nic *nic, struct nic *other)
{
	uint64_t until = clock_ns() + DEADLINE_NS;
	struct entry entry = { .err = -1 };

	while (entry.err < 0) {
		CHECK(clock_ns() < until);
		entry = read_one(nic);
		if (other)
			CHECK_EQ(read_one(other).err, -1);
	}
	return entry;
}

/* Until the condition is true; step is done each time it is not. */
#define WAIT_UNTIL(cond, step)                              \
	do {                                                \
		uint64_t until_ = clock_ns() + DEADLINE_NS; \
                                                            \
		while (!(cond)) {                           \
			CHECK(clock_ns() < until_);         \
			step;                               \
		}                                           \
	} while (0)

/* A call that may be refused for now; step is done each time it is. */
#define INSIST(call, step)                                      \
	do {                                                    \
		ssize_t rc_;                                    \
                                                                \
		WAIT_UNTIL((rc_ = (call)) != -FI_EAGAIN, step); \
		CHECK_EQ(rc_, 0);                               \
	} while (0)

/* Two ends in two domains, and a region of each. */
struct pair {
	struct nic nic[2];
	struct end end[2];
	fi_addr_t to; /* the second, as the first knows it */
	uint8_t *buf[2];
	struct fid_mr *mr[2];
};

static inline void open_pair(struct pair *p, size_t len, size_t cq_size)
{
	for (int i = 0; i < 2; i++) {
		p->nic[i] = open_nic(i ? "fake_efa_1-rdm" : "fake_efa_0-rdm", cq_size);
		p->end[i] = open_end(&p->nic[i]);
		p->buf[i] = calloc(1, len);
		p->mr[i] = reg(&p->nic[i], p->buf[i], len, ACCESS);
	}
	p->to = insert(&p->end[0], p->end[1].addr);
}

static inline void close_pair(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(fi_close(&p->mr[i]->fid), 0);
		close_end(&p->end[i]);
		close_nic(&p->nic[i]);
		free(p->buf[i]);
	}
}

static inline uint64_t counted(struct pair *p, enum fake_efa_manner manner)
{
	return p->nic[0].fake->count(manner);
}

/* From the first to the second, at the same offset. */
static inline ssize_t write_imm(struct pair *p, size_t at, size_t len, uint32_t imm, void *context)
{
	return fi_writedata(p->end[0].ep, p->buf[0] + at, len, fi_mr_desc(p->mr[0]), imm, p->to,
			    (uintptr_t)p->buf[1] + at, fi_mr_key(p->mr[1]), context);
}

#endif
