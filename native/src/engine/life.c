/* SPDX-License-Identifier: MIT
 *
 * A peer comes up when both sides have attached each connection. It goes down at once, so that what
 * is owed to it fails at once; but what it sent before has arrived and counts, so its end takes a
 * few rounds more (peers_end).
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/control.h"
#include "engine/endpoint.h"
#include "engine/failover.h"
#include "engine/fence.h"
#include "engine/memory.h"
#include "engine/message.h"
#include "engine/news.h"
#include "engine/op.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "util/clock.h"
#include "util/log.h"

#define MAX_END_ROUNDS 4096
#define RETURNED "it has returned as a new incarnation: take its new address and descriptors"

/* ---- Its process ---- */

struct process {
	struct watch watch; /* first */
	struct peer *peer;
};

void process_forget(struct pg_group *g, struct peer *p)
{
	if (!p->process)
		return;
	watch_close(g, &p->process->watch);
	free(p->process);
	p->process = NULL;
}

/* Its sockets close before the news of its death come. */
static void process_look(struct pg_group *g, struct peer *p)
{
	struct pollfd pfd = { .fd = p->process ? p->process->watch.fd : -1, .events = POLLIN };

	p->dead |= poll(&pfd, 1, 0) == 1;
	if (p->dead)
		process_forget(g, p);
}

static void process_died(struct pg_group *g, struct watch *w, uint32_t events)
{
	struct peer *p = ((struct process *)w)->peer;

	(void)events;
	p->dead = true;
	process_forget(g, p);
	peer_down(g, p, -EHOSTDOWN, "its process died");
	if (p->end != END_POLL)
		holders_drop(g, p);
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

/* ---- Up ---- */

/* Only one engine at a time can listen at a place: the one that was known by it has ended, and its
 * keys with it. */
static void end_predecessors(struct pg_group *g, const struct peer *p)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *old = peer_slot(g, i);

		if (!old || old == p || !endpoint_same(&old->addr, &p->addr))
			continue;
		peer_down(g, old, -ESTALE, "%s", RETURNED);
		rmrs_of_peer_stale(g, old, RETURNED);
	}
}

void peer_can_write(struct pg_group *g, struct peer *p)
{
	/* relaxed: only we write them; see pg_free_imm */
	if (!p->serial)
		atomic_fetch_add_explicit(&g->n_writers, 1, memory_order_relaxed);
	p->serial = 1 + atomic_fetch_add_explicit(&g->peer_serial, 1, memory_order_relaxed);
}

void peer_up(struct pg_group *g, struct peer *p)
{
	g->handshakes--;
	p->heard = clock_ns();
	paths_up(g, p);
	peer_set_state(p, PEER_UP);
	end_predecessors(g, p);
	news_of_peer(g, p, PG_EVENT_PEER_UP);
	log_info("%s is up: %u connections, %s", peer_name(p).text, p->n_paths,
		 p->paths[0].conn->note);
	nics_tell_first(g, p);
	for (unsigned k = 0; k < p->n_paths && peer_alive(p); k++)
		if (p->paths[k].status)
			path_broke(g, p, k, p->paths[k].status);
}

/* ---- Down ---- */

/* From the front each time: who hears of the one may do anything to the others. A fence ends when it
 * is known how, see end_operations. */
static void fail_all(struct pg_group *g, struct list *ops, int status, const char *text)
{
	struct list now;

	list_take_all(&now, ops);
	while (!list_empty(&now)) {
		struct op *op = LIST_ENTRY(now.next, struct op, link);

		list_remove(&op->link);
		if (op->desc.opcode == PG_OP_FENCE) {
			list_append(&op->peer->waiting, &op->link);
			continue;
		}
		op_fail(op, status, text);
		op_settle(g, op, OP_POSTED); /* what is in flight is still read by a NIC */
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
	g->handshakes -= peer_state(p) == PEER_CONNECTING;
	peer_set_state(p, PEER_DOWN);
	p->end = END_POLL;
	p->end_round = g->rounds;
	p->end_since = g->now;
	list_append(&g->ending, &p->ending);
	log_warn("%s", p->reason);
	news_of_peer(g, p, PG_EVENT_PEER_DOWN);
	list_remove(&p->active);
	rmrs_of_peer_failed(g, p);
	salvage_drop(g, p);
	fail_all(g, &p->ready, status, p->reason);
	fail_all(g, &p->waiting, status, p->reason);
}

/* Its streams stay until nothing of ours can be written there any more: by hanging up we say so. The
 * peer does likewise, which is heard in control_hung_up. */
static void hang_up(struct pg_group *g, struct peer *p)
{
	struct list *l = g->streams.next;

	p->stream = NULL;
	while (l != &g->streams) {
		struct stream *s = LIST_ENTRY(l, struct stream, link);

		l = l->next;
		if (s->peer == p)
			control_end(g, s);
	}
}

bool peer_stopped(const struct pg_group *g, const struct peer *p)
{
	if (p->dead)
		return true;
	for (const struct list *l = g->streams.next; l != &g->streams; l = l->next)
		if (LIST_ENTRY(l, struct stream, link)->peer == p)
			return false;
	return !p->unheard;
}

void peer_if_stopped(struct pg_group *g, struct peer *p)
{
	if (!peer_stopped(g, p))
		return;
	holders_drop(g, p);
	/* It may yet take what has not been placed, until it dies. */
	if (!p->unplaced)
		process_forget(g, p);
}

static struct op *first_waiting(const struct peer *p, bool fence)
{
	for (struct list *l = p->waiting.next; l != &p->waiting; l = l->next) {
		struct op *op = LIST_ENTRY(l, struct op, link);

		if ((op->desc.opcode == PG_OP_FENCE) == fence)
			return op;
	}
	return NULL;
}

static void end_operations(struct pg_group *g, struct peer *p)
{
	uint64_t marks[PG_MAX_CONNS] = { 0 };
	struct op *op;

	p->unplaced = !paths_visible(p, marks);
	/* Nobody will tell of what is in flight: end it, then it is not. */
	if (first_waiting(p, false))
		paths_close(g, p);
	while ((op = first_waiting(p, false)))
		op_abandon(g, op, p->status, p->reason);
	while ((op = first_waiting(p, true)))
		fence_end(g, op);
}

/* Tombstones are there for those who could write when they were set. */
static void expire_tombstones(struct pg_group *g)
{
	uint64_t oldest = UINT64_MAX;

	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (p && p->serial && p->serial < oldest)
			oldest = p->serial;
	}
	counters_lock(g);
	imm_tombstones_expire(g->imms, oldest);
	counters_unlock(g);
}

