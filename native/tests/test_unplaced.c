/* SPDX-License-Identifier: MIT
 *
 * What is posted, and not yet in the peer's memory: the receiver copies it, and makes no progress.
 * Somebody on the control stream sees what is said meanwhile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "control_proxy.h"

#define MEM 65536
#define LEN 3000

struct heard {
	unsigned n[2][CONTROL_TYPES];
	uint16_t holds; /* of this type, one from the second end */
	bool held;
	struct said said;
};

static bool hear(struct proxy *p, unsigned from, struct said *said)
{
	struct heard *h = p->arg;

	h->n[from][said_type(said)]++;
	if (said_type(said) != h->holds || h->held)
		return true;
	h->said = *said;
	h->held = true;
	said->n_fds = 0;
	return false;
}

static void turn(struct side *s)
{
	pg_wait_flags(s->g, &(int32_t){ 0 }, 1, 200000);
}

static void turns(struct side *a, struct side *b, struct proxy *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		turn(a);
		proxy_run(p);
		if (b)
			turn(b);
		proxy_run(p);
	}
}

static int32_t ends(struct side *a, struct side *b, struct proxy *p, const int32_t *flag)
{
	for (unsigned i = 0; i < 5000 && !*flag; i++)
		turns(a, b, p, 1);
	return *flag;
}

