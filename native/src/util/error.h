/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_UTIL_ERROR_H
#define PGCTL_UTIL_ERROR_H

#include "pgctl/engine.h"

/* Writes the sentence and returns code (-errno), so that a caller can `return error_set(...)`. A NULL
 * err is allowed. Leaves errno alone. */
__attribute__((format(printf, 3, 4))) int error_set(struct pg_error *err, int code, const char *fmt,
						    ...);

#endif
