/* SPDX-License-Identifier: MIT
 *
 * What goes wrong on purpose, over shm: each misbehaviour does what it says and no more, and what is
 * promised of a connection that is stopped and fenced holds. */
#include "shm_ends.h"
#include "util/clock.h"

#define N 100
#define SLOT 64 /* bytes of a write */

static struct domain *open_as(unsigned index, const char *spec, uint64_t seed)
{
	struct domain_options options = {
		.device = "", .index = index, .cpu = -1, .max_peers = 64
	};
	struct pg_error err = { 0 };
	struct domain *domain;

	if (impaired_open(shm, spec, seed, &options, &domain, &err))
		check_failed(__FILE__, __LINE__, err.text);
	return domain;
}

/* Over a lane with a thread of its own, which ends work requests later. */
static struct domain *open_async(const char *spec, uint64_t seed)
{
	struct domain_options options = {
		.device = "", .index = 1, .cpu = -1, .max_peers = 64, .async = true
	};
	struct domain *domain;

	CHECK_EQ(impaired_open(shm, spec, seed, &options, &domain, NULL), 0);
	return domain;
}

/* The left one misbehaves; what the right one sees is what there is. */
static void open_left(struct end *a, struct end *b, const char *spec, uint64_t seed)
{
	join(a, open_as(0, spec, seed), b, open_lane(0, false));
}

/* Time is counted once a process. */
static void in_child(void (*test)(void), int signal_expected)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		test();
		exit(0);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(signal_expected ? WTERMSIG(status) : status, signal_expected);
}

static struct wr numbered(const struct end *e, unsigned i)
{
	struct wr wr = write_wr(e, i * SLOT, SLOT, true);

	wr.op = WR_WRITE_IMM;
	wr.imm = i;
	wr.id = 1000 + i;
	memset(source(e) + i * SLOT, (int)i + 1, SLOT);
	return wr;
}

static bool placed(const struct end *b, unsigned i)
{
	return landing(b)[i * SLOT] == (uint8_t)(i + 1) &&
	       !memcmp(landing(b) + i * SLOT, landing(b) + i * SLOT + 1, SLOT - 1);
}

static void post_numbered(struct end *a, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct wr wr = numbered(a, i);

		CHECK_EQ(post_one(a, &wr), 1);
	}
}

static struct arrival expect(struct end *e, enum arrival_kind kind, int status)
{
	struct arrival got = wait_one(e);

	CHECK_EQ(got.kind, kind);
	CHECK_EQ(got.status, status);
	return got;
}

static void expect_nothing(struct end *e)
{
	struct arrival got;

	CHECK_EQ(poll_now(e, &got, 1, 1), 0);
}

/* ---- Nothing goes wrong --------------------------------------------------------------------- */

static void test_none(void)
{
	struct arrival got;
	struct end a, b;
	struct wr wr;

	join(&a, open_as(0, "none", 0), &b, open_as(0, "none", 0));
	CHECK(a.domain->caps.sync_post && a.domain->caps.exact_failure && a.domain->caps.ordered);
	CHECK(!a.domain->caps.can_fence && !a.domain->transport->conn_stop);
	CHECK(!strcmp(a.domain->name, "shm0") && strstr(a.conn->note, "impaired (none)"));
	wr = numbered(&a, 3);
	must_post(&a, &wr);
	CHECK(placed(&b, 3));
	got = sleep_for_one(&b);
	CHECK(got.kind == ARRIVAL_IMM && got.imm == 3 && got.conn == b.conn);
	wr = send_wr("hello", 5);
	must_post(&b, &wr);
	got = wait_one(&a);
	CHECK(got.kind == ARRIVAL_MSG && got.conn == a.conn && !memcmp(got.data, "hello", 5));
	close_pair(&a, &b);
}

static void test_refused(void)
{
	struct domain_options options = { .device = "", .max_peers = 1 };
	struct pg_error err = { 0 };
	struct domain *domain;

	CHECK_EQ(impaired_open(shm, "slow", 0, &options, &domain, &err), -EINVAL);
	CHECK(strstr(err.text, "\"slow\""));
	options.device = "eth0";
	CHECK_EQ(impaired_open(shm, "none", 0, &options, &domain, &err), -EINVAL);
	CHECK(strstr(err.text, "eth0"));
}

