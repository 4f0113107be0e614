/* SPDX-License-Identifier: MIT
 *
 * The stand-in for EFA, when NICs, endpoints and processes go. */
#include "fake_efa_ends.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define ROUNDS 20
/* No look is older than that. */
#define LOOKED_US 2000
/* Nothing lands any more, so long after it was in flight. */
#define LANDED_US 60000

static char sysfs[64];

/* ---- NICs ----------------------------------------------------------------------------------- */

static void make_sysfs(void)
{
	static const char *const parts[] = { "", "/ports", "/ports/1" };
	char path[128];

	snprintf(sysfs, sizeof(sysfs), "/tmp/fake_efa_test.XXXXXX");
	CHECK(mkdtemp(sysfs));
	for (int nic = 0; nic < 2; nic++) {
		for (int i = 0; i < 3; i++) {
			snprintf(path, sizeof(path), "%s/fake_efa_%d%s", sysfs, nic, parts[i]);
			CHECK_EQ(mkdir(path, 0700), 0);
		}
	}
	setenv("FAKE_EFA_SYSFS", sysfs, 1);
}

static void remove_sysfs(void)
{
	static const char *const parts[] = { "/ports/1/state", "/ports/1", "/ports", "" };
	char path[128];

	for (int nic = 0; nic < 2; nic++) {
		for (int i = 0; i < 4; i++) {
			snprintf(path, sizeof(path), "%s/fake_efa_%d%s", sysfs, nic, parts[i]);
			remove(path);
		}
	}
	CHECK_EQ(rmdir(sysfs), 0);
}

/* Seen by whoever looks from here on. */
static void set_port(int nic, const char *state)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/fake_efa_%d/ports/1/state", sysfs, nic);
	file = fopen(path, "w");
	CHECK(file);
	fputs(state, file);
	CHECK_EQ(fclose(file), 0);
	usleep(LOOKED_US);
}

static void take_down(int nic)
{
	set_port(nic, "1: DOWN\n");
}

static void bring_up(int nic)
{
	set_port(nic, "4: ACTIVE\n");
}

static bool placed(const struct pair *p)
{
	return !memcmp(p->buf[0], p->buf[1], LEN);
}

static bool untouched(const struct pair *p)
{
	for (int i = 0; i < LEN; i++) {
		if (p->buf[1][i])
			return false;
	}
	return true;
}

/* One write is in flight when that NIC dies, and its receiver has looked once since. What it found. */
static struct entry die(struct pair *p, int nic)
{
	open_pair(p, LEN, 16);
	memset(p->buf[0], 5, LEN);
	INSIST(write_imm(p, 0, LEN, 77, p), );
	take_down(nic);
	CHECK_EQ(read_one(&p->nic[0]).err, -1);
	return read_one(&p->nic[1]);
}

static void failed(struct pair *p)
{
	struct entry entry = wait_one(&p->nic[0], &p->nic[1]);

	CHECK_EQ(entry.err, FI_ECONNABORTED);
	CHECK(entry.e.op_context == p);
	CHECK_EQ(counted(p, FAKE_EFA_UNRESPONSIVE), 1);
}

static void lost(int nic)
{
	struct pair p;

	CHECK_EQ(die(&p, nic).err, -1);
	failed(&p);
	CHECK(untouched(&p));
	CHECK_EQ(counted(&p, FAKE_EFA_FATE_LOST), 1);
	close_pair(&p);
}

static void not_counted(int nic)
{
	struct pair p;

	CHECK_EQ(die(&p, nic).err, -1);
	CHECK(placed(&p));
	failed(&p);
	close_pair(&p);
}

static void not_reported(int nic)
{
	struct pair p;

	CHECK_EQ(die(&p, nic).e.data, 77);
	CHECK(placed(&p));
	failed(&p);
	close_pair(&p);
}

