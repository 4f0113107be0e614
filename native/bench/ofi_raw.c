/* SPDX-License-Identifier: MIT
 *
 * What libfabric itself does with pgctl's writes: two processes, endpoints without connections, every write
 * complete when it has been delivered, both sides polling. The sizes go to the same place again and again.
 * Prints lines of a name and a value.
 *
 *     ofi_raw -p tcp [-d eth0] [-c 0,1] [-s SECONDS] [-n] SIZE:WINDOW...
 *
 * -n: without immediates. A latency is half the median round trip; everything else is a mean. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ofi_end.h"

#define PATIENCE_S 100 /* and as many times as long as all measurements should take: */
#define MARGIN 4
#define LATENCY_SIZE 8
#define WARMUP_NS 20000000 /* that a trial takes at least before its speed is believed */
#define MOST_ROUNDS 1000000
#define MOST_SIZES 16

struct request {
	const char *provider, *domain;
	int cores[2];
	double seconds;
	bool imm;
	int n;
	struct {
		size_t size, window;
	} sizes[MOST_SIZES];
};

/* What the sender tells the receiver to do next. */
struct order {
	enum { ROUNDS, STREAM, END } what;
	uint64_t count; /* arrivals, or rounds */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void post(struct ofi_end *end, size_t size, bool imm)
{
	while (!ofi_post(end, size, imm))
		ofi_poll(end);
}

static void expect_nothing_more(const struct ofi_end *end, uint64_t completed, uint64_t arrived)
{
	if (end->completed != completed || end->arrived != arrived)
		ofi_die("%llu writes of %llu completed, %llu of %llu arrived",
			(unsigned long long)end->completed, (unsigned long long)completed,
			(unsigned long long)end->arrived, (unsigned long long)arrived);
}

/* ---- Throughput ------------------------------------------------------------------------------- */

/* When all of them were complete. */
static uint64_t send_stream(struct ofi_end *end, size_t size, size_t window, uint64_t count,
			    bool imm)
{
	uint64_t posted = 0;

	while (end->completed < count) {
		while (posted < count && posted - end->completed < window &&
		       ofi_post(end, size, imm))
			posted++;
		ofi_poll(end);
	}
	return now_ns();
}

/* When all of them had arrived. */
static uint64_t receive_stream(struct ofi_end *end, uint64_t count)
{
	while (end->arrived < count)
		ofi_poll(end);
	return now_ns();
}

/* The ns that so many writes took. */
static uint64_t stream(struct ofi_end *end, size_t size, size_t window, uint64_t count, bool imm)
{
	struct order order = { .what = STREAM, .count = imm ? count : 0 };
	uint64_t sent, arrived, from;

	end->completed = end->arrived = 0;
	ofi_tell(end, &order, sizeof(order));
	from = now_ns();
	sent = send_stream(end, size, window, count, imm);
	ofi_tell(end, &sent, sizeof(sent));
	ofi_hear(end, &arrived, sizeof(arrived));
	expect_nothing_more(end, count, 0);
	return (sent > arrived ? sent : arrived) - from;
}

static void obey_stream(struct ofi_end *end, const struct order *order)
{
	uint64_t arrived = receive_stream(end, order->count), sent;

	ofi_hear(end, &sent, sizeof(sent));
	expect_nothing_more(end, 0, order->count);
	ofi_tell(end, &arrived, sizeof(arrived));
}

static void measure_stream(struct ofi_end *end, const struct request *request, size_t size,
			   size_t window)
{
	uint64_t count = window, ns;
	double each_ns;

	while ((ns = stream(end, size, window, count, request->imm)) < WARMUP_NS)
		count *= 4;
	each_ns = (double)ns / (double)count;
	count = (uint64_t)(1e9 * request->seconds / each_ns) + window;
	ns = stream(end, size, window, count, request->imm);
	each_ns = (double)ns / (double)count;
	if (size == LATENCY_SIZE)
		printf("rate_mop_s.%zu %.5g\n", size, 1e3 / each_ns);
	else
		printf("bw_gbyte_s.%zu %.5g\n", size, (double)size / each_ns);
}

/* ---- Latency ---------------------------------------------------------------------------------- */

/* Waits for the other end's i-th write: with an immediate it is counted, else memory shows it. */
static void await_round(struct ofi_end *end, uint64_t i, bool imm)
{
	const volatile uint64_t *word = (uint64_t *)(void *)(end->memory + end->half);

	while (imm ? end->arrived < i : *word != i)
		ofi_poll(end);
}

static void send_round(struct ofi_end *end, uint64_t i, bool imm)
{
	while (end->completed + 1 < i)
		ofi_poll(end);
	*(uint64_t *)(void *)end->memory = i;
	post(end, LATENCY_SIZE, imm);
}

static void finish_rounds(struct ofi_end *end, uint64_t count, bool imm)
{
	while (end->completed < count)
		ofi_poll(end);
	expect_nothing_more(end, count, imm ? count : 0);
}

/* Between two measurements, when nothing is under way. */
static void reset(struct ofi_end *end)
{
	end->completed = end->arrived = 0;
	*(volatile uint64_t *)(void *)(end->memory + end->half) = 0;
}

static void rounds(struct ofi_end *end, uint64_t count, bool imm, uint64_t *ns)
{
	struct order order = { .what = ROUNDS, .count = count };
	uint64_t before, done;

	reset(end);
	ofi_tell(end, &order, sizeof(order));
	ofi_hear(end, &done, sizeof(done));
	before = now_ns();
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t now;

		send_round(end, i, imm);
		await_round(end, i, imm);
		now = now_ns();
		ns[i - 1] = now - before;
		before = now;
	}
	finish_rounds(end, count, imm);
	ofi_tell(end, &count, sizeof(count));
	ofi_hear(end, &done, sizeof(done));
}

