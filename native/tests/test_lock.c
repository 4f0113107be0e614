/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "util/clock.h"
#include "util/lock.h"
#include "util/random.h"

#define THREADS 4
#define ROUNDS 100000U
#define MS 1000000ULL

struct shared {
	struct lock lock;
	uint64_t count; /* guarded by lock */
	_Atomic uint32_t word;
	uint64_t cpu_ns;
	int rc;
};

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static void sleep_ms(uint64_t ms)
{
	struct timespec t = { .tv_nsec = (long)(ms * MS) };

	nanosleep(&t, NULL);
}

static void *count(void *arg)
{
	struct shared *s = arg;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		if (i % 4 || !lock_try(&s->lock))
			lock_acquire(&s->lock);
		s->count++;
		lock_release(&s->lock);
	}
	return NULL;
}

/* Everybody adds without losing anything. */
static void test_exclusion(void)
{
	struct shared s = { .count = 0 };
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, count, &s), 0);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	CHECK_EQ(s.count, THREADS * ROUNDS);
	CHECK_EQ(atomic_load(&s.lock.state), LOCK_FREE);
}

static void *wait_for_lock(void *arg)
{
	struct shared *s = arg;

	errno = 77;
	lock_acquire(&s->lock);
	CHECK_EQ(errno, 77);
	s->count++;
	s->cpu_ns += thread_cpu_ns();
	lock_release(&s->lock);
	return NULL;
}

/* Who waits long sleeps, and every sleeper is woken. */
static void test_sleep(void)
{
	struct shared s = { .count = 0 };
	pthread_t threads[THREADS];

	CHECK(lock_try(&s.lock));
	CHECK(!lock_try(&s.lock));
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, wait_for_lock, &s), 0);
	sleep_ms(200);
	while (atomic_load(&s.lock.state) != LOCK_WAITED)
		sleep_ms(1);
	CHECK_EQ(s.count, 0);
	lock_release(&s.lock);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	CHECK_EQ(s.count, THREADS);
	CHECK(s.cpu_ns < 100 * MS);
}

static void *wait_for_word(void *arg)
{
	struct shared *s = arg;

	atomic_store(&s->word, 1);
	s->rc = futex_wait(&s->word, 1, 60 * NS_PER_SEC);
	return NULL;
}

static void on_signal(int number)
{
	(void)number;
}

static void test_futex(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct shared s = { .rc = 1 };
	uint64_t start = clock_ns();
	pthread_t thread;

	errno = 77;
	CHECK_EQ(futex_wait(&s.word, 1, UINT64_MAX), -EAGAIN);
	CHECK_EQ(futex_wait(&s.word, 0, 20 * MS), -ETIMEDOUT);
	CHECK_EQ(errno, 77);
	CHECK(clock_ns() - start >= 20 * MS);
	futex_wake(&s.word, 1);

	/* Wakes until somebody was there; then interrupts until somebody was there. */
	CHECK_EQ(pthread_create(&thread, NULL, wait_for_word, &s), 0);
	while (atomic_load(&s.word) != 1)
		sleep_ms(1);
	atomic_store(&s.word, 2);
	futex_wake(&s.word, 1);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	CHECK(s.rc == 0 || s.rc == -EAGAIN);

	CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
	CHECK_EQ(pthread_create(&thread, NULL, wait_for_word, &s), 0);
	while (pthread_tryjoin_np(thread, NULL)) {
		sleep_ms(5);
		pthread_kill(thread, SIGUSR1);
	}
	CHECK_EQ(s.rc, -EINTR);
}

static void test_random(void)
{
	uint8_t a[600] = { 0 };
	uint8_t b[600] = { 0 };

	CHECK_EQ(random_bytes(a, sizeof(a)), 0);
	CHECK_EQ(random_bytes(b, sizeof(b) - 16), 0);
	CHECK(memcmp(a, b, 16) && memcmp(a + 568, b + 568, 16));
	for (unsigned i = 584; i < 600; i++)
		CHECK_EQ(b[i], 0);
}

int main(void)
{
	test_exclusion();
	test_sleep();
	test_futex();
	test_random();
	printf("lock: %d threads of %u rounds, sleepers woken, futex results, random bytes\n",
	       THREADS, ROUNDS);
	return 0;
}
