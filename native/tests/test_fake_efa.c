/* SPDX-License-Identifier: MIT
 *
 * The stand-in for EFA has the manners that it says it has. */
#include "fake_efa_ends.h"

#include <pthread.h>
#include <rdma/fi_ext.h>
#include <signal.h>

#define MIB (1u << 20)
#define WRITES 400
/* FI_OPT_EFA_*, which older headers do not have. */
#define EMULATED_WRITE (FI_OPT_EFA_RNR_RETRY + 2)
#define UNSOLICITED_WRITE_RECV (FI_OPT_EFA_RNR_RETRY + 8)

/* ---- Who finds it --------------------------------------------------------------------------- */

static int found(uint32_t api, struct fi_info *hints)
{
	struct fi_info *infos;
	int n = 0, rc = lib.getinfo(api, NULL, NULL, 0, hints, &infos);

	lib.freeinfo(hints);
	if (rc == -FI_ENODATA)
		return 0;
	CHECK_EQ(rc, 0);
	for (struct fi_info *info = infos; info; info = info->next)
		n++;
	lib.freeinfo(infos);
	return n;
}

static void test_offers(void)
{
	struct fi_info *hints, *copy, *infos;

	CHECK(lib.version() >= API);
	CHECK_EQ(found(API, good_hints()), 4);
	CHECK_EQ(found(FI_VERSION(1, 17), good_hints()), 0);
	for (int bit = FI_MR_LOCAL; bit <= FI_MR_PROV_KEY; bit <<= 1) {
		hints = good_hints();
		hints->domain_attr->mr_mode &= ~bit;
		CHECK_EQ(found(API, hints), MR_MODE & bit ? 0 : 4);
	}
	hints = good_hints();
	hints->caps |= FI_RMA_EVENT;
	CHECK_EQ(found(API, hints), 0);
	hints = good_hints();
	hints->domain_attr->cq_data_size = 8;
	CHECK_EQ(found(API, hints), 0);
	hints = good_hints();
	hints->fabric_attr->prov_name = strdup("tcp");
	CHECK_EQ(found(API, hints), 0);

	hints = good_hints();
	CHECK_EQ(lib.getinfo(API, NULL, NULL, 0, hints, &infos), 0);
	lib.freeinfo(hints);
	copy = lib.dupinfo(infos->next);
	lib.freeinfo(infos);
	CHECK(!copy->next);
	CHECK(!strcmp(copy->domain_attr->name, "fake_efa_1-rdm"));
	CHECK(!strcmp(copy->fabric_attr->prov_name, "efa"));
	CHECK(!strcmp(copy->nic->device_attr->name, "fake_efa_1"));
	CHECK_EQ(copy->ep_attr->max_msg_size, UINT64_MAX);
	lib.freeinfo(copy);
}

static void test_objects(void)
{
	struct fi_cq_attr attr = { .format = FI_CQ_FORMAT_DATA, .wait_obj = FI_WAIT_FD };
	struct nic nic = open_nic("fake_efa_0-rdm", 16);
	struct end end = make_end(&nic);
	bool yes = true, emulated = true;
	size_t len = sizeof(emulated);
	struct fid_cq *cq;
	uint8_t addr[32];

	CHECK_EQ(fi_cq_open(nic.domain, &attr, &cq, NULL), -FI_ENOSYS);
	CHECK_EQ(fi_getopt(&end.ep->fid, FI_OPT_ENDPOINT, EMULATED_WRITE, &emulated, &len), 0);
	CHECK(!emulated);
	len = sizeof(addr);
	CHECK_EQ(fi_getname(&end.ep->fid, addr, &len), -FI_EOPBADSTATE);
	enable_end(&end);
	CHECK_EQ(
		fi_setopt(&end.ep->fid, FI_OPT_ENDPOINT, UNSOLICITED_WRITE_RECV, &yes, sizeof(yes)),
		-FI_EINVAL);
	/* What is in use cannot be closed. */
	CHECK_EQ(fi_close(&nic.cq->fid), -FI_EBUSY);
	CHECK_EQ(fi_close(&end.av->fid), -FI_EBUSY);
	CHECK_EQ(fi_close(&nic.domain->fid), -FI_EBUSY);
	CHECK_EQ(fi_close(&nic.fabric->fid), -FI_EBUSY);
	close_end(&end);
	close_nic(&nic);
}

