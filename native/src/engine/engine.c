/* SPDX-License-Identifier: MIT */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/fork_fds.h"
#include "util/log.h"
#include "util/random.h"

#define MAX_GROUPS 64
#define DAY_NS (86400ull * 1000000000)

const char *pg_version(void)
{
	return PGCTL_VERSION;
}

/* ---- Configuration ---- */

static int from_env(const char *name, uint64_t *value, uint64_t max, struct pg_error *err)
{
	const char *text = getenv(name);
	unsigned long long v;
	char *end;

	if (!text || !*text)
		return 0;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || v > max)
		return error_set(err, -EINVAL, "%s=%s is not a number from 0 to %llu", name, text,
				 (unsigned long long)max);
	*value = v;
	return 0;
}

int pg_config_init(struct pg_config *config, struct pg_error *err)
{
	static const struct pg_group_config one_group = { .n_domains = 1,
							  .domains = { { .cpu = -1 } },
							  .worker_cpu = -1 };
	uint64_t ops = 4096, events = 8192, unclaimed = 65536, peers = 1024, regions = 4096;
	uint64_t timeout_ms = 30000, limit_ms = 0, spin_us = UINT64_MAX, busy = 0;
	uint64_t heartbeat_ms = 1000, silent_ms = 3000, dead_ms = 3500, goodbye_ms = 1000;
	const char *control = getenv("PGCTL_CONTROL");
	int rc;

	if ((rc = from_env("PGCTL_MAX_OPS", &ops, 1u << 20, err)) ||
	    (rc = from_env("PGCTL_MAX_EVENTS", &events, 1u << 20, err)) ||
	    (rc = from_env("PGCTL_MAX_UNCLAIMED", &unclaimed, 1u << 24, err)) ||
	    (rc = from_env("PGCTL_MAX_PEERS", &peers, 1u << 16, err)) ||
	    (rc = from_env("PGCTL_MAX_REGIONS", &regions, 1u << 20, err)) ||
	    (rc = from_env("PGCTL_OP_TIMEOUT_MS", &timeout_ms, 86400000, err)) ||
	    (rc = from_env("PGCTL_OP_LIMIT_MS", &limit_ms, 86400000, err)) ||
	    (rc = from_env("PGCTL_HEARTBEAT_MS", &heartbeat_ms, 3600000, err)) ||
	    (rc = from_env("PGCTL_SILENT_MS", &silent_ms, 86400000, err)) ||
	    (rc = from_env("PGCTL_DEAD_MS", &dead_ms, 86400000, err)) ||
	    (rc = from_env("PGCTL_GOODBYE_MS", &goodbye_ms, 3600000, err)) ||
	    (rc = from_env("PGCTL_SPIN_US", &spin_us, 1000000, err)) ||
	    (rc = from_env("PGCTL_BUSY_POLL", &busy, 1, err)))
		return rc;
	*config = (struct pg_config){
		.n_groups = 1,
		.groups = &one_group,
		.max_ops = (uint32_t)ops,
		.max_events = (uint32_t)events,
		.max_unclaimed = (uint32_t)unclaimed,
		.max_peers = (uint32_t)peers,
		.max_regions = (uint32_t)regions,
		.op_timeout_ns = timeout_ms * 1000000,
		.op_limit_ns = limit_ms * 1000000,
		.heartbeat_ns = heartbeat_ms * 1000000,
		.silent_ns = silent_ms * 1000000,
		.dead_ns = dead_ms * 1000000,
		.goodbye_ns = goodbye_ms * 1000000,
		.spin_ns = spin_us == UINT64_MAX ? PG_SPIN_AUTO : spin_us * 1000,
		.busy_poll = busy,
	};
	if (control && strlen(control) >= sizeof(config->control))
		return error_set(err, -EINVAL, "PGCTL_CONTROL is longer than %zu characters",
				 sizeof(config->control) - 1);
	snprintf(config->control, sizeof(config->control), "%s", control ? control : "");
	return 0;
}

int config_impairment(const struct pg_group_config *c, struct impairment *impair,
		      struct pg_error *err)
{
	const char *env = getenv("PGCTL_IMPAIR");
	int32_t rank;
	int rc = 0;

