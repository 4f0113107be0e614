/* SPDX-License-Identifier: MIT
 *
 * Transport for RDMA devices: InfiniBand and RoCE, over reliable connections (RC) of libibverbs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/verbs/verbs.h"
#include "util/cuda.h"
#include "util/error.h"
#include "util/fork_fds.h"

#define PAGE 4096
#define MESSAGE_BYTES ((2 * VERBS_MSGS) * (size_t)PG_MSG_MAX)

static const struct pg_caps verbs_caps = {
	.max_write = VERBS_MAX_WRITE,
	.max_msg = PG_MSG_MAX,
	.max_outstanding = VERBS_WRS - VERBS_KEPT,
	.imm_bits = 32,
	.split_min = 64 << 10,
	.ordered = true,
	.reports_source = true,
	.can_fence = true,
	.placement_once = true,
	.wait_fd = true,
	.exact_failure = true,
	.reaches_hosts = true,
};

static int verbs_query(struct pg_caps *caps, struct pg_error *err)
{
	const struct ibverbs *lib = ibverbs(err);
	struct verbs_options options;
	struct verbs_port port = { 0 };
	int rc = lib ? verbs_options_parse("", &options, err) : -ENODEV;

	if (!rc)
		rc = verbs_port_open(lib, "", 0, &options, &port, err);
	if (rc)
		return -ENODEV;
	*caps = verbs_caps;
	caps->gpu = cuda_is_loaded();
	caps->link_mbit_s = verbs_port_speed(&port.attr);
	lib->close_device(port.context);
	return 0;
}

/* ---- Opening ---- */

static int nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	fork_fds_add(fd);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

/* One descriptor that says that something has completed or that the device has something to say. */
static int open_fd(struct verbs_domain *d, struct pg_error *err)
{
	struct epoll_event event = { .events = EPOLLIN };
	int rc, fds[2] = { d->channel->fd, d->port.context->async_fd };

	d->domain.fd = epoll_create1(EPOLL_CLOEXEC);
	if (d->domain.fd < 0)
		return error_set(err, -errno, "epoll: %m");
	fork_fds_add(d->port.context->cmd_fd);
	for (unsigned i = 0; i < 2; i++) {
		rc = nonblocking(fds[i]);
		if (!rc && epoll_ctl(d->domain.fd, EPOLL_CTL_ADD, fds[i], &event))
			rc = -errno;
		if (rc)
			return error_set(err, rc, "cannot watch %s: %s", d->domain.name,
					 strerror(-rc));
	}
	return 0;
}

static void close_fd(struct verbs_domain *d)
{
	fork_fds_remove(d->port.context->cmd_fd);
	fork_fds_remove(d->port.context->async_fd);
	fork_fds_remove(d->channel->fd);
	if (d->domain.fd >= 0)
		close(d->domain.fd);
}

/* Queues that only one thread uses at a time need no locks, where the device knows of that. */
static void open_thread_domain(struct verbs_domain *d)
{
	struct ibv_td_init_attr td = { 0 };
	struct ibv_parent_domain_init_attr parent = { .pd = d->pd };

	d->queue_pd = d->pd;
	d->td = ibv_alloc_td(d->port.context, &td);
	if (!d->td)
		return;
	parent.td = d->td;
	d->queue_pd = ibv_alloc_parent_domain(d->port.context, &parent);
	if (d->queue_pd)
		return;
	ibv_dealloc_td(d->td);
	d->td = NULL;
	d->queue_pd = d->pd;
}

static void close_thread_domain(struct verbs_domain *d)
{
	if (!d->td)
		return;
	d->lib->dealloc_pd(d->queue_pd);
	ibv_dealloc_td(d->td);
}

static int refused(const struct verbs_domain *d, const char *what, struct pg_error *err)
{
	return error_set(err, errno ? -errno : -EIO, "%s makes no %s: %m", d->domain.name, what);
}

