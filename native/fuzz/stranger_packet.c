/* SPDX-License-Identifier: MIT
 *
 * What his messages are made of. */
#include "stranger_packet.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/shm/wire.h"

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

void packet_add(struct packet *p, const void *data, size_t len)
{
	if (len > sizeof(p->bytes) - p->len)
		len = sizeof(p->bytes) - p->len;
	memcpy(p->bytes + p->len, data, len);
	p->len += len;
}

struct packet packet_of(uint16_t type)
{
	struct packet p = { 0 };

	packet_add(&p, &(uint32_t){ STRANGER_MAGIC }, 4);
	packet_add(&p, &(uint16_t){ PG_WIRE_VERSION }, 2);
	packet_add(&p, &type, 2);
	packet_add(&p, &(uint32_t){ 0 }, 4);
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

void packet_say(struct stranger *s, struct line *l, struct packet *p, struct input *in)
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

/* ---- Offers --------------------------------------------------------------------------------- */

void packet_add_offer(struct stranger *s, struct packet *p, struct input *in, bool shm, bool region)
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
	packet_add(p, &len, sizeof(len));
	packet_add(p, &n_fds, sizeof(n_fds));
	packet_add(p, bytes, len < sizeof(bytes) ? len : sizeof(bytes));
	for (unsigned i = 0; i < n_fds; i++)
		add_fd(s, p, (region ? 3 : i) + (wrong & 8 ? input_u8(in) : 0));
}
