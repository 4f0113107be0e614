/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/random.h"

#define OFFER_LAYOUT 1
#define MAX_CONNS 65536 /* tags have 16 bits for their number */
/* A device that has given up may have packets in the network; they live much shorter. */
#define SETTLE_NS 100000000ull

enum { WRITER, MESSENGER, N_NAMES };

/* How our half of a connection is reached. */
struct ofi_offer {
	uint8_t layout;
	uint8_t provider; /* as ofi_provider_name has it */
	uint8_t name_len[N_NAMES];
	uint32_t protocol;
	uint32_t protocol_version;
	uint32_t tag;
	uint64_t nonce;
	uint64_t zero_addr;
	uint64_t zero_key;
	uint8_t name[N_NAMES][OFI_NAME];
};

_Static_assert(sizeof(struct ofi_offer) <= OFFER_BYTES, "it fits");

/* ---- Connections by tag ---- */

static int enter_tag(struct ofi_domain *d, struct ofi_conn *c)
{
	struct ofi_conn **more;
	unsigned at = 0;

	while (at < d->n_conns && d->conns[at])
		at++;
	if (at == MAX_CONNS)
		return -ENOSPC;
	if (at == d->n_conns) {
		more = realloc(d->conns, 2 * (at + 8) * sizeof(struct ofi_conn *));
		if (!more)
			return -ENOMEM;
		d->conns = more;
		for (d->n_conns = 2 * (at + 8); at < d->n_conns; at++)
			more[at] = NULL;
		at = d->n_conns / 2 - 8;
	}
	/* The upper half keeps who had the number before from being taken for it. */
	c->tag = (uint32_t)(c->nonce & 0xffff0000u) | at;
	d->conns[at] = c;
	return 0;
}

struct ofi_conn *ofi_conn_find(const struct ofi_domain *d, uint32_t tag)
{
	struct ofi_conn *c = (tag & 0xffff) < d->n_conns ? d->conns[tag & 0xffff] : NULL;

	return c && c->tag == tag ? c : NULL;
}

/* ---- Our half ---- */

static void leave(struct ofi_domain *d, struct ofi_conn *c)
{
	if (c->messenger)
		ofi_endpoint_leave(d, c->messenger);
	if (c->writer)
		ofi_endpoint_leave(d, c->writer);
}

/* Opens it if it is not, and enters. */
static int enter(struct ofi_domain *d, struct ofi_endpoint **shared, bool receives,
		 struct ofi_endpoint **e, struct pg_error *err)
{
	int rc = *shared ? 0 : ofi_endpoint_open(d, receives, shared, err);

	if (rc)
		return rc;
	*e = *shared;
	(*e)->refs++;
	(*e)->users++;
	return 0;
}

static int open_endpoints(struct ofi_domain *d, struct ofi_conn *c, struct pg_error *err)
{
	struct ofi_endpoint *own = NULL;
	int rc;

	pthread_mutex_lock(&d->lock);
	rc = enter(d, &d->messenger, true, &c->messenger, err);
	if (!rc)
		rc = enter(d, d->nic.own_endpoints ? &own : &d->writer, d->whose == OFI_BY_MESSAGE,
			   &c->writer, err);
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static void fill_offer(const struct ofi_conn *c, struct offer *offer)
{
	const struct ofi_domain *d = conn_domain(c);
	struct ofi_offer ours = {
		.layout = OFFER_LAYOUT,
		.provider = d->nic.provider,
		.protocol = d->nic.info->ep_attr->protocol,
		.protocol_version = d->nic.info->ep_attr->protocol_version,
		.tag = c->tag,
		.nonce = c->nonce,
		.zero_addr = d->offsets ? 0 : (uintptr_t)d->zero,
		.zero_key = fi_mr_key(d->zero_mr),
	};

	ours.name_len[WRITER] = (uint8_t)c->writer->name_len;
	memcpy(ours.name[WRITER], c->writer->name, c->writer->name_len);
	ours.name_len[MESSENGER] = (uint8_t)c->messenger->name_len;
	memcpy(ours.name[MESSENGER], c->messenger->name, c->messenger->name_len);
	*offer = (struct offer){ .len = sizeof(ours) };
	memcpy(offer->bytes, &ours, sizeof(ours));
}

int ofi_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		  struct pg_error *err)
{
	struct ofi_domain *d = ofi_domain(domain);
	struct ofi_conn *c;
	int rc;

	if (d->down)
		return error_set(err, -ENETDOWN, "%s is down", domain->name);
	c = calloc(1, sizeof(*c));
	if (!c)
		return error_set(err, -ENOMEM, "no memory for a connection");
	c->conn.domain = domain;
	c->conn.max_unmapped = domain->caps.max_write;
	list_init(&c->news_link);
	rc = random_bytes(&c->nonce, sizeof(c->nonce));
	if (rc)
		error_set(err, rc, "no random bytes for a connection");
	else
		rc = open_endpoints(d, c, err);
	if (!rc) {
		rc = enter_tag(d, c);
		if (rc)
			error_set(err, rc, "no place for more connections of %s", domain->name);
	}
	if (rc) {
		ofi_conn_close(&c->conn);
		return rc;
	}
	fill_offer(c, offer);
	*conn = &c->conn;
	return 0;
}

