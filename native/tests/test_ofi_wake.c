/* SPDX-License-Identifier: MIT
 *
 * The ofi transport, asleep: whatever may be told wakes, and so does a NIC that goes down or comes up. argv[1] is
 * the stand-in for EFA. Exits 77 where there is no libfabric at all.
 */
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ofi_ways.h"

/* An end that is polled only when its descriptor has said so. */
struct sleeper {
	struct end *e;
	int fd; /* as the engine has it: edge-triggered */
};

static struct sleeper watch(struct end *e)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct sleeper s = { .e = e, .fd = epoll_create1(EPOLL_CLOEXEC) };

	CHECK(s.fd >= 0 && epoll_ctl(s.fd, EPOLL_CTL_ADD, e->d->fd, &event) == 0);
	CHECK(e->d->nic_fd <= 0 || epoll_ctl(s.fd, EPOLL_CTL_ADD, e->d->nic_fd, &event) == 0);
	return s;
}

static void fall_asleep(const struct sleeper *s)
{
	struct epoll_event event;
	uint64_t end = clock_ns() + 10 * SECOND;

	epoll_wait(s->fd, &event, 1, 0);
	while (!s->e->t->arm(s->e->d, true)) {
		CHECK(clock_ns() < end);
		s->e->t->arm(s->e->d, false);
		poll_end(s->e);
	}
}

/* Whether it was woken; if so, it has looked and sleeps again. */
static bool wakes(const struct sleeper *s)
{
	struct epoll_event event;

	if (epoll_wait(s->fd, &event, 1, 0) != 1)
		return false;
	s->e->t->arm(s->e->d, false);
	poll_end(s->e);
	return true;
}

static void until_woken(struct end *other, const struct sleeper *s, const unsigned *n, int line)
{
	uint64_t end = clock_ns() + 10 * SECOND;

	fall_asleep(s);
	while (!*n) {
		if (other)
			poll_end(other);
		if (wakes(s) && !*n)
			fall_asleep(s);
		check_in_time(s->e, end, line);
	}
	s->e->t->arm(s->e->d, false);
}

#define UNTIL_WOKEN(other, s, n) until_woken(other, s, &(n), __LINE__)

/* Who sleeps from the beginning is met, and woken by whatever comes. */
static void test_arrivals(struct end *a, struct end *b)
{
	struct sleeper s = watch(b);
	uint64_t end = clock_ns() + 10 * SECOND;
	struct wr wr;

	connect_ends(a, b);
	wr = write_of(a, b, 0, 0, 100);
	fall_asleep(&s);
	while (post(a, &wr) == -EAGAIN) {
		poll_end(a);
		if (wakes(&s))
			fall_asleep(&s);
		check_in_time(a, end, __LINE__);
	}
	UNTIL_WOKEN(a, &s, b->imms);
	wr = (struct wr){ .op = WR_SEND, .id = 1, .src = "hello", .len = 5 };
	fall_asleep(&s);
	while (post(a, &wr) == -EAGAIN) {
		poll_end(a);
		if (wakes(&s))
			fall_asleep(&s);
		check_in_time(a, end, __LINE__);
	}
	UNTIL_WOKEN(a, &s, b->msgs);
	close(s.fd);
	disconnect(a, b);
}

/* Who has met nobody yet is woken to try again, and when what it has posted ends. */
static void test_credit(struct end *a, struct end *b)
{
	struct sleeper s = watch(a);
	uint64_t end = clock_ns() + 10 * SECOND;
	unsigned posted = 0, n;
	struct wr wr;
	int rc;

	connect_ends(a, b);
	fall_asleep(&s);
	for (unsigned id = 0; id < 300; id += rc == 1) {
		wr = write_of(a, b, id, 0, 64);
		rc = post(a, &wr);
		CHECK(rc == 1 || rc == -EAGAIN);
		posted += rc == 1;
		if (rc == 1)
			continue;
		n = a->done;
		fall_asleep(&s);
		while (a->done == n && !wakes(&s)) {
			poll_end(b);
			check_in_time(a, end, __LINE__);
		}
	}
	while (a->done < posted) {
		fall_asleep(&s);
		while (a->done < posted && !wakes(&s)) {
			poll_end(b);
			check_in_time(a, end, __LINE__);
		}
	}
	CHECK_EQ(a->failed, 0);
	close(s.fd);
	disconnect(a, b);
}

/* A message that could be taken keeps awake; one that the caller has no room for does not. */
static void test_messages_that_wait(struct end *a, struct end *b)
{
	struct sleeper s = watch(b);
	uint64_t end = clock_ns() + 10 * SECOND;

	connect_ends(a, b);
	b->take = 0;
	for (unsigned i = 0; i < 2; i++)
		post_soon(a, b, &(struct wr){ .op = WR_SEND, .id = i, .src = "hello", .len = 5 });
	await_ended(a, b, 2);
	while (length(&ofi_domain(b->d)->inbox) < 2) {
		poll_end(b);
		check_in_time(b, end, __LINE__);
	}
	fall_asleep(&s);
	b->t->arm(b->d, false);
	b->take = 1;
	poll_end(b);
	CHECK_EQ(b->msgs, 1);
	CHECK(!b->t->arm(b->d, true));
	b->t->arm(b->d, false);
	b->take = 16;
	while (b->msgs < 2) {
		poll_end(b);
		check_in_time(b, end, __LINE__);
	}
	/* What it has read has to be given back before others can come. */
	CHECK(!b->t->arm(b->d, true));
	b->t->arm(b->d, false);
	poll_end(b);
	fall_asleep(&s);
	b->t->arm(b->d, false);
	close(s.fd);
	disconnect(a, b);
}

