/* SPDX-License-Identifier: MIT */
#include "engine/dump.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/memory.h"
#include "engine/op.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "util/log.h"

#define LINE_BYTES 512
#define MAX_LISTED 64 /* of each kind: what is stuck is mostly stuck for one reason */

/* Where the lines go. */
struct sink {
	FILE *to; /* NULL: the log */
};

__attribute__((format(printf, 2, 3))) static void say(struct sink *s, const char *fmt, ...)
{
	char line[LINE_BYTES];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (s->to)
		fprintf(s->to, "%s\n", line);
	else
		log_line(PG_LOG_WARN, "  %s", line);
}

static const char *op_name(const struct op *op)
{
	static const char *const names[] = {
		[PG_OP_WRITE] = "write",     [PG_OP_PAGED] = "paged writes",
		[PG_OP_SCATTER] = "scatter", [PG_OP_BARRIER] = "barrier",
		[PG_OP_SEND] = "message",    [PG_OP_FENCE] = "fence",
	};

	return op->desc.opcode == OP_IMM ? "immediate" : names[op->desc.opcode];
}

static const char *op_waits_for(const struct op *op)
{
	if (!op->peer)
		return "its parts";
	if (peer_state(op->peer) != PEER_UP)
		return "the connection";
	if (op->desc.opcode == PG_OP_FENCE)
		return op->asked ? "the peer's answer" : "what was submitted before";
	if (op->rmr && rmr_state(op->rmr) != RMR_READY)
		return "the owner of the region to admit us";
	if (op_in_flight(op))
		return "completions of the NIC";
	if (!list_empty(&op->linger))
		return "visibility at the peer";
	return "credit";
}

static void dump_op(struct sink *s, const struct op *op)
{
	unsigned long long posted = 0, left = 0, inflight = 0;
	char how[100] = "nothing posted";

	for (unsigned i = 0; i < op->n_lanes; i++) {
		const struct lane *l = &op->lanes[i];

		posted += l->next * l->page_len + l->within;
		left += (l->end - l->next) * l->page_len - l->within;
		inflight += l->inflight;
	}
	if (op->n_lanes)
		snprintf(how, sizeof(how),
			 "%llu bytes posted, %llu left, %llu work requests in flight", posted, left,
			 inflight);
	say(s, "operation %llu: %s to %s, imm %#x: %s; waits for %s",
	    (unsigned long long)op->serial, op_name(op),
	    op->peer ? peer_name(op->peer).text : "several peers", op->desc.imm, how,
	    op_waits_for(op));
}

static const char *state_name(const struct peer *p)
{
	static const char *const names[] = {
		[PEER_KNOWN] = "not connected",
		[PEER_CONNECTING] = "connecting",
		[PEER_UP] = "up",
		[PEER_DOWN] = "down",
	};

	return peer_state(p) == PEER_UP && p->silent ? "not responsive" : names[peer_state(p)];
}

static void dump_peer(struct pg_group *g, struct sink *s, const struct peer *p)
{
	say(s, "%s: %s%s%s", peer_name(p).text, state_name(p), p->status ? ": " : "", p->reason);
	for (unsigned k = 0; k < p->n_paths; k++) {
		const struct conn *c = p->paths[k].conn;
		char credit[128] = "";

		if (!c)
			continue;
		if (c->domain->transport->describe)
			c->domain->transport->describe(c, credit, sizeof(credit));
		say(s,
		    "  %s to its NIC %u%s: %llu work requests, %llu bytes, %llu immediates in, "
		    "%llu "
		    "times without credit%s%s",
		    g->domains[path_local(p, k)]->name, path_remote(p, k),
		    p->paths[k].state == PATH_BROKEN ? ", broken, being taken over" : "",
		    (unsigned long long)c->stats.posted, (unsigned long long)c->stats.bytes_out,
		    (unsigned long long)c->stats.imms_in, (unsigned long long)c->stats.eagain,
		    credit[0] ? "; " : "", credit);
	}
}

static void dump_counter(void *arg, uint32_t imm, uint64_t value, uint64_t want, uint32_t waiting)
{
	struct sink *s = arg;

	if (want)
		say(s, "immediate %#x: have %llu of %llu wanted%s", imm, (unsigned long long)value,
		    (unsigned long long)want, waiting ? "; named writers still owe some" : "");
	else if (value)
		say(s, "immediate %#x: have %llu, nobody waits", imm, (unsigned long long)value);
}

static void dump(struct pg_group *g, struct sink *s)
{
	unsigned listed = 0, up = 0;
	struct imm_stats stats;

	for (uint32_t i = 0; i < g->peers.used; i++)
		up += peer_slot(g, i) && peer_state(peer_slot(g, i)) == PEER_UP;
	say(s, "group %u: %u operations in flight, %u peers up, progress %s", g->addr.group,
	    g->n_live, up, g->worker_mode ? "by a worker" : "inline");
	for (uint32_t i = 0; i < g->config->max_ops && listed < MAX_LISTED && g->n_live; i++) {
		if (!g->ops[i].live)
			continue;
		dump_op(s, &g->ops[i]);
		listed++;
	}
	listed = 0;
	for (uint32_t i = 0; i < g->peers.used && listed < MAX_LISTED; i++) {
		const struct peer *p = peer_slot(g, i);

		if (!p)
			continue;
		dump_peer(g, s, p);
		listed++;
	}
	for (uint32_t i = 0; i < g->mrs.used; i++) {
		const struct mr *mr = mr_slot(g, i);

		if (mr && mr->revoked)
			say(s, "region of %llu bytes is revoked; %s",
			    (unsigned long long)mr->memory.len,
			    region_holder(mr) ? peer_name(region_holder(mr)).text
					      : "operations of ours read it");
	}
	counters_lock(g);
	imm_each(g->imms, dump_counter, s);
	imm_stats(g->imms, &stats);
	counters_unlock(g);
	say(s,
	    "counters: %u asked for, %u unclaimed, %u tombstones, %llu late arrivals not counted",
	    stats.claimed, stats.unclaimed, stats.tombstones, (unsigned long long)stats.swallowed);
}

void dump_log(struct pg_group *g)
{
	struct sink s = { 0 };

	if (log_wanted(PG_LOG_WARN))
		dump(g, &s);
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Written without the lock: the reader may be slow. */
int pg_dump(struct pg_group *g, int fd)
{
	char *text = NULL;
	size_t len = 0;
	struct sink s;
	int rc;

	if (group_forked(g))
		return -ESTALE;
	if (fd < 0)
		return -EBADF;
	s.to = open_memstream(&text, &len);
	if (!s.to)
		return -ENOMEM;
	group_enter(g);
	dump(g, &s);
	group_leave(g);
	rc = fclose(s.to) ? -ENOMEM : write_all(fd, text, len);
	free(text);
	return rc;
}
