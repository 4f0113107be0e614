/* SPDX-License-Identifier: MIT
 *
 * shm within one process: what arrives, in which counts, and when there is no room. */
#include "shm_ends.h"

#define RING 2048 /* entries of a channel */

static void test_table(void)
{
	struct domain_options options = { .device = "eth0", .max_peers = 1 };
	struct pg_error err = { 0 };
	struct domain *domain;
	struct pg_caps caps;

	CHECK(transport_at(0) == shm && transport_find("shm") == shm);
	CHECK(!transport_at(99) && !transport_find("smoke"));
	CHECK_EQ(shm->query(&caps, &err), 0);
	CHECK(caps.ordered && caps.sync_post && caps.maps_peer && caps.wait_fd);
	CHECK_EQ(shm->open(&options, &domain, &err), -EINVAL);
	CHECK(strstr(err.text, "eth0"));
}

static void expect_imm(struct end *e, uint32_t imm, uint32_t count)
{
	struct arrival got = wait_one(e);

	CHECK_EQ(got.kind, ARRIVAL_IMM);
	CHECK(got.conn == e->conn);
	CHECK_EQ(got.imm, imm);
	CHECK_EQ(got.count, count);
}

static void expect_nothing(struct end *e)
{
	struct arrival got;

	CHECK_EQ(poll_now(e, &got, 1, 1), 0);
}

static void test_mapped(void)
{
	static const uint64_t lens[] = { 1, 7, 8, 9, 63, 64, 4096, 65537, 1 << 20 };
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		struct wr wr = write_wr(&a, 3, lens[i], true);

		memset(source(&a), (int)i + 1, HALF);
		must_post(&a, &wr);
		expect_nothing(&b);
		CHECK(!memcmp(landing(&b) + 3, source(&a), lens[i]));
		CHECK_EQ(landing(&b)[3 + lens[i]], 0);
		wr.op = WR_WRITE_IMM;
		wr.imm = i;
		must_post(&a, &wr);
		expect_imm(&b, i, 1);
		memset(landing(&b), 0, HALF);
	}
	close_pair(&a, &b);
}

static void test_coalescing(void)
{
	struct wr wrs[20];
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < 20; i++)
		wrs[i] = imm_wr(i < 7 ? 5 : 6);
	CHECK_EQ(shm->post(a.conn, wrs, 20, NULL), 20);
	CHECK_EQ(shm->post(a.conn, wrs, 2, NULL), 2);
	shm->flush(a.conn);
	expect_imm(&b, 5, 7);
	expect_imm(&b, 6, 13);
	expect_imm(&b, 5, 2);
	expect_nothing(&b);
	close_pair(&a, &b);
}

/* Many laps of the ring in bursts of every size, no two immediates alike. */
static void test_laps(void)
{
	uint32_t sent = 0, seen = 0;
	struct arrival got[64];
	uint64_t seed = 1;
	struct wr wrs[100];
	struct end a, b;
	unsigned n;

	open_pair(&a, &b);
	while (seen < 50 * RING) {
		unsigned burst = 1 + (unsigned)(check_random(&seed) % 100);
		int rc;

		for (unsigned i = 0; i < burst; i++)
			wrs[i] = imm_wr(sent + i);
		rc = shm->post(a.conn, wrs, burst, NULL);
		CHECK(rc > 0 || rc == -EAGAIN);
		sent += rc > 0 ? (uint32_t)rc : 0;
		shm->flush(a.conn);
		for (unsigned round = (unsigned)(check_random(&seed) % 3); round; round--) {
			n = poll_now(&b, got, 64, 0);
			for (unsigned i = 0; i < n; i++, seen++)
				CHECK_EQ(got[i].imm, seen);
		}
	}
	close_pair(&a, &b);
}

/* The receiver gives credit back in strides, so a little less than a ring may fit. */
static unsigned fill_ring(struct end *e)
{
	struct wr wr = imm_wr(0);

	while (post_one(e, &wr) == 1)
		wr.imm++;
	CHECK_EQ(post_one(e, &wr), -EAGAIN);
	CHECK(wr.imm > RING / 2 && wr.imm <= RING);
	return wr.imm;
}

