/* SPDX-License-Identifier: MIT
 *
 * Pairs of engines whose NICs misbehave on purpose.
 */
#ifndef PGCTL_TESTS_IMPAIRED_PAIR_H
#define PGCTL_TESTS_IMPAIRED_PAIR_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/peer.h"
#include "engine/progress.h"
#include "engine_pair.h"
#include "util/clock.h"

#define MEM (1ull << 20)
#define MS 1000000ull
#define SOUND "depth=128" /* asynchronous, and nothing more */

static inline void open_side(struct side *s, unsigned nics, const char *impair,
			     const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = nics,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1 };
	struct pg_config config = *limits;
	void *ptr;

	snprintf(group.impair, sizeof(group.impair), "%s", impair);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		group.domains[i].cpu = -1;
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

static inline void open_pair(struct side *a, struct side *b, unsigned nics, const char *ours,
			     const char *theirs, const struct pg_config *config)
{
	open_side(a, nics, ours, config);
	open_side(b, nics, theirs, config);
	side_meet(a, b);
	side_meet(b, a);
}

/* Makes progress on both sides, or on one alone, until the flag is set; its value. */
static inline int32_t run_until(struct side *a, struct side *b, const int32_t *flag, uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE) && clock_ns() < end) {
		pg_progress(a->g);
		if (b)
			pg_progress(b->g);
	}
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static inline void run_for(struct side *a, struct side *b, uint64_t ns)
{
	int32_t never = 0;

	run_until(a, b, &never, ns);
}

static inline int32_t submit(struct side *a, uint32_t imm, uint32_t limit_ms, int32_t *flag)
{
	struct pg_op op = { .opcode = PG_OP_WRITE,
			    .imm = imm,
			    .limit_ms = limit_ms,
			    .done.flag = flag,
			    .u.write = { .src = a->mr, .dst = a->remote, .len = 64 } };

	return pg_submit(a->g, &op, 1, 0, NULL);
}

/* A writes to memory that is not there. */
static inline void open_faulty(struct side *a, struct side *b, unsigned nics, const char *impair)
{
	struct pg_config config = config_defaults();
	void *at = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(at != MAP_FAILED);
	open_side(a, nics, impair, &config);
	open_side(b, nics, SOUND, &config);
	CHECK(pg_reg_mr(b->g, at, MEM, &b->mr, NULL) == 0);
	side_meet(a, b);
	side_meet(b, a);
	CHECK(munmap(at, MEM) == 0);
}

static inline struct peer *peer_of(const struct side *s)
{
	int rc;
	struct peer *p = handles_get(&s->g->peers, s->peer, &rc);

	CHECK(p);
	return p;
}

/* Times of kills count from the first use in a process. */
static inline void apart(const char *name, void (*test)(void))
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		test();
		exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		check_failed(__FILE__, __LINE__, name);
}

#endif
