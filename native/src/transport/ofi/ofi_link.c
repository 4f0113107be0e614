/* SPDX-License-Identifier: MIT
 *
 * Whether the port of a NIC is up. libfabric does not say: of a network device the kernel does, as soon
 * as it changes, and of an RDMA device its file in sysfs, when that is looked at. */
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/ofi/ofi.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/fork_fds.h"
#include "util/log.h"

#define LOOK_NS 50000000ull

struct ofi_link {
	int netdev; /* its index; 0: it is an RDMA device */
	int netlink;
	char state[320]; /* the file of its port; "": there is none */
	uint64_t next_ns;
};

static void seen(struct ofi_domain *d, bool down)
{
	if (d->down == down || d->lost)
		return;
	d->down = down;
	d->tell_nic = true;
	log_info("%s is %s", d->domain.name, down ? "down" : "up");
}

/* ---- Network devices ---- */

/* Without a carrier nothing runs. */
static bool is_down(unsigned flags)
{
	return !(flags & IFF_UP) || !(flags & IFF_RUNNING);
}

static void take_message(struct ofi_domain *d, const struct nlmsghdr *h)
{
	const struct ifinfomsg *info = NLMSG_DATA(h);

	if ((h->nlmsg_type != RTM_NEWLINK && h->nlmsg_type != RTM_DELLINK) ||
	    info->ifi_index != d->link->netdev)
		return;
	seen(d, h->nlmsg_type == RTM_DELLINK || is_down(info->ifi_flags));
}

/* A device that has gone is down. */
static void ask(struct ofi_domain *d)
{
	struct ifreq request = { 0 };

	seen(d, !if_indextoname((unsigned)d->link->netdev, request.ifr_name) ||
			ioctl(d->link->netlink, SIOCGIFFLAGS, &request) ||
			is_down((unsigned short)request.ifr_flags));
}

/* What the kernel has said since; if it had too much to say, it is asked. */
static void hear(struct ofi_domain *d)
{
	_Alignas(struct nlmsghdr) char buffer[8192];
	ssize_t n;

	while ((n = recv(d->link->netlink, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
		size_t left = (size_t)n;

		for (struct nlmsghdr *h = (struct nlmsghdr *)(void *)buffer; NLMSG_OK(h, left);
		     h = NLMSG_NEXT(h, left))
			take_message(d, h);
	}
	if (n < 0 && errno == ENOBUFS)
		ask(d);
}

/* Mbit/s, or 0. */
static uint64_t netdev_speed(const char *name, int fd)
{
	struct ethtool_cmd command = { .cmd = ETHTOOL_GSET };
	struct ifreq request = { .ifr_data = (void *)&command };
	uint32_t speed;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%.*s", IFNAMSIZ - 1, name);
	if (ioctl(fd, SIOCETHTOOL, &request))
		return 0;
	speed = (uint32_t)command.speed_hi << 16 | command.speed;
	return speed == (uint32_t)SPEED_UNKNOWN ? 0 : speed;
}

static int open_netlink(struct ofi_domain *d, struct pg_error *err)
{
	const struct sockaddr_nl at = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	struct ifreq request = { 0 };

	if (fd < 0)
		return error_set(err, -errno, "cannot watch %s: %m", d->domain.name);
	fork_fds_add(fd);
	d->link->netlink = fd;
	if (bind(fd, (const struct sockaddr *)&at, sizeof(at)))
		return error_set(err, -errno, "cannot watch %s: %m", d->domain.name);
	/* After it is watched. */
	if (!if_indextoname((unsigned)d->link->netdev, request.ifr_name) ||
	    ioctl(fd, SIOCGIFFLAGS, &request))
		return error_set(err, -ENODEV, "%s is gone", d->domain.name);
	seen(d, is_down((unsigned short)request.ifr_flags));
	if (!d->nic.link_mbit_s)
		d->nic.link_mbit_s = netdev_speed(request.ifr_name, fd);
	return 0;
}

/* ---- RDMA devices ---- */

static void look_at_state(struct ofi_domain *d)
{
	char text[16] = "";
	int fd = open(d->link->state, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		seen(d, true);
		return;
	}
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);
	seen(d, strncmp(text, "4:", 2) != 0); /* "4: ACTIVE" */
}

static bool has_state(struct ofi_domain *d, const char *device)
{
	snprintf(d->link->state, sizeof(d->link->state), "%s/%s/ports/1/state", d->options.sysfs,
		 device);
	return !access(d->link->state, R_OK);
}

/* A name may be that of a domain, whose directory is that of its device: "rdmap0s6-rdm" is of rdmap0s6. */
static void find_state(struct ofi_domain *d)
{
	char device[32];
	char *dash;

	snprintf(device, sizeof(device), "%s", d->nic.name);
	dash = strrchr(device, '-');
	if (has_state(d, device))
		return;
	if (dash)
		*dash = '\0';
	if (!dash || !has_state(d, device))
		d->link->state[0] = '\0';
}

/* ---- Both ---- */

int ofi_link_open(struct ofi_domain *d, struct pg_error *err)
{
	d->link = calloc(1, sizeof(*d->link));
	if (!d->link)
		return error_set(err, -ENOMEM, "no memory to watch a NIC");
	d->link->netlink = -1;
	d->link->netdev = (int)if_nametoindex(d->nic.name);
	if (d->link->netdev)
		return open_netlink(d, err);
	find_state(d);
	if (d->link->state[0])
		look_at_state(d);
	return 0;
}

int ofi_link_fd(const struct ofi_domain *d)
{
	return d->link->netlink;
}

void ofi_link_look(struct ofi_domain *d)
{
	uint64_t now;

	if (d->link->netlink >= 0) {
		hear(d);
		return;
	}
	if (!d->link->state[0])
		return;
	now = clock_ns();
	if (now < d->link->next_ns)
		return;
	d->link->next_ns = now + LOOK_NS;
	look_at_state(d);
}

void ofi_link_lost(struct ofi_domain *d)
{
	seen(d, true);
	d->lost = true;
}

void ofi_link_close(struct ofi_domain *d)
{
	if (!d->link)
		return;
	if (d->link->netlink >= 0) {
		fork_fds_remove(d->link->netlink);
		close(d->link->netlink);
	}
	free(d->link);
}
