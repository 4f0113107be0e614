/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_UTIL_RANDOM_H
#define PGCTL_UTIL_RANDOM_H

#include <stddef.h>

/* Fills buf with bytes that nobody can guess. 0 or -errno. Leaves errno alone. */
int random_bytes(void *buf, size_t len);

#endif
