/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "engine/address.h"

#define CRC_LEN 4

static uint64_t seed = 1;
static unsigned decoded, refused;

static uint32_t crc32(const uint8_t *bytes, size_t len)
{
	uint32_t crc = ~0U;

	for (size_t bit = 0; bit < 8 * len; bit++) {
		uint32_t in = bytes[bit / 8] >> bit % 8 & 1;

		crc = (crc & 1) == in ? crc >> 1 : crc >> 1 ^ 0xedb88320;
	}
	return ~crc;
}

/* Makes a forgery that only its fields can give away. */
static void sign(uint8_t *bytes, size_t len)
{
	uint32_t crc;

	bytes[6] = (uint8_t)len;
	bytes[7] = (uint8_t)(len >> 8);
	crc = crc32(bytes, len - CRC_LEN);
	for (unsigned i = 0; i < CRC_LEN; i++)
		bytes[len - CRC_LEN + i] = (uint8_t)(crc >> 8 * i);
}

static void fill(void *bytes, size_t len)
{
	uint8_t *next = bytes;

	while (len--)
		*next++ = (uint8_t)check_random(&seed);
}

static struct net_addr make_addr(unsigned n_domains, unsigned long_names)
{
	struct net_addr a = { .n_domains = n_domains };

	fill(a.incarnation, sizeof(a.incarnation));
	fill(a.token, sizeof(a.token));
	fill(a.host, sizeof(a.host));
	fill(&a.group, sizeof(a.group));
	fill(a.unix_id, sizeof(a.unix_id));
	fill(&a.port, sizeof(a.port));
	a.n_hosts = long_names ? NET_HOSTS : n_domains % NET_HOSTS;
	fill(a.hosts, a.n_hosts * sizeof(a.hosts[0]));
	for (unsigned i = 0; i < n_domains; i++) {
		struct net_domain *d = &a.domains[i];

		strcpy(d->transport, "shm");
		d->addr_len = (uint8_t)(i * 7);
		if (long_names) {
			memset(d->transport, 'x', sizeof(d->transport) - 1);
			d->addr_len = sizeof(d->addr);
		}
		fill(d->addr, d->addr_len);
		fill(&d->link_mbit_s, sizeof(d->link_mbit_s));
		fill(&d->rail, sizeof(d->rail));
		fill(&d->mtu, sizeof(d->mtu));
		fill(&d->pkey, sizeof(d->pkey));
	}
	return a;
}

static struct mr_desc make_desc(unsigned n_keys)
{
	struct mr_desc d = { .base = 0x7f0000001000, .len = 1 << 20, .kind = MR_ENGINE };

	fill(d.incarnation, sizeof(d.incarnation));
	fill(&d.group, sizeof(d.group));
	fill(&d.generation, sizeof(d.generation));
	fill(&d.region, sizeof(d.region));
	d.n_keys = n_keys;
	fill(d.keys, n_keys * sizeof(*d.keys));
	return d;
}

static void check_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
	CHECK(!memcmp(a->incarnation, b->incarnation, sizeof(a->incarnation)));
	CHECK(!memcmp(a->token, b->token, sizeof(a->token)));
	CHECK(!memcmp(a->host, b->host, sizeof(a->host)));
	CHECK(!memcmp(a->unix_id, b->unix_id, sizeof(a->unix_id)));
	CHECK_EQ(a->port, b->port);
	CHECK_EQ(a->n_hosts, b->n_hosts);
	CHECK(!memcmp(a->hosts, b->hosts, sizeof(a->hosts)));
	CHECK_EQ(a->group, b->group);
	CHECK_EQ(a->n_domains, b->n_domains);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++) {
		const struct net_domain *x = &a->domains[i];
		const struct net_domain *y = &b->domains[i];

		CHECK(!memcmp(x->transport, y->transport, sizeof(x->transport)));
		CHECK(!memcmp(x->addr, y->addr, sizeof(x->addr)));
		CHECK_EQ(x->addr_len, y->addr_len);
		CHECK_EQ(x->link_mbit_s, y->link_mbit_s);
		CHECK_EQ(x->rail, y->rail);
		CHECK_EQ(x->mtu, y->mtu);
		CHECK_EQ(x->pkey, y->pkey);
	}
}

static void check_desc_equal(const struct mr_desc *a, const struct mr_desc *b)
{
	CHECK(!memcmp(a->incarnation, b->incarnation, sizeof(a->incarnation)));
	CHECK_EQ(a->group, b->group);
	CHECK_EQ(a->generation, b->generation);
	CHECK_EQ(a->region, b->region);
	CHECK_EQ(a->base, b->base);
	CHECK_EQ(a->len, b->len);
	CHECK_EQ(a->kind, b->kind);
	CHECK_EQ(a->n_keys, b->n_keys);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		CHECK_EQ(a->keys[i], b->keys[i]);
}

