/* SPDX-License-Identifier: MIT
 *
 * What he says of a connection. He looks at the group to know what would be right. */
#include "engine/flight.h"
#include "engine/path_message.h"
#include "engine/paths.h"
#include "engine/peer.h"
#include "stranger_packet.h"

#define MAX_SUMS 16

/* What he is about to say. */
struct words {
	struct path_head head;
	struct path_sum sums[MAX_SUMS];
};

/* ---- What is right -------------------------------------------------------------------------- */

/* 0: nothing. */
static unsigned next_word(const struct path *path)
{
	const struct takeover *to = &path->to;

	switch (path->state) {
	case PATH_FREE:
		return PATH_OPEN;
	case PATH_OPENING:
		return path->attached ? PATH_READY : PATH_OPEN;
	case PATH_UP:
		return PATH_STOPPED;
	default:
		if (!to->peer_stopped)
			return PATH_STOPPED;
		if (to->stopped && !to->told)
			return PATH_ARRIVED;
		if (to->asked)
			return PATH_TOLD;
		return to->fenced && !to->peer_told ? PATH_OVER : 0;
	}
}

static const struct flight *flight_of(const struct list *l)
{
	return LIST_ENTRY(l, const struct flight, link);
}

/* What he has got, but for as many of what is in flight as the input says. */
static void arrived(const struct path *path, struct path_head *head, struct input *in)
{
	unsigned lost = input_u8(in), imms = 1, msgs = 1;

	for (const struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		imms += flight_is_imm(flight_of(l));
		msgs += flight_of(l)->wr_op == WR_SEND;
	}
	head->imms = path->imms_out - (lost & 15) % imms;
	head->msgs = path->msgs_out - (lost >> 4) % msgs;
}

static struct path_sum *sum_of(struct words *w, uint32_t imm)
{
	unsigned i = 0;

	while (i < w->head.n && w->sums[i].imm != imm)
		i++;
	if (i == w->head.n && i < MAX_SUMS)
		w->sums[w->head.n++] = (struct path_sum){ .imm = imm };
	return i < MAX_SUMS ? &w->sums[i] : NULL;
}

/* Of each immediate that was asked for, all but as many of those in flight as the input says; and how
 * many of the others were taken. */
static void told(const struct path *path, struct words *w, struct input *in)
{
	for (const struct list *l = path->flights.next; l != &path->flights; l = l->next) {
		struct path_sum *sum = flight_of(l)->asked ? sum_of(w, flight_of(l)->imm) : NULL;

		if (sum)
			sum->count++;
	}
	for (unsigned i = 0; i < w->head.n; i++) {
		uint32_t in_doubt = (uint32_t)w->sums[i].count, how = input_u8(in);
		uint32_t lost = (how & 15) % (in_doubt + 1);
		uint32_t sent = (uint32_t)sums_get(&path->sent, w->sums[i].imm);

		w->sums[i].count = (int32_t)(sent - lost);
		w->sums[i].taken = (int32_t)(sent - in_doubt + (how >> 4) % (in_doubt - lost + 1));
	}
}

/* Immediates as tests write them: few values, of whole writes and of shards. */
static void some_sums(struct words *w, struct input *in)
{
	unsigned n = input_u8(in) % 4;

	for (unsigned i = 0; i < n; i++) {
		uint32_t imm = input_u8(in);

		w->sums[w->head.n++] = (struct path_sum){ .imm = (imm & 15) | (imm & 48) << 26,
							  .count = (int8_t)input_u8(in) };
	}
}

static void fill(const struct pg_group *g, const struct path *path, struct words *w,
		 struct input *in)
{
	switch (w->head.word) {
	case PATH_OPEN: /* his NICs are like the group's */
		w->head.bits = w->head.remote < g->n_domains &&
			       !g->domains[w->head.remote]->caps.ordered;
		break;
	case PATH_STOPPED:
	case PATH_REFUSED:
		w->head.status = -(int32_t)input_u8(in);
		break;
	case PATH_ARRIVED:
		arrived(path, &w->head, in);
		break;
	case PATH_TOLD:
		told(path, w, in);
		break;
	case PATH_ASK:
	case PATH_COUNTED:
		some_sums(w, in);
		break;
	case PATH_NICS:
		w->head.bits = (uint8_t)~input_u8(in);
		break;
	default:
		break;
	}
}

/* ---- What he says --------------------------------------------------------------------------- */

static struct peer *himself(const struct stranger *s, const struct line *l)
{
	return peer_find(s->g, l->incarnation, l->group);
}

/* As he sees it: what is our NIC is the group's other one. */
static struct path_head head_of(const struct peer *p, const struct path *path)
{
	const struct pair_edge *e = &path->edge;
	struct path_head head = { .local = e->remote, .remote = e->local };

