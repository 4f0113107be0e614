/* SPDX-License-Identifier: MIT
 *
 * shm between two processes: every way to reach memory, sleeping on both sides, and death. */
#include "shm_ends.h"

enum { ROUNDS = 200, NAPS = 10000 };

static uint8_t pattern(unsigned round, uint64_t i)
{
	return (uint8_t)(round * 7 + i * 13 + (i >> 9));
}

/* ---- Payload: the child writes, the parent compares ----------------------------------------- */

static bool mapped_run;

static void payload_reader(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	struct wr ready = imm_wr(0);
	struct end e;

	meet(&e, domain, sock, peer);
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct arrival got = sleep_for_one(&e);

		CHECK_EQ(got.kind, ARRIVAL_IMM);
		CHECK_EQ(got.count, 1);
		for (uint64_t i = 0; i < got.imm; i++)
			CHECK_EQ(landing(&e)[round + i], pattern(round, i));
		must_post(&e, &ready);
	}
	rendezvous(sock);
	end_close(&e);
	shm->close(domain);
}

static void payload_writer(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	uint64_t most, seed = 1;
	struct end e;
	struct wr wr;

	meet(&e, domain, sock, peer);
	most = mapped_run ? 1 << 18 : e.conn->max_unmapped;
	most = most < 1 << 18 ? most : 1 << 18;
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t len = 1 + check_random(&seed) % most;

		for (uint64_t i = 0; i < len; i++)
			source(&e)[round + i] = pattern(round, i);
		wr = write_wr(&e, round, len, mapped_run);
		wr.op = WR_WRITE_IMM;
		wr.imm = (uint32_t)len;
		must_post(&e, &wr);
		sleep_for_one(&e);
	}
	rendezvous(sock);
	end_close(&e);
	shm->close(domain);
}

static void test_payload(void)
{
	mapped_run = true;
	in_two_processes(payload_reader, payload_writer, 0);
	mapped_run = false;
	in_two_processes(payload_reader, payload_writer, 0);
	setenv("PGCTL_SHM_CMA", "0", 1);
	in_two_processes(payload_reader, payload_writer, 0);
	unsetenv("PGCTL_SHM_CMA");
}

/* ---- Both sides sleep after every round ----------------------------------------------------- */

static void nap(int sock, pid_t peer, bool first)
{
	struct domain *domain = open_lane(0, false);
	struct end e;

	meet(&e, domain, sock, peer);
	for (uint32_t i = 0; i < NAPS; i++) {
		struct wr wr = imm_wr(i);

		if (first)
			must_post(&e, &wr);
		CHECK_EQ(sleep_for_one(&e).imm, i);
		if (!first)
			must_post(&e, &wr);
	}
	rendezvous(sock);
	end_close(&e);
	shm->close(domain);
}

static void nap_first(int sock, pid_t peer)
{
	nap(sock, peer, true);
}

static void nap_second(int sock, pid_t peer)
{
	nap(sock, peer, false);
}

/* ---- Both sides send as fast as they can and sleep when they cannot ------------------------- */

static void flood(int sock, pid_t peer)
{
	enum { TOTAL = 300000, BURST = 64 };
	struct domain *domain = open_lane(0, false);
	uint32_t sent = 0, seen = 0;
	struct wr wrs[BURST];
	struct arrival got[32];
	struct end e;

	meet(&e, domain, sock, peer);
	while (sent < TOTAL || seen < TOTAL) {
		unsigned n = sent < TOTAL ? BURST : 0;
		int rc = 0;

		for (unsigned i = 0; i < n; i++)
			wrs[i] = imm_wr((sent + i) / 3);
		if (n)
			rc = shm->post(e.conn, wrs, n, NULL);
		CHECK(rc >= 0 || rc == -EAGAIN);
		sent += rc > 0 ? (uint32_t)rc : 0;
		shm->flush(e.conn);
		n = poll_now(&e, got, 32, 0);
		for (unsigned i = 0; i < n; i++) {
			CHECK_EQ(got[i].imm, seen / 3);
			seen += got[i].count;
		}
		if (!n && rc <= 0 && shm->arm(domain, true)) {
			CHECK(readable(domain->fd, 20000));
			shm->arm(domain, false);
		}
	}
	rendezvous(sock);
	end_close(&e);
	shm->close(domain);
}

