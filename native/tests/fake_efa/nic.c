/* SPDX-License-Identifier: MIT
 *
 * Whether a NIC of the stand-in for EFA is up: a file says so, in the layout of sysfs, that a test writes. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "inside.h"

#define LOOK_NS MSEC

void fake_nic_state_path(char path[FAKE_PATH], unsigned nic)
{
	const char *dir = getenv("FAKE_EFA_SYSFS");

	path[0] = '\0';
	if (dir)
		snprintf(path, FAKE_PATH, "%s/fake_efa_%u/ports/1/state", dir, nic);
}

/* "4: ACTIVE" is up, and so is what nobody has said anything about. */
static bool says_down(const char *path)
{
	char first;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, &first, 1);
	close(fd);
	return n == 1 && first != '4';
}

uint64_t fake_nic_down(const char *path, struct nic_watch *watch, uint64_t now)
{
	if (!path[0])
		return 0;
	if (watch->looked && now < watch->looked + LOOK_NS)
		return watch->down_since;
	watch->looked = now;
	if (!says_down(path))
		watch->down_since = 0;
	else if (!watch->down_since)
		watch->down_since = now;
	return watch->down_since;
}