static void test_emulated(void)
{
	struct nic nic = open_nic("fake_efa_0-rdm", 16);
	struct end end = make_end(&nic);
	bool emulated = false;
	size_t len = sizeof(emulated);

	CHECK_EQ(fi_getopt(&end.ep->fid, FI_OPT_ENDPOINT, EMULATED_WRITE, &emulated, &len), 0);
	CHECK(emulated);
	close_end(&end);
	close_nic(&nic);
}

static void test_wait_fd(void)
{
	struct fi_cq_attr attr = { .format = FI_CQ_FORMAT_DATA, .wait_obj = FI_WAIT_FD };
	struct nic nic = open_nic("fake_efa_0-rdm", 16);
	struct fid_cq *cq;
	struct fid *fid;
	struct pollfd pfd = { .events = POLLIN };

	CHECK_EQ(fi_cq_open(nic.domain, &attr, &cq, NULL), 0);
	fid = &cq->fid;
	CHECK_EQ(fi_control(fid, FI_GETWAIT, &pfd.fd), 0);
	CHECK_EQ(fi_trywait(nic.fabric, &fid, 1), 0);
	CHECK_EQ(poll(&pfd, 1, DEADLINE_NS / 1000000), 1);
	CHECK_EQ(fi_close(fid), 0);
	close_nic(&nic);
}

/* What it is told counts while nothing is open. */
static void test_told(void)
{
	struct nic nic = open_nic("fake_efa_3-rdm", 16);

	setenv("FAKE_EFA_NICS", "3", 1);
	CHECK_EQ(found(API, good_hints()), 4);
	close_nic(&nic);
	CHECK_EQ(found(API, good_hints()), 3);
}

/* ---- Writes --------------------------------------------------------------------------------- */

/* Each of many writes is there as a whole when it is counted, once, and is counted before its sender knows; but
 * they come in any order, and more than once. */
static void test_writes(void)
{
	static bool arrived[WRITES], ended[WRITES];
	unsigned posted = 0, n_arrived = 0, n_ended = 0;
	uint64_t until = clock_ns() + DEADLINE_NS;
	struct entry entry;
	struct pair p;

	open_pair(&p, (size_t)WRITES * LEN, 2 * WRITES);
	for (size_t i = 0; i < (size_t)WRITES * LEN; i++)
		p.buf[0][i] = (uint8_t)(i / 7 + i / LEN + 1);
	while (n_arrived < WRITES || n_ended < WRITES) {
		CHECK(clock_ns() < until);
		if (posted < WRITES &&
		    !write_imm(&p, (size_t)posted * LEN, LEN, posted, &ended[posted]))
			posted++;
		entry = read_one(&p.nic[1]);
		if (!entry.err) {
			size_t at = entry.e.data * LEN;

			CHECK_EQ(entry.e.flags, FI_REMOTE_CQ_DATA | FI_RMA | FI_REMOTE_WRITE);
			CHECK_EQ(entry.source, FI_ADDR_NOTAVAIL);
			CHECK_EQ(entry.e.len, LEN);
			CHECK(entry.e.data < WRITES && !arrived[entry.e.data]);
			CHECK(!memcmp(p.buf[0] + at, p.buf[1] + at, LEN));
			arrived[entry.e.data] = true;
			n_arrived++;
		}
		entry = read_one(&p.nic[0]);
		if (!entry.err) {
			bool *which = entry.e.op_context;

			CHECK_EQ(entry.e.flags, FI_RMA | FI_WRITE);
			CHECK(!*which && ++n_ended);
			*which = true;
		}
	}
	CHECK(counted(&p, FAKE_EFA_AGAIN) && counted(&p, FAKE_EFA_OVERTAKEN));
	CHECK(counted(&p, FAKE_EFA_DOUBLE) && counted(&p, FAKE_EFA_ECHO));
	CHECK_EQ(counted(&p, FAKE_EFA_SEGMENT), 0);
	close_pair(&p);
}

