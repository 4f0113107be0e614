/* SPDX-License-Identifier: MIT
 *
 * The thread of a lane that copies on its own: a DMA engine in software, so that the lanes of a
 * group copy in parallel. The caller's thread takes all credit and fixes each WR's place in the
 * channel; the mover copies the payload, publishes the entry, and never has to wait for a peer.
 *
 * Jobs lie in a ring with three positions: posted (by the caller), done (by the mover), reaped (by
 * the caller), so that there is room for a completion as soon as there is room for a job. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"
#include "util/futex.h"

#define JOBS 64  /* divides 2^32 */
#define SPINS 64 /* about a microsecond */

struct job {
	struct shm_conn *conn; /* NULL: forgotten */
	struct wr wr;
	uint64_t entry; /* 0: none */
	uint32_t pos;   /* of the entry */
	int status;
	bool place; /* there is payload to copy */
};

struct mover {
	struct shm_domain *lane;
	pthread_t thread;
	struct job jobs[JOBS];
	uint32_t reaped;
	bool dirty; /* posted and not flushed */
	char pad_caller[LINE];
	_Atomic uint32_t posted;
	_Atomic uint32_t stop;
	char pad_posted[LINE];
	_Atomic uint32_t done;
	_Atomic uint32_t asleep; /* futex */
	uint32_t rung;           /* as in struct shm_conn, towards our own caller */
};

static int place(struct job *job)
{
	struct wr *wr = &job->wr;
	int rc;

	if (wr->mapped) {
		memcpy(wr->mapped, wr->src, wr->len);
		return 0;
	}
	rc = cma_write(job->conn, wr, 1, NULL);
	return rc < 0 ? rc : 0;
}

static void run(struct job *job)
{
	struct shm_conn *c = job->conn;

	job->status = job->place ? place(job) : 0;
	if (!job->entry)
		return;
	/* The place in the channel is taken: something has to be there. */
	if (job->status)
		job->entry = entry_make(job->pos, ENTRY_SKIP, 0, 0);
	/* Release: who sees the entry sees the payload and the record before it. */
	atomic_store_explicit(&c->out->entries[job->pos % ENTRIES], job->entry,
			      memory_order_release);
	full_fence();
	announce(c);
}

/* Dekker, as in shm_poll.c: done, fence, sleeping here; sleeping, fence, done in arm. */
static void wake_caller(struct mover *m)
{
	uint64_t one = 1;
	uint32_t sleep;

	full_fence();
	sleep = atomic_load_explicit(&m->lane->inbox->sleeping, memory_order_relaxed);
	if (!sleep || sleep == m->rung)
		return;
	m->rung = sleep;
	(void)!write(m->lane->domain.fd, &one, sizeof(one));
}

/* Returns when there is a job, or a reason to look. */
static void wait_for_job(struct mover *m, uint32_t done)
{
	for (int i = 0; i < SPINS; i++) {
		/* Relaxed: the caller of this looks again. */
		if (atomic_load_explicit(&m->posted, memory_order_relaxed) != done)
			return;
		cpu_relax();
	}
	/* Dekker with mover_flush; relaxed, because the fence orders. */
	atomic_store_explicit(&m->asleep, 1, memory_order_relaxed);
	full_fence();
	if (atomic_load_explicit(&m->posted, memory_order_relaxed) == done &&
	    !atomic_load_explicit(&m->stop, memory_order_relaxed))
		futex_wait(&m->asleep, 1, UINT64_MAX);
	atomic_store_explicit(&m->asleep, 0, memory_order_relaxed);
}

static void *mover_main(void *arg)
{
	struct mover *m = arg;
	uint32_t done = 0;

	/* Relaxed: stop comes with nothing that we would have to see. */
	while (!atomic_load_explicit(&m->stop, memory_order_relaxed)) {
		/* Acquire: the job is filled in. */
		if (atomic_load_explicit(&m->posted, memory_order_acquire) == done) {
			wait_for_job(m, done);
			continue;
		}
		run(&m->jobs[done % JOBS]);
		/* Release: its status, and that we are through with its memory. */
		atomic_store_explicit(&m->done, ++done, memory_order_release);
		wake_caller(m);
	}
	return NULL;
}

static void wake_mover(struct mover *m)
{
	full_fence();
	if (!atomic_load_explicit(&m->asleep, memory_order_relaxed))
		return;
	atomic_store_explicit(&m->asleep, 0, memory_order_relaxed);
	futex_wake(&m->asleep, 1);
}

