/* SPDX-License-Identifier: MIT
 *
 * shm with a peer that offers, and writes into what it shares with us, whatever the input says. */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "transport/shm/shm.h"

#define CONNS 2
#define REGION 65536 /* more than a ring of records */
#define MAX_ARRIVALS 8

static const struct transport *const shm = &transport_shm;

/* Our side, and the segments of the peer's as it has them mapped. */
struct victim {
	struct domain *domain;
	struct conn *conns[CONNS];
	bool attached[CONNS];
	struct memory memory;
	uint64_t lkey, key;
	struct channel *channel; /* we write to it; */
	struct inbox *inbox;     /* and announce it there */
	int fds[CONN_FDS];
	int odd[4]; /* what no offer should have */
};

/* ---- What the peer has ---------------------------------------------------------------------- */

static int make_memfd(size_t size, int seals, void **map)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0);
	if (map)
		*map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(!map || *map != MAP_FAILED);
	return fd;
}

static void peer_open(struct victim *v)
{
	const int sealed = F_SEAL_SHRINK | F_SEAL_GROW;
	void *map;

	v->fds[FD_CHANNEL] = make_memfd(sizeof(struct channel), sealed, &map);
	v->channel = map;
	v->fds[FD_INBOX] = make_memfd(sizeof(struct inbox), sealed, &map);
	v->inbox = map;
	v->fds[FD_BELL] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->odd[0] = make_memfd(sizeof(struct channel), F_SEAL_GROW, NULL);
	v->odd[1] = make_memfd(100, sealed, NULL);
	v->odd[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	v->odd[3] = -1;
}

static void peer_close(struct victim *v)
{
	munmap(v->channel, sizeof(*v->channel));
	munmap(v->inbox, sizeof(*v->inbox));
	for (unsigned i = 0; i < CONN_FDS; i++)
		close(v->fds[i]);
	for (unsigned i = 0; i < 3; i++)
		close(v->odd[i]);
}

/* The bytes given, and the descriptors of an offer, as the input spoils them. */
static struct offer make_offer(struct victim *v, struct input *in, const void *bytes, uint16_t len,
			       uint16_t n_fds)
{
	struct offer offer = { .len = len, .n_fds = n_fds };
	unsigned wrong = input_u8(in);

	memcpy(offer.bytes, bytes, len);
	for (unsigned i = 0; i < CONN_FDS; i++)
		offer.fds[i] = v->fds[i];
	for (unsigned i = 0; i < (wrong & 3); i++) {
		unsigned at = input_u8(in) % (unsigned)len;

		offer.bytes[at] ^= input_u8(in);
	}
	if (wrong & 4)
		offer.len = input_u8(in) % (OFFER_BYTES + 1);
	if (wrong & 8)
		offer.n_fds = input_u8(in) % (OFFER_FDS + 1);
	if (wrong & 16) {
		unsigned at = input_u8(in) % CONN_FDS;

		offer.fds[at] = v->odd[input_u8(in) % 4];
	}
	if (wrong & 32) {
		unsigned at = input_u8(in) % CONN_FDS;

		offer.fds[at] = v->fds[input_u8(in) % CONN_FDS];
	}
	return offer;
}

/* ---- Our side ------------------------------------------------------------------------------- */

static void we_open(struct victim *v)
{
	struct domain_options options = { .device = "", .cpu = -1, .max_peers = 1 };
	struct offer ours;

	CHECK(shm->open(&options, &v->domain, NULL) == 0);
	/* Of its size: a sanitizer sees who writes beside it. */
	v->memory = (struct memory){ .base = malloc(REGION), .len = REGION, .fd = -1 };
	CHECK(v->memory.base);
	memset(v->memory.base, 0, REGION);
	CHECK(shm->mr_reg(v->domain, &v->memory, &v->lkey, &v->key, NULL) == 0);
	for (unsigned i = 0; i < CONNS; i++)
		CHECK(shm->conn_open(v->domain, &v->conns[i], &ours, NULL) == 0);
}

static void we_close(struct victim *v)
{
	for (unsigned i = 0; i < CONNS; i++)
		shm->conn_close(v->conns[i]);
	shm->mr_dereg(v->domain, v->lkey);
	free(v->memory.base);
	shm->close(v->domain);
}

static struct shm_conn *pick(struct victim *v, struct input *in, unsigned *i)
{
	*i = input_u8(in) % CONNS;
	return (struct shm_conn *)v->conns[*i];
}

static void attach(struct victim *v, struct input *in)
{
	unsigned i;
	struct shm_conn *c = pick(v, in, &i);
	struct conn_offer theirs = { .layout = WIRE_LAYOUT, .slot = i };
	struct offer offer = make_offer(v, in, &theirs, sizeof(theirs), CONN_FDS);
	struct pg_error err = { 0 };

	if (v->attached[i])
		return;
	v->attached[i] = shm->conn_attach(&c->conn, &offer, &err) == 0;
	CHECK(v->attached[i] || err.text[0]);
	CHECK(!v->attached[i] || (offer.len == sizeof(theirs) && offer.n_fds == CONN_FDS &&
				  c->peer_slot < INBOX_SLOTS));
}

static void reopen(struct victim *v, struct input *in)
{
	struct offer ours;
	unsigned i;

	pick(v, in, &i);
	shm->conn_close(v->conns[i]);
	v->attached[i] = false;
	CHECK(shm->conn_open(v->domain, &v->conns[i], &ours, NULL) == 0);
}

static void import(struct victim *v, struct input *in)
{
	struct memory_offer theirs = { .layout = WIRE_LAYOUT, .size = sizeof(struct channel) };
	struct offer offer = make_offer(v, in, &theirs, sizeof(theirs), 1);
	uint64_t len = input_u32(in);
	void *mapped;

	if (shm->mr_import(v->domain, &offer, len, &mapped, NULL))
		return;
	/* All of it is there: else this is a SIGBUS. */
	((volatile uint8_t *)mapped)[0] = 1;
	((volatile uint8_t *)mapped)[len - 1] = 1;
	shm->mr_unimport(v->domain, mapped, len);
}

static void post(struct victim *v, struct input *in)
{
	static uint8_t from[PG_MSG_MAX + 2], to[sizeof(from)];
	unsigned i, what;
	struct shm_conn *c = pick(v, in, &i);
	struct wr wr = { .src = from, .rkey = v->key, .imm = 1 };
	int rc = 1;

	what = input_u8(in);
	wr.op = (uint8_t)(what % 3);
	wr.len = input_u16(in) % sizeof(from);
	wr.len += wr.op == WR_WRITE; /* what has no immediate has a payload */
	if (what & 4 && wr.op != WR_SEND)
		wr.mapped = to;
	for (unsigned n = 0; v->attached[i] && n < (what & 64 ? ENTRIES + 1u : 1u) && rc == 1; n++)
		rc = shm->post(&c->conn, &wr, 1, NULL);
	if (v->attached[i] && !(what & 128))
		shm->flush(&c->conn);
}

static bool is_ours(const struct victim *v, const struct conn *conn)
{
	return conn == v->conns[0] || conn == v->conns[1];
}

/* Between two looks at a connection no record was taken that is longer than one can be. */
static void check_records(const struct shm_conn *c, const struct shm_conn *before)
{
	uint32_t n = c->taken - before->taken + before->waiting;

	CHECK(c->pieces_in - before->pieces_in <= n * record_size(PIECE_MAX));
	CHECK(c->messages_in - before->messages_in <= n * record_size(PG_MSG_MAX));
}

static void poll(struct victim *v, struct input *in)
{
	struct shm_conn before[CONNS] = { *(struct shm_conn *)v->conns[0],
					  *(struct shm_conn *)v->conns[1] };
	struct arrival a[MAX_ARRIVALS];
	unsigned what = input_u8(in), max_msgs = what >> 4;
	unsigned n = shm->poll(v->domain, a, what % (MAX_ARRIVALS + 1), max_msgs), msgs = 0;
	uint8_t copy[PG_MSG_MAX];

	CHECK(n <= what % (MAX_ARRIVALS + 1));
	for (unsigned i = 0; i < n; i++) {
		CHECK(is_ours(v, a[i].conn));
		CHECK(a[i].kind == ARRIVAL_IMM || a[i].kind == ARRIVAL_MSG ||
		      (a[i].kind == ARRIVAL_DEAD && a[i].status < 0));
		if (a[i].kind == ARRIVAL_IMM)
			CHECK(a[i].count > 0 && a[i].count <= ENTRY_COUNT_MAX);
		if (a[i].kind != ARRIVAL_MSG)
			continue;
		CHECK(a[i].len <= PG_MSG_MAX);
		memcpy(copy, a[i].data, a[i].len);
		msgs++;
	}
	CHECK(msgs <= max_msgs);
	for (unsigned i = 0; i < CONNS; i++)
		check_records((struct shm_conn *)v->conns[i], &before[i]);
}

static void sleep_or_not(struct victim *v, struct input *in)
{
	shm->arm(v->domain, input_u8(in) & 1);
}

static void look(struct victim *v, struct input *in)
{
	unsigned i;
	struct shm_conn *c = pick(v, in, &i);
	uint64_t mark = 0;
	char text[128];

	shm->describe(&c->conn, text, sizeof(text));
	shm->visible(&c->conn, &mark);
}

/* What the peer says does not take us past what the rings hold. */
static void check_positions(const struct shm_conn *c)
{
	CHECK(c->status || c->waiting <= RECORD_RING / LINE);
	CHECK(c->status || c->entries - c->seen.entries <= ENTRIES);
	CHECK(c->status || c->messages - c->seen.messages <= RECORD_RING);
	CHECK(c->status || c->pieces - c->seen.pieces <= RECORD_RING);
}

/* ---- The peer at work ----------------------------------------------------------------------- */

/* Any word of what is shared. Relaxed, here and below: there is one thread. */
static void scribble(struct victim *v, struct input *in)
{
	unsigned i, where = input_u8(in);
	struct shm_conn *c = pick(v, in, &i);
	struct shm_domain *lane = shm_domain(v->domain);
	void *segments[] = { c->in, v->channel, lane->inbox, v->inbox };
	bool channel = where % 4 < 2;
	size_t n = (channel ? sizeof(struct channel) : sizeof(struct inbox)) / 8;
	_Atomic uint64_t *words = segments[where % 4];
	uint64_t value;

	words += input_u16(in) % n;
	value = input_le(in, 8);
	/* The high half of where: as it is, but for some bits. */
	if (where & 16)
		value ^= atomic_load_explicit(words, memory_order_relaxed);
	atomic_store_explicit(words, value, memory_order_relaxed);
}

/* The next entry, of the right lap if the input does not change that; and rings. */
static void forge(struct victim *v, struct input *in)
{
	unsigned i, how;
	struct shm_conn *c = pick(v, in, &i);
	uint32_t pos = c->taken;
	struct shm_domain *lane = shm_domain(v->domain);
	unsigned repeat;
	uint64_t entry;

	how = input_u8(in);
	repeat = how & 64 ? 300 : 1;
	/* Behind those that it has put there already. */
	while (entry_is_at(
		       atomic_load_explicit(&c->in->entries[pos % ENTRIES], memory_order_relaxed),
		       pos) &&
	       pos - c->taken < ENTRIES - 1)
		pos++;
	entry = entry_make(pos, (enum entry_kind)(how & 15), 0, 0);
	entry |= input_u32(in);
	entry |= (uint64_t)(input_u16(in) & ENTRY_COUNT_MAX) << 48;
	for (; repeat; repeat--, pos++) {
		entry = (entry & ~(0xffffull << 32)) |
			(uint64_t)(uint16_t)(entry_lap(pos) ^ (how >> 4 & 1)) << 32;
		atomic_store_explicit(&c->in->entries[pos % ENTRIES], entry, memory_order_relaxed);
	}
	if (!(how & 32))
		atomic_fetch_or_explicit(&lane->inbox->pending[c->slot / 64], 1ull << c->slot % 64,
					 memory_order_relaxed);
}

/* The next record of messages, or of pieces for our region. */
static void record(struct victim *v, struct input *in)
{
	unsigned i, what;
	struct shm_conn *c = pick(v, in, &i);
	struct record *r;
	uint64_t offset;

	what = input_u8(in);
	r = record_at(what & 1 ? c->in->pieces : c->in->messages,
		      (what & 1 ? c->pieces_in : c->messages_in) + (what >> 4) * LINE);
	offset = (uint64_t)(int64_t)(int32_t)input_u32(in);
	atomic_store_explicit(&r->rkey, what & 2 ? v->key ^ input_u32(in) : v->key,
			      memory_order_relaxed);
	atomic_store_explicit(&r->raddr, (uintptr_t)v->memory.base + offset, memory_order_relaxed);
	atomic_store_explicit(&r->len, input_u32(in), memory_order_relaxed);
}

/* ---- The input ------------------------------------------------------------------------------ */

/* By number, which inputs of the corpus know them by: a new one goes to the end. */
static void (*const steps[])(struct victim *v, struct input *in) = {
	poll, attach, forge, record, scribble, post, sleep_or_not, look, import, reopen,
};

#define N_STEPS (sizeof(steps) / sizeof(steps[0]))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	unsigned fds = fuzz_open_fds();
	struct victim v = { 0 };

	/* The peer is this process: what it says of where its memory is must not be believed. */
	setenv("PGCTL_SHM_CMA", "0", 1);
	peer_open(&v);
	we_open(&v);
	while (input_more(&in)) {
		steps[input_u8(&in) % N_STEPS](&v, &in);
		for (unsigned i = 0; i < CONNS; i++)
			check_positions((struct shm_conn *)v.conns[i]);
	}
	we_close(&v);
	peer_close(&v);
	CHECK_EQ(fuzz_open_fds(), fds);
	return 0;
}
