/* SPDX-License-Identifier: MIT
 *
 * For the tests of shm, and of what decorates it, which drive the transport's table directly: both
 * ends of a connection, in one process or in two. */
#ifndef PGCTL_TESTS_SHM_ENDS_H
#define PGCTL_TESTS_SHM_ENDS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "transport/transport.h"

static const struct transport *const shm = &transport_shm;

/* One side of one connection on a lane of its own, and its region: half for reading from, half for
 * being written to. */
#define REGION (8U << 20)
#define HALF (REGION / 2)

struct end {
	struct domain *domain;
	struct conn *conn;
	struct offer offer;
	struct memory memory;
	uint64_t lkey, key;
	/* The peer's. */
	uint8_t *mapped;
	uint64_t peer_base, peer_key;
};

static inline struct domain *open_lane(unsigned index, bool async)
{
	struct domain_options options = {
		.device = "", .index = index, .cpu = -1, .max_peers = 64, .async = async
	};
	struct pg_error err = { 0 };
	struct domain *domain;

	CHECK_EQ(shm->open(&options, &domain, &err), 0);
	return domain;
}

static inline struct memory make_memory(size_t len, int seals)
{
	struct memory memory = { .len = len, .fd_len = (len + 4095) & ~4095UL };

	memory.fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(memory.fd >= 0);
	CHECK_EQ(ftruncate(memory.fd, (off_t)memory.fd_len), 0);
	CHECK_EQ(fcntl(memory.fd, F_ADD_SEALS, seals), 0);
	memory.base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
	CHECK(memory.base != MAP_FAILED);
	return memory;
}

static inline void free_memory(struct memory *memory)
{
	munmap(memory->base, memory->len);
	close(memory->fd);
}

static inline void end_open_on(struct end *e, struct domain *domain)
{
	*e = (struct end){ .domain = domain };
	e->memory = make_memory(REGION, F_SEAL_SHRINK | F_SEAL_GROW);
	CHECK_EQ(domain->transport->mr_reg(domain, &e->memory, &e->lkey, &e->key, NULL), 0);
	CHECK_EQ(domain->transport->conn_open(domain, &e->conn, &e->offer, NULL), 0);
}

static inline void end_close(struct end *e)
{
	e->domain->transport->conn_close(e->conn);
	if (e->mapped)
		e->domain->transport->mr_unimport(e->domain, e->mapped, REGION);
	e->domain->transport->mr_dereg(e->domain, e->lkey);
	free_memory(&e->memory);
}

static inline void attach(struct end *e, const struct offer *offer, pid_t pid)
{
	struct offer received = *offer;
	struct pg_error err = { 0 };

	received.pid = pid;
	if (e->domain->transport->conn_attach(e->conn, &received, &err))
		check_failed(__FILE__, __LINE__, err.text);
}

/* What arrives at the other side: fds of its own. */
static inline struct offer deliver(const struct offer *offer)
{
	struct offer received = *offer;

	for (unsigned i = 0; i < offer->n_fds; i++)
		received.fds[i] = fcntl(offer->fds[i], F_DUPFD_CLOEXEC, 0);
	return received;
}

static inline void drop(const struct offer *received)
{
	for (unsigned i = 0; i < received->n_fds; i++)
		close(received->fds[i]);
}

/* Tells e where the region of the end whose export is given lies. */
static inline void learn_region(struct end *e, const struct offer *export, uint64_t base,
				uint64_t key)
{
	void *mapped;

	CHECK_EQ(e->domain->transport->mr_import(e->domain, export, REGION, &mapped, NULL), 0);
	e->mapped = mapped;
	e->peer_base = base;
	e->peer_key = key;
}

/* Both ends in this process, on the domains given. */
static inline void join(struct end *a, struct domain *left, struct end *b, struct domain *right)
{
	struct offer export, to_a, to_b;

	end_open_on(a, left);
	end_open_on(b, right);
	to_a = deliver(&b->offer);
	to_b = deliver(&a->offer);
	attach(a, &to_a, getpid());
	attach(b, &to_b, getpid());
	drop(&to_a);
	drop(&to_b);
	CHECK_EQ(right->transport->mr_export(right, &b->memory, &export), 0);
	learn_region(a, &export, (uintptr_t)b->memory.base, b->key);
	CHECK_EQ(left->transport->mr_export(left, &a->memory, &export), 0);
	learn_region(b, &export, (uintptr_t)a->memory.base, a->key);
}

static inline void open_pair(struct end *a, struct end *b)
{
	join(a, open_lane(0, false), b, open_lane(0, false));
}

static inline void close_pair(struct end *a, struct end *b)
{
	end_close(a);
	end_close(b);
	a->domain->transport->close(a->domain);
	if (b->domain != a->domain)
		b->domain->transport->close(b->domain);
}

/* ---- Work requests -------------------------------------------------------------------------- */

static inline uint8_t *source(const struct end *e)
{
	return e->memory.base;
}

static inline uint8_t *landing(const struct end *e)
{
	return source(e) + HALF;
}

