/* SPDX-License-Identifier: MIT
 *
 * Writing to memory of the peer that is not mapped here: process_vm_writev ("cross-memory
 * attach"). */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* Where Yama restricts ptrace to descendants, the owner of the memory has to lift that. Elsewhere
 * it fails and is not needed; whether it all works is proven at attach. */
void cma_allow(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
}

/* 0 or -errno, of a call that moves one word. */
static int moved(ssize_t bytes)
{
	if (bytes == sizeof(uint64_t))
		return 0;
	return bytes < 0 ? -errno : -EFAULT;
}

/* The word that pid has at theirs->probe is the one that it offered, and what we write there shows
 * up in the channel that it shares with us. Only then is pid the process that made the offer. */
static int probe(struct shm_conn *c, pid_t pid, const struct conn_offer *theirs,
		 struct pg_error *err)
{
	uint64_t word = 0, mark = ~theirs->nonce;
	struct iovec remote = { .iov_base = (void *)(uintptr_t)theirs->probe,
				.iov_len = sizeof(word) };
	struct iovec read = { .iov_base = &word, .iov_len = sizeof(word) };
	struct iovec write = { .iov_base = &mark, .iov_len = sizeof(mark) };
	int rc = moved(process_vm_readv(pid, &read, 1, &remote, 1, 0));

	if (rc)
		return error_set(err, rc, "process_vm_readv: %s", strerror(-rc));
	if (word != theirs->nonce)
		return error_set(err, -ESRCH, "process %d is not the peer", pid);
	rc = moved(process_vm_writev(pid, &write, 1, &remote, 1, 0));
	if (rc)
		return error_set(err, rc, "process_vm_writev: %s", strerror(-rc));
	/* Relaxed: the system call is over. */
	if (atomic_load_explicit(&c->out->probe, memory_order_relaxed) != mark)
		return error_set(err, -ESRCH, "process %d is not the peer", pid);
	return 0;
}

int cma_attach(struct shm_conn *c, pid_t pid, const struct conn_offer *theirs, struct pg_error *err)
{
	int rc;

	if (pid <= 0)
		return error_set(err, -ESRCH, "the peer's process is not visible here");
	c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0); /* is CLOEXEC */
	if (c->pidfd < 0)
		return error_set(err, -errno, "pidfd_open: %m");
	rc = probe(c, pid, theirs, err);
	if (rc) {
		close(c->pidfd);
		c->pidfd = -1;
		return rc;
	}
	c->pid = pid;
	return 0;
}

/* Before each batch: once the process has exited, its pid may come to mean another one. */
static bool is_alive(const struct shm_conn *c)
{
	struct pollfd pfd = { .fd = c->pidfd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 0;
}

static int failed(const struct shm_conn *c, const struct wr *wr, ssize_t wrote,
		  struct pg_error *err)
{
	unsigned long long at = wr->raddr, len = wr->len;

	if (wrote >= 0)
		return error_set(
			err, -EFAULT,
			"process %d has no writable memory for all of the %llu bytes at 0x%llx",
			c->pid, len, at);
	if (errno == ESRCH)
		return error_set(err, -EHOSTDOWN, "process %d is gone", c->pid);
	return error_set(err, -errno, "process_vm_writev of %llu bytes to 0x%llx of process %d: %m",
			 len, at, c->pid);
}

int cma_write(struct shm_conn *c, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct iovec local[CMA_BATCH], remote[CMA_BATCH];
	ssize_t wrote;
	unsigned done;

	if (n > CMA_BATCH)
		n = CMA_BATCH;
	if (!is_alive(c))
		return error_set(err, -EHOSTDOWN, "process %d is gone", c->pid);
	for (unsigned i = 0; i < n; i++) {
		local[i].iov_base = (void *)(uintptr_t)wrs[i].src;
		local[i].iov_len = wrs[i].len;
		remote[i].iov_base = (void *)(uintptr_t)wrs[i].raddr;
		remote[i].iov_len = wrs[i].len;
	}
	wrote = process_vm_writev(c->pid, local, n, remote, n, 0);

	/* The kernel stops in the middle where the memory ends. What landed whole is done; the rest
	 * fails when it is posted again, as the first. */
	ssize_t left = wrote;
	for (done = 0; done < n && left >= 0 && (uint64_t)left >= wrs[done].len; done++)
		left -= (ssize_t)wrs[done].len;
	return done ? (int)done : failed(c, &wrs[0], wrote, err);
}
