/* SPDX-License-Identifier: MIT
 *
 * A group that works, and a stranger at its control sockets. The input is a sequence of steps: what
 * the stranger says or does, what the program calls, and what its NICs report. Whatever it is, what
 * was accepted ends exactly once, and nothing stays open. */
#include <errno.h>
#include <unistd.h>

#include "bare_nic.h"
#include "check_group.h"
#include "engine/peer.h"
#include "engine/progress.h"
#include "stranger.h"
#include "util/clock.h"

#define HANDLES 4
#define MAX_PEERS 3
#define MAX_REGIONS 4
#define MEM 4096
#define MAX_TOLD 256
#define HOUR 3600000000000ull

static struct pg_engine *engine;
static struct pg_group *g;
static struct stranger stranger;
static pg_peer_t peers[HANDLES];
static pg_mr_t mrs[HANDLES];
static pg_rmr_t rmrs[HANDLES];
static uint8_t user_memory[MEM];
static uint32_t page_indices[HANDLES];
static uint8_t message[PG_MSG_MAX];

/* How often each of what was accepted has ended. */
static unsigned n_told;
static uint8_t told[MAX_TOLD];

/* ---- Rounds --------------------------------------------------------------------------------- */

/* One in which also the sockets are looked at, whatever the time. */
static void round_of(struct pg_group *group)
{
	lock_acquire(&group->progress);
	group_round(group);
	group->next_control = group->next_scan = 0;
	group_tick(group);
	lock_release(&group->progress);
}

static void tell(void *arg, const struct pg_event *event)
{
	(*(uint8_t *)arg)++;
	/* A callback may call anything that does not wait. */
	if (event->kind == PG_EVENT_OP && event->status == -ESTALE)
		pg_dump(g, -1);
}

static struct pg_done done_next(void)
{
	return (struct pg_done){ .callback = tell, .arg = &told[n_told] };
}

/* Of what done_next was for. */
static void accepted(int rc)
{
	n_told += rc > 0;
}

/* ---- What the program calls ----------------------------------------------------------------- */

static uint64_t pick(struct input *in, const uint64_t *handles)
{
	return handles[input_u8(in) % HANDLES];
}

static uint64_t *place(uint64_t *handles)
{
	unsigned i = 0;

	while (i < HANDLES - 1 && handles[i])
		i++;
	return &handles[i];
}

static void add_peer(struct input *in)
{
	uint8_t bytes[PG_ADDR_MAX];
	size_t len = sizeof(bytes);
	struct net_addr addr;
	pg_peer_t *peer = place(peers);

	stranger_address(&stranger, in, &addr);
	CHECK(net_addr_encode(&addr, bytes, &len) == 0);
	pg_add_peer(g, bytes, len, peer, NULL);
}

/* A region of the stranger's. */
static void import(struct input *in)
{
	struct mr_desc d = { .base = 1 << 20, .len = MEM, .kind = MR_ENGINE };
	unsigned who = input_u8(in) % STRANGERS, what = input_u8(in);
	uint8_t bytes[PG_DESC_MAX];
	size_t len = sizeof(bytes);
	pg_rmr_t *rmr = place(rmrs);

	memset(d.incarnation, (int)(who + 1), sizeof(d.incarnation));
	d.group = what >> 4 & 1;
	d.kind = what & 1 ? MR_USER : MR_ENGINE;
	d.n_keys = g->addr.n_domains;
	if (what & 2)
		d.n_keys = (what >> 2 & 3) + 1;
	CHECK(mr_desc_encode(&d, bytes, &len) == 0);
	pg_import_mr(g, bytes, len, rmr, NULL);
}

static void own_region(struct input *in)
{
	unsigned how = input_u8(in);
	pg_mr_t *mr = place(mrs);
	void *ptr;

	if (how & 1)
		pg_reg_mr(g, user_memory, sizeof(user_memory), mr, NULL);
	else
		pg_alloc_mr(g, MEM, -1, 0, &ptr, mr, NULL);
}

