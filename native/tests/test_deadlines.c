/* SPDX-License-Identifier: MIT
 *
 * When time runs out: what moves a deadline on, what does not, and who has to suffer for it. Over the
 * fake NIC, which can be held.
 */
#include <errno.h>
#include <stdio.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"
#include "util/clock.h"

#define MEM (1u << 20)
#define MS 1000000ull

/* Four pages over four NICs, of which one more is let go each time: together that takes longer than
 * the time without progress that is allowed, and only the limit counts all of it. */
static void test_slow_but_moving(uint32_t limit_ms, uint64_t op_limit_ns, int32_t status)
{
	struct pg_config config = config_defaults();
	struct pg_event e = { 0 };
	struct side a, b;
	static const uint32_t index[] = { 0, 1, 2, 3 };
	struct pg_op op = {
		.opcode = PG_OP_PAGED, .imm = 1, .limit_ms = limit_ms, .done = { .cookie = 5 }
	};

	config.op_timeout_ns = 1000 * MS;
	config.op_limit_ns = op_limit_ns;
	pair_open_up(&a, &b, 4, MEM, &config);
	op.u.paged = (struct pg_paged){ a.mr, 0, 8, index, a.remote, 0, 8, index, 8, 4 };
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		fake_nic_hold(FAKE_NIC(0, i), true);
	CHECK(pg_submit(a.g, &op, 1, 0, NULL) == 1);
	for (unsigned i = 0; i < PG_MAX_DOMAINS && e.cookie != 5; i++) {
		uint64_t start = clock_ns();

		while (clock_ns() - start < 350 * MS && e.cookie != 5) {
			pair_turns(&a, &b, 1);
			while (e.cookie != 5 && pg_poll_events(a.g, &e, 1) == 1)
				;
		}
		CHECK(e.cookie != 5 || status);
		fake_nic_hold(FAKE_NIC(0, i), false);
	}
	for (unsigned i = 0; i < 5000 && e.cookie != 5; i++) {
		pair_turns(&a, &b, 1);
		while (e.cookie != 5 && pg_poll_events(a.g, &e, 1) == 1)
			;
	}
	CHECK(e.cookie == 5);
	CHECK_EQ(e.status, status);
	if (status)
		CHECK(strstr(e.text, "not done within"));
	else
		CHECK_EQ(side_value(&b, 1), 4);
	pair_close(&a, &b);
}

/* Nothing is posted, as the owner of the region does not say whether it may be: the operation fails
 * and nothing else does. */
static void test_unposted_expires(void)
{
	struct pg_config config = config_defaults();
	struct side a, b;
	int32_t sent[2];
	pg_rmr_t other;

	config.op_timeout_ns = 50 * MS;
	pair_open_up(&a, &b, 2, MEM, &config);
	other = side_import(&a, &b, b.mr);
	CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, other, 0, 0, &sent[0], NULL) == 0);
	CHECK(pg_wait_flags(a.g, sent, 1, 20 * SECOND) == 0);
	CHECK_EQ(sent[0], -ETIMEDOUT);
	CHECK(side_is_up(&a));
	for (unsigned i = 0; i < 2; i++) {
		CHECK(pg_submit_single_write(a.g, 8, 1, a.mr, 0, i ? other : a.remote, 0, 0,
					     &sent[i], NULL) == 0);
		CHECK_EQ(pair_run(&a, &b, &sent[i]), 1);
	}
	CHECK_EQ(side_value(&b, 1), 2);
	pair_close(&a, &b);
}

int main(void)
{
	test_slow_but_moving(0, 0, 0);
	test_slow_but_moving(1000, 0, -ETIMEDOUT);
	test_slow_but_moving(0, 1000 * MS, -ETIMEDOUT);
	test_unposted_expires();
	printf("deadlines: moved on, absolute, of what is not posted\n");
	return 0;
}
