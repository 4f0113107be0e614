/* SPDX-License-Identifier: MIT
 *
 * Completion queues of the stand-in for EFA. To read one is what makes progress: of what its endpoints have
 * sent and of what has come for them. */
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "inside.h"

#define DEFAULT_SIZE 1024
#define TICK_NS 1000000

int fake_errno(uint32_t status)
{
	switch (status) {
	case STATUS_INVALID_LKEY:
	case STATUS_BAD_ADDRESS:
		return FI_EINVAL;
	case STATUS_BAD_DEST_QPN:
		return FI_ENOTCONN;
	case STATUS_RNR:
		return FI_ENORX;
	case STATUS_UNREACHABLE:
		return FI_EHOSTUNREACH;
	case STATUS_UNRESPONSIVE:
		return FI_ECONNABORTED;
	default:
		return FI_EOTHER;
	}
}

const char *fake_status_text(int status)
{
	switch (status) {
	case STATUS_OK:
		return "nothing is wrong";
	case STATUS_INVALID_LKEY:
		return "fake_efa: the descriptor is not of a region that has the buffer";
	case STATUS_BAD_ADDRESS:
		return "fake_efa: the key is not of a region that has the target";
	case STATUS_BAD_DEST_QPN:
		return "fake_efa: the endpoint has been closed";
	case STATUS_RNR:
		return "fake_efa: the receiver has no buffer for the message";
	case STATUS_UNREACHABLE:
		return "fake_efa: the receiver has never answered";
	case STATUS_UNRESPONSIVE:
		return "fake_efa: the receiver does not answer any more";
	default:
		return "fake_efa: process_vm_readv has failed";
	}
}

bool fake_cq_has_room(const struct fake_cq *cq)
{
	return cq->tail - cq->head < cq->size;
}

void fake_cq_push(struct fake_cq *cq, const struct fi_cq_err_entry *entry, fi_addr_t source)
{
	cq->items[cq->tail++ % cq->size] = (struct cq_item){ .entry = *entry, .source = source };
}

static void progress(struct fake_cq *cq)
{
	for (struct fake_ep *ep = cq->domain->eps; ep; ep = ep->next) {
		if (ep->enabled && ep->rx_cq == cq)
			fake_arrive(ep);
		if (ep->enabled && ep->tx_cq == cq)
			fake_reap(ep);
	}
}

static ssize_t readfrom_locked(struct fake_cq *cq, char *buf, size_t count, fi_addr_t *sources)
{
	size_t n = 0;

	progress(cq);
	/* A queue that has been overrun is of no use any more. */
	if (cq->broken)
		return -FI_EOVERRUN;
	while (n < count && cq->head < cq->tail) {
		const struct cq_item *item = &cq->items[cq->head % cq->size];

		if (item->entry.err)
			return n ? (ssize_t)n : -FI_EAVAIL;
		memcpy(buf + n * cq->entry_size, &item->entry, cq->entry_size);
		if (sources)
			sources[n] = item->source;
		cq->head++;
		n++;
	}
	return n ? (ssize_t)n : -FI_EAGAIN;
}

static ssize_t cq_readfrom(struct fid_cq *fid, void *buf, size_t count, fi_addr_t *sources)
{
	struct fake_cq *cq = CONTAINER(fid, struct fake_cq, fid);
	ssize_t n;

	fake_enter(cq->domain);
	n = readfrom_locked(cq, buf, count, sources);
	fake_leave(cq->domain);
	return n;
}

static ssize_t cq_read(struct fid_cq *fid, void *buf, size_t count)
{
	return cq_readfrom(fid, buf, count, NULL);
}

static ssize_t cq_readerr(struct fid_cq *fid, struct fi_cq_err_entry *entry, uint64_t flags)
{
	struct fake_cq *cq = CONTAINER(fid, struct fake_cq, fid);
	ssize_t n = -FI_EAGAIN;

	(void)flags;
	fake_enter(cq->domain);
	if (cq->head < cq->tail && cq->items[cq->head % cq->size].entry.err) {
		*entry = cq->items[cq->head++ % cq->size].entry;
		n = 1;
	}
	fake_leave(cq->domain);
	return n;
}

