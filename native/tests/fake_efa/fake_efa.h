/* SPDX-License-Identifier: MIT
 *
 * A stand-in for libfabric with its provider "efa", for tests on machines without one: a library that has
 * no other provider, and whose NICs are made of shared memory and process_vm_readv. It takes the side of
 * what EFA is allowed to do, not of what it usually does: what holds over it should hold over EFA, but
 * nothing that is measured here says anything about EFA. Provider "efa", fabric "fake_efa", domains
 * "fake_efa_0-rdm" and so on.
 *
 * It is of one machine, of processes that one user runs. Nothing of it is left behind by a process that
 * ends, however it does: a segment is a memfd that others reach through /proc.
 *
 * The environment, read when a fabric is opened or asked for and no other is open:
 *   FAKE_EFA_NICS   how many NICs there are; 4
 *   FAKE_EFA_SYSFS  a directory in the layout of /sys/class/infiniband: while DIR/fake_efa_0/ports/1/state
 *                   is there and does not begin with "4", that NIC is down for every process that has this
 *                   DIR. Looked at each millisecond. Absent: all are up. Read whenever a domain is
 *                   opened
 *   FAKE_EFA        settings with commas between them; a word that is not known ends the process
 *     seed=N        of all that is chosen at random; 1
 *     again=N       one call of N to post something is -FI_EAGAIN for no reason; 16, 0: none
 *     double=N      one piece of payload of N is placed twice before its write is counted; 8
 *     echo=N        one piece of N is placed again after its write was counted, before it ends; 8
 *     hold=N        an arrival stands still for up to N reads of the CQ, so that others overtake it; 4
 *     rdma=BYTES    what the device writes at once: a longer write goes in segments of that; 1 MiB
 *     tx=N, rx=N    sends and writes, and receives, that an endpoint has room for; 128, 256
 *     emulated      FI_OPT_EFA_EMULATED_WRITE says so
 *     wait_fd       FI_WAIT_FD is there, as it is in newer ones (then ready each millisecond, whatever
 *                   happens); otherwise it is refused
 *     fate=WHICH    of what is in flight when a NIC dies or its endpoint is closed: lost, placed (but not
 *                   counted), counted (but not reported as done), late, or any; any
 *     dead=WHICH    operations of a dead NIC are: silent until the endpoint is closed, failed, or any; any
 *     provider=NAME efa, or verbs;ofi_rxm: then it stands for a provider that names no sources, and has these
 *                   manners all the same
 *     stats         how often what happened goes to stderr at exit
 *     calm          again, double, echo and hold are 0 but where they are set after it
 */
#ifndef PGCTL_TESTS_FAKE_EFA_H
#define PGCTL_TESTS_FAKE_EFA_H

#include <stdint.h>

/* What it does on purpose, counted for the whole process. */
#define FAKE_EFA_MANNERS(X)                                                       \
	X(AGAIN, "refused for no reason")                                         \
	X(FULL, "refused because a queue was full")                               \
	X(DOUBLE, "placed twice before it was counted")                           \
	X(ECHO, "placed again after it was counted")                              \
	X(OVERTAKEN, "ended before something that was posted to there earlier")   \
	X(SEGMENT, "counted once more, as it was longer than the device writes")  \
	X(RNR, "waited for a receive")                                            \
	X(REFUSED_KEY, "refused for its key, its region or its descriptor")       \
	X(OVERRUN, "completion queues overrun by immediates that were not read")  \
	X(FATE_LOST, "in flight at a death: lost")                                \
	X(FATE_PLACED, "in flight at a death: placed, not counted")               \
	X(FATE_COUNTED, "in flight at a death: placed and counted, not reported") \
	X(FATE_LATE, "in flight at a death: to land late")                        \
	X(LANDED_LATE, "landed late")                                             \
	X(UNRESPONSIVE, "failed because nobody answered")

enum fake_efa_manner {
#define FAKE_EFA_MANNER(name, text) FAKE_EFA_##name,
	FAKE_EFA_MANNERS(FAKE_EFA_MANNER)
#undef FAKE_EFA_MANNER
		FAKE_EFA_N_MANNERS
};

/* fi_open_ops() of a domain with this name gives a struct fake_efa_ops. */
#define FAKE_EFA_OPS "fake_efa"

struct fake_efa_ops {
	uint64_t (*count)(enum fake_efa_manner manner);
};

#endif