/* ---- The peer's ---- */

/* Like ours. One of another family spoils the whole address vector of tcp (up to 2.6): what is as long as
 * none is taken for the length of all. */
static bool is_name(const struct ofi_conn *c, const uint8_t *name, uint32_t len)
{
	const struct ofi_endpoint *ours = c->messenger;

	switch (conn_domain(c)->nic.info->addr_format) {
	case FI_SOCKADDR_IN:
	case FI_SOCKADDR_IN6:
		return len == ours->name_len && !memcmp(name, ours->name, sizeof(sa_family_t));
	case FI_ADDR_STR:
		return len && len <= OFI_NAME;
	default:
		return len == ours->name_len;
	}
}

static int check_offer(const struct ofi_conn *c, const struct offer *offer,
		       struct ofi_offer *theirs, struct pg_error *err)
{
	const struct ofi_domain *d = conn_domain(c);
	const struct fi_ep_attr *ours = d->nic.info->ep_attr;

	if (offer->len != sizeof(*theirs) || offer->n_fds)
		return error_set(err, -EPROTO,
				 "an ofi offer has %u bytes and %u fds, not %zu and 0", offer->len,
				 offer->n_fds, sizeof(*theirs));
	memcpy(theirs, offer->bytes, sizeof(*theirs));
	if (theirs->layout != OFFER_LAYOUT)
		return error_set(err, -EPROTO, "the peer's ofi layout is %u, ours is %u",
				 theirs->layout, OFFER_LAYOUT);
	if (theirs->protocol != ours->protocol ||
	    theirs->protocol_version != ours->protocol_version)
		return error_set(err, -EHOSTUNREACH,
				 "%s is of provider %s, the peer's NIC is of provider %s "
				 "(protocols %u.%u and %u.%u)",
				 d->domain.name, ofi_provider(d),
				 ofi_provider_name(theirs->provider), ours->protocol,
				 ours->protocol_version, theirs->protocol,
				 theirs->protocol_version);
	for (unsigned i = 0; i < N_NAMES; i++)
		if (!is_name(c, theirs->name[i], theirs->name_len[i]))
			return error_set(err, -EPROTO,
					 "an address of %u bytes in an ofi offer, unlike ours of "
					 "provider %s",
					 theirs->name_len[i], ofi_provider(d));
	return 0;
}

/* By the address they come from. Who claims that of another takes nothing from it. */
static int enter_source(struct ofi_domain *d, struct ofi_conn *c)
{
	fi_addr_t at = c->peer_writer->at, n = at + 1;
	struct ofi_conn **more;

	if (d->whose != OFI_BY_ADDRESS)
		return 0;
	if (n > MAX_CONNS * 16)
		return -ENOSPC;
	if (n > d->n_sources) {
		n *= 2;
		more = realloc(d->sources, n * sizeof(struct ofi_conn *));
		if (!more)
			return -ENOMEM;
		memset(more + d->n_sources, 0, (n - d->n_sources) * sizeof(struct ofi_conn *));
		d->sources = more;
		d->n_sources = n;
	}
	if (d->sources[at])
		return -ENOSPC;
	d->sources[at] = c;
	return 0;
}

static void write_note(struct ofi_conn *c, const struct ofi_offer *theirs)
{
	const struct ofi_domain *d = conn_domain(c);
	char at[INET6_ADDRSTRLEN + 4] = "";
	const void *name = theirs->name[MESSENGER];
	uint16_t family;

	memcpy(&family, name, sizeof(family));
	if (d->nic.info->addr_format == FI_SOCKADDR_IN && family == AF_INET) {
		memcpy(at, " to ", 4);
		inet_ntop(AF_INET, &((const struct sockaddr_in *)name)->sin_addr, at + 4,
			  sizeof(at) - 4);
	} else if (d->nic.info->addr_format == FI_SOCKADDR_IN6 && family == AF_INET6) {
		memcpy(at, " to ", 4);
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)name)->sin6_addr, at + 4,
			  sizeof(at) - 4);
	}
	snprintf(c->conn.note, sizeof(c->conn.note), "libfabric %u.%u %s (%s) from %s%s",
		 FI_MAJOR(d->lib->version()), FI_MINOR(d->lib->version()), ofi_provider(d),
		 d->nic.why, d->domain.name, at);
}

