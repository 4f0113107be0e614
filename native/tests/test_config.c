/* SPDX-License-Identifier: MIT
 *
 * What a user sets: every variable of the environment, where peers find us, several groups and
 * engines in one process. The NIC is a fake, which reaches other hosts.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/address.h"
#include "engine_pair.h"
#include "fake_socket_nic.h"

#define MEM 65536

/* ---- The environment ---- */

static const struct variable {
	const char *name;
	size_t at, size;
	uint64_t unit, by_default;
	const char *too_much;
} variables[] = {
#define FIELD(field) offsetof(struct pg_config, field), sizeof(((struct pg_config *)0)->field)
	{ "PGCTL_MAX_OPS", FIELD(max_ops), 1, 4096, "1048577" },
	{ "PGCTL_MAX_EVENTS", FIELD(max_events), 1, 8192, "1048577" },
	{ "PGCTL_MAX_UNCLAIMED", FIELD(max_unclaimed), 1, 65536, "16777217" },
	{ "PGCTL_MAX_PEERS", FIELD(max_peers), 1, 1024, "65537" },
	{ "PGCTL_MAX_REGIONS", FIELD(max_regions), 1, 4096, "1048577" },
	{ "PGCTL_OP_TIMEOUT_MS", FIELD(op_timeout_ns), 1000000, 30000, "86400001" },
	{ "PGCTL_OP_LIMIT_MS", FIELD(op_limit_ns), 1000000, 0, "86400001" },
	{ "PGCTL_HEARTBEAT_MS", FIELD(heartbeat_ns), 1000000, 1000, "3600001" },
	{ "PGCTL_SILENT_MS", FIELD(silent_ns), 1000000, 3000, "86400001" },
	{ "PGCTL_DEAD_MS", FIELD(dead_ns), 1000000, 3500, "86400001" },
	{ "PGCTL_GOODBYE_MS", FIELD(goodbye_ns), 1000000, 1000, "3600001" },
	{ "PGCTL_SPIN_US", FIELD(spin_ns), 1000, PG_SPIN_AUTO, "1000001" },
	{ "PGCTL_BUSY_POLL", FIELD(busy_poll), 1, 0, "2" },
#undef FIELD
};

static uint64_t field(const struct pg_config *config, const struct variable *v)
{
	uint64_t value = 0;

	memcpy(&value, (const char *)config + v->at, v->size);
	return value;
}

static void test_variable(const struct variable *v)
{
	static const char *const garbage[] = {
		"x", "1x", "-1", "1.5", "0x10", " ", "-18446744073709551615", "99999999999999999999"
	};
	uint64_t is_default = v->by_default == PG_SPIN_AUTO ? PG_SPIN_AUTO
							    : v->by_default * v->unit;
	struct pg_config config;
	struct pg_error err = { 0 };

	CHECK(pg_config_init(&config, NULL) == 0);
	CHECK(field(&config, v) == is_default);
	CHECK(setenv(v->name, "", 1) == 0);
	CHECK(pg_config_init(&config, NULL) == 0);
	CHECK(field(&config, v) == is_default);
	CHECK(setenv(v->name, v->size == 1 ? "1" : "512", 1) == 0);
	CHECK(pg_config_init(&config, &err) == 0);
	CHECK_EQ(field(&config, v), (v->size == 1 ? 1 : 512) * v->unit);
	for (unsigned i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		CHECK(setenv(v->name, garbage[i], 1) == 0);
		CHECK_EQ(pg_config_init(&config, &err), -EINVAL);
		CHECK(strstr(err.text, v->name) && strstr(err.text, garbage[i]));
		CHECK(pg_engine_create(NULL, &(struct pg_engine *){ NULL }, NULL) == -EINVAL);
	}
	CHECK(setenv(v->name, v->too_much, 1) == 0);
	CHECK_EQ(pg_config_init(&config, &err), -EINVAL);
	CHECK(strstr(err.text, v->name));
	CHECK(unsetenv(v->name) == 0);
}

static void test_control_variable(void)
{
	char text[80];
	struct pg_config config;
	struct pg_error err = { 0 };

	CHECK(pg_config_init(&config, NULL) == 0 && config.control[0] == '\0');
	memset(text, 'x', sizeof(text));
	text[63] = '\0';
	CHECK(setenv("PGCTL_CONTROL", text, 1) == 0);
	CHECK(pg_config_init(&config, NULL) == 0 && !strcmp(config.control, text));
	text[63] = 'x';
	text[64] = '\0';
	CHECK(setenv("PGCTL_CONTROL", text, 1) == 0);
	CHECK(pg_config_init(&config, &err) == -EINVAL && strstr(err.text, "PGCTL_CONTROL"));
	CHECK(unsetenv("PGCTL_CONTROL") == 0);
}

static void refuse(const struct pg_config *config, const char *name)
{
	struct pg_error err = { 0 };
	struct pg_engine *engine;

	CHECK_EQ(pg_engine_create(config, &engine, &err), -EINVAL);
	CHECK(strstr(err.text, name));
}

