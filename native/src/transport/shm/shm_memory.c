/* SPDX-License-Identifier: MIT
 *
 * Regions: which of ours peers may have us write to, and mapping those of peers. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "transport/shm/shm.h"
#include "util/cuda.h"
#include "util/error.h"
#include "util/random.h"

#define REGIONS_MAX \
	65536 /* the low 16 bits of a key are the place in the table, the others random */

static int grow(struct regions *r)
{
	uint32_t n = r->n ? 2 * r->n : 64;
	struct region *list;

	if (n > REGIONS_MAX)
		return -ENOSPC;
	list = realloc(r->list, n * sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (uint32_t i = r->n; i < n; i++)
		list[i] = (struct region){ .len = i + 1 };
	r->list = list;
	r->n = n;
	return 0;
}

int shm_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
	       struct pg_error *err)
{
	struct regions *r = &shm_domain(domain)->regions;
	struct region *region;
	uint64_t random;
	int rc;

	/* Where it is has no meaning to a CPU: the first write would be a crash. */
	if (memory->fd < 0 && cuda_is_device_memory(memory->base))
		return error_set(err, -EOPNOTSUPP,
				 "%s: memory of a GPU, which only NICs can reach (verbs, ofi)",
				 domain->name);
	rc = random_bytes(&random, sizeof(random));
	if (rc)
		return error_set(err, rc, "no random bytes for a key");
	lock_acquire(&r->lock);
	if (r->free == r->n)
		rc = grow(r);
	if (rc) {
		lock_release(&r->lock);
		return error_set(err, rc, "no room for more than %u regions", r->n);
	}
	/* Never 0, which marks what is free. */
	random = (random | REGIONS_MAX) & ~(uint64_t)(REGIONS_MAX - 1);
	region = &r->list[r->free];
	*key = random | r->free;
	*lkey = *key;
	r->free = (uint32_t)region->len;
	*region = (struct region){ .key = *key, .base = memory->base, .len = memory->len };
	lock_release(&r->lock);
	return 0;
}

static struct region *find(struct regions *r, uint64_t key)
{
	uint32_t i = (uint32_t)(key % REGIONS_MAX);

	return i < r->n && key && r->list[i].key == key ? &r->list[i] : NULL;
}

void shm_mr_dereg(struct domain *domain, uint64_t lkey)
{
	struct regions *r = &shm_domain(domain)->regions;
	struct region *region;

	lock_acquire(&r->lock);
	region = find(r, lkey);
	if (region) {
		*region = (struct region){ .len = r->free };
		r->free = (uint32_t)(region - r->list);
	}
	lock_release(&r->lock);
}

int place_piece(struct shm_conn *c)
{
	struct regions *r = &conn_lane(c)->regions;
	struct record *record = record_at(c->in->pieces, c->pieces_in);
	uint64_t rkey = atomic_load_explicit(&record->rkey, memory_order_relaxed);
	uint64_t raddr = atomic_load_explicit(&record->raddr, memory_order_relaxed);
	uint32_t len = atomic_load_explicit(&record->len, memory_order_relaxed);
	struct region *region;
	uint64_t offset;
	int rc = -EACCES;

	if (len > PIECE_MAX)
		return -EPROTO;
	/* Held while copying: after mr_dereg nobody writes there. */
	lock_acquire(&r->lock);
	region = find(r, rkey);
	offset = region ? raddr - (uintptr_t)region->base : 0;
	if (region && offset <= region->len && len <= region->len - offset) {
		record_get(c->in->pieces, c->pieces_in, region->base + offset, len);
		c->pieces_in += record_size(len);
		rc = 0;
	}
	lock_release(&r->lock);
	return rc;
}

int shm_mr_export(struct domain *domain, const struct memory *memory, struct offer *offer)
{
	struct memory_offer ours = { .layout = WIRE_LAYOUT, .size = memory->fd_len };

	(void)domain;
	if (memory->fd < 0)
		return -ENOTSUP;
	*offer = (struct offer){ .len = sizeof(ours), .n_fds = 1, .fds = { memory->fd } };
	memcpy(offer->bytes, &ours, sizeof(ours));
	return 0;
}

/* Page tables in advance, unless that would give pages to memory that its owner has not touched. */
static void populate(void *at, uint64_t len, int fd)
{
	struct stat st;

	if (!fstat(fd, &st) && st.st_blocks * 512 >= st.st_size)
		madvise(at, len, MADV_POPULATE_WRITE);
}

int shm_mr_import(struct domain *domain, const struct offer *offer, uint64_t len, void **mapped,
		  struct pg_error *err)
{
	struct memory_offer theirs;
	void *at;
	int rc;

	(void)domain;
	if (offer->len != sizeof(theirs) || offer->n_fds != 1)
		return error_set(err, -EPROTO,
				 "a shm region has %u bytes and %u fds, not %zu and 1", offer->len,
				 offer->n_fds, sizeof(theirs));
	memcpy(&theirs, offer->bytes, sizeof(theirs));
	if (theirs.layout != WIRE_LAYOUT)
		return error_set(err, -EPROTO, "the peer's shm layout is %u, ours is %u",
				 theirs.layout, WIRE_LAYOUT);
	if (!len || len > theirs.size)
		return error_set(err, -EPROTO, "a region of %llu bytes in %llu of shared memory",
				 (unsigned long long)len, (unsigned long long)theirs.size);
	rc = segment_check(offer->fds[0], theirs.size, err);
	if (!rc)
		rc = segment_map(offer->fds[0], len, &at, err);
	if (rc)
		return rc;
	populate(at, len, offer->fds[0]);
	*mapped = at;
	return 0;
}

void shm_mr_unimport(struct domain *domain, void *mapped, uint64_t len)
{
	static const uint64_t page_sizes[] = { SHM_PAGE, 2 << 20, 1 << 30 };

	(void)domain;
	/* The kernel rounds len up by itself for ordinary pages, but refuses for huge ones. */
	for (unsigned i = 0; i < sizeof(page_sizes) / sizeof(page_sizes[0]); i++) {
		uint64_t page = page_sizes[i];

		if (!munmap(mapped, (len + page - 1) & ~(page - 1)))
			return;
	}
}
