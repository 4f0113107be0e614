/* SPDX-License-Identifier: MIT
 *
 * Connections and NICs that die on purpose under rounds of writes of all kinds. When a round is
 * counted its bytes are there; then the receiver uses the memory otherwise, and nothing may land in it
 * any more. Counts are exact, and every operation ends well, as long as a NIC is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_pair.h"
#include "util/clock.h"

#define MEM (20ull << 20)
#define HALF (MEM / 2)
#define PLACES 8
#define PLACE (HALF / PLACES) /* more than one work request */
#define PAGE 4096ull
#define PAGES 16
#define MESSAGES 4
#define SPENT 0xe5
#define TANGLED "fail=0.02,reorder=16,jitter=200us"
#define SOUND "depth=128" /* asynchronous, and nothing more */

struct trial {
	const char *name;
	const char *impair[2]; /* of either side */
	unsigned nics[2];
	uint64_t ms;
	bool same_imm; /* all rounds have it */
	bool bounce;   /* the receiver copies, when it looks */
};

struct round {
	struct side *receiver;
	uint32_t number, imm;
	uint64_t base;
	unsigned n;   /* places in use */
	unsigned due; /* counts */
	uint64_t len[PLACES];
	int32_t sent[PLACES + MESSAGES], fired;
	uint32_t src[PLACES][PAGES], dst[PLACES][PAGES];
};

static uint64_t seed;
static uint8_t spent[PAGE];

static uint64_t below(uint64_t n)
{
	return check_random(&seed) % n;
}

static void open_side(struct side *s, const struct trial *t, unsigned which,
		      const struct pg_config *limits)
{
	struct pg_group_config group = { .n_domains = t->nics[which],
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .impair_seed = seed + which };
	struct pg_config config = *limits;
	struct pg_error err = { 0 };
	void *ptr;

	snprintf(group.impair, sizeof(group.impair), "%s", t->impair[which]);
	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		group.domains[i].cpu = -1;
	config.groups = &group;
	if (pg_engine_create(&config, &s->engine, &err))
		check_failed(__FILE__, __LINE__, err.text);
	s->g = pg_engine_group(s->engine, 0);
	if (t->bounce) {
		ptr = calloc(1, MEM);
		CHECK(ptr && pg_reg_mr(s->g, ptr, MEM, &s->mr, NULL) == 0);
	} else {
		CHECK(pg_alloc_mr(s->g, MEM, -1, PG_ALLOC_PREFAULT, &ptr, &s->mr, NULL) == 0);
	}
	s->mem = ptr;
}

static uint64_t some_length(void)
{
	switch (below(16)) {
	case 0:
		return PLACE; /* split over NICs */
	case 1:
		return (256 << 10) + below(64 << 10);
	default:
		return 1 + below(8192);
	}
}

static uint8_t byte_at(const struct round *r, uint64_t offset)
{
	return (uint8_t)((offset >> 6) * 31 + offset * 7 + r->number * 13);
}

static void fill_source(struct side *a, const struct round *r)
{
	for (unsigned i = 0; i < r->n; i++)
		for (uint64_t at = r->base + i * PLACE, end = at + r->len[i]; at < end; at++)
			a->mem[at] = byte_at(r, at);
}

static void submit(struct side *a, struct round *r, unsigned i)
{
	uint64_t at = r->base + i * PLACE;
	struct pg_error err = { 0 };
	struct pg_paged paged = { .src = a->mr,
				  .src_offset = at,
				  .src_stride = PAGE,
				  .src_indices = r->src[i],
				  .dst = a->remote,
				  .dst_offset = at,
				  .dst_stride = PAGE,
				  .dst_indices = r->dst[i],
				  .page_len = PAGE,
				  .n_pages = PAGES };
	int rc;

	if (i % 4 == 1) {
		r->len[i] = PAGES * PAGE;
		r->due += PAGES;
		for (uint32_t k = 0; k < PAGES; k++)
			r->src[i][k] = r->dst[i][k] = PAGES - 1 - k;
		fill_source(a, r);
		rc = pg_submit_paged_writes(a->g, &paged, r->imm, 0, &r->sent[i], &err);
	} else if (i % 8 == 2) {
		r->len[i] = 0;
		r->due++;
		rc = pg_submit_barrier(a->g, &a->peer, 1, r->imm, 0, &r->sent[i], &err);
	} else {
		r->due++;
		rc = pg_submit_single_write(a->g, r->len[i], r->imm, a->mr, at, a->remote, at, 0,
					    &r->sent[i], &err);
	}
	if (rc)
		check_failed(__FILE__, __LINE__, err.text);
}

