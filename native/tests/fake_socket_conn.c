/* SPDX-License-Identifier: MIT
 *
 * Connections of the socket NIC: how they are made and what the sender does. Nobody waits for the
 * other: who cannot send goes on receiving, and a receiver that has no room for a message stops
 * reading that one socket (fake_socket_recv.c). */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_socket_lane.h"
#include "util/error.h"
#include "util/random.h"

#define ERRNO_MAX 4095

static struct slot *slot_at(struct fake_conn *c, uint64_t seq)
{
	return &c->slots[seq % FAKE_OUTSTANDING];
}

void fake_conn_break(struct fake_conn *c, int status)
{
	if (c->status)
		return;
	c->status = status;
	fake_sock_close(conn_lane(c), &c->out, true);
	fake_sock_close(conn_lane(c), &c->in, true);
	for (uint64_t seq = c->head; seq < c->tail; seq++) {
		struct slot *s = slot_at(c, seq);

		if (s->state >= SLOT_ENDED)
			continue;
		s->state = SLOT_ENDED;
		s->status = status;
	}
}

/* ---- Making them ---------------------------------------------------------------------------- */

static int take_slot(struct lane *lane, struct fake_conn *c, struct pg_error *err)
{
	unsigned slot = 0;

	while (slot < lane->n_slots && lane->conns[slot])
		slot++;
	if (slot == lane->n_slots)
		return error_set(err, -ENOSPC, "all %u connections of %s are in use", slot,
				 lane->domain.name);
	c->slot = slot;
	lane->conns[slot] = c;
	if (lane->n_used <= slot)
		lane->n_used = slot + 1;
	return 0;
}

int fake_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		   struct pg_error *err)
{
	struct lane *lane = lane_of(domain);
	struct fake_offer ours = { .magic = FAKE_MAGIC };
	struct fake_conn *c;
	int rc;

	fake_lane_obey(lane);
	if (lane->down)
		return error_set(err, -ENETDOWN, "%s is unplugged", domain->name);
	c = calloc(1, sizeof(*c));
	if (!c)
		return error_set(err, -ENOMEM, "no memory for a connection");
	c->conn.domain = domain;
	c->out.fd = c->in.fd = -1;
	c->input = malloc(FAKE_INPUT);
	rc = c->input ? random_bytes(&c->nonce, sizeof(c->nonce)) : -ENOMEM;
	if (rc)
		error_set(err, rc, "no memory or random bytes for a connection");
	else
		rc = take_slot(lane, c, err);
	if (rc)
		goto free_conn;
	ours.slot = c->slot;
	ours.nonce = c->nonce;
	ours.at = lane->at;
	*offer = (struct offer){ .len = sizeof(ours) };
	memcpy(offer->bytes, &ours, sizeof(ours));
	*conn = &c->conn;
	return 0;

free_conn:
	free(c->input);
	free(c);
	return rc;
}

static int check_offer(const struct fake_conn *c, const struct offer *offer,
		       struct fake_offer *theirs, struct pg_error *err)
{
	unsigned lane = conn_lane(c)->domain.index;

	if (offer->len != sizeof(*theirs) || offer->n_fds)
		return error_set(err, -EPROTO,
				 "a fakesock offer has %u bytes and %u fds, not %zu and 0",
				 offer->len, offer->n_fds, sizeof(*theirs));
	memcpy(theirs, offer->bytes, sizeof(*theirs));
	if (theirs->magic != FAKE_MAGIC || theirs->at.lane >= PG_MAX_DOMAINS || !theirs->at.port ||
	    !theirs->at.ip)
		return error_set(err, -EPROTO, "a fakesock offer from lane %u at %08x:%u",
				 theirs->at.lane, ntohl(theirs->at.ip), ntohs(theirs->at.port));
	if (fake_control_read(conn_lane(c)).refused & 1u << theirs->at.lane)
		return error_set(err, -ENETUNREACH, "lane %u does not reach lane %u", lane,
				 theirs->at.lane);
	return 0;
}

/* From the lane's own address: in a network of several, that is what decides the way. */
static int start_connect(struct fake_conn *c, const struct fake_address *at, struct pg_error *err)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = conn_lane(c)->at.ip };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = at->ip,
				  .sin_port = at->port };
	char name[INET_ADDRSTRLEN] = "";
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, rc;

	if (fd < 0)
		return error_set(err, -errno, "socket: %m");
	inet_ntop(AF_INET, &to.sin_addr, name, sizeof(name));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&from, sizeof(from)) ||
	    (connect(fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)) {
		rc = error_set(err, -errno, "connect to %s:%u: %m", name, ntohs(to.sin_port));
		close(fd);
		return rc;
	}
	c->out.fd = fd;
	snprintf(c->conn.note, sizeof(c->conn.note), "TCP to lane %u at %s:%u", at->lane, name,
		 ntohs(to.sin_port));
	return 0;
}

