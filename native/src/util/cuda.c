/* SPDX-License-Identifier: MIT */
#include "util/cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "util/error.h"

/* As in cuda.h, which the build does not need. */
#define CU_POINTER_ATTRIBUTE_CONTEXT 1
#define CU_POINTER_ATTRIBUTE_MEMORY_TYPE 2
#define CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL 9
#define CU_MEMORYTYPE_DEVICE 2
#define CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD 1

typedef int cu_pointer_get_attribute(void *data, int attribute, uintptr_t ptr);
typedef int cu_ctx_push(void *context);
typedef int cu_ctx_pop(void **context);
typedef int cu_mem_get_address_range(uintptr_t *base, size_t *size, uintptr_t ptr);
typedef int cu_mem_get_handle(void *handle, uintptr_t ptr, size_t size, int type,
			      unsigned long long flags);

static void *find(const char *name)
{
	void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
	void *at = lib ? dlsym(lib, name) : NULL;

	/* Who has it loaded keeps it. */
	if (lib)
		dlclose(lib);
	return at;
}

bool cuda_is_loaded(void)
{
	return find("cuPointerGetAttribute");
}

bool cuda_is_device_memory(const void *ptr)
{
	cu_pointer_get_attribute *get = (cu_pointer_get_attribute *)find("cuPointerGetAttribute");
	unsigned type = 0;

	return get && !get(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (uintptr_t)ptr) &&
	       type == CU_MEMORYTYPE_DEVICE;
}

int cuda_device(const void *ptr)
{
	cu_pointer_get_attribute *get = (cu_pointer_get_attribute *)find("cuPointerGetAttribute");
	int device = 0;

	if (!get || get(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, (uintptr_t)ptr))
		return 0;
	return device;
}

/* The range of an allocation as a DMA-BUF: whole pages. */
static int export(uintptr_t ptr, uint64_t len, uint64_t *offset, struct pg_error *err)
{
	cu_mem_get_address_range *range =
		(cu_mem_get_address_range *)find("cuMemGetAddressRange_v2");
	cu_mem_get_handle *handle = (cu_mem_get_handle *)find("cuMemGetHandleForAddressRange");
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), base, start, end;
	size_t size;
	int rc, fd = -1;

	if (!range || !handle)
		return error_set(err, -EOPNOTSUPP, "the CUDA driver is older than 11.7");
	rc = range(&base, &size, ptr);
	if (rc)
		return error_set(err, -EOPNOTSUPP, "cuMemGetAddressRange says %d", rc);
	if (len > size - (ptr - base))
		return error_set(err, -EOPNOTSUPP, "it spans more than one allocation");
	start = base / page * page;
	end = (base + size + page - 1) / page * page;
	rc = handle(&fd, start, end - start, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0);
	if (rc)
		return error_set(err, -EOPNOTSUPP, "cuMemGetHandleForAddressRange says %d", rc);
	*offset = ptr - start;
	return fd;
}

int cuda_dmabuf(const void *ptr, uint64_t len, uint64_t *offset, struct pg_error *err)
{
	cu_pointer_get_attribute *get = (cu_pointer_get_attribute *)find("cuPointerGetAttribute");
	cu_ctx_push *push = (cu_ctx_push *)find("cuCtxPushCurrent_v2");
	cu_ctx_pop *pop = (cu_ctx_pop *)find("cuCtxPopCurrent_v2");
	void *context;
	int fd;

	/* This thread may have none, and the calls want one. */
	if (!get || !push || !pop || get(&context, CU_POINTER_ATTRIBUTE_CONTEXT, (uintptr_t)ptr) ||
	    push(context))
		return error_set(err, -EOPNOTSUPP, "the CUDA driver gives no context for it");
	fd = export((uintptr_t)ptr, len, offset, err);
	pop(&context);
	return fd;
}
