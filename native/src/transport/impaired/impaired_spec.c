/* SPDX-License-Identifier: MIT */
#include "transport/impaired/impaired_spec.h"

#include <errno.h>
#include <string.h>

#include "util/clock.h"
#include "util/error.h"

#define MOST_DIGITS 18
#define MOST_NS (3600 * NS_PER_SEC)
#define MOST_BITS 10000000000000ull

struct text {
	const char *at;
	size_t len;
};

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit seconds[] = {
	{ "ns", 1 }, { "us", 1000 }, { "ms", 1000000 }, { "s", NS_PER_SEC }, { 0 }
};
static const struct unit rates[] = { { "K", 1000 }, { "M", 1000000 }, { "G", 1000000000 }, { 0 } };
static const struct unit numbers[] = { { "", 1 }, { 0 } };
static const struct unit shares[] = { { "", IMPAIR_CERTAIN }, { 0 } };

static bool is(struct text t, const char *word)
{
	return strlen(word) == t.len && !memcmp(t.at, word, t.len);
}

/* Cuts t at the first c; what follows, or with a NULL `at` if there is none. */
static struct text cut(struct text *t, char c)
{
	const char *found = memchr(t->at, c, t->len);
	struct text rest = { 0 };

	if (found) {
		rest.at = found + 1;
		rest.len = t->len - (size_t)(rest.at - t->at);
		t->len = (size_t)(found - t->at);
	}
	return rest;
}

/* Digits, perhaps a point and digits, and one of the units, exactly. */
static bool parse_number(struct text t, const struct unit *units, uint64_t max, uint64_t *value)
{
	unsigned __int128 scaled = 0, divisor = 1;
	size_t digits = 0, i = 0;
	bool point = false;

	for (; i < t.len && ((t.at[i] >= '0' && t.at[i] <= '9') || t.at[i] == '.'); i++) {
		if (t.at[i] == '.') {
			if (point || !digits)
				return false;
			point = true;
			continue;
		}
		scaled = scaled * 10 + (unsigned)(t.at[i] - '0');
		divisor *= point ? 10 : 1;
		if (++digits > MOST_DIGITS)
			return false;
	}
	if (!digits || t.at[i - 1] == '.')
		return false;
	t.at += i;
	t.len -= i;
	while (units->name && !is(t, units->name))
		units++;
	if (!units->name)
		return false;
	scaled *= units->factor;
	if (scaled % divisor || scaled / divisor > max)
		return false;
	*value = (uint64_t)(scaled / divisor);
	return true;
}

static bool parse_u32(struct text t, uint32_t min, uint32_t max, uint32_t *value)
{
	uint64_t v;

	if (!parse_number(t, numbers, max, &v) || v < min)
		return false;
	*value = (uint32_t)v;
	return true;
}

/* "nic0" to "nic3" */
static bool parse_nic(struct impair *im, struct text t, uint32_t *nic)
{
	if (t.len < 4 || memcmp(t.at, "nic", 3) ||
	    !parse_u32((struct text){ t.at + 3, t.len - 3 }, 0, PG_MAX_DOMAINS - 1, nic))
		return false;
	if ((int32_t)*nic > im->highest_nic)
		im->highest_nic = (int32_t)*nic;
	return true;
}

/* ---- One function for each key: false if its value cannot be. ---- */

static bool parse_reorder(struct impair *im, struct text value)
{
	return parse_u32(value, 2, IMPAIR_WINDOW_MAX, &im->reorder);
}

static bool parse_delay(struct impair *im, struct text value)
{
	return parse_number(value, seconds, MOST_NS, &im->delay_ns);
}

static bool parse_jitter(struct impair *im, struct text value)
{
	return parse_number(value, seconds, MOST_NS, &im->jitter_ns);
}

static bool parse_cap(struct impair *im, struct text value)
{
	struct text first = value, rate = cut(&first, ':');
	uint32_t nic, end;
	uint64_t bits;

	if (!rate.at) {
		nic = 0;
		end = PG_MAX_DOMAINS;
		rate = value;
	} else if (parse_nic(im, first, &nic)) {
		end = nic + 1;
	} else {
		return false;
	}
	if (!parse_number(rate, rates, MOST_BITS, &bits) || !bits)
		return false;
	for (; nic < end; nic++) {
		if (im->cap[nic])
			return false;
		im->cap[nic] = bits;
	}
	return true;
}

static bool parse_depth(struct impair *im, struct text value)
{
	return parse_u32(value, 1, IMPAIR_WINDOW_MAX, &im->depth);
}

static bool parse_fail(struct impair *im, struct text value)
{
	uint64_t share;

	if (!parse_number(value, shares, IMPAIR_CERTAIN, &share))
		return false;
	im->fail = (uint32_t)share;
	return true;
}

static bool parse_rank(struct impair *im, struct text value)
{
	uint32_t rank;

	if (!parse_u32(value, 0, INT32_MAX, &rank))
		return false;
	im->rank = (int32_t)rank;
	return true;
}