/* A write is counted before its sender knows: what the target has not read has not ended. */
static void test_delivery(void)
{
	struct entry entry;
	struct pair p;

	open_pair(&p, LEN, 16);
	CHECK_EQ(write_imm(&p, 0, LEN, 1, NULL), 0);
	WAIT_UNTIL((entry = read_one(&p.nic[1])).err >= 0, CHECK_EQ(read_one(&p.nic[0]).err, -1));
	CHECK_EQ(entry.err, 0);
	CHECK_EQ(entry.e.data, 1);
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	close_pair(&p);
}

static void test_segments(void)
{
	const size_t len = 3 * MIB + 5;
	size_t sum = 0;
	struct pair p;

	open_pair(&p, len, 16);
	memset(p.buf[0], 7, len);
	INSIST(write_imm(&p, 0, MIB, 1, NULL), );
	CHECK_EQ(wait_one(&p.nic[1], NULL).e.len, MIB);
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	INSIST(write_imm(&p, 0, len, 2, NULL), );
	for (int i = 0; i < 4; i++) {
		struct entry entry = wait_one(&p.nic[1], NULL);

		CHECK_EQ(entry.e.data, 2);
		sum += entry.e.len;
	}
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	CHECK_EQ(sum, len);
	CHECK(!memcmp(p.buf[0], p.buf[1], len));
	CHECK_EQ(counted(&p, FAKE_EFA_SEGMENT), 3);
	close_pair(&p);
}

/* ---- Keys ----------------------------------------------------------------------------------- */

/* It ends in error, and nothing is written. */
static void refused(struct pair *p, const uint8_t *src, size_t len, void *desc, uint64_t raddr,
		    uint64_t key)
{
	struct entry entry;

	INSIST(fi_writedata(p->end[0].ep, src, len, desc, 1, p->to, raddr, key, p), );
	entry = wait_one(&p->nic[0], &p->nic[1]);
	CHECK_EQ(entry.err, FI_EINVAL);
	CHECK(entry.prov_errno);
	CHECK(entry.e.op_context == p);
	CHECK(strstr(fi_cq_strerror(p->nic[0].cq, entry.prov_errno, NULL, NULL, 0), "fake_efa"));
	for (int i = 0; i < LEN; i++)
		CHECK_EQ(p->buf[1][i], 0);
}

static void test_keys(void)
{
	struct fid_mr *weak, *gone, *next;
	uint64_t raddr, old;
	struct pair p;
	void *desc;

	open_pair(&p, LEN, 16);
	memset(p.buf[0], 1, LEN);
	raddr = (uintptr_t)p.buf[1];
	desc = fi_mr_desc(p.mr[0]);
	weak = reg(&p.nic[1], p.buf[1], LEN, FI_RECV);
	gone = reg(&p.nic[1], p.buf[1], LEN, ACCESS);
	old = fi_mr_key(gone);
	CHECK_EQ(fi_close(&gone->fid), 0);
	/* Keys are not used again. */
	next = reg(&p.nic[1], p.buf[1], LEN, ACCESS);

	refused(&p, p.buf[0], 8, desc, raddr, fi_mr_key(p.mr[1]) + 1);
	refused(&p, p.buf[0], 8, desc, raddr, old);
	refused(&p, p.buf[0], 8, desc, raddr, fi_mr_key(weak));
	refused(&p, p.buf[0], 8, desc, raddr + LEN - 7, fi_mr_key(p.mr[1]));
	refused(&p, p.buf[0], 8, desc, raddr - 1, fi_mr_key(p.mr[1]));
	refused(&p, p.buf[0], 8, NULL, raddr, fi_mr_key(p.mr[1]));
	refused(&p, p.buf[0], 8, fi_mr_desc(weak), raddr, fi_mr_key(p.mr[1]));
	refused(&p, p.buf[0] + LEN - 7, 8, desc, raddr, fi_mr_key(p.mr[1]));
	CHECK_EQ(counted(&p, FAKE_EFA_REFUSED_KEY), 8);
	CHECK_EQ(fi_close(&next->fid), 0);
	CHECK_EQ(fi_close(&weak->fid), 0);
	close_pair(&p);
}