/* What cannot be meant. */
static void test_refused(void)
{
	struct pg_config good, c;

	CHECK(pg_config_init(&good, NULL) == 0);
	c = good;
	c.heartbeat_ns = 0;
	refuse(&c, "heartbeat_ns");
	c = good;
	c.silent_ns = 2 * c.heartbeat_ns - 1;
	refuse(&c, "silent_ns");
	c = good;
	c.dead_ns = 999999;
	refuse(&c, "dead_ns");
	c = good;
	c.op_timeout_ns = 0;
	refuse(&c, "op_timeout_ns");
	c = good;
	memset(c.control, '1', sizeof(c.control));
	refuse(&c, "control");
}

/* ---- Where peers find us ---- */

/* 0 and where it is, or why not. */
static int listen_at(const char *control, struct net_addr *addr, struct pg_error *err)
{
	struct pg_group_config group = { .n_domains = 1,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .domains = { { .cpu = -1 } } };
	struct pg_config config;
	struct pg_engine *engine;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	int rc;

	CHECK(pg_config_init(&config, NULL) == 0);
	config.groups = &group;
	snprintf(config.control, sizeof(config.control), "%s", control);
	rc = pg_engine_create(&config, &engine, err);
	if (rc)
		return rc;
	CHECK(pg_main_address(pg_engine_group(engine, 0), buf, &len) == 0);
	CHECK(net_addr_decode(buf, len, addr, NULL) == 0);
	CHECK(pg_engine_destroy(engine) == 0);
	return 0;
}

static bool found_at(const struct net_addr *addr, const char *host)
{
	uint8_t want[16] = { [10] = 0xff, [11] = 0xff };

	if (inet_pton(AF_INET, host, want + 12) != 1)
		CHECK(inet_pton(AF_INET6, host, want) == 1);
	for (unsigned i = 0; i < addr->n_hosts; i++)
		if (!memcmp(addr->hosts[i], want, sizeof(want)))
			return true;
	return false;
}

/* One that is free now. */
static uint16_t free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
	close(fd);
	return ntohs(at.sin_port);
}

static bool has_ipv6(void)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool has = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0;

	if (fd >= 0)
		close(fd);
	return has;
}

#define TRIES 20 /* others look for ports as well */

static void check_port(const char *before, const char *host)
{
	struct net_addr addr = { 0 };
	uint16_t port = 0;
	int rc = -EADDRINUSE;

	for (unsigned i = 0; i < TRIES && rc == -EADDRINUSE; i++) {
		char text[64];

		port = free_port();
		snprintf(text, sizeof(text), "%s:%u", before, port);
		rc = listen_at(text, &addr, NULL);
	}
	CHECK_EQ(rc, 0);
	CHECK(found_at(&addr, host));
	CHECK_EQ(addr.port, port);
}

static void test_where(void)
{
	struct pg_error err = { 0 };
	struct net_addr addr;

	CHECK_EQ(listen_at("127.0.0.1", &addr, &err), 0);
	CHECK(addr.n_hosts == 1 && addr.port && found_at(&addr, "127.0.0.1"));
	check_port("127.0.0.2", "127.0.0.2");
	check_port("[127.0.0.1]", "127.0.0.1");
	check_port("lo", "127.0.0.1");
	CHECK_EQ(listen_at("lo", &addr, &err), 0);
	CHECK(addr.n_hosts >= 1 && found_at(&addr, "127.0.0.1") && addr.port);
	CHECK_EQ(listen_at("", &addr, &err), 0);
	CHECK(addr.n_hosts >= 1 && addr.port);
	if (has_ipv6()) {
		CHECK_EQ(listen_at("::1", &addr, &err), 0);
		CHECK(addr.n_hosts == 1 && found_at(&addr, "::1") && addr.port);
		check_port("[::1]", "::1");
	}
}

/* Only where we say that we are is anybody let in. */
static void test_only_there(void)
{
	struct pg_config config;
	struct net_addr addr;
	uint8_t buf[PG_ADDR_MAX];
	size_t len = sizeof(buf);
	struct side s;

	CHECK(pg_config_init(&config, NULL) == 0);
	snprintf(config.control, sizeof(config.control), "127.0.0.2");
	side_open(&s, 1, PG_PROGRESS_INLINE, MEM, &config);
	CHECK(pg_main_address(s.g, buf, &len) == 0 && net_addr_decode(buf, len, &addr, NULL) == 0);
	for (uint32_t host = 1; host <= 2; host++) {
		struct sockaddr_in at = { .sin_family = AF_INET,
					  .sin_port = htons(addr.port),
					  .sin_addr.s_addr = htonl(0x7f000000 + host) };
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		CHECK_EQ(connect(fd, (struct sockaddr *)&at, sizeof(at)), host == 2 ? 0 : -1);
		close(fd);
	}
	CHECK(pg_engine_destroy(s.engine) == 0);
}

