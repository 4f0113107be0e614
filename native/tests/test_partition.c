/* SPDX-License-Identifier: MIT
 *
 * Two "hosts" as network namespaces, joined by a cable; shared memory does not lead from one to the
 * other, a NIC does (a fake one, see fake_socket_nic.h), and when the other host falls silent without
 * a word, that is found out. Needs root, for the namespaces, and ip of iproute2.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_pair.h"
#include "fake_socket_nic.h"
#include "util/clock.h"

#define MEM (1u << 20)
#define SKIP 77

__attribute__((format(printf, 1, 2))) static int run(const char *fmt, ...)
{
	char command[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	return system(command);
}

static void open_side(struct side *s, const char *transport, const char *address)
{
	struct pg_group_config group = { .n_domains = 1,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .domains = { { .cpu = -1 } } };
	struct pg_config config;
	void *ptr;

	CHECK(pg_config_init(&config, NULL) == 0);
	snprintf(group.domains[0].transport, sizeof(group.domains[0].transport), "%s", transport);
	if (strcmp(transport, "shm"))
		snprintf(group.domains[0].device, sizeof(group.domains[0].device), "%s", address);
	config.groups = &group;
	CHECK(pg_engine_create(&config, &s->engine, NULL) == 0);
	s->g = pg_engine_group(s->engine, 0);
	CHECK(pg_alloc_mr(s->g, MEM, -1, 0, &ptr, &s->mr, NULL) == 0);
	s->mem = ptr;
}

/* Address and descriptor, each with its length in front of it on the wire (bytes 6 and 7). */
static void tell(struct side *s, int fd)
{
	uint8_t buf[PG_ADDR_MAX + PG_DESC_MAX] = { 0 };
	size_t len = PG_ADDR_MAX;

	CHECK(pg_main_address(s->g, buf, &len) == 0);
	len = PG_DESC_MAX;
	CHECK(pg_mr_desc(s->g, s->mr, buf + PG_ADDR_MAX, &len) == 0);
	CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf));
}

static void hear(struct side *s, int fd)
{
	uint8_t buf[PG_ADDR_MAX + PG_DESC_MAX], *desc = buf + PG_ADDR_MAX;

	CHECK(read(fd, buf, sizeof(buf)) == sizeof(buf));
	CHECK(pg_add_peer(s->g, buf, (size_t)(buf[6] | buf[7] << 8), &s->peer, NULL) == 0);
	CHECK(pg_import_mr(s->g, desc, (size_t)(desc[6] | desc[7] << 8), &s->remote, NULL) == 0);
}

/* The other host: serves until it is told to fall silent, and then goes on as if nothing were. */
static void other_host(int in, int out)
{
	struct side s, shm;
	int32_t never = 0;
	char byte;

	alarm(120);
	CHECK(unshare(CLONE_NEWNET) == 0);
	CHECK(write(out, "n", 1) == 1);
	CHECK(read(in, &byte, 1) == 1); /* the cable is in */
	CHECK(run("ip link set lo up; ip addr add 192.0.2.2/24 dev pgt1 && ip link set pgt1 up") ==
	      0);
	open_side(&s, "fakesock", "192.0.2.2");
	open_side(&shm, "shm", "");
	tell(&s, out);
	tell(&shm, out);
	hear(&s, in);
	for (;;) {
		/* What is in the pipe is only looked at now and then. */
		pg_wait_flags(s.g, &never, 1, 10000000);
		pg_wait_flags(shm.g, &never, 1, 0);
		if (pg_imm_value(s.g, 9, &(uint64_t){ 0 }) == 0 && s.mem[8]) {
			s.mem[8] = 0;
			CHECK(run("ip addr del 192.0.2.2/24 dev pgt1") == 0);
			CHECK(write(out, "s", 1) == 1);
		}
	}
}

static void this_host(int in, int out, pid_t other)
{
	struct side s, shm;
	struct pg_error err = { 0 };
	struct pg_peer_info info;
	struct pg_event e = { 0 };
	int32_t sent;
	uint64_t start;
	char byte;

	CHECK(read(in, &byte, 1) == 1);
	CHECK(run("ip link add pgt0 type veth peer name pgt1 netns %d", other) == 0);
	CHECK(run("ip link set lo up; ip addr add 192.0.2.1/24 dev pgt0 && ip link set pgt0 up") ==
	      0);
	CHECK(write(out, "c", 1) == 1);
	open_side(&s, "fakesock", "192.0.2.1");
	open_side(&shm, "shm", "");
	hear(&s, in);
	hear(&shm, in);
	tell(&s, out);
	CHECK(pg_connect(shm.g, shm.peer, 10 * SECOND, &err) == -EHOSTDOWN);
	CHECK(strstr(err.text, "another host"));
	s.mem[0] = 1;
	CHECK(pg_connect(s.g, s.peer, 20 * SECOND, &err) == 0);
	CHECK(pg_submit_single_write(s.g, 1, 9, s.mr, 0, s.remote, 0, 0, &sent, NULL) == 0);
	CHECK(pg_wait_flags(s.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	CHECK(pg_peer_info(s.g, s.peer, &info) == 0 && info.up && !info.local);
	CHECK(pg_submit_single_write(s.g, 1, 9, s.mr, 0, s.remote, 8, 0, &sent, NULL) == 0);
	CHECK(pg_wait_flags(s.g, &sent, 1, 10 * SECOND) == 0 && sent == 1);
	CHECK(read(in, &byte, 1) == 1 && byte == 's');
	start = clock_ns();
	while (e.kind != PG_EVENT_PEER_DOWN) {
		CHECK(clock_ns() - start < 60 * SECOND);
		pg_wait_events(s.g, &e, 1, SECOND);
	}
	CHECK(e.status == -EHOSTDOWN && strstr(e.text, "host does not answer"));
	printf("partition: a silent host is given up after %.1f s\n",
	       (double)(clock_ns() - start) / 1e9);
	CHECK(pg_engine_destroy(s.engine) == 0);
	CHECK(pg_engine_destroy(shm.engine) == 0);
}

int main(void)
{
	int to[2], from[2];
	pid_t pid;

	if (geteuid() != 0 || system("ip -V >/dev/null 2>&1") != 0) {
		printf("partition: skipped: network namespaces need root, and ip of iproute2\n");
		return SKIP;
	}
	CHECK(pipe(to) == 0 && pipe(from) == 0);
	if (unshare(CLONE_NEWNET)) {
		printf("partition: skipped: no network namespaces here: %m\n");
		return SKIP;
	}
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		other_host(to[0], from[1]);
	this_host(from[0], to[1], pid);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}