static void obey_rounds(struct ofi_end *end, const struct order *order, bool imm)
{
	uint64_t done = 0;

	reset(end);
	ofi_tell(end, &done, sizeof(done));
	for (uint64_t i = 1; i <= order->count; i++) {
		await_round(end, i, imm);
		send_round(end, i, imm);
	}
	finish_rounds(end, order->count, imm);
	ofi_hear(end, &done, sizeof(done));
	ofi_tell(end, &done, sizeof(done));
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t sum(const uint64_t *ns, uint64_t count)
{
	uint64_t total = 0;

	for (uint64_t i = 0; i < count; i++)
		total += ns[i];
	return total;
}

static void measure_latency(struct ofi_end *end, const struct request *request)
{
	uint64_t *ns = malloc(MOST_ROUNDS * sizeof(*ns));
	uint64_t count = 100;
	double wanted;

	if (!ns)
		ofi_die("no memory for samples");
	rounds(end, count, request->imm, ns);
	wanted = 1e9 * request->seconds * (double)count / (double)sum(ns, count);
	count = wanted < MOST_ROUNDS ? (uint64_t)wanted + 1 : MOST_ROUNDS;
	rounds(end, count, request->imm, ns);
	qsort(ns, count, sizeof(*ns), by_value);
	printf("lat_us.%d %.5g\n", LATENCY_SIZE, (double)ns[count / 2] / 2e3);
	free(ns);
}

/* ---- Two processes ---------------------------------------------------------------------------- */

static void act_as_sender(struct ofi_end *end, const struct request *request)
{
	struct order over = { .what = END };

	printf("libfabric %u.%u\nprovider %s\ndomain %s\n", FI_MAJOR(fi_version()),
	       FI_MINOR(fi_version()), end->info->fabric_attr->prov_name,
	       end->info->domain_attr->name);
	for (int i = 0; i < request->n; i++) {
		size_t size = request->sizes[i].size;

		if (size == LATENCY_SIZE)
			measure_latency(end, request);
		measure_stream(end, request, size, request->sizes[i].window);
	}
	ofi_tell(end, &over, sizeof(over));
}

static void act_as_receiver(struct ofi_end *end, const struct request *request)
{
	struct order order;

	for (;;) {
		end->completed = end->arrived = 0;
		ofi_hear(end, &order, sizeof(order));
		switch (order.what) {
		case ROUNDS:
			obey_rounds(end, &order, request->imm);
			break;
		case STREAM:
			obey_stream(end, &order);
			break;
		case END:
			return;
		}
	}
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		ofi_die("core %d: %s", core, strerror(errno));
}

static void give_up(int signal)
{
	static const char why[] = "ofi_raw: time ran out\n";

	(void)signal;
	_exit(write(STDERR_FILENO, why, sizeof(why) - 1) < 0 ? 2 : 1);
}

static void act(const struct request *request, bool sender, int control)
{
	struct ofi_end end;
	size_t half = 4096;

	for (int i = 0; i < request->n; i++)
		if (request->sizes[i].size > half)
			half = request->sizes[i].size;
	signal(SIGALRM, give_up);
	alarm(PATIENCE_S + (unsigned)(MARGIN * request->seconds) * (unsigned)request->n);
	pin(request->cores[!sender]);
	ofi_open(&end, request->provider, request->domain, half, control);
	if (sender)
		act_as_sender(&end, request);
	else
		act_as_receiver(&end, request);
	ofi_close(&end);
}

static void parse_sizes(struct request *request, char **words)
{
	for (; *words; words++, request->n++) {
		int used = 0;

		if (request->n == MOST_SIZES)
			ofi_die("more than %d sizes", MOST_SIZES);
		if (sscanf(*words, "%zu:%zu%n", &request->sizes[request->n].size,
			   &request->sizes[request->n].window, &used) != 2 ||
		    (*words)[used] || !request->sizes[request->n].size ||
		    !request->sizes[request->n].window)
			ofi_die("%s is not SIZE:WINDOW", *words);
	}
}

static void parse(struct request *request, int argc, char **argv)
{
	static const char usage[] =
		"-p PROVIDER [-d DOMAIN] [-c CORE,CORE] [-s SECONDS] [-n] SIZE:WINDOW...";
	int option;

	while ((option = getopt(argc, argv, "p:d:c:s:n")) != -1) {
		if (option == 'p')
			request->provider = optarg;
		else if (option == 'd')
			request->domain = optarg;
		else if (option == 's' && (request->seconds = atof(optarg)) > 0)
			continue;
		else if (option == 'n')
			request->imm = false;
		else if (option != 'c' ||
			 sscanf(optarg, "%d,%d", &request->cores[0], &request->cores[1]) != 2)
			ofi_die("%s", usage);
	}
	parse_sizes(request, argv + optind);
	if (!request->provider || !request->n)
		ofi_die("%s", usage);
}

int main(int argc, char **argv)
{
	struct request request = { .cores = { 0, 1 }, .seconds = 1, .imm = true };
	int pair[2], status;
	pid_t child;

	parse(&request, argc, argv);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		ofi_die("socketpair: %s", strerror(errno));
	child = fork();
	if (child < 0)
		ofi_die("fork: %s", strerror(errno));
	close(pair[!child]);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		act(&request, false, pair[0]);
		return 0;
	}
	act(&request, true, pair[1]);
	if (waitpid(child, &status, 0) != child || status)
		ofi_die("the receiver did not end well");
	return 0;
}
