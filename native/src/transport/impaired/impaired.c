/* SPDX-License-Identifier: MIT
 *
 * Wraps a transport. Where nothing is to go wrong it passes everything through; else the queue
 * stands between. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/impaired/impaired.h"
#include "util/error.h"
#include "util/splitmix.h"

/* ---- Passing through ---- */

static int pass_address(struct domain *domain, uint8_t *buf, size_t *len)
{
	struct domain *inner = impaired_domain(domain)->inner;

	return inner->transport->address(inner, buf, len);
}

static int pass_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey,
		       uint64_t *key, struct pg_error *err)
{
	struct domain *inner = impaired_domain(domain)->inner;

	return inner->transport->mr_reg(inner, memory, lkey, key, err);
}

static void pass_mr_dereg(struct domain *domain, uint64_t lkey)
{
	struct domain *inner = impaired_domain(domain)->inner;

	inner->transport->mr_dereg(inner, lkey);
}

static int pass_mr_export(struct domain *domain, const struct memory *memory, struct offer *offer)
{
	struct domain *inner = impaired_domain(domain)->inner;

	return inner->transport->mr_export(inner, memory, offer);
}

static int pass_mr_import(struct domain *domain, const struct offer *offer, uint64_t len,
			  void **mapped, struct pg_error *err)
{
	struct domain *inner = impaired_domain(domain)->inner;

	return inner->transport->mr_import(inner, offer, len, mapped, err);
}

static void pass_mr_unimport(struct domain *domain, void *mapped, uint64_t len)
{
	struct domain *inner = impaired_domain(domain)->inner;

	inner->transport->mr_unimport(inner, mapped, len);
}

static int pass_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct conn *inner = impaired_conn(conn)->inner;

	return inner->domain->transport->post(inner, wrs, n, err);
}

static void pass_flush(struct conn *conn)
{
	struct conn *inner = impaired_conn(conn)->inner;

	inner->domain->transport->flush(inner);
}

static bool pass_visible(struct conn *conn, uint64_t *mark)
{
	struct conn *inner = impaired_conn(conn)->inner;

	return inner->domain->transport->visible(inner, mark);
}

static void pass_describe(const struct conn *conn, char *buf, size_t size)
{
	const struct conn *inner = LIST_ENTRY(conn, const struct impaired_conn, conn)->inner;

	inner->domain->transport->describe(inner, buf, size);
}

static void pass_conn_stop(struct conn *conn)
{
	struct conn *inner = impaired_conn(conn)->inner;

	inner->domain->transport->conn_stop(inner);
}

static void pass_conn_fence(struct conn *conn)
{
	struct conn *inner = impaired_conn(conn)->inner;

	inner->domain->transport->conn_fence(inner);
}

static unsigned pass_poll(struct domain *domain, struct arrival *arrivals, unsigned max,
			  unsigned max_msgs)
{
	struct domain *inner = impaired_domain(domain)->inner;
	unsigned n = inner->transport->poll(inner, arrivals, max, max_msgs);

	for (unsigned i = 0; i < n; i++)
		if (arrivals[i].conn)
			arrivals[i].conn = arrivals[i].conn->owner;
	return n;
}

static bool pass_arm(struct domain *domain, bool sleep)
{
	struct domain *inner = impaired_domain(domain)->inner;

	return inner->transport->arm(inner, sleep);
}

/* ---- The table ---- */

static void close_domain(struct domain *domain)
{
	struct impaired_domain *d = impaired_domain(domain);

	/* First ours, which watches the one below. */
	if (domain->fd != d->inner->fd)
		close(domain->fd);
	if (d->timer >= 0)
		close(d->timer);
	stash_drop(d, NULL);
	d->inner->transport->close(d->inner);
	free(d);
}