	if (!memchr(c->impair, 0, sizeof(c->impair)))
		return error_set(err, -EINVAL, "impair is not a string");
	*impair = (struct impairment){ .spec = c->impair, .seed = c->impair_seed };
	if (!c->impair[0] && env) {
		*impair = (struct impairment){ .spec = env };
		rc = from_env("PGCTL_IMPAIR_SEED", &impair->seed, UINT64_MAX, err);
	}
	if (!rc)
		rc = pg_impair_check(impair->spec, c->n_domains, &rank, err);
	if (!rc && rank >= 0)
		rc = error_set(err, -EINVAL,
			       "impairment \"%.120s\" is for rank %d, and an engine has none",
			       impair->spec, rank);
	return rc;
}

static int check_config(const struct pg_config *c, struct pg_error *err)
{
	if (c->n_groups < 1 || c->n_groups > MAX_GROUPS || !c->groups)
		return error_set(err, -EINVAL, "%u groups; 1 to %d", c->n_groups, MAX_GROUPS);
	if (c->max_ops < 2 || c->max_ops > 1u << 20 || (c->max_ops & (c->max_ops - 1)))
		return error_set(err, -EINVAL, "max_ops %u is not a power of two from 2 to 2^20",
				 c->max_ops);
	if (c->max_events < 2 || c->max_events > 1u << 20 || (c->max_events & (c->max_events - 1)))
		return error_set(err, -EINVAL, "max_events %u is not a power of two from 2 to 2^20",
				 c->max_events);
	if (c->max_unclaimed < 1 || c->max_unclaimed > 1u << 24)
		return error_set(err, -EINVAL, "max_unclaimed %u; 1 to 2^24", c->max_unclaimed);
	if (c->max_peers < 1 || c->max_peers > 1u << 16)
		return error_set(err, -EINVAL, "max_peers %u; 1 to 65536", c->max_peers);
	if (c->max_regions < 1 || c->max_regions > 1u << 20)
		return error_set(err, -EINVAL, "max_regions %u; 1 to 2^20", c->max_regions);
	if (c->op_timeout_ns == 0)
		return error_set(err, -EINVAL, "op_timeout_ns is 0: nothing could ever succeed");
	if (c->heartbeat_ns == 0)
		return error_set(err, -EINVAL, "heartbeat_ns is 0");
	if (c->silent_ns < 2 * c->heartbeat_ns)
		return error_set(err, -EINVAL,
				 "silent_ns %llu is less than two heartbeats of %llu: every peer "
				 "would be called unresponsive",
				 (unsigned long long)c->silent_ns,
				 (unsigned long long)c->heartbeat_ns);
	if (c->dead_ns < 1000000)
		return error_set(err, -EINVAL, "dead_ns %llu; at least a millisecond",
				 (unsigned long long)c->dead_ns);
	if (c->heartbeat_ns > DAY_NS || c->silent_ns > DAY_NS || c->dead_ns > DAY_NS ||
	    c->goodbye_ns > DAY_NS)
		return error_set(err, -EINVAL,
				 "heartbeat, silent, dead or goodbye_ns is more than a day");
	if (!memchr(c->control, 0, sizeof(c->control)))
		return error_set(err, -EINVAL, "control is not a string");
	return 0;
}

/* ---- Life ---- */

/* A hint for people and for choosing a path; connecting is what proves that a peer is local. */
static void read_host_id(uint8_t host[16])
{
	char text[40] = { 0 };
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (read(fd, text, sizeof(text) - 1) > 0)
		for (unsigned i = 0, n = 0; text[i] && n < 32; i++) {
			unsigned v = text[i] >= '0' && text[i] <= '9' ? (unsigned)(text[i] - '0')
				     : text[i] >= 'a' && text[i] <= 'f'
					     ? (unsigned)(text[i] - 'a' + 10)
					     : 99;

			if (v == 99)
				continue;
			host[n / 2] = (uint8_t)(n % 2 ? host[n / 2] | v : v << 4);
			n++;
		}
	close(fd);
}

/* ---- Fork ---- */

/* Engines of the process. Held over a fork, so that the child finds the list whole. */
static pthread_mutex_t engines_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list engines = { &engines, &engines };
static pthread_once_t watch_forks = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
	pthread_mutex_lock(&engines_lock);
	log_before_fork();
}

static void after_fork(void)
{
	log_after_fork();
	pthread_mutex_unlock(&engines_lock);
}

