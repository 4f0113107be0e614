/* SPDX-License-Identifier: MIT
 *
 * Inside the socket NIC of fake_socket_nic.h, for its parts and its hostile tests. A direction
 * of a connection is one TCP connection, which the sender makes: `hello`, then frames with their
 * payload; acknowledgements come back on it. Byte order is the host's. */
#ifndef PGCTL_TESTS_FAKE_SOCKET_LANE_H
#define PGCTL_TESTS_FAKE_SOCKET_LANE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fake_socket_nic.h"
#include "util/lock.h"

#define FAKE_MAGIC 0x70676674u
#define FAKE_MAX_WRITE (256u << 10)
#define FAKE_OUTSTANDING 64
#define FAKE_STRANGERS 256
#define FAKE_STAGED 16 /* messages that one poll hands out */

/* ---- Wire ---- */

struct fake_address {
	uint32_t ip; /* network byte order, as is the port */
	uint16_t port;
	uint16_t lane;
};

struct fake_offer {
	uint32_t magic;
	uint32_t slot;
	uint64_t nonce;
	struct fake_address at;
};

/* Names a half of a connection of the one it is sent to, as its offer did. */
struct fake_hello {
	uint32_t magic;
	uint32_t slot;
	uint64_t nonce;
};

struct fake_frame {
	uint32_t magic;
	uint32_t op;
	uint64_t seq; /* comes back in the acknowledgement */
	uint64_t raddr, rkey;
	uint32_t imm;
	uint32_t len; /* of the payload that follows */
};

struct fake_ack {
	uint32_t magic;
	int32_t status;
	uint64_t seq;
};

#define FAKE_INPUT (sizeof(struct fake_frame) + FAKE_MAX_WRITE)

/* ---- Lane ---- */

enum sock_kind {
	SOCK_KICK, /* an eventfd, in truth */
	SOCK_LISTENER,
	SOCK_STRANGER,
	SOCK_OUT,
	SOCK_IN,
};

struct sock {
	int fd; /* -1: none */
	uint32_t events;
};

/* Connected, and has not yet said which connection it is for. */
struct stranger {
	struct sock sock;
	struct fake_hello hello;
	size_t got;
};

struct region {
	uint64_t key;
	uint8_t *base;
	uint64_t len;
};

/* What the test wants; guarded by the lock of all controls. */
struct control {
	struct lane *lane; /* NULL: not open */
	uint32_t unplugs, plugs;
	uint32_t failures;
	uint32_t refused; /* bit per lane of the peer */
	bool hold, hold_acks;
};

struct lane {
	struct domain domain;
	struct control *control;
	struct fake_address at;
	struct sock kick, listener;

	/* As control said when we looked last. */
	uint32_t unplugs;
	bool hold, hold_acks;

	bool down;
	bool tell_down, tell_up; /* the engine has not been told */

	struct fake_conn **conns;
	unsigned n_slots, n_used; /* those above n_used never were */
	unsigned turn;

	struct stranger strangers[FAKE_STRANGERS];
	unsigned next_stranger;

	/* mr_* come from any thread. Held while payload is placed: after mr_dereg nobody writes. */
	struct lock regions_lock;
	struct region *regions;
	uint32_t n_regions, max_regions;

	uint8_t staging[FAKE_STAGED][PG_MSG_MAX];
};

/* Gives the lane the first number that is free and stands for its index; -ENOSPC. */
int fake_control_bind(struct lane *lane);
void fake_control_unbind(struct lane *lane);
struct control fake_control_read(const struct lane *lane);
/* Whether the next work request is to fail. */
bool fake_control_take_failure(struct lane *lane);

/* Carries out what the test has asked for since. */
void fake_lane_obey(struct lane *lane);

int fake_mr_reg(struct domain *domain, const struct memory *memory, uint64_t *lkey, uint64_t *key,
		struct pg_error *err);
void fake_mr_dereg(struct domain *domain, uint64_t lkey);
/* 0 or -EACCES. */
int fake_region_check(struct lane *lane, uint64_t key, uint64_t addr, uint64_t len);
int fake_region_place(struct lane *lane, const struct fake_frame *frame, const void *payload);