/* ---- Time and order ------------------------------------------------------------------------- */

static void test_caps(void)
{
	struct end a, b;
	struct pg_caps *caps;

	open_left(&a, &b, "delay=0ns", 0);
	caps = &a.domain->caps;
	CHECK(!caps->sync_post && caps->can_fence && caps->exact_failure && caps->ordered);
	CHECK(caps->reports_source && caps->maps_peer && caps->max_outstanding == 128);
	close_pair(&a, &b);
	open_left(&a, &b, "jitter=1us,depth=5", 0);
	caps = &a.domain->caps;
	CHECK(caps->ordered && caps->max_outstanding == 5);
	close_pair(&a, &b);
	open_left(&a, &b, "reorder=2", 0);
	CHECK(!a.domain->caps.ordered);
	close_pair(&a, &b);
}

/* Everything arrives once; none is overtaken by one from beyond the window. */
static void check_order(const char *spec, unsigned window)
{
	bool arrived[N] = { false }, ended[N] = { false };
	unsigned oldest = 0, overtaken = 0;
	struct end a, b;

	open_left(&a, &b, spec, 1);
	post_numbered(&a, N);
	for (unsigned left = 2 * N; left;) {
		struct arrival got;

		if (poll_now(&a, &got, 1, 0)) {
			CHECK(got.kind == ARRIVAL_DONE && !got.status && got.conn == a.conn);
			CHECK(got.id >= 1000 && got.id < 1000 + N && !ended[got.id - 1000]);
			ended[got.id - 1000] = true;
			left--;
		}
		if (poll_now(&b, &got, 1, 0)) {
			CHECK(got.kind == ARRIVAL_IMM && got.imm < N && !arrived[got.imm]);
			CHECK(placed(&b, got.imm));
			CHECK(got.imm - oldest < window);
			arrived[got.imm] = true;
			overtaken += got.imm != oldest;
			while (oldest < N && arrived[oldest])
				oldest++;
			left--;
		}
	}
	CHECK_EQ(overtaken > N / 4, window > 1);
	close_pair(&a, &b);
}

static void test_messages_in_order(void)
{
	unsigned next = 0;
	uint8_t *text;
	struct end a, b;

	open_left(&a, &b, "reorder=64,jitter=10us", 1);
	text = source(&a);
	for (unsigned i = 0; i < N; i++) {
		struct wr wr = i % 2 ? imm_wr(i) : send_wr(text + i, 1);

		text[i] = (uint8_t)i;
		CHECK_EQ(post_one(&a, &wr), 1);
	}
	while (next < N) {
		struct arrival got;

		poll_now(&a, &got, 1, 0);
		if (poll_now(&b, &got, 1, 1) && got.kind == ARRIVAL_MSG) {
			CHECK_EQ(*(const uint8_t *)got.data, next);
			next += 2;
		}
	}
	close_pair(&a, &b);
}

/* How long a write of len takes at least, and that the sleeper is woken for it. */
static uint64_t time_write(const char *spec, unsigned n, uint64_t len)
{
	struct end a, b;
	uint64_t start;

	open_left(&a, &b, spec, 0);
	start = clock_ns();
	for (unsigned i = 0; i < n; i++) {
		struct wr wr = write_wr(&a, 0, len, true);

		CHECK_EQ(post_one(&a, &wr), 1);
	}
	for (unsigned i = 0; i < n; i++)
		CHECK_EQ(sleep_for_one(&a).kind, ARRIVAL_DONE);
	CHECK(!shm->arm(b.domain, false));
	close_pair(&a, &b);
	return clock_ns() - start;
}

static void test_time(void)
{
	CHECK(time_write("delay=5ms", 1, 1) >= 5000000);
	CHECK(time_write("cap=100M", 4, 16384) >= 4 * 16384 * 80);
	CHECK(time_write("cap=nic0:100M,delay=2ms", 1, 16384) >= 16384 * 80 + 2000000);
	time_write("cap=nic1:1K", 1, 16384); /* another NIC's: else a test would not end */
	time_write("jitter=100us", 64, 1);
}

