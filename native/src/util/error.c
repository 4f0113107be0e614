/* SPDX-License-Identifier: MIT */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int error_set(struct pg_error *err, int code, const char *fmt, ...)
{
	int saved = errno;

	if (err) {
		va_list args;

		err->code = code;
		va_start(args, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, args);
		va_end(args);
	}
	errno = saved;
	return code;
}
