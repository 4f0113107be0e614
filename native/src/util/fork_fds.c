/* SPDX-License-Identifier: MIT */
#include "util/fork_fds.h"

#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#define MAX_FDS 65536

/* A bit each, and no list: a fork can come when another thread is in the middle of anything. All
 * accesses are relaxed: a bit says nothing of other memory. */
static _Atomic uint64_t noted[MAX_FDS / 64];

void fork_fds_add(int fd)
{
	if (fd >= 0 && fd < MAX_FDS)
		atomic_fetch_or_explicit(&noted[fd / 64], 1ull << fd % 64, memory_order_relaxed);
}

void fork_fds_remove(int fd)
{
	if (fd >= 0 && fd < MAX_FDS)
		atomic_fetch_and_explicit(&noted[fd / 64], ~(1ull << fd % 64),
					  memory_order_relaxed);
}

void fork_fds_close(void)
{
	for (int i = 0; i < MAX_FDS / 64; i++) {
		uint64_t bits = atomic_exchange_explicit(&noted[i], 0, memory_order_relaxed);

		for (; bits; bits &= bits - 1)
			close(i * 64 + __builtin_ctzll(bits));
	}
}
