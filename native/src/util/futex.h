/* SPDX-License-Identifier: MIT */
#ifndef PGCTL_UTIL_FUTEX_H
#define PGCTL_UTIL_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

/* Sleeps while *word is expected, for timeout_ns at most (UINT64_MAX: for ever). 0: woken, perhaps
 * for nothing, so look at *word again; -EAGAIN: *word was not expected; -EINTR; -ETIMEDOUT. Threads
 * of one process only. Leaves errno alone. */
int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

/* Wakes up to n of those who sleep on word. Leaves errno alone. */
void futex_wake(_Atomic uint32_t *word, int n);

/* For the body of a spinning loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

#endif
