/* SPDX-License-Identifier: MIT
 *
 * shm with a peer that offers, or writes into shared memory, what it should not. */
#include <sys/eventfd.h>

#include "shm_ends.h"
#include "transport/shm/shm.h"

/* ---- Offers --------------------------------------------------------------------------------- */

static void refuse(const struct offer *offer, const char *why)
{
	struct domain *domain = open_lane(0, false);
	struct pg_error err = { 0 };
	struct end e;

	end_open_on(&e, domain);
	CHECK(shm->conn_attach(e.conn, offer, &err) < 0);
	if (!strstr(err.text, why))
		check_failed(__FILE__, __LINE__, err.text);
	end_close(&e);
	shm->close(domain);
}

static void test_offers(void)
{
	struct domain *domain = open_lane(0, false);
	struct memory unsealed = make_memory(sizeof(struct channel), F_SEAL_GROW);
	struct memory small = make_memory(4096, F_SEAL_GROW | F_SEAL_SHRINK);
	int blocking = eventfd(0, EFD_CLOEXEC), pipes[2];
	struct conn_offer bytes;
	struct offer offer;
	struct end e;

	CHECK_EQ(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
	end_open_on(&e, domain);
	offer = e.offer;
	offer.len--;
	refuse(&offer, "bytes");
	offer = e.offer;
	offer.n_fds = 2;
	refuse(&offer, "2 fds");
	offer = e.offer;
	memcpy(&bytes, offer.bytes, sizeof(bytes));
	bytes.layout++;
	memcpy(offer.bytes, &bytes, sizeof(bytes));
	refuse(&offer, "layout");
	bytes.layout--;
	bytes.slot = INBOX_SLOTS;
	memcpy(offer.bytes, &bytes, sizeof(bytes));
	refuse(&offer, "slot");
	offer = e.offer;
	offer.fds[FD_CHANNEL] = unsealed.fd;
	refuse(&offer, "change its size");
	offer.fds[FD_CHANNEL] = small.fd;
	refuse(&offer, "4096 bytes");
	offer.fds[FD_CHANNEL] = pipes[0];
	refuse(&offer, "not a memfd");
	offer = e.offer;
	offer.fds[FD_INBOX] = -1;
	refuse(&offer, "not a memfd");
	offer = e.offer;
	offer.fds[FD_BELL] = blocking;
	refuse(&offer, "doorbell");
	offer.fds[FD_BELL] = pipes[1];
	refuse(&offer, "doorbell");

	close(blocking);
	close(pipes[0]);
	close(pipes[1]);
	free_memory(&unsealed);
	free_memory(&small);
	end_close(&e);
	shm->close(domain);
}

/* A peer that lies about where it is gets its memory written in the other way. */
static void expect_bounce(size_t at, uint64_t value, pid_t pid, const char *why)
{
	struct domain *domain = open_lane(0, false);
	struct end e, peer;

	end_open_on(&e, domain);
	end_open_on(&peer, domain);
	memcpy(peer.offer.bytes + at, &value, sizeof(value));
	attach(&e, &peer.offer, pid);
	if (!strstr(e.conn->note, why) && !strstr(e.conn->note, "process_vm_readv"))
		check_failed(__FILE__, __LINE__, e.conn->note);
	CHECK_EQ(e.conn->max_unmapped, PIECE_MAX);
	end_close(&e);
	end_close(&peer);
	shm->close(domain);
}

static void test_wrong_process(void)
{
	uint8_t *edge = mmap(NULL, 2 * SHM_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK_EQ(mprotect(edge + SHM_PAGE, SHM_PAGE, PROT_NONE), 0);
	expect_bounce(offsetof(struct conn_offer, nonce), 1, getpid(), "not the peer");
	expect_bounce(offsetof(struct conn_offer, nonce), 1, 0, "not visible");
	expect_bounce(offsetof(struct conn_offer, probe), 8, getpid(), "Bad address");
	expect_bounce(offsetof(struct conn_offer, probe), (uintptr_t)edge + SHM_PAGE - 4, getpid(),
		      "Bad address");
	munmap(edge, 2 * SHM_PAGE);
}

/* ---- Shared memory -------------------------------------------------------------------------- */

static void expect_death(struct end *e, int status)
{
	struct arrival got = wait_one(e);
	struct wr wr = imm_wr(1);

	CHECK_EQ(got.kind, ARRIVAL_DEAD);
	CHECK_EQ(got.status, status);
	CHECK(got.conn == e->conn);
	for (unsigned i = 0; i < 10; i++)
		CHECK_EQ(poll_now(e, &got, 1, 1), 0);
	CHECK_EQ(post_one(e, &wr), status);
	CHECK(shm->arm(e->domain, true));
	shm->arm(e->domain, false);
}

/* Writes an entry as the sender would, and wakes the receiver. */
static void forge(struct end *e, uint64_t entry)
{
	struct shm_conn *c = (struct shm_conn *)e->conn;

	atomic_store(&c->out->entries[c->entries++ % ENTRIES], entry);
	c->dirty = true;
	shm->flush(e->conn);
}

static uint32_t here(const struct end *e)
{
	return ((struct shm_conn *)e->conn)->entries;
}

static void test_entries(void)
{
	for (unsigned i = 0; i < 4; i++) {
		struct wr wr = imm_wr(3);
		struct end a, b;

		open_pair(&a, &b);
		must_post(&a, &wr);
		CHECK_EQ(wait_one(&b).imm, 3);
		if (i == 0)
			forge(&a, entry_make(here(&a), ENTRY_IMM, 1, 0));
		if (i == 1)
			forge(&a, entry_make(here(&a), (enum entry_kind)15, 1, 1));
		if (i == 2)
			forge(&a, entry_make(here(&a) + 2 * ENTRIES, ENTRY_IMM, 1, 1));
		if (i == 3) {
			for (unsigned k = 0; k <= RECORD_RING / LINE; k++)
				forge(&a, entry_make(here(&a), ENTRY_MSG, 0, 1));
			CHECK_EQ(poll_now(&b, &(struct arrival){ 0 }, 1, 0), 0);
		}
		expect_death(&b, -EPROTO);
		close_pair(&a, &b);
	}
}

static void test_taken(void)
{
	for (unsigned i = 0; i < 3; i++) {
		struct taken *taken;
		struct wr imm = imm_wr(1), send;
		struct end a, b;
		int rc = 1;

		open_pair(&a, &b);
		taken = &((struct shm_conn *)b.conn)->in->taken;
		atomic_store(i == 0   ? &taken->entries
			     : i == 1 ? &taken->messages
				      : &taken->pieces,
			     12345678);
		send = send_wr(source(&a), 4000);
		for (unsigned k = 0; k <= ENTRIES && rc == 1; k++)
			rc = post_one(&a, i == 1 ? &send : &imm);
		CHECK_EQ(rc, -EPROTO);
		expect_death(&a, -EPROTO);
		close_pair(&a, &b);
	}
}

static void test_records(void)
{
	static const struct {
		bool key, message, none; /* none: it counts for no write */
		uint64_t raddr;          /* beyond the landing */
		uint32_t len;
		int status;
	} cases[] = {
		{ .message = true, .len = PG_MSG_MAX + 1, .status = -EPROTO },
		{ .message = true, .len = UINT32_MAX, .status = -EPROTO },
		{ .key = true, .len = PIECE_MAX + 1, .status = -EPROTO },
		{ .key = true, .raddr = HALF - 7, .len = 8, .status = -EACCES },
		{ .key = true, .raddr = -(uint64_t)REGION, .len = 8, .status = -EACCES },
		{ .key = true, .raddr = -(uint64_t)HALF - 1, .len = 8, .status = -EACCES },
		{ .key = false, .len = 8, .status = -EACCES },
		{ .key = true, .none = true, .len = 8, .status = -EPROTO },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct shm_conn *c;
		struct record *record;
		struct end a, b;

		open_pair(&a, &b);
		c = (struct shm_conn *)a.conn;
		record = record_at(cases[i].message ? c->out->messages : c->out->pieces, 0);
		atomic_store(&record->len, cases[i].len);
		atomic_store(&record->raddr, a.peer_base + HALF + cases[i].raddr);
		atomic_store(&record->rkey, a.peer_key ^ !cases[i].key);
		forge(&a, entry_make(here(&a), cases[i].message ? ENTRY_MSG : ENTRY_PIECE_IMM, 1,
				     !cases[i].none));
		expect_death(&b, cases[i].status);
		close_pair(&a, &b);
	}
}

/* Everything shared is overwritten with noise while the victim works. */
static void test_noise(void)
{
	uint64_t seed = 7;

	for (unsigned round = 0; round < 200; round++) {
		struct arrival got[16];
		struct shm_conn *c;
		struct end a, b;
		struct wr wr;

		open_pair(&a, &b);
		c = (struct shm_conn *)a.conn;
		for (unsigned i = 0; i < 50; i++) {
			uint64_t *words = (uint64_t *)(void *)c->out;
			uint64_t noise = check_random(&seed);
			size_t n = noise % 2 ? sizeof(*c->out) / 8 : 2 * SHM_PAGE / 8;

			words[check_random(&seed) % n] = noise;
			if (noise % 3 == 0)
				forge(&a, (noise & ~(0xffffULL << 32)) |
						  (uint64_t)entry_lap(here(&a)) << 32);
			wr = write_wr(&b, noise % 4096, noise % 100, noise % 5);
			wr.op = noise % 7 ? WR_WRITE_IMM : WR_SEND;
			post_one(&b, &wr);
			poll_now(&b, got, 16, (unsigned)(noise % 4));
			atomic_store(&c->inbox->sleeping, (uint32_t)noise);
			shm->arm(b.domain, noise % 2);
		}
		close_pair(&a, &b);
	}
}

int main(void)
{
	alarm(50);
	test_offers();
	test_wrong_process();
	test_entries();
	test_taken();
	test_records();
	test_noise();
	return 0;
}
