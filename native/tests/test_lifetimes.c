/* SPDX-License-Identifier: MIT
 *
 * How long things last, over shared memory: cancel, fence, revoke, peers that come and go.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_pair.h"

#define MEM (8u << 20)

/* ---- Cancel ---- */

static void test_cancel(void)
{
	struct side a, b;
	int32_t sent[3];
	struct pg_done name = { .flag = &sent[0] }, cookie = { .cookie = 77 };
	struct pg_op op = { .opcode = PG_OP_WRITE, .imm = 3, .done = { .cookie = 77 } };
	struct pg_event e;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	/* Not connected yet, so nothing is posted. */
	for (unsigned i = 0; i < 3; i++)
		CHECK(pg_submit_single_write(a.g, 8, 3, a.mr, 0, a.remote, 0, 0, &sent[i], NULL) ==
		      0);
	op.u.write = (struct pg_write){ a.mr, 0, a.remote, 0, 8 };
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	CHECK(pg_cancel(a.g, &name) == 0);
	CHECK_EQ(sent[0], -ECANCELED);
	CHECK(pg_cancel(a.g, &name) == -ENOENT);
	CHECK(pg_cancel(a.g, &cookie) == 0);
	CHECK(next_event(a.g, &e, SECOND) == 1 && e.cookie == 77 && e.status == -ECANCELED);
	CHECK_EQ(pair_run(&a, &b, &sent[1]), 1);
	CHECK_EQ(pair_run(&a, &b, &sent[2]), 1);
	pair_progress(&a, &b, 100);
	CHECK_EQ(side_value(&b, 3), 2);
	pair_close(&a, &b);
}

/* A message that waits for a buffer, and a paged write half-way: whole pages count, the rest never
 * comes. */
static void test_cancel_half(void)
{
	enum { N = 4096 };
	static uint32_t index[N];
	struct side a, b;
	int32_t sent, fenced;
	struct pg_done name = { .flag = &sent };
	uint64_t before;

	CHECK(setenv("PGCTL_SHM_CMA", "0", 1) == 0);
	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	uint8_t *theirs = malloc(N * 1024);
	pg_mr_t mr;

	CHECK(pg_reg_mr(b.g, theirs, N * 1024, &mr, NULL) == 0);
	memset(theirs, 0, N * 1024);
	memset(a.mem, 1, N * 1024);
	pg_rmr_t remote = side_import(&a, &b, mr);

	CHECK_EQ(pair_write_one(&a, &b, remote, 4), 1);
	for (uint32_t i = 0; i < N; i++)
		index[i] = i;
	struct pg_paged p = { a.mr, 0, 1024, index, remote, 0, 1024, index, 1024, N };

	/* The receiver copies, and does not now. */
	CHECK(pg_submit_paged_writes(a.g, &p, 4, 0, &sent, NULL) == 0);
	for (int i = 0; i < 50; i++)
		pg_progress(a.g);
	CHECK_EQ(sent, 0);
	CHECK(pg_cancel(a.g, &name) == 0);
	CHECK_EQ(sent, -ECANCELED);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced, NULL) == 0);
	for (int i = 0; i < 50; i++)
		pg_progress(a.g);
	CHECK_EQ(fenced, 0); /* what was posted has not landed */
	CHECK_EQ(pair_run(&a, &b, &fenced), 1);
	before = side_value(&b, 4) - 1;
	CHECK(before > 0 && before < N);
	for (uint64_t i = 8; i < N * 1024; i++)
		CHECK(theirs[i] == (i / 1024 < before));
	CHECK(pg_unreg_mr(b.g, mr, 0, NULL) == -EBUSY);
	for (int i = 0; i < 100000 && pg_unreg_mr(b.g, mr, 0, NULL); i++)
		pair_progress(&a, &b, 10);
	CHECK(pg_unreg_mr(b.g, mr, 0, NULL) == -ESTALE);
	pair_close(&a, &b);
	free(theirs);
	unsetenv("PGCTL_SHM_CMA");
}

/* ---- Fence ---- */

static void test_fence(void)
{
	struct side a, b;
	int32_t fenced[4], sent;
	struct pg_done name = { .flag = &fenced[0] };

	pair_open(&a, &b, 2, 3, PG_PROGRESS_INLINE, MEM);
	/* To a peer that was never talked to there is nothing on its way. */
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[0], NULL) == 0);
	CHECK_EQ(fenced[0], 1);
	memset(a.mem, 5, MEM);
	CHECK(pg_submit_single_write(a.g, MEM, PG_NO_IMM, a.mr, 0, a.remote, 0, 0, &sent, NULL) ==
	      0);
	for (unsigned i = 0; i < 4; i++)
		CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[i], NULL) == 0);
	CHECK(pg_cancel(a.g, &name) == 0);
	for (unsigned i = 1; i < 4; i++)
		CHECK_EQ(pair_run(&a, &b, &fenced[i]), 1);
	CHECK_EQ(sent, 1);
	CHECK_EQ(fenced[0], -ECANCELED);
	for (unsigned i = 0; i < MEM; i++)
		CHECK(b.mem[i] == 5);
	/* It waits for the answer, and so for progress of the peer. */
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[0], NULL) == 0);
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK_EQ(fenced[0], 0);
	CHECK_EQ(pair_run(&a, &b, &fenced[0]), 1);
	CHECK(pg_fence_peer(a.g, 0x1234, 0, &fenced[0], NULL) == -EINVAL);
	/* The peer goes while it is asked: nothing of ours can land any more. */
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[0], NULL) == 0);
	pg_progress(a.g);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK(pg_wait_flags(a.g, fenced, 1, 10 * SECOND) == 0);
	CHECK_EQ(fenced[0], 1);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* ---- Revoke ---- */

