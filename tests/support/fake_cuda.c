/* SPDX-License-Identifier: MIT
 *
 * A CUDA driver that is none: its GPU is 0000:13:00.0, whose memory is the process's own. Says every
 * call that matters on stderr. FAKE_CUDA, the name of a call, makes that one fail; or it is one of the
 * words below. With FAKE_CUDA_HOST it says of its memory what is true, that a CPU can reach it. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUSY 46
#define UNSUPPORTED 801

static char context;
static uint8_t *memory;
static size_t size;

static int asked(const char *word)
{
	const char *wanted = getenv("FAKE_CUDA");

	return wanted && !strcmp(wanted, word);
}

static int said(const char *call)
{
	fprintf(stderr, "%s\n", call);
	return asked(call) ? BUSY : 0;
}

int cuInit(unsigned flags)
{
	(void)flags;
	while (asked("hang"))
		sleep(1);
	if (asked("crash"))
		abort();
	return said("cuInit");
}

int cuDeviceGetByPCIBusId(int *device, const char *address)
{
	*device = 3;
	return strcmp(address, "0000:13:00.0") ? 101 : said("cuDeviceGetByPCIBusId");
}

int cuDevicePrimaryCtxRetain(void **ctx, int device)
{
	*ctx = &context;
	return device == 3 ? said("cuDevicePrimaryCtxRetain") : 101;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
	return device == 3 ? said("cuDevicePrimaryCtxRelease") : 101;
}

int cuCtxSetCurrent(void *ctx)
{
	return ctx == &context ? said("cuCtxSetCurrent") : 201;
}

int cuCtxPushCurrent_v2(void *ctx)
{
	return ctx == &context ? 0 : 201;
}

int cuCtxPopCurrent_v2(void **ctx)
{
	*ctx = &context;
	return 0;
}

int cuCtxSynchronize(void)
{
	return said("cuCtxSynchronize");
}

int cuMemAlloc_v2(uint64_t *ptr, size_t length)
{
	size = length;
	memory = aligned_alloc(4096, length);
	*ptr = (uintptr_t)memory;
	return said("cuMemAlloc");
}

int cuMemFree_v2(uint64_t ptr)
{
	if (ptr != (uintptr_t)memory)
		return 1;
	free(memory);
	memory = NULL;
	return said("cuMemFree");
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t length)
{
	memcpy((void *)(uintptr_t)to, from, length);
	return said("cuMemcpyHtoD");
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t length)
{
	memcpy(to, (void *)(uintptr_t)from, length);
	if (asked("elsewhere")) /* as if a NIC wrote, and read, where the GPU's memory is not */
		memset((uint8_t *)to + 4096, 0, 1);
	return said("cuMemcpyDtoH");
}

int cuGetErrorName(int status, const char **name)
{
	*name = status == BUSY ? "CUDA_ERROR_DEVICES_UNAVAILABLE" : NULL;
	return status == BUSY ? 0 : 1;
}

/* ---- What the engine asks, which finds the library loaded ---- */

int cuPointerGetAttribute(void *data, int attribute, uint64_t ptr)
{
	if (!memory || ptr < (uintptr_t)memory || ptr >= (uintptr_t)memory + size)
		return 1;
	if (getenv("FAKE_CUDA_HOST"))
		return 1;
	if (attribute == 1)
		*(void **)data = &context;
	else
		*(unsigned *)data = 2;
	return 0;
}

int cuMemGetAddressRange_v2(uint64_t *base, size_t *length, uint64_t ptr)
{
	(void)ptr;
	*base = (uintptr_t)memory;
	*length = size;
	return 0;
}

int cuMemGetHandleForAddressRange(void *handle, uint64_t ptr, size_t length, int type,
				  unsigned long long flags)
{
	(void)handle, (void)ptr, (void)length, (void)type, (void)flags;
	said("cuMemGetHandleForAddressRange");
	return UNSUPPORTED;
}
