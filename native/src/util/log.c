/* SPDX-License-Identifier: MIT */
#include "util/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512

_Atomic int log_level;

/* Held while a line is told, so that who is replaced is not called afterwards. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pg_log_fn hook;
static void *hook_arg;

void pg_set_log(pg_log_fn fn, void *arg, int level)
{
	pthread_mutex_lock(&guard);
	hook = fn;
	hook_arg = arg;
	/* relaxed: see log_wanted; the mutex orders the rest */
	atomic_store_explicit(&log_level, fn ? level : PG_LOG_OFF, memory_order_relaxed);
	pthread_mutex_unlock(&guard);
}

void log_line(int level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	int saved = errno;
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	pthread_mutex_lock(&guard);
	if (hook && level <= atomic_load_explicit(&log_level, memory_order_relaxed))
		hook(hook_arg, level, line);
	pthread_mutex_unlock(&guard);
	errno = saved;
}

static void to_fd(void *arg, int level, const char *line)
{
	static const char *const names[] = { "", "warn", "info", "debug" };
	char text[LINE_MAX_BYTES + 32];
	int n = snprintf(text, sizeof(text), "pgctl: %s: %s\n", names[level & 3], line);
	struct pollfd pfd = { .fd = (int)(intptr_t)arg, .events = POLLOUT };

	/* A pipe that can be written to takes a line; one without a reader would be a signal. */
	if (poll(&pfd, 1, 0) == 1 && pfd.revents == POLLOUT)
		(void)!write(pfd.fd, text, (size_t)n);
}

void pg_log_to_fd(int fd, int level)
{
	pg_set_log(fd < 0 ? NULL : to_fd, (void *)(intptr_t)fd, level);
}

void log_before_fork(void)
{
	pthread_mutex_lock(&guard);
}

void log_after_fork(void)
{
	pthread_mutex_unlock(&guard);
}