static void submit(struct pg_op *op, struct input *in)
{
	unsigned how = input_u8(in);

	op->imm = how & 1 ? PG_NO_IMM : how >> 4;
	op->flags = how & 2 ? PG_REMOTE_VISIBLE : 0;
	op->limit_ms = how & 4 ? HOUR / 1000000 : 0;
	op->done = done_next();
	accepted(pg_submit(g, op, 1, 0, NULL));
}

static void write_one(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_WRITE };

	op.u.write.src = pick(in, mrs);
	op.u.write.dst = pick(in, rmrs);
	op.u.write.len = input_u16(in) % MEM + 1;
	submit(&op, in);
}

static void write_pages(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_PAGED };

	op.u.paged = (struct pg_paged){ .src_indices = page_indices,
					.src_stride = 64,
					.dst_indices = page_indices,
					.dst_stride = 64,
					.page_len = 64 };
	op.u.paged.src = pick(in, mrs);
	op.u.paged.dst = pick(in, rmrs);
	op.u.paged.n_pages = input_u8(in) % HANDLES + 1;
	submit(&op, in);
}

static void scatter(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_SCATTER };
	struct pg_scatter_dst dsts[HANDLES];

	op.u.scatter.src = pick(in, mrs);
	op.u.scatter.dsts = dsts;
	op.u.scatter.n = input_u8(in) % HANDLES + 1;
	op.u.scatter.spread = input_u8(in) % 3;
	for (unsigned i = 0; i < op.u.scatter.n; i++)
		dsts[i] = (struct pg_scatter_dst){ .dst = pick(in, rmrs), .len = 8 };
	submit(&op, in);
}

static void barrier(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_BARRIER };

	op.u.barrier = (struct pg_barrier){ .peers = peers, .n = input_u8(in) % HANDLES + 1 };
	submit(&op, in);
}

static void send(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_SEND };

	op.u.send = (struct pg_send){ .peer = pick(in, peers), .data = message };
	op.u.send.len = input_u16(in) % (sizeof(message) + 1);
	op.imm = PG_NO_IMM;
	op.done = done_next();
	accepted(pg_submit(g, &op, 1, 0, NULL));
}

static void fence(struct input *in)
{
	struct pg_op op = { .opcode = PG_OP_FENCE, .imm = PG_NO_IMM, .done = done_next() };

	op.u.fence.peer = pick(in, peers);
	accepted(pg_submit(g, &op, 1, 0, NULL));
}

static void expect(struct input *in)
{
	struct pg_from from = { .peers = peers };
	struct pg_done done = done_next();
	uint64_t n;

	from.n_peers = input_u8(in) % HANDLES;
	n = input_u8(in) % 16;
	accepted((from.n_peers ? pg_expect_imm_from(g, input_u8(in) % 16, n, &from, &done, NULL)
			       : pg_expect_imm(g, input_u8(in) % 16, n, &done, NULL)) == 0);
}

static void look_at_counter(struct input *in)
{
	uint64_t value;
	unsigned how = input_u8(in);

	if (how & 1)
		pg_free_imm(g, how >> 1);
	else
		pg_imm_value(g, how >> 1, &value);
}

/* Receives, and gives back what it has. */
static void receive(struct input *in)
{
	struct pg_event events[4];
	unsigned how = input_u8(in);
	int n;

	if (how & 1)
		pg_submit_recvs(g, 64, how >> 1 & 3, NULL);
	n = pg_poll_events(g, events, 4);
	for (int i = 0; i < n; i++)
		if (events[i].kind == PG_EVENT_RECV && !(how & 8))
			CHECK(pg_recv_release(g, events[i].data) == 0);
}

static void give_back(struct input *in)
{
	unsigned what = input_u8(in), i = what / 2 % HANDLES;

	if (what & 1)
		pg_release_rmr(g, rmrs[i], NULL);
	else
		pg_unreg_mr(g, mrs[i], 0, NULL);
}