/* ---- Queues --------------------------------------------------------------------------------- */

static void test_full(void)
{
	unsigned posted = 0;
	struct pair p;

	open_pair(&p, LEN, 1024);
	while (!write_imm(&p, 0, 8, 1, NULL))
		posted++;
	CHECK_EQ(posted, 128);
	CHECK_EQ(counted(&p, FAKE_EFA_FULL), 1);
	for (unsigned i = 0; i < posted; i++)
		CHECK_EQ(wait_one(&p.nic[1], NULL).err, 0);
	for (unsigned i = 0; i < posted; i++)
		CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);
	CHECK_EQ(fi_inject_writedata(p.end[0].ep, p.buf[0], LEN, 1, p.to, (uintptr_t)p.buf[1],
				     fi_mr_key(p.mr[1])),
		 -FI_EMSGSIZE);
	close_pair(&p);
}

/* More immediates than the target's queue has entries for, while nobody reads it. */
static void overrun(bool solicited)
{
	bool unsolicited = !solicited;
	struct fi_cq_data_entry entry;
	struct pair p = { 0 };
	ssize_t n;

	open_pair(&p, LEN, 32);
	close_end(&p.end[1]);
	p.end[1] = make_end(&p.nic[1]);
	CHECK_EQ(fi_setopt(&p.end[1].ep->fid, FI_OPT_ENDPOINT, UNSOLICITED_WRITE_RECV, &unsolicited,
			   sizeof(unsolicited)),
		 0);
	enable_end(&p.end[1]);
	p.to = insert(&p.end[0], p.end[1].addr);
	/* At first nothing is on its way. */
	for (int i = 0; i < 33; i++)
		CHECK_EQ(write_imm(&p, 0, 8, 1, NULL), 0);
	for (int i = 0; i < 33; i++)
		CHECK_EQ(wait_one(&p.nic[1], NULL).err, 0);
	for (int i = 0; i < 33; i++)
		CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, 0);

	for (int i = 0; i < 33; i++)
		CHECK_EQ(write_imm(&p, 0, 8, 1, NULL), 0);
	n = fi_cq_read(p.nic[1].cq, &entry, 1);
	CHECK_EQ(n == -FI_EOVERRUN, unsolicited);
	CHECK_EQ(counted(&p, FAKE_EFA_OVERRUN), unsolicited);
	close_pair(&p);
}

static void test_overrun(void)
{
	overrun(false);
}

static void test_solicited(void)
{
	overrun(true);
}

/* ---- Messages ------------------------------------------------------------------------------- */

static ssize_t send_number(struct pair *p, unsigned at, size_t len)
{
	return fi_send(p->end[0].ep, p->buf[0] + at * 64, len, fi_mr_desc(p->mr[0]), p->to, NULL);
}

static ssize_t post_recv(struct pair *p, unsigned at)
{
	uint8_t *buf = p->buf[1] + at * 64;

	return fi_recv(p->end[1].ep, buf, 64, fi_mr_desc(p->mr[1]), FI_ADDR_UNSPEC, buf);
}