int ofi_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err)
{
	struct ofi_conn *c = ofi_conn(conn);
	struct ofi_domain *d = conn_domain(c);
	struct ofi_offer theirs;
	int rc;

	if (c->status)
		return error_set(err, -ENETDOWN, "%s is down", d->domain.name);
	if (d->nic.lingers && offer->pid == getpid() && FI_MAJOR(d->lib->version()) > 1)
		return error_set(err, -EHOSTUNREACH,
				 "shm of libfabric %u.%u crashes when endpoints of one process "
				 "write to each other; transport shm does not",
				 FI_MAJOR(d->lib->version()), FI_MINOR(d->lib->version()));
	rc = check_offer(c, offer, &theirs, err);
	pthread_mutex_lock(&d->lock);
	if (!rc)
		rc = ofi_address_take(d, theirs.name[MESSENGER], theirs.name_len[MESSENGER],
				      &c->peer_messenger, err);
	if (!rc)
		rc = ofi_address_take(d, theirs.name[WRITER], theirs.name_len[WRITER],
				      &c->peer_writer, err);
	pthread_mutex_unlock(&d->lock);
	if (rc)
		return rc;
	rc = enter_source(d, c);
	if (rc)
		return error_set(
			err, rc,
			"%s: no place for the peer's address, or another connection has it",
			d->domain.name);
	c->peer_tag = theirs.tag;
	c->peer_nonce = theirs.nonce;
	c->zero_addr = theirs.zero_addr;
	c->zero_key = theirs.zero_key;
	c->attached = true;
	write_note(c, &theirs);
	return 0;
}

/* ---- Broken, stopped, fenced ---- */

void ofi_news(struct ofi_conn *c)
{
	if (list_empty(&c->news_link))
		list_append(&conn_domain(c)->news, &c->news_link);
}

void ofi_conn_break(struct ofi_conn *c, int status)
{
	if (c->status)
		return;
	c->status = status;
	ofi_news(c);
}

void ofi_conn_stop(struct conn *conn)
{
	struct ofi_conn *c = ofi_conn(conn);
	struct ofi_domain *d = conn_domain(c);

	c->stopping = true;
	ofi_conn_break(c, -ECONNABORTED);
	pthread_mutex_lock(&d->lock);
	leave(d, c);
	pthread_mutex_unlock(&d->lock);
	ofi_news(c);
}

void ofi_conn_fence(struct conn *conn)
{
	struct ofi_conn *c = ofi_conn(conn);

	c->fencing = true;
	c->fence_ns = clock_ns() + SETTLE_NS;
	ofi_news(c);
}

/* ---- The end ---- */

static void forget_sends(struct ofi_domain *d, const struct ofi_conn *c, struct list *sends)
{
	for (struct list *l = sends->next, *next; l != sends; l = next) {
		struct ofi_send *send = LIST_ENTRY(l, struct ofi_send, link);

		next = l->next;
		if (send->conn != c)
			continue;
		send->conn = NULL;
		if (sends == &d->ended)
			ofi_send_free(d, send);
	}
}

static void forget_messages(struct ofi_domain *d, const struct ofi_conn *c)
{
	for (struct list *l = d->inbox.next; l != &d->inbox; l = l->next) {
		struct ofi_receive *r = LIST_ENTRY(l, struct ofi_receive, link);

		if (r->conn == c)
			r->conn = NULL;
	}
}

static void forget_addresses(struct ofi_domain *d, struct ofi_conn *c)
{
	const struct ofi_address *from = c->peer_writer;

	if (from && from->at < d->n_sources && d->sources[from->at] == c)
		d->sources[from->at] = NULL;
	ofi_address_leave(d, c->peer_writer);
	ofi_address_leave(d, c->peer_messenger);
}

void ofi_conn_close(struct conn *conn)
{
	struct ofi_conn *c = ofi_conn(conn);
	struct ofi_domain *d = conn_domain(c);
	struct ofi_endpoint *endpoints[] = { c->messenger, c->writer };

	pthread_mutex_lock(&d->lock);
	if (!c->stopping)
		leave(d, c);
	forget_addresses(d, c);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < 2; i++)
		if (endpoints[i]) {
			forget_sends(d, c, &endpoints[i]->sends);
			endpoints[i]->refs--;
		}
	forget_sends(d, c, &d->owing);
	forget_sends(d, c, &d->ended);
	forget_messages(d, c);
	if (ofi_conn_find(d, c->tag) == c)
		d->conns[c->tag & 0xffff] = NULL;
	list_remove(&c->news_link);
	free(c);
}
