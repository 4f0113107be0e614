/* SPDX-License-Identifier: MIT
 *
 * The shared memory of an endpoint of the stand-in for EFA, and that of others as it sees them. It is a memfd,
 * which goes when its process does; others open it through /proc. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inside.h"

#define MAGIC 0x6166655f656b6166ULL /* "fake_efa" */
#define MEMFD "fake_efa"
#define LOOK_NS MSEC

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

int fake_segment_make(struct fake_ep *ep)
{
	uint64_t nonce;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return -FI_EIO;
	ep->fd = memfd_create(MEMFD, MFD_CLOEXEC);
	if (ep->fd < 0)
		return -errno;
	ep->segment = ftruncate(ep->fd, sizeof(*ep->segment))
			      ? MAP_FAILED
			      : mmap(NULL, sizeof(*ep->segment), PROT_READ | PROT_WRITE, MAP_SHARED,
				     ep->fd, 0);
	if (ep->segment == MAP_FAILED) {
		close(ep->fd);
		ep->segment = NULL;
		return -FI_ENOMEM;
	}
	ep->segment->nonce = nonce;
	ep->segment->magic = MAGIC;
	ep->segment->unread_max = ep->solicited ? 0 : (uint32_t)ep->rx_cq->size;
	memcpy(ep->segment->nic_state, ep->domain->nic_state, FAKE_PATH);
	ep->addr = (struct fake_addr){ .magic = MAGIC,
				       .nonce = nonce,
				       .pid = getpid(),
				       .fd = ep->fd,
				       .nic = ep->domain->nic };
	return 0;
}

/* Who has it mapped keeps it, and sees that there is nobody any more. */
void fake_segment_drop(struct fake_ep *ep)
{
	if (!ep->segment)
		return;
	/* Release: after what this endpoint has said in the slots. */
	atomic_store_explicit(&ep->segment->closed, 1, memory_order_release);
	munmap(ep->segment, sizeof(*ep->segment));
	close(ep->fd);
	ep->segment = NULL;
}

/* What has that number in that process by now may be anything, so it is asked before it is opened. */
static int open_memfd(const struct fake_addr *addr)
{
	char path[64], target[64];
	struct stat st;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", addr->pid, addr->fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0 || strncmp(target, "/memfd:" MEMFD, strlen("/memfd:" MEMFD)))
		return -1;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) || st.st_size != sizeof(struct segment))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void reach(struct remote *to)
{
	struct segment *segment = MAP_FAILED;
	int fd = open_memfd(&to->addr);

	if (fd < 0)
		return;
	to->pidfd = (int)syscall(SYS_pidfd_open, to->addr.pid, 0);
	if (to->pidfd >= 0)
		segment = mmap(NULL, sizeof(*segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (segment == MAP_FAILED)
		return;
	if (segment->magic == MAGIC && segment->nonce == to->addr.nonce)
		to->segment = segment;
	else
		munmap(segment, sizeof(*segment));
}

struct remote *fake_remote(struct fake_ep *ep, const struct fake_addr *addr)
{
	struct remote *to = ep->remotes;

	while (to && memcmp(&to->addr, addr, sizeof(*addr)))
		to = to->next;
	if (to)
		return to;
	to = calloc(1, sizeof(*to));
	if (!to)
		return NULL;
	to->addr = *addr;
	to->pidfd = -1;
	reach(to);
	to->next = ep->remotes;
	ep->remotes = to;
	return to;
}

void fake_remotes_drop(struct fake_ep *ep)
{
	while (ep->remotes) {
		struct remote *to = ep->remotes;

		ep->remotes = to->next;
		if (to->segment)
			munmap(to->segment, sizeof(*to->segment));
		if (to->pidfd >= 0)
			close(to->pidfd);
		free(to);
	}
}

bool fake_remote_gone(struct remote *to, uint64_t now)
{
	struct pollfd pfd = { .fd = to->pidfd, .events = POLLIN };

	if (!to->gone && to->segment && now >= to->looked + LOOK_NS) {
		to->looked = now;
		to->gone = poll(&pfd, 1, 0) == 1;
	}
	return to->gone || !to->segment;
}
