/* SPDX-License-Identifier: MIT */
#include "engine/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "util/random.h"

#define HUGE_PAGE (2ull << 20)

int mr_len(const struct pg_group *g, pg_mr_t mr, uint64_t *len)
{
	int rc;
	struct mr *m = handles_get(&g->mrs, mr, &rc);

	if (!m)
		return rc;
	*len = atomic_load_explicit(&m->len, memory_order_relaxed);
	return handle_still(&m->h, mr);
}

static void dereg(struct pg_group *g, struct mr *mr, unsigned n_domains)
{
	for (unsigned i = 0; i < n_domains; i++)
		g->domains[i]->transport->mr_dereg(g->domains[i], mr->lkeys[i]);
}

static void free_memory(struct memory *m)
{
	if (m->fd < 0)
		return;
	munmap(m->base, m->fd_len);
	close(m->fd);
}

/* Takes m over on success. */
static int publish_mr(struct pg_group *g, const struct memory *m, pg_mr_t *handle,
		      struct pg_error *err)
{
	struct mr *mr = handles_take(&g->mrs);
	unsigned i;
	int rc;

	if (!mr)
		return error_set(err, -ENOSPC,
				 "no room for more than %u regions (PGCTL_MAX_REGIONS)",
				 g->mrs.capacity);
	rc = random_bytes(&mr->region, sizeof(mr->region));
	if (rc) {
		error_set(err, rc, "cannot read random bytes: %s", strerror(-rc));
		goto err_release;
	}
	mr->region |= 1; /* not 0 */
	mr->memory = *m;
	mr->revoked = false;
	list_init(&mr->holders);
	atomic_store_explicit(&mr->len, m->len, memory_order_relaxed);
	for (i = 0; i < g->n_domains; i++) {
		struct domain *d = g->domains[i];

		rc = d->transport->mr_reg(d, m, &mr->lkeys[i], &mr->keys[i], err);
		if (rc)
			goto err_dereg;
	}
	handles_publish(&mr->h);
	*handle = handle_of(&mr->h);
	mr->generation = (uint32_t)(*handle >> 32);
	return 0;
err_dereg:
	dereg(g, mr, i);
err_release:
	mr->region = 0;
	handles_release(&g->mrs, &mr->h);
	return rc;
}

static int check_range(const void *ptr, uint64_t len, struct pg_error *err)
{
	if (len == 0)
		return error_set(err, -EINVAL, "a region of 0 bytes");
	if (len > INT64_MAX || (uintptr_t)ptr + len < (uintptr_t)ptr)
		return error_set(err, -EINVAL,
				 "a region of %llu bytes does not fit in the address space",
				 (unsigned long long)len);
	return 0;
}

int pg_reg_mr(struct pg_group *g, void *ptr, uint64_t len, pg_mr_t *mr, struct pg_error *err)
{
	struct memory m = { .base = ptr, .len = len, .fd = -1 };
	int rc = group_forked(g) ? group_stale(err) : check_range(ptr, len, err);

	if (rc)
		return rc;
	if (!ptr)
		return error_set(err, -EINVAL, "a region at address 0");
	group_enter(g);
	rc = publish_mr(g, &m, mr, err);
	group_leave(g);
	return rc;
}

static int bind_numa(const struct memory *m, int numa, struct pg_error *err)
{
	unsigned long mask[16] = { 0 };

	if (numa < 0)
		return 0;
	if (numa >= (int)(sizeof(mask) * 8))
		return error_set(err, -EINVAL, "NUMA node %d", numa);
	mask[numa / 64] = 1ul << numa % 64;
	if (syscall(SYS_mbind, m->base, m->fd_len, MPOL_BIND, mask, sizeof(mask) * 8, 0))
		return error_set(err, -errno, "cannot bind memory to NUMA node %d: %s", numa,
				 strerror(errno));
	return 0;
}

/* What the kernel says it could give without killing somebody; UINT64_MAX if it does not say. */
static uint64_t available_memory(void)
{
	unsigned long long kib, sum = 0;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	if (!f)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1 ||
		    sscanf(line, "SwapFree: %llu", &kib) == 1)
			sum += kib;
	fclose(f);
	return sum ? sum * 1024 : UINT64_MAX;
}

/* By the kernel and not by touching: running out is then an error and not a SIGBUS. A kernel before
 * 5.14 cannot populate; fallocate, which any signal interrupts, does allocate. */
static int prefault(const struct memory *m, struct pg_error *err)
{
	if (madvise(m->base, m->fd_len, MADV_POPULATE_WRITE) == 0 ||
	    (errno == EINVAL && fallocate(m->fd, 0, 0, (off_t)m->fd_len) == 0))
		return 0;
	return error_set(err, -errno, "cannot allocate %llu bytes: %s", (unsigned long long)m->len,
			 strerror(errno));
}

