/* SPDX-License-Identifier: MIT */
#include "engine/peer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/handshake.h"
#include "engine/memory.h"
#include "engine/op.h"
#include "engine/progress.h"

#define TURN_OPS 8

/* ---- Who ---- */

struct peer_name peer_name(const struct peer *p)
{
	const uint8_t *i = p->addr.incarnation;
	struct peer_name name;
	int n = snprintf(name.text, sizeof(name.text), "peer %02x%02x%02x%02x.%u", i[0], i[1], i[2],
			 i[3], p->addr.group);

	if (p->pid)
		snprintf(name.text + n, sizeof(name.text) - (size_t)n, " (pid %d)", p->pid);
	return name;
}

struct peer *peer_find(struct pg_group *g, const uint8_t incarnation[16], uint32_t group)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		if ((atomic_load_explicit(&p->h.generation, memory_order_relaxed) & 1) &&
		    p->addr.group == group && memcmp(p->addr.incarnation, incarnation, 16) == 0)
			return p;
	}
	return NULL;
}

static void close_conns(struct peer *p)
{
	for (unsigned i = 0; i < p->n_conns; i++)
		if (p->conns[i])
			p->conns[i]->domain->transport->conn_close(p->conns[i]);
	p->n_conns = 0;
}

/* A peer that has ended keeps its place, so that what it sent is still counted and what it owed is
 * still told, until the place is needed. */
static struct peer *reuse_place(struct pg_group *g)
{
	/* A callback may come from between the arrivals of one of its connections. */
	if (group_in_callback(g))
		return NULL;
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		if (peer_alive(p) || !list_empty(&p->waiting) ||
		    atomic_load_explicit(&p->h.refs, memory_order_relaxed))
			continue;
		close_conns(p);
		imm_lock(g->imms); /* for a worker's sake, see counters_enter */
		imm_drop_source(g->imms, p->h.index);
		imm_unlock(g->imms);
		handles_retire(&p->h);
		handles_release(&g->peers, &p->h);
		return handles_take(&g->peers);
	}
	return NULL;
}

static int check_transports(struct pg_group *g, const struct net_addr *addr, struct pg_error *err)
{
	for (unsigned i = 0; i < addr->n_domains; i++) {
		const char *ours = g->domains[i % g->n_domains]->transport->name;

		if (strncmp(addr->domains[i].transport, ours, sizeof(addr->domains[i].transport)))
			return error_set(err, -EHOSTUNREACH, "peer speaks %.16s, this group %s",
					 addr->domains[i].transport, ours);
	}
	return 0;
}

int peer_of_addr(struct pg_group *g, const struct net_addr *addr, struct peer **peer,
		 struct pg_error *err)
{
	struct peer *p = peer_find(g, addr->incarnation, addr->group);
	int rc;

	if (p) {
		*peer = p;
		return 0;
	}
	rc = check_transports(g, addr, err);
	if (rc)
		return rc;
	p = handles_take(&g->peers);
	if (!p)
		p = reuse_place(g);
	if (!p)
		return error_set(err, -ENOSPC, "no room for more than %u peers (PGCTL_MAX_PEERS)",
				 g->peers.capacity);
	memset((char *)p + sizeof(p->h), 0, sizeof(*p) - sizeof(p->h));
	p->addr = *addr;
	list_init(&p->ready);
	list_init(&p->waiting);
	list_init(&p->active);
	list_init(&p->dirty_link);
	handles_publish(&p->h);
	*peer = p;
	return 0;
}

/* ---- Up ---- */

void peer_set_state(struct peer *p, enum peer_state state)
{
	/* release: pairs with peer_state */
	atomic_store_explicit(&p->state, state, memory_order_release);
}

uint32_t peer_conn_weight(const struct peer *p, unsigned k)
{
	uint32_t theirs = p->addr.domains[peer_remote_domain(p, k)].link_mbit_s;
	uint64_t ours = p->conns[k]->domain->caps.link_mbit_s;

	if (!theirs || !ours)
		return 1;
	return ours < theirs ? (uint32_t)ours : theirs;
}

int peer_open_conns(struct pg_group *g, struct peer *p, struct pg_error *err)
{
	unsigned n = g->n_domains > p->addr.n_domains ? g->n_domains : p->addr.n_domains;

	for (unsigned k = 0; k < n; k++) {
		struct domain *d = g->domains[peer_local_domain(g, k)];
		int rc = d->transport->conn_open(d, &p->conns[k], &p->offers[k], err);

		if (rc)
			return rc;
		p->conns[k]->owner = p;
		p->n_conns = k + 1;
	}
	return 0;
}