static void test_depth(void)
{
	struct wr wr = imm_wr(1);
	struct end a, b;

	open_left(&a, &b, "depth=3", 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(post_one(&a, &wr), 1);
		CHECK_EQ(post_one(&a, &wr), -EAGAIN);
		expect(&a, ARRIVAL_DONE, 0);
		CHECK_EQ(post_one(&a, &wr), 1);
		for (unsigned i = 0; i < 3; i++)
			expect(&a, ARRIVAL_DONE, 0);
	}
	close_pair(&a, &b);
}

/* The transport below has no room: it is tried again, and who sleeps wakes when there is some. */
static void test_credit(void)
{
	unsigned sent = 0, taken = 0;
	struct wr wr = imm_wr(0);
	struct arrival got;
	struct end a, b;

	open_left(&a, &b, "delay=0ns", 0);
	for (unsigned idle = 0; idle < 3;) {
		wr.imm = sent;
		sent += post_one(&a, &wr) == 1;
		idle = poll_now(&a, &got, 1, 0) ? 0 : idle + 1;
	}
	CHECK(sent > 1024);
	CHECK(a.domain->transport->arm(a.domain, true));
	CHECK(!readable(a.domain->fd, 0));
	while (taken < sent && poll_now(&b, &got, 1, 0)) {
		CHECK_EQ(got.imm, taken);
		taken++;
	}
	CHECK(readable(a.domain->fd, 20000));
	a.domain->transport->arm(a.domain, false);
	expect(&a, ARRIVAL_DONE, 0);
	close_pair(&a, &b);
}

/* Messages that nobody takes leave room for writes, and do not hold them up. */
static void test_writes_overtake(void)
{
	struct wr send = send_wr("hello", 5), imm = imm_wr(1);
	unsigned sent = 0, idle = 0;
	struct arrival got;
	struct end a, b;

	open_left(&a, &b, "delay=0ns", 0);
	while (idle < N) {
		bool posted = post_one(&a, &send) == 1;

		sent += posted;
		idle = poll_now(&a, &got, 1, 0) ? 0 : idle + !posted;
	}
	for (unsigned i = 0; i < 3 * N; i++) {
		CHECK_EQ(post_one(&a, &imm), 1);
		expect(&a, ARRIVAL_DONE, 0);
		CHECK_EQ(poll_now(&b, &got, 1, 0), 1);
		CHECK_EQ(got.kind, ARRIVAL_IMM);
	}
	while (sent) {
		poll_now(&a, &got, 1, 0);
		sent -= poll_now(&b, &got, 1, 1) && got.kind == ARRIVAL_MSG;
	}
	close_pair(&a, &b);
}

static void test_sleep(void)
{
	struct wr wr = imm_wr(1);
	struct end a, b;

	join(&a, open_lane(0, false), &b, open_as(0, "delay=0ns", 0));
	for (unsigned i = 0; i < 3; i++) {
		CHECK(b.domain->transport->arm(b.domain, true));
		CHECK(!readable(b.domain->fd, 0));
		must_post(&a, &wr);
		CHECK(readable(b.domain->fd, 0));
		b.domain->transport->arm(b.domain, false);
		CHECK(!readable(b.domain->fd, 0));
		CHECK(!b.domain->transport->arm(b.domain, true));
		expect(&b, ARRIVAL_IMM, 0);
	}
	/* What we have posted ourselves is due. */
	CHECK_EQ(post_one(&b, &wr), 1);
	CHECK(!b.domain->transport->arm(b.domain, true));
	expect(&b, ARRIVAL_DONE, 0);
	close_pair(&a, &b);
}

/* ---- The four fates ------------------------------------------------------------------------- */

enum fate { LOST, UNCOUNTED, COUNTED, LATE };

static void collect(struct end *b, enum fate *fates, enum fate fate, int *last)
{
	struct arrival got;

	while (poll_now(b, &got, 1, 1)) {
		CHECK(got.kind == ARRIVAL_IMM && got.imm < N && got.count == 1);
		CHECK(placed(b, got.imm) && fates[got.imm] == LOST);
		CHECK(!last || (int)got.imm > *last);
		fates[got.imm] = fate;
		if (last)
			*last = (int)got.imm;
	}
}