static void cancel(struct input *in)
{
	struct pg_done done = { .callback = tell, .arg = &told[input_u8(in) % MAX_TOLD] };

	pg_cancel(g, &done);
}

static void ask(struct input *in)
{
	unsigned what = input_u8(in);
	struct pg_peer_info info;
	struct pg_conn_info conn;
	void *ptr;

	pg_peer_info(g, peers[what % HANDLES], &info);
	for (unsigned i = 0; i < PG_MAX_CONNS; i++)
		pg_conn_info(g, peers[what % HANDLES], i, &conn);
	if (what & 16)
		pg_remote_ptr(g, rmrs[what % HANDLES], 0, &ptr, NULL);
	if (what & 32)
		pg_dump(g, stranger.palette[7]); /* /dev/null, if it is there */
}

/* ---- What NICs report, and what time does --------------------------------------------------- */

static void arrive(struct input *in)
{
	unsigned what = input_u8(in);
	struct domain *d = g->domains[what / 4 % g->n_domains];
	struct arrival a = { .kind = ARRIVAL_IMM };
	unsigned conn = input_u8(in);

	if (d->transport == &transport_shm)
		return;
	switch (what % 4) {
	case 0:
		a.imm = input_u32(in);
		a.count = input_u16(in) + 1u;
		break;
	case 1:
		a.kind = ARRIVAL_MSG;
		a.data = message;
		a.len = input_u16(in) % (sizeof(message) + 1);
		break;
	case 2:
		a.kind = ARRIVAL_DEAD;
		a.status = -ECONNRESET;
		break;
	default:
		a.kind = ARRIVAL_NIC;
		a.status = conn & 1 ? -ENETDOWN : 0;
		break;
	}
	bare_nic_says(d, conn, a);
}

static void post_otherwise(struct input *in)
{
	unsigned how = input_u8(in);

	bare_nic_answers(how & 1 ? -EIO : how & 2 ? -ECONNABORTED : 0, !(how & 4), how & 8);
}

static void nic_ends(struct input *in)
{
	unsigned how = input_u8(in), n = input_u8(in);
	struct domain *d = g->domains[how / 4 % g->n_domains];

	if (d->transport != &transport_shm)
		bare_nic_ends(d, n, how & 1 ? -EIO : how & 2 ? -ECONNABORTED : 0);
}

static void grow_old_peer(struct peer *p, unsigned what)
{
	if (what & 2)
		p->heard = 0;
	for (unsigned k = 0; what & 8 && k < p->n_paths; k++)
		p->paths[k].to.limit = 0;
}

static void grow_old_op(struct op *op, unsigned what)
{
	if (what & 4 && op->deadline)
		op->deadline = 1;
	if (what & 16 && op->limit && op->limit != UINT64_MAX)
		op->limit = 1;
}

/* So long has nothing been heard, nor done. */
static void grow_old(struct input *in)
{
	unsigned what = input_u8(in);

	lock_acquire(&g->progress);
	for (struct list *l = g->streams.next; what & 1 && l != &g->streams; l = l->next)
		LIST_ENTRY(l, struct stream, link)->born = 0;
	for (uint32_t i = 0; i < g->peers.used; i++)
		if (peer_slot(g, i))
			grow_old_peer(peer_slot(g, i), what);
	for (uint32_t i = 0; i < g->config->max_ops; i++)
		if (g->ops[i].live)
			grow_old_op(&g->ops[i], what);
	g->next_beat = g->now;
	lock_release(&g->progress);
}

/* ---- The input ------------------------------------------------------------------------------ */

/* Adapters: what the stranger does. */
#define STRANGER(name)                          \
	static void name(struct input *in)      \
	{                                       \
		stranger_##name(&stranger, in); \
	}

