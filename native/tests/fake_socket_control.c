/* SPDX-License-Identifier: MIT
 *
 * What tests tell the socket NIC: kept per number, from any thread, until a lane looks. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake_socket_lane.h"

static struct lock controls_lock;
static struct control controls[FAKE_NIC(FAKE_GROUPS, 0)];

static struct control *control_enter(unsigned nic)
{
	if (nic >= FAKE_NIC(FAKE_GROUPS, 0))
		abort();
	lock_acquire(&controls_lock);
	return &controls[nic];
}

/* Wakes the lane if it sleeps. */
static void control_leave(struct control *control)
{
	uint64_t one = 1;

	if (control->lane)
		(void)!write(control->lane->kick.fd, &one, sizeof(one));
	lock_release(&controls_lock);
}

void fake_nic_unplug(unsigned nic)
{
	struct control *control = control_enter(nic);

	if (control->unplugs == control->plugs)
		control->unplugs++;
	control_leave(control);
}

void fake_nic_plug(unsigned nic)
{
	struct control *control = control_enter(nic);

	control->plugs = control->unplugs;
	control_leave(control);
}

void fake_nic_hold(unsigned nic, bool hold)
{
	struct control *control = control_enter(nic);

	control->hold = hold;
	control_leave(control);
}

void fake_nic_hold_acks(unsigned nic, bool hold)
{
	struct control *control = control_enter(nic);

	control->hold_acks = hold;
	control_leave(control);
}

void fake_nic_refuse_attach(unsigned nic, unsigned peer_lane)
{
	struct control *control = control_enter(nic);

	if (peer_lane >= PG_MAX_DOMAINS)
		abort();
	control->refused |= 1u << peer_lane;
	control_leave(control);
}

void fake_nic_fail_next(unsigned nic, unsigned n)
{
	struct control *control = control_enter(nic);

	control->failures = n;
	control_leave(control);
}

bool fake_control_take_failure(struct lane *lane)
{
	bool fail;

	lock_acquire(&controls_lock);
	fail = lane->control->failures > 0;
	lane->control->failures -= fail;
	lock_release(&controls_lock);
	return fail;
}

struct control fake_control_read(const struct lane *lane)
{
	struct control now;

	lock_acquire(&controls_lock);
	now = *lane->control;
	lock_release(&controls_lock);
	return now;
}

int fake_control_bind(struct lane *lane)
{
	int rc = -ENOSPC;

	lock_acquire(&controls_lock);
	for (unsigned group = 0; group < FAKE_GROUPS && rc; group++) {
		struct control *control = &controls[FAKE_NIC(group, lane->domain.index)];

		if (control->lane)
			continue;
		control->lane = lane;
		lane->control = control;
		rc = 0;
	}
	lock_release(&controls_lock);
	return rc;
}

void fake_control_unbind(struct lane *lane)
{
	lock_acquire(&controls_lock);
	*lane->control = (struct control){ 0 };
	lock_release(&controls_lock);
}