/* Encodes into a buffer of exactly the size needed, and checks that one byte less is refused. */
static uint8_t *encode_addr(const struct net_addr *a, size_t *len)
{
	uint8_t *bytes;
	uint8_t any[PG_ADDR_MAX];
	size_t room;

	*len = sizeof(any);
	CHECK_EQ(net_addr_encode(a, any, len), 0);
	room = *len - 1;
	CHECK_EQ(net_addr_encode(a, any, &room), -ENOSPC);
	CHECK_EQ(room, *len - 1);
	bytes = malloc(*len);
	CHECK(bytes);
	CHECK_EQ(net_addr_encode(a, bytes, len), 0);
	return bytes;
}

static uint8_t *encode_desc(const struct mr_desc *d, size_t *len)
{
	uint8_t *bytes;
	uint8_t any[PG_DESC_MAX];
	size_t room;

	*len = sizeof(any);
	CHECK_EQ(mr_desc_encode(d, any, len), 0);
	room = *len - 1;
	CHECK_EQ(mr_desc_encode(d, any, &room), -ENOSPC);
	bytes = malloc(*len);
	CHECK(bytes);
	CHECK_EQ(mr_desc_encode(d, bytes, len), 0);
	return bytes;
}

/* Decodes as both formats, from memory of exactly that size. What is accepted must be valid, which
 * is to say that it encodes to the same bytes again. */
static int decode(const uint8_t *bytes, size_t len, struct pg_error *err)
{
	uint8_t *copy = malloc(len ? len : 1);
	uint8_t again[PG_ADDR_MAX];
	size_t again_len = sizeof(again);
	struct net_addr addr;
	struct mr_desc desc;
	struct pg_error other;
	bool is_addr = len < 4 || !memcmp(bytes, "PGNA", 4);
	int rc;

	CHECK(copy);
	memcpy(copy, bytes, len);
	memset(err, 0, sizeof(*err));
	rc = is_addr ? net_addr_decode(copy, len, &addr, err)
		     : mr_desc_decode(copy, len, &desc, err);
	if (len >= 4)
		CHECK_EQ(is_addr ? mr_desc_decode(copy, len, &desc, &other)
				 : net_addr_decode(copy, len, &addr, &other),
			 -EPROTO);
	if (rc) {
		CHECK_EQ(rc, -EPROTO);
		CHECK_EQ(err->code, -EPROTO);
		CHECK(err->text[0]);
		refused++;
	} else {
		CHECK_EQ(is_addr ? net_addr_encode(&addr, again, &again_len)
				 : mr_desc_encode(&desc, again, &again_len),
			 0);
		CHECK_EQ(again_len, len);
		CHECK(!memcmp(again, copy, len));
		decoded++;
	}
	free(copy);
	return rc;
}

static void check_refused(const uint8_t *bytes, size_t len, const char *sentence)
{
	struct pg_error err;

	CHECK_EQ(decode(bytes, len, &err), -EPROTO);
	if (!strcmp(err.text, sentence))
		return;
	fprintf(stderr, "said \"%s\", not \"%s\"\n", err.text, sentence);
	exit(1);
}

/* Every truncation, every bit of every byte flipped (or every byte changed to every value), and the
 * latter with a matching checksum, too. */
static void mutilate(const uint8_t *bytes, size_t len, bool thoroughly)
{
	uint8_t copy[PG_ADDR_MAX + 8];
	struct pg_error err;

	CHECK_EQ(decode(bytes, len, &err), 0);
	memset(copy, 0, sizeof(copy));
	memcpy(copy, bytes, len);
	for (size_t cut = 0; cut < len; cut++)
		CHECK_EQ(decode(copy, cut, &err), -EPROTO);
	for (size_t extra = 1; extra <= 8; extra++)
		CHECK_EQ(decode(copy, len + extra, &err), -EPROTO);
	for (size_t i = 0; i < len; i++) {
		for (unsigned flip = 1; flip < 256; flip = thoroughly ? flip + 1 : flip * 2) {
			copy[i] = bytes[i] ^ (uint8_t)flip;
			CHECK_EQ(decode(copy, len, &err), -EPROTO);
			if (i >= 8 && i < len - CRC_LEN) {
				sign(copy, len);
				decode(copy, len, &err);
			}
			memcpy(copy, bytes, len);
		}
	}
	/* Fields that end early or late, honestly framed. */
	for (size_t shorter = 12; shorter < len; shorter++) {
		sign(copy, shorter);
		CHECK_EQ(decode(copy, shorter, &err), -EPROTO);
		memcpy(copy, bytes, len);
	}
	sign(copy, len + 1);
	CHECK_EQ(decode(copy, len + 1, &err), -EPROTO);
}

static void test_round_trip(void)
{
	for (unsigned n = 1; n <= PG_MAX_DOMAINS; n++) {
		for (unsigned long_names = 0; long_names < 2; long_names++) {
			struct net_addr a = make_addr(n, long_names), b;
			size_t len;
			uint8_t *bytes = encode_addr(&a, &len);

			memset(&b, 0xff, sizeof(b));
			CHECK_EQ(net_addr_decode(bytes, len, &b, NULL), 0);
			check_addr_equal(&a, &b);
			mutilate(bytes, len, n == 1 && !long_names);
			free(bytes);
		}
	}
	for (unsigned n = 1; n <= PG_MAX_DOMAINS; n++) {
		struct mr_desc a = make_desc(n), b;
		size_t len;
		uint8_t *bytes = encode_desc(&a, &len);

		memset(&b, 0xff, sizeof(b));
		CHECK_EQ(mr_desc_decode(bytes, len, &b, NULL), 0);
		check_desc_equal(&a, &b);
		mutilate(bytes, len, n == 1);
		free(bytes);
	}
}