static void test_credit_wakes(void)
{
	struct wr wr = imm_wr(1);
	struct end a, b;
	unsigned n;

	open_pair(&a, &b);
	for (unsigned round = 0; round < 5; round++) {
		n = fill_ring(&a);
		CHECK(shm->arm(a.domain, true));
		CHECK(!readable(a.domain->fd, 0));
		for (unsigned i = 0; i < n; i++)
			expect_imm(&b, i, 1);
		CHECK(readable(a.domain->fd, 0));
		CHECK(!shm->arm(a.domain, false));
		CHECK(!readable(a.domain->fd, 0));
		CHECK_EQ(post_one(&a, &wr), 1);
		expect_imm(&b, 1, 1);
	}
	/* Credit that came back before we ask: do not sleep. */
	n = fill_ring(&a);
	for (unsigned i = 0; i < n; i++)
		expect_imm(&b, i, 1);
	CHECK(!shm->arm(a.domain, true));
	CHECK(shm->arm(a.domain, true));
	shm->arm(a.domain, false);
	close_pair(&a, &b);
}

static void test_arm(void)
{
	struct wr wr = imm_wr(1);
	struct end a, b;

	open_pair(&a, &b);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(shm->arm(b.domain, true));
		CHECK(!readable(b.domain->fd, 0));
		must_post(&a, &wr);
		must_post(&a, &wr);
		CHECK(readable(b.domain->fd, 0));
		CHECK(!shm->arm(b.domain, false));
		CHECK(!readable(b.domain->fd, 0));
		CHECK(!shm->arm(b.domain, true));
		expect_imm(&b, 1, 1);
		expect_imm(&b, 1, 1);
	}
	/* Not armed: no system calls for the sender. */
	shm->arm(b.domain, false);
	must_post(&a, &wr);
	CHECK(!readable(b.domain->fd, 0));
	close_pair(&a, &b);
}

static void expect_message(struct end *e, const uint8_t *data, uint32_t len)
{
	struct arrival got = wait_one(e);

	CHECK_EQ(got.kind, ARRIVAL_MSG);
	CHECK(got.conn == e->conn);
	CHECK_EQ(got.len, len);
	CHECK(!memcmp(got.data, data, len));
}

static void test_messages(void)
{
	uint64_t seed = 2;
	struct end a, b;
	struct wr wr;

	open_pair(&a, &b);
	for (unsigned i = 0; i < HALF; i++)
		source(&a)[i] = (uint8_t)check_random(&seed);
	for (unsigned i = 0; i < 2000; i++) {
		uint32_t len = (uint32_t)(check_random(&seed) % (PG_MSG_MAX + 1));

		wr = send_wr(source(&a) + i, len);
		must_post(&a, &wr);
		expect_message(&b, source(&a) + i, len);
	}
	wr = send_wr(source(&a), PG_MSG_MAX + 1);
	CHECK_EQ(post_one(&a, &wr), -EMSGSIZE);
	close_pair(&a, &b);
}

/* Messages nobody wants yet wait, hold up nothing else, and do not keep us awake. */
static void test_message_limit(void)
{
	struct wr send, imm = imm_wr(9);
	struct arrival got[8];
	unsigned sent = 0;
	struct end a, b;

	open_pair(&a, &b);
	send = send_wr("hello", 5);
	while (post_one(&a, &send) == 1)
		sent++;
	CHECK(sent > 100);
	CHECK_EQ(post_one(&a, &send), -EAGAIN);
	must_post(&a, &imm);
	CHECK_EQ(poll_now(&b, got, 8, 0), 1);
	CHECK_EQ(got[0].imm, 9);
	CHECK_EQ(poll_now(&b, got, 8, 0), 0);
	CHECK(shm->arm(b.domain, true));
	shm->arm(b.domain, false);

	CHECK(shm->arm(a.domain, true));
	CHECK_EQ(poll_now(&b, got, 8, 2), 2);
	CHECK(readable(a.domain->fd, 0));
	shm->arm(a.domain, false);
	CHECK_EQ(post_one(&a, &send), 1);
	for (unsigned i = 2; i < sent + 1; i++)
		expect_message(&b, (const uint8_t *)"hello", 5);
	expect_nothing(&b);
	close_pair(&a, &b);
}

/* Writes to memory that is not mapped, in whatever way this connection does it. */
static void check_unmapped(const char *note)
{
	struct arrival got;
	struct end a, b;
	struct wr wrs[3];

	open_pair(&a, &b);
	CHECK(strstr(a.conn->note, note));
	for (unsigned i = 0; i < HALF; i++)
		source(&a)[i] = (uint8_t)(i * 31 + i / 251);
	for (uint64_t at = 0, len = 1; at + len < HALF; at += len, len = len * 3 + 1) {
		uint64_t most = a.conn->max_unmapped;

		len = len < most ? len : most;
		wrs[0] = write_wr(&a, at, len, false);
		wrs[1] = wrs[0];
		wrs[1].op = WR_WRITE_IMM;
		wrs[1].imm = 7;
		wrs[2] = imm_wr(8);
		for (unsigned i = 0; i < 3; i++)
			must_post(&a, &wrs[i]);
		got = wait_one(&b);
		CHECK_EQ(got.imm, 7);
		CHECK_EQ(got.count, 1);
		CHECK(!memcmp(landing(&b) + at, source(&a) + at, len));
		got = wait_one(&b);
		CHECK_EQ(got.imm, 8);
	}
	wrs[0] = write_wr(&a, 0, 64, false);
	for (unsigned i = 0; i < 3000; i++) {
		must_post(&a, &wrs[0]);
		expect_nothing(&b);
	}
	close_pair(&a, &b);
}