/* Signals are for the program's own threads. */
static int start_thread(struct mover *m, int cpu)
{
	pthread_attr_t attr;
	sigset_t all, before;
	cpu_set_t cpus;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	if (cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((unsigned)cpu, &cpus);
		rc = pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (!rc)
		rc = pthread_create(&m->thread, &attr, mover_main, m);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (!rc)
		pthread_setname_np(m->thread, m->lane->domain.name);
	return -rc;
}

int mover_start(struct shm_domain *lane, int cpu, struct pg_error *err)
{
	struct mover *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return error_set(err, -ENOMEM, "no memory for the thread of %s", lane->domain.name);
	m->lane = lane;
	rc = start_thread(m, cpu);
	if (rc) {
		free(m);
		errno = -rc;
		return error_set(err, rc, "cannot start the thread of %s on CPU %d: %m",
				 lane->domain.name, cpu);
	}
	lane->mover = m;
	lane->domain.caps.sync_post = false;
	/* A job that fails does not keep the next one from being done, as it would on a NIC. */
	lane->domain.caps.ordered = false;
	lane->domain.caps.max_outstanding = JOBS;
	return 0;
}

void mover_stop(struct shm_domain *lane)
{
	struct mover *m = lane->mover;

	atomic_store_explicit(&m->stop, 1, memory_order_relaxed);
	wake_mover(m);
	pthread_join(m->thread, NULL);
	free(m);
	lane->mover = NULL;
}

static int fill_job(struct job *job, struct shm_conn *c, const struct wr *wr, struct pg_error *err)
{
	int kind = wr->op == WR_WRITE_IMM ? ENTRY_IMM : 0;

	*job = (struct job){ .conn = c, .wr = *wr, .pos = c->entries, .place = wr->len > 0 };
	if (wr->op == WR_SEND || (is_unmapped_write(wr) && c->pidfd < 0)) {
		kind = put_record(c, wr, err);
		if (kind <= 0)
			return kind;
		job->place = false;
	}
	if (kind)
		job->entry = entry_make(c->entries++, (enum entry_kind)kind, wr->imm, 1);
	return 1;
}

/* Every WR takes one entry at most, and for so many there is room. */
int mover_post(struct shm_conn *c, const struct wr *wrs, unsigned n, struct pg_error *err)
{
	struct mover *m = conn_lane(c)->mover;
	/* Relaxed: only we write it. */
	uint32_t posted = atomic_load_explicit(&m->posted, memory_order_relaxed);
	unsigned i = 0;
	int rc = 0;

	for (; i < n && posted - m->reaped < JOBS; i++, posted++) {
		rc = fill_job(&m->jobs[posted % JOBS], c, &wrs[i], err);
		if (rc <= 0)
			break;
	}
	m->dirty |= i > 0;
	/* Release: the jobs, and the records that they stand for. */
	atomic_store_explicit(&m->posted, posted, memory_order_release);
	return i ? (int)i : rc;
}

void mover_flush(struct mover *m)
{
	if (m->dirty) {
		m->dirty = false;
		wake_mover(m);
	}
}

bool mover_has_done(const struct mover *m)
{
	/* Relaxed: whoever acts on it reaps. */
	return atomic_load_explicit(&m->done, memory_order_relaxed) != m->reaped;
}

unsigned mover_reap(struct mover *m, struct arrival *arrivals, unsigned max)
{
	/* Acquire: the statuses, and the end of all reading of the sources. */
	uint32_t done = atomic_load_explicit(&m->done, memory_order_acquire);
	unsigned n = 0;

	for (; n < max && m->reaped != done; m->reaped++) {
		const struct job *job = &m->jobs[m->reaped % JOBS];

		if (!job->conn)
			continue;
		arrivals[n].kind = ARRIVAL_DONE;
		arrivals[n].status = job->status;
		arrivals[n].conn = &job->conn->conn;
		arrivals[n++].id = job->wr.id;
	}
	return n;
}

void mover_forget(struct mover *m, const struct shm_conn *c)
{
	uint32_t posted = atomic_load_explicit(&m->posted, memory_order_relaxed);

	mover_flush(m);
	/* Acquire: the mover has taken its hands off the connection. */
	while (atomic_load_explicit(&m->done, memory_order_acquire) != posted)
		sched_yield();
	for (uint32_t i = m->reaped; i != posted; i++) {
		if (m->jobs[i % JOBS].conn == c)
			m->jobs[i % JOBS].conn = NULL;
	}
}
