/* SPDX-License-Identifier: MIT
 *
 * What has to be known of memory of a GPU, from the CUDA driver of this process. Who has not loaded
 * libcuda has no such memory; it is never loaded from here. Any thread. */
#ifndef PGCTL_UTIL_CUDA_H
#define PGCTL_UTIL_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "pgctl/engine.h"

/* Whether there can be such memory. */
bool cuda_is_loaded(void);

bool cuda_is_device_memory(const void *ptr);

/* The number that the driver has for the GPU whose memory it is; 0 if it does not say. */
int cuda_device(const void *ptr);

/* A descriptor of the DMA-BUF that holds [ptr, ptr + len), which begins there at *offset; the caller
 * closes it. -EOPNOTSUPP and the reason. */
int cuda_dmabuf(const void *ptr, uint64_t len, uint64_t *offset, struct pg_error *err);

#endif
