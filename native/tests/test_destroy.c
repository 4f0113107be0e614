/* SPDX-License-Identifier: MIT
 *
 * The end of an engine, whatever it was at: everything that is owed is told, once, no descriptor is
 * left behind, and it waits for those who write to memory of the caller, but not for ever.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM (2u << 20)
#define HOUR (3600 * SECOND)

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

struct told {
	unsigned n;
	int32_t status;
};

static void tell(void *arg, const struct pg_event *event)
{
	struct told *told = arg;

	told->n++;
	told->status = event->status;
}

static void no_word(void *arg, const struct pg_event *event)
{
	(void)arg;
	(void)event;
	CHECK(!"a watched word has not changed");
}

#define OPS 6
#define N_DSTS 3

/* One of each kind, and two who wait for writes. */
static void owe_everything(struct side *a, struct told told[OPS + 2], int32_t status[2 * N_DSTS],
			   pg_peer_group_t group)
{
	static const uint32_t indices[200];
	static struct pg_scatter_dst dsts[N_DSTS];
	struct pg_op ops[OPS] = { { .opcode = PG_OP_WRITE },   { .opcode = PG_OP_PAGED },
				  { .opcode = PG_OP_SCATTER }, { .opcode = PG_OP_BARRIER },
				  { .opcode = PG_OP_SEND },    { .opcode = PG_OP_FENCE } };
	struct pg_done done = { .callback = tell };
	struct pg_from from = { .peers = &a->peer, .n_peers = 1 };
	uint64_t *word;
	pg_watcher_t watcher;

	for (unsigned i = 0; i < N_DSTS; i++)
		dsts[i] = (struct pg_scatter_dst){ 0, a->remote, 0, 64 };
	ops[0].u.write = (struct pg_write){ a->mr, 0, a->remote, 0, MEM };
	ops[1].u.paged = (struct pg_paged){ .src = a->mr,
					    .src_indices = indices,
					    .dst = a->remote,
					    .dst_indices = indices,
					    .page_len = 64,
					    .n_pages = 200 };
	ops[2].u.scatter =
		(struct pg_scatter){ .src = a->mr, .dsts = dsts, .n = N_DSTS, .status = status };
	ops[3].u.barrier = (struct pg_barrier){ .peers = &a->peer, .n = 1 };
	if (group)
		ops[3].u.barrier = (struct pg_barrier){ .group = group };
	ops[3].u.barrier.status = status + N_DSTS;
	ops[4].u.send = (struct pg_send){ a->peer, "x", 1 };
	ops[5].u.fence = (struct pg_fence){ a->peer };
	for (unsigned i = 0; i < OPS; i++) {
		ops[i].imm = i == 4 || i == 5 ? PG_NO_IMM : i;
		ops[i].done = (struct pg_done){ .callback = tell, .arg = &told[i] };
	}
	CHECK(pg_submit(a->g, ops, OPS, 0, NULL) == OPS);
	done.arg = &told[OPS];
	CHECK(pg_expect_imm(a->g, 100, 3, &done, NULL) == 0);
	done.arg = &told[OPS + 1];
	CHECK(pg_expect_imm_from(a->g, 101, 3, &from, &done, NULL) == 0);
	done = (struct pg_done){ .callback = no_word };
	CHECK(pg_alloc_watcher(a->g, &done, &word, &watcher, NULL) == 0);
}