/* Adopts a socket, and has epoll watch it for events. */
int fake_sock_watch(struct lane *lane, struct sock *s, uint32_t events, enum sock_kind kind,
		    unsigned index);
void fake_sock_want(struct lane *lane, struct sock *s, uint32_t events, enum sock_kind kind,
		    unsigned index);
/* Abrupt: the peer sees a reset, and what the kernel had not sent yet is lost. */
void fake_sock_close(struct lane *lane, struct sock *s, bool abrupt);
/* Of what a call returned: 0 if it only has to be tried again, else -errno. */
int fake_sock_verdict(ssize_t n);

/* ---- Connections ---- */

enum slot_state {
	SLOT_QUEUED, /* not sent, or not all of it */
	SLOT_SENT,
	SLOT_ENDED, /* with status, which the engine has not been told */
	SLOT_TOLD,
};

struct slot {
	struct wr wr;
	enum slot_state state;
	int32_t status;
};

/* Room in the arrivals of one poll. */
struct room {
	struct arrival *next;
	unsigned left;
	unsigned messages; /* that the engine can take */
	unsigned staged;
};

struct fake_conn {
	struct conn conn;
	uint32_t slot;
	uint64_t nonce;
	bool attached;
	int status; /* not 0: it is broken */
	bool told;  /* the engine knows */

	/* Sending. Work request s is in slots[s % FAKE_OUTSTANDING], for head <= s < tail. */
	struct sock out;
	struct slot slots[FAKE_OUTSTANDING];
	uint64_t head; /* the oldest that may not have been told */
	uint64_t next; /* being sent */
	uint64_t rung; /* the first that the doorbell was not rung for */
	uint64_t tail;
	uint64_t sent; /* bytes of `next`, its frame included */
	struct fake_hello hello;
	size_t hello_sent;
	uint8_t acks_in[FAKE_OUTSTANDING * sizeof(struct fake_ack)];
	size_t acks_in_len;

	/* Receiving. */
	struct sock in;
	uint8_t *input; /* FAKE_INPUT bytes, of which [taken, filled) are to be looked at */
	size_t taken, filled;
	bool stalled; /* a message is next, and the engine has no room */
	uint8_t acks_out[FAKE_OUTSTANDING * sizeof(struct fake_ack)];
	size_t acks_out_len;
};

static inline struct lane *lane_of(struct domain *domain)
{
	return (struct lane *)domain;
}

static inline struct fake_conn *conn_of(struct conn *conn)
{
	return (struct fake_conn *)conn;
}

static inline struct lane *conn_lane(const struct fake_conn *c)
{
	return lane_of(c->conn.domain);
}

int fake_conn_open(struct domain *domain, struct conn **conn, struct offer *offer,
		   struct pg_error *err);
int fake_conn_attach(struct conn *conn, const struct offer *offer, struct pg_error *err);
void fake_conn_close(struct conn *conn);
int fake_post(struct conn *conn, const struct wr *wrs, unsigned n, struct pg_error *err);
void fake_flush(struct conn *conn);
void fake_describe(const struct conn *conn, char *buf, size_t size);

/* A socket whose hello named this connection: the peer's direction. False: it is not wanted. */
bool fake_conn_adopt(struct fake_conn *c, int fd);
void fake_conn_break(struct fake_conn *c, int status);
/* Its sockets have news. */
void fake_conn_readable(struct fake_conn *c, enum sock_kind kind, bool hung_up);
/* Sends what it can and takes what has arrived. */
void fake_conn_serve(struct fake_conn *c, struct room *room);
/* What fake_conn_serve has left behind, apart from messages that there is no room for. */
bool fake_conn_has_news(const struct fake_conn *c);

/* fake_socket_recv.c; 0, or why the connection is to be broken. */
int fake_conn_read_frames(struct fake_conn *c, bool hung_up);
/* 1: all of it has been read, 0: not yet, or -EPROTO. */
int fake_conn_next_frame(const struct fake_conn *c, struct fake_frame *frame);
void fake_conn_serve_in(struct fake_conn *c, struct room *room);

#endif
