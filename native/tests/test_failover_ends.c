/* SPDX-License-Identifier: MIT
 *
 * Where others cannot take over: both ends hear of it, nothing hangs, and what was in flight ends with
 * an error. And what an operation that is out of time does to others on its connection.
 */
#include <errno.h>

#include "engine/failover.h"
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
	struct side a, b;
	int32_t sent;

	open_faulty(&a, &b, 2, "kill=nic1@0.05s");
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

static void break_all(struct side *s)
{
	struct peer *p = peer_of(s);

	group_enter(s->g);
	for (unsigned k = 0; k < p->n_paths; k++)
		if (p->paths[k].conn)
			path_broke(s->g, p, k, -EIO);
	group_leave(s->g);
}

/* Nor is it among what was sent when its connection breaks: of others with its immediate, which are then
 * in doubt, each is counted once. */
static void own_faults_before_breaks(const char *impair)
{
	enum { ROUNDS = 20, N = 8 };
	struct side a, b;
	int32_t sent[N];

	open_faulty(&a, &b, 1, impair);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		CHECK_EQ(submit(&a, 1, 0, &sent[0]), 1);
		CHECK_EQ(run_until(&a, &b, &sent[0], 5 * SECOND), -EFAULT);
		for (unsigned i = 0; i < N; i++)
			CHECK(pg_submit_barrier(a.g, &a.peer, 1, 1, 0, &sent[i], NULL) == 0);
		break_all(&a);
		for (unsigned i = 0; i < N; i++)
			CHECK_EQ(run_until(&a, &b, &sent[i], 5 * SECOND), 1);
		run_for(&a, &b, MS);
		CHECK_EQ(side_value(&b, 1), round * N);
	}
	pair_close(&a, &b);
}

static void test_own_faults_in_order(void)
{
	own_faults_before_breaks(SOUND);
}

static void test_own_faults_unordered(void)
{
	own_faults_before_breaks("reorder=16");
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
	apart("own faults in order", test_own_faults_in_order);
	apart("own faults, unordered", test_own_faults_unordered);
	apart("destroyed", test_destroyed);
	return 0;
}
