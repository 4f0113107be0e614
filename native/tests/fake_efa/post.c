/* SPDX-License-Identifier: MIT
 *
 * What is posted to an endpoint of the stand-in for EFA, and on its way into the receiver's segment. */
#include <string.h>

#include "inside.h"

struct wanted {
	enum slot_kind kind;
	bool inject; /* buf is not the provider's after the call */
	bool quiet;  /* success is not reported */
	const void *buf;
	size_t len;
	void *desc;
	fi_addr_t dest;
	uint64_t raddr, rkey, imm;
	void *context;
};

static struct op *free_op(struct fake_ep *ep)
{
	for (uint32_t i = 0; i < ep->n_ops; i++) {
		if (!ep->ops[i].used)
			return &ep->ops[i];
	}
	return NULL;
}

/* From anywhere on, so that the receiver does not find them in the order in which they were posted. */
static struct slot *claim_slot(struct fake_ep *ep, struct segment *segment)
{
	uint32_t start = (uint32_t)splitmix64_below(&ep->random, FAKE_SLOTS);

	for (uint32_t i = 0; i < FAKE_SLOTS; i++) {
		struct slot *s = &segment->slots[(start + i) % FAKE_SLOTS];
		uint32_t state = SLOT_FREE;

		/* Acquire: after whoever had it has done with it. */
		if (atomic_compare_exchange_strong_explicit(&s->state, &state, SLOT_CLAIMED,
							    memory_order_acquire,
							    memory_order_relaxed))
			return s;
	}
	return NULL;
}

/* Immediates that nobody has asked for take an entry of the receiver's queue each. If it does not read them
 * the queue is overrun; before it has answered at all, nothing is on its way. */
static void take_entries(struct remote *to, const struct wanted *w)
{
	uint64_t rdma = fake_settings()->rdma;
	uint32_t n = w->len ? (uint32_t)((w->len + rdma - 1) / rdma) : 1;
	uint32_t before;

	if (w->kind != SLOT_WRITE_IMM || !to->met || !to->segment->unread_max)
		return;
	/* Relaxed: numbers only. */
	before = atomic_fetch_add_explicit(&to->segment->unread, n, memory_order_relaxed);
	if (before + n > to->segment->unread_max)
		atomic_store_explicit(&to->segment->overrun, 1, memory_order_relaxed);
}

static void ring(struct fake_ep *ep, struct op *op, const struct wanted *w)
{
	struct segment *segment = op->to->segment;
	struct slot *s = op->slot;
	uint32_t index = (uint32_t)(s - segment->slots);

	s->kind = w->kind;
	s->imm = (uint32_t)w->imm;
	s->src = (uintptr_t)(w->inject ? op->copy : w->buf);
	s->len = w->len;
	s->raddr = w->raddr;
	s->rkey = w->rkey;
	s->rnr_retry = (uint32_t)ep->rnr_retry;
	s->from = ep->addr;
	s->turn = op->to->turn++;
	s->send_turn = w->kind == SLOT_SEND ? op->to->send_turn++ : 0;
	atomic_store_explicit(&s->doomed, 0, memory_order_relaxed);
	take_entries(op->to, w);
	/* Release: the receiver reads all of that when it has seen this. */
	atomic_store_explicit(&s->state, SLOT_POSTED, memory_order_release);
	atomic_fetch_or_explicit(&segment->posted[index / 64], 1ULL << index % 64,
				 memory_order_release);
}

static bool local_ok(struct fake_ep *ep, const struct wanted *w)
{
	return w->inject || !w->len ||
	       fake_mr_desc_allows(ep->domain, w->desc, w->buf, w->len,
				   w->kind == SLOT_SEND ? FI_SEND : FI_WRITE);
}

/* What it fails with for a reason that is known at once, and when; it then goes nowhere. */
static uint32_t hopeless(struct fake_ep *ep, const struct wanted *w, struct remote *to,
			 uint64_t *fail_at)
{
	uint64_t now = clock_ns();

	*fail_at = now;
	if (!local_ok(ep, w)) {
		fake_count(FAKE_EFA_REFUSED_KEY);
		return STATUS_INVALID_LKEY;
	}
	*fail_at = now + UNRESPONSIVE_NS;
	if (fake_nic_down(ep->domain->nic_state, &ep->domain->watch, now)) {
		*fail_at = ep->silent ? NEVER : *fail_at;
		return STATUS_UNRESPONSIVE;
	}
	if (fake_remote_gone(to, now))
		return to->met ? STATUS_UNRESPONSIVE : STATUS_UNREACHABLE;
	if (fake_nic_down(to->segment->nic_state, &to->watch, now))
		return STATUS_UNRESPONSIVE;
	/* Relaxed: nothing is read that depends on it. */
	if (atomic_load_explicit(&to->segment->closed, memory_order_relaxed))
		return STATUS_BAD_DEST_QPN;
	return STATUS_OK;
}