	if (path->conn)
		head.serial = path->serial;
	else if (e->local < PG_MAX_DOMAINS && e->remote < PG_MAX_DOMAINS)
		head.serial = p->serials[e->local][e->remote];
	return head;
}

static void say_words(struct stranger *s, struct line *l, const struct words *w, struct input *in)
{
	struct packet packet = packet_of(CONTROL_PATH);
	unsigned n = w->head.n < MAX_SUMS ? w->head.n : MAX_SUMS;

	packet_add(&packet, &w->head, sizeof(w->head));
	packet_add(&packet, w->sums, n * sizeof(w->sums[0]));
	if (w->head.word == PATH_OPEN)
		packet_add_offer(
			s, &packet, in,
			!strcmp(s->g->addr.domains[w->head.remote % PG_MAX_DOMAINS].transport,
				"shm"),
			false);
	packet_say(s, l, &packet, in);
}

enum path_wrong {
	OTHER_SERIAL = 1,
	OTHER_NICS = 2, /* perhaps of a connection that is not there yet */
	OTHER_COUNTS = 4,
	OTHER_N = 8,
	OTHER_BITS = 16,
};

static void spoil(struct words *w, unsigned wrong, struct input *in)
{
	if (wrong & OTHER_SERIAL)
		w->head.serial ^= input_u16(in);
	if (wrong & OTHER_COUNTS) {
		w->head.imms = input_u32(in);
		w->head.msgs = input_u32(in);
		w->sums[0].count = (int32_t)input_u32(in);
	}
	if (wrong & OTHER_N)
		w->head.n = input_u16(in);
	if (wrong & OTHER_BITS)
		w->head.bits ^= input_u8(in);
}

/* Of any connection any word, or the next one. */
void stranger_path(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct peer *p = l ? himself(s, l) : NULL;
	unsigned which = input_u8(in), word = input_u8(in) % (PATH_WORDS + 1);
	unsigned wrong = input_u8(in);
	struct path none = { 0 };
	struct words w = { 0 };
	const struct path *path;

	if (!p)
		return;
	list_init(&none.flights);
	path = &p->paths[which % PG_MAX_CONNS];
	none.edge = path->edge;
	if (wrong & OTHER_NICS)
		none.edge = (struct pair_edge){ which % 8, which / 8 % 8, 0 };
	if (wrong & OTHER_NICS || !path->conn)
		path = &none;
	w.head = head_of(p, path);
	w.head.word = (uint8_t)(word ? word : next_word(path));
	fill(s->g, path, &w, in);
	spoil(&w, wrong, in);
	say_words(s, l, &w, in);
}

static bool agree(struct stranger *s, struct line *l, const struct peer *p, const struct path *path,
		  const uint8_t lost[MAX_SUMS])
{
	struct input in = { lost, lost + MAX_SUMS }, right = { lost, lost };
	struct words w = { .head = head_of(p, path) };

	w.head.word = (uint8_t)next_word(path);
	if (!path->conn || path->state == PATH_UP || !w.head.word)
		return false;
	fill(s->g, path, &w, &in);
	say_words(s, l, &w, &right);
	return true;
}

/* All that is right, until nothing is left to be said. The same is lost of each. */
void stranger_agrees(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct peer *p = l ? himself(s, l) : NULL;
	bool said = p != NULL;
	uint8_t lost[MAX_SUMS];

	memset(lost, input_u8(in), sizeof(lost));
	for (unsigned turn = 0; said && turn < 8; turn++) {
		said = false;
		for (unsigned k = 0; k < p->n_paths && peer_state(p) == PEER_UP; k++)
			said |= agree(s, l, p, &p->paths[k], lost);
		s->round(s->g);
	}
}

/* ---- What he hears -------------------------------------------------------------------------- */

/* If that connection is still there, it is as far as the group says. */
void stranger_hears_path(const struct stranger *s, const struct line *l)
{
	struct peer *p = himself(s, l);
	const struct takeover *to;
	const struct path *path;
	struct path_head head;

	CHECK(l->in.len >= HEAD + sizeof(head));
	memcpy(&head, l->in.bytes + HEAD, sizeof(head));
	CHECK(head.word > 0 && head.word < PATH_WORDS);
	path = p ? path_find(p, head.local, head.remote) : NULL;
	if (!path || path->serial != head.serial)
		return;
	to = &path->to;
	CHECK(head.word != PATH_READY || path->attached);
	CHECK(head.word != PATH_STOPPED || to->stopped);
	CHECK(head.word != PATH_ARRIVED || to->fenced);
	CHECK(head.word != PATH_TOLD || to->fenced);
	CHECK(head.word != PATH_OVER || (to->told && !to->asked));
}
