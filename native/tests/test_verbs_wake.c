/* SPDX-License-Identifier: MIT
 *
 * The verbs transport, asleep: what arrives wakes, whoever watched its descriptor meanwhile; what waits
 * to be taken keeps awake; and a peer can write nowhere by the key of the handshake but where it may.
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "nic_ends.h"
#include "transport/verbs/verbs.h"

#define SETTLE 20000000ull

/* As the engine has it: edge-triggered. */
static int watch(const struct end *e)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int fd = epoll_create1(EPOLL_CLOEXEC);

	CHECK(fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, e->d->fd, &event) == 0);
	return fd;
}

static bool wakes(int fd, int ms)
{
	struct epoll_event event;

	return epoll_wait(fd, &event, 1, ms) == 1;
}

static void fall_asleep(struct end *e)
{
	for (unsigned i = 0; !transport_verbs.arm(e->d, true); i++) {
		CHECK(i < 1000);
		transport_verbs.arm(e->d, false);
		poll_end(e);
	}
}

static void wake_up(struct end *e)
{
	transport_verbs.arm(e->d, false);
	poll_end(e);
}

/* Asleep it is asked to ring; awake for another reason the next completion rings, and somebody else
 * hears that. It must be asked again. */
static void test_ring_that_others_heard(struct end *a, struct end *b)
{
	int fd = watch(b);
	struct wr wr;

	connect_ends(a, b);
	poll_for(a, b, SETTLE);
	fall_asleep(b);
	wakes(fd, 0);
	wake_up(b);
	for (unsigned i = 0; i < 3; i++) {
		wr = write_of(a, b, 2 * i, 0, 8);
		CHECK_EQ(post(a, &wr), 1);
		poll_for(a, b, SETTLE);
		CHECK_EQ(b->imms, 2 * i + 1);
		wakes(fd, 0); /* the others */
		fall_asleep(b);
		wakes(fd, 0);
		wr.id++;
		CHECK_EQ(post(a, &wr), 1);
		CHECK(wakes(fd, 5000));
		wake_up(b);
		CHECK_EQ(b->imms, 2 * i + 2);
		poll_for(a, b, SETTLE);
	}
	close(fd);
	disconnect(a, b);
}

/* A message that could be taken keeps awake; one that the caller has no room for does not. */
static void test_messages_that_wait(struct end *a, struct end *b)
{
	struct wr wr = { .op = WR_SEND, .src = "hello", .len = 5 };
	uint64_t end = clock_ns() + 5 * SECOND;

	connect_ends(a, b);
	for (wr.id = 0; wr.id < 2; wr.id++)
		CHECK_EQ(post(a, &wr), 1);
	while (a->done < 2 && clock_ns() < end)
		poll_end(a);
	b->take = 1;
	while (!b->msgs && clock_ns() < end)
		poll_end(b);
	CHECK_EQ(b->msgs, 1);
	CHECK(!transport_verbs.arm(b->d, true));
	transport_verbs.arm(b->d, false);
	b->take = 0;
	poll_end(b);
	fall_asleep(b);
	transport_verbs.arm(b->d, false);
	b->take = 16;
	poll_end(b);
	CHECK_EQ(b->msgs, 2);
	poll_for(a, b, SETTLE);
	disconnect(a, b);
}

/* Immediates without payload are aimed at a page of the peer's; its messages lie before it. */
static void test_reach_of_the_handshake(struct end *a, struct end *b)
{
	const struct verbs_domain *theirs = verbs_domain(b->d);
	struct wr wr;

	connect_ends(a, b);
	memset(a->mem, 0xee, 64);
	wr = write_of(a, b, 0, 0, 64);
	wr.raddr = (uintptr_t)verbs_buffer(theirs, 2 * VERBS_MSGS - 1);
	wr.rkey = verbs_conn(a->c)->zero_rkey;
	CHECK_EQ(post(a, &wr), 1);
	await_ended(a, b, 1);
	CHECK_EQ(a->status[0], -EACCES);
	CHECK(theirs->memory[(2 * VERBS_MSGS - 1) * PG_MSG_MAX] != 0xee);
	disconnect(a, b);
}

int main(void)
{
	struct end a, b;

	need_nic(&transport_verbs);
	open_end(&a, &transport_verbs, 0, "");
	open_end(&b, &transport_verbs, 1, "");
	test_ring_that_others_heard(&a, &b);
	test_messages_that_wait(&a, &b);
	test_reach_of_the_handshake(&a, &b);
	close_end(&a);
	close_end(&b);
	return 0;
}