/* Who has stopped its half and waits for the peer's sleeps meanwhile, and wakes when that has come. */
static void test_stopped(struct end *a, struct end *b)
{
	struct sleeper s = watch(b);
	struct wr wr;

	connect_ends(a, b);
	wr = write_of(b, a, 0, 0, 4096);
	post_soon(b, a, &wr);
	b->t->conn_stop(b->c);
	UNTIL(a, b, b->stopped);
	fall_asleep(&s);
	b->t->arm(b->d, false);
	a->t->conn_stop(a->c);
	UNTIL(a, b, a->stopped);
	b->t->conn_fence(b->c);
	UNTIL_WOKEN(a, &s, b->fenced);
	close(s.fd);
	disconnect(a, b);
}

static void run(const struct ofi_way *way)
{
	struct end a, b;

	open_end(&a, &transport_ofi, 0, way->options);
	open_end(&b, &transport_ofi, 1, way->options);
	test_arrivals(&a, &b);
	test_credit(&a, &b);
	test_messages_that_wait(&a, &b);
	test_stopped(&a, &b);
	close_end(&a);
	close_end(&b);
}

/* ---- NICs ---- */

static void check_down_and_up(struct end *e, void (*set)(void *arg, bool up), void *arg)
{
	struct sleeper s = watch(e);
	struct offer offer;
	struct conn *c;

	CHECK_EQ(e->nic_events, 0);
	set(arg, false);
	UNTIL_WOKEN(NULL, &s, e->nic_events);
	CHECK_EQ(e->nic_status, -ENETDOWN);
	CHECK_EQ(e->t->conn_open(e->d, &c, &offer, NULL), -ENETDOWN);
	e->nic_events = 0;
	set(arg, true);
	UNTIL_WOKEN(NULL, &s, e->nic_events);
	CHECK_EQ(e->nic_status, 0);
	CHECK_EQ(e->t->conn_open(e->d, &c, &offer, NULL), 0);
	e->t->conn_close(c);
	close(s.fd);
}

static void write_state(void *path, bool up)
{
	const char *text = up ? "4: ACTIVE\n" : "1: DOWN\n";
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* As an RDMA device has it: a file that says so. */
static void test_rdma_port(const char *library, const char *fake)
{
	char dir[] = "/tmp/pgctl-ofi-XXXXXX", path[200], options[500];
	static const char *const below[] = { "fake_efa_0", "fake_efa_0/ports",
					     "fake_efa_0/ports/1" };
	struct ofi_way way = fake_way("the stand-in for EFA, whose port goes down", library, fake);
	struct end e;

	CHECK(mkdtemp(dir));
	for (unsigned i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, below[i]);
		CHECK(mkdir(path, 0700) == 0);
	}
	snprintf(path, sizeof(path), "%s/%s/state", dir, below[2]);
	write_state(path, true);
	setenv("FAKE_EFA_SYSFS", dir, 1);
	snprintf(options, sizeof(options), "%s,sysfs=%s", way.options, dir);
	setenv("FAKE_EFA", fake, 1);
	printf("over %s (%s)\n", way.name, fake);
	open_end(&e, &transport_ofi, 0, options);
	check_down_and_up(&e, write_state, path);
	close_end(&e);
	unsetenv("FAKE_EFA_SYSFS");
	unlink(path);
	for (unsigned i = 3; i--;) {
		snprintf(path, sizeof(path), "%s/%s", dir, below[i]);
		rmdir(path);
	}
	rmdir(dir);
}

static void set_loopback(void *arg, bool up)
{
	struct ifreq request = { .ifr_name = "lo" };
	int *fd = arg;

	CHECK(ioctl(*fd, SIOCGIFFLAGS, &request) == 0);
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	CHECK(ioctl(*fd, SIOCSIFFLAGS, &request) == 0);
}

/* In a child that has network devices of its own. */
static int in_own_network(void)
{
	int fd = unshare(CLONE_NEWNET) ? -1 : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct end e;

	if (fd < 0)
		return 77;
	set_loopback(&fd, true);
	open_end(&e, &transport_ofi, 0, "provider=tcp");
	check_down_and_up(&e, set_loopback, &fd);
	close_end(&e);
	close(fd);
	return 0;
}

static void test_network_device(void)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid)
		exit(in_own_network());
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("skipped: a network device that goes down: no network of one's own here\n");
	else
		CHECK_EQ(WEXITSTATUS(status), 0);
}

static bool has_tcp(void)
{
	struct domain_options options = { .device = "", .options = "provider=tcp", .cpu = -1 };
	struct domain *d;

	if (transport_ofi.open(&options, &d, NULL))
		return false;
	transport_ofi.close(d);
	return true;
}

int main(int argc, char **argv)
{
	const struct ofi_way ways[] = {
		{ .name = "tcp", .options = "provider=tcp" },
		{ .name = "shm", .options = "provider=shm" },
		fake_way("the stand-in for EFA, where nothing rings", argv[1], "seed=5"),
		fake_way("the stand-in for EFA that rings", argv[1], "seed=6,wait_fd"),
	};
	int rc;

	CHECK(argc == 2);
	/* Before there are threads that a child would not have. */
	if (has_tcp())
		test_network_device();
	rc = over_each(ways, sizeof(ways) / sizeof(ways[0]), run);
	test_rdma_port(argv[1], "seed=7");
	test_rdma_port(argv[1], "seed=7,wait_fd");
	return rc;
}
