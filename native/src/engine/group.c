/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/completion.h"
#include "engine/flight.h"
#include "engine/control.h"
#include "engine/engine.h"
#include "engine/handshake.h"
#include "engine/memory.h"
#include "engine/message.h"
#include "engine/news.h"
#include "engine/op.h"
#include "engine/peer.h"
#include "engine/peer_group.h"
#include "engine/progress.h"
#include "engine/regions.h"
#include "engine/wait_fd.h"
#include "engine/watcher.h"
#include "util/clock.h"
#include "util/futex.h"

#define SPARE_CORES 3 /* two ranks and a worker */
#define SPIN_NS 50000
#define GOODBYE_POLL_NS 200000
#define LEAVING "the engine is shutting down"

/* ---- Callbacks ---- */

/* A callback may use other groups, whose callbacks then run within it. */
struct frame {
	const struct pg_group *group;
	const struct frame *outer;
};

static _Thread_local const struct frame *frames;

bool group_in_callback(const struct pg_group *g)
{
	const struct frame *f = frames;

	while (f && f->group != g)
		f = f->outer;
	return f != NULL;
}

void group_callback(struct pg_group *g, const struct pg_done *done, const struct pg_event *event)
{
	struct frame frame = { .group = g, .outer = frames };
	bool outer = g->calling;

	frames = &frame;
	g->calling = true;
	done->callback(done->arg, event);
	g->calling = outer;
	frames = frame.outer;
}

/* ---- Domains ---- */

static int choose(const char *name, const struct transport **transport, struct pg_error *err)
{
	struct pg_caps caps;
	int rc = error_set(err, -ENODEV, "this build has no transport");

	if (name[0]) {
		*transport = transport_find(name);
		return *transport ? 0
				  : error_set(err, -ENOENT, "no transport is named %.16s", name);
	}
	for (unsigned i = 0; rc && (*transport = transport_at(i)); i++)
		rc = (*transport)->query(&caps, err);
	return rc;
}

static int open_domain(struct pg_group *g, const struct pg_domain_config *config,
		       const struct impairment *impair, struct pg_error *err)
{
	unsigned i = g->n_domains;
	struct net_domain *net = &g->addr.domains[i];
	struct domain_options options = {
		.device = config->device,
		.options = config->options,
		.index = i,
		.cpu = config->cpu,
		.link_mbit_s = config->link_mbit_s,
		.max_peers = g->config->max_peers,
		.async = g->worker_mode,
	};
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	const struct transport *t = NULL;
	struct domain *d;
	size_t len = sizeof(net->addr);
	int rc;

	if (!memchr(config->transport, 0, sizeof(config->transport)) ||
	    !memchr(config->device, 0, sizeof(config->device)) ||
	    !memchr(config->options, 0, sizeof(config->options)))
		return error_set(err, -EINVAL, "domain %u: name too long", i);
	rc = choose(config->transport, &t, err);
	if (rc)
		return rc;
	rc = impair->spec[0] ? impaired_open(t, impair->spec, impair->seed, &options, &d, err)
			     : t->open(&options, &d, err);
	if (rc)
		return rc;
	d->index = i;
	rc = d->transport->address(d, net->addr, &len);
	if (rc) {
		error_set(err, rc, "%s has no address: %s", d->name, strerror(-rc));
		goto err_close;
	}
	/* edge-triggered: a doorbell that rings late must not wake more than once */
	if ((d->fd >= 0 && epoll_ctl(g->epoll, EPOLL_CTL_ADD, d->fd, &event)) ||
	    (d->nic_fd > 0 && epoll_ctl(g->epoll, EPOLL_CTL_ADD, d->nic_fd, &event))) {
		rc = error_set(err, -errno, "cannot watch %s: %s", d->name, strerror(errno));
		goto err_close;
	}
	memcpy(net->transport, config->transport[0] ? config->transport : t->name,
	       strlen(t->name) + 1);
	net->addr_len = (uint8_t)len;
	net->link_mbit_s = config->link_mbit_s ? config->link_mbit_s
					       : (uint32_t)d->caps.link_mbit_s;
	net->rail = config->rail ? config->rail : d->rail;
	g->domains[i] = d;
	g->nics |= (uint8_t)(1u << i);
	g->addr.n_domains = ++g->n_domains;
	return 0;
err_close:
	d->transport->close(d);
	return rc;
}

/* ---- Worker ---- */

static bool cores_to_spare(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) >= SPARE_CORES;
}

static bool choose_worker(int progress)
{
	return progress == PG_PROGRESS_AUTO ? cores_to_spare() : progress == PG_PROGRESS_WORKER;
}

