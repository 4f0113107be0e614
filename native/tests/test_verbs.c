/* SPDX-License-Identifier: MIT
 *
 * The verbs transport by itself, between two ports of this machine: what each work request becomes, what
 * a connection that breaks or is stopped leaves behind, what of an offer is refused. Exits 77 where there
 * is no RDMA device with an active port.
 */
#include <sys/mman.h>

#include "nic_ends.h"
#include "transport/verbs/verbs.h"
#include "util/cuda.h"

/* ---- What goes well ---- */

static void test_sizes(struct end *a, struct end *b)
{
	static const uint64_t sizes[] = { 0,    1,    8,       VERBS_INLINE,   VERBS_INLINE + 1,
					  4096, 4097, 1000003, VERBS_MAX_WRITE };

	connect_ends(a, b);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct wr wr = write_of(a, b, i, 100, sizes[i]);

		memset(a->mem, (int)i + 1, MEM);
		memset(b->mem, 0, MEM);
		b->imms = 0;
		CHECK_EQ(post(a, &wr), 1);
		UNTIL(a, b, b->imms);
		CHECK_EQ(b->imm, 7);
		for (uint64_t at = 0; at < MEM; at++)
			if (b->mem[at] != (at >= 100 && at < 100 + sizes[i] ? i + 1 : 0))
				check_failed(__FILE__, __LINE__, "these bytes and no others");
	}
	await_ended(a, b, sizeof(sizes) / sizeof(sizes[0]));
	CHECK_EQ(a->failed, 0);
	disconnect(a, b);
}

static void test_messages(struct end *a, struct end *b)
{
	static const uint32_t sizes[] = { 0, 1, VERBS_INLINE, VERBS_INLINE + 1, PG_MSG_MAX };

	connect_ends(a, b);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct wr wr = { .op = WR_SEND, .id = i, .src = a->mem, .len = sizes[i] };

		memset(a->mem, (int)i + 1, PG_MSG_MAX);
		b->msgs = 0;
		CHECK_EQ(post(a, &wr), 1);
		/* It is copied, or the device has it: the caller's may change once it has ended. */
		UNTIL(a, b, b->msgs);
		CHECK_EQ(b->message_len, sizes[i]);
		CHECK(!memcmp(b->message, a->mem, sizes[i]));
	}
	disconnect(a, b);
}

/* A receiver that takes no messages holds no writes up, and none gets lost. */
static void test_message_flood(struct end *a, struct end *b)
{
	unsigned sent = 0, n = 3 * VERBS_MSGS;
	struct wr wr;
	uint64_t end = clock_ns() + 10 * SECOND;

	connect_ends(a, b);
	b->take = 0;
	for (; sent < n; sent++) {
		wr = (struct wr){ .op = WR_SEND, .id = sent, .src = a->mem, .len = 100 };
		for (unsigned tries = 0; post(a, &wr) != 1 && tries < 1000; tries++)
			poll_for(a, b, 10000);
		if (b->d && a->done + VERBS_MSG_WRS - VERBS_KEPT == sent)
			break; /* all places are taken, and stay so */
	}
	CHECK(sent < n && b->msgs == 0);
	wr = write_of(a, b, MAX_ENDED - 1, 0, 1000);
	CHECK_EQ(post(a, &wr), 1);
	UNTIL(a, b, b->imms);
	b->take = 16;
	while (b->msgs < n && clock_ns() < end) {
		wr = (struct wr){ .op = WR_SEND, .id = sent, .src = a->mem, .len = 100 };
		if (sent < n && post(a, &wr) == 1)
			sent++;
		poll_end(a);
		poll_end(b);
	}
	CHECK_EQ(b->msgs, n);
	disconnect(a, b);
}

/* More than there is room for waits; nothing is lost. */
static void test_credit(struct end *a, struct end *b)
{
	unsigned n = 0, refused = 0;
	uint64_t end = clock_ns() + 20 * SECOND;

	connect_ends(a, b);
	while (n < 1000) {
		struct wr wrs[32];
		int posted;

		for (unsigned i = 0; i < 32; i++)
			wrs[i] = write_of(a, b, n + i, 64 * i, 64);
		posted = transport_verbs.post(a->c, wrs, n + 32 > 1000 ? 1000 - n : 32, NULL);
		CHECK(posted > 0 || posted == -EAGAIN);
		refused += posted < 0;
		n += posted > 0 ? (unsigned)posted : 0;
		transport_verbs.flush(a->c);
		if (posted < 0) {
			poll_end(a);
			poll_end(b);
		}
		CHECK(clock_ns() < end);
	}
	await_ended(a, b, 1000);
	CHECK(refused > 0 && a->failed == 0);
	poll_for(a, b, 1000000);
	CHECK_EQ(b->imms, 1000);
	disconnect(a, b);
}