static const char *cq_strerror(struct fid_cq *fid, int status, const void *err_data, char *buf,
			       size_t len)
{
	(void)fid;
	(void)err_data;
	if (buf && len) {
		strncpy(buf, fake_status_text(status), len - 1);
		buf[len - 1] = '\0';
	}
	return fake_status_text(status);
}

/* ---- Waiting -------------------------------------------------------------------------------- */

static int cq_control(struct fid *fid, int command, void *arg)
{
	struct fake_cq *cq = CONTAINER(fid, struct fake_cq, fid.fid);

	if (command != FI_GETWAIT)
		return -FI_ENOSYS;
	if (cq->wait_fd < 0)
		return -FI_ENODATA;
	*(int *)arg = cq->wait_fd;
	return 0;
}

/* Never in vain: it is ready at the next tick. */
int fake_trywait(struct fid_fabric *fabric, struct fid **fids, int count)
{
	uint64_t ticks;

	(void)fabric;
	for (int i = 0; i < count; i++) {
		struct fake_cq *cq = CONTAINER(fids[i], struct fake_cq, fid.fid);

		if (fids[i]->fclass != FI_CLASS_CQ || cq->wait_fd < 0)
			return -FI_EINVAL;
		(void)!read(cq->wait_fd, &ticks, sizeof(ticks));
		if (cq->head != cq->tail)
			return -FI_EAGAIN;
	}
	return 0;
}

static int start_ticking(struct fake_cq *cq)
{
	const struct itimerspec each = { .it_interval.tv_nsec = TICK_NS,
					 .it_value.tv_nsec = TICK_NS };

	cq->wait_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (cq->wait_fd < 0 || timerfd_settime(cq->wait_fd, 0, &each, NULL))
		return -FI_ENOMEM;
	return 0;
}

/* ---- Opening and closing -------------------------------------------------------------------- */

static int cq_close(struct fid *fid)
{
	struct fake_cq *cq = CONTAINER(fid, struct fake_cq, fid.fid);

	if (cq->refs)
		return -FI_EBUSY;
	fake_enter(cq->domain);
	cq->domain->refs--;
	fake_leave(cq->domain);
	if (cq->wait_fd >= 0)
		close(cq->wait_fd);
	free(cq->items);
	free(cq);
	return 0;
}

static struct fi_ops cq_fid_ops = {
	.size = sizeof(cq_fid_ops),
	.close = cq_close,
	.bind = fake_no_bind,
	.control = cq_control,
	.ops_open = fake_no_ops_open,
};

static struct fi_ops_cq cq_ops = {
	.size = sizeof(cq_ops),
	.read = cq_read,
	.readfrom = cq_readfrom,
	.readerr = cq_readerr,
	.strerror = cq_strerror,
};

static size_t entry_size(enum fi_cq_format format)
{
	switch (format) {
	case FI_CQ_FORMAT_UNSPEC:
	case FI_CQ_FORMAT_CONTEXT:
		return sizeof(struct fi_cq_entry);
	case FI_CQ_FORMAT_MSG:
		return sizeof(struct fi_cq_msg_entry);
	case FI_CQ_FORMAT_DATA:
		return sizeof(struct fi_cq_data_entry);
	default:
		return sizeof(struct fi_cq_tagged_entry);
	}
}

int fake_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **out,
		 void *context)
{
	struct fake_domain *d = CONTAINER(domain, struct fake_domain, fid);
	struct fake_cq *cq;

	if (attr->wait_obj != FI_WAIT_NONE &&
	    (attr->wait_obj != FI_WAIT_FD || !fake_settings()->wait_fd))
		return -FI_ENOSYS;
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		return -FI_ENOMEM;
	cq->domain = d;
	cq->wait_fd = -1;
	cq->size = attr->size ? attr->size : DEFAULT_SIZE;
	cq->entry_size = entry_size(attr->format);
	cq->items = calloc(cq->size, sizeof(*cq->items));
	if (!cq->items || (attr->wait_obj == FI_WAIT_FD && start_ticking(cq))) {
		if (cq->wait_fd >= 0)
			close(cq->wait_fd);
		free(cq->items);
		free(cq);
		return -FI_ENOMEM;
	}
	cq->fid.fid = (struct fid){ .fclass = FI_CLASS_CQ, .context = context, .ops = &cq_fid_ops };
	cq->fid.ops = &cq_ops;
	fake_enter(d);
	d->refs++;
	fake_leave(d);
	*out = &cq->fid;
	return 0;
}
