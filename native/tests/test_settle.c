/* SPDX-License-Identifier: MIT
 *
 * Split writes that are taken back when one shard has been counted and the other has not been posted.
 */
#include <errno.h>

#include "engine_pair.h"

#define MEM (8ull << 20)
#define IMM 5

/* One NIC is so slow that its shard is posted at once, and the other's is not. */
static void open_side(struct side *s)
{
	struct pg_group_config group = { .n_domains = 2,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .domains = { { .cpu = -1, .link_mbit_s = 100000 },
						      { .cpu = -1, .link_mbit_s = 1000000 } } };
	struct pg_config config = config_defaults();
	void *ptr;

	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static void open_pair(struct side *a, struct side *b)
{
	open_side(a);
	open_side(b);
	side_meet(a, b);
	side_meet(b, a);
	CHECK_EQ(pair_write_one(a, b, a->remote, PG_NO_IMM), 1);
}

static void submit(struct side *a, int32_t *flag)
{
	CHECK(pg_submit_single_write(a->g, MEM, IMM, a->mr, 0, a->remote, 0, 0, flag, NULL) == 0);
}

static void take_back(struct side *a, int32_t *flag)
{
	struct pg_done done = { .flag = flag };

	CHECK(pg_cancel(a->g, &done) == 0);
}

/* Another write may follow with the same immediate, so the peer has to have forgotten this one. */
static void test_ends_when_forgotten(void)
{
	struct side a, b;
	int32_t sent;

	open_pair(&a, &b);
	submit(&a, &sent);
	take_back(&a, &sent);
	for (int i = 0; i < 1000; i++)
		pg_progress(a.g);
	CHECK_EQ(sent, 0);
	CHECK_EQ(pair_run(&a, &b, &sent), -ECANCELED);
	CHECK_EQ(side_value(&b, IMM), 0);
	pair_close(&a, &b);
}

/* Their counted shards make a whole until the peer hears of their end. */
static void test_two_halves(void)
{
	struct side a, b;
	int32_t sent[2];

	open_pair(&a, &b);
	for (int i = 0; i < 2; i++) {
		submit(&a, &sent[i]);
		take_back(&a, &sent[i]);
	}
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pair_run(&a, &b, &sent[i]), -ECANCELED);
	CHECK_EQ(side_value(&b, IMM), 0);
	submit(&a, &sent[0]);
	CHECK_EQ(pair_run(&a, &b, &sent[0]), 1);
	pair_progress(&a, &b, 100);
	CHECK_EQ(side_value(&b, IMM), 1);
	pair_close(&a, &b);
}

/* It does not wait for ever, nor does the end of its peer pass it by. */
static void test_no_answer(void)
{
	struct pg_peer_info info;
	struct side a, b;
	int32_t sent;

	open_pair(&a, &b);
	submit(&a, &sent);
	take_back(&a, &sent);
	CHECK(pg_engine_destroy(b.engine) == 0);
	for (int i = 0; i < 1000 && !sent; i++)
		pg_wait_flags(a.g, &sent, 1, 1000000);
	CHECK_EQ(sent, -ECANCELED);
	CHECK(pg_peer_info(a.g, a.peer, &info) == 0 && info.status == -EHOSTDOWN);
	CHECK(pg_engine_destroy(a.engine) == 0);
}

int main(void)
{
	test_ends_when_forgotten();
	test_two_halves();
	test_no_answer();
	return 0;
}
