/* SPDX-License-Identifier: MIT
 *
 * NetAddr and MrDesc: what decodes is what encoding makes of it, to the byte; and what encodes
 * decodes to the same fields. */
#include <errno.h>

#include "engine/address.h"
#include "fuzz.h"

#define CRC_LEN 4

enum form {
	SIGNED = 1, /* with the right magic, version, length and checksum */
	DESC = 2,
	FIELDS = 4, /* not bytes to decode but fields to encode */
};

static uint32_t crc32(const uint8_t *bytes, size_t len)
{
	uint32_t crc = ~0U;

	for (size_t bit = 0; bit < 8 * len; bit++) {
		uint32_t in = bytes[bit / 8] >> bit % 8 & 1;

		crc = (crc & 1) == in ? crc >> 1 : crc >> 1 ^ 0xedb88320;
	}
	return ~crc;
}

/* Else the fuzzer would have to find them, and then could not change anything else. */
static void sign(uint8_t *bytes, size_t len, bool desc)
{
	uint8_t head[8] = { 'P', 'G', 'N', 'A', PG_WIRE_VERSION };
	uint32_t crc;

	if (desc)
		memcpy(head, "PGMR", 4);
	head[6] = (uint8_t)len;
	head[7] = (uint8_t)(len >> 8);
	memcpy(bytes, head, sizeof(head));
	crc = crc32(bytes, len - CRC_LEN);
	for (unsigned i = 0; i < CRC_LEN; i++)
		bytes[len - CRC_LEN + i] = (uint8_t)(crc >> 8 * i);
}

static void check_refused(int rc, const struct pg_error *err)
{
	CHECK_EQ(rc, -EPROTO);
	CHECK_EQ(err->code, -EPROTO);
	CHECK(err->text[0]);
}

/* What address.h says of a result. */
static void check_addr(const struct net_addr *a)
{
	CHECK(a->n_domains >= 1 && a->n_domains <= PG_MAX_DOMAINS && a->n_hosts <= NET_HOSTS);
	for (unsigned i = 0; i < a->n_domains; i++) {
		const struct net_domain *d = &a->domains[i];

		CHECK(d->transport[0] && memchr(d->transport, 0, sizeof(d->transport)));
		CHECK(d->addr_len <= sizeof(d->addr));
	}
}

static void check_desc(const struct mr_desc *d)
{
	CHECK(d->len && d->base + d->len > d->base);
	CHECK(d->kind < MR_KINDS && d->n_keys >= 1 && d->n_keys <= PG_MAX_DOMAINS);
}

static void decode(const uint8_t *bytes, size_t len, bool desc)
{
	uint8_t again[PG_ADDR_MAX];
	size_t again_len = sizeof(again);
	struct pg_error err = { 0 };
	struct net_addr a;
	struct mr_desc d;
	int rc = desc ? mr_desc_decode(bytes, len, &d, &err)
		      : net_addr_decode(bytes, len, &a, &err);

	if (rc) {
		check_refused(rc, &err);
		return;
	}
	if (desc)
		check_desc(&d);
	else
		check_addr(&a);
	CHECK_EQ(desc ? mr_desc_encode(&d, again, &again_len)
		      : net_addr_encode(&a, again, &again_len),
		 0);
	CHECK_EQ(again_len, len);
	CHECK(!memcmp(again, bytes, len));
	CHECK_EQ(desc ? net_addr_decode(bytes, len, &a, NULL)
		      : mr_desc_decode(bytes, len, &d, NULL),
		 -EPROTO);
}

/* From memory of exactly its size. */
static void try_bytes(struct input *in, unsigned form)
{
	size_t len = (size_t)(in->end - in->at);
	uint8_t *bytes = malloc(len ? len : 1);

	CHECK(bytes);
	input_bytes(in, bytes, len);
	if (form & SIGNED && len >= 8 + CRC_LEN)
		sign(bytes, len, form & DESC);
	decode(bytes, len, form & DESC);
	free(bytes);
}

static void try_addr(struct input *in)
{
	uint8_t bytes[PG_ADDR_MAX], again[PG_ADDR_MAX];
	size_t len = sizeof(bytes), again_len = sizeof(again);
	struct net_addr a, b;
	int rc;

	input_bytes(in, &a, sizeof(a));
	rc = net_addr_encode(&a, bytes, &len);
	if (rc) {
		CHECK_EQ(rc, -EINVAL);
		return;
	}
	CHECK_EQ(net_addr_decode(bytes, len, &b, NULL), 0);
	CHECK_EQ(a.n_domains, b.n_domains);
	CHECK_EQ(a.n_hosts, b.n_hosts);
	for (unsigned i = 0; i < a.n_domains; i++) {
		CHECK(!strcmp(a.domains[i].transport, b.domains[i].transport));
		CHECK_EQ(a.domains[i].addr_len, b.domains[i].addr_len);
	}
	CHECK_EQ(net_addr_encode(&b, again, &again_len), 0);
	CHECK(again_len == len && !memcmp(again, bytes, len));
}

static void try_desc(struct input *in)
{
	uint8_t bytes[PG_DESC_MAX];
	size_t len = sizeof(bytes);
	struct mr_desc a, b;
	int rc;

	input_bytes(in, &a, sizeof(a));
	rc = mr_desc_encode(&a, bytes, &len);
	if (rc) {
		CHECK_EQ(rc, -EINVAL);
		return;
	}
	CHECK_EQ(mr_desc_decode(bytes, len, &b, NULL), 0);
	/* Keys that are not used do not travel. */
	memset(a.keys + a.n_keys, 0, (PG_MAX_DOMAINS - a.n_keys) * sizeof(a.keys[0]));
	CHECK(!memcmp(&a, &b, sizeof(a)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	unsigned form = input_u8(&in);

	if (!(form & FIELDS))
		try_bytes(&in, form);
	else if (form & DESC)
		try_desc(&in);
	else
		try_addr(&in);
	return 0;
}
