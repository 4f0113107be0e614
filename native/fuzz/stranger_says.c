/* SPDX-License-Identifier: MIT
 *
 * What he says. */
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/pair.h"
#include "stranger.h"
#include "transport/shm/wire.h"

struct packet {
	uint8_t bytes[HEAD + CONTROL_MAX + 64];
	size_t len;
	int fds[CONTROL_FDS + 2];
	unsigned n_fds;
};

/* ---- Descriptors ---------------------------------------------------------------------------- */

static int make_memfd(size_t size, int seals)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

/* The first three are what shm offers for a connection. */
static int make_fd(unsigned kind)
{
	const int sealed = F_SEAL_SHRINK | F_SEAL_GROW;

	switch (kind) {
	case 0:
		return make_memfd(sizeof(struct channel), sealed);
	case 1:
		return make_memfd(sizeof(struct inbox), sealed);
	case 2:
		return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	case 3:
		return make_memfd(1 << 16, sealed);
	case 4:
		return make_memfd(sizeof(struct channel), F_SEAL_GROW);
	case 5:
		return make_memfd(100, sealed);
	case 6:
		return eventfd(0, EFD_CLOEXEC);
	default:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	}
}

static void add_fd(struct stranger *s, struct packet *p, unsigned kind)
{
	int *fd = &s->palette[kind % 8];

	if (*fd < 0)
		*fd = make_fd(kind % 8);
	CHECK(*fd >= 0);
	if (p->n_fds < CONTROL_FDS + 2)
		p->fds[p->n_fds++] = *fd;
}

/* ---- Packets -------------------------------------------------------------------------------- */

static void add(struct packet *p, const void *data, size_t len)
{
	if (len > sizeof(p->bytes) - p->len)
		len = sizeof(p->bytes) - p->len;
	memcpy(p->bytes + p->len, data, len);
	p->len += len;
}

static struct packet frame(uint16_t type)
{
	struct packet p = { 0 };

	add(&p, &(uint32_t){ STRANGER_MAGIC }, 4);
	add(&p, &(uint16_t){ PG_WIRE_VERSION }, 2);
	add(&p, &type, 2);
	add(&p, &(uint32_t){ 0 }, 4);
	return p;
}

static void put(struct line *l, const struct packet *p, size_t from, size_t to)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(p->fds))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)(p->bytes + from), to - from };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned n = l->tcp || from ? 0 : p->n_fds;

	if (n) {
		struct cmsghdr *c;

		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), p->fds, n * sizeof(int));
	}
	/* The group may have hung up, or not read for long. */
	(void)!sendmsg(l->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
}

enum wrong {
	CHANGED = 3,  /* as many bytes */
	UNFRAMED = 4, /* what was cut off its end is still in its length */
	DIVIDED = 8,  /* comes in two parts */
	SURPLUS_FD = 16,
	LONG = 32, /* with more behind it than any message has */
};

/* With the right length, then as the input spoils it. */
static void say(struct stranger *s, struct line *l, struct packet *p, struct input *in)
{
	unsigned wrong = input_u8(in);
	uint32_t len = (uint32_t)(p->len - HEAD);
	size_t cut = 0;

	if (wrong & UNFRAMED) {
		unsigned trim = input_u8(in);

		p->len = p->len > trim ? p->len - trim : 0;
	}
	if (wrong & LONG)
		p->len = sizeof(p->bytes);
	memcpy(p->bytes + 8, &len, sizeof(len));
	for (unsigned i = 0; i < (wrong & CHANGED) && p->len; i++) {
		uint16_t at = input_u16(in);

		p->bytes[at % p->len] ^= input_u8(in);
	}
	if (wrong & SURPLUS_FD)
		add_fd(s, p, input_u8(in));
	if (wrong & DIVIDED && p->len) {
		cut = input_u16(in) % p->len;
		put(l, p, 0, cut);
		s->round(s->g);
	}
	put(l, p, cut, p->len);
}

/* ---- HELLO ---------------------------------------------------------------------------------- */

