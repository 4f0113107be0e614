/* SPDX-License-Identifier: MIT
 *
 * shm with threads: two that talk to each other, each on a lane of its own, and lanes with a
 * mover. */
#include <pthread.h>

#include "shm_ends.h"

/* ---- Two threads, sleeping ------------------------------------------------------------------ */

enum { NAPS = 5000 };

static uint32_t next_imm(struct end *e)
{
	struct arrival got;

	do
		got = sleep_for_one(e);
	while (got.kind == ARRIVAL_DONE);
	CHECK_EQ(got.kind, ARRIVAL_IMM);
	return got.imm;
}

static void *echo(void *arg)
{
	struct end *e = arg;

	for (uint32_t i = 0; i < NAPS; i++) {
		struct wr wr = imm_wr(next_imm(e));

		must_post(e, &wr);
	}
	return NULL;
}

static void test_echo(bool async)
{
	pthread_t thread;
	struct end a, b;

	join(&a, open_lane(1, async), &b, open_lane(1, async));
	CHECK_EQ(pthread_create(&thread, NULL, echo, &b), 0);
	for (uint32_t i = 0; i < NAPS; i++) {
		struct wr wr = imm_wr(i);

		must_post(&a, &wr);
		CHECK_EQ(next_imm(&a), i);
	}
	pthread_join(thread, NULL);
	close_pair(&a, &b);
}

/* Regions come and go while pieces are placed. */
static void *churn(void *arg)
{
	struct end *e = arg;
	struct memory memory = { .base = e, .len = sizeof(*e), .fd = -1 };
	uint64_t lkeys[200], key;

	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 200; i++)
			CHECK_EQ(shm->mr_reg(e->domain, &memory, &lkeys[i], &key, NULL), 0);
		for (unsigned i = 0; i < 200; i++)
			shm->mr_dereg(e->domain, lkeys[i]);
	}
	return NULL;
}

static void test_churn(void)
{
	pthread_t thread;
	struct end a, b;
	struct wr wr;

	setenv("PGCTL_SHM_CMA", "0", 1);
	open_pair(&a, &b);
	unsetenv("PGCTL_SHM_CMA");
	CHECK_EQ(pthread_create(&thread, NULL, churn, &b), 0);
	wr = write_wr(&a, 0, a.conn->max_unmapped, false);
	wr.op = WR_WRITE_IMM;
	for (unsigned i = 0; i < 3000; i++) {
		must_post(&a, &wr);
		CHECK_EQ(wait_one(&b).kind, ARRIVAL_IMM);
	}
	pthread_join(thread, NULL);
	close_pair(&a, &b);
}

/* ---- Movers --------------------------------------------------------------------------------- */

/* Posts id 0..n-1 and takes completions and immediates as they come, both exactly once and in
 * order. */
static void stream(struct end *a, struct end *b, unsigned n, uint64_t len, bool mapped)
{
	unsigned posted = 0, done = 0, seen = 0;
	struct arrival got[16];

	while (done < n || seen < n) {
		struct wr wr = write_wr(a, posted % 16 * len, len, mapped);
		unsigned k, i;
		int rc;

		wr.op = WR_WRITE_IMM;
		wr.imm = posted;
		wr.id = posted;
		rc = posted < n ? post_one(a, &wr) : 0;
		CHECK(rc >= 0 || rc == -EAGAIN);
		posted += rc > 0;
		k = poll_now(a, got, 16, 0);
		for (i = 0; i < k; i++, done++) {
			CHECK_EQ(got[i].kind, ARRIVAL_DONE);
			CHECK(got[i].conn == a->conn);
			CHECK_EQ(got[i].status, 0);
			CHECK_EQ(got[i].id, done);
		}
		k = poll_now(b, got, 16, 0);
		for (i = 0; i < k; i++, seen++) {
			CHECK_EQ(got[i].imm, seen);
			CHECK_EQ(got[i].count, 1);
		}
		if (!k)
			sched_yield();
	}
	CHECK(!memcmp(landing(b), source(a), 16 * len));
}