/* Rounds have found nothing more of it. */
static void end(struct pg_group *g, struct peer *p)
{
	process_look(g, p);
	end_operations(g, p);
	hang_up(g, p);
	end_expectations(g, p);
	counters_lock(g);
	imm_drop_source(g->imms, p->h.index);
	counters_unlock(g);
	if (p->serial)
		atomic_fetch_sub_explicit(&g->n_writers, 1, memory_order_relaxed);
	p->serial = 0;
	p->end = END_CLOSE;
	p->end_round = g->rounds;
	peer_if_stopped(g, p);
	expire_tombstones(g);
}

void peers_still_heard(struct pg_group *g, const struct arrival *arrivals, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct peer *p = arrivals[i].conn ? arrivals[i].conn->owner : NULL;

		/* One that lives may go on for ever. */
		if (p && !peer_alive(p) && p->end_rounds < MAX_END_ROUNDS) {
			p->end_rounds += p->end_round != g->rounds;
			p->end_round = g->rounds;
		}
	}
}

/* There may be messages of it as long as there is no room for them; but not for ever. */
static bool keeps_messages(const struct pg_group *g, const struct peer *p)
{
	return g->no_room && g->now - p->end_since < g->config->op_timeout_ns;
}

/* Arrivals of the round are taken. A peer of which it has heard is looked at once more. */
void peers_end(struct pg_group *g)
{
	struct list now;

	if (group_in_callback(g))
		return;
	list_take_all(&now, &g->ending);
	while (!list_empty(&now)) {
		struct peer *p = LIST_ENTRY(now.next, struct peer, ending);

		list_remove(&p->ending);
		if (p->end_round == g->rounds) {
			list_append(&g->ending, &p->ending);
		} else if (p->end == END_POLL) {
			end(g, p);
			list_append(&g->ending, &p->ending);
		} else if (keeps_messages(g, p)) {
			list_append(&g->ending, &p->ending);
		} else {
			paths_close(g, p);
			p->end = END_OVER;
		}
	}
}

bool peers_ending(const struct pg_group *g)
{
	for (struct list *l = g->ending.next; l != &g->ending; l = l->next) {
		const struct peer *p = LIST_ENTRY(l, struct peer, ending);

		if (p->end == END_POLL || !keeps_messages(g, p))
			return true;
	}
	return false;
}

void peers_down(struct pg_group *g, int status, const char *text)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (p)
			peer_down(g, p, status, "%s", text);
	}
}

void peers_close(struct pg_group *g, int status, const char *text)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);
		struct op *op;

		if (!p)
			continue;
		peer_down(g, p, status, "%s", text);
		/* A fence cannot be waited for any more, and so says nothing of the peer. */
		while ((op = first_waiting(p, true)))
			op_abandon(g, op, status, text);
		end_operations(g, p);
		paths_close(g, p);
		holders_drop(g, p);
		process_forget(g, p);
	}
}

/* ---- Heartbeats ---- */

void peer_heard(struct pg_group *g, struct peer *p)
{
	p->heard = clock_ns(); /* g->now may be from before a sleep */
	if (!p->silent)
		return;
	p->silent = false;
	if (peer_alive(p))
		news_of_peer(g, p, PG_EVENT_PEER_UP);
}

static void beat(struct pg_group *g, struct peer *p, bool away)
{
	struct control_msg ping = { .type = CONTROL_PING };

	/* One that does not read is not told for ever. */
	if (p->stream->n_out == 0)
		control_send(g, p->stream, &ping);
	if (away)
		p->heard = g->now;
	if (p->silent || g->now < p->heard + g->config->silent_ns)
		return;
	p->silent = true;
	log_warn("%s: no heartbeat for %llu ms: stopped, or makes no progress", peer_name(p).text,
		 (unsigned long long)(g->now - p->heard) / 1000000);
	news_of_peer(g, p, PG_EVENT_PEER_SILENT);
}

/* All engines of a host beat at the same moment, so that each wakes up once for all. */
void peers_beat(struct pg_group *g)
{
	uint64_t period = g->config->heartbeat_ns;
	/* Whoever makes progress so rarely has not heard what was said meanwhile. */
	bool away = g->now - g->next_beat > period;

	g->next_beat = (g->now / period + 1) * period;
	control_scan(g);
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		if (p && peer_state(p) == PEER_UP && p->stream)
			beat(g, p, away);
		if (p && p->held)
			paths_retry(g, p);
	}
}
