/* SPDX-License-Identifier: MIT */
#include "engine/flight.h"

#include "engine/paths.h"

#include <errno.h>
#include <sys/mman.h>

#define MAX_FLIGHTS (1u << 18) /* untouched ones cost nothing */
#define NO_FLIGHT UINT32_MAX

int flights_create(struct pg_group *g)
{
	g->free_flight = NO_FLIGHT;
	g->flights = mmap(NULL, MAX_FLIGHTS * sizeof(*g->flights), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (g->flights == MAP_FAILED) {
		g->flights = NULL;
		return -ENOMEM;
	}
	return 0;
}

void flights_destroy(struct pg_group *g)
{
	if (g->flights)
		munmap(g->flights, MAX_FLIGHTS * sizeof(*g->flights));
}

static struct flight *take(struct pg_group *g)
{
	struct flight *f;

	if (g->free_flight == NO_FLIGHT)
		return g->n_flights < MAX_FLIGHTS ? &g->flights[g->n_flights++] : NULL;
	f = &g->flights[g->free_flight];
	g->free_flight = f->next;
	return f;
}

void flight_give(struct pg_group *g, struct flight *f)
{
	f->next = g->free_flight;
	g->free_flight = (uint32_t)(f - g->flights);
}

void flights_drop(struct pg_group *g, struct list *flights)
{
	while (!list_empty(flights)) {
		struct flight *f = LIST_ENTRY(flights->next, struct flight, link);

		list_remove(&f->link);
		flight_give(g, f);
	}
}

unsigned flights_take(struct pg_group *g, const struct op *op, unsigned l, struct wr *wrs,
		      const struct cursor *at, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct flight *f = take(g);

		if (!f)
			return i;
		*f = (struct flight){
			.op = op->slot,
			.lane = (uint8_t)l,
			.page = at[i].next,
			.within = at[i].within,
			.len = wrs[i].len,
			.imm = wrs[i].imm,
			.wr_op = wrs[i].op,
		};
		wrs[i].id = (uint64_t)(f - g->flights);
	}
	return n;
}

void flight_posted(struct pg_group *g, struct path *path, struct flight *f, const struct wr *wr)
{
	bool ordered = path_ordered(path);

	f->index = wr->op == WR_SEND ? path->msgs_out
		   : ordered         ? path->imms_out
				     : (uint32_t)sums_get(&path->sent, wr->imm);
	path->msgs_out += wr->op == WR_SEND;
	path->imms_out += wr->op == WR_WRITE_IMM;
	f->serial = g->op_serial;
	list_append(&path->flights, &f->link);
	/* Room was made before, see takeover_room. */
	if (wr->op == WR_WRITE_IMM && !ordered)
		sums_add(&path->sent, wr->imm, 1);
}

/* Whether f, an immediate or a message, is counted in the index of one that was posted after it. */
static bool is_before(const struct path *path, const struct flight *f, const struct flight *later)
{
	if (f->wr_op == WR_SEND || path_ordered(path))
		return (later->wr_op == WR_SEND) == (f->wr_op == WR_SEND);
	return flight_is_imm(later) && later->imm == f->imm;
}

void flight_failed(struct path *path, struct flight *f)
{
	bool imm = flight_is_imm(f), message = f->wr_op == WR_SEND;

	for (struct list *l = f->link.next; (imm || message) && l != &path->flights; l = l->next) {
		struct flight *later = LIST_ENTRY(l, struct flight, link);

		later->index -= is_before(path, f, later);
	}
	path->msgs_out -= message;
	path->imms_out -= imm;
	/* It is there: what is in flight is not forgotten, see tell_counted. */
	if (imm && !path_ordered(path))
		sums_add(&path->sent, f->imm, -1);
	path->unsure |= (imm || message) && !path->conn->domain->caps.exact_failure;
}

void flights_posted(struct pg_group *g, struct path *path, const struct wr *wrs, unsigned posted,
		    unsigned n)
{
	for (unsigned i = 0; i < posted; i++)
		flight_posted(g, path, &g->flights[wrs[i].id], &wrs[i]);
	for (unsigned i = posted; i < n; i++)
		flight_give(g, &g->flights[wrs[i].id]);
}