/* The bytes are what the format says on any machine. */
static void test_bytes(void)
{
	struct mr_desc d = {
		.group = 0x04030201, .region = 5, .base = 0x1000, .len = 0x10, .n_keys = 1
	};
	uint8_t bytes[PG_DESC_MAX];
	size_t len = sizeof(bytes);

	CHECK_EQ(crc32((const uint8_t *)"123456789", 9), 0xcbf43926);
	CHECK_EQ(mr_desc_encode(&d, bytes, &len), 0);
	CHECK_EQ(len, 70);
	CHECK(!memcmp(bytes, "PGMR\3\0\106\0", 8));
	CHECK(!memcmp(bytes + 24, "\1\2\3\4\0\0\0\0\5\0\0\0\0\0\0\0\0\20", 18));
}

static void test_sentences(void)
{
	struct net_addr a = make_addr(1, 0);
	size_t len;
	uint8_t *bytes = encode_addr(&a, &len);
	uint8_t bad[PG_ADDR_MAX] = "ssh-rsa AAAA";
	char sentence[PG_ERROR_MAX];

	check_refused(bytes, 0, "address is truncated: 0 bytes");
	check_refused(bytes, 5, "address is truncated: 5 bytes");
	snprintf(sentence, sizeof(sentence), "address is truncated: 12 of %zu bytes", len);
	check_refused(bytes, 12, sentence);
	CHECK_EQ(net_addr_decode(bad, 12, &a, NULL), -EPROTO);
	check_refused((const uint8_t *)"foo", 3, "not a pgctl address");
	check_refused((const uint8_t *)"PGMX----", 8, "not a pgctl descriptor");
	memcpy(bad, bytes, len);
	check_refused(bad, len + 3, "address has 3 bytes after its end");
	bad[4] = 7;
	check_refused(bad, len, "address has wire version 7, this engine speaks 3");
	bad[4] = PG_WIRE_VERSION;
	bad[60] = 5;
	sign(bad, len);
	check_refused(bad, len, "address has 5 as its number of NICs, not 1 to 4");
	bad[7] = 0xff;
	check_refused(bad, len, "address has an impossible length: 65399 bytes");
	free(bytes);
}

/* What could not be decoded is not encoded either, and nothing is written. */
static void test_encode_refuses(void)
{
	uint8_t bytes[PG_ADDR_MAX] = { 0 };
	size_t len = sizeof(bytes);
	struct net_addr a;
	struct mr_desc d;

	for (unsigned i = 0; i < 7; i++) {
		a = make_addr(2, 0);
		switch (i) {
		case 0:
			a.n_domains = 0;
			break;
		case 1:
			a.n_domains = 256 + 2;
			break;
		case 2:
			a.domains[1].addr_len = sizeof(a.domains[1].addr) + 1;
			break;
		case 3:
			a.domains[1].transport[0] = '\0';
			break;
		case 4:
			memset(a.domains[0].transport, 'x', sizeof(a.domains[0].transport));
			break;
		case 5:
			a.n_hosts = NET_HOSTS + 1;
			break;
		case 6:
			a.domains[1].transport[1] = '\n';
			break;
		}
		CHECK_EQ(net_addr_encode(&a, bytes, &len), -EINVAL);
	}
	for (unsigned i = 0; i < 6; i++) {
		d = make_desc(2);
		switch (i) {
		case 0:
			d.n_keys = 0;
			break;
		case 1:
			d.n_keys = PG_MAX_DOMAINS + 1;
			break;
		case 2:
			d.kind = MR_KINDS;
			break;
		case 3:
			d.kind = 256;
			break;
		case 4:
			d.base = UINT64_MAX - d.len + 1;
			break;
		case 5:
			d.len = 0;
			break;
		}
		CHECK_EQ(mr_desc_encode(&d, bytes, &len), -EINVAL);
	}
	CHECK_EQ(len, sizeof(bytes));
	CHECK_EQ(bytes[0], 0);
	d = make_desc(1);
	d.base = UINT64_MAX - d.len;
	CHECK_EQ(mr_desc_encode(&d, bytes, &len), 0);
}

static void test_noise(void)
{
	uint8_t bytes[PG_ADDR_MAX];
	struct pg_error err;

	for (unsigned i = 0; i < 20000; i++) {
		size_t len = 12 + check_random(&seed) % (sizeof(bytes) - 12);

		fill(bytes, len);
		memcpy(bytes, i & 1 ? "PGNA\3\0" : "PGMR\3\0", 6);
		sign(bytes, len);
		decode(bytes, len, &err);
	}
}

int main(void)
{
	test_round_trip();
	test_bytes();
	test_sentences();
	test_encode_refuses();
	test_noise();
	printf("address: round trips, %u forgeries and fragments refused, %u decodings valid\n",
	       refused, decoded);
	return 0;
}