/* As in handshake.c. */
struct hello {
	uint32_t features, max_msg;
	uint16_t reach, addr_len, n_offers, zero;
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

/* Of a connection or a region; the input changes a byte of it, and which descriptors come along. */
static void add_offer(struct stranger *s, struct packet *p, struct input *in, bool shm, bool region)
{
	struct conn_offer conn = { .layout = WIRE_LAYOUT };
	struct memory_offer memory = { .layout = WIRE_LAYOUT, .size = 4096 };
	unsigned wrong = input_u8(in);
	uint8_t bytes[OFFER_BYTES] = { 0 };
	uint16_t len = 1, n_fds = 0;

	if (shm) {
		n_fds = region ? 1 : CONN_FDS;
		len = region ? sizeof(memory) : sizeof(conn);
		memcpy(bytes, region ? (void *)&memory : (void *)&conn, len);
	}
	if (wrong & 1) {
		unsigned at = input_u8(in) % sizeof(bytes);

		bytes[at] ^= input_u8(in);
	}
	if (wrong & 2)
		len = input_u8(in);
	if (wrong & 4)
		n_fds = input_u8(in) % 8;
	add(p, &len, sizeof(len));
	add(p, &n_fds, sizeof(n_fds));
	add(p, bytes, len < sizeof(bytes) ? len : sizeof(bytes));
	for (unsigned i = 0; i < n_fds; i++)
		add_fd(s, p, (region ? 3 : i) + (wrong & 8 ? input_u8(in) : 0));
}

enum hello_wrong {
	NO_TOKEN = 1,
	OTHER_REACH = 2,
	OTHER_OFFERS = 4, /* more or less of them */
	SMALL_MSG = 8,
	OTHER_JOINED = 16,
};

void stranger_hello(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	unsigned wrong = input_u8(in);
	struct packet p = frame(CONTROL_HELLO);
	struct pair_edge edges[PAIR_MAX] = { 0 };
	uint8_t bytes[PG_ADDR_MAX];
	size_t addr_len = sizeof(bytes);
	struct hello h = { .max_msg = PG_MSG_MAX };
	struct net_addr a;

	stranger_address(s, in, &a);
	if (!l)
		return;
	CHECK(net_addr_encode(&a, bytes, &addr_len) == 0);
	h.addr_len = (uint16_t)addr_len;
	h.reach = reach_of(s, l, &a);
	if (wrong & OTHER_REACH)
		h.reach ^= input_u16(in);
	h.n_offers = (uint16_t)edges_of(s, &a, h.reach, edges);
	if (wrong & OTHER_OFFERS)
		h.n_offers = input_u8(in) % (PG_MAX_CONNS + 2);
	if (wrong & SMALL_MSG)
		h.max_msg = input_u16(in);
	add(&p, s->g->addr.token, sizeof(s->g->addr.token));
	p.bytes[HEAD] ^= wrong & NO_TOKEN;
	add(&p, &h, sizeof(h));
	add(&p, bytes, addr_len);
	for (unsigned k = 0; k < h.n_offers; k++) {
		struct pair_edge *e = &edges[k < PAIR_MAX ? k : 0];
		uint8_t joined[2] = { e->local, e->remote };

		if (wrong & OTHER_JOINED)
			joined[k % 2] ^= input_u8(in);
		add(&p, joined, sizeof(joined));
		add_offer(s, &p, in, !strcmp(a.domains[e->local].transport, "shm"), false);
	}
	say(s, l, &p, in);
}

void stranger_ready(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = frame(CONTROL_READY);
	uint16_t other = input_u16(in);
	pair_reach reach;

	if (!l)
		return;
	reach = (pair_reach)(reach_of(s, l, &s->g->addr) ^ other);
	add(&p, &reach, sizeof(reach));
	say(s, l, &p, in);
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
	struct packet p = frame((uint16_t)(CONTROL_MAP + input_u8(in)));
	unsigned which = input_u8(in);
	struct map_msg m = { .cookie = input_u8(in) };
	struct mr *mr = (struct mr *)handles_slot(&s->g->mrs, which % 4);

	if (!l)
		return;
	/* Slots that were never taken are zeros. */
	m.region = mr->region ^ (which & 16);
	m.generation = mr->generation ^ (which >> 5 & 1);
	add(&p, &m, sizeof(m));
	say(s, l, &p, in);
}

/* What was asked last: MAP with MAPPED, or with REVOKE; FENCE with FENCED. */
void stranger_answers(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	unsigned how = input_u8(in);
	unsigned asked = how & 1 ? CONTROL_FENCE : CONTROL_MAP;
	struct packet p = frame(how & 1   ? CONTROL_FENCED
				: how & 2 ? CONTROL_REVOKE
					  : CONTROL_MAPPED);
	const uint8_t *said = l ? stranger_heard(l, asked) : NULL;
	size_t len = l ? l->last[asked].len - HEAD : 0;

	if (!said)
		return;
	add(&p, said, len);
	if (how & 4 && asked == CONTROL_MAP) {
		int32_t status = -(int32_t)input_u8(in);

		memcpy(p.bytes + p.len - sizeof(status), &status, sizeof(status));
	}
	if (asked == CONTROL_MAP && !(how & 8))
		add_offer(s, &p, in, !strcmp(s->g->addr.domains[0].transport, "shm"), true);
	say(s, l, &p, in);
}

void stranger_settles(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = frame(CONTROL_SETTLE);
	uint32_t m[2];

	m[0] = input_u32(in);
	m[1] = input_u8(in);
	if (!l)
		return;
	add(&p, m, sizeof(m));
	say(s, l, &p, in);
}

/* Anything. */
void stranger_says(struct stranger *s, struct input *in)
{
	struct line *l = stranger_line(s, in);
	struct packet p = frame(input_u8(in));
	uint8_t bytes[256];
	size_t len = input_u8(in);

	len = input_bytes(in, bytes, len);
	if (!l)
		return;
	add(&p, bytes, len);
	say(s, l, &p, in);
}
