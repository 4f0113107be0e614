/* SPDX-License-Identifier: MIT
 *
 * What he says. */
#include "engine/pair.h"
#include "stranger_packet.h"

/* ---- HELLO ---------------------------------------------------------------------------------- */

/* As in handshake.c. */
struct hello {
	uint32_t features, max_msg;
	uint16_t reach, addr_len, n_offers, unordered;
};

#define TOKEN 16

/* What he believes of reach: what the group has said, else what the addresses say. */
static pair_reach reach_of(const struct stranger *s, const struct line *l, const struct net_addr *a)
{
	const uint8_t *said = stranger_heard(l, CONTROL_HELLO);
	struct pair_nic ours[PG_MAX_DOMAINS], theirs[PG_MAX_DOMAINS];
	struct hello h;
	pair_reach reach;

	if (said) {
		memcpy(&h, said + TOKEN, sizeof(h));
		return pair_transpose(h.reach);
	}
	for (unsigned i = 0; i < a->n_domains; i++)
		ours[i] = (struct pair_nic){ a->domains[i].link_mbit_s, a->domains[i].rail };
	for (unsigned i = 0; i < s->g->addr.n_domains; i++)
		theirs[i] = (struct pair_nic){ s->g->addr.domains[i].link_mbit_s,
					       s->g->addr.domains[i].rail };
	reach = pair_reach_of(ours, a->n_domains, theirs, s->g->addr.n_domains, false);
	for (unsigned i = 0; i < a->n_domains; i++)
		for (unsigned j = 0; j < s->g->addr.n_domains; j++)
			if (strcmp(a->domains[i].transport, s->g->addr.domains[j].transport))
				reach &= (pair_reach)~pair_cell(i, j);
	return reach;
}

static unsigned edges_of(const struct stranger *s, const struct net_addr *a, pair_reach reach,
			 struct pair_edge edges[PAIR_MAX])
{
	struct pair_nic ours[PG_MAX_DOMAINS], theirs[PG_MAX_DOMAINS];

	for (unsigned i = 0; i < a->n_domains; i++)
		ours[i] = (struct pair_nic){ a->domains[i].link_mbit_s, a->domains[i].rail };
	for (unsigned i = 0; i < s->g->addr.n_domains; i++)
		theirs[i] = (struct pair_nic){ s->g->addr.domains[i].link_mbit_s,
					       s->g->addr.domains[i].rail };
	return pair_nics(ours, a->n_domains, theirs, s->g->addr.n_domains, reach, edges);
}

enum hello_wrong {
	NO_TOKEN = 1,
	OTHER_REACH = 2,
	OTHER_OFFERS = 4, /* more or less of them */
	SMALL_MSG = 8,
	OTHER_JOINED = 16,
	OTHER_ORDER = 32,
};

void stranger_hello(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	unsigned wrong = input_u8(in);
	struct packet p = packet_of(CONTROL_HELLO);
	struct pair_edge edges[PAIR_MAX] = { 0 };
	uint8_t bytes[PG_ADDR_MAX];
	size_t addr_len = sizeof(bytes);
	struct hello h = { .max_msg = PG_MSG_MAX };
	struct net_addr a;

	stranger_address(s, in, &a);
	if (!l)
		return;
	l->confused |= l->incarnation[0] &&
		       (memcmp(l->incarnation, a.incarnation, sizeof(l->incarnation)) ||
			l->group != a.group);
	memcpy(l->incarnation, a.incarnation, sizeof(l->incarnation));
	l->group = a.group;
	CHECK(net_addr_encode(&a, bytes, &addr_len) == 0);
	h.addr_len = (uint16_t)addr_len;
	h.reach = reach_of(s, l, &a);
	if (wrong & OTHER_REACH)
		h.reach ^= input_u16(in);
	h.n_offers = (uint16_t)edges_of(s, &a, h.reach, edges);
	if (wrong & OTHER_OFFERS)
		h.n_offers = input_u8(in) % (PG_MAX_CONNS + 2);
	for (unsigned k = 0; k < PAIR_MAX; k++)
		h.unordered |=
			(uint16_t)(!s->g->domains[edges[k].remote % s->g->n_domains]->caps.ordered
				   << k);
	if (wrong & OTHER_ORDER)
		h.unordered ^= input_u16(in);
	if (wrong & SMALL_MSG)
		h.max_msg = input_u16(in);
	packet_add(&p, s->g->addr.token, sizeof(s->g->addr.token));
	p.bytes[HEAD] ^= wrong & NO_TOKEN;
	packet_add(&p, &h, sizeof(h));
	packet_add(&p, bytes, addr_len);
	for (unsigned k = 0; k < h.n_offers; k++) {
		struct pair_edge *e = &edges[k < PAIR_MAX ? k : 0];
		uint8_t joined[2] = { e->local, e->remote };

		if (wrong & OTHER_JOINED)
			joined[k % 2] ^= input_u8(in);
		packet_add(&p, joined, sizeof(joined));
		packet_add_offer(s, &p, in, !strcmp(a.domains[e->local].transport, "shm"), false);
	}
	packet_say(s, l, &p, in);
}

