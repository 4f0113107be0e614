/* SPDX-License-Identifier: MIT
 *
 * Addresses of peers' endpoints. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/ofi/ofi.h"
#include "util/error.h"

static struct ofi_address *find(const struct ofi_domain *d, const uint8_t name[OFI_NAME])
{
	for (struct list *l = d->addresses.next; l != &d->addresses; l = l->next) {
		struct ofi_address *a = LIST_ENTRY(l, struct ofi_address, link);

		if (!memcmp(a->name, name, OFI_NAME))
			return a;
	}
	return NULL;
}

static void drop(struct ofi_domain *d, struct ofi_address *a)
{
	fi_av_remove(d->av, &a->at, 1, 0);
	list_remove(&a->link);
	free(a);
}

static void drop_unused(struct ofi_domain *d)
{
	for (struct list *l = d->addresses.next, *next; l != &d->addresses; l = next) {
		struct ofi_address *a = LIST_ENTRY(l, struct ofi_address, link);

		next = l->next;
		if (!a->refs)
			drop(d, a);
	}
}

static int insert(struct ofi_domain *d, struct ofi_address *a, struct pg_error *err)
{
	uint8_t name[FI_NAME_MAX] = { 0 }; /* of whatever length the provider reads */
	int rc;

	memcpy(name, a->name, OFI_NAME);
	rc = fi_av_insert(d->av, name, 1, &a->at, 0, NULL);
	if (rc != 1) {
		drop_unused(d);
		rc = fi_av_insert(d->av, name, 1, &a->at, 0, NULL);
	}
	return rc == 1 ? 0
		       : ofi_refused(d, "the peer's address is not taken", rc < 0 ? rc : -FI_EINVAL,
				     err);
}

int ofi_address_take(struct ofi_domain *d, const uint8_t *name, uint32_t len,
		     struct ofi_address **address, struct pg_error *err)
{
	uint8_t padded[OFI_NAME] = { 0 };
	struct ofi_address *a;
	int rc;

	memcpy(padded, name, len);
	a = find(d, padded);
	if (!a) {
		a = calloc(1, sizeof(*a));
		if (!a)
			return error_set(err, -ENOMEM, "no memory for an address");
		memcpy(a->name, padded, OFI_NAME);
		rc = insert(d, a, err);
		if (rc) {
			free(a);
			return rc;
		}
		list_append(&d->addresses, &a->link);
	}
	a->refs++;
	*address = a;
	return 0;
}

void ofi_address_leave(struct ofi_domain *d, struct ofi_address *address)
{
	/* An endpoint that stays open may have something from there still to answer, and shm answers nobody
	 * else before it has. */
	if (address && !--address->refs && !d->nic.keeps)
		drop(d, address);
}

void ofi_addresses_free(struct ofi_domain *d)
{
	while (!list_empty(&d->addresses)) {
		struct ofi_address *a = LIST_ENTRY(d->addresses.next, struct ofi_address, link);

		list_remove(&a->link);
		free(a);
	}
}
