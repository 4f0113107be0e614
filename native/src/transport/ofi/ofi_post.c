/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transport/ofi/ofi.h"
#include "util/error.h"

/* It has ended when it has been placed, and its immediate can be read there. */
#define FLAGS (FI_DELIVERY_COMPLETE | FI_COMPLETION)

/* Immediates that are offered in vain in one poll: each time the provider looks around. */
#define REFUSALS 4

/* ---- What is in flight ---- */

static struct ofi_send *take(struct ofi_domain *d)
{
	struct ofi_send *send;

	if (list_empty(&d->free_sends))
		return NULL;
	send = LIST_ENTRY(d->free_sends.next, struct ofi_send, link);
	list_remove(&send->link);
	d->n_free--;
	return send;
}

void ofi_send_free(struct ofi_domain *d, struct ofi_send *send)
{
	list_remove(&send->link);
	/* In front: it is still in the cache. */
	list_append(d->free_sends.next, &send->link);
	d->n_free++;
}

void ofi_send_ended(struct ofi_domain *d, struct ofi_send *send, int status)
{
	ofi_address_leave(d, send->to);
	if (send->buffer != NO_BUFFER)
		d->spare[d->n_spare++] = send->buffer;
	send->buffer = NO_BUFFER;
	send->status = status;
	if (!send->conn) {
		ofi_send_free(d, send);
		return;
	}
	list_remove(&send->link);
	list_append(&d->ended, &send->link);
}

/* ---- Posting ---- */

/* mr: of what is sent, or NULL. */
static ssize_t send_bytes(const struct ofi_endpoint *e, const struct ofi_address *to, void *bytes,
			  size_t len, struct fid_mr *mr, struct ofi_send *send)
{
	struct iovec iov = { .iov_base = bytes, .iov_len = len };
	void *desc = mr ? fi_mr_desc(mr) : NULL;
	struct fi_msg msg = {
		.msg_iov = &iov,
		.desc = &desc,
		.iov_count = 1,
		.addr = to->at,
		.context = &send->token.fi,
	};

	return fi_sendmsg(e->fid, &msg, FLAGS);
}

static ssize_t send_imm(struct ofi_send *send)
{
	const struct ofi_conn *c = send->conn;

	send->owes = false;
	return send_bytes(c->writer, c->peer_writer, &send->imm, sizeof(send->imm),
			  conn_domain(c)->sends_mr, send);
}

/* False: not yet. */
static bool pay(struct ofi_domain *d, struct ofi_send *send)
{
	struct ofi_conn *c = send->conn;
	ssize_t rc = c && !c->status ? send_imm(send) : -ECONNABORTED;

	if (rc == -FI_EAGAIN)
		return false;
	list_remove(&send->link);
	if (!rc) {
		list_append(&c->writer->sends, &send->link);
		return true;
	}
	ofi_send_ended(d, send, -ECONNABORTED);
	if (c)
		ofi_conn_break(c, rc > -FI_ERRNO_OFFSET ? (int)rc : -EIO);
	return true;
}

void ofi_pay(struct ofi_domain *d)
{
	unsigned refusals = 0;

	while (!list_empty(&d->owing) && refusals < REFUSALS) {
		struct ofi_send *send = LIST_ENTRY(d->owing.next, struct ofi_send, link);

		if (pay(d, send))
			continue;
		/* Others go first the next time. */
		list_remove(&send->link);
		list_append(&d->owing, &send->link);
		refusals++;
	}
}

static ssize_t post_write(struct ofi_conn *c, const struct wr *wr, struct ofi_send *send)
{
	const struct ofi_domain *d = conn_domain(c);
	const struct ofi_mr *mr = wr->len ? ofi_mr(wr->lkey) : NULL;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)wr->src, .iov_len = wr->len };
	void *desc = mr ? mr->desc : NULL;
	struct fi_rma_iov to = {
		.addr = wr->raddr - (d->offsets ? wr->rbase : 0),
		.len = wr->len,
		.key = wr->rkey,
	};
	struct fi_msg_rma msg = {
		.msg_iov = &iov,
		.desc = &desc,
		.iov_count = wr->len > 0,
		.addr = c->peer_writer->at,
		.rma_iov = &to,
		.rma_iov_count = 1,
		.context = &send->token.fi,
		.data = wr->imm | (d->whose == OFI_BY_DATA ? (uint64_t)c->peer_tag << 32 : 0),
	};
	bool imm = wr->op == WR_WRITE_IMM;

	if (imm && d->whose == OFI_BY_MESSAGE) {
		send->owes = true;
		send->imm = (struct ofi_imm){
			.header = { c->peer_nonce, c->peer_tag, OFI_IMM },
			.imm = wr->imm,
		};
		if (!wr->len)
			return send_imm(send);
		imm = false;
	}
	if (!wr->len) {
		iov = (struct iovec){ .iov_base = d->zero, .iov_len = d->nic.bare };
		msg.iov_count = d->nic.bare > 0;
		to.len = d->nic.bare;
		to.addr = c->zero_addr;
		to.key = c->zero_key;
	}
	return fi_writemsg(c->writer->fid, &msg, FLAGS | (imm ? FI_REMOTE_CQ_DATA : 0));
}

