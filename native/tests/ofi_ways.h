/* SPDX-License-Identifier: MIT
 *
 * The libfabrics that tests of the ofi transport run over: providers tcp and shm of the one that is installed, and
 * the stand-in for EFA.
 */
#ifndef PGCTL_TESTS_OFI_WAYS_H
#define PGCTL_TESTS_OFI_WAYS_H

#include <dirent.h>
#include <unistd.h>

#include "nic_ends.h"
#include "transport/ofi/ofi.h"

/* tcp of 1.17 forgets some memory of each endpoint (xnet_init_rdm() never frees its fi_info). What
 * we forget is found over the stand-in, which has another name. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libfabric.so.1\n";
}

struct ofi_way {
	const char *name;
	char options[400];
	const char *fake; /* FAKE_EFA, of the stand-in; else NULL */
};

/* Whether there is one; else says why not. */
static inline bool begin(const struct ofi_way *way)
{
	struct domain_options options = { .device = "", .options = way->options, .cpu = -1 };
	struct pg_error err = { 0 };
	struct domain *d;
	bool serves;

	if (way->fake)
		setenv("FAKE_EFA", way->fake, 1);
	printf("over %s", way->name);
	if (transport_ofi.open(&options, &d, &err)) {
		printf(": skipped: %s\n", err.text);
		return false;
	}
	/* See ofi_conn_attach(). */
	serves = !ofi_domain(d)->nic.lingers || FI_MAJOR(ofi_domain(d)->lib->version()) < 2;
	transport_ofi.close(d);
	printf("%s\n", serves ? "" : ": skipped: not within one process, since libfabric 2");
	fflush(stdout);
	return serves;
}

/* Runs it over each that there is. 77 if there is none. */
static inline int over_each(const struct ofi_way *ways, unsigned n,
			    void (*run)(const struct ofi_way *way))
{
	unsigned ran = 0;

	for (unsigned i = 0; i < n; i++) {
		if (!begin(&ways[i]))
			continue;
		run(&ways[i]);
		ran++;
	}
	return ran ? 0 : 77;
}

static inline struct ofi_way fake_way(const char *name, const char *library, const char *fake)
{
	struct ofi_way way = { .name = name, .fake = fake };

	snprintf(way.options, sizeof(way.options), "library=%s", library);
	return way;
}

static inline bool is_over(const struct end *e, const char *provider)
{
	return !strcmp(ofi_provider(ofi_domain(e->d)), provider);
}

static inline unsigned length(const struct list *list)
{
	unsigned n = 0;

	for (const struct list *l = list->next; l != list; l = l->next)
		n++;
	return n;
}

static inline unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* All that a NIC lends to its connections has come back. */
static inline bool is_whole(const struct end *e)
{
	const struct ofi_domain *d = ofi_domain(e->d);

	return length(&d->free_sends) == OFI_SENDS && d->n_spare == OFI_BUFFERS &&
	       list_empty(&d->closed) && list_empty(&d->news) && list_empty(&d->handed) &&
	       list_empty(&d->inbox) && list_empty(&d->ended);
}

#define UNTIL_WHOLE(a, b) until_whole(a, b, __LINE__)

static inline void until_whole(struct end *a, struct end *b, int line)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	while (!is_whole(a) || !is_whole(b)) {
		poll_end(a);
		poll_end(b);
		if (clock_ns() > end)
			check_failed(__FILE__, line, "all comes back in time");
	}
}

#endif