int fake_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct fake_conn *c = conn_of(conn);
	struct lane *lane = conn_lane(c);
	struct fake_offer theirs;
	int rc;

	fake_lane_obey(lane);
	if (c->attached)
		return error_set(err, -EISCONN, "the connection is attached already");
	if (c->status)
		return error_set(err, -ENETDOWN, "%s was unplugged", lane->domain.name);
	rc = check_offer(c, offer, &theirs, err);
	if (!rc)
		rc = start_connect(c, &theirs.at, err);
	if (rc)
		return rc;
	rc = fake_sock_watch(lane, &c->out, EPOLLIN | EPOLLOUT, SOCK_OUT, c->slot);
	if (!rc && c->in.fd >= 0)
		rc = fake_sock_watch(lane, &c->in, EPOLLIN, SOCK_IN, c->slot);
	if (rc) {
		fake_sock_close(lane, &c->out, true);
		return error_set(err, rc, "epoll_ctl: %m");
	}
	c->hello = (struct fake_hello){ .magic = FAKE_MAGIC,
					.slot = theirs.slot,
					.nonce = theirs.nonce };
	conn->max_unmapped = FAKE_MAX_WRITE;
	c->attached = true;
	return 0;
}

/* Before attach nobody wants to be told about it, hence it is not watched. */
bool fake_conn_adopt(struct fake_conn *c, int fd)
{
	int one = 1;

	if (c->status || c->in.fd >= 0)
		return false;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->in.fd = fd;
	if (c->attached && fake_sock_watch(conn_lane(c), &c->in, EPOLLIN, SOCK_IN, c->slot)) {
		c->in.fd = -1;
		return false;
	}
	return true;
}

void fake_conn_close(struct conn *conn)
{
	struct fake_conn *c = conn_of(conn);
	struct lane *lane = conn_lane(c);

	/* Acknowledgements of what has been placed may still get there. */
	fake_sock_close(lane, &c->in, false);
	fake_sock_close(lane, &c->out, true);
	lane->conns[c->slot] = NULL;
	free(c->input);
	free(c);
}

/* ---- The sender ----------------------------------------------------------------------------- */

static int check_wr(struct lane *lane, const struct wr *wr, struct pg_error *err)
{
	uint64_t limit = wr->op == WR_SEND ? PG_MSG_MAX : FAKE_MAX_WRITE;

	if (wr->op > WR_SEND || wr->len > limit)
		return error_set(err, -EINVAL, "a work request %u of %llu bytes", wr->op,
				 (unsigned long long)wr->len);
	if (wr->op != WR_SEND && wr->len &&
	    fake_region_check(lane, wr->lkey, (uintptr_t)wr->src, wr->len))
		return error_set(err, -EINVAL, "lkey %llx does not cover %llu bytes at %p",
				 (unsigned long long)wr->lkey, (unsigned long long)wr->len,
				 wr->src);
	return 0;
}

int fake_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct fake_conn *c = conn_of(conn);
	struct lane *lane = conn_lane(c);
	unsigned posted = 0;
	int rc = -EAGAIN;

	fake_lane_obey(lane);
	if (c->status)
		return error_set(err, c->status, "the connection is broken");
	if (!c->attached)
		return error_set(err, -ENOTCONN, "the connection is not attached");
	for (; posted < n && c->tail - c->head < FAKE_OUTSTANDING; posted++) {
		rc = check_wr(lane, &wrs[posted], err);
		if (rc)
			break;
		*slot_at(c, c->tail++) = fake_control_take_failure(lane)
						 ? (struct slot){ .wr = wrs[posted],
								  .state = SLOT_ENDED,
								  .status = -EIO }
						 : (struct slot){ .wr = wrs[posted] };
	}
	return posted ? (int)posted : rc;
}

/* 1: all of it is sent, 0: the rest has to wait, or -errno. */
static int send_frame(struct fake_conn *c, const struct wr *wr)
{
	struct fake_frame frame = {
		.magic = FAKE_MAGIC,
		.op = wr->op,
		.seq = c->next,
		.raddr = wr->raddr,
		.rkey = wr->rkey,
		.imm = wr->imm,
		.len = (uint32_t)wr->len,
	};

	while (c->sent < sizeof(frame) + wr->len) {
		size_t head = c->sent < sizeof(frame) ? c->sent : sizeof(frame);
		size_t body = c->sent - head;
		struct iovec iov[2] = {
			{ (uint8_t *)&frame + head, sizeof(frame) - head },
			{ (uint8_t *)(uintptr_t)wr->src + body, wr->len - body },
		};
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = wr->len ? 2 : 1 };
		ssize_t n = sendmsg(c->out.fd, &msg, MSG_NOSIGNAL);

		if (n < 0)
			return fake_sock_verdict(n);
		c->sent += (size_t)n;
	}
	return 1;
}

static int send_rung(struct fake_conn *c)
{
	while (c->hello_sent < sizeof(c->hello)) {
		ssize_t n = send(c->out.fd, (uint8_t *)&c->hello + c->hello_sent,
				 sizeof(c->hello) - c->hello_sent, MSG_NOSIGNAL);

		if (n < 0)
			return fake_sock_verdict(n);
		c->hello_sent += (size_t)n;
	}
	for (; c->next < c->rung; c->next++, c->sent = 0) {
		struct slot *s = slot_at(c, c->next);
		int rc;

		if (s->state != SLOT_QUEUED)
			continue;
		rc = send_frame(c, &s->wr);
		if (rc <= 0)
			return rc;
		s->state = SLOT_SENT;
	}
	return 0;
}

