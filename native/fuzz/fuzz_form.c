/* SPDX-License-Identifier: MIT
 *
 * The reader of control messages, over a message that ends where its memory does: what it gives out
 * was in the message. */
#include "engine/form.h"
#include "fuzz.h"

#define BEHIND (-77) /* where there is no descriptor */

static struct control_msg *make_msg(struct input *in)
{
	size_t n_fds = input_u8(in) % (CONTROL_FDS + 1), len = (size_t)(in->end - in->at);
	struct control_msg *msg;

	len = len < CONTROL_MAX ? len : CONTROL_MAX;
	msg = malloc(offsetof(struct control_msg, data) + len);
	CHECK(msg);
	msg->type = CONTROL_HELLO;
	msg->n_fds = (uint16_t)n_fds;
	msg->len = (uint32_t)len;
	for (unsigned i = 0; i < CONTROL_FDS; i++)
		msg->fds[i] = i < n_fds ? (int)i : BEHIND;
	memcpy(msg->data, in->at, len);
	return msg;
}

static void check_offer(const struct offer *o, uint32_t from)
{
	CHECK(o->len <= OFFER_BYTES && o->n_fds <= OFFER_FDS);
	CHECK_EQ(o->pid, 7);
	for (unsigned i = 0; i < o->n_fds; i++)
		CHECK_EQ(o->fds[i], from + i);
}

/* As the parsers do: fields, bytes of a stated length, offers. Which, the message itself says. */
static void parse(const struct control_msg *msg)
{
	struct reader r = { .msg = msg };
	struct offer offer;
	uint8_t what, field[16], *bytes;
	bool more = form_read(&r, &what, sizeof(what));

	while (more) {
		uint32_t fd = r.fd, pos = r.pos;
		size_t len = what & 0x80 ? SIZE_MAX - what : what;

		switch (what % 3) {
		case 0:
			more = form_read(&r, field, what % sizeof(field));
			break;
		case 1:
			more = form_get_offer(&r, &offer, 7);
			if (more)
				check_offer(&offer, fd);
			break;
		default:
			bytes = (uint8_t *)(uintptr_t)form_get(&r, len);
			more = bytes != NULL;
			for (size_t i = 0; more && i < len; i++)
				CHECK_EQ(bytes[i], msg->data[pos + i]);
			break;
		}
		CHECK(r.pos >= pos && r.pos <= msg->len && r.fd <= msg->n_fds);
		more = more && form_read(&r, &what, sizeof(what));
	}
	CHECK(!form_at_end(&r) || (r.pos == msg->len && r.fd == msg->n_fds));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct control_msg *msg = make_msg(&in);

	parse(msg);
	free(msg);
	return 0;
}