/* A worker that spins on a core it shares keeps its own callers from running. */
static uint64_t choose_spin(uint64_t spin_ns, bool worker)
{
	if (spin_ns != PG_SPIN_AUTO)
		return spin_ns;
	return worker && !cores_to_spare() ? 0 : SPIN_NS;
}

static int start_worker(struct pg_group *g, struct pg_error *err)
{
	sigset_t all, old;
	int rc;

	/* Signals are the application's: its threads take them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&g->worker, NULL, group_worker, g);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return error_set(err, -rc, "cannot start a worker: %s", strerror(rc));
	g->worker_runs = true;
	pthread_setname_np(g->worker, "pgctl-worker");
	if (g->worker_cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET((size_t)g->worker_cpu, &set);
		rc = pthread_setaffinity_np(g->worker, sizeof(set), &set);
		if (rc)
			return error_set(err, -rc, "cannot pin the worker to CPU %d: %s",
					 g->worker_cpu, strerror(rc));
	}
	return 0;
}

/* ---- Life ---- */

static void kick_ready(struct pg_group *g, struct watch *w, uint32_t events)
{
	uint64_t n;

	(void)g;
	(void)events;
	(void)!read(w->fd, &n, sizeof(n));
}

static int open_epoll(struct pg_group *g)
{
	int rc;

	g->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (g->epoll < 0)
		return -errno;
	g->kick =
		(struct watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = kick_ready };
	if (g->kick.fd < 0)
		return -errno;
	g->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	rc = watch_add(g, &g->kick, EPOLLIN);
	return rc ? rc : wait_fd_open(g);
}

static int make_tables(struct pg_group *g)
{
	int rc;

	if ((rc = ops_create(g)) || (rc = flights_create(g)) || (rc = events_create(g)) ||
	    (rc = messages_create(g)) || (rc = news_create(g)) || (rc = watchers_create(g)) ||
	    (rc = handles_init(&g->peer_groups, MAX_PEER_GROUPS, sizeof(struct peer_group))) ||
	    (rc = imm_table_create(g->config->max_unclaimed, &g->imms)) ||
	    (rc = handles_init(&g->mrs, g->config->max_regions, sizeof(struct mr))) ||
	    (rc = handles_init(&g->rmrs, g->config->max_regions, sizeof(struct rmr))) ||
	    (rc = handles_init(&g->peers, g->config->max_peers, sizeof(struct peer))))
		return rc;
	return open_epoll(g);
}

static int check_group(const struct pg_group_config *c, struct pg_error *err)
{
	if (c->n_domains < 1 || c->n_domains > PG_MAX_DOMAINS)
		return error_set(err, -EINVAL, "%u NICs in a group; 1 to %d", c->n_domains,
				 PG_MAX_DOMAINS);
	if (c->progress < PG_PROGRESS_AUTO || c->progress > PG_PROGRESS_WORKER)
		return error_set(err, -EINVAL, "progress mode %d", c->progress);
	if (c->worker_cpu < -1 || c->worker_cpu >= CPU_SETSIZE)
		return error_set(err, -EINVAL, "worker_cpu %d", c->worker_cpu);
	return 0;
}

int group_create(struct pg_engine *e, unsigned index, const struct pg_group_config *config,
		 struct pg_group **group, struct pg_error *err)
{
	struct impairment impair;
	struct pg_group *g;
	int rc = check_group(config, err);

	if (!rc)
		rc = config_impairment(config, &impair, err);
	if (rc)
		return rc;
	g = calloc(1, sizeof(*g));
	if (!g)
		return error_set(err, -ENOMEM, "no memory for a group");
	g->config = &e->config;
	g->epoll = g->kick.fd = g->listener.fd = g->tcp_listener.fd = g->timer.fd = -1;
	g->notify = g->wait_fd = g->spare = -1;
	g->rail_only = config->rail_only;
	g->worker_cpu = config->worker_cpu;
	g->worker_mode = choose_worker(config->progress);
	g->slow_clock = clock_is_slow();
	g->spin_ns = choose_spin(g->config->spin_ns, g->worker_mode);
	list_init(&g->active);
	list_init(&g->dirty);
	list_init(&g->lingering);
	list_init(&g->leaving);
	list_init(&g->ending);
	list_init(&g->salvaging);
	list_init(&g->streams);
	memcpy(g->addr.incarnation, e->incarnation, sizeof(e->incarnation));
	memcpy(g->addr.token, e->token, sizeof(e->token));
	memcpy(g->addr.host, e->host, sizeof(e->host));
	g->addr.group = index;
	rc = make_tables(g);
	if (rc) {
		error_set(err, rc, "no memory for the tables of a group: %s", strerror(-rc));
		goto err_free;
	}
	while (g->n_domains < config->n_domains) {
		rc = open_domain(g, &config->domains[g->n_domains], &impair, err);
		if (rc)
			goto err_free;
	}
	rc = control_listen(g, err);
	if (!rc && g->worker_mode)
		rc = start_worker(g, err);
	if (rc)
		goto err_stop;
	*group = g;
	return 0;
err_stop:
	group_stop(g);
err_free:
	group_free(g);
	return rc;
}

void group_stop(struct pg_group *g)
{
	/* relaxed: the fence in group_kick and the futex order it */
	atomic_store_explicit(&g->stopping, 1, memory_order_relaxed);
	group_kick(g);
	if (g->worker_runs)
		pthread_join(g->worker, NULL);
	/* acquire: pairs with the end of group_wait */
	while (atomic_load_explicit(&g->inside, memory_order_acquire)) {
		group_kick(g);
		group_wake(g);
		sched_yield();
	}
}

static void cancel_expectations(struct pg_group *g)
{
	struct imm_fired fired[POLL_BATCH];
	unsigned n;

	do {
		imm_lock(g->imms);
		n = imm_cancel_all(g->imms, fired, POLL_BATCH);
		imm_unlock(g->imms);
		for (unsigned i = 0; i < n; i++) {
			fired[i].status = -ESHUTDOWN;
			deliver_fired(g, &fired[i], NULL);
		}
	} while (n > 0);
}

static void close_fds(const int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void group_goodbye(struct pg_group *g)
{
	lock_acquire(&g->progress);
	while (group_start_submitted(g) > 0)
		;
	peers_flush(g);
	g->now = clock_ns();
	handshake_bye(g);
	peers_down(g, -ESHUTDOWN, LEAVING);
	lock_release(&g->progress);
}

bool group_parting(struct pg_group *g)
{
	bool waits;

	lock_acquire(&g->progress);
	group_round(g);
	watches_serve(g, GOODBYE_POLL_NS);
	g->now = clock_ns();
	waits = holders_of_caller_memory(g);
	lock_release(&g->progress);
	return waits;
}

static void leave_all(struct pg_group *g)
{
	peers_close(g, -ESHUTDOWN, LEAVING);
	while (!list_empty(&g->streams))
		control_close(g, LIST_ENTRY(g->streams.next, struct stream, link));
	cancel_expectations(g);
	remote_close(g);
	memory_close(g);
}

/* Also of a half-made group: what was not made is zero or -1. */
void group_free(struct pg_group *g)
{
	if (g->peers.slots) {
		lock_acquire(&g->progress);
		leave_all(g);
		lock_release(&g->progress);
	}
	for (unsigned i = 0; i < g->n_domains; i++)
		g->domains[i]->transport->close(g->domains[i]);
	watch_close(g, &g->listener);
	watch_close(g, &g->tcp_listener);
	close_fds((const int[]){ g->kick.fd, g->timer.fd, g->wait_fd != g->notify ? g->wait_fd : -1,
				 g->notify, g->spare, g->epoll },
		  6);
	peer_groups_close(g);
	watchers_destroy(g);
	news_destroy(g);
	handles_fini(&g->peers);
	handles_fini(&g->rmrs);
	handles_fini(&g->mrs);
	imm_table_destroy(g->imms);
	messages_destroy(g);
	events_destroy(g);
	ops_destroy(g);
	flights_destroy(g);
	free(g);
}

/* ---- Facts ---- */

int group_stale(struct pg_error *err)
{
	return error_set(
		err, -ESTALE,
		"this engine belongs to the process that was forked: make another one here");
}

int pg_limits(struct pg_group *g, struct pg_limits *limits)
{
	const struct pg_caps *c;

	if (group_forked(g))
		return -ESTALE;
	c = &g->domains[0]->caps;
	*limits = (struct pg_limits){
		.n_domains = g->n_domains,
		.max_ops = g->config->max_ops,
		.max_msg = c->max_msg,
		.imm_bits = 30,
		.max_write = c->max_write,
		.split_min = c->split_min,
		.progress = g->worker_mode ? PG_PROGRESS_WORKER : PG_PROGRESS_INLINE,
		.caps = *c,
	};
	memcpy(limits->transport, g->addr.domains[0].transport, sizeof(limits->transport));
	return 0;
}