bool peer_ready(struct pg_group *g, struct peer *p)
{
	/* relaxed: only the holder of the lock changes it */
	switch (atomic_load_explicit(&p->state, memory_order_relaxed)) {
	case PEER_UP:
		return true;
	case PEER_KNOWN:
		handshake_start(g, p);
		break;
	default:
		break;
	}
	return false;
}

/* ---- Down ---- */

static void fail_all(struct pg_group *g, struct list *ops, int status, const char *text)
{
	struct list *node = ops->next;

	while (node != ops) {
		struct op *op = LIST_ENTRY(node, struct op, link);

		node = node->next;
		op_fail(op, status, text);
		if (ops == &op->peer->ready)
			op_settle(g, op, OP_POSTED);
	}
}

void peer_down(struct pg_group *g, struct peer *p, int status, const char *fmt, ...)
{
	struct peer_name name = peer_name(p);
	va_list args;
	int n;

	if (!peer_alive(p))
		return;
	n = snprintf(p->reason, sizeof(p->reason), "%s: ", name.text);
	va_start(args, fmt);
	vsnprintf(p->reason + n, sizeof(p->reason) - (size_t)n, fmt, args);
	va_end(args);
	p->status = status;
	if (peer_state(p) == PEER_CONNECTING)
		g->handshakes--;
	peer_set_state(p, PEER_DOWN);
	g->delivered = true; /* for those who wait for its state */
	p->stream = NULL;
	for (struct list *l = g->streams.next; l != &g->streams; l = l->next) {
		struct stream *s = LIST_ENTRY(l, struct stream, link);

		if (s->peer != p)
			continue;
		s->peer = NULL;
		shutdown(s->watch.fd, SHUT_RDWR); /* its watch then closes it */
	}
	if (p->process)
		process_forget(g, p);
	list_remove(&p->active);
	rmrs_of_peer_failed(g, p);
	fail_all(g, &p->ready, status, p->reason);
	fail_all(g, &p->waiting, status, p->reason);
}

struct process {
	struct watch watch; /* first */
	struct peer *peer;
};

static void process_died(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct peer *p = ((struct process *)w)->peer;

	(void)events;
	peer_down(g, p, -EHOSTDOWN, "its process died");
}

void process_forget(struct pg_group *g, struct peer *p)
{
	watch_close(g, &p->process->watch);
	free(p->process);
	p->process = NULL;
}

void peer_watch_process(struct pg_group *g, struct peer *p, pid_t pid)
{
	int fd;

	p->pid = pid;
	if (!pid || p->process)
		return;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return; /* the control stream tells of it too */
	p->process = calloc(1, sizeof(*p->process));
	if (!p->process) {
		close(fd);
		return;
	}
	p->process->watch = (struct watch){ .fd = fd, .ready = process_died };
	p->process->peer = p;
	if (watch_add(g, &p->process->watch, EPOLLIN))
		process_forget(g, p);
}

/* ---- Turns ---- */

int peer_run(struct pg_group *g, struct peer *p)
{
	struct list *last = p->ready.prev;
	int moved = 0;

	for (int i = 0; i < TURN_OPS && !list_empty(&p->ready); i++) {
		struct op *op = LIST_ENTRY(p->ready.next, struct op, link);
		bool was_last = p->ready.next == last;
		enum op_turn turn = op_run(g, op);

		moved += turn != OP_BLOCKED;
		op_settle(g, op, turn);
		if (was_last)
			break;
	}
	return moved;
}

void peers_flush(struct pg_group *g)
{
	while (!list_empty(&g->dirty)) {
		struct peer *p = LIST_ENTRY(g->dirty.next, struct peer, dirty_link);

		list_remove(&p->dirty_link);
		for (unsigned k = 0; p->dirty; k++, p->dirty >>= 1)
			if (p->dirty & 1)
				p->conns[k]->domain->transport->flush(p->conns[k]);
	}
}

static const char *why_stuck(const struct op *op)
{
	if (peer_state(op->peer) == PEER_CONNECTING)
		return "it does not answer; does it make progress?";
	if (op->rmr && rmr_state(op->rmr) != RMR_READY)
		return "its region is not mapped yet; does it make progress?";
	return "no credit to post; does it make progress?";
}