static ssize_t post_message(struct ofi_conn *c, const struct wr *wr, struct ofi_send *send)
{
	struct ofi_domain *d = conn_domain(c);
	struct ofi_packet *packet = &d->packets[d->spare[d->n_spare - 1]];
	ssize_t rc;

	packet->header = (struct ofi_header){ c->peer_nonce, c->peer_tag, OFI_DATA };
	memcpy(packet->data, wr->src, wr->len);
	rc = send_bytes(c->messenger, c->peer_messenger, packet, sizeof(packet->header) + wr->len,
			d->packets_mr, send);
	if (!rc)
		send->buffer = d->spare[--d->n_spare];
	return rc;
}

/* Who has few messages in flight goes first where there are few buffers left; writes leave messages the
 * slots that they may need. */
static bool has_credit(const struct ofi_conn *c, bool message)
{
	const struct ofi_domain *d = conn_domain(c);

	if (!message)
		return c->writes < OFI_WRITES && c->bytes < OFI_BYTES && d->n_free > OFI_BUFFERS;
	return d->n_spare && c->messages < (d->n_spare < OFI_BUFFERS / 2 ? 2 : OFI_MESSAGES);
}

/* 0, -EAGAIN, or why it cannot be posted. */
static ssize_t post_one(struct ofi_conn *c, const struct wr *wr)
{
	struct ofi_domain *d = conn_domain(c);
	bool message = wr->op == WR_SEND;
	struct ofi_endpoint *e = message ? c->messenger : c->writer;
	struct ofi_send *send = has_credit(c, message) ? take(d) : NULL;
	ssize_t rc;

	if (!send)
		return -EAGAIN;
	send->token.is_receive = false;
	send->conn = c;
	send->id = wr->id;
	send->buffer = NO_BUFFER;
	send->is_message = message;
	send->len = message ? 0 : (uint32_t)wr->len;
	send->owes = false;
	rc = message ? post_message(c, wr, send) : post_write(c, wr, send);
	if (rc) {
		ofi_send_free(d, send);
		return rc;
	}
	send->to = message ? c->peer_messenger : c->peer_writer;
	send->to->refs++;
	list_append(&e->sends, &send->link);
	*(message ? &c->messages : &c->writes) += 1;
	c->bytes += send->len;
	return 0;
}

int ofi_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct ofi_conn *c = ofi_conn(conn);
	struct ofi_domain *d = conn_domain(c);
	unsigned posted = 0;
	ssize_t rc = 0;

	if (c->status)
		return error_set(err, -ECONNABORTED, "the connection over %s is broken",
				 conn->domain->name);
	pthread_mutex_lock(&d->lock);
	while (posted < n && !rc) {
		rc = post_one(c, &wrs[posted]);
		posted += !rc;
	}
	pthread_mutex_unlock(&d->lock);
	conn->full = (c->writes > OFI_WRITES - OFI_ROOM || c->bytes >= OFI_BYTES) && rc == -EAGAIN;
	if (posted)
		return (int)posted;
	if (rc == -FI_EAGAIN)
		return -EAGAIN;
	ofi_refused(d, "it takes no write", (int)rc, err);
	/* Others may reach the peer. */
	ofi_conn_break(c, rc > -FI_ERRNO_OFFSET ? (int)rc : -EIO);
	return -ECONNABORTED;
}

/* What was posted goes at once. */
void ofi_flush(struct conn *conn)
{
	(void)conn;
}

void ofi_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct ofi_conn *c = (const struct ofi_conn *)conn;

	snprintf(buf, size, "%u writes and %u messages in flight%s", c->writes, c->messages,
		 c->status ? "; broken" : "");
}