static void test_mover(void)
{
	uint64_t seed = 4;
	struct end a, b;
	struct wr wr;

	join(&a, open_lane(1, true), &b, open_lane(1, false));
	CHECK(!a.domain->caps.sync_post && b.domain->caps.sync_post);
	for (unsigned i = 0; i < HALF; i++)
		source(&a)[i] = (uint8_t)check_random(&seed);
	stream(&a, &b, 3000, 8, true);
	stream(&a, &b, 300, 1 << 16, true);
	stream(&a, &b, 300, 4096, false);

	/* One that fails: its immediate does not arrive, the next one does. */
	if (strstr(a.conn->note, "by process_vm_writev")) {
		wr = write_wr(&a, 0, 64, false);
		wr.raddr = 64;
		wr.op = WR_WRITE_IMM;
		must_post(&a, &wr);
		CHECK_EQ(sleep_for_one(&a).status, -EFAULT);
	}
	wr = imm_wr(77);
	must_post(&a, &wr);
	CHECK_EQ(sleep_for_one(&a).kind, ARRIVAL_DONE);
	CHECK_EQ(sleep_for_one(&b).imm, 77);

	wr = send_wr(source(&a), 1000);
	must_post(&a, &wr);
	CHECK_EQ(sleep_for_one(&b).len, 1000);

	/* Closing waits for what is under way. */
	wr = write_wr(&a, 0, 1 << 20, true);
	for (unsigned i = 0; i < 40; i++)
		shm->post(a.conn, &wr, 1, NULL);
	close_pair(&a, &b);
}

static void test_mover_full(void)
{
	struct wr wr = imm_wr(0);
	unsigned posted = 0;
	struct end a, b;

	join(&a, open_lane(1, true), &b, open_lane(1, false));
	while (post_one(&a, &wr) == 1)
		posted++;
	CHECK_EQ(posted, a.domain->caps.max_outstanding);
	while (posted--)
		CHECK_EQ(sleep_for_one(&a).kind, ARRIVAL_DONE);
	CHECK_EQ(post_one(&a, &wr), 1);
	close_pair(&a, &b);
}

static void test_mover_bounce(void)
{
	struct end a, b;

	setenv("PGCTL_SHM_CMA", "0", 1);
	join(&a, open_lane(1, true), &b, open_lane(1, true));
	unsetenv("PGCTL_SHM_CMA");
	stream(&a, &b, 500, 4096, false);
	close_pair(&a, &b);
}

/* A lane that copies here and one that copies there, at the same time. */
static void test_two_lanes(void)
{
	struct end near_a, near_b, far_a, far_b;

	join(&near_a, open_lane(0, true), &near_b, open_lane(0, true));
	join(&far_a, open_lane(1, true), &far_b, open_lane(1, true));
	CHECK(near_a.domain->caps.sync_post && !far_a.domain->caps.sync_post);
	for (unsigned round = 0; round < 20; round++) {
		struct wr near = write_wr(&near_a, 0, 1 << 20, true);
		struct wr far = write_wr(&far_a, 0, 1 << 20, true);

		memset(source(&near_a), (int)round, 1 << 20);
		memset(source(&far_a), (int)round + 100, 1 << 20);
		near.op = far.op = WR_WRITE_IMM;
		must_post(&far_a, &far);
		must_post(&near_a, &near);
		sleep_for_one(&near_b);
		sleep_for_one(&far_b);
		CHECK(!memcmp(landing(&near_b), source(&near_a), 1 << 20));
		CHECK(!memcmp(landing(&far_b), source(&far_a), 1 << 20));
		CHECK_EQ(sleep_for_one(&far_a).kind, ARRIVAL_DONE);
	}
	close_pair(&near_a, &near_b);
	close_pair(&far_a, &far_b);
}

int main(void)
{
	alarm(50);
	test_echo(false);
	test_echo(true);
	test_churn();
	test_mover();
	test_mover_full();
	test_mover_bounce();
	test_two_lanes();
	return 0;
}
