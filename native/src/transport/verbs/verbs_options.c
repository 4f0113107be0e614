/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/verbs/verbs.h"
#include "util/error.h"

struct option {
	const char *name;
	size_t at;
	long least, most, without;
	const char *what;
};

#define AT(field) offsetof(struct verbs_options, field)

static const struct option known[] = {
	{ "gid", AT(gid), 0, 255, -1, "an index into the port's table of GIDs" },
	{ "pkey", AT(pkey), 1, 0xffff, -1, "a partition key" },
	{ "mtu", AT(mtu), 256, 4096, -1, "256, 512, 1024, 2048 or 4096" },
	{ "tc", AT(traffic_class), 0, 255, 0, "a traffic class" },
	{ "sl", AT(service_level), 0, 15, 0, "a service level" },
	{ "timeout", AT(timeout), 1, 31, 14, "x, for 4.096 us times 2 to the x" },
	/* Of 7 Soft-RoCE makes a connection that never breaks. */
	{ "retry", AT(retry), 0, 7, 6, "a number of retries" },
	{ "rnr", AT(rnr), 0, 31, 5, "a code for a pause" },
	{ "imms", AT(imms), 64, 32768, VERBS_IMMS, "receives to keep posted" },
	{ "relaxed", AT(relaxed), 0, 1, 0, "1 or 0" },
};

#define N_KNOWN (sizeof(known) / sizeof(known[0]))

static int *field(struct verbs_options *options, const struct option *o)
{
	return (int *)(void *)((char *)options + o->at);
}

static const struct option *find(const char *name, size_t len)
{
	for (unsigned i = 0; i < N_KNOWN; i++)
		if (strlen(known[i].name) == len && !strncmp(known[i].name, name, len))
			return &known[i];
	return NULL;
}

static bool is_mtu(long n)
{
	return n >= 256 && n <= 4096 && !(n & (n - 1));
}

/* One piece, "tc=106". */
static int parse_piece(const char *piece, struct verbs_options *options, struct pg_error *err)
{
	const char *equals = strchr(piece, '=');
	const struct option *o = find(piece, equals ? (size_t)(equals - piece) : strlen(piece));
	char *end;
	long n;

	if (!o)
		return error_set(err, -EINVAL,
				 "verbs has no option \"%s\"; it has gid, pkey, mtu, tc, sl, "
				 "timeout, retry, rnr, imms, relaxed",
				 piece);
	n = equals ? strtol(equals + 1, &end, 0) : -1;
	if (!equals || !equals[1] || *end || n < o->least || n > o->most ||
	    (o->at == AT(mtu) && !is_mtu(n)))
		return error_set(err, -EINVAL, "option \"%s\" of verbs: %s= takes %s, %ld to %ld",
				 piece, o->name, o->what, o->least, o->most);
	*field(options, o) = (int)n;
	return 0;
}

int verbs_options_parse(const char *text, struct verbs_options *options, struct pg_error *err)
{
	const char *environment = getenv("PGCTL_VERBS");
	char copy[256], *save = NULL;
	int rc = 0;

	for (unsigned i = 0; i < N_KNOWN; i++)
		*field(options, &known[i]) = (int)known[i].without;
	if (!text || !text[0])
		text = environment ? environment : "";
	if (strlen(text) >= sizeof(copy))
		return error_set(err, -EINVAL, "options of verbs: longer than %zu characters",
				 sizeof(copy) - 1);
	memcpy(copy, text, strlen(text) + 1);
	for (char *piece = strtok_r(copy, ",", &save); piece && !rc;
	     piece = strtok_r(NULL, ",", &save))
		rc = parse_piece(piece, options, err);
	return rc;
}
