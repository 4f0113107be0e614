/* SPDX-License-Identifier: MIT
 *
 * Regions of the socket NIC: which memory peers may have it write to. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake_socket_lane.h"
#include "util/error.h"
#include "util/random.h"

static struct region *find_region(struct lane *lane, uint64_t key)
{
	for (uint32_t i = 0; i < lane->n_regions; i++) {
		if (lane->regions[i].key == key)
			return &lane->regions[i];
	}
	return NULL;
}

/* NULL: not all of it is inside. */
static uint8_t *find_bytes(struct lane *lane, uint64_t key, uint64_t addr, uint64_t len)
{
	struct region *region = find_region(lane, key);
	uint64_t offset;

	if (!region)
		return NULL;
	offset = addr - (uintptr_t)region->base;
	return offset <= region->len && len <= region->len - offset ? region->base + offset : NULL;
}

int fake_region_check(struct lane *lane, uint64_t key, uint64_t addr, uint64_t len)
{
	bool inside;

	lock_acquire(&lane->regions_lock);
	inside = find_bytes(lane, key, addr, len);
	lock_release(&lane->regions_lock);
	return inside ? 0 : -EACCES;
}

int fake_region_place(struct lane *lane, const struct fake_frame *frame, const void *payload)
{
	uint8_t *to;

	lock_acquire(&lane->regions_lock);
	to = find_bytes(lane, frame->rkey, frame->raddr, frame->len);
	if (to)
		memcpy(to, payload, frame->len);
	lock_release(&lane->regions_lock);
	return to ? 0 : -EACCES;
}

static int add_region(struct lane *lane, const struct region *region)
{
	if (lane->n_regions == lane->max_regions) {
		uint32_t n = lane->max_regions ? 2 * lane->max_regions : 16;
		struct region *regions = realloc(lane->regions, n * sizeof(*regions));

		if (!regions)
			return -ENOMEM;
		lane->regions = regions;
		lane->max_regions = n;
	}
	lane->regions[lane->n_regions++] = *region;
	return 0;
}

int fake_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
		struct pg_error *err)
{
	struct lane *lane = lane_of(domain);
	struct region region = { .base = memory->base, .len = memory->len };
	int rc = random_bytes(&region.key, sizeof(region.key));

	if (rc)
		return error_set(err, rc, "no random bytes for a key");
	lock_acquire(&lane->regions_lock);
	rc = add_region(lane, &region);
	lock_release(&lane->regions_lock);
	if (rc)
		return error_set(err, rc, "no memory for a region");
	*lkey = *key = region.key;
	return 0;
}

void fake_mr_dereg(struct domain *domain, uint64_t lkey)
{
	struct lane *lane = lane_of(domain);
	struct region *region;

	lock_acquire(&lane->regions_lock);
	region = find_region(lane, lkey);
	if (region)
		*region = lane->regions[--lane->n_regions];
	lock_release(&lane->regions_lock);
}