void stranger_ready(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = packet_of(CONTROL_READY);
	uint16_t other = input_u16(in);
	pair_reach reach;

	if (!l)
		return;
	reach = (pair_reach)(reach_of(s, l, &s->g->addr) ^ other);
	packet_add(&p, &reach, sizeof(reach));
	packet_say(s, l, &p, in);
}

/* ---- When up -------------------------------------------------------------------------------- */

/* As in regions.c. */
struct map_msg {
	uint64_t cookie, region;
	uint32_t generation;
	int32_t status;
};

/* Of one of the group's regions: MAP, UNMAP, REVOKE or any other type. */
void stranger_asks(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = packet_of((uint16_t)(CONTROL_MAP + input_u8(in)));
	unsigned which = input_u8(in);
	struct map_msg m = { .cookie = input_u8(in) };
	struct mr *mr = (struct mr *)handles_slot(&s->g->mrs, which % 4);

	if (!l)
		return;
	/* Slots that were never taken are zeros. */
	m.region = mr->region ^ (which & 16);
	m.generation = mr->generation ^ (which >> 5 & 1);
	packet_add(&p, &m, sizeof(m));
	packet_say(s, l, &p, in);
}

/* What was asked last: MAP with MAPPED, or with REVOKE; FENCE with FENCED. */
void stranger_answers(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	unsigned how = input_u8(in);
	unsigned asked = how & 1 ? CONTROL_FENCE : CONTROL_MAP;
	struct packet p = packet_of(how & 1   ? CONTROL_FENCED
				    : how & 2 ? CONTROL_REVOKE
					      : CONTROL_MAPPED);
	const uint8_t *said = l ? stranger_heard(l, asked) : NULL;
	size_t len = l ? l->last[asked].len - HEAD : 0;

	if (!said)
		return;
	packet_add(&p, said, len);
	if (how & 4 && asked == CONTROL_MAP) {
		int32_t status = -(int32_t)input_u8(in);

		memcpy(p.bytes + p.len - sizeof(status), &status, sizeof(status));
	}
	if (asked == CONTROL_MAP && !(how & 8))
		packet_add_offer(s, &p, in, !strcmp(s->g->addr.domains[0].transport, "shm"), true);
	packet_say(s, l, &p, in);
}

void stranger_settles(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = packet_of(CONTROL_SETTLE);
	uint32_t m[2];

	m[0] = input_u32(in);
	m[1] = input_u8(in);
	if (!l)
		return;
	packet_add(&p, m, sizeof(m));
	packet_say(s, l, &p, in);
}

/* Anything. */
void stranger_says(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = packet_of(input_u8(in));
	uint8_t bytes[256];
	size_t len = input_u8(in);

	len = input_bytes(in, bytes, len);
	if (!l)
		return;
	packet_add(&p, bytes, len);
	packet_say(s, l, &p, in);
}
