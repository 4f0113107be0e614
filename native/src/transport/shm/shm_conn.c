/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"
#include "util/random.h"

static int take_slot(struct shm_domain *lane, struct shm_conn *c, struct pg_error *err)
{
	unsigned slot = 0;

	while (slot < lane->n_slots && lane->conns[slot])
		slot++;
	if (slot == lane->n_slots)
		return error_set(err, -ENOSPC, "all %u connections of %s are in use", slot,
				 lane->domain.name);
	c->slot = slot;
	lane->conns[slot] = c;
	if (lane->n_words <= slot / 64)
		lane->n_words = slot / 64 + 1;
	return 0;
}

static void fill_offer(const struct shm_conn *c, struct offer *offer)
{
	struct conn_offer ours = {
		.layout = WIRE_LAYOUT,
		.slot = c->slot,
		.probe = (uintptr_t)&c->in->probe,
		.nonce = c->nonce,
	};

	*offer = (struct offer){ .len = sizeof(ours), .n_fds = CONN_FDS };
	memcpy(offer->bytes, &ours, sizeof(ours));
	offer->fds[FD_CHANNEL] = c->channel_fd;
	offer->fds[FD_INBOX] = conn_lane(c)->inbox_fd;
	offer->fds[FD_BELL] = c->conn.domain->fd;
}

int shm_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		  struct pg_error *err)
{
	struct shm_domain *lane = shm_domain(domain);
	struct shm_conn *c = aligned_alloc(LINE, sizeof(*c));
	void *in;
	int rc;

	if (!c)
		return error_set(err, -ENOMEM, "no memory for a connection");
	memset(c, 0, sizeof(*c));
	c->conn.domain = domain;
	c->bell = -1;
	c->pidfd = -1;

	rc = random_bytes(&c->nonce, sizeof(c->nonce));
	if (rc) {
		error_set(err, rc, "no random bytes for a connection");
		goto free_conn;
	}
	rc = take_slot(lane, c, err);
	if (rc)
		goto free_conn;
	rc = segment_make("pgctl-channel", sizeof(struct channel), &c->channel_fd, &in, err);
	if (rc)
		goto free_slot;
	c->in = in;
	/* The part that every connection uses; records get their pages when there are any. */
	madvise(in, offsetof(struct channel, messages), MADV_POPULATE_WRITE);
	/* Relaxed: nobody else has it yet. */
	atomic_store_explicit(&c->in->probe, c->nonce, memory_order_relaxed);

	fill_offer(c, offer);
	*conn = &c->conn;
	return 0;

free_slot:
	lane->conns[c->slot] = NULL;
free_conn:
	free(c);
	return rc;
}

/* The doorbell is written to without looking, so it must be what cannot block us. */
static int check_bell(int fd, struct pg_error *err)
{
	char path[32], target[32];
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return error_set(err, -errno, "readlink %s: %m", path);
	target[len] = 0;
	if (strcmp(target, "anon_inode:[eventfd]") || !(fcntl(fd, F_GETFL) & O_NONBLOCK))
		return error_set(err, -EPROTO, "the peer's doorbell is %s, or blocks", target);
	return 0;
}

static int check_offer(const struct offer *offer, struct conn_offer *theirs, struct pg_error *err)
{
	int rc;

	if (offer->len != sizeof(*theirs) || offer->n_fds != CONN_FDS)
		return error_set(err, -EPROTO,
				 "a shm offer has %u bytes and %u fds, not %zu and %d", offer->len,
				 offer->n_fds, sizeof(*theirs), CONN_FDS);
	memcpy(theirs, offer->bytes, sizeof(*theirs));
	if (theirs->layout != WIRE_LAYOUT)
		return error_set(err, -EPROTO, "the peer's shm layout is %u, ours is %u",
				 theirs->layout, WIRE_LAYOUT);
	if (theirs->slot >= INBOX_SLOTS)
		return error_set(err, -EPROTO, "the peer's inbox has no slot %u", theirs->slot);
	rc = segment_check(offer->fds[FD_CHANNEL], sizeof(struct channel), err);
	if (!rc)
		rc = segment_check(offer->fds[FD_INBOX], sizeof(struct inbox), err);
	if (!rc)
		rc = check_bell(offer->fds[FD_BELL], err);
	return rc;
}

/* How memory that we have not mapped will be reached. */
static void choose_path(struct shm_conn *c, pid_t pid, const struct conn_offer *theirs)
{
	struct pg_error why = { .text = "PGCTL_SHM_CMA=0" };

	if (conn_lane(c)->cma && !cma_attach(c, pid, theirs, &why)) {
		c->conn.max_unmapped = SHM_MAX_WRITE;
		snprintf(c->conn.note, sizeof(c->conn.note),
			 "engine memory mapped; other memory by process_vm_writev");
		return;
	}
	c->conn.max_unmapped = PIECE_MAX;
	snprintf(c->conn.note, sizeof(c->conn.note),
		 "engine memory mapped; other memory copied through shared memory by the receiver: "
		 "%.46s",
		 why.text);
}

int shm_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct shm_conn *c = shm_conn(conn);
	struct conn_offer theirs;
	void *out, *inbox;
	int rc = check_offer(offer, &theirs, err);

	if (rc)
		return rc;
	c->bell = fcntl(offer->fds[FD_BELL], F_DUPFD_CLOEXEC, 0);
	if (c->bell < 0)
		return error_set(err, -errno, "cannot keep the peer's doorbell: %m");
	rc = segment_map(offer->fds[FD_CHANNEL], sizeof(struct channel), &out, err);
	if (rc)
		goto close_bell;
	rc = segment_map(offer->fds[FD_INBOX], sizeof(struct inbox), &inbox, err);
	if (rc)
		goto unmap_channel;
	madvise(out, offsetof(struct channel, messages), MADV_POPULATE_WRITE);
	c->out = out;
	c->inbox = inbox;
	c->peer_slot = theirs.slot;
	choose_path(c, offer->pid, &theirs);
	close(c->channel_fd);
	c->channel_fd = -1;
	/* From here it is found through the inbox; the peer may have written there already. */
	conn_lane(c)->cold[c->slot / 64] |= 1ULL << c->slot % 64;
	return 0;

unmap_channel:
	munmap(out, sizeof(struct channel));
close_bell:
	close(c->bell);
	c->bell = -1;
	return rc;
}

void shm_conn_close(struct conn *conn)
{
	struct shm_conn *c = shm_conn(conn);
	struct shm_domain *lane = conn_lane(c);

	if (lane->mover)
		mover_forget(lane->mover, c);
	if (c->is_hot)
		cool_down(c);
	lane->cold[c->slot / 64] &= ~(1ULL << c->slot % 64);
	lane->conns[c->slot] = NULL;
	lane->n_starved -= c->starved;
	lane->n_dying -= c->status && !c->reported;
	if (c->out) {
		munmap(c->inbox, sizeof(*c->inbox));
		munmap(c->out, sizeof(*c->out));
	}
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->bell >= 0)
		close(c->bell);
	if (c->channel_fd >= 0)
		close(c->channel_fd);
	munmap(c->in, sizeof(*c->in));
	free(c);
}
