/* SPDX-License-Identifier: MIT */
#include "util/signals.h"

#include <pthread.h>
#include <stddef.h>

static const int kept[] = {
	SIGABRT, SIGBUS,  SIGFPE,  SIGHUP,  SIGILL,  SIGINT,
	SIGPIPE, SIGQUIT, SIGSEGV, SIGTERM, SIGTRAP,
};

#define N_KEPT (sizeof(kept) / sizeof(kept[0]))

_Static_assert(N_KEPT <= SIGNALS_MAX, "they fit");

/* Or one would save, and give back, what the library has set for another. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void signals_save(struct signals *s)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < N_KEPT; i++)
		sigaction(kept[i], NULL, &s->were[i]);
}

void signals_restore(const struct signals *s)
{
	struct sigaction now;

	for (size_t i = 0; i < N_KEPT; i++)
		if (!sigaction(kept[i], NULL, &now) && now.sa_sigaction != s->were[i].sa_sigaction)
			sigaction(kept[i], &s->were[i], NULL);
	pthread_mutex_unlock(&lock);
}