static void test_unmapped(void)
{
	check_unmapped("process_vm_writev");
	setenv("PGCTL_SHM_CMA", "0", 1);
	check_unmapped("by the receiver: PGCTL_SHM_CMA=0");
	unsetenv("PGCTL_SHM_CMA");
}

/* One lane, many connections of which few are busy at a time; also with itself. */
static void test_many(void)
{
	enum { PAIRS = 70, ROUNDS = 300 };
	static struct end left[PAIRS], right[PAIRS];
	uint32_t owed[PAIRS] = { 0 };
	struct domain *domain = open_lane(0, false);
	struct arrival got[16];
	uint64_t seed = 3;

	for (unsigned i = 0; i < PAIRS; i++)
		join(&left[i], domain, &right[i], domain);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned k = (unsigned)(check_random(&seed) % 8); k; k--) {
			unsigned i = (unsigned)(check_random(&seed) % PAIRS);
			struct wr wr = imm_wr(i);

			must_post(&left[i], &wr);
			owed[i]++;
		}
		for (unsigned k = 0; k < 400; k++) {
			unsigned n = poll_now(&left[0], got, 16, 16);

			for (unsigned i = 0; i < n; i++) {
				CHECK(got[i].conn == right[got[i].imm].conn);
				owed[got[i].imm] -= got[i].count;
			}
		}
		for (unsigned i = 0; i < PAIRS; i++)
			CHECK_EQ(owed[i], 0);
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		end_close(&left[i]);
		end_close(&right[i]);
	}
	shm->close(domain);
}

static void test_regions(void)
{
	struct memory plain = { .base = &plain, .len = sizeof(plain), .fd = -1 };
	struct memory unsealed = make_memory(4096, F_SEAL_GROW);
	struct memory small = make_memory(4096, F_SEAL_GROW | F_SEAL_SHRINK);
	struct domain *domain = open_lane(0, false);
	uint64_t lkeys[300], keys[300];
	struct pg_error err = { 0 };
	struct offer offer;
	void *mapped;

	for (unsigned i = 0; i < 300; i++) {
		CHECK_EQ(shm->mr_reg(domain, &plain, &lkeys[i], &keys[i], &err), 0);
		CHECK(!i || keys[i] != keys[i - 1]);
	}
	for (unsigned i = 0; i < 300; i++)
		shm->mr_dereg(domain, lkeys[i]);

	CHECK_EQ(shm->mr_export(domain, &plain, &offer), -ENOTSUP);
	CHECK_EQ(shm->mr_export(domain, &unsealed, &offer), 0);
	CHECK_EQ(shm->mr_import(domain, &offer, 4096, &mapped, &err), -EPROTO);
	small.fd_len = 8192;
	CHECK_EQ(shm->mr_export(domain, &small, &offer), 0);
	CHECK_EQ(shm->mr_import(domain, &offer, 8192, &mapped, &err), -EPROTO);
	CHECK(strstr(err.text, "4096"));
	CHECK_EQ(shm->mr_import(domain, &offer, 8193, &mapped, &err), -EPROTO);
	CHECK_EQ(shm->mr_import(domain, &offer, 0, &mapped, &err), -EPROTO);
	small.fd_len = 4096;
	CHECK_EQ(shm->mr_export(domain, &small, &offer), 0);
	offer.len--;
	CHECK_EQ(shm->mr_import(domain, &offer, 4096, &mapped, &err), -EPROTO);
	offer.len++;
	CHECK_EQ(shm->mr_import(domain, &offer, 100, &mapped, &err), 0);
	shm->mr_unimport(domain, mapped, 100);
	free_memory(&unsealed);
	free_memory(&small);
	shm->close(domain);
}

int main(void)
{
	alarm(50);
	test_table();
	test_mapped();
	test_coalescing();
	test_laps();
	test_credit_wakes();
	test_arm();
	test_messages();
	test_message_limit();
	test_unmapped();
	test_many();
	test_regions();
	return 0;
}