static void serve_out(struct fake_conn *c)
{
	bool waits;
	int rc = 0;

	if (!conn_lane(c)->hold)
		rc = send_rung(c);
	if (rc) {
		fake_conn_break(c, rc);
		return;
	}
	waits = !conn_lane(c)->hold && (c->hello_sent < sizeof(c->hello) || c->next < c->rung);
	fake_sock_want(conn_lane(c), &c->out, EPOLLIN | (waits ? EPOLLOUT : 0), SOCK_OUT, c->slot);
}

void fake_flush(struct conn *conn)
{
	struct fake_conn *c = conn_of(conn);

	fake_lane_obey(conn_lane(c));
	c->rung = c->tail;
	if (c->attached && !c->status)
		serve_out(c);
}

static int take_ack(struct fake_conn *c, const struct fake_ack *ack)
{
	struct slot *s = slot_at(c, ack->seq);

	if (ack->magic != FAKE_MAGIC || ack->status > 0 || ack->status < -ERRNO_MAX ||
	    ack->seq < c->head || ack->seq >= c->next || s->state != SLOT_SENT)
		return -EPROTO;
	s->state = SLOT_ENDED;
	s->status = ack->status;
	return 0;
}

static int read_acks(struct fake_conn *c)
{
	ssize_t n = recv(c->out.fd, c->acks_in + c->acks_in_len,
			 sizeof(c->acks_in) - c->acks_in_len, 0);
	struct fake_ack ack;
	size_t at = 0;
	int rc = 0;

	if (n <= 0)
		return fake_sock_verdict(n);
	c->acks_in_len += (size_t)n;
	for (; c->acks_in_len - at >= sizeof(ack) && !rc; at += sizeof(ack)) {
		memcpy(&ack, c->acks_in + at, sizeof(ack));
		rc = take_ack(c, &ack);
	}
	c->acks_in_len -= at;
	memmove(c->acks_in, c->acks_in + at, c->acks_in_len);
	return rc;
}

static void tell_ended(struct fake_conn *c, struct room *room)
{
	for (uint64_t seq = c->head; seq < c->tail && room->left; seq++) {
		struct slot *s = slot_at(c, seq);

		if (s->state != SLOT_ENDED)
			continue;
		*room->next++ = (struct arrival){
			.kind = ARRIVAL_DONE, .status = s->status, .conn = &c->conn, .id = s->wr.id
		};
		room->left--;
		s->state = SLOT_TOLD;
	}
	while (c->head < c->tail && slot_at(c, c->head)->state == SLOT_TOLD)
		c->head++;
	/* What failed unsent may be gone before its turn to be sent. */
	if (c->next < c->head)
		c->next = c->head;
}

/* ---- Both ----------------------------------------------------------------------------------- */

void fake_conn_readable(struct fake_conn *c, enum sock_kind kind, bool hung_up)
{
	int rc = 0;

	if (kind == SOCK_OUT && c->out.fd >= 0)
		rc = read_acks(c);
	if (kind == SOCK_IN && c->in.fd >= 0)
		rc = fake_conn_read_frames(c, hung_up);
	if (rc)
		fake_conn_break(c, rc);
}

void fake_conn_serve(struct fake_conn *c, struct room *room)
{
	if (!c->status)
		serve_out(c);
	if (!c->status && c->in.fd >= 0)
		fake_conn_serve_in(c, room);
	tell_ended(c, room);
	/* With room left, all that was outstanding has been told. */
	if (!c->status || c->told || !room->left)
		return;
	*room->next++ =
		(struct arrival){ .kind = ARRIVAL_DEAD, .status = c->status, .conn = &c->conn };
	room->left--;
	c->told = true;
}

bool fake_conn_has_news(const struct fake_conn *c)
{
	struct fake_frame frame;

	if (!c->attached)
		return false;
	if (c->status && !c->told)
		return true;
	for (uint64_t seq = c->head; seq < c->tail; seq++) {
		if (c->slots[seq % FAKE_OUTSTANDING].state == SLOT_ENDED)
			return true;
	}
	return !c->status && !c->stalled && fake_conn_next_frame(c, &frame);
}

void fake_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct fake_conn *c = (const struct fake_conn *)conn;
	unsigned long long outstanding = 0, unsent = 0;

	for (uint64_t seq = c->head; seq < c->tail; seq++) {
		const struct slot *s = &c->slots[seq % FAKE_OUTSTANDING];

		outstanding += s->state < SLOT_ENDED;
		if (s->state == SLOT_QUEUED)
			unsent += s->wr.len - (seq == c->next && c->sent > sizeof(struct fake_frame)
						       ? c->sent - sizeof(struct fake_frame)
						       : 0);
	}
	snprintf(buf, size, "%llu outstanding, %llu bytes unsent, %zu bytes of input%s%s",
		 outstanding, unsent, c->filled - c->taken, conn_lane(c)->hold ? ", held" : "",
		 c->stalled ? ", a message waits for room" : "");
}
