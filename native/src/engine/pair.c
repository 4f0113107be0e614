/* SPDX-License-Identifier: MIT
 *
 * A transport problem of at most eight nodes, solved by shortest augmenting paths: a path costs
 * what it adds between rails less what it removes there, and as long as only cheapest paths are
 * used, the flow is the cheapest of its size. Balance comes from the order: of the paths of one
 * cost, first those within each NIC's fair share, then whatever still fits. */
#include "engine/pair.h"

#include <assert.h>
#include <string.h>

/* Makes most shares whole numbers: divisible by every number up to 16. */
#define SCALE 720720

#define NODES (2 * PG_MAX_DOMAINS)
#define UNBOUNDED (UINT64_MAX / 2)

/* Costs of an arc; each outweighs what all arcs of a path have of the next. Where no arc is, it is
 * so far that the others of a path cannot make up for it. */
#define HOP 1
#define ASKEW 16
#define CROSS_RAIL 256
#define FAR 100000
#define REACHED (FAR / 2)

/* Nodes are the local NICs and then the remote ones. An arc leads from local to remote and can move
 * flow if it is within reach; its reverse can move back what there is, and so is the flow. */
struct net {
	struct pair_nic nics[NODES];
	unsigned n, nodes;
	bool mirror; /* looks the same from both sides */
	uint64_t room[NODES];
	uint64_t can[NODES][NODES];
	int cost[NODES][NODES];
	int dist[NODES][NODES];
	uint8_t next[NODES][NODES]; /* after the first on the shortest path to the second */
};

static pair_reach cell(unsigned i, unsigned j)
{
	return (pair_reach)(1U << (PG_MAX_DOMAINS * i + j));
}

pair_reach pair_reach_of(const struct pair_nic *local, unsigned n, const struct pair_nic *remote,
			 unsigned m, bool rail_only)
{
	pair_reach reach = 0;

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < m; j++)
			if (!rail_only || local[i].rail == remote[j].rail)
				reach |= cell(i, j);
	return reach;
}

pair_reach pair_transpose(pair_reach reach)
{
	pair_reach transposed = 0;

	for (unsigned i = 0; i < PG_MAX_DOMAINS; i++)
		for (unsigned j = 0; j < PG_MAX_DOMAINS; j++)
			if (reach & cell(i, j))
				transposed |= cell(j, i);
	return transposed;
}

