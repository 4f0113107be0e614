/* SPDX-License-Identifier: MIT
 *
 * Which NIC of ours talks to which NIC of a peer, and what share of the bytes each such connection
 * carries, when the two sides differ in number, speed or wiring. Pure functions, for any thread. */
#ifndef PGCTL_ENGINE_PAIR_H
#define PGCTL_ENGINE_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "pgctl/engine.h"

struct pair_nic {
	uint32_t mbit_s; /* 0: unknown */
	uint32_t rail;   /* NICs of equal number are of one rail; those with none have 0 */
};

struct pair_edge {
	uint8_t local, remote;
	uint32_t weight;
};

/* The most edges there can be: see pair_nics. */
#define PAIR_MAX (2 * PG_MAX_DOMAINS)

/* Bit PG_MAX_DOMAINS * i + j: local NIC i reaches remote NIC j. */
typedef uint16_t pair_reach;

static inline pair_reach pair_cell(unsigned local, unsigned remote)
{
	return (pair_reach)(1u << (PG_MAX_DOMAINS * local + remote));
}

/* Everything, or only what is of the same rail. */
pair_reach pair_reach_of(const struct pair_nic *local, unsigned n, const struct pair_nic *remote,
			 unsigned m, bool rail_only);

/* The same as the other side sees it. */
pair_reach pair_transpose(pair_reach reach);

/* Writes the edges, ordered by (local, remote), each of weight > 0, and returns their number: 0 if
 * nothing reaches anything. n and m are 1..PG_MAX_DOMAINS; bits of reach beyond them are ignored.
 *
 * The weights are a flow in which no NIC carries more than its speed. It is
 *   1. the largest there is within reach,
 *   2. of those, one with the least between different rails,
 *   3. of those, balanced: NICs that can stand in for each other are used in proportion to their
 *      speed, or between rails, to what of it their own rail has left. Where reach is full and
 *      there is one rail, that is all the NICs of a side. Gaps in reach can make it less even.
 * One unknown speed makes all unknown: then the NICs of a side count as equal, and both sides as
 * equally fast together.
 *
 * Both sides compute it independently and agree: with local and remote exchanged and reach
 * transposed, the edges are the same, exchanged, with the same weights.
 *
 * The edges hold no cycle, so there are at most n + m - 1. The exception is a pairing that is its
 * own mirror image: the same NICs on both sides, and a reach that equals its transpose but lacks
 * some (i, i). There, agreement can require a cycle (three equal NICs a side, each reaching the
 * other two: half of everything each way), and there are at most n + m edges.
 *
 * Weights have no common divisor. Those that do not fit into 32 bits are rounded, but never to 0.
 * Shares are exact if the speeds of a side add up to at most 16 times their common divisor, else
 * within 2 bit/s. */
unsigned pair_nics(const struct pair_nic *local, unsigned n, const struct pair_nic *remote,
		   unsigned m, pair_reach reach, struct pair_edge out[PAIR_MAX]);

#endif
