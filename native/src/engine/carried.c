/* SPDX-License-Identifier: MIT
 *
 * What an unordered connection has carried, by value: the sender counts what it posts, the receiver what
 * comes, so that when it breaks the difference can be told.
 */
#include <errno.h>

#include "engine/completion.h"
#include "engine/failover.h"
#include "engine/path_message.h"
#include "engine/paths.h"
#include "engine/peer.h"

#define SENT_VALUES 1024 /* above, those that have certainly arrived are told to the receiver */

/* ---- Received ---- */

/* What has come before the last fire was taken by it. With the counters locked. */
static void note_taken(const struct pg_group *g, struct sum *sum)
{
	uint32_t fire = imm_last_fire(g->imms, imm_wire_id(sum->imm));

	if (fire && fire != sum->fire) {
		sum->taken = sum->count;
		sum->fire = fire;
	}
}

/* All that have been noted, so that fires can be forgotten. */
static void note_all_taken(struct pg_group *g)
{
	for (uint32_t i = 0; i < g->peers.used; i++) {
		struct peer *p = peer_slot(g, i);

		for (unsigned k = 0; p && k < p->n_paths; k++)
			for (uint32_t j = 0; p->paths[k].conn && p->paths[k].received.slots &&
					     j <= p->paths[k].received.mask;
			     j++) {
				struct sum *sum = &p->paths[k].received.slots[j];

				if (sum->count)
					note_taken(g, sum);
				sum->fire = 0;
			}
	}
	imm_forget_fires(g->imms);
}

int conn_received(struct pg_group *g, const struct arrival *a)
{
	struct peer *p = a->conn->owner;
	struct sums *s = &p->paths[a->conn->slot].received;
	struct sum *sum = sums_find(s, a->imm);
	int rc;

	if (imm_fires_full(g->imms))
		note_all_taken(g);
	if (sum)
		note_taken(g, sum);
	rc = sums_add(s, a->imm, (int32_t)a->count);
	if (!sum && (sum = sums_find(s, a->imm)))
		sum->fire = imm_last_fire(g->imms, imm_wire_id(a->imm));
	return rc;
}

int path_counted(struct path *path, const struct path_head *head, const struct path_sum *sums)
{
	if (!path->peer_unordered)
		return -EPROTO;
	for (unsigned i = 0; i < head->n; i++) {
		struct sum *sum = sums_find(&path->received, sums[i].imm);
		int rc;

		/* Both are counted from here on. */
		if (sum)
			sum->taken = (int32_t)((uint32_t)sum->taken - (uint32_t)sums[i].count);
		rc = sums_add(&path->received, sums[i].imm,
			      (int32_t)(0u - (uint32_t)sums[i].count));
		if (rc)
			return rc;
	}
	return 0;
}

int path_asked(struct pg_group *g, struct peer *p, struct path *path, struct path_head *head,
	       struct path_sum *sums)
{
	struct path_head told = path_head(path, PATH_TOLD);

	if (!path->to.fenced || path->to.peer_told)
		return -EPROTO;
	told.n = head->n;
	counters_lock(g);
	for (unsigned i = 0; i < head->n; i++) {
		struct sum *sum = sums_find(&path->received, sums[i].imm);

		sums[i].count = sums[i].taken = 0;
		if (!sum)
			continue;
		note_taken(g, sum);
		sums[i].count = sum->count;
		sums[i].taken = sum->taken;
	}
	counters_unlock(g);
	path_say(g, p, &told, sums);
	return 0;
}

/* ---- Sent ---- */

static int in_flight(void *arg, uint32_t imm)
{
	struct list *flights = arg;

	for (struct list *l = flights->next; l != flights; l = l->next)
		if (flight_is_imm(LIST_ENTRY(l, struct flight, link)) &&
		    LIST_ENTRY(l, struct flight, link)->imm == imm)
			return 1;
	return 0;
}

/* Values of which nothing is in flight have all arrived: both sides may forget them. */
static void tell_counted(struct pg_group *g, struct peer *p, struct path *path)
{
	struct path_head head = path_head(path, PATH_COUNTED);
	struct sum arrived[PATH_SUMS];
	struct path_sum sums[PATH_SUMS];

	while ((head.n = (uint16_t)sums_take(&path->sent, arrived, PATH_SUMS, in_flight,
					     &path->flights))) {
		for (unsigned i = 0; i < head.n; i++)
			sums[i] = (struct path_sum){ .imm = arrived[i].imm,
						     .count = arrived[i].count };
		path_say(g, p, &head, sums);
	}
}

bool takeover_room(struct pg_group *g, struct peer *p, struct path *path, unsigned n)
{
	if (path_ordered(path))
		return true;
	if (path->sent.n + n > SENT_VALUES)
		tell_counted(g, p, path);
	return sums_reserve(&path->sent, n) == 0;
}