/* From our source to the peer's landing at the same offset. */
static inline struct wr write_wr(const struct end *e, uint64_t offset, uint64_t len, bool mapped)
{
	return (struct wr){
		.op = WR_WRITE,
		.src = source(e) + offset,
		.len = len,
		.raddr = e->peer_base + HALF + offset,
		.rkey = e->peer_key,
		.mapped = mapped ? e->mapped + HALF + offset : NULL,
	};
}

static inline struct wr imm_wr(uint32_t imm)
{
	return (struct wr){ .op = WR_WRITE_IMM, .imm = imm };
}

static inline struct wr send_wr(const void *data, uint32_t len)
{
	return (struct wr){ .op = WR_SEND, .src = data, .len = len };
}

static inline int post_one(struct end *e, const struct wr *wr)
{
	int rc = e->domain->transport->post(e->conn, wr, 1, NULL);

	e->domain->transport->flush(e->conn);
	return rc;
}

static inline void must_post(struct end *e, const struct wr *wr)
{
	int rc;

	while ((rc = post_one(e, wr)) == -EAGAIN)
		sched_yield();
	CHECK_EQ(rc, 1);
}

static inline unsigned poll_now(struct end *e, struct arrival *arrivals, unsigned max,
				unsigned max_msgs)
{
	return e->domain->transport->poll(e->domain, arrivals, max, max_msgs);
}

static inline struct arrival wait_one(struct end *e)
{
	struct arrival arrival = { 0 };

	while (!poll_now(e, &arrival, 1, 1))
		sched_yield();
	return arrival;
}

static inline bool readable(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int rc;

	do
		rc = poll(&pfd, 1, timeout_ms);
	while (rc < 0 && errno == EINTR);
	return rc == 1;
}

/* Waits the way the engine does, asleep. */
static inline struct arrival sleep_for_one(struct end *e)
{
	struct arrival arrival = { 0 };

	while (!poll_now(e, &arrival, 1, 1)) {
		if (e->domain->transport->arm(e->domain, true)) {
			CHECK(readable(e->domain->fd, 20000));
			e->domain->transport->arm(e->domain, false);
		}
	}
	return arrival;
}

/* ---- Two processes -------------------------------------------------------------------------- */

struct introduction {
	struct offer conn, memory;
	uint64_t base, key;
};

static inline void send_introduction(int sock, const struct introduction *in)
{
	int fds[OFFER_FDS + 1];
	char control[CMSG_SPACE(sizeof(fds))] = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)in, .iov_len = sizeof(*in) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	memcpy(fds, in->conn.fds, sizeof(in->conn.fds));
	fds[OFFER_FDS] = in->memory.fds[0];
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));
	CHECK_EQ(sendmsg(sock, &msg, 0), sizeof(*in));
}

static inline void recv_introduction(int sock, struct introduction *in, int *fds)
{
	char control[CMSG_SPACE(sizeof(int) * (OFFER_FDS + 1))];
	struct iovec iov = { .iov_base = in, .iov_len = sizeof(*in) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof(control) };

	CHECK_EQ(recvmsg(sock, &msg, MSG_CMSG_CLOEXEC), sizeof(*in));
	CHECK(CMSG_FIRSTHDR(&msg) != NULL);
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int) * (OFFER_FDS + 1));
	memcpy(in->conn.fds, fds, sizeof(in->conn.fds));
	in->memory.fds[0] = fds[OFFER_FDS];
}

/* One end, connected to the other process's. */
static inline void meet(struct end *e, struct domain *domain, int sock, pid_t peer)
{
	struct introduction ours = { 0 }, theirs;
	int fds[OFFER_FDS + 1];

	end_open_on(e, domain);
	ours.conn = e->offer;
	CHECK_EQ(domain->transport->mr_export(domain, &e->memory, &ours.memory), 0);
	ours.base = (uintptr_t)e->memory.base;
	ours.key = e->key;
	send_introduction(sock, &ours);
	recv_introduction(sock, &theirs, fds);
	attach(e, &theirs.conn, peer);
	learn_region(e, &theirs.memory, theirs.base, theirs.key);
	for (unsigned i = 0; i < OFFER_FDS + 1; i++)
		close(fds[i]);
}

/* Waits until the other process is here too. */
static inline void rendezvous(int sock)
{
	char byte = 0;

	CHECK_EQ(write(sock, &byte, 1), 1);
	CHECK_EQ(read(sock, &byte, 1), 1);
}

typedef void (*side)(int sock, pid_t peer);

/* Runs ours here and theirs in a child, which must exit with 0, or by the signal given. */
static inline void in_two_processes(side ours, side theirs, int signal_expected)
{
	int socks[2], status;
	pid_t parent = getpid(), child;

	CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		close(socks[0]);
		theirs(socks[1], parent);
		exit(0);
	}
	close(socks[1]);
	ours(socks[0], child);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(signal_expected ? WTERMSIG(status) : status, signal_expected);
	close(socks[0]);
}

#endif