/* What nobody sees in time does not land, so this takes as many rounds as it takes. */
static void late(int nic)
{
	uint64_t until = clock_ns() + DEADLINE_NS;
	bool landed = false;
	struct entry entry;
	struct pair p;

	while (!landed) {
		CHECK(clock_ns() < until);
		entry = die(&p, nic);
		/* The sender may use its memory otherwise. */
		memset(p.buf[0], 6, LEN);
		WAIT_UNTIL(read_one(&p.nic[0]).err > 0, {
			if (entry.err)
				entry = read_one(&p.nic[1]);
		});
		landed = counted(&p, FAKE_EFA_LANDED_LATE);
		CHECK_EQ(!entry.err, landed);
		memset(p.buf[0], landed ? 5 : 0, LEN);
		CHECK(placed(&p));
		close_pair(&p);
		bring_up(nic);
	}
}

/* Nobody looks until it is too late to land. */
static void too_late(int nic)
{
	struct pair p;
	bool landed;

	landed = !die(&p, nic).err;
	usleep(LANDED_US);
	CHECK_EQ(read_one(&p.nic[1]).err, -1);
	CHECK_EQ(untouched(&p), !landed);
	close_pair(&p);
}

static void each_nic(void (*test)(int nic))
{
	make_sysfs();
	for (int nic = 0; nic < 2; nic++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			test(nic);
			exit(0);
		}
		CHECK_EQ(waitpid(pid, &status, 0), pid);
		CHECK_EQ(status, 0);
		bring_up(nic);
	}
	remove_sysfs();
}

static void test_lost(void)
{
	each_nic(lost);
}

static void test_not_counted(void)
{
	each_nic(not_counted);
}

static void test_not_reported(void)
{
	each_nic(not_reported);
}

static void test_late(void)
{
	each_nic(late);
}

static void test_too_late(void)
{
	each_nic(too_late);
}

/* A dead NIC says nothing of what was posted to it, before and after; and then it is back. */
static void test_silent(void)
{
	struct pair p;

	make_sysfs();
	CHECK_EQ(die(&p, 0).err, -1);
	INSIST(write_imm(&p, 0, LEN, 77, &p), );
	for (int i = 0; i < 300; i++) {
		CHECK_EQ(read_one(&p.nic[0]).err, -1);
		CHECK_EQ(read_one(&p.nic[1]).err, -1);
		usleep(1000);
	}
	CHECK(untouched(&p));
	CHECK_EQ(fi_close(&p.end[0].ep->fid), 0);
	CHECK_EQ(fi_close(&p.end[0].av->fid), 0);
	bring_up(0);
	p.end[0] = open_end(&p.nic[0]);
	p.to = insert(&p.end[0], p.end[1].addr);
	INSIST(write_imm(&p, 0, LEN, 78, &p), );
	CHECK_EQ(wait_one(&p.nic[1], NULL).e.data, 78);
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	CHECK(placed(&p));
	close_pair(&p);
	remove_sysfs();
}

/* What is posted when either NIC is dead already gets nowhere; and then it is back. */
static void already_dead(int nic)
{
	struct pair p;

	open_pair(&p, LEN, 16);
	memset(p.buf[0], 5, LEN);
	take_down(nic);
	INSIST(write_imm(&p, 0, LEN, 77, &p), );
	failed(&p);
	CHECK(untouched(&p));
	bring_up(nic);
	INSIST(write_imm(&p, 0, LEN, 78, &p), );
	CHECK_EQ(wait_one(&p.nic[1], NULL).e.data, 78);
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	close_pair(&p);
}

static void test_already_dead(void)
{
	each_nic(already_dead);
}

/* What is in flight ends, also where its receiver never looks; and then it is lost. */
static void unanswered(int nic)
{
	struct pair p;

	open_pair(&p, LEN, 16);
	memset(p.buf[0], 5, LEN);
	INSIST(write_imm(&p, 0, LEN, 77, &p), );
	take_down(nic);
	CHECK_EQ(wait_one(&p.nic[0], NULL).err, FI_ECONNABORTED);
	bring_up(nic);
	CHECK_EQ(read_one(&p.nic[1]).err, -1);
	CHECK(untouched(&p));
	close_pair(&p);
}

static void test_unanswered(void)
{
	each_nic(unanswered);
}