static void scan(struct pg_group *g, struct peer *p, struct list *ops)
{
	struct list *node = ops->next;

	while (node != ops && peer_alive(p)) {
		struct op *op = LIST_ENTRY(node, struct op, link);
		char text[PG_ERROR_MAX];

		node = node->next;
		if (op->deadline == 0)
			op->deadline = g->now + g->config->op_timeout_ns;
		if (g->now < op->deadline)
			continue;
		if (ops == &p->waiting) {
			/* What was posted cannot be taken back but by resetting the connections. */
			peer_down(g, p, -ETIMEDOUT, "no completion for %llu ms",
				  (unsigned long long)(g->config->op_timeout_ns / 1000000));
			return;
		}
		snprintf(text, sizeof(text), "%s over %s: no progress for %llu ms: %s",
			 peer_name(p).text, g->domains[0]->name,
			 (unsigned long long)(g->config->op_timeout_ns / 1000000), why_stuck(op));
		op_fail(op, -ETIMEDOUT, text);
		op_settle(g, op, OP_POSTED);
	}
}

void peers_scan_deadlines(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		scan(g, p, &p->ready);
		scan(g, p, &p->waiting);
	}
}

void peers_close(struct pg_group *g, int status, const char *text)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = (struct peer *)handles_slot(&g->peers, i);

		peer_down(g, p, status, "%s", text);
		close_conns(p);
		while (!list_empty(&p->waiting))
			op_abandon(g, LIST_ENTRY(p->waiting.next, struct op, link), status, text);
	}
}

/* ---- Public ---- */

int pg_main_address(struct pg_group *g, void *buf, size_t *len)
{
	return net_addr_encode(&g->addr, buf, len);
}

int pg_add_peer(struct pg_group *g, const void *addr, size_t len, pg_peer_t *peer,
		struct pg_error *err)
{
	struct net_addr decoded;
	struct peer *p;
	int rc = net_addr_decode(addr, len, &decoded, err);

	if (rc)
		return rc;
	group_enter(g);
	rc = peer_of_addr(g, &decoded, &p, err);
	if (!rc)
		*peer = handle_of(&p->h);
	group_leave(g);
	return rc;
}

static bool connected(struct pg_group *g, void *arg)
{
	enum peer_state state = peer_state(arg);

	(void)g;
	return state == PEER_UP || state == PEER_DOWN;
}

static void connect_peer(struct pg_group *g, void *arg)
{
	peer_ready(g, arg);
}

static int wait_connected(struct pg_group *g, struct peer *p, uint64_t timeout_ns,
			  struct pg_error *err)
{
	int rc = group_retry(g, connect_peer, connected, p, timeout_ns);

	if (rc)
		return error_set(err, rc, "%s: %s", peer_name(p).text,
				 rc == -ETIMEDOUT ? "not connected in time; does it make progress?"
						  : strerror(-rc));
	if (!peer_alive(p))
		return error_set(err, p->status, "%s", p->reason);
	return 0;
}

int pg_connect(struct pg_group *g, pg_peer_t peer, uint64_t timeout_ns, struct pg_error *err)
{
	int rc;
	struct peer *p = handles_get(&g->peers, peer, &rc);

	if (!p)
		return error_set(err, rc, "0x%llx is not a peer", (unsigned long long)peer);
	group_hold(g);
	rc = wait_connected(g, p, timeout_ns, err);
	group_drop(g);
	return rc;
}

int pg_peer_info(struct pg_group *g, pg_peer_t peer, struct pg_peer_info *info)
{
	int rc = 0;
	struct peer *p;

	group_enter(g);
	p = handles_get(&g->peers, peer, &rc);
	if (p) {
		*info = (struct pg_peer_info){
			.up = peer_state(p) == PEER_UP,
			.status = p->status,
			.n_connections = p->n_conns,
		};
		for (unsigned i = 0; i < 16; i++)
			snprintf(info->incarnation + 2 * i, 3, "%02x", p->addr.incarnation[i]);
		if (p->n_conns)
			snprintf(info->path, sizeof(info->path), "%s", p->conns[0]->note);
		snprintf(info->reason, sizeof(info->reason), "%s", p->reason);
	}
	group_leave(g);
	return p ? 0 : rc;
}
