/* SPDX-License-Identifier: MIT
 *
 * Endpoints: opened, shared by connections, closed, and at last quiet. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "transport/ofi/ofi.h"
#include "util/error.h"
#include "util/log.h"
#include "util/signals.h"

/* As in newer headers of libfabric. */
#define OPT_EFA_EMULATED_WRITE (-(0xefa << 16) + 2)
#define OPT_EFA_UNSOLICITED_WRITE_RECV (-(0xefa << 16) + 8)

#define PACKETS_BYTES (OFI_BUFFERS * sizeof(struct ofi_packet))

int ofi_refused(const struct ofi_domain *d, const char *what, int rc, struct pg_error *err)
{
	int code = rc > -FI_ERRNO_OFFSET ? rc : -EIO;

	return error_set(err, code, "%s (%s of libfabric): %s: %s", d->domain.name, ofi_provider(d),
			 what, d->lib->strerror(-rc));
}

/* ---- Receives ---- */

static bool post_receive(const struct ofi_receive *r)
{
	const struct ofi_endpoint *e = r->endpoint;

	return !fi_recv(e->fid, r->packet, sizeof(*r->packet), e->mr ? fi_mr_desc(e->mr) : NULL,
			FI_ADDR_UNSPEC, (void *)&r->token.fi);
}

bool ofi_receive_again(struct ofi_receive *r)
{
	r->conn = NULL;
	return !r->endpoint->fid || post_receive(r);
}

