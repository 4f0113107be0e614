/* SPDX-License-Identifier: MIT */
#include "util/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "util/clock.h"

int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_ns / NS_PER_SEC),
		.tv_nsec = (long)(timeout_ns % NS_PER_SEC),
	};
	int saved = errno;
	int rc = 0;

	if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected,
		    timeout_ns == UINT64_MAX ? NULL : &timeout, NULL, 0))
		rc = -errno;
	errno = saved;
	return rc;
}

void futex_wake(_Atomic uint32_t *word, int n)
{
	int saved = errno;

	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
	errno = saved;
}