/* Each NIC goes down and up in turns, whatever the order they are given in. */
static bool turns(const struct impair *im)
{
	bool down[PG_MAX_DOMAINS] = { false };

	for (unsigned i = 0; i < im->n_events; i++) {
		const struct impair_event *e = &im->events[i];

		if (e->nic < 0)
			continue;
		if (down[e->nic] != e->up)
			return false;
		down[e->nic] = !e->up;
	}
	return true;
}

static bool add_event(struct impair *im, struct impair_event event)
{
	unsigned i = im->n_events;

	if (i == IMPAIR_EVENTS)
		return false;
	for (; i && im->events[i - 1].at_ns > event.at_ns; i--)
		im->events[i] = im->events[i - 1];
	im->events[i] = event;
	im->n_events++;
	return true;
}

static bool parse_event(struct impair *im, struct text who, bool up)
{
	struct text when = cut(&who, '@');
	struct impair_event event = { .nic = -1, .up = up };
	uint32_t nic;

	if (!when.at || !parse_number(when, seconds, MOST_NS, &event.at_ns))
		return false;
	if (up || !is(who, "rank")) {
		if (!parse_nic(im, who, &nic))
			return false;
		event.nic = (int32_t)nic;
	}
	return add_event(im, event);
}

static bool parse_kill(struct impair *im, struct text value)
{
	return parse_event(im, value, false);
}

static bool parse_revive(struct impair *im, struct text value)
{
	return parse_event(im, value, true);
}

#define TIME "a number and ns, us, ms or s, up to an hour"
#define EVENT "nic0 to nic3, 16 of both at most, " TIME

enum times { ONCE, AGAIN };

static const struct key {
	const char *name;
	bool (*parse)(struct impair *im, struct text value);
	enum times times;
	const char *expected;
} keys[] = {
	{ "reorder", parse_reorder, ONCE, "reorder=N, 2 to 128 work requests" },
	{ "delay", parse_delay, ONCE, "delay=TIME, " TIME },
	{ "jitter", parse_jitter, ONCE, "jitter=TIME, " TIME },
	{ "cap", parse_cap, AGAIN,
	  "cap=RATE or cap=nicI:RATE, once a NIC, a number and K, M or G bits/s" },
	{ "depth", parse_depth, ONCE, "depth=N, 1 to 128 work requests" },
	{ "fail", parse_fail, ONCE, "fail=P, a probability from 0 to 1 of 9 decimals at most" },
	{ "kill", parse_kill, AGAIN, "kill=nicI@TIME or kill=rank@TIME, " EVENT },
	{ "revive", parse_revive, AGAIN, "revive=nicI@TIME, " EVENT },
	{ "rank", parse_rank, ONCE, "rank=N" },
};

#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

static int refuse(struct text piece, const char *expected, struct pg_error *err)
{
	return error_set(err, -EINVAL, "impairment \"%.*s\": expected %s",
			 piece.len < 80 ? (int)piece.len : 80, piece.at, expected);
}

static int parse_piece(struct impair *im, struct text piece, bool *seen, struct pg_error *err)
{
	struct text name = piece, value = cut(&name, '=');

	for (unsigned i = 0; i < N_KEYS; i++) {
		const struct key *key = &keys[i];

		if (!is(name, key->name))
			continue;
		if (seen[i] && key->times == ONCE)
			return refuse(piece, "this key only once", err);
		if (!value.at || !key->parse(im, value))
			return refuse(piece, key->expected, err);
		seen[i] = true;
		im->active |= strcmp(key->name, "rank") != 0;
		return 0;
	}
	return refuse(piece,
		      "none alone, reorder, delay, jitter, cap, depth, fail, kill, revive or rank",
		      err);
}

int impair_parse(const char *spec, struct impair *impair, struct pg_error *err)
{
	struct text piece, rest = { spec, strlen(spec) };
	struct impair im = { .rank = -1, .highest_nic = -1 };
	bool seen[N_KEYS] = { false };

	if (rest.len >= PG_IMPAIR_MAX)
		return error_set(err, -EINVAL, "impairment of %zu characters: expected %d at most",
				 rest.len, PG_IMPAIR_MAX - 1);

	if (!is(rest, "none")) {
		while (rest.at) {
			int rc;

			piece = rest;
			rest = cut(&piece, ',');
			rc = parse_piece(&im, piece, seen, err);
			if (rc)
				return rc;
		}
	}
	if (!turns(&im))
		return error_set(err, -EINVAL,
				 "impairment \"%.120s\": expected a NIC to be killed and revived "
				 "in turns",
				 spec);
	*impair = im;
	return 0;
}

int pg_impair_check(const char *spec, uint32_t nics, int32_t *rank, struct pg_error *err)
{
	struct impair im = { .rank = -1, .highest_nic = -1 };
	int rc = spec[0] ? impair_parse(spec, &im, err) : 0;

	if (rc)
		return rc;
	if (nics && im.highest_nic >= (int32_t)nics)
		return error_set(err, -EINVAL,
				 "impairment \"%.120s\" names nic%d, and there are %u NICs", spec,
				 im.highest_nic, nics);
	*rank = im.rank;
	return 0;
}