static int open_receives(struct ofi_domain *d, struct ofi_endpoint *e, struct pg_error *err)
{
	e->receives = calloc(OFI_BUFFERS, sizeof(*e->receives));
	e->packets = mmap(NULL, PACKETS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	if (e->packets == MAP_FAILED)
		e->packets = NULL;
	if (!e->receives || !e->packets)
		return error_set(err, -ENOMEM, "no memory for messages");
	/* A child would copy what the device writes to. */
	madvise(e->packets, PACKETS_BYTES, MADV_DONTFORK);
	for (unsigned i = 0; i < OFI_BUFFERS; i++) {
		e->receives[i] = (struct ofi_receive){ .token.is_receive = true,
						       .endpoint = e,
						       .packet = &e->packets[i] };
		list_init(&e->receives[i].link);
	}
	return d->local_mr ? ofi_reg_own(d, e->packets, PACKETS_BYTES, FI_RECV, &e->mr, err) : 0;
}

static int start_receives(struct ofi_domain *d, struct ofi_endpoint *e, struct pg_error *err)
{
	for (unsigned i = 0; i < OFI_BUFFERS; i++)
		if (!post_receive(&e->receives[i]))
			return ofi_refused(d, "it takes no receives", -FI_EAGAIN, err);
	return 0;
}

/* ---- Opening and closing ---- */

/* Where that fails it stays open: the provider still has its memory, and may end what was posted. */
static void close_fid(const struct ofi_domain *d, struct ofi_endpoint *e)
{
	struct ofi_strangers strangers;
	int rc;

	if (!e->fid)
		return;
	ofi_strangers_leave(d, e, &strangers);
	rc = fi_close(&e->fid->fid);
	ofi_strangers_close(&strangers);
	if (rc)
		log_warn("%s: an endpoint of libfabric is not closed: %s", d->domain.name,
			 d->lib->strerror(-rc));
	else
		e->fid = NULL;
}

static void free_endpoint(const struct ofi_domain *d, struct ofi_endpoint *e)
{
	close_fid(d, e);
	list_remove(&e->link);
	if (e->fid)
		return;
	if (e->mr)
		fi_close(&e->mr->fid);
	if (e->packets)
		munmap(e->packets, PACKETS_BYTES);
	free(e->receives);
	free(e);
}

/* efa writes by itself only on some devices. Where it does not, the receiver's CPU does. */
static int check_efa(struct ofi_domain *d, struct ofi_endpoint *e, struct pg_error *err)
{
	bool emulated = true, off = false;
	size_t size = sizeof(emulated);

	if (!d->nic.efa)
		return 0;
	if (fi_getopt(&e->fid->fid, FI_OPT_ENDPOINT, OPT_EFA_EMULATED_WRITE, &emulated, &size))
		emulated = true;
	if (emulated && !d->options.emulated)
		return error_set(err, -EOPNOTSUPP,
				 "%s has no RDMA write, or libfabric %u.%u is too old to use it; "
				 "emulated=1 takes it all the same",
				 d->domain.name, FI_MAJOR(d->lib->version()),
				 FI_MINOR(d->lib->version()));
	/* Immediates for which no receive is posted overrun a queue that is not read for a while.
	 * Libraries that know nothing of that do not do it. */
	fi_setopt(&e->fid->fid, FI_OPT_ENDPOINT, OPT_EFA_UNSOLICITED_WRITE_RECV, &off, sizeof(off));
	return 0;
}

/* ofi_rxm opens queues for all peers that there might be. */
static const char *not_started(const struct ofi_domain *d, int rc)
{
	return d->nic.rxm && rc == -FI_EINVAL
		       ? "an endpoint does not start; if its queue is too long for the device "
			 "(Soft-RoCE), FI_UNIVERSE_SIZE=16 in the environment makes it shorter"
		       : "an endpoint does not start";
}

static int open_fid(struct ofi_domain *d, struct ofi_endpoint *e, struct pg_error *err)
{
	size_t len = sizeof(e->name);
	int rc = fi_endpoint(d->fid, d->nic.info, &e->fid, NULL);

	if (rc) {
		e->fid = NULL;
		return ofi_refused(d, "no endpoint", rc, err);
	}
	rc = check_efa(d, e, err);
	if (rc)
		return rc;
	rc = fi_ep_bind(e->fid, &d->av->fid, 0);
	if (!rc)
		rc = fi_ep_bind(e->fid, &d->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!rc)
		rc = fi_enable(e->fid);
	if (rc)
		return ofi_refused(d, not_started(d, rc), rc, err);
	rc = fi_getname(&e->fid->fid, e->name, &len);
	if (rc || len > sizeof(e->name))
		return ofi_refused(d, "an endpoint has no address", rc ? rc : -FI_ETOOSMALL, err);
	e->name_len = (uint32_t)len;
	return 0;
}

int ofi_endpoint_open(struct ofi_domain *d, bool receives, struct ofi_endpoint **endpoint,
		      struct pg_error *err)
{
	struct ofi_endpoint *e = calloc(1, sizeof(*e));
	struct signals signals;
	int rc;

	if (!e)
		return error_set(err, -ENOMEM, "no memory for an endpoint");
	list_init(&e->link);
	list_init(&e->sends);
	signals_save(&signals); /* shm takes some over here */
	rc = open_fid(d, e, err);
	signals_restore(&signals);
	if (!rc && receives)
		rc = open_receives(d, e, err);
	if (!rc && receives)
		rc = start_receives(d, e, err);
	if (rc) {
		free_endpoint(d, e);
		return rc;
	}
	*endpoint = e;
	return 0;
}

/* ---- The end ---- */

void ofi_endpoint_leave(struct ofi_domain *d, struct ofi_endpoint *e)
{
	if (--e->users || d->nic.keeps)
		return;
	close_fid(d, e);
	e->closed = d->read;
	list_append(&d->closed, &e->link);
	if (d->messenger == e)
		d->messenger = NULL;
	if (d->writer == e)
		d->writer = NULL;
}

bool ofi_endpoint_is_quiet(const struct ofi_domain *d, const struct ofi_endpoint *e)
{
	return !e->fid && ofi_is_read(d, &e->closed);
}

/* Whether somebody still reads what it has received. */
static bool is_read(const struct ofi_domain *d, const struct ofi_endpoint *e)
{
	const struct list *lists[] = { &d->inbox, &d->handed };

	for (unsigned i = 0; i < 2; i++)
		for (const struct list *l = lists[i]->next; l != lists[i]; l = l->next)
			if (LIST_ENTRY(l, struct ofi_receive, link)->endpoint == e)
				return true;
	return false;
}

bool ofi_endpoints_wait(const struct ofi_domain *d)
{
	for (const struct list *l = d->closed.next; l != &d->closed; l = l->next) {
		const struct ofi_endpoint *e = LIST_ENTRY(l, struct ofi_endpoint, link);

		if (!e->fid && (!ofi_endpoint_is_quiet(d, e) || !list_empty(&e->sends) ||
				(!e->refs && !is_read(d, e))))
			return true;
	}
	return false;
}

void ofi_endpoints_tidy(struct ofi_domain *d)
{
	for (struct list *l = d->closed.next, *next; l != &d->closed; l = next) {
		struct ofi_endpoint *e = LIST_ENTRY(l, struct ofi_endpoint, link);

		next = l->next;
		if (!ofi_endpoint_is_quiet(d, e))
			continue;
		while (!list_empty(&e->sends))
			ofi_send_ended(d, LIST_ENTRY(e->sends.next, struct ofi_send, link),
				       -ECONNABORTED);
		if (!e->refs && !is_read(d, e))
			free_endpoint(d, e);
	}
}

void ofi_endpoints_free(struct ofi_domain *d)
{
	if (d->messenger)
		free_endpoint(d, d->messenger);
	if (d->writer)
		free_endpoint(d, d->writer);
	while (!list_empty(&d->closed))
		free_endpoint(d, LIST_ENTRY(d->closed.next, struct ofi_endpoint, link));
}
