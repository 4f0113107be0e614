/* MPI_Put or MPI_Barrier between two ranks: prints one "metric value" line per measurement.
 *
 * usage: mpiexec -n 2 mpi_peer allocate|create|barrier CORE0 CORE1
 *   allocate  puts into memory that MPI allocated (MPI_Win_allocate)
 *   create    puts into memory of the program (MPI_Win_create)
 *   barrier   MPI_Barrier in a loop
 */
#define _GNU_SOURCE
#include <mpi.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { REGION = 32 << 20, WINDOW_BYTES = 16 << 20, WINDOW_MAX = 1024, BATCHES_MAX = 4096 };
static const double MEASURE_S = 0.2;

static int rank;
static int must_progress; /* a put may need the target's own calls to arrive */
static MPI_Win win;
static char *src, *dst;

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, n, sizeof *v, by_value);
	return v[n / 2];
}

static void put(size_t from, size_t to, size_t bytes)
{
	MPI_Put(src + from, bytes, MPI_BYTE, 1 - rank, to, bytes, MPI_BYTE, win);
}

static void await(uint64_t value)
{
	volatile uint64_t *word = (volatile uint64_t *)dst;
	int flag;

	while (*word != value)
		if (must_progress)
			MPI_Iprobe(1 - rank, 0, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
}

static double latency_us(void)
{
	enum { BATCHES = 10, ITERS = 10000 };
	double took[BATCHES];
	uint64_t value = 0;

	memset(dst, 0, 8);
	MPI_Barrier(MPI_COMM_WORLD);
	for (int b = 0; b < BATCHES; b++) {
		double start = MPI_Wtime();
		for (int i = 0; i < ITERS; i++) {
			value++;
			if (rank == 1)
				await(value);
			memcpy(src, &value, 8);
			put(0, 0, 8);
			MPI_Win_flush(1 - rank, win);
			if (rank == 0)
				await(value);
		}
		took[b] = (MPI_Wtime() - start) / ITERS / 2;
	}
	return median(took, BATCHES) * 1e6;
}

/* Seconds that `count` puts of `bytes` and one flush take; put i goes to page to[i], or all to
 * the same place when `to` is NULL. Rank 1 waits in a barrier. */
static double batch_s(size_t bytes, int count, const int *to)
{
	static double took[BATCHES_MAX];
	int n = 0;

	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		double begin = MPI_Wtime(), now = begin, start;
		while (n < 4 || (now - begin < MEASURE_S && n < BATCHES_MAX)) {
			start = now;
			for (int i = 0; i < count; i++)
				put(to ? i * bytes : 0, to ? to[i] * bytes : 0, bytes);
			MPI_Win_flush(1, win);
			now = MPI_Wtime();
			took[n++] = now - start;
		}
	}
	MPI_Barrier(MPI_COMM_WORLD);
	return rank == 0 ? median(took, n) : 1;
}

static double paged_s(size_t bytes, int pages)
{
	int *to = malloc(pages * sizeof *to);
	uint32_t random = 1;
	double took;

	for (int i = 0; i < pages; i++)
		to[i] = i;
	for (int i = pages - 1; i > 0; i--) {
		int j = (random = random * 1664525 + 1013904223) % (i + 1);
		int was = to[i];
		to[i] = to[j];
		to[j] = was;
	}
	for (int i = 0; i < pages; i++)
		memset(src + i * bytes, i % 251 + 1, bytes);
	memset(dst, 0, pages * bytes);
	took = batch_s(bytes, pages, to);
	if (rank == 1)
		for (int i = 0; i < pages; i++)
			if (memcmp(dst + to[i] * bytes, src + i * bytes, bytes))
				die("a page arrived with the wrong bytes");
	free(to);
	return took;
}

static double barrier_us(void)
{
	enum { BATCHES = 10, ITERS = 20000 };
	double took[BATCHES];

	for (int b = 0; b < BATCHES; b++) {
		double start = MPI_Wtime();
		for (int i = 0; i < ITERS; i++)
			MPI_Barrier(MPI_COMM_WORLD);
		took[b] = (MPI_Wtime() - start) / ITERS;
	}
	return median(took, BATCHES) * 1e6;
}

static void say(const char *metric, double value)
{
	if (rank == 0)
		printf("%s %.6g\n", metric, value);
}

static void *map_region(void)
{
	void *p = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap failed");
	return p;
}

static void measure_puts(void)
{
	static const int sizes[] = { 4096, 65536, 1 << 20, 32 << 20 };
	static const int paged[][2] = { { 4096, 4096 }, { 65536, 512 }, { 1 << 20, 32 } };
	char metric[64];

	src = map_region();
	if (must_progress) {
		dst = map_region();
		MPI_Win_create(dst, REGION, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
	} else {
		MPI_Win_allocate(REGION, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &dst, &win);
	}
	memset(src, 1, REGION);
	memset(dst, 0, REGION);
	MPI_Win_lock_all(MPI_MODE_NOCHECK, win);

	say("lat_us.8", latency_us());
	say("rate_mop_s.8", WINDOW_MAX / batch_s(8, WINDOW_MAX, NULL) / 1e6);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		int count = WINDOW_BYTES / sizes[i];
		count = count < 1 ? 1 : count > WINDOW_MAX ? WINDOW_MAX : count;
		snprintf(metric, sizeof metric, "bw_gbyte_s.%d", sizes[i]);
		say(metric, (double)count * sizes[i] / batch_s(sizes[i], count, NULL) / 1e9);
	}
	for (size_t i = 0; i < sizeof paged / sizeof *paged; i++) {
		double bytes = (double)paged[i][0] * paged[i][1];
		snprintf(metric, sizeof metric, "paged_gbyte_s.%d", paged[i][0]);
		say(metric, bytes / paged_s(paged[i][0], paged[i][1]) / 1e9);
	}
	MPI_Win_unlock_all(win);
	MPI_Win_free(&win);
}

int main(int argc, char **argv)
{
	int ranks;
	cpu_set_t cpus;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (argc != 4 || ranks != 2)
		die("usage: mpiexec -n 2 mpi_peer allocate|create|barrier CORE0 CORE1");
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[2 + rank]), &cpus);
	if (sched_setaffinity(0, sizeof cpus, &cpus))
		die("sched_setaffinity failed");

	if (!strcmp(argv[1], "barrier")) {
		say("barrier_us", barrier_us());
	} else {
		must_progress = !strcmp(argv[1], "create");
		measure_puts();
	}
	MPI_Finalize();
	return 0;
}
