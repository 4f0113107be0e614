/* SPDX-License-Identifier: MIT
 *
 * Two engines in one process that know each other, for tests of the engine through its public
 * calls.
 */
#ifndef PGCTL_TESTS_ENGINE_PAIR_H
#define PGCTL_TESTS_ENGINE_PAIR_H

#include <sched.h>
#include <string.h>

#include "check.h"
#include "engine/group.h"
#include "pgctl/engine.h"

#define SECOND 1000000000ull

struct side {
	struct pg_engine *engine;
	struct pg_group *g;
	pg_peer_t peer; /* the other side */
	uint8_t *mem;
	pg_mr_t mr;
	pg_rmr_t remote; /* the other side's memory */
};

static inline void side_open(struct side *s, unsigned lanes, int progress, uint64_t mem,
			     const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = lanes,
					 .progress = progress,
					 .worker_cpu = -1 };
	struct pg_config config = *limits;
	struct pg_error err = { 0 };
	void *ptr;

	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		group.domains[i].cpu = -1;
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, &err) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, mem, -1, 0, &ptr, &s->mr, &err) == 0);
	s->mem = ptr;
}

/* Two engines in one process cannot wait for each other inline, so they connect by turns. */
static inline void side_meet(struct side *s, struct side *other)
{
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);

	CHECK(pg_main_address(other->g, buf, &len) == 0);
	CHECK(pg_add_peer(s->g, buf, len, &s->peer, NULL) == 0);
	len = sizeof(buf);
	CHECK(pg_mr_desc(other->g, other->mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &s->remote, NULL) == 0);
}

static inline void pair_open(struct side *a, struct side *b, unsigned lanes_a, unsigned lanes_b,
			     int progress, uint64_t mem)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	side_open(a, lanes_a, progress, mem, &config);
	side_open(b, lanes_b, progress, mem, &config);
	side_meet(a, b);
	side_meet(b, a);
}

static inline void pair_close(struct side *a, struct side *b)
{
	CHECK(pg_engine_destroy(a->engine) == 0);
	CHECK(pg_engine_destroy(b->engine) == 0);
}

/* Whether an event is news of a peer or a NIC, which most tests do not wait for. */
static inline int is_news(const struct pg_event *e)
{
	return e->kind >= PG_EVENT_PEER_UP && e->kind <= PG_EVENT_NIC_DOWN;
}

/* The next event but news: 1, or what pg_wait_events says. */
static inline int next_event(struct pg_group *g, struct pg_event *e, uint64_t timeout_ns)
{
	int rc;

	do
		rc = pg_wait_events(g, e, 1, timeout_ns);
	while (rc == 1 && is_news(e));
	return rc;
}

/* Until n other threads wait there: one that has not begun when its engine is destroyed would call
 * into what is gone. */
static inline void side_await_waiters(const struct side *s, unsigned n)
{
	while (atomic_load_explicit(&s->g->inside, memory_order_acquire) < n)
		sched_yield();
}

/* Makes both sides progress until a flag is set; its value. */
static inline int32_t pair_run(struct side *a, struct side *b, const int32_t *flag)
{
	for (int i = 0; i < 5000; i++) {
		int32_t v = __atomic_load_n(flag, __ATOMIC_ACQUIRE);

		if (v)
			return v;
		pg_progress(a->g);
		pg_progress(b->g);
		/* a worker, or the other side's, does the work: look again in a while */
		pg_wait_flags(a->g, flag, 1, 100000);
	}
	return 0;
}

static inline struct pg_config config_defaults(void)
{
	struct pg_config config;

	CHECK(pg_config_init(&config, NULL) == 0);
	return config;
}

/* Two that are connected, with one write done. */
static inline void pair_open_up(struct side *a, struct side *b, unsigned lanes, uint64_t mem,
				const struct pg_config *config)
{
	int32_t sent;

	side_open(a, lanes, PG_PROGRESS_INLINE, mem, config);
	side_open(b, lanes, PG_PROGRESS_INLINE, mem, config);
	side_meet(a, b);
	side_meet(b, a);
	CHECK(pg_submit_single_write(a->g, 8, PG_NO_IMM, a->mr, 0, a->remote, 0, 0, &sent, NULL) ==
	      0);
	CHECK_EQ(pair_run(a, b, &sent), 1);
}

static inline void pair_progress(struct side *a, struct side *b, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		pg_progress(a->g);
		pg_progress(b->g);
	}
}

static inline void pair_turns(struct side *a, struct side *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		pg_wait_flags(a->g, &(int32_t){ 0 }, 1, 100000);
		pg_wait_flags(b->g, &(int32_t){ 0 }, 1, 100000);
	}
}

/* 8 bytes from the start; how it ended. */
static inline int32_t pair_write_one(struct side *a, struct side *b, pg_rmr_t to, uint32_t imm)
{
	int32_t sent;
	int rc = pg_submit_single_write(a->g, 8, imm, a->mr, 0, to, 0, 0, &sent, NULL);

	return rc ? rc : pair_run(a, b, &sent);
}

static inline pg_rmr_t side_import(struct side *s, struct side *owner, pg_mr_t mr)
{
	uint8_t buf[PG_DESC_MAX];
	size_t len = sizeof(buf);
	pg_rmr_t remote;

	CHECK(pg_mr_desc(owner->g, mr, buf, &len) == 0);
	CHECK(pg_import_mr(s->g, buf, len, &remote, NULL) == 0);
	return remote;
}

static inline bool side_is_up(const struct side *s)
{
	struct pg_peer_info info;

	CHECK(pg_peer_info(s->g, s->peer, &info) == 0);
	return info.up;
}

static inline uint64_t side_value(struct side *s, uint32_t imm)
{
	uint64_t value;

	CHECK(pg_imm_value(s->g, imm, &value) == 0);
	return value;
}

/* The next event of this kind: 1, or 0 if there is none for long. */
static inline int side_next_news(struct side *s, struct side *other, uint32_t kind,
				 struct pg_event *e)
{
	for (int i = 0; i < 20000; i++) {
		if (pg_poll_events(s->g, e, 1) == 1 && e->kind == kind)
			return 1;
		if (other)
			pg_progress(other->g);
	}
	return 0;
}

#endif