static int again(enum fake_efa_manner why)
{
	fake_count(why);
	return -FI_EAGAIN;
}

static ssize_t post_locked(struct fake_ep *ep, const struct wanted *w)
{
	struct op *op = free_op(ep);
	struct remote *to;

	if (!ep->enabled)
		return -FI_EOPBADSTATE;
	if (w->dest >= ep->av->n || !ep->av->addrs[w->dest].magic)
		return -FI_EINVAL;
	if (w->inject && w->len > FAKE_INJECT)
		return -FI_EMSGSIZE;
	if (fake_chance(&ep->random, fake_settings()->again))
		return again(FAKE_EFA_AGAIN);
	to = fake_remote(ep, &ep->av->addrs[w->dest]);
	if (!to)
		return -FI_ENOMEM;
	if (!op)
		return again(FAKE_EFA_FULL);
	*op = (struct op){
		.quiet = w->quiet,
		.context = w->context,
		.flags = w->kind == SLOT_SEND ? FI_MSG | FI_SEND : FI_RMA | FI_WRITE,
		.to = to,
	};
	if (w->inject && w->len)
		memcpy(op->copy, w->buf, w->len);
	op->status = hopeless(ep, w, to, &op->fail_at);
	if (!op->status) {
		op->slot = claim_slot(ep, to->segment);
		if (!op->slot)
			return again(FAKE_EFA_FULL);
		ring(ep, op, w);
	}
	op->used = true;
	return 0;
}

/* Without FI_SELECTIVE_COMPLETION all is reported but what is injected by functions of that name. */
static ssize_t post(struct fid_ep *fid, struct wanted *w, uint64_t flags)
{
	struct fake_ep *ep = CONTAINER(fid, struct fake_ep, fid);
	ssize_t rc;

	w->inject |= !!(flags & FI_INJECT);
	w->quiet |= ep->selective && !(flags & FI_COMPLETION);
	fake_enter(ep->domain);
	rc = post_locked(ep, w);
	fake_leave(ep->domain);
	return rc;
}

static uint64_t default_flags(struct fid_ep *fid)
{
	return CONTAINER(fid, struct fake_ep, fid)->op_flags & ~FI_INJECT;
}

/* ---- Writes --------------------------------------------------------------------------------- */

static ssize_t write_plain(struct fid_ep *ep, const void *buf, size_t len, void *desc,
			   fi_addr_t dest, uint64_t addr, uint64_t key, void *context)
{
	struct wanted w = { .kind = SLOT_WRITE,
			    .buf = buf,
			    .len = len,
			    .desc = desc,
			    .dest = dest,
			    .raddr = addr,
			    .rkey = key,
			    .context = context };

	return post(ep, &w, default_flags(ep));
}

static ssize_t write_data(struct fid_ep *ep, const void *buf, size_t len, void *desc, uint64_t data,
			  fi_addr_t dest, uint64_t addr, uint64_t key, void *context)
{
	struct wanted w = { .kind = SLOT_WRITE_IMM,
			    .buf = buf,
			    .len = len,
			    .desc = desc,
			    .dest = dest,
			    .raddr = addr,
			    .rkey = key,
			    .imm = data,
			    .context = context };

	return post(ep, &w, default_flags(ep));
}

static ssize_t write_inject(struct fid_ep *ep, const void *buf, size_t len, fi_addr_t dest,
			    uint64_t addr, uint64_t key)
{
	struct wanted w = { .kind = SLOT_WRITE,
			    .inject = true,
			    .quiet = true,
			    .buf = buf,
			    .len = len,
			    .dest = dest,
			    .raddr = addr,
			    .rkey = key };

	return post(ep, &w, 0);
}

static ssize_t write_injectdata(struct fid_ep *ep, const void *buf, size_t len, uint64_t data,
				fi_addr_t dest, uint64_t addr, uint64_t key)
{
	struct wanted w = { .kind = SLOT_WRITE_IMM,
			    .inject = true,
			    .quiet = true,
			    .buf = buf,
			    .len = len,
			    .dest = dest,
			    .raddr = addr,
			    .rkey = key,
			    .imm = data };

	return post(ep, &w, 0);
}