/* What the transport below has not is absent here as well. */
static void pass_all(struct transport *t)
{
	t->close = close_domain;
	t->address = pass_address;
	t->mr_reg = pass_mr_reg;
	t->mr_dereg = pass_mr_dereg;
	t->mr_export = t->mr_export ? pass_mr_export : NULL;
	t->mr_import = t->mr_import ? pass_mr_import : NULL;
	t->mr_unimport = t->mr_unimport ? pass_mr_unimport : NULL;
	t->conn_open = impaired_conn_open;
	t->conn_attach = impaired_conn_attach;
	t->conn_close = impaired_conn_close;
	t->conn_stop = t->conn_stop ? pass_conn_stop : NULL;
	t->conn_fence = t->conn_fence ? pass_conn_fence : NULL;
	t->post = pass_post;
	t->flush = pass_flush;
	t->visible = t->visible ? pass_visible : NULL;
	t->describe = t->describe ? pass_describe : NULL;
	t->poll = pass_poll;
	t->arm = pass_arm;
}

static void queue_all(struct transport *t)
{
	t->conn_stop = impaired_conn_stop;
	t->conn_fence = impaired_conn_fence;
	t->post = impaired_post;
	t->flush = impaired_flush;
	t->visible = impaired_visible;
	t->describe = impaired_describe;
	t->poll = impaired_poll;
	t->arm = impaired_arm;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static void change_caps(struct pg_caps *caps, const struct impair *impair)
{
	caps->sync_post = false;
	caps->can_fence = true;
	caps->ordered &= !impair->reorder;
	caps->max_inline = 0;
	caps->max_outstanding = least(caps->max_outstanding, IMPAIRED_WRS);
	if (impair->depth)
		caps->max_outstanding = least(caps->max_outstanding, impair->depth);
}

/* ---- Opening ---- */

/* The domain's descriptor: that of the transport below, and a timer beside it. */
static int watch_both(struct impaired_domain *d, struct pg_error *err)
{
	struct epoll_event event = { .events = EPOLLIN };
	int rc;

	if (d->inner->fd < 0)
		return 0; /* it is polled anyway */
	d->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (d->timer < 0)
		return error_set(err, -errno, "timerfd: %m");
	d->domain.fd = epoll_create1(EPOLL_CLOEXEC);
	if (d->domain.fd < 0) {
		rc = error_set(err, -errno, "epoll: %m");
		goto close_timer;
	}
	if (epoll_ctl(d->domain.fd, EPOLL_CTL_ADD, d->inner->fd, &event) ||
	    (d->inner->nic_fd > 0 &&
	     epoll_ctl(d->domain.fd, EPOLL_CTL_ADD, d->inner->nic_fd, &event)) ||
	    epoll_ctl(d->domain.fd, EPOLL_CTL_ADD, d->timer, &event)) {
		rc = error_set(err, -errno, "cannot watch %s: %m", d->domain.name);
		goto close_epoll;
	}
	return 0;

close_epoll:
	close(d->domain.fd);
close_timer:
	close(d->timer);
	return rc;
}

int impaired_open(const struct transport *transport, const char *spec, uint64_t seed,
		  const struct domain_options *options, struct domain **domain,
		  struct pg_error *err)
{
	struct impaired_domain *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return error_set(err, -ENOMEM, "no memory for an impaired NIC");
	rc = impair_parse(spec, &d->impair, err);
	if (rc)
		goto free_domain;
	rc = transport->open(options, &d->inner, err);
	if (rc)
		goto free_domain;
	d->inner->index = options->index;
	d->domain = *d->inner;
	d->domain.nic_fd = 0; /* ours says that */
	d->domain.transport = &d->table;
	d->table = *transport;
	d->timer = -1;
	d->random = splitmix64(&seed) + options->index;
	snprintf(d->text, sizeof(d->text), "%s", spec);
	list_init(&d->conns);
	list_init(&d->busy);
	list_init(&d->stash);
	list_init(&d->handed);
	pass_all(&d->table);
	if (d->impair.active) {
		queue_all(&d->table);
		change_caps(&d->domain.caps, &d->impair);
		rc = watch_both(d, err);
		if (rc)
			goto close_inner;
	}
	*domain = &d->domain;
	return 0;

close_inner:
	transport->close(d->inner);
free_domain:
	free(d);
	return rc;
}
