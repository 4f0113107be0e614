/* SPDX-License-Identifier: MIT
 *
 * What two sides say about a connection between them; see failover.h and mend.c. */
#ifndef PGCTL_ENGINE_PATH_MESSAGE_H
#define PGCTL_ENGINE_PATH_MESSAGE_H

#include "engine/control.h"
#include "engine/sums.h"

enum path_word {
	PATH_OPEN = 1, /* here is my half of a new one; an offer follows */
	PATH_READY,    /* I have attached yours */
	PATH_REFUSED,  /* there will be none */
	PATH_STOPPED,  /* all that I had posted there has ended */
	PATH_ARRIVED, /* nothing of yours lands there any more; so many immediates and messages have */
	PATH_ASK,     /* how many of these immediates? */
	PATH_TOLD,    /* so many */
	PATH_OVER,    /* I know what has arrived */
	PATH_COUNTED, /* these have certainly arrived: count them no longer */
	PATH_NICS,    /* which of my NICs are up */
	PATH_WORDS,
};

struct path_head {
	uint8_t word;          /* enum path_word */
	uint8_t local, remote; /* NICs, as the sender sees them */
	uint8_t bits;    /* of NICS, those that are up; of OPEN not 0: what I send is not ordered */
	uint16_t serial; /* of the connection among those between these NICs */
	uint16_t n;      /* sums that follow */
	int32_t status;  /* of STOPPED and REFUSED: why */
	uint32_t imms, msgs; /* of ARRIVED */
};

struct path_sum {
	uint32_t imm; /* as on the wire */
	int32_t count;
	int32_t taken; /* of TOLD: how many had come when an expectation of them last fired */
};

#define PATH_SUMS ((CONTROL_MAX - sizeof(struct path_head)) / sizeof(struct path_sum))

/* Of this connection. */
struct path_head path_head(const struct path *path, enum path_word word);
void path_say(struct pg_group *g, struct peer *p, const struct path_head *head,
	      const struct path_sum *sums);
void path_say_open(struct pg_group *g, struct peer *p, const struct path *path);

/* What was said, of a connection or not; -EPROTO: it cannot be said. failover.c */
int path_stop_said(struct pg_group *g, struct peer *p, struct path *path,
		   const struct path_head *head);
int path_arrived_said(struct pg_group *g, struct peer *p, struct path *path,
		      const struct path_head *head);
int path_asked(struct pg_group *g, struct peer *p, struct path *path, struct path_head *head,
	       struct path_sum *sums);
int path_told(struct pg_group *g, struct peer *p, struct path *path, const struct path_head *head,
	      const struct path_sum *sums);
int path_over_said(struct pg_group *g, struct peer *p, struct path *path);
int path_counted(struct path *path, const struct path_head *head, const struct path_sum *sums);
/* carried.c */
/* mend.c */
int path_offered(struct pg_group *g, struct peer *p, const struct path_head *head,
		 const struct offer *offer);
void path_ready_said(struct pg_group *g, struct peer *p, struct path *path);
int path_refused(struct pg_group *g, struct peer *p, struct path *path, int status);
void nics_told(struct pg_group *g, struct peer *p, uint8_t nics);

#endif
