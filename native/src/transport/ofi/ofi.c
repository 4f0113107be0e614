/* SPDX-License-Identifier: MIT
 *
 * Transport over libfabric: EFA, TCP, and what else has connectionless endpoints that write with an
 * immediate. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/log.h"
#include "util/signals.h"

#define CQ_ENTRIES 8192
#define PAGE 4096
#define DRAIN_NS 1000000000ull
#define PACKETS_BYTES (OFI_BUFFERS * sizeof(struct ofi_packet))

static const struct pg_caps ofi_caps = {
	.max_write = OFI_MAX_WRITE,
	.max_msg = PG_MSG_MAX,
	.max_outstanding = OFI_WRITES,
	.imm_bits = 32,
	.split_min = 64 << 10,
	.reports_source = true,
	.can_fence = true,
	.placement_once = true,
	.wait_fd = true,
	.exact_failure = true,
	.reaches_hosts = true,
};

static void fill_caps(struct pg_caps *caps, const struct ofi_nic *nic)
{
	*caps = ofi_caps;
	caps->can_fence = nic->fences;
	caps->placement_once = !nic->efa;
	caps->wait_fd = !nic->efa; /* what is there is seen when it is opened */
	caps->reaches_hosts = !nic->local;
	caps->link_mbit_s = nic->link_mbit_s;
	caps->gpu = nic->info->caps & FI_HMEM;
	if (nic->info->ep_attr->max_msg_size < caps->max_write)
		caps->max_write = nic->info->ep_attr->max_msg_size;
}

static int ofi_query(struct pg_caps *caps, struct pg_error *err)
{
	struct ofi_options options;
	const struct libfabric *lib;
	struct ofi_nic nic;
	int rc = ofi_options_parse("", &options, err);

	if (rc)
		return -ENODEV;
	lib = libfabric(options.library, err);
	if (!lib || ofi_choose(lib, &options, "", 0, &nic, err))
		return -ENODEV;
	fill_caps(caps, &nic);
	lib->freeinfo(nic.info);
	return 0;
}

/* ---- Opening ---- */

static int open_cq(struct ofi_domain *d, struct pg_error *err)
{
	struct fi_cq_attr attr = {
		.size = CQ_ENTRIES,
		.format = FI_CQ_FORMAT_DATA,
		.wait_obj = FI_WAIT_FD,
	};
	int rc = fi_cq_open(d->fid, &attr, &d->cq, NULL);

	if (!rc && !fi_control(&d->cq->fid, FI_GETWAIT, &d->cq_fd))
		return 0;
	if (!rc)
		fi_close(&d->cq->fid);
	d->cq = NULL;
	d->cq_fd = -1;
	attr.wait_obj = FI_WAIT_NONE;
	rc = fi_cq_open(d->fid, &attr, &d->cq, NULL);
	if (rc) {
		d->cq = NULL;
		return ofi_refused(d, "no completion queue", rc, err);
	}
	d->nap_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	d->domain.caps.wait_fd = false;
	return d->nap_fd < 0 ? error_set(err, -errno, "timerfd: %m") : 0;
}

static int open_fabric(struct ofi_domain *d, struct pg_error *err)
{
	struct fi_av_attr av = { .type = FI_AV_TABLE };
	int rc = d->lib->fabric(d->nic.info->fabric_attr, &d->fabric, NULL);

	if (rc) {
		d->fabric = NULL;
		return ofi_refused(d, "no fabric", rc, err);
	}
	rc = fi_domain(d->fabric, d->nic.info, &d->fid, NULL);
	if (rc) {
		d->fid = NULL;
		return ofi_refused(d, "no domain", rc, err);
	}
	rc = fi_av_open(d->fid, &av, &d->av, NULL);
	if (rc) {
		d->av = NULL;
		return ofi_refused(d, "no address vector", rc, err);
	}
	return open_cq(d, err);
}

/* The queue's own, or the timer: each epoll that it goes through is one of the few that may be nested, and
 * libfabric has some below, the engine and its caller some above. */
static int open_fd(struct ofi_domain *d, struct pg_error *err)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	d->domain.fd = d->cq_fd >= 0 ? d->cq_fd : d->nap_fd;
	if (ofi_link_fd(d) >= 0)
		d->domain.nic_fd = ofi_link_fd(d);
	d->rung = epoll_create1(EPOLL_CLOEXEC);
	if (d->rung < 0)
		return error_set(err, -errno, "epoll: %m");
	if (d->cq_fd >= 0 && epoll_ctl(d->rung, EPOLL_CTL_ADD, d->cq_fd, &event))
		return error_set(err, -errno, "cannot watch %s: %m", d->domain.name);
	return 0;
}

