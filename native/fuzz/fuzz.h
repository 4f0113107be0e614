/* SPDX-License-Identifier: MIT
 *
 * What a fuzz target is made of: its input, read as a sequence of choices, and what it must not
 * leave behind. A target is a function of its input alone: it neither sleeps nor keeps anything. */
#ifndef PGCTL_FUZZ_FUZZ_H
#define PGCTL_FUZZ_FUZZ_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../tests/check.h"

/* Called by libFuzzer, or by replay.c. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Two choices never stand in one expression: compilers differ in which they would make first. */
struct input {
	const uint8_t *at, *end;
};

static inline bool input_more(const struct input *in)
{
	return in->at < in->end;
}

/* Zeros behind the end, so that what zeros mean should be what is usual. How much was there. */
static inline size_t input_bytes(struct input *in, void *to, size_t len)
{
	size_t left = (size_t)(in->end - in->at), n = len < left ? len : left;

	memset(to, 0, len);
	if (n)
		memcpy(to, in->at, n);
	in->at += n;
	return n;
}

static inline uint64_t input_le(struct input *in, size_t width)
{
	uint64_t value = 0;

	input_bytes(in, &value, width);
	return value;
}

static inline uint8_t input_u8(struct input *in)
{
	return (uint8_t)input_le(in, 1);
}

static inline uint16_t input_u16(struct input *in)
{
	return (uint16_t)input_le(in, 2);
}

static inline uint32_t input_u32(struct input *in)
{
	return (uint32_t)input_le(in, 4);
}

/* Enough for what a target may have open. */
static inline unsigned fuzz_open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 128; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

#endif