static void test_revoke(bool engine_memory)
{
	struct side a, b;
	struct pg_error err = { 0 };
	uint8_t *theirs = malloc(MEM);
	void *ptr = theirs;
	pg_rmr_t remote, unused;
	pg_mr_t mr;
	int32_t sent;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	if (engine_memory)
		CHECK(pg_alloc_mr(b.g, MEM, -1, 0, &ptr, &mr, NULL) == 0);
	else
		CHECK(pg_reg_mr(b.g, ptr, MEM, &mr, NULL) == 0);
	remote = side_import(&a, &b, mr);
	unused = side_import(&a, &b, mr);
	CHECK_EQ(pair_write_one(&a, &b, remote, 1), 1);
	/* The holder makes no progress, and so does not let go. */
	CHECK(pg_unreg_mr(b.g, mr, 1000000, &err) == -EBUSY);
	CHECK(strstr(err.text, "peer ") && strstr(err.text, "may still write"));
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(sent, 1); /* it has not heard of it */
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, &err) == -ESTALE);
	CHECK(strstr(err.text, "unregistered"));
	CHECK(pg_unreg_mr(b.g, mr, SECOND, &err) == 0);
	CHECK(pg_unreg_mr(b.g, mr, SECOND, &err) == -ESTALE);
	/* Who asks afterwards hears that it is gone. */
	CHECK_EQ(pair_write_one(&a, &b, unused, 1), -ESTALE);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	CHECK(pg_release_rmr(a.g, unused, NULL) == 0);
	pair_close(&a, &b);
	free(theirs);
}

/* Who has let go of it is not waited for, and who has died is not either. */
static void test_revoke_free(void)
{
	struct side a, b;
	uint8_t *theirs = malloc(MEM);
	pg_rmr_t remote;
	pg_mr_t mr;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK(pg_reg_mr(b.g, theirs, MEM, &mr, NULL) == 0);
	remote = side_import(&a, &b, mr);
	CHECK_EQ(pair_write_one(&a, &b, remote, 1), 1);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK(pg_unreg_mr(b.g, mr, SECOND, NULL) == 0);
	CHECK(pg_reg_mr(b.g, theirs, MEM, &mr, NULL) == 0);
	CHECK_EQ(pair_write_one(&a, &b, side_import(&a, &b, mr), 1), 1);
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK(pg_unreg_mr(b.g, mr, 10 * SECOND, NULL) == 0);
	CHECK(pg_engine_destroy(b.engine) == 0);
	free(theirs);
}

/* Its pages are another's only when no peer maps them: what the owner forgets stays readable for who
 * has asked for the pointer, until that lets go. */
static void test_exposed_mapping_stays(void)
{
	struct side a, b;
	pg_rmr_t remote;
	pg_mr_t mr;
	void *ptr, *mapped;
	int32_t never = 0;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_WORKER, MEM);
	CHECK(pg_alloc_mr(b.g, 4096, -1, 0, &ptr, &mr, NULL) == 0);
	memset(ptr, 7, 4096);
	remote = side_import(&a, &b, mr);
	CHECK(pg_remote_ptr(a.g, remote, SECOND, &mapped, NULL) == 0);
	CHECK(pg_unreg_mr(b.g, mr, 10 * SECOND, NULL) == 0);
	for (unsigned i = 0; i < 16; i++) {
		CHECK(pg_alloc_mr(b.g, 4096, -1, PG_ALLOC_PREFAULT, &ptr, &mr, NULL) == 0);
		memset(ptr, 9, 4096);
	}
	for (unsigned i = 0; i < 4096; i++)
		CHECK(((uint8_t *)mapped)[i] == 7);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	pg_wait_flags(a.g, &never, 1, 0);
	pair_close(&a, &b);
}

/* ---- Peers ---- */

static void test_peer_news(void)
{
	struct side a, b;
	struct pg_event e;

	pair_open(&a, &b, 1, 1, PG_PROGRESS_INLINE, MEM);
	CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
	CHECK(side_next_news(&a, &b, PG_EVENT_PEER_UP, &e) && e.peer == a.peer && e.status == 0);
	CHECK(side_next_news(&b, &a, PG_EVENT_PEER_UP, &e) && e.peer == b.peer);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK(side_next_news(&a, NULL, PG_EVENT_PEER_DOWN, &e) && e.peer == a.peer);
	CHECK(e.status == -EHOSTDOWN && strstr(e.text, "goodbye"));
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* Each comes up once and goes down once, or only what it is in the end is told: never more than
 * there are peers. */
static void test_news_are_bounded(void)
{
	struct pg_config config;
	struct pg_event e;
	struct side a, b;
	unsigned told = 0;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.max_peers = 2;
	config.max_events = 2;
	side_open(&a, 1, PG_PROGRESS_INLINE, 4096, &config);
	for (unsigned i = 0; i < 50; i++) {
		side_open(&b, 1, PG_PROGRESS_INLINE, 4096, &config);
		side_meet(&a, &b);
		CHECK_EQ(pair_write_one(&a, &b, a.remote, 1), 1);
		CHECK(pg_release_rmr(a.g, a.remote, NULL) == 0);
		CHECK(pg_engine_destroy(b.engine) == 0);
		for (int k = 0; k < 200; k++)
			pg_progress(a.g);
	}
	while (pg_poll_events(a.g, &e, 1) == 1)
		told++;
	CHECK(told > 0 && told <= 2);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

int main(void)
{
	test_cancel();
	test_cancel_half();
	test_fence();
	test_revoke(true);
	test_revoke(false);
	test_revoke_free();
	test_exposed_mapping_stays();
	test_peer_news();
	test_news_are_bounded();
	printf("lifetimes: cancel, fence, revoke, news of peers\n");
	return 0;
}
