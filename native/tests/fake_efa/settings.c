/* SPDX-License-Identifier: MIT
 *
 * What the stand-in for EFA is told, and what it has done. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inside.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned holders;         /* fabrics that are open */
static char told[512], nics[16]; /* what the settings are from */
static struct settings settings;
static _Atomic uint64_t counts[FAKE_EFA_N_MANNERS];
static _Atomic uint64_t seeds;

static const char *const fates[] = { "lost", "placed", "counted", "late", "any", NULL };
static const char *const deads[] = { "silent", "failed", "any", NULL };
static const char *const providers[] = { "efa", "verbs;ofi_rxm", NULL };

/* A setting that is not understood would be a test that does not test what it says. */
static void __attribute__((noreturn)) refuse(const char *word)
{
	fprintf(stderr, "FAKE_EFA: \"%s\" is not a setting\n", word);
	abort();
}

static uint64_t number(const char *word, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (!*text || *end || n < min || n > max)
		refuse(word);
	return n;
}

static uint64_t choice(const char *word, const char *text, const char *const *names)
{
	for (uint64_t i = 0; names[i]; i++) {
		if (!strcmp(text, names[i]))
			return i;
	}
	refuse(word);
}

static void set_value(struct settings *s, const char *name, const char *value)
{
	const struct {
		const char *name;
		uint64_t *at, min, max;
	} numbers[] = {
		{ "seed", &s->seed, 0, UINT64_MAX },    { "again", &s->again, 0, UINT64_MAX },
		{ "double", &s->twice, 0, UINT64_MAX }, { "echo", &s->echo, 0, UINT64_MAX },
		{ "hold", &s->hold, 0, 1000 },          { "rdma", &s->rdma, FAKE_MTU, 1ULL << 31 },
		{ "tx", &s->tx, 1, FAKE_MAX_TX },       { "rx", &s->rx, 1, 1 << 16 },
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (strcmp(name, numbers[i].name))
			continue;
		*numbers[i].at = number(name, value, numbers[i].min, numbers[i].max);
		return;
	}
	if (!strcmp(name, "fate"))
		s->fate = choice(name, value, fates);
	else if (!strcmp(name, "dead"))
		s->dead = choice(name, value, deads);
	else if (!strcmp(name, "provider"))
		s->provider = providers[choice(name, value, providers)];
	else
		refuse(name);
}

static void set_word(struct settings *s, const char *word)
{
	if (!strcmp(word, "emulated"))
		s->emulated = true;
	else if (!strcmp(word, "wait_fd"))
		s->wait_fd = true;
	else if (!strcmp(word, "stats"))
		s->stats = true;
	else if (!strcmp(word, "calm"))
		s->again = s->twice = s->echo = s->hold = 0;
	else
		refuse(word);
}

static void parse(void)
{
	char copy[sizeof(told)], *word, *rest, *value;

	settings = (struct settings){
		.nics = nics[0] ? (unsigned)number(nics, nics, 0, FAKE_MAX_NICS) : 4,
		.seed = 1,
		.again = 16,
		.twice = 8,
		.echo = 8,
		.hold = 4,
		.rdma = 1 << 20,
		.tx = 128,
		.rx = 256,
		.fate = FATE_ANY,
		.dead = DEAD_ANY,
		.provider = providers[0],
	};
	memcpy(copy, told, sizeof(copy));
	for (word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		value = strchr(word, '=');
		if (value)
			*value++ = '\0';
		if (value)
			set_value(&settings, word, value);
		else
			set_word(&settings, word);
	}
}

/* Whether it is another one than before. */
static bool take(const char *name, char *to, size_t size)
{
	const char *value = getenv(name);

	if (value && strlen(value) >= size)
		refuse(value);
	if (!strcmp(to, value ? value : ""))
		return false;
	snprintf(to, size, "%s", value ? value : "");
	return true;
}

/* Others read them while a fabric is open, so they stay as they are until then. */
static void read_settings(void)
{
	bool changed;

	if (holders)
		return;
	changed = take("FAKE_EFA", told, sizeof(told));
	changed |= take("FAKE_EFA_NICS", nics, sizeof(nics));
	if (changed || !settings.rdma)
		parse();
	atomic_store_explicit(&seeds, 0, memory_order_relaxed);
}

void fake_settings_read(void)
{
	pthread_mutex_lock(&lock);
	read_settings();
	pthread_mutex_unlock(&lock);
}

void fake_settings_hold(void)
{
	pthread_mutex_lock(&lock);
	read_settings();
	holders++;
	pthread_mutex_unlock(&lock);
}

void fake_settings_release(void)
{
	pthread_mutex_lock(&lock);
	holders--;
	pthread_mutex_unlock(&lock);
}

const struct settings *fake_settings(void)
{
	return &settings;
}

uint64_t fake_seed(void)
{
	/* Relaxed: any order will do. */
	uint64_t state =
		settings.seed + (atomic_fetch_add_explicit(&seeds, 1, memory_order_relaxed) << 32);

	return splitmix64(&state);
}

/* Relaxed: they are only added up. */
void fake_count(enum fake_efa_manner manner)
{
	atomic_fetch_add_explicit(&counts[manner], 1, memory_order_relaxed);
}

uint64_t fake_counted(enum fake_efa_manner manner)
{
	return atomic_load_explicit(&counts[manner], memory_order_relaxed);
}

__attribute__((destructor)) static void print_stats(void)
{
#define TEXT(name, text) text,
	static const char *const texts[] = { FAKE_EFA_MANNERS(TEXT) };
#undef TEXT

	if (!settings.stats)
		return;
	for (unsigned i = 0; i < FAKE_EFA_N_MANNERS; i++) {
		if (fake_counted(i))
			fprintf(stderr, "fake_efa[%d]: %ju %s\n", getpid(),
				(uintmax_t)fake_counted(i), texts[i]);
	}
}
