/* SPDX-License-Identifier: MIT
 *
 * Memory shared with other processes: memfds, sealed so that neither side can cut them short under
 * the other, which would be a SIGBUS. They have no name, so nothing is left behind by a crash. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "util/error.h"

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

int segment_map(int fd, size_t size, void **map, struct pg_error *err)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return error_set(err, -errno, "cannot map %zu shared bytes: %m", size);
	/* A forked child has no business here. */
	madvise(at, size, MADV_DONTFORK);
	*map = at;
	return 0;
}

int segment_make(const char *name, size_t size, int *fd, void **map, struct pg_error *err)
{
	int memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int rc;

	if (memfd < 0)
		return error_set(err, -errno, "memfd_create: %m");
	if (ftruncate(memfd, (off_t)size) || fcntl(memfd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL)) {
		rc = error_set(err, -errno, "cannot size and seal %zu shared bytes: %m", size);
		goto close_memfd;
	}
	rc = segment_map(memfd, size, map, err);
	if (rc)
		goto close_memfd;
	*fd = memfd;
	return 0;

close_memfd:
	close(memfd);
	return rc;
}

int segment_check(int fd, uint64_t size, struct pg_error *err)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0)
		return error_set(err, -EPROTO, "the peer's shared memory is not a memfd: %m");
	if ((seals & SIZE_SEALS) != SIZE_SEALS)
		return error_set(err, -EPROTO,
				 "the peer's shared memory can change its size: seals 0x%x", seals);
	if (fstat(fd, &st))
		return error_set(err, -errno, "fstat of the peer's shared memory: %m");
	if (st.st_size < 0 || (uint64_t)st.st_size < size)
		return error_set(err, -EPROTO, "the peer's shared memory has %lld bytes, not %llu",
				 (long long)st.st_size, (unsigned long long)size);
	return 0;
}