STRANGER(dial)
STRANGER(accept)
STRANGER(hang_up)
STRANGER(hello)
STRANGER(ready)
STRANGER(asks)
STRANGER(answers)
STRANGER(settles)
STRANGER(says)
STRANGER(path)
STRANGER(agrees)

static void nothing(struct input *in)
{
	(void)in;
}

/* By number, which inputs of the corpus know them by: a new one goes to the end. */
static void (*const steps[])(struct input *in) = {
	nothing, dial,      hello,    ready,    says,        asks,           answers,
	settles, accept,    hang_up,  add_peer, own_region,  import,         write_one,
	fence,   send,      barrier,  scatter,  write_pages, expect,         look_at_counter,
	receive, give_back, cancel,   ask,      arrive,      post_otherwise, grow_old,
	path,    agrees,    nic_ends,
};

#define N_STEPS (sizeof(steps) / sizeof(steps[0]))
#define QUIET 0x80u       /* no round follows */
#define PEERS_FIRST 0x80u /* in the second byte: at the end they go one by one */

/* The first two bytes: how many NICs and of which kind, and what those can do. */
static void begin(unsigned kind, unsigned caps)
{
	struct pg_group_config group = { .n_domains = kind % 4 + 1,
					 .progress = PG_PROGRESS_INLINE,
					 .worker_cpu = -1,
					 .rail_only = kind & 64 };
	struct pg_config config;

	bare_nic_caps(caps);
	CHECK(pg_config_init(&config, NULL) == 0);
	config.groups = &group;
	config.max_ops = 32;
	config.max_events = 8;
	config.max_unclaimed = 4;
	config.max_peers = MAX_PEERS;
	config.max_regions = MAX_REGIONS;
	config.heartbeat_ns = HOUR;
	config.silent_ns = config.dead_ns = 4 * HOUR;
	config.goodbye_ns = 0;
	strcpy(config.control, "127.0.0.1");
	for (unsigned i = 0; i < group.n_domains; i++) {
		group.domains[i].cpu = -1;
		group.domains[i].rail = kind & 128 ? i + 1 : 0;
		strcpy(group.domains[i].transport, kind & 4u << i ? "shm" : "bare");
	}
	CHECK(pg_engine_create(&config, &engine, NULL) == 0);
	g = pg_engine_group(engine, 0);
	n_told = 0;
	memset(told, 0, sizeof(told));
	memset(peers, 0, sizeof(peers));
	memset(mrs, 0, sizeof(mrs));
	memset(rmrs, 0, sizeof(rmrs));
	stranger_init(&stranger, g, round_of);
}

/* Nothing is kept of peers that are gone. */
static void end_peers(void)
{
	bare_nic_answers(0, true, false);
	stranger_close(&stranger);
	for (unsigned i = 0; i < 3; i++)
		round_of(g);
	lock_acquire(&g->progress);
	peers_down(g, -ESHUTDOWN, "over");
	lock_release(&g->progress);
	for (unsigned i = 0; i < 8; i++)
		round_of(g);
	check_group_at_rest(g);
}

static void end(bool peers_first)
{
	if (peers_first)
		end_peers();
	CHECK(pg_engine_destroy(engine) == 0);
	for (unsigned i = 0; i < n_told; i++)
		CHECK_EQ(told[i], 1);
	stranger_close(&stranger);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	unsigned fds = fuzz_open_fds(), kind = input_u8(&in), caps = input_u8(&in);

	/* He is this process: what he says of where his memory is must not be believed. */
	setenv("PGCTL_SHM_CMA", "0", 1);
	begin(kind, caps);
	while (input_more(&in) && n_told < MAX_TOLD) {
		unsigned step = input_u8(&in);

		steps[(step & ~QUIET) % N_STEPS](&in);
		if (!(step & QUIET))
			round_of(g);
		stranger_hears(&stranger);
		check_group(g);
	}
	end(caps & PEERS_FIRST);
	CHECK_EQ(fuzz_open_fds(), fds);
	return 0;
}