/* Stops a connection with N works waiting, and finds out what has become of each. */
static void stop_and_see(const char *spec, uint64_t seed, enum fate *fates)
{
	unsigned told = 0;
	uint64_t mark = 0;
	struct arrival got;
	struct end a, b;
	int last = -1, *order;

	open_left(&a, &b, spec, seed);
	order = a.domain->caps.ordered ? &last : NULL;
	memset(fates, 0, N * sizeof(*fates));
	post_numbered(&a, N);
	CHECK(!a.domain->transport->visible(a.conn, &mark));
	a.domain->transport->conn_stop(a.conn);
	while ((got = wait_one(&a)).kind == ARRIVAL_DONE) {
		CHECK_EQ(got.status, -ECONNABORTED);
		CHECK_EQ(got.id, 1000 + told);
		told++;
	}
	CHECK_EQ(got.kind, ARRIVAL_STOPPED);
	CHECK(got.conn == a.conn);
	CHECK_EQ(told, N);
	memset(source(&a), 0xee, N * SLOT);
	collect(&b, fates, COUNTED, order);
	mark = 0;
	while (!a.domain->transport->visible(a.conn, &mark))
		expect_nothing(&a);
	collect(&b, fates, LATE, order);
	for (unsigned i = 0; i < N; i++)
		if (fates[i] == LOST && placed(&b, i))
			fates[i] = UNCOUNTED;
	expect_nothing(&a);
	close_pair(&a, &b);
}

static void test_fates_unordered(void)
{
	enum fate fates[N], again[N];
	unsigned n[4] = { 0 };

	stop_and_see("reorder=2", 1, fates);
	for (unsigned i = 0; i < N; i++)
		n[fates[i]]++;
	for (unsigned f = 0; f < 4; f++)
		CHECK(n[f] > N / 10);
	stop_and_see("reorder=2", 1, again);
	for (unsigned i = 0; i < N; i++)
		CHECK_EQ(again[i] == LOST || again[i] == UNCOUNTED,
			 fates[i] == LOST || fates[i] == UNCOUNTED);
	stop_and_see("reorder=2", 2, again);
	CHECK(memcmp(fates, again, sizeof(fates)));
}

/* Counted, then perhaps one that is not or some that land late, then nothing. */
static void test_fates_ordered(void)
{
	unsigned n[4] = { 0 };

	for (uint64_t seed = 0; seed < 20; seed++) {
		enum fate fates[N];
		unsigned i = 0, uncounted;

		stop_and_see("delay=0ns", seed, fates);
		for (unsigned k = 0; k < N; k++)
			n[fates[k]]++;
		while (i < N && fates[i] == COUNTED)
			i++;
		uncounted = i < N && fates[i] == UNCOUNTED;
		i += uncounted;
		while (i < N && fates[i] == LATE && !uncounted)
			i++;
		for (; i < N; i++)
			CHECK_EQ(fates[i], LOST);
	}
	CHECK(n[LOST] && n[UNCOUNTED] && n[COUNTED] && n[LATE]);
}

/* Of messages the first so many arrive, in order, and none is cut. */
static void test_fates_of_messages(const char *spec)
{
	enum { MESSAGES = 64 }; /* half of what may be in flight */
	unsigned arrived = 0, missing = 0;

	for (uint64_t seed = 0; seed < 10; seed++) {
		uint64_t mark = 0;
		struct arrival got;
		struct end a, b;
		int last = -1;

		open_left(&a, &b, spec, seed);
		for (unsigned i = 0; i < MESSAGES; i++) {
			struct wr wr = send_wr(source(&a) + i, 1);

			source(&a)[i] = (uint8_t)i;
			CHECK_EQ(post_one(&a, &wr), 1);
		}
		a.domain->transport->conn_stop(a.conn);
		while (wait_one(&a).kind != ARRIVAL_STOPPED)
			;
		memset(source(&a), 0xee, MESSAGES);
		while (!a.domain->transport->visible(a.conn, &mark))
			expect_nothing(&a);
		for (missing += MESSAGES; poll_now(&b, &got, 1, 1); arrived++, missing--) {
			CHECK(got.kind == ARRIVAL_MSG && got.len == 1);
			CHECK_EQ(*(const uint8_t *)got.data, last + 1);
			last = *(const uint8_t *)got.data;
		}
		close_pair(&a, &b);
	}
	CHECK(arrived && missing);
}

