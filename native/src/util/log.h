/* SPDX-License-Identifier: MIT
 *
 * What the library has to say to whoever asked for it with pg_set_log. Leaves errno alone.
 */
#ifndef PGCTL_UTIL_LOG_H
#define PGCTL_UTIL_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

#include "pgctl/engine.h"

extern _Atomic int log_level;

__attribute__((format(printf, 2, 3))) void log_line(int level, const char *fmt, ...);

/* Around a fork, so that the child finds it free. */
void log_before_fork(void);
void log_after_fork(void);

static inline bool log_wanted(int level)
{
	/* relaxed: a line more or less when it has just changed */
	return __builtin_expect(level <= atomic_load_explicit(&log_level, memory_order_relaxed), 0);
}

/* The arguments are evaluated only if somebody listens. */
#define log_at(level, ...) (log_wanted(level) ? log_line(level, __VA_ARGS__) : (void)0)
#define log_warn(...) log_at(PG_LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(PG_LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(PG_LOG_DEBUG, __VA_ARGS__)

#endif