static void in_child(void)
{
	for (struct list *l = engines.next; l != &engines; l = l->next) {
		struct pg_engine *e = LIST_ENTRY(l, struct pg_engine, link);

		for (unsigned i = 0; i < e->n_groups; i++)
			e->groups[i]->forked = true;
	}
	list_init(&engines);
	fork_fds_close(); /* else our peers would not see that the parent has died */
	after_fork();
}

static void register_handlers(void)
{
	pthread_atfork(before_fork, after_fork, in_child);
}

static void engines_add(struct pg_engine *e)
{
	pthread_once(&watch_forks, register_handlers);
	pthread_mutex_lock(&engines_lock);
	list_append(&engines, &e->link);
	pthread_mutex_unlock(&engines_lock);
}

static void engines_remove(struct pg_engine *e)
{
	pthread_mutex_lock(&engines_lock);
	list_remove(&e->link);
	pthread_mutex_unlock(&engines_lock);
}

/* ---- Making and ending ---- */

int pg_engine_create(const struct pg_config *config, struct pg_engine **engine,
		     struct pg_error *err)
{
	struct pg_config defaults;
	struct pg_engine *e;
	int rc;

	if (!config) {
		rc = pg_config_init(&defaults, err);
		if (rc)
			return rc;
		config = &defaults;
	}
	rc = check_config(config, err);
	if (rc)
		return rc;
	e = calloc(1, sizeof(*e) + config->n_groups * sizeof(e->groups[0]));
	if (!e)
		return error_set(err, -ENOMEM, "no memory for an engine");
	e->config = *config;
	e->config.groups = NULL; /* borrowed for this call only */
	/* Never, and still never when it is added to the time. */
	if (e->config.op_timeout_ns > INT64_MAX)
		e->config.op_timeout_ns = INT64_MAX;
	if (e->config.op_limit_ns > INT64_MAX)
		e->config.op_limit_ns = INT64_MAX;
	if ((rc = random_bytes(e->incarnation, sizeof(e->incarnation))) ||
	    (rc = random_bytes(e->token, sizeof(e->token)))) {
		error_set(err, rc, "cannot read random bytes: %s", strerror(-rc));
		goto err_free;
	}
	read_host_id(e->host);
	for (e->n_groups = 0; e->n_groups < config->n_groups; e->n_groups++) {
		rc = group_create(e, e->n_groups, &config->groups[e->n_groups],
				  &e->groups[e->n_groups], err);
		if (rc)
			goto err_groups;
	}
	engines_add(e);
	*engine = e;
	return 0;
err_groups:
	for (unsigned i = 0; i < e->n_groups; i++)
		group_stop(e->groups[i]);
	for (unsigned i = 0; i < e->n_groups; i++)
		group_free(e->groups[i]);
err_free:
	free(e);
	return rc;
}

/* A peer that makes no progress does not hang up, and in all likelihood does not write either. */
static void say_goodbye(struct pg_engine *e)
{
	uint64_t end = clock_ns() + e->config.goodbye_ns;
	bool waits = true;

	for (unsigned i = 0; i < e->n_groups; i++)
		group_goodbye(e->groups[i]);
	while (waits && clock_ns() < end) {
		waits = false;
		for (unsigned i = 0; i < e->n_groups; i++)
			waits |= group_parting(e->groups[i]);
	}
}

int pg_engine_destroy(struct pg_engine *e)
{
	if (!e)
		return 0;
	if (e->n_groups && group_forked(e->groups[0]))
		return -ESTALE;
	for (unsigned i = 0; i < e->n_groups; i++)
		if (group_in_callback(e->groups[i]))
			return -EDEADLK;
	engines_remove(e);
	for (unsigned i = 0; i < e->n_groups; i++)
		group_stop(e->groups[i]);
	say_goodbye(e);
	for (unsigned i = 0; i < e->n_groups; i++)
		group_free(e->groups[i]);
	free(e);
	return 0;
}

unsigned pg_engine_groups(const struct pg_engine *e)
{
	return e->n_groups;
}

struct pg_group *pg_engine_group(struct pg_engine *e, unsigned i)
{
	return i < e->n_groups ? e->groups[i] : NULL;
}

/* ---- Transports ---- */

const char *pg_transport_name(unsigned i)
{
	const struct transport *t = transport_at(i);

	return t ? t->name : NULL;
}

int pg_transport_caps(const char *name, struct pg_caps *caps, struct pg_error *err)
{
	const struct transport *t = transport_find(name);

	if (!t)
		return error_set(err, -ENOENT, "no transport is named %.32s", name);
	return t->query(caps, err);
}