/* What would land late does not once our half is closed, though its domain lives on. */
static void test_late_ends_with_close(void)
{
	struct arrival got;
	unsigned late = 0;

	for (uint64_t seed = 0; seed < 4; seed++) {
		uint64_t mark = 0, end;
		uint8_t before[N * SLOT];
		struct end a, b;

		open_left(&a, &b, "reorder=2", seed);
		post_numbered(&a, N);
		a.domain->transport->conn_stop(a.conn);
		while (wait_one(&a).kind != ARRIVAL_STOPPED)
			;
		late += !a.domain->transport->visible(a.conn, &mark);
		end_close(&a);
		memcpy(before, landing(&b), sizeof(before));
		while (poll_now(&b, &got, 1, 1))
			;
		end = clock_ns() + 25000000; /* past the last of them */
		while (clock_ns() < end)
			expect_nothing(&a);
		expect_nothing(&b);
		CHECK(!memcmp(before, landing(&b), sizeof(before)));
		end_close(&b);
		a.domain->transport->close(a.domain);
		shm->close(b.domain);
	}
	CHECK(late); /* seldom all, where we are kept waiting for that long */
}

static void test_stopped_conn(void)
{
	struct wr wr = imm_wr(7);
	struct pg_error err = { 0 };
	struct end a, b;

	open_left(&a, &b, "delay=0ns", 0);
	a.domain->transport->conn_stop(a.conn);
	CHECK_EQ(a.domain->transport->post(a.conn, &wr, 1, &err), -ECONNABORTED);
	CHECK(strstr(err.text, "shm0") && strstr(err.text, "stopped"));
	expect(&a, ARRIVAL_STOPPED, 0);
	/* What the peer sends is still reported. */
	must_post(&b, &wr);
	CHECK_EQ(expect(&a, ARRIVAL_IMM, 0).imm, 7);
	close_pair(&a, &b);
}

/* A lane with a thread of its own ends its work requests later. STOPPED waits for that, and what has
 * ended reads its source no more. */
static void test_stop_over_thread(void)
{
	enum { WRITES = 8, LEN = HALF / WRITES };
	unsigned arrived = 0;

	for (uint64_t seed = 0; seed < 10; seed++) {
		struct arrival got;
		struct end a, b;
		uint64_t mark = 0;

		join(&a, open_async("delay=0ns", seed), &b, open_lane(1, false));
		for (unsigned i = 0; i < WRITES; i++) {
			struct wr wr = write_wr(&a, i * LEN, LEN, true);

			wr.op = WR_WRITE_IMM;
			wr.imm = i;
			memset(source(&a) + i * LEN, (int)i + 1, LEN);
			CHECK_EQ(post_one(&a, &wr), 1);
		}
		if (seed % 2) /* all of it is posted below */
			poll_now(&a, &got, 0, 0);
		a.domain->transport->conn_stop(a.conn);
		for (unsigned told = 0; told < WRITES; told++)
			expect(&a, ARRIVAL_DONE, -ECONNABORTED);
		memset(source(&a), 0xee, HALF);
		expect(&a, ARRIVAL_STOPPED, 0);
		while (!a.domain->transport->visible(a.conn, &mark))
			expect_nothing(&a);
		for (; poll_now(&b, &got, 1, 1); arrived++) {
			const uint8_t *there = landing(&b) + got.imm * LEN;

			CHECK_EQ(there[0], got.imm + 1);
			CHECK(!memcmp(there, there + 1, LEN - 1));
		}
		close_pair(&a, &b);
	}
	CHECK(arrived > 10);
}

/* ---- Failure -------------------------------------------------------------------------------- */

static void test_fail(void)
{
	struct end a, b, c, d;
	struct pg_error err = { 0 };
	struct wr wr = imm_wr(1);

	open_left(&a, &b, "fail=1", 0);
	join(&c, a.domain, &d, b.domain);
	post_numbered(&a, 5);
	for (unsigned i = 0; i < 5; i++)
		expect(&a, ARRIVAL_DONE, -ECONNABORTED);
	CHECK(expect(&a, ARRIVAL_DEAD, -EIO).conn == a.conn);
	CHECK_EQ(a.domain->transport->post(a.conn, &wr, 1, &err), -ECONNABORTED);
	CHECK(strstr(err.text, "broken on purpose"));
	expect_nothing(&a);
	a.domain->transport->conn_stop(a.conn);
	expect(&a, ARRIVAL_STOPPED, 0);
	/* The others of the NIC live. */
	CHECK_EQ(post_one(&c, &wr), 1);
	end_close(&c);
	end_close(&d);
	close_pair(&a, &b);
}

