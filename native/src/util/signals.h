/* SPDX-License-Identifier: MIT
 *
 * Signals are the application's. Libraries that take them over when they are opened, to print where they
 * crashed, have it undone. */
#ifndef PGCTL_UTIL_SIGNALS_H
#define PGCTL_UTIL_SIGNALS_H

#include <signal.h>

#define SIGNALS_MAX 16

struct signals {
	struct sigaction were[SIGNALS_MAX];
};

/* Around calls of such a library, one thread at a time: the next waits in signals_save. Of the whole process:
 * what others set meanwhile is undone as well. */
void signals_save(struct signals *s);
void signals_restore(const struct signals *s);

#endif
