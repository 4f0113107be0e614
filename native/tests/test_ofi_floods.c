/* SPDX-License-Identifier: MIT
 *
 * The ofi transport under pressure: connections that end while much waits to be read, memory that is registered
 * meanwhile, and a library whose calls fail. argv[1] is the stand-in for EFA. Exits 77 where there is no libfabric at all.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "ofi_ways.h"

/* More than a poll takes, of many values, waits in b's queue. */
static void fill_queue(struct end *a, struct end *b, unsigned first)
{
	for (unsigned i = 0; i < 90; i++) {
		struct wr wr = write_of(a, b, first + i, 0, 8);

		wr.imm = i;
		post_soon(a, b, &wr);
	}
	b->max = 1;
	for (unsigned i = 0; i < 20; i++) {
		poll_end(b);
		poll_end(a);
	}
}

/* What was posted on a connection that is stopped ends, and that is said, whatever else comes. */
static void test_stop_under_flood(struct end *a, struct end *b, struct end *a2, struct end *b2)
{
	connect_ends(a, b);
	connect_ends(a2, b2);
	for (unsigned i = 0; i < 20; i++) {
		struct wr wr = write_of(b2, a2, i, 4096, 64);

		post_soon(b2, a2, &wr);
	}
	b->imms = 0;
	fill_queue(a, b, 0);
	b->max = 8;
	b2->t->conn_stop(b2->c);
	UNTIL(b, b, b2->stopped);
	CHECK_EQ(b2->done + b2->failed, 20);
	disconnect(a2, b2);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* Nor has that to wait until all that comes has been read. */
static void test_share_under_flood(struct end *a, struct end *b, struct end *a2, struct end *b2)
{
	connect_ends(a, b);
	connect_ends(a2, b2);
	fill_queue(a, b, 0);
	b->max = 8;
	b2->t->conn_stop(b2->c);
	for (unsigned i = 0; i < 3; i++)
		poll_end(b);
	CHECK(b2->stopped);
	disconnect(a2, b2);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* A message whose sender was told that it has come is told before the connection is fenced. */
static void test_fence_under_flood(struct end *a, struct end *b, struct end *a2, struct end *b2)
{
	connect_ends(a, b);
	connect_ends(a2, b2);
	for (unsigned i = 0; i < 4; i++) { /* they have met */
		struct wr wr = { .op = WR_SEND, .id = i, .src = "hello", .len = 5 };

		post_soon(a2, b2, &wr);
	}
	await_ended(a2, b2, 4);
	fill_queue(a, b, 0);
	post_soon(a2, b, &(struct wr){ .op = WR_SEND, .id = 4, .src = "hello", .len = 5 });
	fill_queue(a, b, 100);
	b->max = 8;
	a2->t->conn_stop(a2->c);
	b2->t->conn_stop(b2->c);
	UNTIL(a, a, a2->stopped);
	UNTIL(b, b, b2->stopped);
	b2->t->conn_fence(b2->c);
	UNTIL(b, b, b2->fenced);
	CHECK(b2->msgs >= a2->done && a2->done >= 4);
	disconnect(a2, b2);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* What comes, what ends and what is said, all at once and with little room. */
static void test_all_at_once(struct end *a, struct end *b)
{
	unsigned in = 0, out = 0, sent = 0;
	uint64_t end = clock_ns() + 20 * SECOND;

	connect_ends(a, b);
	b->max = 2;
	while (b->done < 300 || b->msgs < 100 || b->imms < 450 || a->done < 550) {
		struct wr write = write_of(a, b, in, 0, 8), back = write_of(b, a, out, 4096, 8);
		struct wr message = { .op = WR_SEND, .id = 500 + sent, .src = "hello", .len = 5 };

		write.imm = in;
		in += in < 450 && post(a, &write) == 1;
		out += out < 300 && post(b, &back) == 1;
		sent += sent < 100 && post(a, &message) == 1;
		poll_end(a);
		poll_end(b);
		check_in_time(b, end, __LINE__);
	}
	CHECK(!a->failed && !b->failed);
	b->max = 8;
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* When others' writes are all that a NIC can have in flight, messages go all the same. */
static void test_scarce_slots(struct end *a, struct end *b)
{
	struct ofi_domain *d = ofi_domain(a->d);
	struct list taken;
	unsigned n = d->n_free - OFI_BUFFERS;
	struct wr wr;

	connect_ends(a, b);
	wr = write_of(a, b, 0, 0, 64);
	post_soon(a, b, &wr);
	await_ended(a, b, 1);
	list_init(&taken);
	for (unsigned i = 0; i < n; i++) {
		struct list *l = d->free_sends.next;

		list_remove(l);
		list_append(&taken, l);
	}
	d->n_free -= n;
	wr.id = 1;
	for (unsigned i = 0; i < 100; i++)
		CHECK_EQ(post(a, &wr), -EAGAIN);
	post_soon(a, b, &(struct wr){ .op = WR_SEND, .id = 2, .src = "hello", .len = 5 });
	await_ended(a, b, 2);
	for (d->n_free += n; !list_empty(&taken);) {
		struct list *l = taken.next;

		list_remove(l);
		list_append(&d->free_sends, l);
	}
	post_soon(a, b, &wr);
	await_ended(a, b, 3);
	CHECK_EQ(a->failed, 0);
	disconnect(a, b);
	UNTIL_WHOLE(a, b);
}

/* ---- Registration ---- */

struct registrar {
	pthread_t thread;
	struct end *e;
	atomic_bool done;
};

static void *register_again_and_again(void *arg)
{
	struct registrar *r = arg;
	struct memory memory = { .base = malloc(65536), .len = 65536, .fd = -1 };
	uint64_t lkey, key;

	CHECK(memory.base);
	/* relaxed: it says when to end, no more */
	while (!atomic_load_explicit(&r->done, memory_order_relaxed)) {
		CHECK(r->e->t->mr_reg(r->e->d, &memory, &lkey, &key, NULL) == 0);
		r->e->t->mr_dereg(r->e->d, lkey);
	}
	free(memory.base);
	return NULL;
}

/* From any thread at any time, of a library that is asked for one thread at a time; the stand-in sees to that. */
static void test_registration(struct end *a, struct end *b)
{
	struct registrar r[2] = { { .e = a }, { .e = b } };

	for (unsigned i = 0; i < 2; i++)
		CHECK(pthread_create(&r[i].thread, NULL, register_again_and_again, &r[i]) == 0);
	for (unsigned i = 0; i < 20; i++) {
		connect_ends(a, b);
		for (unsigned k = 0; k < 40; k++) {
			struct wr wr = write_of(a, b, k, 0, 64);

			post_soon(a, b, &wr);
		}
		post_soon(a, b, &(struct wr){ .op = WR_SEND, .id = 40, .src = "!", .len = 1 });
		await_ended(a, b, 41);
		a->t->arm(a->d, true);
		a->t->arm(a->d, false);
		a->t->conn_stop(a->c);
		UNTIL(a, b, a->stopped);
		disconnect(a, b);
	}
	for (unsigned i = 0; i < 2; i++) {
		atomic_store_explicit(&r[i].done, true, memory_order_relaxed);
		CHECK(pthread_join(r[i].thread, NULL) == 0);
	}
	UNTIL_WHOLE(a, b);
}

/* ---- Calls that fail ---- */

static int refuse_to_close(struct fid *fid)
{
	(void)fid;
	return -FI_EBUSY;
}

/* It cannot be closed: what was posted ends as the provider ends it, and its memory stays. */
static void test_endpoint_that_stays(struct end *a, struct end *b)
{
	struct fi_ops ops, *was;
	struct fid *fid;

	connect_ends(a, b);
	for (unsigned i = 0; i < 20; i++) {
		struct wr wr = write_of(a, b, i, 0, 64);

		post_soon(a, b, &wr);
	}
	fid = &ofi_conn(a->c)->writer->fid->fid;
	was = fid->ops;
	ops = *was;
	ops.close = refuse_to_close;
	fid->ops = &ops;
	a->t->conn_stop(a->c);
	UNTIL(a, b, a->stopped);
	CHECK_EQ(a->done + a->failed, 20);
	b->t->conn_stop(b->c);
	UNTIL(a, b, b->stopped);
	a->t->conn_fence(a->c);
	UNTIL(a, b, a->fenced);
	disconnect(a, b);
	poll_for(a, b, 2000000);
	fid->ops = was;
}

static ssize_t fail_to_read(struct fid_cq *cq, void *buf, size_t count)
{
	(void)cq;
	(void)buf;
	(void)count;
	return -FI_EOVERRUN;
}

static ssize_t fail_to_readfrom(struct fid_cq *cq, void *buf, size_t count, fi_addr_t *from)
{
	(void)from;
	return fail_to_read(cq, buf, count);
}

/* A queue that has failed: all of its NIC breaks, and it stays down. */
static void test_queue_that_fails(struct end *a, struct end *b)
{
	struct ofi_domain *d = ofi_domain(a->d);
	struct fi_ops_cq ops = *d->cq->ops, *was = d->cq->ops;
	struct offer offer;
	struct conn *c;
	struct wr wr;

	connect_ends(a, b);
	wr = write_of(a, b, 0, 0, 64);
	post_soon(a, b, &wr);
	ops.read = fail_to_read;
	ops.readfrom = fail_to_readfrom;
	d->cq->ops = &ops;
	UNTIL(a, b, a->dead);
	CHECK_EQ(a->dead_status, -EIO);
	CHECK(a->nic_events == 1 && a->nic_status == -ENETDOWN);
	CHECK_EQ(post(a, &wr), -ECONNABORTED);
	CHECK_EQ(a->t->conn_open(a->d, &c, &offer, NULL), -ENETDOWN);
	if (!d->nic.keeps) {
		a->t->conn_stop(a->c);
		UNTIL(a, b, a->stopped);
		a->t->conn_fence(a->c);
		UNTIL(a, b, a->fenced);
	}
	disconnect(a, b);
	d->cq->ops = was;
}

static void run(const struct ofi_way *way)
{
	struct end a, b, a2, b2;

	open_end(&a, &transport_ofi, 0, way->options);
	open_end(&b, &transport_ofi, 1, way->options);
	test_all_at_once(&a, &b);
	/* Else it tells connections of one pair of NICs not apart. */
	if (ofi_domain(a.d)->whose == OFI_BY_DATA) {
		open_beside(&a2, &a);
		open_beside(&b2, &b);
		for (unsigned i = 0; i < 10; i++) {
			test_stop_under_flood(&a, &b, &a2, &b2);
			test_share_under_flood(&a, &b, &a2, &b2);
			test_fence_under_flood(&a, &b, &a2, &b2);
		}
		a.beside = b.beside = NULL;
	}
	test_scarce_slots(&a, &b);
	test_registration(&a, &b);
	test_endpoint_that_stays(&a, &b);
	if (!ofi_domain(a.d)->nic.rxm) /* that would stay open, see ofi_close() */
		test_queue_that_fails(&a, &b);
	close_end(&a);
	close_end(&b);
}

int main(int argc, char **argv)
{
	const struct ofi_way ways[] = {
		{ .name = "tcp", .options = "provider=tcp" },
		{ .name = "shm", .options = "provider=shm" },
		fake_way("the stand-in for EFA", argv[1], "seed=8"),
		fake_way("the stand-in, as one that names no sources", argv[1],
			 "seed=8,provider=verbs;ofi_rxm,dead=failed"),
	};

	CHECK(argc == 2);
	return over_each(ways, sizeof(ways) / sizeof(ways[0]), run);
}