/* Now and then, and not before its time. */
static void test_fail_seldom(void)
{
	unsigned well = 0, broke = 0;

	for (uint64_t seed = 0; seed < 30; seed++) {
		struct arrival got;
		struct end a, b;

		open_left(&a, &b, "fail=0.01", seed);
		post_numbered(&a, N);
		for (unsigned told = 0; told < N; told++) {
			got = wait_one(&a);
			CHECK_EQ(got.kind, ARRIVAL_DONE);
			well += !got.status;
		}
		while (poll_now(&a, &got, 1, 0)) {
			CHECK_EQ(got.kind, ARRIVAL_DEAD);
			broke++;
		}
		close_pair(&a, &b);
	}
	CHECK(broke > 5 && broke < 30 && well > N);
}

/* ---- A NIC goes down and comes back --------------------------------------------------------- */

static void kill_and_revive(void)
{
	struct end a, b, c, d;
	struct pg_error err = { 0 };
	struct wr wr = imm_wr(9);
	struct arrival got;
	struct offer offer;
	struct conn *conn;
	unsigned done = 0;

	open_left(&a, &b, "delay=10s,kill=nic0@2ms,revive=nic0@4ms", 3);
	join(&c, a.domain, &d, b.domain);
	CHECK_EQ(a.domain->transport->conn_open(a.domain, &conn, &offer, NULL), 0);
	post_numbered(&a, N);
	got = sleep_for_one(&a);
	CHECK(got.kind == ARRIVAL_NIC && got.status == -ENETDOWN && !got.conn);
	/* It is down until we look again. */
	CHECK_EQ(a.domain->transport->post(c.conn, &wr, 1, &err), -ECONNABORTED);
	CHECK_EQ(a.domain->transport->conn_attach(conn, &offer, &err), -ENETDOWN);
	a.domain->transport->conn_close(conn);
	CHECK_EQ(a.domain->transport->conn_open(a.domain, &conn, &offer, &err), -ENETDOWN);
	CHECK(strstr(err.text, "shm0"));
	for (unsigned dead = 0; dead < 2;) {
		got = sleep_for_one(&a);
		if (got.kind == ARRIVAL_NIC) {
			CHECK_EQ(got.status, 0);
			done += 1000;
		} else if (got.kind == ARRIVAL_DEAD) {
			CHECK_EQ(got.status, -ENETDOWN);
			CHECK(got.conn == a.conn || got.conn == c.conn);
			dead++;
		} else {
			CHECK(got.kind == ARRIVAL_DONE && got.status == -ECONNABORTED);
			done++;
		}
	}
	while (done < 1000 + N) {
		got = sleep_for_one(&a);
		CHECK_EQ(got.kind, done % 1000 < N ? ARRIVAL_DONE : ARRIVAL_NIC);
		done += got.kind == ARRIVAL_DONE ? 1 : 1000;
	}
	/* What was broken stays so, and what is new works. */
	CHECK_EQ(post_one(&a, &wr), -ECONNABORTED);
	end_close(&c);
	end_close(&d);
	join(&c, a.domain, &d, b.domain);
	CHECK_EQ(post_one(&c, &wr), 1);
	end_close(&c);
	end_close(&d);
	close_pair(&a, &b);
}

/* What the peer has sent to a NIC that is down is still reported, until that is fenced. */
static void killed_nic_hears(void)
{
	struct wr wr = imm_wr(5);
	struct end a, b;

	open_left(&a, &b, "kill=nic0@1ms", 0);
	must_post(&a, &wr);
	while (wait_one(&a).kind != ARRIVAL_DEAD)
		;
	must_post(&b, &wr);
	CHECK_EQ(expect(&a, ARRIVAL_IMM, 0).imm, 5);
	a.domain->transport->conn_stop(a.conn);
	expect(&a, ARRIVAL_STOPPED, 0);
	must_post(&b, &wr);
	a.domain->transport->conn_fence(a.conn);
	CHECK_EQ(expect(&a, ARRIVAL_IMM, 0).imm, 5);
	CHECK(expect(&a, ARRIVAL_FENCED, 0).conn == a.conn);
	must_post(&b, &wr);
	expect_nothing(&a);
	close_pair(&a, &b);
}