/* In flight, all of it, over NICs that are held; or to a peer that never answers. */
static void test_owes_everything(int mode, bool connected)
{
	struct pg_config config = config_defaults();
	struct told told[OPS + 2] = { 0 };
	int32_t status[2 * N_DSTS], sent;
	unsigned before = open_fds();
	pg_peer_group_t group = 0;
	struct side a, b;

	side_open(&a, 2, mode, MEM, &config);
	side_open(&b, 2, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	if (connected) {
		CHECK(pg_submit_single_write(a.g, 8, PG_NO_IMM, a.mr, 0, a.remote, 0, 0, &sent,
					     NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent), 1);
		CHECK(pg_add_peer_group(a.g, &a.peer, 1, SECOND, &group, NULL) == 0);
		fake_nic_hold(FAKE_NIC(0, 0), true);
		fake_nic_hold(FAKE_NIC(0, 1), true);
	}
	owe_everything(&a, told, status, group);
	if (connected)
		pair_turns(&a, &b, 10);
	for (unsigned i = 0; i < (connected ? OPS : OPS - 1);
	     i++) /* to who was never there a fence is over */
		CHECK_EQ(told[i].n, 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
	for (unsigned i = 0; i < OPS + 2; i++) {
		CHECK_EQ(told[i].n, 1);
		if (i != 5)
			CHECK_EQ(told[i].status, -ESHUTDOWN);
	}
	for (unsigned i = 0; i < N_DSTS + 1; i++)
		CHECK_EQ(status[i], -ESHUTDOWN);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK_EQ(open_fds(), before);
}

/* By TCP, to a host that does not answer. */
static void test_connecting(void)
{
	struct pg_config config = config_defaults();
	unsigned before = open_fds();
	struct net_addr addr;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	struct side a, b;
	int32_t sent;

	snprintf(config.control, sizeof(config.control), "127.0.0.1");
	side_open(&a, 1, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(pg_main_address(b.g, buf, &len) == 0);
	CHECK(net_addr_decode(buf, len, &addr, NULL) == 0);
	memset(addr.unix_id, 0, sizeof(addr.unix_id));
	addr.incarnation[0] ^= 1;
	CHECK(inet_pton(AF_INET, "192.0.2.1", addr.hosts[0] + 12) == 1);
	len = sizeof(buf);
	CHECK(net_addr_encode(&addr, buf, &len) == 0);
	CHECK(pg_add_peer(a.g, buf, len, &a.peer, NULL) == 0);
	CHECK(pg_submit_send(a.g, a.peer, "x", 1, 0, &sent, NULL) == 0);
	pair_turns(&a, &b, 5);
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK(sent < 0); /* some hosts say at once that there is no way */
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK_EQ(open_fds(), before);
}

/* ---- Others who wait, and for whom it waits ---- */

struct job {
	struct side *side;
	pg_mr_t mr;
	_Atomic int begun, over;
	int result;
};

static void *revoke_it(void *arg)
{
	struct job *j = arg;

	atomic_store(&j->begun, 1);
	j->result = pg_unreg_mr(j->side->g, j->mr, HOUR, NULL);
	return NULL;
}

static void *destroy_it(void *arg)
{
	struct job *j = arg;

	atomic_store(&j->begun, 1);
	j->result = pg_engine_destroy(j->side->engine);
	atomic_store(&j->over, 1);
	return NULL;
}

static void *make_progress(void *arg)
{
	struct job *j = arg;

	while (!atomic_load(&j->over))
		pg_wait_flags(j->side->g, &(int32_t){ 0 }, 1, 100000);
	return NULL;
}

/* b lets a write to memory of its caller, or of its own. */
static void open_holder(struct side *a, struct side *b, int mode, const struct pg_config *config,
			pg_mr_t *mr)
{
	static uint8_t theirs[64];
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	int32_t sent;

	side_open(a, 1, PG_PROGRESS_INLINE, MEM, config);
	side_open(b, 1, mode, MEM, config);
	side_meet(a, b);
	*mr = b->mr;
	if (mr == &b->mr)
		goto write;
	CHECK(pg_reg_mr(b->g, theirs, sizeof(theirs), mr, NULL) == 0);
	CHECK(pg_mr_desc(b->g, *mr, buf, &len) == 0);
	CHECK(pg_import_mr(a->g, buf, len, &a->remote, NULL) == 0);
write:
	CHECK(pg_submit_single_write(a->g, 8, PG_NO_IMM, a->mr, 0, a->remote, 0, 0, &sent, NULL) ==
	      0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
}

static bool is_revoked(struct side *s)
{
	char text[16384] = "";
	int fds[2];

	CHECK(pipe(fds) == 0);
	CHECK(pg_dump(s->g, fds[1]) == 0);
	CHECK(read(fds[0], text, sizeof(text) - 1) > 0);
	close(fds[0]);
	close(fds[1]);
	return strstr(text, "is revoked") != NULL;
}

static void test_in_a_revoke(int mode)
{
	struct pg_config config = config_defaults();
	unsigned before = open_fds();
	struct side a, b;
	struct job job = { .side = &b };
	pthread_t thread;

	config.goodbye_ns = 1000000;
	open_holder(&a, &b, mode, &config, &job.mr);
	CHECK(pthread_create(&thread, NULL, revoke_it, &job) == 0);
	while (!atomic_load(&job.begun))
		usleep(1000);
	/* In the midst of it, once the group says that it is. */
	while (!is_revoked(&b))
		usleep(1000);
	side_await_waiters(&b, 1);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK_EQ(job.result, -ESHUTDOWN);
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK_EQ(open_fds(), before);
}

/* The holder makes no progress, so the engine waits; then it does, in the midst of a write, and
 * hangs up once that can land no more. */
static void test_waits_for_holders(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	struct job job = { .side = &b };
	pthread_t thread;
	pg_mr_t mr;
	int32_t sent;

	config.goodbye_ns = HOUR;
	open_holder(&a, &b, PG_PROGRESS_INLINE, &config, &mr);
	fake_nic_hold(FAKE_NIC(0, 0), true);
	CHECK(pg_submit_single_write(a.g, 8, PG_NO_IMM, a.mr, 0, a.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, destroy_it, &job) == 0);
	while (!atomic_load(&job.begun))
		usleep(1000);
	usleep(100000);
	CHECK(!atomic_load(&job.over));
	CHECK_EQ(sent, 0);
	while (!atomic_load(&job.over))
		pg_wait_flags(a.g, &(int32_t){ 0 }, 1, 100000);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(job.result == 0 && sent == -EHOSTDOWN);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* Not for one that never comes, and not for who writes to memory that is its own. */
static void test_does_not_wait(bool engine_memory)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	pg_mr_t mr;

	config.goodbye_ns = engine_memory ? HOUR : 30000000;
	open_holder(&a, &b, PG_PROGRESS_INLINE, &config, engine_memory ? &b.mr : &mr);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

/* Both at once, each owing the other. */
static void test_together(void)
{
	for (unsigned round = 0; round < 20; round++) {
		struct pg_config config = config_defaults();
		unsigned before = open_fds();
		struct side a, b;
		struct job jobs[2] = { { .side = &a }, { .side = &b } };
		pthread_t threads[2];
		int32_t sent[2];
		pg_mr_t mr;

		open_holder(&a, &b, round % 2 ? PG_PROGRESS_INLINE : PG_PROGRESS_WORKER, &config,
			    &mr);
		side_meet(&b, &a);
		CHECK(pg_submit_single_write(a.g, MEM, 1, a.mr, 0, a.remote, 0, 0, &sent[0],
					     NULL) == -ERANGE);
		CHECK(pg_submit_single_write(a.g, 64, 1, a.mr, 0, a.remote, 0, 0, &sent[0], NULL) ==
		      0);
		CHECK(pg_submit_single_write(b.g, MEM, 1, b.mr, 0, b.remote, 0, 0, &sent[1],
					     NULL) == 0);
		for (unsigned i = 0; i < 2; i++)
			CHECK(pthread_create(&threads[i], NULL, destroy_it, &jobs[i]) == 0);
		for (unsigned i = 0; i < 2; i++) {
			CHECK(pthread_join(threads[i], NULL) == 0);
			CHECK(jobs[i].result == 0 && sent[i] != 0);
		}
		CHECK_EQ(open_fds(), before);
	}
}

/* Traffic on the one side, the end on the other. */
static void test_while_others_go_on(void)
{
	struct pg_config config = config_defaults();
	unsigned before = open_fds();
	struct side a, b;
	struct job other = { .side = &b };
	pthread_t thread;
	int32_t sent = 0;

	side_open(&a, 4, PG_PROGRESS_INLINE, MEM, &config);
	side_open(&b, 3, PG_PROGRESS_INLINE, MEM, &config);
	side_meet(&a, &b);
	CHECK(pthread_create(&thread, NULL, make_progress, &other) == 0);
	for (unsigned i = 0; i < 50; i++) {
		CHECK(pg_submit_single_write(a.g, MEM, 1, a.mr, 0, a.remote, 0, 0, &sent, NULL) ==
		      0);
		if (i < 49)
			CHECK(pg_wait_flags(a.g, &sent, 1, 20 * SECOND) == 0 && sent == 1);
	}
	CHECK(pg_engine_destroy(a.engine) == 0);
	CHECK(sent == -ESHUTDOWN || sent == 1);
	atomic_store(&other.over, 1);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(pg_engine_destroy(b.engine) == 0);
	CHECK_EQ(open_fds(), before);
}

int main(void)
{
	alarm(200); /* bounded, whatever the state */
	for (int mode = PG_PROGRESS_INLINE; mode <= PG_PROGRESS_WORKER; mode++) {
		test_owes_everything(mode, true);
		test_owes_everything(mode, false);
		test_in_a_revoke(mode);
	}
	test_connecting();
	test_waits_for_holders();
	test_does_not_wait(true);
	test_does_not_wait(false);
	test_together();
	test_while_others_go_on();
	printf("destroy: in flight, connecting, revoking, from both sides, with holders\n");
	return 0;
}