static void *map(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	/* A child would copy what the device reads and writes. */
	madvise(at, len, MADV_DONTFORK);
	return at;
}

static int open_memory(struct ofi_domain *d, struct pg_error *err)
{
	int rc = 0;

	d->sends = map(OFI_SENDS * sizeof(*d->sends));
	d->packets = map(PACKETS_BYTES);
	d->zero = map(PAGE);
	if (!d->sends || !d->packets || !d->zero)
		return error_set(err, -ENOMEM, "no memory for what is sent");
	for (unsigned i = 0; i < OFI_SENDS; i++)
		list_append(&d->free_sends, &d->sends[i].link);
	d->n_free = OFI_SENDS;
	for (uint32_t i = 0; i < OFI_BUFFERS; i++)
		d->spare[d->n_spare++] = i;
	if (d->local_mr)
		rc = ofi_reg_own(d, d->packets, PACKETS_BYTES, FI_SEND, &d->packets_mr, err);
	if (!rc && d->local_mr && d->whose == OFI_BY_MESSAGE)
		rc = ofi_reg_own(d, d->sends, OFI_SENDS * sizeof(*d->sends), FI_SEND, &d->sends_mr,
				 err);
	return rc ? rc : ofi_reg_own(d, d->zero, PAGE, FI_REMOTE_WRITE, &d->zero_mr, err);
}

static void close_fid(struct fid *fid)
{
	int rc = fid ? fi_close(fid) : 0;

	if (rc)
		log_warn("an object of libfabric is not closed: %d", rc);
}

#define CLOSE(object) close_fid((object) ? &(object)->fid : NULL)