/* By number; and the first arrival starts time as well. */
static void kill_another(void)
{
	struct wr wr = imm_wr(5);
	struct end a, b, c, d;
	struct arrival got;

	join(&a, open_as(0, "kill=nic1@1ms", 0), &b, open_lane(0, false));
	join(&c, open_as(1, "kill=nic1@1ms", 0), &d, open_lane(1, false));
	must_post(&d, &wr);
	expect(&c, ARRIVAL_IMM, 0);
	got = sleep_for_one(&c);
	CHECK(got.kind == ARRIVAL_NIC && got.status == -ENETDOWN);
	expect(&c, ARRIVAL_DEAD, -ENETDOWN);
	expect_nothing(&a);
	must_post(&a, &wr);
	expect(&a, ARRIVAL_DONE, 0);
	close_pair(&a, &b);
	close_pair(&c, &d);
}

static void kill_rank(void)
{
	struct wr wr = imm_wr(1);
	struct end a, b;

	open_left(&a, &b, "kill=rank@1ms", 0);
	must_post(&a, &wr);
	expect(&a, ARRIVAL_DONE, 0);
	sleep_for_one(&a);
}

/* ---- The fence ------------------------------------------------------------------------------ */

static void test_fence(void)
{
	struct wr imm = imm_wr(5), send = send_wr("hello", 5);
	struct arrival got[32];
	struct end a, b;
	unsigned n = 0;

	join(&a, open_as(0, "delay=0ns", 0), &b, open_as(0, "delay=0ns", 0));
	for (unsigned i = 0; i < 10; i++) {
		imm.imm = i;
		must_post(&a, &imm);
		must_post(&a, &send);
	}
	for (unsigned i = 0; i < 20; i++)
		expect(&a, ARRIVAL_DONE, 0);
	b.domain->transport->conn_fence(b.conn);
	/* Nobody has room for messages: the rest is reported. */
	while (n < 10) {
		unsigned k = poll_now(&b, got, 3, 0);

		for (unsigned i = 0; i < k; i++)
			CHECK(got[i].kind == ARRIVAL_IMM && got[i].imm == n++);
	}
	for (unsigned i = 0; i < 20; i++)
		CHECK_EQ(poll_now(&b, got, 32, 0), 0);
	CHECK(b.domain->transport->arm(b.domain, true)); /* nor does it keep us awake */
	b.domain->transport->arm(b.domain, false);
	for (unsigned i = 0; i < 10; i++) {
		n = poll_now(&b, got, 1, 1);
		CHECK(n == 1 && got[0].kind == ARRIVAL_MSG && got[0].conn == b.conn);
		CHECK(got[0].len == 5 && !memcmp(got[0].data, "hello", 5));
	}
	expect(&b, ARRIVAL_FENCED, 0);
	must_post(&a, &imm);
	must_post(&a, &send);
	for (unsigned i = 0; i < 2; i++)
		expect(&a, ARRIVAL_DONE, 0);
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(poll_now(&b, got, 32, 32), 0);
	close_pair(&a, &b);
}

/* It comes after messages of which each poll takes one. */
static void test_fence_behind_messages(void)
{
	struct wr send = send_wr("hello", 5);
	struct arrival got[4];
	struct end a, b;

	open_left(&a, &b, "delay=0ns", 0);
	for (unsigned i = 0; i < 5; i++)
		must_post(&b, &send);
	a.domain->transport->conn_fence(a.conn);
	for (unsigned i = 0; i < 5; i++) {
		CHECK_EQ(poll_now(&a, got, 4, 1), 1);
		CHECK_EQ(got[0].kind, ARRIVAL_MSG);
	}
	expect(&a, ARRIVAL_FENCED, 0);
	close_pair(&a, &b);
}