static int compare(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Which of the two sides comes first, whoever asks; 0 if they cannot be told apart. */
static int compare_sides(const struct pair_nic *local, unsigned n, const struct pair_nic *remote,
			 unsigned m, pair_reach reach)
{
	int order = compare(n, m);

	for (unsigned i = 0; i < n && !order; i++)
		order = compare((uint64_t)local[i].mbit_s << 32 | local[i].rail,
				(uint64_t)remote[i].mbit_s << 32 | remote[i].rail);
	return order ? order : compare(reach, pair_transpose(reach));
}

static void set_room(struct net *t)
{
	bool known = true;

	for (unsigned a = 0; a < t->nodes; a++)
		known = known && t->nics[a].mbit_s;
	for (unsigned a = 0; a < t->nodes; a++) {
		unsigned others = a < t->n ? t->nodes - t->n : t->n;

		t->room[a] = (uint64_t)SCALE * (known ? t->nics[a].mbit_s : others);
	}
}

/* A mirrored pairing prefers (i, i), because pairs of that kind close no cycle with their mirror
 * image. */
static void set_arcs(struct net *t, pair_reach reach)
{
	for (unsigned i = 0; i < t->n; i++) {
		for (unsigned r = t->n; r < t->nodes; r++) {
			t->can[i][r] = reach & cell(i, r - t->n) ? UNBOUNDED : 0;
			t->cost[i][r] = (t->nics[i].rail == t->nics[r].rail ? 0 : CROSS_RAIL) +
					(t->mirror && r - t->n != i ? ASKEW : 0);
			t->cost[r][i] = -t->cost[i][r];
		}
	}
}

/* Floyd and Warshall. No cycle has a negative cost as long as the flow is the cheapest of its
 * size. */
static void measure(struct net *t)
{
	for (unsigned a = 0; a < t->nodes; a++) {
		for (unsigned b = 0; b < t->nodes; b++) {
			t->dist[a][b] = t->can[a][b] ? t->cost[a][b] + HOP : FAR;
			t->next[a][b] = (uint8_t)b;
		}
		t->dist[a][a] = 0;
	}
	for (unsigned via = 0; via < t->nodes; via++) {
		for (unsigned a = 0; a < t->nodes; a++) {
			for (unsigned b = 0; b < t->nodes; b++) {
				int d = t->dist[a][via] + t->dist[via][b];

				if (d >= t->dist[a][b])
					continue;
				t->dist[a][b] = d;
				t->next[a][b] = t->next[a][via];
			}
		}
	}
}

/* The cost of a path without its hops: those only choose the shortest path of a cost, without which
 * there could be very many rounds. */
static int level(const struct net *t, unsigned from, unsigned to)
{
	return t->dist[from][to] & -ASKEW;
}

/* Finds the cheapest path from a local NIC to a remote one that both have room. */
static bool nearest(const struct net *t, const uint64_t *room, unsigned *from, unsigned *to)
{
	int best = REACHED;

	for (unsigned i = 0; i < t->n; i++) {
		for (unsigned r = t->n; r < t->nodes; r++) {
			if (!room[i] || !room[r] || t->dist[i][r] >= best)
				continue;
			best = t->dist[i][r];
			*from = i;
			*to = r;
		}
	}
	return best < REACHED;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void augment(struct net *t, uint64_t *limit, unsigned from, unsigned to)
{
	uint64_t amount = smaller(limit[from], limit[to]);

	for (unsigned a = from; a != to; a = t->next[a][to])
		amount = smaller(amount, t->can[a][t->next[a][to]]);
	for (unsigned a = from, b; a != to; a = b) {
		b = t->next[a][to];
		t->can[a][b] -= amount;
		t->can[b][a] += amount;
	}
	limit[from] -= amount;
	limit[to] -= amount;
	t->room[from] -= amount;
	t->room[to] -= amount;
	measure(t);
}

/* Uses all paths of this cost that fit into limit, which may not exceed the room. */
static void fill(struct net *t, uint64_t *limit, int cost)
{
	unsigned from, to;

	while (nearest(t, limit, &from, &to) && level(t, from, to) == cost)
		augment(t, limit, from, to);
}

static uint64_t room_of(const struct net *t, unsigned members)
{
	uint64_t sum = 0;

	for (unsigned a = 0; a < t->nodes; a++)
		if (members & 1U << a)
			sum += t->room[a];
	return sum;
}

/* Spreads total over members in proportion to their room. Boundaries are rounded and not shares, so
 * that both sides add up to the same. */
static void spread(const struct net *t, unsigned members, uint64_t total, uint64_t *limit)
{
	uint64_t sum = room_of(t, members);
	uint64_t below = 0;
	uint64_t given = 0;

	for (unsigned a = 0; a < t->nodes; a++) {
		if (!(members & 1U << a))
			continue;
		below += t->room[a];
		limit[a] = (uint64_t)((unsigned __int128)total * below / sum) - given;
		given += limit[a];
	}
}

/* The nodes that are connected with node a by paths of this cost between NICs with room. */
static unsigned connected(const struct net *t, unsigned a, int cost)
{
	unsigned members = 1U << a;

	for (unsigned before = 0; before != members;) {
		before = members;
		for (unsigned i = 0; i < t->n; i++)
			for (unsigned r = t->n; r < t->nodes; r++)
				if (members & (1U << i | 1U << r) && t->room[i] && t->room[r] &&
				    level(t, i, r) == cost)
					members |= 1U << i | 1U << r;
	}
	return members;
}

/* Limits each NIC to its share of what those that it is connected with can carry together. */
static void fair_shares(const struct net *t, int cost, uint64_t *limit)
{
	unsigned locals = (1U << t->n) - 1;

	memset(limit, 0, NODES * sizeof(*limit));
	for (unsigned i = 0; i < t->n; i++) {
		unsigned members = connected(t, i, cost);
		uint64_t total =
			smaller(room_of(t, members & locals), room_of(t, members & ~locals));

		if (!total)
			continue;
		spread(t, members & locals, total, limit);
		spread(t, members & ~locals, total, limit);
	}
}

static void find_flow(struct net *t)
{
	uint64_t limit[NODES];
	unsigned from, to;

	measure(t);
	while (nearest(t, t->room, &from, &to)) {
		int cost = level(t, from, to);

		fair_shares(t, cost, limit);
		fill(t, limit, cost);
		memcpy(limit, t->room, sizeof(limit));
		fill(t, limit, cost);
	}
}

/* What looks the same from both sides has to be its own transpose. */
static void add_mirror_image(struct net *t)
{
	for (unsigned i = 0; i < t->n; i++) {
		for (unsigned j = 0; j <= i; j++) {
			t->can[t->n + j][i] += t->can[t->n + i][j];
			t->can[t->n + i][j] = t->can[t->n + j][i];
		}
	}
}

typedef int turn_t[NODES][NODES]; /* by remote and local node, as the flow */

/* Finds the way between two nodes of a forest; sets turn to +1 and -1 alternately along it. */
static bool walk(const struct net *t, const uint8_t *forest, unsigned last, unsigned at,
		 unsigned to, turn_t turn)
{
	for (unsigned b = 0; b < t->nodes; b++) {
		int *step = at < t->n ? &turn[b][at] : &turn[at][b];

		if (b == last || !(forest[at] & 1U << b))
			continue;
		*step = at < t->n ? 1 : -1;
		if (b == to || walk(t, forest, at, b, to, turn))
			return true;
		*step = 0;
	}
	return false;
}

/* Moves flow along a cycle, and along its mirror image, until an edge is empty. No NIC carries more
 * or less for it, nor do the rails: else one of the two ways round would be cheaper. Returns false
 * if the mirror image undoes it. Doubles the flow, since an edge may be in both. */
static bool cancel(struct net *t, turn_t turn)
{
	uint64_t amount = UINT64_MAX;
	turn_t both;

	for (unsigned r = t->n; r < t->nodes; r++) {
		for (unsigned i = 0; i < t->n; i++) {
			both[r][i] = turn[r][i] + (t->mirror ? turn[t->n + i][r - t->n] : 0);
			if (both[r][i] < 0)
				amount = smaller(amount, 2 * t->can[r][i] / (unsigned)-both[r][i]);
		}
	}
	if (amount == UINT64_MAX)
		return false;
	for (unsigned r = t->n; r < t->nodes; r++)
		for (unsigned i = 0; i < t->n; i++)
			t->can[r][i] = 2 * t->can[r][i] + (uint64_t)both[r][i] * amount;
	return true;
}

/* Grows a forest of edges; the first one that closes a cycle which can be cancelled is enough. */
static bool cancel_cycle(struct net *t)
{
	uint8_t forest[NODES] = { 0 };

	for (unsigned i = 0; i < t->n; i++) {
		for (unsigned r = t->n; r < t->nodes; r++) {
			turn_t turn = { { 0 } };

			if (!t->can[r][i])
				continue;
			if (!walk(t, forest, NODES, i, r, turn)) {
				forest[i] |= (uint8_t)(1U << r);
				forest[r] |= (uint8_t)(1U << i);
				continue;
			}
			turn[r][i] = -1;
			if (cancel(t, turn))
				return true;
		}
	}
	return false;
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	return b ? gcd(b, a % b) : a;
}

/* What of the flow makes a weight of 1. The flow of an edge is below 2^52, or 2^53 with its mirror
 * image, and has been doubled at most ten times. */
static uint64_t weight_unit(const struct net *t)
{
	uint64_t unit = 0;
	uint64_t largest = 0;

	for (unsigned r = t->n; r < t->nodes; r++) {
		for (unsigned i = 0; i < t->n; i++) {
			unit = gcd(unit, t->can[r][i]);
			largest = t->can[r][i] > largest ? t->can[r][i] : largest;
		}
	}
	while (unit && largest / unit > UINT32_MAX)
		unit *= 2;
	return unit;
}

static void solve(struct net *t, pair_reach reach)
{
	set_room(t);
	set_arcs(t, reach);
	find_flow(t);
	if (t->mirror)
		add_mirror_image(t);
	while (cancel_cycle(t))
		;
}

unsigned pair_nics(const struct pair_nic *local, unsigned n, const struct pair_nic *remote,
		   unsigned m, pair_reach reach, struct pair_edge out[PAIR_MAX])
{
	pair_reach known = reach & pair_reach_of(local, n, remote, m, false);
	int order = compare_sides(local, n, remote, m, known);
	bool swap = order > 0;
	struct net t = { .n = swap ? m : n, .nodes = n + m, .mirror = order == 0 };
	uint64_t unit;
	unsigned k = 0;

	static_assert(PG_MAX_DOMAINS == 4 && sizeof(pair_reach) * 8 == 16, "a bit for each pair");
	memcpy(&t.nics[swap ? m : 0], local, n * sizeof(*local));
	memcpy(&t.nics[swap ? 0 : n], remote, m * sizeof(*remote));
	solve(&t, swap ? pair_transpose(known) : known);
	unit = weight_unit(&t);
	for (unsigned i = 0; i < n; i++) {
		for (unsigned j = 0; j < m; j++) {
			uint64_t flow = swap ? t.can[m + i][j] : t.can[n + j][i];

			if (flow)
				out[k++] = (struct pair_edge){
					.local = (uint8_t)i,
					.remote = (uint8_t)j,
					.weight = flow < unit ? 1 : (uint32_t)(flow / unit),
				};
		}
	}
	return k;
}