/* Room for all that can complete; sends get what receives leave. */
static int open_queues(struct verbs_domain *d, struct pg_error *err)
{
	const struct ibv_device_attr *limits = &d->port.limits;
	struct ibv_srq_init_attr imms = { .attr = { .max_wr = (uint32_t)d->options.imms,
						    .max_sge = 1 } };
	struct ibv_srq_init_attr messages = { .attr = { .max_wr = VERBS_MSGS, .max_sge = 1 } };
	uint32_t receives, entries;

	if (limits->max_srq_wr > 0 && imms.attr.max_wr > (uint32_t)limits->max_srq_wr)
		imms.attr.max_wr = (uint32_t)limits->max_srq_wr;
	d->options.imms = (int)imms.attr.max_wr;
	receives = imms.attr.max_wr + VERBS_MSGS;
	entries = receives + VERBS_SENDS;
	if (entries > (uint32_t)limits->max_cqe)
		entries = (uint32_t)limits->max_cqe;
	if (entries < receives + VERBS_WRS)
		return error_set(err, -ENOSPC,
				 "%s completes at most %d at a time, too few for %d receives: "
				 "less of imms= will do",
				 d->domain.name, limits->max_cqe, d->options.imms);
	d->entries = entries;
	d->sends = d->sends_left = entries - receives;
	d->wcs = malloc((entries + VERBS_WCS) * sizeof(*d->wcs));
	if (!d->wcs)
		return error_set(err, -ENOMEM, "no memory for %u completions", entries);
	d->cq = d->lib->create_cq(
		d->port.context, (int)entries, NULL, d->channel,
		(int)(d->domain.index % (unsigned)d->port.context->num_comp_vectors));
	if (!d->cq)
		return refused(d, "completion queue", err);
	d->srqs[QUEUE_WRITES] = d->lib->create_srq(d->pd, &imms);
	d->srqs[QUEUE_MESSAGES] = d->lib->create_srq(d->pd, &messages);
	if (!d->srqs[QUEUE_WRITES] || !d->srqs[QUEUE_MESSAGES])
		return refused(d, "shared receive queue", err);
	return 0;
}

static void close_queues(struct verbs_domain *d)
{
	for (unsigned i = 0; i < N_QUEUES; i++)
		if (d->srqs[i])
			d->lib->destroy_srq(d->srqs[i]);
	if (d->cq)
		d->lib->destroy_cq(d->cq);
	free(d->wcs);
}

static struct ibv_mr *reg_own(struct verbs_domain *d, size_t at, size_t len, int access)
{
	return d->lib->reg_mr(d->pd, d->memory + at, len, IBV_ACCESS_LOCAL_WRITE | access);
}