static int map_memfd(struct memory *m, uint64_t len, unsigned flags, struct pg_error *err)
{
	bool huge = flags & PG_ALLOC_HUGEPAGES;
	uint64_t unit = huge ? HUGE_PAGE : (uint64_t)sysconf(_SC_PAGESIZE);
	int rc;

	m->len = len;
	m->fd_len = (len + unit - 1) / unit * unit;
	m->fd = memfd_create("pgctl", MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0u));
	if (m->fd < 0)
		return error_set(err, -errno, "cannot make a memfd%s: %s",
				 huge ? " of huge pages" : "", strerror(errno));
	if (ftruncate(m->fd, (off_t)m->fd_len) ||
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		rc = error_set(err, -errno, "cannot size a memfd to %llu bytes: %s",
			       (unsigned long long)m->fd_len, strerror(errno));
		goto err_close;
	}
	m->base = mmap(NULL, m->fd_len, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (m->base == MAP_FAILED) {
		rc = error_set(err, -errno, "cannot map %llu bytes: %s",
			       (unsigned long long)m->fd_len, strerror(errno));
		goto err_close;
	}
	/* A forked child has no business here. */
	madvise(m->base, m->fd_len, MADV_DONTFORK);
	return 0;
err_close:
	close(m->fd);
	return rc;
}

int pg_alloc_mr(struct pg_group *g, uint64_t len, int numa, unsigned flags, void **ptr, pg_mr_t *mr,
		struct pg_error *err)
{
	struct memory m;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	if (flags & ~(unsigned)(PG_ALLOC_HUGEPAGES | PG_ALLOC_PREFAULT))
		return error_set(err, -EINVAL, "unknown allocation flags 0x%x", flags);
	rc = check_range(NULL, len, err);
	if (rc)
		return rc;
	/* Asked for more, the kernel would rather kill a process than say no. */
	if ((flags & (PG_ALLOC_PREFAULT | PG_ALLOC_HUGEPAGES)) == PG_ALLOC_PREFAULT &&
	    len > available_memory())
		return error_set(err, -ENOMEM, "no memory for %llu bytes; %llu are available",
				 (unsigned long long)len, (unsigned long long)available_memory());
	rc = map_memfd(&m, len, flags, err);
	if (rc)
		return rc;
	rc = bind_numa(&m, numa, err);
	if (!rc && (flags & PG_ALLOC_PREFAULT))
		rc = prefault(&m, err);
	if (rc)
		goto err_free;
	group_enter(g);
	rc = publish_mr(g, &m, mr, err);
	group_leave(g);
	if (rc)
		goto err_free;
	*ptr = m.base;
	return 0;
err_free:
	free_memory(&m);
	return rc;
}

static bool unused(struct pg_group *g, void *arg)
{
	(void)g;
	return handle_unused(arg);
}

/* Still ours, but for who was told that it is revoked. */
static int keep(struct mr *mr, int rc, struct pg_error *err)
{
	const struct peer *p = region_holder(mr);

	handles_revive(&mr->h);
	if (rc != -ETIMEDOUT)
		return error_set(err, rc, "waiting for the region: %s", strerror(-rc));
	if (!p)
		return error_set(err, -EBUSY, "operations in flight still read the region");
	return error_set(err, -EBUSY, "%s may still write to the region%s", peer_name(p).text,
			 p->silent ? "; it is not responsive" : "; does it make progress?");
}

static void forget(struct pg_group *g, struct mr *mr)
{
	dereg(g, mr, g->n_domains);
	free_memory(&mr->memory);
	mr->region = 0;
	handles_release(&g->mrs, &mr->h);
}

int pg_unreg_mr(struct pg_group *g, pg_mr_t handle, uint64_t timeout_ns, struct pg_error *err)
{
	struct mr *mr;
	int rc;

	if (group_forked(g))
		return group_stale(err);
	group_hold(g);
	group_enter(g);
	mr = handles_get(&g->mrs, handle, &rc);
	if (mr) {
		handles_retire(&mr->h); /* nothing new can name it */
		region_revoke(g, mr);
	}
	group_leave(g);
	if (!mr) {
		group_drop(g);
		return error_set(err, rc, "0x%llx is not a region", (unsigned long long)handle);
	}
	rc = group_wait(g, unused, &mr->h, timeout_ns);
	group_enter(g);
	if (rc && !handle_unused(&mr->h)) {
		rc = keep(mr, rc, err);
	} else {
		rc = 0;
		forget(g, mr);
	}
	group_leave(g);
	group_drop(g);
	return rc;
}

int pg_mr_desc(struct pg_group *g, pg_mr_t handle, void *buf, size_t *len)
{
	struct mr_desc d = { .group = g->addr.group, .n_keys = g->n_domains };
	struct mr *mr;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	group_enter(g);
	mr = handles_get(&g->mrs, handle, &rc);
	if (mr) {
		memcpy(d.incarnation, g->addr.incarnation, sizeof(d.incarnation));
		d.generation = mr->generation;
		d.region = mr->region;
		d.base = (uintptr_t)mr->memory.base;
		d.len = mr->memory.len;
		d.kind = mr->memory.fd >= 0 ? MR_ENGINE : MR_USER;
		memcpy(d.keys, mr->keys, sizeof(d.keys));
		for (unsigned i = g->n_domains; i < PG_MAX_DOMAINS; i++)
			d.keys[i] = 0;
	}
	group_leave(g);
	return mr ? mr_desc_encode(&d, buf, len) : rc;
}

int memory_export(struct pg_group *g, const struct mr *mr, struct offer *offer)
{
	struct domain *d = g->domains[0];

	/* Reached by address and key. */
	if (mr->memory.fd < 0 || !d->caps.maps_peer)
		return 0;
	return d->transport->mr_export(d, &mr->memory, offer);
}

void memory_close(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->mrs.used; i++) {
		struct mr *mr = mr_slot(g, i);

		if (!mr)
			continue;
		holders_free(mr);
		dereg(g, mr, g->n_domains);
		free_memory(&mr->memory);
	}
}