/* ---- What process_vm_writev cannot do ------------------------------------------------------- */

static void hole_owner(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	struct end e;

	meet(&e, domain, sock, peer);
	munmap(landing(&e) + 4096, 4096);
	rendezvous(sock);
	rendezvous(sock);
	CHECK_EQ(wait_one(&e).imm, 1);
	CHECK_EQ(landing(&e)[4095], 0xaa);
	end_close(&e);
	shm->close(domain);
}

static void hole_writer(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	struct pg_error err = { 0 };
	struct wr wrs[2];
	struct end e;
	siginfo_t info;

	meet(&e, domain, sock, peer);
	rendezvous(sock);
	memset(source(&e), 0xaa, HALF);
	wrs[0] = write_wr(&e, 4000, 96, false);
	wrs[0].op = WR_WRITE_IMM;
	wrs[0].imm = 1;
	wrs[1] = write_wr(&e, 4000, 97, false);
	if (strstr(e.conn->note, "by process_vm_writev")) {
		CHECK_EQ(shm->post(e.conn, wrs, 2, &err), 1);
		shm->flush(e.conn);
		CHECK_EQ(shm->post(e.conn, wrs + 1, 1, &err), -EFAULT);
		CHECK(strstr(err.text, "97 bytes"));
	} else {
		must_post(&e, wrs);
	}
	rendezvous(sock);
	/* It has exited; in_two_processes reaps it. */
	CHECK_EQ(waitid(P_PID, (id_t)peer, &info, WEXITED | WNOWAIT), 0);
	if (strstr(e.conn->note, "by process_vm_writev"))
		CHECK_EQ(shm->post(e.conn, wrs, 1, &err), -EHOSTDOWN);
	end_close(&e);
	shm->close(domain);
}

/* ---- A writer is killed in the middle ------------------------------------------------------- */

static void victim(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	struct end e;

	meet(&e, domain, sock, peer);
	rendezvous(sock);
	for (uint32_t i = 0;; i++) {
		struct wr wr = i % 5 ? imm_wr(i) : send_wr(source(&e), i % PG_MSG_MAX);

		must_post(&e, &wr);
	}
}

static void survivor(int sock, pid_t peer)
{
	struct domain *domain = open_lane(0, false);
	struct end doomed, a, b;
	struct arrival got[32];
	unsigned n;

	meet(&doomed, domain, sock, peer);
	join(&a, domain, &b, domain);
	rendezvous(sock);
	for (unsigned i = 0; i < 5000; i += n) {
		n = poll_now(&doomed, got, 32, 32);
		if (!n)
			sched_yield();
	}
	kill(peer, SIGKILL);
	while (poll_now(&doomed, got, 32, 32) || !readable(sock, 1))
		;
	/* Nobody else is held up, asleep or awake. */
	for (uint32_t i = 0; i < 100; i++) {
		struct wr wr = imm_wr(i);

		must_post(&a, &wr);
		CHECK_EQ(sleep_for_one(&b).imm, i);
	}
	end_close(&a);
	end_close(&b);
	end_close(&doomed);
	shm->close(domain);
}

int main(void)
{
	alarm(50);
	test_payload();
	in_two_processes(nap_first, nap_second, 0);
	in_two_processes(flood, flood, 0);
	in_two_processes(hole_writer, hole_owner, 0);
	for (unsigned i = 0; i < 10; i++)
		in_two_processes(survivor, victim, SIGKILL);
	return 0;
}