/* ---- Endpoints ------------------------------------------------------------------------------ */

static struct pair shared;
static atomic_bool stop; /* relaxed: joining the thread orders the rest */
static unsigned entries;

static void *read_second(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		entries += !read_one(&shared.nic[1]).err;
	return NULL;
}

/* Of what was in flight when its endpoint was closed some is there, some is not, and some comes later; but the
 * sender's memory is not looked at again, and after a while nothing comes any more. */
static void test_closed(void)
{
	unsigned ends[2] = { 0 }, before;
	pthread_t thread;

	for (int round = 0; round < ROUNDS; round++) {
		open_pair(&shared, LEN, 256);
		atomic_store_explicit(&stop, false, memory_order_relaxed);
		CHECK_EQ(pthread_create(&thread, NULL, read_second, NULL), 0);
		memset(shared.buf[0], 5, LEN);
		for (int i = 0; i < 20; i++)
			INSIST(write_imm(&shared, (size_t)i * 2000, 2000, 1, NULL),
			       CHECK_EQ(read_one(&shared.nic[0]).err > 0, false));
		CHECK_EQ(fi_close(&shared.end[0].ep->fid), 0);
		memset(shared.buf[0], 6, LEN);
		usleep(LANDED_US);
		atomic_store_explicit(&stop, true, memory_order_relaxed);
		CHECK_EQ(pthread_join(thread, NULL), 0);
		before = entries;
		for (int i = 0; i < 100; i++)
			entries += !read_one(&shared.nic[1]).err;
		CHECK_EQ(entries, before);
		for (int i = 0; i < LEN; i++) {
			CHECK(shared.buf[1][i] == 0 || shared.buf[1][i] == 5);
			ends[shared.buf[1][i] != 0]++;
		}
		CHECK_EQ(fi_close(&shared.end[0].av->fid), 0);
		shared.end[0] = open_end(&shared.nic[0]);
		close_pair(&shared);
	}
	CHECK(ends[0] && ends[1]);
}

/* What its receiver has not looked at when it was closed is lost. */
static void test_unseen(void)
{
	struct pair p;

	open_pair(&p, LEN, 16);
	memset(p.buf[0], 5, LEN);
	INSIST(write_imm(&p, 0, LEN, 1, &p), );
	close_end(&p.end[0]);
	CHECK_EQ(read_one(&p.nic[1]).err, -1);
	CHECK(untouched(&p));
	p.end[0] = open_end(&p.nic[0]);
	close_pair(&p);
}

/* What is sent to an endpoint that is gone ends in error. */
static void test_target_closed(void)
{
	struct entry entry;
	struct pair p;

	open_pair(&p, LEN, 16);
	INSIST(write_imm(&p, 0, LEN, 1, &p), );
	close_end(&p.end[1]);
	entry = wait_one(&p.nic[0], NULL);
	CHECK_EQ(entry.err, FI_ENOTCONN);
	CHECK(untouched(&p));
	INSIST(write_imm(&p, 0, LEN, 1, &p), );
	CHECK_EQ(wait_one(&p.nic[0], NULL).err, FI_ENOTCONN);
	p.end[1] = open_end(&p.nic[1]);
	close_pair(&p);
}

/* ---- Processes ------------------------------------------------------------------------------ */

/* What two processes tell each other. */
struct card {
	uint8_t addr[32];
	uint64_t raddr, key;
};

static struct card swap(int sock, const struct end *end, const void *buf, struct fid_mr *mr)
{
	struct card card = { .raddr = (uintptr_t)buf, .key = fi_mr_key(mr) };

	memcpy(card.addr, end->addr, sizeof(card.addr));
	CHECK_EQ(write(sock, &card, sizeof(card)), sizeof(card));
	CHECK_EQ(read(sock, &card, sizeof(card)), sizeof(card));
	return card;
}