static void destroy(struct ofi_domain *d)
{
	CLOSE(d->zero_mr); /* first, as it may be bound to an endpoint */
	ofi_endpoints_free(d);
	CLOSE(d->packets_mr);
	CLOSE(d->sends_mr);
	CLOSE(d->cq);
	CLOSE(d->av);
	CLOSE(d->fid);
	CLOSE(d->fabric);
	if (d->zero)
		munmap(d->zero, PAGE);
	if (d->packets)
		munmap(d->packets, PACKETS_BYTES);
	if (d->sends)
		munmap(d->sends, OFI_SENDS * sizeof(*d->sends));
	if (d->nic.info)
		d->lib->freeinfo(d->nic.info);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* Those that peers in this process may still use. */
static pthread_mutex_t lingering_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list lingering = { &lingering, &lingering };
static unsigned n_open;

static void close_later(struct ofi_domain *d)
{
	pthread_mutex_lock(&lingering_lock);
	list_append(&lingering, &d->lingering_link);
	if (--n_open == 0)
		while (!list_empty(&lingering)) {
			struct list *l = lingering.next;

			list_remove(l);
			destroy(LIST_ENTRY(l, struct ofi_domain, lingering_link));
		}
	pthread_mutex_unlock(&lingering_lock);
}

/* Whether nothing is in flight any more. Nobody waits for its end. */
static bool drain(struct ofi_domain *d)
{
	uint64_t end = clock_ns() + DRAIN_NS;
	struct arrival arrivals[64];

	while (d->sends && d->n_free < OFI_SENDS && !d->lost && clock_ns() < end)
		ofi_poll(&d->domain, arrivals, 64, 64);
	return !d->sends || d->n_free == OFI_SENDS;
}

static void ofi_close(struct domain *domain)
{
	struct ofi_domain *d = ofi_domain(domain);

	/* It would crash, see ofi_choose.c. */
	if (d->nic.rxm && !drain(d)) {
		log_warn("%s is not closed: something is in flight to a peer that is gone",
			 d->domain.name);
		return;
	}
	if (d->rung >= 0)
		close(d->rung);
	if (d->nap_fd >= 0)
		close(d->nap_fd);
	ofi_link_close(d);
	ofi_addresses_free(d);
	free(d->conns);
	free(d->sources);
	if (d->nic.lingers)
		close_later(d);
	else
		destroy(d);
}

/* Both were seen to cost people days. */
static const char *if_silent(const struct ofi_domain *d)
{
	if (d->nic.efa)
		return "; EFA passes only between members of a security group that allows all "
		       "traffic to and from itself, in both directions: does it?";
	return d->nic.own_endpoints ? "; does a firewall drop what goes to the ports of libfabric, "
				      "which the kernel chooses (ip_local_port_range)?"
				    : NULL;
}

/* What it demands, and how it addresses memory. */
static void read_modes(struct ofi_domain *d)
{
	uint64_t modes = (uint64_t)d->nic.info->domain_attr->mr_mode;

	d->whose = d->nic.info->domain_attr->cq_data_size >= sizeof(uint64_t) ? OFI_BY_DATA
		   : d->nic.names_sources                                     ? OFI_BY_ADDRESS
									      : OFI_BY_MESSAGE;
	d->offsets = !(modes & FI_MR_VIRT_ADDR);
	d->local_mr = modes & FI_MR_LOCAL;
	if (d->whose != OFI_BY_ADDRESS)
		d->nic.info->caps &= ~FI_SOURCE;
}

static int open_all(struct ofi_domain *d, const struct domain_options *options,
		    struct pg_error *err)
{
	int rc = ofi_options_parse(options->options, &d->options, err);
	struct signals signals;

	if (rc)
		return rc;
	d->lib = libfabric(d->options.library, err);
	if (!d->lib)
		return -ENODEV;
	rc = ofi_choose(d->lib, &d->options, options->device, options->index, &d->nic, err);
	if (rc)
		return rc;
	if (d->nic.lingers) {
		pthread_mutex_lock(&lingering_lock);
		n_open++;
		pthread_mutex_unlock(&lingering_lock);
	}
	snprintf(d->domain.name, sizeof(d->domain.name), "%s", d->nic.name);
	read_modes(d);
	rc = ofi_link_open(d, err);
	if (rc)
		return rc;
	fill_caps(&d->domain.caps, &d->nic);
	d->domain.rail = d->nic.rail;
	d->domain.if_silent = if_silent(d);
	if (options->link_mbit_s)
		d->domain.caps.link_mbit_s = options->link_mbit_s;
	signals_save(&signals);
	rc = open_fabric(d, err);
	signals_restore(&signals);
	if (!rc)
		rc = open_fd(d, err);
	if (!rc)
		rc = ofi_endpoint_open(d, true, &d->messenger, err);
	if (!rc && !d->nic.own_endpoints)
		rc = ofi_endpoint_open(d, d->whose == OFI_BY_MESSAGE, &d->writer, err);
	if (!rc)
		rc = open_memory(d, err);
	if (!rc)
		log_info("%s: provider %s of libfabric %u.%u (%s): %s", d->domain.name,
			 ofi_provider(d), FI_MAJOR(d->lib->version()), FI_MINOR(d->lib->version()),
			 d->lib->path, d->nic.why);
	return rc;
}

static int ofi_open(const struct domain_options *options, struct domain **domain,
		    struct pg_error *err)
{
	struct ofi_domain *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return error_set(err, -ENOMEM, "no memory for a NIC of libfabric");
	d->domain.transport = &transport_ofi;
	d->domain.index = options->index;
	d->domain.fd = d->cq_fd = d->nap_fd = d->rung = -1;
	pthread_mutex_init(&d->lock, NULL);
	list_init(&d->closed);
	list_init(&d->addresses);
	list_init(&d->lingering_link);
	list_init(&d->news);
	list_init(&d->free_sends);
	list_init(&d->owing);
	list_init(&d->ended);
	list_init(&d->inbox);
	list_init(&d->handed);
	rc = open_all(d, options, err);
	if (rc) {
		ofi_close(&d->domain);
		return rc;
	}
	*domain = &d->domain;
	return 0;
}

/* How it is reached comes with the offer of each connection. */
static int ofi_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	(void)domain;
	(void)buf;
	*len = 0;
	return 0;
}

const struct transport transport_ofi = {
	.name = "ofi",
	.query = ofi_query,
	.open = ofi_open,
	.close = ofi_close,
	.address = ofi_address,
	.mr_reg = ofi_mr_reg,
	.mr_dereg = ofi_mr_dereg,
	.conn_open = ofi_conn_open,
	.conn_attach = ofi_conn_attach,
	.conn_stop = ofi_conn_stop,
	.conn_fence = ofi_conn_fence,
	.conn_close = ofi_conn_close,
	.post = ofi_post,
	.flush = ofi_flush,
	.describe = ofi_describe,
	.poll = ofi_poll,
	.arm = ofi_arm,
};