/* Its bytes are there; from now on the memory is the receiver's. */
static void consume(struct side *b, const struct round *r)
{
	for (unsigned i = 0; i < r->n; i++)
		for (uint64_t at = r->base + i * PLACE, end = at + r->len[i]; at < end; at++)
			if (b->mem[at] != byte_at(r, at)) {
				fprintf(stderr, "round %u, place %u of %llu bytes, byte %llu\n",
					r->number, i, (unsigned long long)r->len[i],
					(unsigned long long)(at - r->base - i * PLACE));
				check_failed(__FILE__, __LINE__, "what is counted is there");
			}
	for (unsigned i = 0; i < r->n; i++)
		memset(b->mem + r->base + i * PLACE, SPENT, r->len[i]);
}

/* At once: what arrives over other NICs in the same round has not been looked at. */
static void counted(void *arg, const struct pg_event *event)
{
	struct round *r = arg;

	CHECK_EQ(event->status, 0);
	consume(r->receiver, r);
	__atomic_store_n(&r->fired, 1, __ATOMIC_RELEASE);
}

static void begin(struct side *a, struct side *b, struct round *r, uint32_t number, uint32_t imm)
{
	memset(r, 0, sizeof(*r));
	r->number = number;
	r->imm = imm;
	r->base = number % 2 * HALF;
	r->n = 1 + (unsigned)below(PLACES);
	for (unsigned i = 0; i < r->n; i++)
		r->len[i] = some_length();
	fill_source(a, r);
	for (unsigned i = 0; i < r->n; i++)
		submit(a, r, i);
	for (unsigned i = 0; i < MESSAGES; i++) {
		uint32_t text[2] = { number, i };

		CHECK(pg_submit_send(a->g, a->peer, text, sizeof(text), 0, &r->sent[PLACES + i],
				     NULL) == 0);
	}
	r->receiver = b;
	CHECK(pg_expect_imm(b->g, imm, r->due, &(struct pg_done){ .callback = counted, .arg = r },
			    NULL) == 0);
}

static void check_spent(const struct side *b, uint64_t base)
{
	for (uint64_t at = base; at < base + HALF; at += sizeof(spent))
		if (memcmp(b->mem + at, spent, sizeof(spent)))
			check_failed(__FILE__, __LINE__, "nothing lands once it was counted");
}

static unsigned take_messages(struct side *b, const struct round *r, unsigned seen)
{
	struct pg_event e;

	while (pg_poll_events(b->g, &e, 1) == 1) {
		const uint32_t *text = e.data;

		if (e.kind != PG_EVENT_RECV)
			continue;
		CHECK_EQ(text[0], r->number);
		CHECK(!(seen >> text[1] & 1));
		seen |= 1u << text[1];
		CHECK(pg_recv_release(b->g, e.data) == 0);
	}
	return seen;
}

static bool all_sent(const struct round *r)
{
	for (unsigned i = 0; i < PLACES + MESSAGES; i++) {
		bool used = i < r->n || i >= PLACES;
		int32_t sent = used ? __atomic_load_n(&r->sent[i], __ATOMIC_ACQUIRE) : 1;

		if (sent < 0)
			fprintf(stderr, "operation %u: %s\n", i, strerror(-sent));
		CHECK(sent >= 0);
		if (!sent)
			return false;
	}
	return true;
}

static void progress(struct side *a, struct side *b, uint64_t end)
{
	/* Either may get a few rounds ahead of the other. */
	for (uint64_t n = 1 + below(6); n; n--)
		pg_progress(a->g);
	for (uint64_t n = 1 + below(2); n; n--)
		pg_progress(b->g);
	if (clock_ns() < end)
		return;
	pg_dump(a->g, 2);
	pg_dump(b->g, 2);
	check_failed(__FILE__, __LINE__, "nothing hangs");
}

/* Until it is received: what was sent may end later. */
static void receive(struct side *a, struct side *b, struct round *r)
{
	uint64_t end = clock_ns() + 20 * SECOND;
	unsigned seen = 0;

	while (!__atomic_load_n(&r->fired, __ATOMIC_ACQUIRE)) {
		progress(a, b, end);
		seen = take_messages(b, r, seen);
	}
	while (seen != (1u << MESSAGES) - 1) {
		progress(a, b, end);
		seen = take_messages(b, r, seen);
	}
	CHECK_EQ(side_value(b, r->imm), 0);
}

static void await_sent(struct side *a, struct side *b, const struct round *r)
{
	uint64_t end = clock_ns() + 20 * SECOND;

	while (!all_sent(r))
		progress(a, b, end);
}

static struct pg_nic_stats over_all(struct side *s, unsigned nics)
{
	struct pg_nic_stats one, all = { 0 };

