/* SPDX-License-Identifier: MIT
 *
 * The receiving side of the socket NIC's connections. All that it is sent is hostile until checked. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "fake_socket_lane.h"

int fake_conn_read_frames(struct fake_conn *c, bool hung_up)
{
	ssize_t n;

	if (c->taken) {
		c->filled -= c->taken;
		memmove(c->input, c->input + c->taken, c->filled);
		c->taken = 0;
	}
	if (c->filled == FAKE_INPUT)
		return hung_up ? -ECONNRESET : 0;
	n = recv(c->in.fd, c->input + c->filled, FAKE_INPUT - c->filled, 0);
	if (n <= 0)
		return fake_sock_verdict(n);
	c->filled += (size_t)n;
	return 0;
}

int fake_conn_next_frame(const struct fake_conn *c, struct fake_frame *frame)
{
	size_t there = c->filled - c->taken;

	if (there < sizeof(*frame))
		return 0;
	memcpy(frame, c->input + c->taken, sizeof(*frame));
	if (frame->magic != FAKE_MAGIC || frame->op > WR_SEND ||
	    frame->len > (frame->op == WR_SEND ? PG_MSG_MAX : FAKE_MAX_WRITE))
		return -EPROTO;
	return there - sizeof(*frame) >= frame->len;
}

/* A sender has no more outstanding than this has room for. */
static int put_ack(struct fake_conn *c, uint64_t seq, int status)
{
	struct fake_ack ack = { .magic = FAKE_MAGIC, .status = status, .seq = seq };

	if (sizeof(c->acks_out) - c->acks_out_len < sizeof(ack))
		return -EPROTO;
	memcpy(c->acks_out + c->acks_out_len, &ack, sizeof(ack));
	c->acks_out_len += sizeof(ack);
	return 0;
}

static int take_message(struct fake_conn *c, const struct fake_frame *frame, const uint8_t *payload,
			struct room *room)
{
	uint8_t *to = conn_lane(c)->staging[room->staged++];

	memcpy(to, payload, frame->len);
	*room->next++ = (struct arrival){
		.kind = ARRIVAL_MSG, .conn = &c->conn, .data = to, .len = frame->len
	};
	room->left--;
	return put_ack(c, frame->seq, 0);
}

static int take_write(struct fake_conn *c, const struct fake_frame *frame, const uint8_t *payload,
		      struct room *room)
{
	int status = 0;

	if (frame->len || frame->rkey)
		status = fake_region_place(conn_lane(c), frame, payload);
	if (!status && frame->op == WR_WRITE_IMM) {
		*room->next++ = (struct arrival){
			.kind = ARRIVAL_IMM, .conn = &c->conn, .imm = frame->imm, .count = 1
		};
		room->left--;
	}
	return put_ack(c, frame->seq, status);
}

static int take_frames(struct fake_conn *c, struct room *room)
{
	struct fake_frame frame;
	int rc = 0;

	c->stalled = false;
	while (room->left && (rc = fake_conn_next_frame(c, &frame)) > 0) {
		const uint8_t *payload = c->input + c->taken + sizeof(frame);

		if (frame.op == WR_SEND) {
			c->stalled = room->staged == room->messages;
			if (c->stalled || room->staged == FAKE_STAGED)
				return 0;
			rc = take_message(c, &frame, payload, room);
		} else {
			rc = take_write(c, &frame, payload, room);
		}
		if (rc)
			return rc;
		c->taken += sizeof(frame) + frame.len;
	}
	return rc;
}

static int send_acks(struct fake_conn *c)
{
	ssize_t n;

	if (!c->acks_out_len || conn_lane(c)->hold_acks)
		return 0;
	n = send(c->in.fd, c->acks_out, c->acks_out_len, MSG_NOSIGNAL);
	if (n < 0)
		return fake_sock_verdict(n);
	c->acks_out_len -= (size_t)n;
	memmove(c->acks_out, c->acks_out + n, c->acks_out_len);
	return 0;
}

void fake_conn_serve_in(struct fake_conn *c, struct room *room)
{
	uint32_t events;
	int rc = take_frames(c, room);

	if (!rc)
		rc = send_acks(c);
	if (rc) {
		fake_conn_break(c, rc);
		return;
	}
	events = c->stalled ? 0 : EPOLLIN;
	if (c->acks_out_len && !conn_lane(c)->hold_acks)
		events |= EPOLLOUT;
	fake_sock_want(conn_lane(c), &c->in, events, SOCK_IN, c->slot);
}