/* Memory of b's caller, which a has written to already; the rest is up to the receiver. */
static pg_rmr_t open_all(struct side *a, struct side *b, struct proxy *p, unsigned lanes,
			 uint8_t *theirs, uint64_t size, pg_mr_t *mr)
{
	struct pg_config config;
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	pg_rmr_t remote;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(a, lanes, PG_PROGRESS_INLINE, size > MEM ? size : MEM, &config);
	side_open(b, lanes, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(b, a);
	proxy_open(p, a, b);
	CHECK(pg_reg_mr(b->g, theirs, size, mr, NULL) == 0);
	CHECK(pg_mr_desc(b->g, *mr, buf, &len) == 0);
	CHECK(pg_import_mr(a->g, buf, len, &remote, NULL) == 0);
	CHECK(pg_submit_single_write(a->g, 8, PG_NO_IMM, a->mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(ends(a, b, p, &sent), 1);
	turns(a, b, p, 5);
	memset(a->mem, 1, LEN);
	return remote;
}

static void close_all(struct side *a, struct side *b, struct proxy *p)
{
	CHECK(pg_engine_destroy(a->engine) == 0);
	proxy_close(p);
	CHECK(pg_engine_destroy(b->engine) == 0);
}

/* Not asked for before all is there: the answer would come before the payload. */
static void test_fence(void)
{
	struct heard h = { .holds = 0 };
	struct proxy p = { .pass = hear, .arg = &h };
	uint8_t theirs[LEN] = { 0 };
	struct side a, b;
	int32_t sent, fenced;
	pg_mr_t mr;
	pg_rmr_t remote = open_all(&a, &b, &p, 1, theirs, LEN, &mr);

	CHECK(pg_submit_single_write(a.g, LEN, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(sent, 1);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced, NULL) == 0);
	turns(&a, NULL, &p, 50);
	CHECK(fenced == 0 && theirs[LEN - 1] == 0);
	CHECK_EQ(h.n[0][CONTROL_FENCE], 0);
	CHECK_EQ(ends(&a, &b, &p, &fenced), 1);
	CHECK(h.n[0][CONTROL_FENCE] == 1 && h.n[1][CONTROL_FENCED] == 1);
	CHECK(theirs[0] == 1 && theirs[LEN - 1] == 1);
	close_all(&a, &b, &p);
}

/* What waits for visibility was posted, and cannot be taken back any more. */
static void test_cancel(void)
{
	struct heard h = { .holds = 0 };
	struct proxy p = { .pass = hear, .arg = &h };
	uint8_t theirs[LEN] = { 0 };
	struct side a, b;
	int32_t sent, visible = 0;
	pg_mr_t mr;
	pg_rmr_t remote = open_all(&a, &b, &p, 1, theirs, LEN, &mr);
	struct pg_op op = { .opcode = PG_OP_BARRIER,
			    .imm = 3,
			    .flags = PG_REMOTE_VISIBLE,
			    .done.flag = &visible,
			    .u.barrier = { .peers = &a.peer, .n = 1 } };

	CHECK(pg_submit_single_write(a.g, LEN, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pg_submit(a.g, &op, 1, 0, NULL), 1);
	turns(&a, NULL, &p, 5);
	CHECK_EQ(visible, 0);
	pg_cancel(a.g, &op.done);
	CHECK_EQ(ends(&a, &b, &p, &visible), 1);
	CHECK_EQ(side_value(&b, 3), 1);
	close_all(&a, &b, &p);
}

/* Nor is a revoked region given back before. */
static void test_revoke(void)
{
	struct heard h = { .holds = CONTROL_REVOKE };
	struct proxy p = { .pass = hear, .arg = &h };
	uint8_t theirs[LEN] = { 0 };
	struct side a, b;
	int32_t sent;
	pg_mr_t mr;
	pg_rmr_t remote = open_all(&a, &b, &p, 1, theirs, LEN, &mr);

	for (unsigned i = 0; i < 2; i++) {
		CHECK(pg_unreg_mr(b.g, mr, 0, NULL) == -EBUSY);
		proxy_run(&p);
	}
	CHECK(h.held);
	CHECK(pg_submit_single_write(a.g, LEN, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(sent, 1);
	proxy_say(p.ends[0], &h.said);
	turns(&a, NULL, &p, 50);
	CHECK(pg_submit_single_write(a.g, LEN, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) ==
	      -ESTALE);
	CHECK(theirs[LEN - 1] == 0);
	CHECK_EQ(h.n[0][CONTROL_UNMAP], 0);
	for (unsigned i = 0; i < 5000 && !h.n[0][CONTROL_UNMAP]; i++)
		turns(&a, &b, &p, 1);
	CHECK(theirs[LEN - 1] == 1);
	CHECK(pg_unreg_mr(b.g, mr, 20 * SECOND, NULL) == 0);
	/* Told once, however often it was tried. */
	CHECK(h.n[1][CONTROL_REVOKE] == 1 && h.n[0][CONTROL_UNMAP] == 1);
	close_all(&a, &b, &p);
}

/* The stream is lost, of a peer that may yet live and take what is on its way; if nothing is, it
 * cannot. */
static void test_lost(bool placed)
{
	struct heard h = { .holds = 0 };
	struct proxy p = { .pass = hear, .arg = &h };
	uint8_t theirs[LEN] = { 0 };
	struct side a, b;
	int32_t sent, fenced[2];
	struct pg_peer_info info = { 0 };
	pg_mr_t mr;
	pg_rmr_t remote = open_all(&a, &b, &p, 1, theirs, LEN, &mr);

	CHECK(pg_submit_single_write(a.g, LEN, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	if (placed)
		turns(&a, &b, &p, 10);
	CHECK(theirs[LEN - 1] == placed);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[0], NULL) == 0);
	proxy_hang_up(&p);
	CHECK(pg_wait_flags(a.g, fenced, 1, 20 * SECOND) == 0);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0 && info.status == -EHOSTDOWN);
	CHECK(pg_fence_peer(a.g, a.peer, 0, &fenced[1], NULL) == 0);
	CHECK(pg_wait_flags(a.g, fenced, 2, 20 * SECOND) == 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(fenced[i], placed ? 1 : -EHOSTUNREACH);
	close_all(&a, &b, &p);
}

/* What is said of a failed half of a write comes only after the next whole one: in the end the
 * count is exact. */
static void test_settled_late(void)
{
	const uint64_t half = 1 << 20;
	struct heard h = { .holds = CONTROL_SETTLE };
	struct proxy p = { .pass = hear, .arg = &h };
	struct pg_peer_info info;
	struct side a, b;
	int32_t sent;
	pg_mr_t mr;
	uint8_t *theirs =
		mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pg_rmr_t remote = open_all(&a, &b, &p, 2, theirs, 2 * half, &mr);

	CHECK(pg_peer_info(a.g, a.peer, &info) == 0);
	for (uint64_t round = 1; strstr(info.path, "by process_vm_writev") && round <= 3; round++) {
		CHECK(munmap(theirs, half) == 0);
		CHECK(pg_submit_single_write(a.g, 2 * half, 1, a.mr, 0, remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(ends(&a, &b, &p, &sent), -EFAULT);
		turns(&a, &b, &p, 5);
		CHECK(h.held);
		CHECK(mmap(theirs, half, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == theirs);
		CHECK(pg_submit_single_write(a.g, 2 * half, 1, a.mr, 0, remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(ends(&a, &b, &p, &sent), 1);
		turns(&a, &b, &p, 5);
		CHECK_EQ(side_value(&b, 1), round);
		proxy_say(p.ends[1], &h.said);
		h.held = false;
		turns(&a, &b, &p, 5);
		CHECK_EQ(side_value(&b, 1), round);
	}
	close_all(&a, &b, &p);
	munmap(theirs, 2 * half);
}

/* Credit comes back bit by bit, more slowly than is allowed for all of it, and yet in time: what is
 * posted moves the deadline on where there are no completions that could. */
static void test_slow_but_moving(void)
{
	enum { SIZE = 32 << 20, STEPS = 4 };
	struct pg_config config;
	struct side a, b;
	uint8_t *theirs = malloc(SIZE), buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	pg_rmr_t remote;
	pg_mr_t mr;
	int32_t sent;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.op_timeout_ns = SECOND;
	side_open(&a, 1, PG_PROGRESS_INLINE, SIZE, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	CHECK(theirs && pg_reg_mr(b.g, theirs, SIZE, &mr, NULL) == 0);
	CHECK(pg_mr_desc(b.g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(a.g, buf, len, &remote, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, PG_NO_IMM, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	CHECK(pg_submit_single_write(a.g, SIZE, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	for (unsigned i = 0; i < STEPS; i++) {
		CHECK(pg_wait_flags(a.g, &sent, 1, 350 * SECOND / 1000) == -ETIMEDOUT);
		pg_progress(b.g);
	}
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	turn(&b);
	CHECK_EQ(side_value(&b, 1), 1);
	CHECK(memcmp(theirs, a.mem, SIZE) == 0);
	pair_close(&a, &b);
	free(theirs);
}

static unsigned n_mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:pgctl (deleted)") != NULL;
	fclose(f);
	return n;
}

/* A revoked region is not kept mapped by who wrote to it, but for one who has the pointer, and then
 * until that lets go. */
static void test_unmapped(bool exposed)
{
	struct pg_config config;
	struct side a, b;
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	unsigned before;
	int32_t sent;
	void *ptr, *mapped;
	pg_rmr_t remote;
	pg_mr_t mr;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(&a, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_WORKER, MEM, &config);
	side_meet(&a, &b);
	before = n_mapped();
	CHECK(pg_alloc_mr(b.g, 4096, -1, 0, &ptr, &mr, NULL) == 0);
	CHECK(pg_mr_desc(b.g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(a.g, buf, len, &remote, NULL) == 0);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, remote, 0, 0, &sent, NULL) == 0);
	CHECK_EQ(pair_run(&a, &b, &sent), 1);
	if (exposed)
		CHECK(pg_remote_ptr(a.g, remote, 20 * SECOND, &mapped, NULL) == 0);
	CHECK_EQ(n_mapped(), before + 2);
	CHECK(pg_unreg_mr(b.g, mr, 20 * SECOND, NULL) == 0);
	CHECK_EQ(n_mapped(), before + exposed);
	CHECK(pg_release_rmr(a.g, remote, NULL) == 0);
	CHECK_EQ(n_mapped(), before);
	pair_close(&a, &b);
}

int main(void)
{
	test_settled_late();
	test_unmapped(false);
	test_unmapped(true);
	CHECK(setenv("PGCTL_SHM_CMA", "0", 1) == 0);
	test_fence();
	test_cancel();
	test_revoke();
	test_lost(true);
	test_lost(false);
	test_slow_but_moving();
	printf("unplaced: fences, revocation, loss, slowness, late settlement\n");
	return 0;
}