static void test_nowhere(void)
{
	static const char *const garbage[] = {
		"127.0.0.1:",      "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:1x",
		"127.0.0.1:70000", "[::1",        "[::1]",       "[::1]8",
		"[::1]:",          ":80",         "127.0.0.256", "no-such-interface",
		"127.0.0.1 ",      "127.0.0.1:-1"
	};
	struct pg_error err = { 0 };
	struct net_addr addr;

	for (unsigned i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		err = (struct pg_error){ 0 };
		if (listen_at(garbage[i], &addr, &err) >= 0)
			check_failed(__FILE__, __LINE__, garbage[i]);
		CHECK(strstr(err.text, garbage[i]));
	}
	/* An address that is another's. */
	CHECK(listen_at("192.0.2.77", &addr, &err) < 0 && strstr(err.text, "192.0.2.77"));
}

/* ---- Several ---- */

#define ENGINES 2
#define GROUPS 2
#define ALL (ENGINES * GROUPS)

/* Every group writes to every other, and to none but that. Each has its own port. */
static void test_groups(void)
{
	struct pg_group_config groups[GROUPS];
	struct pg_engine *engines[ENGINES];
	struct side s[ALL][ALL];
	struct pg_config config;
	uint16_t port = 0;
	uint8_t buf[PG_ADDR_MAX];
	int rc = -EADDRINUSE;
	void *ptr;

	for (unsigned i = 0; i < GROUPS; i++)
		groups[i] = (struct pg_group_config){ .n_domains = 1 + i,
						      .progress = PG_PROGRESS_WORKER,
						      .worker_cpu = -1,
						      .domains = { { .cpu = -1 }, { .cpu = -1 } } };
	CHECK(pg_config_init(&config, NULL) == 0);
	config.n_groups = GROUPS;
	config.groups = groups;
	for (unsigned i = 0; i < TRIES && rc == -EADDRINUSE; i++) {
		port = free_port();
		snprintf(config.control, sizeof(config.control), "127.0.0.1:%u", port);
		rc = pg_engine_create(&config, &engines[0], NULL);
	}
	CHECK_EQ(rc, 0);
	snprintf(config.control, sizeof(config.control), "127.0.0.1"); /* and some port */
	CHECK(pg_engine_create(&config, &engines[1], NULL) == 0);
	for (unsigned e = 0; e < ENGINES; e++) {
		CHECK_EQ(pg_engine_groups(engines[e]), GROUPS);
		CHECK(pg_engine_group(engines[e], GROUPS) == NULL);
	}
	for (unsigned i = 0; i < ALL; i++) {
		struct side one = { .engine = engines[i / GROUPS] };

		one.g = pg_engine_group(one.engine, i % GROUPS);
		CHECK(pg_alloc_mr(one.g, MEM, -1, 0, &ptr, &one.mr, NULL) == 0);
		one.mem = ptr;
		for (unsigned j = 0; j < ALL; j++)
			s[i][j] = one;
	}
	for (unsigned i = 0; i < GROUPS; i++) {
		struct net_addr addr;
		size_t len = sizeof(buf);

		CHECK(pg_main_address(s[i][0].g, buf, &len) == 0);
		CHECK(net_addr_decode(buf, len, &addr, NULL) == 0);
		CHECK_EQ(addr.port, port + i);
		CHECK_EQ(addr.group, i);
	}
	for (unsigned i = 0; i < ALL; i++)
		for (unsigned j = 0; j < ALL; j++) {
			int32_t sent;

			side_meet(&s[i][j], &s[j][0]);
			s[i][j].mem[0] = (uint8_t)(i + 1);
			CHECK(pg_submit_single_write(s[i][j].g, 1, 5, s[i][j].mr, 0, s[i][j].remote,
						     8 + i, 0, &sent, NULL) == 0);
			CHECK(pg_wait_flags(s[i][j].g, &sent, 1, 20 * SECOND) == 0);
			CHECK_EQ(sent, 1);
		}
	for (unsigned j = 0; j < ALL; j++) {
		int32_t fired;

		CHECK(pg_expect_imm_flag(s[j][0].g, 5, ALL, &fired, NULL) == 0);
		CHECK(pg_wait_flags(s[j][0].g, &fired, 1, 20 * SECOND) == 0 && fired == 1);
		for (unsigned i = 0; i < ALL; i++) {
			CHECK(s[j][0].mem[8 + i] == i + 1);
			for (unsigned k = 0; k < i; k++)
				CHECK(s[j][i].peer != s[j][k].peer);
		}
	}
	/* One goes, the others stay. */
	CHECK(pg_engine_destroy(engines[0]) == 0);
	for (unsigned i = GROUPS; i < ALL; i++) {
		int32_t sent;

		CHECK(pg_submit_barrier(s[i][GROUPS].g, &s[i][GROUPS].peer, 1, 6, 0, &sent, NULL) ==
		      0);
		CHECK(pg_wait_flags(s[i][GROUPS].g, &sent, 1, 20 * SECOND) == 0 && sent == 1);
	}
	CHECK(pg_engine_destroy(engines[1]) == 0);
}

int main(void)
{
	for (unsigned i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		test_variable(&variables[i]);
	test_control_variable();
	test_refused();
	test_where();
	test_only_there();
	test_nowhere();
	test_groups();
	printf("config: variables, places, refusals; %d groups of %d engines\n", ALL, ENGINES);
	return 0;
}