static ssize_t write_msg(struct fid_ep *ep, const struct fi_msg_rma *msg, uint64_t flags)
{
	const struct iovec none = { 0 }, *iov = msg->iov_count ? msg->msg_iov : &none;
	struct wanted w = {
		.kind = flags & FI_REMOTE_CQ_DATA ? SLOT_WRITE_IMM : SLOT_WRITE,
		.buf = iov->iov_base,
		.len = iov->iov_len,
		.desc = msg->desc && msg->iov_count ? msg->desc[0] : NULL,
		.dest = msg->addr,
		.imm = msg->data,
		.context = msg->context,
	};

	if (msg->iov_count > 1 || msg->rma_iov_count != 1 || msg->rma_iov->len != w.len)
		return -FI_EINVAL;
	w.raddr = msg->rma_iov->addr;
	w.rkey = msg->rma_iov->key;
	return post(ep, &w, flags);
}

struct fi_ops_rma fake_rma_ops = {
	.size = sizeof(fake_rma_ops),
	.write = write_plain,
	.writemsg = write_msg,
	.inject = write_inject,
	.writedata = write_data,
	.injectdata = write_injectdata,
};

/* ---- Messages ------------------------------------------------------------------------------- */

static ssize_t send_plain(struct fid_ep *ep, const void *buf, size_t len, void *desc,
			  fi_addr_t dest, void *context)
{
	struct wanted w = { .kind = SLOT_SEND,
			    .buf = buf,
			    .len = len,
			    .desc = desc,
			    .dest = dest,
			    .context = context };

	return post(ep, &w, default_flags(ep));
}

static ssize_t send_inject(struct fid_ep *ep, const void *buf, size_t len, fi_addr_t dest)
{
	struct wanted w = { .kind = SLOT_SEND,
			    .inject = true,
			    .quiet = true,
			    .buf = buf,
			    .len = len,
			    .dest = dest };

	return post(ep, &w, 0);
}

static ssize_t send_msg(struct fid_ep *ep, const struct fi_msg *msg, uint64_t flags)
{
	const struct iovec none = { 0 }, *iov = msg->iov_count ? msg->msg_iov : &none;
	struct wanted w = {
		.kind = SLOT_SEND,
		.buf = iov->iov_base,
		.len = iov->iov_len,
		.desc = msg->desc && msg->iov_count ? msg->desc[0] : NULL,
		.dest = msg->addr,
		.context = msg->context,
	};

	if (msg->iov_count > 1 || flags & FI_REMOTE_CQ_DATA)
		return -FI_EINVAL;
	return post(ep, &w, flags);
}

static ssize_t recv_locked(struct fake_ep *ep, const struct recv *recv, void *desc)
{
	if (!ep->enabled)
		return -FI_EOPBADSTATE;
	if (ep->recv_tail - ep->recv_head == ep->n_recvs)
		return again(FAKE_EFA_FULL);
	if (recv->len && !fake_mr_desc_allows(ep->domain, desc, recv->buf, recv->len, FI_RECV)) {
		fake_count(FAKE_EFA_REFUSED_KEY);
		return -FI_EINVAL;
	}
	ep->recvs[ep->recv_tail++ % ep->n_recvs] = *recv;
	return 0;
}

/* From anybody: FI_DIRECTED_RECV is not offered. */
static ssize_t recv_plain(struct fid_ep *fid, void *buf, size_t len, void *desc, fi_addr_t source,
			  void *context)
{
	struct fake_ep *ep = CONTAINER(fid, struct fake_ep, fid);
	const struct recv recv = { .buf = buf, .len = len, .context = context };
	ssize_t rc;

	(void)source;
	fake_enter(ep->domain);
	rc = recv_locked(ep, &recv, desc);
	fake_leave(ep->domain);
	return rc;
}

static ssize_t recv_msg(struct fid_ep *ep, const struct fi_msg *msg, uint64_t flags)
{
	(void)flags;
	if (msg->iov_count != 1)
		return -FI_EINVAL;
	return recv_plain(ep, msg->msg_iov->iov_base, msg->msg_iov->iov_len,
			  msg->desc ? msg->desc[0] : NULL, msg->addr, msg->context);
}

struct fi_ops_msg fake_msg_ops = {
	.size = sizeof(fake_msg_ops),
	.recv = recv_plain,
	.recvmsg = recv_msg,
	.send = send_plain,
	.sendmsg = send_msg,
	.inject = send_inject,
};