/* When little is left for all of a NIC, who has much in flight waits for others. */
static void test_scarce_credit(struct end *a, struct end *b)
{
	struct verbs_domain *d = verbs_domain(a->d);
	struct wr wr;
	unsigned taken, n = 0;

	connect_ends(a, b);
	taken = d->sends_left - (d->sends / 2 - 1);
	d->sends_left -= taken;
	do
		wr = write_of(a, b, n, 0, 8);
	while (transport_verbs.post(a->c, &wr, 1, NULL) == 1 && ++n < VERBS_WRS);
	CHECK_EQ(n, VERBS_SIGNAL);
	d->sends_left += taken;
	CHECK_EQ(post(a, &wr), 1);
	await_ended(a, b, n + 1);
	disconnect(a, b);
}

/* ---- What does not ---- */

/* Memory that is not the peer's to give: the write fails for its own fault, what comes behind it may be
 * sent elsewhere, and the connection is of no more use. */
static void test_wrong_key(struct end *a, struct end *b)
{
	struct wr wr;

	connect_ends(a, b);
	wr = write_of(a, b, 0, 0, 100);
	CHECK_EQ(post(a, &wr), 1);
	await_ended(a, b, 1);
	wr = write_of(a, b, 1, 0, 100);
	wr.rkey ^= 0x5a5a5a;
	CHECK_EQ(transport_verbs.post(a->c, &wr, 1, NULL), 1);
	wr = write_of(a, b, 2, 0, 100);
	CHECK_EQ(transport_verbs.post(a->c, &wr, 1, NULL), 1);
	transport_verbs.flush(a->c);
	await_ended(a, b, 3);
	UNTIL(a, b, a->dead);
	CHECK_EQ(a->status[0], 0);
	CHECK_EQ(a->status[1], -EACCES);
	CHECK_EQ(a->status[2], -ECONNABORTED);
	CHECK_EQ(b->imms, 1);
	CHECK_EQ(post(a, &wr), -ECONNABORTED);
	disconnect(a, b);
}

/* Stopped in the middle: what was acknowledged has arrived, and after the fence nothing does. */
static void test_stop_and_fence(struct end *a, struct end *b, unsigned polls)
{
	struct wr wrs[100];
	unsigned arrived;

	connect_ends(a, b);
	for (unsigned i = 0; i < 100; i++)
		wrs[i] = write_of(a, b, i, 4096ull * i, 4096);
	CHECK_EQ(transport_verbs.post(a->c, wrs, 100, NULL), 100);
	transport_verbs.flush(a->c);
	for (unsigned i = 0; i < polls; i++) {
		poll_end(a);
		poll_end(b);
	}
	transport_verbs.conn_stop(a->c);
	UNTIL(a, b, a->stopped);
	CHECK_EQ(a->done + a->failed, 100);
	transport_verbs.conn_stop(b->c);
	UNTIL(a, b, b->stopped);
	transport_verbs.conn_fence(a->c);
	transport_verbs.conn_fence(b->c);
	UNTIL(a, b, a->fenced);
	UNTIL(a, b, b->fenced);
	arrived = b->imms;
	CHECK(arrived >= a->done && arrived <= 100);
	for (unsigned i = 0; i < a->done; i++)
		CHECK_EQ(a->status[i], 0); /* in order */
	memset(b->mem, 0xaa, MEM);
	poll_for(a, b, 5000000);
	CHECK_EQ(b->imms, arrived);
	for (uint64_t at = 0; at < MEM; at++)
		CHECK_EQ(b->mem[at], 0xaa);
	disconnect(a, b);
}

/* All room comes back, whatever was in flight; and a number that is given again is not mistaken. */
static void test_closed_in_flight(struct end *a, struct end *b)
{
	const struct verbs_domain *d = verbs_domain(a->d);
	uint32_t room = d->sends_left;
	unsigned spare = d->n_spare;

	for (unsigned i = 0; i < 50; i++) {
		struct wr wr;

		connect_ends(a, b);
		for (unsigned k = 0; k < 40; k++) {
			wr = write_of(a, b, k, 0, 4096);
			CHECK_EQ(transport_verbs.post(a->c, &wr, 1, NULL), 1);
		}
		wr = (struct wr){ .op = WR_SEND, .id = 40, .src = a->mem, .len = 1000 };
		CHECK_EQ(transport_verbs.post(a->c, &wr, 1, NULL), 1);
		if (i % 2)
			transport_verbs.flush(a->c);
		if (i % 3)
			poll_end(a);
		if (i % 5)
			poll_end(b);
		disconnect(a, b);
		CHECK_EQ(d->sends_left, room);
		CHECK_EQ(d->n_spare, spare);
	}
	/* Receives, too. */
	connect_ends(a, b);
	for (unsigned i = 0; i < 2 * VERBS_MSGS; i++) {
		struct wr wr = { .op = WR_SEND, .id = i, .src = a->mem, .len = 100 };

		CHECK_EQ(post(a, &wr), 1);
		await_ended(a, b, i + 1);
	}
	poll_for(a, b, 1000000);
	CHECK_EQ(b->msgs, 2 * VERBS_MSGS);
	disconnect(a, b);
}