	for (unsigned i = 0; i < nics; i++) {
		CHECK(pg_stats(s->g, i, &one) == 0);
		all.failovers += one.failovers;
		all.retries += one.retries;
	}
	return all;
}

/* A sanitizer may be too slow for the dice to fall within the time of the trial. */
static bool goes_on(const struct trial *t, struct side *a, uint64_t since)
{
	return since < t->ms * 1000000 ||
	       (!over_all(a, t->nics[0]).failovers && since < 20 * SECOND);
}

static void run(const struct trial *t)
{
	struct pg_config config = config_defaults();
	struct pg_nic_stats all;
	uint64_t start = clock_ns();
	struct side a, b;
	static struct round rs[2];
	uint32_t rounds = 0;

	open_side(&a, t, 0, &config);
	open_side(&b, t, 1, &config);
	side_meet(&a, &b);
	side_meet(&b, &a);
	CHECK(pg_submit_recvs(b.g, 64, 8, NULL) == 0);
	memset(spent, SPENT, sizeof(spent));
	memset(b.mem, SPENT, MEM);
	for (unsigned i = 0; i < PLACES + MESSAGES; i++)
		rs[0].sent[i] = rs[1].sent[i] = 1;
	while (goes_on(t, &a, clock_ns() - start)) {
		struct round *r = &rs[++rounds % 2];

		/* The memory of the round before the last, which may not have heard that it is over. */
		await_sent(&a, &b, r);
		if (t->same_imm)
			await_sent(&a, &b, &rs[(rounds - 1) % 2]);
		begin(&a, &b, r, rounds, t->same_imm ? 7 : rounds);
		receive(&a, &b, r);
		check_spent(&b, HALF - r->base);
	}
	await_sent(&a, &b, &rs[0]);
	await_sent(&a, &b, &rs[1]);
	all = over_all(&a, t->nics[0]);
	printf("%-24s %u rounds, %llu failovers, %llu work requests again\n", t->name, rounds,
	       (unsigned long long)all.failovers, (unsigned long long)all.retries);
	CHECK(all.failovers > 0);
	pair_close(&a, &b);
}

/* Times of kills count from the first use in a process, so each trial has its own. */
static void run_apart(const struct trial *t)
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		if (t->bounce)
			setenv("PGCTL_SHM_CMA", "0", 1);
		run(t);
		fflush(stdout);
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		check_failed(__FILE__, __LINE__, t->name);
}

/* Arguments: a seed, and the only trial to make. */
int main(int argc, char **argv)
{
	static const struct trial trials[] = {
		{ "ordered", { "fail=0.002", SOUND }, { 1, 1 }, 1000, false, false },
		{ "ordered, one immediate", { "fail=0.02", SOUND }, { 2, 2 }, 1000, true, false },
		{ "ordered, in pieces one at a time",
		  { "fail=0.05,depth=1", SOUND },
		  { 1, 1 },
		  1500,
		  false,
		  false },
		{ "both ways", { "fail=0.002", "fail=0.002" }, { 2, 3 }, 1000, false, false },
		{ "unordered", { TANGLED, "reorder=16" }, { 1, 1 }, 2000, false, false },
		{ "unordered, one immediate",
		  { TANGLED, "reorder=16" },
		  { 2, 2 },
		  2000,
		  true,
		  false },
		{ "unordered, 4 to 2", { TANGLED, "reorder=8" }, { 4, 2 }, 1000, false, false },
		{ "a NIC goes and comes",
		  { "kill=nic1@0.1s,revive=nic1@0.2s,kill=nic0@0.3s,revive=nic0@0.4s", SOUND },
		  { 2, 2 },
		  700,
		  true,
		  false },
		{ "NICs of both sides, unordered",
		  { "reorder=16,kill=nic1@0.1s,revive=nic1@0.4s",
		    "reorder=16,kill=nic0@0.2s,revive=nic0@0.5s" },
		  { 2, 2 },
		  800,
		  true,
		  false },
		{ "three of four",
		  { "kill=nic0@0.1s,kill=nic2@0.2s,kill=nic3@0.3s", "reorder=4" },
		  { 4, 4 },
		  600,
		  false,
		  false },
		{ "copied by the receiver", { "fail=0.02", SOUND }, { 3, 3 }, 1500, false, true },
		{ "copied, unordered", { TANGLED, "reorder=16" }, { 3, 2 }, 1500, false, true },
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 0x5eed;
	for (unsigned i = 0; i < sizeof(trials) / sizeof(trials[0]); i++)
		if (argc < 3 || strtoul(argv[2], NULL, 0) == i)
			run_apart(&trials[i]);
	return 0;
}