/* Writes to the other process, is written to, and then only sits there. */
static void be_other(int sock)
{
	struct nic nic = open_nic("fake_efa_1-rdm", 16);
	struct end end = open_end(&nic);
	uint8_t *buf = malloc(LEN);
	struct fid_mr *mr = reg(&nic, buf, LEN, ACCESS);
	struct card card = swap(sock, &end, buf, mr);
	fi_addr_t to = insert(&end, card.addr);

	memset(buf, 9, LEN);
	INSIST(fi_writedata(end.ep, buf, LEN, fi_mr_desc(mr), 5, to, card.raddr, card.key, NULL), );
	CHECK_EQ(wait_one(&nic, NULL).err, 0);
	CHECK_EQ(wait_one(&nic, NULL).e.data, 6);
	CHECK_EQ(buf[LEN - 1], 8);
	CHECK_EQ(write(sock, "", 1), 1);
	pause();
}

/* The other process is killed with a write to it in flight. Nothing is left of it, but where it was. */
static void test_processes(void)
{
	int sock[2], status;
	struct nic nic;
	struct end end;
	uint8_t *buf = calloc(1, LEN);
	struct fid_mr *mr;
	struct card card;
	fi_addr_t to;
	pid_t pid;
	char byte;

	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	pid = fork();
	if (!pid)
		be_other(sock[1]);
	nic = open_nic("fake_efa_0-rdm", 16);
	end = open_end(&nic);
	mr = reg(&nic, buf, LEN, ACCESS);
	card = swap(sock[0], &end, buf, mr);
	to = insert(&end, card.addr);
	CHECK_EQ(wait_one(&nic, NULL).e.data, 5);
	for (int i = 0; i < LEN; i++)
		CHECK_EQ(buf[i], 9);
	memset(buf, 8, LEN);
	INSIST(fi_writedata(end.ep, buf, LEN, fi_mr_desc(mr), 6, to, card.raddr, card.key, NULL),
	       CHECK_EQ(read_one(&nic).err, -1));
	CHECK_EQ(wait_one(&nic, NULL).err, 0);
	CHECK_EQ(read(sock[0], &byte, 1), 1);

	INSIST(fi_writedata(end.ep, buf, LEN, fi_mr_desc(mr), 6, to, card.raddr, card.key, NULL), );
	CHECK_EQ(kill(pid, SIGKILL), 0);
	CHECK_EQ(wait_one(&nic, NULL).err, FI_ECONNABORTED);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	close_end(&end);
	end = open_end(&nic);
	to = insert(&end, card.addr);
	INSIST(fi_write(end.ep, buf, LEN, fi_mr_desc(mr), to, card.raddr, card.key, NULL), );
	CHECK_EQ(wait_one(&nic, NULL).err, FI_EHOSTUNREACH);
	CHECK_EQ(fi_close(&mr->fid), 0);
	close_end(&end);
	close_nic(&nic);
	free(buf);
}

int main(int argc, char **argv)
{
	CHECK_EQ(argc, 2);
	if (cannot_copy())
		return 77;
	CHECK_EQ(in_child(argv[1], "fate=lost,dead=failed", test_lost), 0);
	CHECK_EQ(in_child(argv[1], "fate=placed,dead=failed", test_not_counted), 0);
	CHECK_EQ(in_child(argv[1], "fate=counted,dead=failed", test_not_reported), 0);
	CHECK_EQ(in_child(argv[1], "fate=late,dead=failed", test_late), 0);
	CHECK_EQ(in_child(argv[1], "fate=late", test_too_late), 0);
	CHECK_EQ(in_child(argv[1], "fate=lost,dead=silent", test_silent), 0);
	CHECK_EQ(in_child(argv[1], "fate=counted,dead=failed", test_already_dead), 0);
	CHECK_EQ(in_child(argv[1], "fate=counted,dead=failed", test_unanswered), 0);
	CHECK_EQ(in_child(argv[1], "", test_closed), 0);
	CHECK_EQ(in_child(argv[1], "fate=counted", test_unseen), 0);
	CHECK_EQ(in_child(argv[1], "", test_target_closed), 0);
	CHECK_EQ(in_child(argv[1], "", test_processes), 0);
	return 0;
}
