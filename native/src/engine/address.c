/* SPDX-License-Identifier: MIT
 *
 * The fields of each format are listed once, for both directions: a codec function returns what the
 * field now is, the value it was given when writing and the one it found when reading. The first
 * error sticks and turns the rest into no-ops. */
#include "engine/address.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "util/error.h"

#define MAGIC_LEN 4
#define HEADER_LEN (MAGIC_LEN + 2 + 2) /* magic, wire version, length of everything */
#define CRC_LEN 4

struct format {
	const char *name; /* for people */
	const char *magic;
	size_t max;
};

static const struct format addr_format = { "address", "PGNA", PG_ADDR_MAX };
static const struct format desc_format = { "descriptor", "PGMR", PG_DESC_MAX };

struct codec {
	const struct format *format;
	struct pg_error *err;
	bool writing;
	int refusal; /* what a bad field is: -EINVAL or -EPROTO */
	int status;
	size_t at;
	size_t end;
	uint8_t bytes[PG_ADDR_MAX]; /* a copy: whoever owns the original may still change it */
};

/* The longest of each, field by field as below. */
#define DOMAIN_LONGEST (1 + 15 + 1 + 64 + 4 + 4 + 4 + 2)
#define ADDR_LONGEST (4 * 16 + 4 + 1 + PG_MAX_DOMAINS * DOMAIN_LONGEST + 2 + 1 + 16 * NET_HOSTS)
#define DESC_LONGEST (16 + 4 + 4 + 3 * 8 + 1 + 1 + PG_MAX_DOMAINS * 8)

static_assert(HEADER_LEN + ADDR_LONGEST + CRC_LEN <= PG_ADDR_MAX, "every address fits");
static_assert(HEADER_LEN + DESC_LONGEST + CRC_LEN <= PG_DESC_MAX, "every descriptor fits");
static_assert(PG_DESC_MAX <= PG_ADDR_MAX, "one codec holds either");

