/* SPDX-License-Identifier: MIT
 *
 * A NIC for tests, made of TCP sockets: transport "fakesock". It stands for what shm is not, a
 * transport whose work requests end later, at a peer that may be on another host, whose memory is
 * not mapped here, over connections that break and cables that are pulled. It promises no order and
 * reads the source when it sends, not when it is posted to; ARRIVAL_DONE comes from the receiver's
 * acknowledgement, once the payload is placed. What nobody has rung the doorbell for (flush) is not
 * sent.
 *
 * pg_domain_config.device is the IPv4 address to listen on and to send from, by default 127.0.0.1.
 *
 * A test gets it, and the registry that goes with it ("fakesock", then "shm"), by its name in
 * fake_nic_tests of native/meson.build. The NIC does as it is told below; every function may be
 * called from any thread, also before the NIC is opened, and counts until it is closed. The engine's
 * next call carries it out, and domain->fd becomes readable for that.
 */
#ifndef PGCTL_TESTS_FAKE_SOCKET_NIC_H
#define PGCTL_TESTS_FAKE_SOCKET_NIC_H

#include <stdbool.h>

#include "transport/transport.h"

extern const struct transport transport_fake_socket;

/* NICs are told apart by number: lane i of the first group opened in this process is i, so where a
 * process has one group it is simply the lane's index; those of the second are FAKE_NIC(1, i). */
#define FAKE_GROUPS 16
#define FAKE_NIC(group, lane) ((group) * PG_MAX_DOMAINS + (lane))

/* Breaks every connection (ARRIVAL_DONE of what is outstanding, ARRIVAL_DEAD, both -ECONNRESET),
 * then says ARRIVAL_NIC -ENETDOWN; peers see a reset and are refused. Offers made before are void. */
void fake_nic_unplug(unsigned nic);
/* ARRIVAL_NIC 0; connections can be made again. */
void fake_nic_plug(unsigned nic);

/* Held, it takes work requests but sends nothing, acknowledgements included. What it had sent before
 * may still end. */
void fake_nic_hold(unsigned nic, bool hold);
/* Held, it places and reports what arrives but acknowledges nothing. */
void fake_nic_hold_acks(unsigned nic, bool hold);

/* From now on conn_attach to that lane of any peer is -ENETUNREACH. */
void fake_nic_refuse_attach(unsigned nic, unsigned peer_lane);

/* The next n work requests posted end with -EIO, unsent, held or not; the connection stays. */
void fake_nic_fail_next(unsigned nic, unsigned n);

#endif