/* They wait for who takes them, and come in the order in which they were sent. */
static void test_messages(void)
{
	struct entry entry;
	fi_addr_t back;
	struct pair p;

	open_pair(&p, 100 * 64, 256);
	for (unsigned i = 0; i < 100; i++) {
		memset(p.buf[0] + i * 64, (int)i, 64);
		INSIST(send_number(&p, i, 64), );
	}
	WAIT_UNTIL(counted(&p, FAKE_EFA_RNR), CHECK_EQ(read_one(&p.nic[1]).err, -1));
	back = insert(&p.end[1], p.end[0].addr);
	for (unsigned i = 0; i < 100; i++) {
		CHECK_EQ(post_recv(&p, i), 0);
		entry = wait_one(&p.nic[1], NULL);
		CHECK_EQ(entry.err, 0);
		CHECK_EQ(entry.e.flags, FI_MSG | FI_RECV);
		CHECK_EQ(entry.source, back);
		CHECK(entry.e.op_context == p.buf[1] + i * 64);
	}
	CHECK(!memcmp(p.buf[0], p.buf[1], 100 * 64));
	for (unsigned i = 0; i < 100; i++)
		CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).e.flags, FI_MSG | FI_SEND);
	/* One that is longer than its buffer. */
	CHECK_EQ(post_recv(&p, 0), 0);
	INSIST(send_number(&p, 0, 65), );
	CHECK_EQ(wait_one(&p.nic[1], NULL).err, FI_ETRUNC);
	CHECK_EQ(wait_one(&p.nic[0], NULL).err, 0);
	CHECK_EQ(fi_recv(p.end[1].ep, p.buf[1], 64, NULL, FI_ADDR_UNSPEC, NULL), -FI_EINVAL);
	close_pair(&p);
}

/* One that may be tried again so often, and not for ever. */
static void test_not_ready(void)
{
	size_t retry = 3;
	struct pair p;

	open_pair(&p, LEN, 16);
	close_end(&p.end[0]);
	p.end[0] = make_end(&p.nic[0]);
	CHECK_EQ(fi_setopt(&p.end[0].ep->fid, FI_OPT_ENDPOINT, FI_OPT_EFA_RNR_RETRY, &retry,
			   sizeof(retry)),
		 0);
	enable_end(&p.end[0]);
	p.to = insert(&p.end[0], p.end[1].addr);
	INSIST(send_number(&p, 0, 64), );
	CHECK_EQ(wait_one(&p.nic[0], &p.nic[1]).err, FI_ENORX);
	CHECK_EQ(counted(&p, FAKE_EFA_RNR), 4);
	CHECK_EQ(post_recv(&p, 0), 0);
	INSIST(send_number(&p, 0, 64), );
	CHECK_EQ(wait_one(&p.nic[1], NULL).err, 0);
	close_pair(&p);
}

/* ---- Threads -------------------------------------------------------------------------------- */

static struct nic shared;

static void *hammer(void *arg)
{
	struct fi_cq_data_entry entry;
	uint64_t until = clock_ns() + DEADLINE_NS;

	(void)arg;
	while (clock_ns() < until)
		fi_cq_read(shared.cq, &entry, 1);
	return NULL;
}

static void test_threads(void)
{
	pthread_t thread;

	/* What it says of that is expected. */
	CHECK(freopen("/dev/null", "w", stderr));
	shared = open_nic("fake_efa_0-rdm", 16);
	CHECK_EQ(pthread_create(&thread, NULL, hammer, NULL), 0);
	hammer(NULL);
}

int main(int argc, char **argv)
{
	int status;

	CHECK_EQ(argc, 2);
	if (cannot_copy())
		return 77;
	CHECK_EQ(in_child(argv[1], "", test_offers), 0);
	CHECK_EQ(in_child(argv[1], "", test_objects), 0);
	CHECK_EQ(in_child(argv[1], "", test_told), 0);
	CHECK_EQ(in_child(argv[1], "emulated", test_emulated), 0);
	CHECK_EQ(in_child(argv[1], "wait_fd", test_wait_fd), 0);
	CHECK_EQ(in_child(argv[1], "seed=1", test_writes), 0);
	CHECK_EQ(in_child(argv[1], "seed=2", test_writes), 0);
	CHECK_EQ(in_child(argv[1], "again=0", test_delivery), 0);
	CHECK_EQ(in_child(argv[1], "", test_segments), 0);
	CHECK_EQ(in_child(argv[1], "", test_keys), 0);
	CHECK_EQ(in_child(argv[1], "calm", test_full), 0);
	CHECK_EQ(in_child(argv[1], "calm", test_overrun), 0);
	CHECK_EQ(in_child(argv[1], "calm", test_solicited), 0);
	CHECK_EQ(in_child(argv[1], "", test_messages), 0);
	CHECK_EQ(in_child(argv[1], "", test_not_ready), 0);
	status = in_child(argv[1], "", test_threads);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	return 0;
}