/* ---- Memory of a GPU ---- */

/* What the library says is in this process; it stands for that of the CUDA driver, with one allocation
 * of "GPU memory", which is the host's. */
static struct {
	uint8_t *at;
	uint64_t len;
	bool exports;
	unsigned exported;
} fake_gpu;

bool cuda_is_loaded(void)
{
	return true;
}

bool cuda_is_device_memory(const void *ptr)
{
	return fake_gpu.at && (const uint8_t *)ptr >= fake_gpu.at &&
	       (const uint8_t *)ptr < fake_gpu.at + fake_gpu.len;
}

int cuda_dmabuf(const void *ptr, uint64_t len, uint64_t *offset, struct pg_error *err)
{
	CHECK(cuda_is_device_memory(ptr) && len <= fake_gpu.len);
	if (!fake_gpu.exports) {
		snprintf(err->text, sizeof(err->text), "the fake exports nothing");
		return -EOPNOTSUPP;
	}
	*offset = (uint64_t)((const uint8_t *)ptr - fake_gpu.at);
	fake_gpu.exported++;
	return memfd_create("fake GPU memory", MFD_CLOEXEC);
}

/* DMA-BUF is tried first, then the address; if neither will do, both reasons are told. */
static void test_gpu_memory(struct end *a)
{
	struct memory memory = { .len = 8192, .fd = -1 };
	struct pg_error err = { 0 };
	uint64_t lkey, key;

	memory.base = fake_gpu.at = aligned_alloc(4096, 8192);
	fake_gpu.len = 8192;
	for (unsigned i = 0; i < 2; i++) {
		fake_gpu.exports = i;
		CHECK(transport_verbs.mr_reg(a->d, &memory, &lkey, &key, NULL) == 0);
		transport_verbs.mr_dereg(a->d, lkey);
	}
	CHECK_EQ(fake_gpu.exported, 1);
	free(fake_gpu.at);

	memory.base = fake_gpu.at = (uint8_t *)4096; /* nobody can register that */
	fake_gpu.exports = false;
	CHECK(transport_verbs.mr_reg(a->d, &memory, &lkey, &key, &err) < 0);
	CHECK(strstr(err.text, "the fake exports nothing") && strstr(err.text, "nvidia_peermem"));
	fake_gpu.at = NULL;
}

/* ---- Offers ---- */

static void refuse(struct end *a, const struct offer *offer, int status, const char *words)
{
	struct pg_error err = { 0 };
	int rc = transport_verbs.conn_attach(a->c, offer, &err);

	if (rc == status && strstr(err.text, words))
		return;
	fprintf(stderr, "%d: %s\n", rc, err.text);
	check_failed(__FILE__, __LINE__, words);
}

static void test_offers(struct end *a, struct end *b)
{
	struct offer good, bad;
	struct conn *theirs;

	CHECK(transport_verbs.conn_open(a->d, &a->c, &a->offer, NULL) == 0);
	CHECK(transport_verbs.conn_open(b->d, &theirs, &good, NULL) == 0);
	bad = good;
	bad.len--;
	refuse(a, &bad, -EPROTO, "bytes");
	bad = good;
	bad.bytes[0]++; /* layout */
	refuse(a, &bad, -EPROTO, "layout");
	bad = good;
	bad.bytes[6] ^= 1; /* partition */
	refuse(a, &bad, -EHOSTUNREACH, "P_Key");
	bad = good;
	bad.bytes[24] = 9; /* MTU */
	refuse(a, &bad, -EPROTO, "MTU");
	bad = good;
	bad.bytes[25] ^= 1; /* link layer */
	refuse(a, &bad, -EHOSTUNREACH, "InfiniBand");
	CHECK(transport_verbs.conn_attach(a->c, &good, NULL) == 0);
	transport_verbs.conn_close(a->c);
	transport_verbs.conn_close(theirs);
}

int main(void)
{
	struct end a, b;

	need_nic(&transport_verbs);
	open_end(&a, &transport_verbs, 0, "");
	open_end(&b, &transport_verbs, 1, "imms=128");
	test_sizes(&a, &b);
	test_messages(&a, &b);
	test_message_flood(&a, &b);
	test_credit(&a, &b);
	test_scarce_credit(&a, &b);
	test_wrong_key(&a, &b);
	for (unsigned polls = 0; polls <= 64; polls += 16)
		test_stop_and_fence(&a, &b, polls);
	test_closed_in_flight(&a, &b);
	test_offers(&a, &b);
	test_gpu_memory(&a);
	close_end(&a);
	close_end(&b);
	return 0;
}
