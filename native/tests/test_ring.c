/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "util/ring.h"

#define PRODUCERS 2
#define CONSUMERS 2
#define PER_PRODUCER 150000U
#define TOTAL (PRODUCERS * PER_PRODUCER)

struct consumer {
	struct ring *ring;
	_Atomic uint32_t *taken; /* by all consumers */
	uint8_t *seen;           /* of each value, by this one */
};

struct producer {
	struct ring *ring;
	uint32_t first;
};

static void test_capacity(void)
{
	static const uint32_t bad[] = { 0, 1, 3, 6, 1000, UINT32_MAX };
	struct ring r = { .cells = NULL };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK(ring_init(&r, bad[i]) < 0);
	ring_fini(&r);
	CHECK_EQ(ring_init(&r, 2), 0);
	ring_fini(&r);
	ring_fini(&r);
}

/* As if start values had passed already. */
static void start_at(struct ring *r, uint64_t start)
{
	atomic_store(&r->tail, start);
	atomic_store(&r->head, start);
	for (uint64_t pos = start; pos <= start + r->mask; pos++)
		atomic_store(&r->cells[pos & r->mask].ticket, (uint32_t)pos);
}

/* One thread: order, full, empty, at every fill level. */
static void test_order(uint32_t capacity, uint64_t start)
{
	struct ring r;
	uint32_t pushed = 0;
	uint32_t popped = 0;
	uint32_t v;

	CHECK_EQ(ring_init(&r, capacity), 0);
	start_at(&r, start);
	for (uint32_t round = 0; round < 5 * capacity; round++) {
		uint32_t level = round % (capacity + 1);

		CHECK(ring_empty(&r));
		CHECK(!ring_pop(&r, &v));
		for (uint32_t i = 0; i < level; i++) {
			CHECK(ring_push(&r, pushed++));
			CHECK(!ring_empty(&r));
		}
		if (level == capacity)
			CHECK(!ring_push(&r, 12345));
		while (popped < pushed) {
			CHECK(ring_pop(&r, &v));
			CHECK_EQ(v, popped++);
		}
	}
	ring_fini(&r);
}

static void *produce(void *arg)
{
	struct producer *p = arg;

	for (uint32_t i = 0; i < PER_PRODUCER; i++) {
		while (!ring_push(p->ring, p->first + i))
			sched_yield();
	}
	return NULL;
}

static void *consume(void *arg)
{
	struct consumer *c = arg;
	int64_t last[PRODUCERS] = { -1, -1 };

	while (atomic_load(c->taken) < TOTAL) {
		uint32_t v;

		if (!ring_pop(c->ring, &v)) {
			sched_yield();
			continue;
		}
		atomic_fetch_add(c->taken, 1);
		CHECK(v < TOTAL);
		/* One producer's values come in its order to any one consumer. */
		CHECK(v > last[v / PER_PRODUCER]);
		last[v / PER_PRODUCER] = v;
		c->seen[v]++;
	}
	return NULL;
}

static void test_threads(uint32_t capacity)
{
	_Atomic uint32_t taken = 0;
	struct ring r;
	struct producer producers[PRODUCERS];
	struct consumer consumers[CONSUMERS];
	pthread_t threads[PRODUCERS + CONSUMERS];

	CHECK_EQ(ring_init(&r, capacity), 0);
	start_at(&r, UINT32_MAX - TOTAL / 2);
	for (unsigned i = 0; i < CONSUMERS; i++) {
		consumers[i] = (struct consumer){ &r, &taken, calloc(TOTAL, 1) };
		CHECK(consumers[i].seen);
		CHECK_EQ(pthread_create(&threads[i], NULL, consume, &consumers[i]), 0);
	}
	for (unsigned i = 0; i < PRODUCERS; i++) {
		producers[i] = (struct producer){ &r, i * PER_PRODUCER };
		CHECK_EQ(pthread_create(&threads[CONSUMERS + i], NULL, produce, &producers[i]), 0);
	}
	for (unsigned i = 0; i < PRODUCERS + CONSUMERS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	for (uint32_t v = 0; v < TOTAL; v++)
		CHECK_EQ(consumers[0].seen[v] + consumers[1].seen[v], 1);
	CHECK(ring_empty(&r));
	for (unsigned i = 0; i < CONSUMERS; i++)
		free(consumers[i].seen);
	ring_fini(&r);
}

/* A pop that is preempted halfway makes a nearly empty ring look full, and nothing is lost by
 * it. */
static void test_preempted_pop(void)
{
	struct ring r;
	uint32_t v;

	CHECK_EQ(ring_init(&r, 4), 0);
	CHECK(ring_push(&r, 0));
	atomic_store(&r.head, 1); /* it has won its position */
	for (uint32_t i = 1; i < 4; i++) {
		CHECK(ring_push(&r, i));
		CHECK(ring_pop(&r, &v));
		CHECK_EQ(v, i);
	}
	CHECK(!ring_push(&r, 4));
	CHECK(ring_empty(&r));
	atomic_store(&r.cells[0].ticket, 4); /* it goes on */
	CHECK(ring_push(&r, 4));
	CHECK(ring_pop(&r, &v));
	CHECK_EQ(v, 4);
	ring_fini(&r);
}

static void *circulate(void *arg)
{
	struct ring *r = arg;

	for (uint32_t i = 0; i < PER_PRODUCER; i++) {
		uint32_t v;

		if (ring_pop(r, &v))
			ring_put(r, v);
	}
	return NULL;
}

/* A pool of numbers, with a place for each: all are there in the end. */
static void test_pool(void)
{
	struct ring r;
	unsigned seen[8] = { 0 };
	pthread_t threads[PRODUCERS + CONSUMERS];

	CHECK_EQ(ring_init(&r, 8), 0);
	for (uint32_t v = 0; v < 8; v++)
		CHECK(ring_push(&r, v));
	for (unsigned i = 0; i < PRODUCERS + CONSUMERS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, circulate, &r), 0);
	for (unsigned i = 0; i < PRODUCERS + CONSUMERS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < 8; i++) {
		uint32_t v;

		CHECK(ring_pop(&r, &v));
		CHECK(v < 8);
		CHECK_EQ(seen[v]++, 0);
	}
	CHECK(ring_empty(&r));
	ring_fini(&r);
}

int main(void)
{
	test_capacity();
	for (uint32_t capacity = 2; capacity <= 64; capacity *= 2) {
		test_order(capacity, 0);
		test_order(capacity, UINT32_MAX - 2 * capacity);
		test_order(capacity, (1ULL << 40) - 3);
	}
	test_preempted_pop();
	test_pool();
	test_threads(2);
	test_threads(1024);
	printf("ring: order at every fill, tickets past 2^32, %u values from %d to %d threads\n",
	       TOTAL, PRODUCERS, CONSUMERS);
	return 0;
}
