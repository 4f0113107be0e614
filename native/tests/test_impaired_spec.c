/* SPDX-License-Identifier: MIT
 *
 * What is to go wrong, as text: every form, the limits, and errors that name the piece. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "transport/impaired/impaired_spec.h"

static struct impair parse(const char *spec)
{
	struct pg_error err = { 0 };
	struct impair im;

	if (impair_parse(spec, &im, &err))
		check_failed(__FILE__, __LINE__, err.text);
	return im;
}

static void refused(const char *spec, const char *piece, const char *expected)
{
	struct impair im = { .depth = 77 };
	struct pg_error err = { 0 };
	char quoted[160];

	snprintf(quoted, sizeof(quoted), "\"%s\"", piece);
	CHECK_EQ(impair_parse(spec, &im, &err), -EINVAL);
	if (!strstr(err.text, quoted) || !strstr(err.text, expected)) {
		fprintf(stderr, "%s: %s\n", spec, err.text);
		check_failed(__FILE__, __LINE__, "the piece and what was expected");
	}
	CHECK_EQ(im.depth, 77);
}

static void test_forms(void)
{
	struct impair im = parse("none");

	CHECK(!im.active && im.rank == -1 && im.highest_nic == -1 && !im.n_events);
	im = parse("rank=3");
	CHECK(!im.active && im.rank == 3);
	im = parse("reorder=16,delay=20us,jitter=5us,cap=10G,depth=4,fail=0.01,rank=0");
	CHECK(im.active && im.reorder == 16 && im.delay_ns == 20000 && im.jitter_ns == 5000);
	CHECK(im.depth == 4 && im.fail == IMPAIR_CERTAIN / 100 && im.rank == 0);
	CHECK_EQ(im.highest_nic, -1);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		CHECK_EQ(im.cap[i], 10000000000);
	im = parse("cap=nic1:2.5M,cap=nic3:1K");
	CHECK(!im.cap[0] && im.cap[1] == 2500000 && !im.cap[2] && im.cap[3] == 1000);
	CHECK_EQ(im.highest_nic, 3);
}

static void test_numbers(void)
{
	CHECK_EQ(parse("delay=0ns").delay_ns, 0);
	CHECK(parse("delay=0ns").active);
	CHECK_EQ(parse("delay=1.5us").delay_ns, 1500);
	CHECK_EQ(parse("delay=0.3s").delay_ns, 300000000);
	CHECK_EQ(parse("delay=2ms").delay_ns, 2000000);
	CHECK_EQ(parse("delay=3600s").delay_ns, 3600000000000);
	CHECK_EQ(parse("fail=1").fail, IMPAIR_CERTAIN);
	CHECK_EQ(parse("fail=0.000000001").fail, 1);
	CHECK_EQ(parse("reorder=2").reorder, 2);
	CHECK_EQ(parse("reorder=128").reorder, 128);
	CHECK_EQ(parse("depth=1").depth, 1);
	CHECK_EQ(parse("rank=2147483647").rank, 2147483647);
	refused("delay=20", "delay=20", "ns, us, ms or s");
	refused("delay=us", "delay=us", "TIME");
	refused("delay=1.us", "delay=1.us", "TIME");
	refused("delay=.5us", "delay=.5us", "TIME");
	refused("delay=1.2.3us", "delay=1.2.3us", "TIME");
	refused("delay=0.5ns", "delay=0.5ns", "TIME");
	refused("delay=-1us", "delay=-1us", "TIME");
	refused("delay=3600.1s", "delay=3600.1s", "an hour");
	refused("delay=9999999999999999999us", "delay=9999999999999999999us", "TIME");
	refused("jitter=1 us", "jitter=1 us", "TIME");
	refused("reorder=1", "reorder=1", "2 to 128");
	refused("reorder=129", "reorder=129", "2 to 128");
	refused("reorder=2.5", "reorder=2.5", "2 to 128");
	refused("depth=0", "depth=0", "1 to 128");
	refused("fail=1.1", "fail=1.1", "0 to 1");
	refused("fail=0.0000000001", "fail=0.0000000001", "9 decimals");
	refused("cap=10", "cap=10", "K, M or G");
	refused("cap=0G", "cap=0G", "RATE");
	refused("cap=10001G", "cap=10001G", "RATE");
	refused("rank=x", "rank=x", "rank=N");
}

static void test_pieces(void)
{
	refused("", "", "reorder");
	refused("delay=1us,", "", "reorder");
	refused("delay=1us,,depth=3", "", "reorder");
	refused("none,delay=1us", "none", "alone");
	refused("reorder", "reorder", "reorder=N");
	refused("reorders=3", "reorders=3", "kill");
	refused("depth=3,delay=20,depth=4", "delay=20", "ns");
	refused("depth=3,depth=4", "depth=4", "once");
	refused("cap=1G,cap=nic1:2G", "cap=nic1:2G", "once a NIC");
	refused("cap=nic4:1G", "cap=nic4:1G", "nicI");
	refused("cap=eth0:1G", "cap=eth0:1G", "nicI");
}

static void test_events(void)
{
	struct impair im = parse("revive=nic1@1s,kill=rank@2s,kill=nic1@0.3s,kill=nic0@1s");
	char many[400] = "";

	CHECK_EQ(im.n_events, 4);
	CHECK_EQ(im.highest_nic, 1);
	CHECK(im.events[0].nic == 1 && !im.events[0].up && im.events[0].at_ns == 300000000);
	CHECK(im.events[1].nic == 1 && im.events[1].up && im.events[1].at_ns == 1000000000);
	CHECK(im.events[2].nic == 0 && !im.events[2].up);
	CHECK(im.events[3].nic == -1 && im.events[3].at_ns == 2000000000);
	refused("kill=nic1", "kill=nic1", "@TIME");
	refused("kill=nic1@", "kill=nic1@", "@TIME");
	refused("kill=nic1@3", "kill=nic1@3", "ns, us");
	refused("kill=nic4@1s", "kill=nic4@1s", "nic0 to nic3");
	refused("kill=nic@1s", "kill=nic@1s", "nic0 to nic3");
	refused("kill=gpu@1s", "kill=gpu@1s", "rank@TIME");
	refused("revive=rank@1s", "revive=rank@1s", "nicI");
	refused("revive=nic1@1s", "revive=nic1@1s", "in turns");
	refused("kill=nic1@1s,kill=nic1@2s", "kill=nic1@1s,kill=nic1@2s", "in turns");
	for (unsigned i = 0; i < IMPAIR_EVENTS; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "kill=rank@%us,", i);
	CHECK_EQ(parse(strcat(many, "depth=1")).n_events, IMPAIR_EVENTS);
	refused(strcat(many, ",kill=rank@99s"), "kill=rank@99s", "16");
}

static void test_lengths(void)
{
	char spec[PG_IMPAIR_MAX + 1];
	struct pg_error err;
	struct impair im;

	memset(spec, '0', sizeof(spec));
	memcpy(spec, "delay=", 6);
	spec[PG_IMPAIR_MAX] = '\0';
	CHECK_EQ(impair_parse(spec, &im, &err), -EINVAL);
	CHECK(strstr(err.text, "255"));
	spec[PG_IMPAIR_MAX - 1] = '\0';
	CHECK_EQ(impair_parse(spec, &im, &err), -EINVAL);
	CHECK(strstr(err.text, "TIME"));
	CHECK_EQ(strlen(err.text) < sizeof(err.text), 1);
}

static void test_check(void)
{
	struct pg_error err = { 0 };
	int32_t rank = 7;

	CHECK_EQ(pg_impair_check("", 0, &rank, &err), 0);
	CHECK_EQ(rank, -1);
	CHECK_EQ(pg_impair_check("rank=2,depth=1", 0, &rank, &err), 0);
	CHECK_EQ(rank, 2);
	CHECK_EQ(pg_impair_check("rank=2,depth=0", 0, &rank, &err), -EINVAL);
	CHECK(strstr(err.text, "\"depth=0\""));
	CHECK_EQ(pg_impair_check("kill=nic2@1s", 2, &rank, &err), -EINVAL);
	CHECK(strstr(err.text, "nic2") && strstr(err.text, "2 NICs"));
	CHECK_EQ(pg_impair_check("cap=nic2:1G", 2, &rank, &err), -EINVAL);
	CHECK_EQ(rank, 2);
	CHECK_EQ(pg_impair_check("cap=nic2:1G", 3, &rank, &err), 0);
	CHECK_EQ(pg_impair_check("cap=nic2:1G", 0, &rank, &err), 0);
	CHECK_EQ(rank, -1);
}

int main(void)
{
	test_forms();
	test_numbers();
	test_pieces();
	test_events();
	test_lengths();
	test_check();
	return 0;
}