/* CRC-32 of IEEE 802.3, bit by bit: some microseconds, once for each peer and region. */
static uint32_t crc32(const uint8_t *bytes, size_t len)
{
	uint32_t crc = ~0U;

	while (len--) {
		crc ^= *bytes++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

/* ---- Fields -------------------------------------------------------------------------------- */

static void codec_bytes(struct codec *c, void *field, size_t len)
{
	if (c->status)
		return;
	if (len > c->end - c->at) {
		c->status = error_set(c->err, c->refusal, "%s ends within a field, at byte %zu",
				      c->format->name, c->at);
		return;
	}
	if (c->writing)
		memcpy(c->bytes + c->at, field, len);
	else
		memcpy(field, c->bytes + c->at, len);
	c->at += len;
}

static uint64_t codec_le(struct codec *c, uint64_t value, size_t width)
{
	uint8_t le[8];
	uint64_t result = 0;

	for (size_t i = 0; i < width; i++)
		le[i] = (uint8_t)(value >> 8 * i);
	codec_bytes(c, le, width);
	for (size_t i = 0; i < width; i++)
		result |= (uint64_t)le[i] << 8 * i;
	return result;
}

static uint16_t codec_u16(struct codec *c, uint16_t value)
{
	return (uint16_t)codec_le(c, value, sizeof(value));
}

static uint32_t codec_u32(struct codec *c, uint32_t value)
{
	return (uint32_t)codec_le(c, value, sizeof(value));
}

static uint64_t codec_u64(struct codec *c, uint64_t value)
{
	return codec_le(c, value, sizeof(value));
}

/* A small number, in one byte. What is out of bounds stays so when cut to 255. 0 after an error, so
 * that it can bound a loop. */
static uint8_t codec_small(struct codec *c, uint64_t value, uint8_t min, uint8_t max,
			   const char *what)
{
	uint8_t found = (uint8_t)codec_le(c, value < UINT8_MAX ? value : UINT8_MAX, 1);

	if (!c->status && (found < min || found > max))
		c->status = error_set(c->err, c->refusal, "%s has %u as its %s, not %u to %u",
				      c->format->name, found, what, min, max);
	return c->status ? 0 : found;
}

/* Printable ASCII, in a field that is all zeros when reading. */
static void codec_string(struct codec *c, char *field, size_t size, uint8_t min, const char *what)
{
	uint8_t len = codec_small(c, strnlen(field, size), min, (uint8_t)(size - 1), what);

	codec_bytes(c, field, len);
	for (unsigned i = 0; i < len && !c->status; i++) {
		if (field[i] < ' ' || field[i] > '~')
			c->status = error_set(c->err, c->refusal, "%s has byte %#x in a name",
					      c->format->name, (unsigned char)field[i]);
	}
}

static void net_domain_fields(struct codec *c, struct net_domain *d)
{
	codec_string(c, d->transport, sizeof(d->transport), 1, "length of a transport's name");
	d->addr_len = codec_small(c, d->addr_len, 0, sizeof(d->addr), "length of a NIC's address");
	codec_bytes(c, d->addr, d->addr_len);
	d->link_mbit_s = codec_u32(c, d->link_mbit_s);
	d->rail = codec_u32(c, d->rail);
	d->mtu = codec_u32(c, d->mtu);
	d->pkey = codec_u16(c, d->pkey);
}

static void net_addr_fields(struct codec *c, struct net_addr *a)
{
	codec_bytes(c, a->incarnation, sizeof(a->incarnation));
	codec_bytes(c, a->token, sizeof(a->token));
	codec_bytes(c, a->host, sizeof(a->host));
	a->group = codec_u32(c, a->group);
	a->n_domains = codec_small(c, a->n_domains, 1, PG_MAX_DOMAINS, "number of NICs");
	for (unsigned i = 0; i < a->n_domains; i++)
		net_domain_fields(c, &a->domains[i]);
	codec_bytes(c, a->unix_id, sizeof(a->unix_id));
	a->port = codec_u16(c, a->port);
	a->n_hosts = codec_small(c, a->n_hosts, 0, NET_HOSTS, "number of hosts");
	for (unsigned i = 0; i < a->n_hosts; i++)
		codec_bytes(c, a->hosts[i], sizeof(a->hosts[i]));
}

static void mr_desc_fields(struct codec *c, struct mr_desc *d)
{
	codec_bytes(c, d->incarnation, sizeof(d->incarnation));
	d->group = codec_u32(c, d->group);
	d->generation = codec_u32(c, d->generation);
	d->region = codec_u64(c, d->region);
	d->base = codec_u64(c, d->base);
	d->len = codec_u64(c, d->len);
	if (!c->status && (!d->len || d->len > UINT64_MAX - d->base))
		c->status = error_set(c->err, c->refusal,
				      "descriptor has an impossible region: %#jx bytes at %#jx",
				      (uintmax_t)d->len, (uintmax_t)d->base);
	d->kind = codec_small(c, d->kind, 0, MR_KINDS - 1, "kind of memory");
	d->n_keys = codec_small(c, d->n_keys, 1, PG_MAX_DOMAINS, "number of keys");
	for (unsigned i = 0; i < d->n_keys; i++)
		d->keys[i] = codec_u64(c, d->keys[i]);
}

/* ---- Frame --------------------------------------------------------------------------------- */

/* Leaves room for the header, which is known last. */
static void codec_start_writing(struct codec *c, const struct format *format)
{
	*c = (struct codec){
		.format = format,
		.writing = true,
		.refusal = -EINVAL,
		.at = HEADER_LEN,
		.end = format->max - CRC_LEN,
	};
}

static int codec_finish_writing(struct codec *c, void *buf, size_t *len)
{
	size_t body = c->at;
	size_t total = body + CRC_LEN;

	if (c->status)
		return c->status;
	if (total > *len)
		return -ENOSPC;
	c->at = MAGIC_LEN;
	memcpy(c->bytes, c->format->magic, MAGIC_LEN);
	codec_u16(c, PG_WIRE_VERSION);
	codec_u16(c, (uint16_t)total);
	c->at = body;
	c->end = total;
	codec_u32(c, crc32(c->bytes, body));
	memcpy(buf, c->bytes, total);
	*len = total;
	return 0;
}

/* Everything but the fields: tells apart what is foreign, of another version, cut off and
 * damaged. */
static int codec_start_reading(struct codec *c, const struct format *format, const void *buf,
			       size_t len, struct pg_error *err)
{
	size_t copied = len < sizeof(c->bytes) ? len : sizeof(c->bytes);
	unsigned version, total;
	uint32_t stated, actual;

	*c = (struct codec){ .format = format, .err = err, .refusal = -EPROTO };
	if (copied)
		memcpy(c->bytes, buf, copied);
	if (memcmp(c->bytes, format->magic, len < MAGIC_LEN ? len : MAGIC_LEN))
		return error_set(err, -EPROTO, "not a pgctl %s", format->name);
	if (len < HEADER_LEN)
		return error_set(err, -EPROTO, "%s is truncated: %zu bytes", format->name, len);

	c->at = MAGIC_LEN;
	c->end = HEADER_LEN;
	version = codec_u16(c, 0);
	total = codec_u16(c, 0);
	if (version != PG_WIRE_VERSION)
		return error_set(err, -EPROTO, "%s has wire version %u, this engine speaks %u",
				 format->name, version, PG_WIRE_VERSION);
	if (total < HEADER_LEN + CRC_LEN || total > format->max)
		return error_set(err, -EPROTO, "%s has an impossible length: %u bytes",
				 format->name, total);
	if (len < total)
		return error_set(err, -EPROTO, "%s is truncated: %zu of %u bytes", format->name,
				 len, total);
	if (len > total)
		return error_set(err, -EPROTO, "%s has %zu bytes after its end", format->name,
				 len - total);

	c->at = total - CRC_LEN;
	c->end = total;
	actual = crc32(c->bytes, c->at);
	stated = codec_u32(c, 0);
	if (stated != actual)
		return error_set(err, -EPROTO, "%s is damaged: checksum %#x, not %#x", format->name,
				 actual, stated);
	c->at = HEADER_LEN;
	c->end = total - CRC_LEN;
	return 0;
}

static int codec_finish_reading(struct codec *c)
{
	if (!c->status && c->at < c->end)
		c->status = error_set(c->err, -EPROTO, "%s has %zu bytes behind its last field",
				      c->format->name, c->end - c->at);
	return c->status;
}

/* ---- Interface ----------------------------------------------------------------------------- */

int net_addr_encode(const struct net_addr *addr, void *buf, size_t *len)
{
	struct net_addr fields = *addr;
	struct codec c;

	codec_start_writing(&c, &addr_format);
	net_addr_fields(&c, &fields);
	return codec_finish_writing(&c, buf, len);
}

int mr_desc_encode(const struct mr_desc *desc, void *buf, size_t *len)
{
	struct mr_desc fields = *desc;
	struct codec c;

	codec_start_writing(&c, &desc_format);
	mr_desc_fields(&c, &fields);
	return codec_finish_writing(&c, buf, len);
}

int net_addr_decode(const void *buf, size_t len, struct net_addr *addr, struct pg_error *err)
{
	struct net_addr fields = { .n_domains = 0 };
	struct codec c;
	int rc = codec_start_reading(&c, &addr_format, buf, len, err);

	if (rc)
		return rc;
	net_addr_fields(&c, &fields);
	rc = codec_finish_reading(&c);
	if (!rc)
		*addr = fields;
	return rc;
}

int mr_desc_decode(const void *buf, size_t len, struct mr_desc *desc, struct pg_error *err)
{
	struct mr_desc fields = { .n_keys = 0 };
	struct codec c;
	int rc = codec_start_reading(&c, &desc_format, buf, len, err);

	if (rc)
		return rc;
	mr_desc_fields(&c, &fields);
	rc = codec_finish_reading(&c);
	if (!rc)
		*desc = fields;
	return rc;
}
