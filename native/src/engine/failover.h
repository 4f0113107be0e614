/* SPDX-License-Identifier: MIT
 *
 * What happens when a NIC or a connection dies while others live: nothing is lost and nothing is
 * counted twice. Under the progress lock.
 *
 * A work request that ends because its connection broke may not be placed, be placed, be placed and
 * counted, or be so later. So either side, whoever notices first,
 *   1. stops its half, and says STOPPED once all that it had posted has ended;
 *   2. when the peer has said so too, fences its half: what the peer sent with success is counted, and
 *      nothing more will land; then it says ARRIVED, with how many immediates and messages have come
 *      over this connection;
 *   3. from that, knows what of its own has arrived. On an ordered connection that is all before the
 *      last immediate that has. Else it asks (ASK, TOLD) how often each immediate in doubt has come;
 *   4. says OVER, and when both have, closes the connection and sends the rest again over others.
 * Of an unordered connection's immediates of one value, if some have come and some have not, it cannot
 * be told which: the payload of all is written again without an immediate, and when all of that has
 * ended, as many bare immediates follow as are missing. If none is missing nothing is written again:
 * the receiver may have seen the count and use the memory otherwise. If an expectation has fired
 * meanwhile that may have taken some of them, and others were posted only after those, neither will do.
 *
 * The incarnation ends instead where a connection cannot be stopped and fenced (caps.can_fence), where
 * an immediate does not name its own (caps.reports_source), where the peer cannot be asked (no control
 * stream, no answer), where no NIC is left, and in the last case above: who waits for its own writes to
 * end before it uses their immediate again never meets that.
 */
#ifndef PGCTL_ENGINE_FAILOVER_H
#define PGCTL_ENGINE_FAILOVER_H

#include "engine/flight.h"

/* What is said of a connection has to be known of it. */
static inline bool can_take_over(const struct pg_caps *caps)
{
	return caps->can_fence && caps->reports_source;
}

/* ---- failover.c: of broken connections ---- */

/* What to look at when a peer does not answer over a NIC; "" if it is not heard at all. */
const char *advice(const struct peer *p, const struct domain *d);

/* Connection k cannot be used any more. If others cannot take over, its peer goes down. */
void path_broke(struct pg_group *g, struct peer *p, unsigned k, int status);

/* Arrivals. */
void conn_died(struct pg_group *g, struct conn *c, int status);
void conn_stopped(struct pg_group *g, struct conn *c);
void conn_fenced(struct pg_group *g, struct conn *c);
void flight_done(struct pg_group *g, const struct arrival *a);

/* Takes back what is in flight of an operation that is out of time, by breaking the connections that
 * carry it. why: -ECANCELED, it has reached a limit of its caller's, which is no fault of theirs;
 * -ETIMEDOUT, it made no progress. false: it cannot. */
bool failover_expire(struct pg_group *g, struct op *op, int why);
/* Breaks connections on which nothing moves; gives peers up whose half of one does not stop. */
void failover_scan(struct pg_group *g, struct peer *p);

/* ---- carried.c: by unordered connections ---- */

/* Immediates that have come over an unordered connection. With the counters locked, and before they are
 * counted. -ENOSPC, -ENOMEM: no room to note that. */
int conn_received(struct pg_group *g, const struct arrival *a);

/* Whether n work requests more could be accounted for. */
bool takeover_room(struct pg_group *g, struct peer *p, struct path *path, unsigned n);

/* ---- salvage.c: what is sent again ---- */

/* Of a connection that both have stopped: what is to be done about it is its kind. */
void salvage(struct pg_group *g, struct peer *p, struct flight *f);
/* Its payload goes again without its immediate, which follows if it owes that. */
void salvage_rewrite(struct peer *p, struct flight *f, bool owes_imm);
/* Something that was sent, or sent again, has ended, well if status is 0. */
void salvage_ended(struct pg_group *g, struct peer *p, struct flight *f, int status,
		   const struct domain *d);
/* Sends what it can; how much. */
int salvage_run(struct pg_group *g);
/* Its operations end otherwise. */
void salvage_drop(struct pg_group *g, struct peer *p);
/* Whether something of an operation waits there that can be given up; gives it up. */
bool salvage_forget(struct op *op);

/* ---- mend.c: new connections in place of broken ones ---- */

/* Joins what can be joined and is not; brings the peer down if there is nothing left. */
void paths_mend(struct pg_group *g, struct peer *p);
/* One has broken, for this reason; noticed: we have seen it, else the peer. */
void path_back_off(struct pg_group *g, struct peer *p, const struct path *path, int status,
		   bool noticed);
/* Joins what has been left alone for long enough. */
void paths_retry(struct pg_group *g, struct peer *p);
void nic_changed(struct pg_group *g, struct domain *d, int status);
/* Tells a peer that has come up which of our NICs are not. */
void nics_tell(struct pg_group *g, struct peer *p);
void nics_tell_first(struct pg_group *g, struct peer *p);

/* ---- path_message.c ---- */

struct control_msg;
int path_message(struct pg_group *g, struct peer *p, const struct control_msg *msg, pid_t pid);

#endif