static int open_memory(struct verbs_domain *d, struct pg_error *err)
{
	int rc = 0;

	d->memory = mmap(NULL, MESSAGE_BYTES + PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (d->memory == MAP_FAILED) {
		d->memory = NULL;
		return error_set(err, -ENOMEM, "no memory for messages");
	}
	/* A child would copy what the device writes to. */
	madvise(d->memory, MESSAGE_BYTES + PAGE, MADV_DONTFORK);
	d->mr = reg_own(d, 0, MESSAGE_BYTES, 0);
	if (d->mr)
		d->zero_mr = reg_own(d, MESSAGE_BYTES, PAGE, IBV_ACCESS_REMOTE_WRITE);
	if (!d->zero_mr)
		return verbs_mr_refused(d, MESSAGE_BYTES, errno, err);
	for (uint32_t i = 0; i < VERBS_MSGS && !rc; i++) {
		d->spare[d->n_spare++] = VERBS_MSGS + i;
		rc = verbs_post_message_buffer(d, i);
	}
	for (unsigned left = (unsigned)d->options.imms; left && !rc;) {
		unsigned n = left < VERBS_REFILL ? left : VERBS_REFILL;

		rc = verbs_post_imms(d, n);
		left -= n;
	}
	return rc ? error_set(err, -rc, "%s takes no receives: %s", d->domain.name, strerror(rc))
		  : 0;
}

static void close_memory(struct verbs_domain *d)
{
	if (d->zero_mr)
		d->lib->dereg_mr(d->zero_mr);
	if (d->mr)
		d->lib->dereg_mr(d->mr);
	if (d->memory)
		munmap(d->memory, MESSAGE_BYTES + PAGE);
}

static void verbs_close(struct domain *domain)
{
	struct verbs_domain *d = verbs_domain(domain);

	if (d->channel)
		close_fd(d);
	close_queues(d);
	close_memory(d);
	if (d->pd) {
		close_thread_domain(d);
		d->lib->dealloc_pd(d->pd);
	}
	if (d->channel)
		d->lib->destroy_comp_channel(d->channel);
	d->lib->close_device(d->port.context);
	for (unsigned i = 0; i < sizeof(d->qpns) / sizeof(d->qpns[0]); i++)
		free(d->qpns[i]);
	free(d);
}

static int open_all(struct verbs_domain *d, struct pg_error *err)
{
	int rc;

	d->pd = d->lib->alloc_pd(d->port.context);
	if (!d->pd)
		return refused(d, "protection domain", err);
	open_thread_domain(d);
	d->channel = d->lib->create_comp_channel(d->port.context);
	if (!d->channel)
		return refused(d, "completion channel", err);
	rc = open_fd(d, err);
	if (!rc)
		rc = open_queues(d, err);
	return rc ? rc : open_memory(d, err);
}

static int verbs_open(const struct domain_options *options, struct domain **domain,
		      struct pg_error *err)
{
	const struct ibverbs *lib = ibverbs(err);
	struct verbs_domain *d = lib ? calloc(1, sizeof(*d)) : NULL;
	int rc;

	if (!lib)
		return -ENODEV;
	if (!d)
		return error_set(err, -ENOMEM, "no memory for an RDMA device");
	d->lib = lib;
	d->domain.transport = &transport_verbs;
	d->domain.caps = verbs_caps;
	d->domain.caps.gpu = cuda_is_loaded();
	d->domain.index = options->index;
	d->domain.fd = -1;
	list_init(&d->conns);
	list_init(&d->news);
	rc = verbs_options_parse(options->options, &d->options, err);
	if (!rc)
		rc = verbs_port_open(lib, options->device, options->index, &d->options, &d->port,
				     err);
	if (rc) {
		free(d);
		return rc;
	}
	if (d->port.limits.phys_port_cnt == 1)
		snprintf(d->domain.name, sizeof(d->domain.name), "%.31s", d->port.device);
	else
		snprintf(d->domain.name, sizeof(d->domain.name), "%.24s:%u", d->port.device,
			 d->port.number);
	d->domain.rail = d->port.rail;
	d->domain.caps.link_mbit_s = options->link_mbit_s ? options->link_mbit_s
							  : verbs_port_speed(&d->port.attr);
	rc = open_all(d, err);
	if (rc) {
		verbs_close(&d->domain);
		return rc;
	}
	*domain = &d->domain;
	return 0;
}

/* How it is reached comes with the offer of each connection. */
static int verbs_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	(void)domain;
	(void)buf;
	*len = 0;
	return 0;
}

const struct transport transport_verbs = {
	.name = "verbs",
	.query = verbs_query,
	.open = verbs_open,
	.close = verbs_close,
	.address = verbs_address,
	.mr_reg = verbs_mr_reg,
	.mr_dereg = verbs_mr_dereg,
	.conn_open = verbs_conn_open,
	.conn_attach = verbs_conn_attach,
	.conn_stop = verbs_conn_stop,
	.conn_fence = verbs_conn_fence,
	.conn_close = verbs_conn_close,
	.post = verbs_post,
	.flush = verbs_flush,
	.describe = verbs_describe,
	.poll = verbs_poll,
	.arm = verbs_arm,
};