/* A poll that was filled by what we keep to ourselves has not seen everything. */
static void test_fence_behind_ends(void)
{
	struct wr imm = imm_wr(5);
	struct end a, b;
	struct arrival got;

	join(&a, open_async("delay=0ns", 0), &b, open_lane(1, false));
	post_numbered(&a, 5);
	poll_now(&a, &got, 0, 0);
	while (!placed(&b, 4))
		sched_yield();
	must_post(&b, &imm);
	a.domain->transport->conn_fence(a.conn);
	while ((got = wait_one(&a)).kind == ARRIVAL_DONE)
		;
	CHECK_EQ(got.kind, ARRIVAL_IMM);
	while ((got = wait_one(&a)).kind == ARRIVAL_DONE)
		;
	CHECK_EQ(got.kind, ARRIVAL_FENCED);
	close_pair(&a, &b);
}

/* Others go on, and are not mistaken for it. */
static void test_fence_of_one(void)
{
	struct wr imm = imm_wr(5), send = send_wr("hello", 5);
	struct end a, b, c, d;
	struct arrival got;

	open_left(&a, &b, "delay=0ns", 0);
	join(&c, a.domain, &d, b.domain);
	must_post(&b, &imm);
	must_post(&d, &imm);
	must_post(&d, &send);
	a.domain->transport->conn_fence(a.conn);
	for (bool fenced = false; !fenced;) {
		if (!poll_now(&a, &got, 1, 0))
			continue;
		fenced = got.kind == ARRIVAL_FENCED;
		CHECK(fenced ? got.conn == a.conn : got.kind == ARRIVAL_IMM);
	}
	/* The message that it looked behind is the other's, and not lost; nor is what comes. */
	must_post(&d, &send);
	for (unsigned i = 0; i < 2; i++)
		CHECK(expect(&a, ARRIVAL_MSG, 0).conn == c.conn);
	must_post(&d, &imm);
	CHECK(expect(&a, ARRIVAL_IMM, 0).conn == c.conn);
	/* A connection that is closed in the middle takes its messages with it. */
	must_post(&d, &send);
	a.domain->transport->conn_fence(c.conn);
	CHECK_EQ(poll_now(&a, &got, 1, 0), 0);
	end_close(&c);
	end_close(&d);
	expect_nothing(&a);
	close_pair(&a, &b);
}

/* ---- What others ask ------------------------------------------------------------------------ */

/* What is posted after the mark does not count. */
static void test_visible(void)
{
	struct wr wr = imm_wr(1);
	uint64_t mark = 0, other = 0;
	struct end a, b;
	char text[128];

	open_left(&a, &b, "delay=0ns", 0);
	CHECK(a.domain->transport->visible(a.conn, &mark));
	CHECK_EQ(post_one(&a, &wr), 1);
	CHECK_EQ(post_one(&a, &wr), 1);
	CHECK(!a.domain->transport->visible(a.conn, &mark));
	a.domain->transport->describe(a.conn, text, sizeof(text));
	CHECK(strstr(text, "2 held back") && strstr(text, "entries"));
	expect(&a, ARRIVAL_DONE, 0);
	CHECK(!a.domain->transport->visible(a.conn, &mark));
	expect(&a, ARRIVAL_DONE, 0);
	CHECK_EQ(post_one(&a, &wr), 1);
	CHECK(a.domain->transport->visible(a.conn, &mark));
	CHECK(!a.domain->transport->visible(a.conn, &other));
	expect(&a, ARRIVAL_DONE, 0);
	close_pair(&a, &b);
}

int main(void)
{
	alarm(50);
	in_child(kill_and_revive, 0);
	in_child(killed_nic_hears, 0);
	in_child(kill_another, 0);
	in_child(kill_rank, SIGKILL);
	test_none();
	test_refused();
	test_caps();
	check_order("delay=0ns", 1);
	check_order("jitter=50us", 1);
	check_order("reorder=16", 16);
	check_order("reorder=5,jitter=50us,delay=10us,cap=1G", 5);
	test_messages_in_order();
	test_time();
	test_depth();
	test_credit();
	test_writes_overtake();
	test_sleep();
	test_fates_unordered();
	test_fates_ordered();
	test_fates_of_messages("delay=0ns");
	test_fates_of_messages("reorder=2");
	test_late_ends_with_close();
	test_stopped_conn();
	test_stop_over_thread();
	test_fail();
	test_fail_seldom();
	test_fence();
	test_fence_behind_messages();
	test_fence_behind_ends();
	test_fence_of_one();
	test_visible();
	return 0;
}
