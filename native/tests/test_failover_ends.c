/* SPDX-License-Identifier: MIT
 *
 * Where others cannot take over: both ends hear of it, nothing hangs, and what was in flight ends with
 * an error. And what an operation that is out of time does to others on its connection.
 */
#include <errno.h>
#include <sys/mman.h>

#include "impaired_pair.h"

static void check_down(struct side *s, int status, const char *words)
{
	struct pg_peer_info info;

	CHECK(pg_peer_info(s->g, s->peer, &info) == 0);
	if (info.up || info.status != status || !strstr(info.reason, words)) {
		fprintf(stderr, "%d: %s\n", info.status, info.reason);
		check_failed(__FILE__, __LINE__, words);
	}
}

/* Only this side makes progress. */
static void await_down(struct side *a)
{
	for (unsigned i = 0; side_is_up(a) && i < 5000; i++)
		run_until(a, NULL, &(int32_t){ 0 }, MS);
}

/* The last NIC of either side goes: its peers are told why, and so are theirs. */
static void test_last_nic(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	struct pg_event e;
	int32_t first, last = 0;
	uint64_t end = clock_ns() + 5 * SECOND;

	open_pair(&a, &b, 2, "kill=nic1@0.05s,kill=nic0@0.1s", SOUND, &config);
	CHECK_EQ(submit(&a, 1, 0, &first), 1);
	CHECK_EQ(run_until(&a, &b, &first, 5 * SECOND), 1);
	while (last >= 0 && clock_ns() < end) {
		if (submit(&a, 1, 0, &last) != 1)
			break;
		run_until(&a, &b, &last, 5 * SECOND);
	}
	run_for(&a, &b, 20 * MS);
	check_down(&a, -ENETDOWN, "no NIC is left");
	check_down(&b, -ENETDOWN, "no NIC is left");
	CHECK(side_next_news(&a, &b, PG_EVENT_NIC_DOWN, &e) && e.status == -ENETDOWN);
	pair_close(&a, &b);
}

/* One side's transport can stop a connection and the other's cannot. */
static void test_not_to_be_stopped(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent = 0;
	uint64_t end = clock_ns() + 5 * SECOND;

	open_pair(&a, &b, 2, "kill=nic1@0.02s", "none", &config);
	while (sent >= 0 && clock_ns() < end && submit(&a, 1, 0, &sent) == 1)
		run_until(&a, &b, &sent, 5 * SECOND);
	run_for(&a, &b, 20 * MS);
	check_down(&b, -ENETDOWN, "connection over shm1 broke");
	check_down(&a, -EHOSTDOWN, "");
	pair_close(&a, &b);
}

/* The peer makes no progress: it cannot be asked, and is given up in time. */
static void test_no_answer(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent, lost = 0;

	config.op_timeout_ns = 300 * MS;
	open_pair(&a, &b, 2, "fail=1", SOUND, &config);
	CHECK_EQ(submit(&a, PG_NO_IMM, 0, &sent), 1);
	while (pg_progress(a.g), !a.g->n_broken)
		pg_progress(b.g);
	CHECK_EQ(submit(&a, 1, 0, &lost), 1);
	CHECK(run_until(&a, NULL, &lost, 5 * SECOND) < 0);
	await_down(&a);
	check_down(&a, -ETIMEDOUT, ", and the peer does not");
	pair_close(&a, &b);
}

/* Nor is it waited for without end when nothing is owed to it. */
static void test_no_answer_when_idle(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent;

	config.op_timeout_ns = 300 * MS;
	open_pair(&a, &b, 2, "kill=nic1@0.05s", SOUND, &config);
	CHECK_EQ(submit(&a, 1, 0, &sent), 1);
	CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), 1);
	await_down(&a);
	check_down(&a, -ETIMEDOUT, ", and the peer does not");
	pair_close(&a, &b);
}

/* What is out of time breaks its connection. Another operation there is sent again, and ends well; of
 * the late one at most what was said to be an error is counted. */
static void test_innocent(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t late, innocent;
	uint64_t value;

	open_pair(&a, &b, 1, "delay=300ms", SOUND, &config);
	CHECK_EQ(submit(&a, 7, 50, &late), 1);
	CHECK_EQ(submit(&a, 8, 0, &innocent), 1);
	CHECK_EQ(run_until(&a, &b, &late, 5 * SECOND), -ETIMEDOUT);
	CHECK_EQ(run_until(&a, &b, &innocent, 5 * SECOND), 1);
	run_for(&a, &b, 30 * MS);
	CHECK_EQ(side_value(&b, 8), 1);
	value = side_value(&b, 7);
	CHECK(value <= 1);
	CHECK(side_is_up(&a) && side_is_up(&b));
	pair_close(&a, &b);
}

/* What has failed for a fault of its own was never acknowledged: its NIC, when it dies, has lost nothing
 * of that. */
static void test_own_fault(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	void *at = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int32_t sent;

	CHECK(at != MAP_FAILED);
	open_side(&a, 2, "kill=nic1@0.05s", &config);
	open_side(&b, 2, SOUND, &config);
	CHECK(pg_reg_mr(b.g, at, MEM, &b.mr, NULL) == 0);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(munmap(at, MEM) == 0);
	for (unsigned i = 0; i < 2; i++) { /* over each NIC */
		CHECK_EQ(submit(&a, 1, 0, &sent), 1);
		CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), -EFAULT);
	}
	run_for(&a, &b, 100 * MS);
	CHECK(side_is_up(&a) && side_is_up(&b));
	CHECK(pg_submit_barrier(a.g, &a.peer, 1, 2, 0, &sent, NULL) == 0);
	CHECK_EQ(run_until(&a, &b, &sent, 5 * SECOND), 1);
	pair_close(&a, &b);
}

/* Destroyed in the middle of it. */
static void test_destroyed(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent[32];

	open_pair(&a, &b, 2, "fail=0.5,reorder=8", "reorder=8", &config);
	for (unsigned i = 0; i < 32; i++)
		CHECK_EQ(submit(&a, 1, 0, &sent[i]), 1);
	run_for(&a, &b, 2 * MS);
	CHECK(pg_engine_destroy(a.engine) == 0);
	for (unsigned i = 0; i < 32; i++)
		CHECK(sent[i] != 0);
	CHECK(pg_engine_destroy(b.engine) == 0);
}

int main(void)
{
	apart("last NIC", test_last_nic);
	apart("not to be stopped", test_not_to_be_stopped);
	apart("no answer", test_no_answer);
	apart("no answer when idle", test_no_answer_when_idle);
	apart("innocent", test_innocent);
	apart("own fault", test_own_fault);
	apart("destroyed", test_destroyed);
	return 0;
}
