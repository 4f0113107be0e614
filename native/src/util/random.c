/* SPDX-License-Identifier: MIT */
#include "util/random.h"

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/types.h>

int random_bytes(void *buf, size_t len)
{
	uint8_t *next = buf;
	int saved = errno;
	int rc = 0;

	while (len && !rc) {
		ssize_t n = getrandom(next, len, 0);

		if (n >= 0) {
			next += n;
			len -= (size_t)n;
		} else if (errno != EINTR) {
			rc = -errno;
		}
	}
	errno = saved;
	return rc;
}
