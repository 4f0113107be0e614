/* Counters, failover and revoke between two ranks: a sender and a receiver. See README.md.
 *
 * -DUNORDERED  work requests land in any order; else in the order of posting
 * -DWORK=n     what the application does, below
 * -DDEATHS=n   how many connections may die, -DNICS=n of how many
 * -DCUT        the control stream may break
 * Other names are faults, built in to be found: tools/check_model.py lists them.
 */
#define BATCH 1  /* A, B and C under one expectation of 3 */
#define ROUNDS 2 /* A and B under one of 2; once it has fired, C with the same immediate, of 1 */
#define CANCEL 3 /* A may be taken back; then, or once it is counted, B: both split, each of 1 */
#ifndef WORK
#define WORK BATCH
#endif
#ifndef NICS
#define NICS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifdef UNORDERED
#define ORDERED false
#else
#define ORDERED true
#endif
#define when(condition, then) if :: condition -> then :: else fi
#define otherwise(condition, then, other) if :: condition -> then :: else -> other fi

/* ---- What is written ------------------------------------------------------------------------
 * Work requests: 0, 1 are the shards of A. 2, 3 are B: too long for one, so a piece without and
 * one with the immediate; in CANCEL two shards. 4 is C. The rest are make-ups: bare immediates. */
#define A 0
#define B 1
#define C 2
#define REAL 5
#define WRS 9
#define EACH_WR(X, c) X(c, 0) X(c, 1) X(c, 2) X(c, 3) X(c, 4) X(c, 5) X(c, 6) X(c, 7) X(c, 8)
#define op_of(w) ((w) / 2)
#define makeup(w) ((w) >= REAL)
#define split(o) ((o) == A || (o) == B && WORK == CANCEL)
#define piece(w) ((w) == 2 && !split(B))
/* The immediate on the wire says whether it stands for a half of a write or for all of it. */
#define WHOLE 0
#define HALF 1
#define wire(w) (makeup(w) && (w) < REAL + 2 || split(op_of(w)))

/* ---- Connections and control stream --------------------------------------------------------- */

/* Where a work request is. Success or failure as its sender sees it is in wr[], below. */
#define SENT 0   /* may be lost, may land late: until the receiver has fenced */
#define PLACED 1 /* the payload; the immediate never comes */
#define LANDED 2 /* all of it; an immediate waits to be counted */
#define COUNTED 3

/* What an end makes of a connection. */
#define UP 0
#define STOPPED 1 /* nothing is posted, all that was has ended, and the peer is told */
#define SETTLED 2 /* we know what had arrived, and the peer is told so */
#define GONE 3    /* both know */

typedef conn {
	bool dead, shut;
	byte posted; /* work requests, in order: */
	byte queue[WRS], at[WRS];
	bool marked[WRS]; /* with an immediate */
	byte s, r;        /* the sender's, the receiver's end */
	bool s_over, r_over; /* PATH_OVER has come from the other */
	byte asks;    /* answers that the sender waits for */
	byte got[2];  /* immediates that the receiver has counted here */
	byte used[2]; /* how many of them an expectation has taken */
};
conn conns[NICS];
#if NICS == 2
#define EACH_CONN(X) X(0) X(1)
#define none_left(end) (conns[0].end != UP && conns[1].end != UP)
#else
#define EACH_CONN(X) X(0) X(1) X(2)
#define none_left(end) (conns[0].end != UP && conns[1].end != UP && conns[2].end != UP)
#endif

mtype = { PATH_STOPPED, PATH_ARRIVED, PATH_ASK, PATH_TOLD, PATH_OVER,
	  REVOKE, UNMAP, SETTLE, SETTLE_DONE, BYE };
/* type; connection, or operation; immediate; count; of them taken. Never full. */
chan to_r = [8] of { mtype, byte, byte, byte, byte };
chan to_s = [8] of { mtype, byte, byte, byte, byte };
byte deaths;
bool cut, finished;

/* ---- State of the sender -------------------------------------------------------------------- */

#define READY 1   /* never posted yet */
#define AGAIN 2   /* to be posted again, on another connection */
#define POSTED 3
#define FAILED 4  /* ambiguous: what became of it is for the failover to find out */
#define DONE 5
#define DROPPED 6 /* never posted, and never will be */
byte wr[WRS], on[WRS];
bool redo[REAL]; /* is written again without its immediate */
byte owed[2];     /* make-ups, for those */
bool submitted[3], settling[3], wrong[3];
byte ends[3];     /* how often its end was told */
bool canceled, revoked, unmapped, s_ended;

#define under_way(w) (wr[w] == AGAIN || wr[w] == POSTED || wr[w] == FAILED)
#define is_open(w) (wr[w] == READY || under_way(w))
#define failed_at(c, i) (i < conns[c].posted && wr[conns[c].queue[i]] == FAILED && \
			 on[conns[c].queue[i]] == c)
#define carries(c, i, imm_) (i < conns[c].posted && conns[c].marked[i] && \
			     wire(conns[c].queue[i]) == imm_)

/* ---- State of the receiver ------------------------------------------------------------------ */

byte counter, total, fires; /* total: what the counter would be if nothing had fired */
short residue;              /* twelfths */
bool landed[REAL];
bool consumed[3]; /* its expectation has fired: the memory is the application's again */
bool asked_back, reusable, r_ended;
#define want (WORK == BATCH -> 3 : (WORK == ROUNDS && fires == 0 -> 2 : 1))

hidden byte i_, j_, k_; /* of loops; dead between steps */

inline say(to, type, c, i, n, f)
{
	assert(nfull(to));
	printf("  %e: connection or operation %d, immediate %d, n %d, taken %d\n", type, c, i, n, f);
	to!type(c, i, n, f)
}

/* ---- Counting ------------------------------------------------------------------------------- */

/* By contract no more than `want` writes were in flight, so all that were are counted now. */
inline fire()
{
	printf("expectation fires\n");
	counter = counter - want;
	fires++;
	for (i_ : 0 .. REAL - 1) {
		when(submitted[op_of(i_)] && !wrong[op_of(i_)],
			assert(landed[i_]); /* no byte is lost */
			consumed[op_of(i_)] = true)
	}
	for (i_ : 0 .. NICS - 1) {
		conns[i_].used[WHOLE] = conns[i_].got[WHOLE];
		conns[i_].used[HALF] = conns[i_].got[HALF]
	}
}

inline count(c, i)
{
	printf("receiver counts %d of connection %d\n", conns[c].queue[i], c);
	k_ = wire(conns[c].queue[i]);
	conns[c].at[i] = COUNTED;
	conns[c].got[k_]++;
	residue = residue + (k_ == WHOLE -> 12 : 6);
	when(k_ == WHOLE || residue >= 12, residue = residue - 12; counter++; total++);
	when(counter >= want, fire())
}

#define uncounted(c, i) (i < conns[c].posted && conns[c].at[i] == LANDED && conns[c].marked[i])
#define OR_UNCOUNTED(c, i) || uncounted(c, i)
#define some_uncounted(c) (false EACH_WR(OR_UNCOUNTED, c))

inline poll(c)
{
	for (j_ : 0 .. WRS - 1) {
		when(uncounted(c, j_), count(c, j_))
	}
	skip /* here and below: a d_step cannot end with a loop */
}

/* What has arrived is counted; then nothing lands or is counted any more. */
inline fence(c)
{
	poll(c);
	printf("receiver fences connection %d\n", c);
#ifndef NO_FENCE
	conns[c].shut = true
#endif
}

/* ---- A connection: work requests land, or it dies ------------------------------------------- */

#define prior(i) ((i) - ((i) > 0))
#define can_land(c, i) (i < conns[c].posted && conns[c].at[i] == SENT && !conns[c].shut && \
			(!ORDERED || i == 0 || conns[c].at[prior(i)] >= LANDED))
#define LAND(c, i) \
	:: d_step { can_land(c, i) -> place(conns[c].queue[i]); conns[c].at[i] = LANDED } \
	:: d_step { can_land(c, i) && conns[c].dead && conns[c].marked[i] -> \
		    place(conns[c].queue[i]); conns[c].at[i] = PLACED; printf("  without its immediate\n") }

inline place(it)
{
	printf("%d lands\n", it);
	when(!makeup(it),
		assert(!consumed[op_of(it)]); /* nothing is written after the count, */
		assert(!reusable);            /* nor after revoke, */
		assert(!r_ended);             /* nor after the end */
		landed[it] = true)
}

proctype wires(byte c)
{
	do
	EACH_WR(LAND, c)
	:: d_step { deaths < DEATHS && !conns[c].dead -> conns[c].dead = true; deaths++;
		   printf("connection %d dies\n", c) }
	:: finished -> break
	od
}

/* ---- The sender: operations ----------------------------------------------------------------- */

inline submit(o)
{
	submitted[o] = true;
	for (i_ : 0 .. REAL - 1) {
		when(op_of(i_) == o, wr[i_] = (revoked || s_ended -> DROPPED : READY))
	}
	conclude()
}

/* What was posted is seen through, again on another connection if it must; the rest is not begun. */
inline drop_ready(o)
{
	for (i_ : 0 .. REAL - 1) {
		when(op_of(i_) == o && wr[i_] == READY, wr[i_] = DROPPED)
	}
}

inline end_op(o, error)
{
	printf("operation %d ends, error %d\n", o, error);
	ends[o]++;
	assert(ends[o] == 1); /* once */
	wrong[o] = error
}

#define making_up(i) (owed[i] || under_way(REAL + 2 - 2 * (i)) || under_way(REAL + 3 - 2 * (i)))
#define unsettled(w) (is_open(w) || redo[w] && making_up(wire(w)))
#define first(o) (2 * (o))
#define last(o) (2 * (o) + ((o) != C))
#define dropped(o) (wr[first(o)] == DROPPED || wr[last(o)] == DROPPED)
#define half_done(o) (split(o) && dropped(o) && (wr[first(o)] == DONE || wr[last(o)] == DONE))
#ifdef SETTLE_UNANSWERED
#define settle(o) say(to_r, SETTLE, o, 0, 0, 0); end_op(o, true)
#else
#define settle(o) say(to_r, SETTLE, o, 0, 0, 0); settling[o] = true
#endif

/* Ends operations of which nothing is open. A half that was counted is taken back first: another
 * write with this immediate could be completed by it. */
inline conclude()
{
	for (k_ : A .. C) {
		j_ = 0; /* open */
		for (i_ : 0 .. REAL - 1) {
			j_ = j_ + (op_of(i_) == k_ && unsettled(i_))
		}
		when(submitted[k_] && !ends[k_] && !settling[k_] && !j_,
			otherwise(half_done(k_), settle(k_), end_op(k_, dropped(k_))))
	}
	skip
}

#if defined(NO_WAIT)
#define holds(w) false
#elif defined(NO_WAIT_FOR_FAILOVER)
#define holds(w) (wr[w] == POSTED)
#else
#define holds(w) under_way(w)
#endif
#define in_flight (holds(0) || holds(1) || holds(2) || holds(3) || holds(4))

/* ---- The sender: posting -------------------------------------------------------------------- */

inline post(c, w)
{
	printf("sender posts %d on connection %d\n", w, c);
	conns[c].queue[conns[c].posted] = w;
	conns[c].marked[conns[c].posted] = (makeup(w) || !piece(w) && !redo[w]);
	conns[c].posted++;
	wr[w] = POSTED;
	on[w] = c
}

/* Posted in turn; a split write over two connections while they are up. The end of B goes where its
 * first piece is on its way if that lands before it, else only once that has landed. */
#define turn(w) ((w < 1 || wr[0] != wr[w]) && (w < 2 || wr[1] != wr[w]) && \
		 (w < 3 || wr[2] != wr[w]) && (w < 4 || !ORDERED || wr[3] != wr[w]))
#define home(w) (split(op_of(w)) && (w) % 2)
#define follows(c, w) (w != 3 || !piece(2) || wr[2] == DONE || \
		       ORDERED && wr[2] == POSTED && on[2] == c)
#define may_post(c, w) (conns[c].s == UP && turn(w) && follows(c, w) && \
	(wr[w] == READY && (c == home(w) || conns[home(w)].s != UP) || \
	 wr[w] == AGAIN && conns[on[w]].s == GONE))
#define POST(c, w) :: d_step { may_post(c, w) -> post(c, w) }

/* A make-up may complete the count: all payload that could be meant has landed before it. */
#define rewriting(w, i) (redo[w] && wire(w) == (i) && under_way(w))
#ifdef EARLY_MAKEUPS
#define rewritten(i) true
#else
#define rewritten(i) !(rewriting(0, i) || rewriting(1, i) || rewriting(2, i) || \
		       rewriting(3, i) || rewriting(4, i))
#endif
#define MAKE_UP(c, i, w) :: d_step { owed[i] && rewritten(i) && conns[c].s == UP && \
				     !under_way(w) -> owed[i]--; post(c, w) }
#define POST_ON(c) EACH_WR(POST, c) \
	MAKE_UP(c, HALF, REAL) MAKE_UP(c, HALF, REAL + 1) \
	MAKE_UP(c, WHOLE, REAL + 2) MAKE_UP(c, WHOLE, REAL + 3)

/* Success is told of what has landed, in the order of landing. */
#define posted_on(c, w) (wr[w] == POSTED && on[w] == c)
#define SUCCEED(c, i) :: d_step { i < conns[c].posted && conns[c].at[i] >= LANDED && \
	conns[c].s == UP && posted_on(c, conns[c].queue[i]) && \
	(!ORDERED || i == 0 || !posted_on(c, conns[c].queue[prior(i)])) -> \
		printf("success of %d\n", conns[c].queue[i]); \
		wr[conns[c].queue[i]] = DONE; conclude() }
#define SUCCEED_ON(c) EACH_WR(SUCCEED, c)

/* ---- The sender: failover ------------------------------------------------------------------- */

#define NOTICE(c) :: d_step { conns[c].dead && conns[c].s == UP && !s_ended -> s_stop(c) }

inline s_stop(c)
{
	when(conns[c].s == UP,
		conns[c].s = STOPPED;
		for (i_ : 0 .. WRS - 1) {
			when(posted_on(c, i_), wr[i_] = FAILED)
		}
		say(to_r, PATH_STOPPED, c, 0, 0, 0))
}

/* In order: the first n immediates have arrived, and all that was posted before the last of them. */
inline arrived(c, n)
{
	k_ = 0; /* immediates so far */
	for (i_ : 0 .. WRS - 1) {
		when(failed_at(c, i_), wr[conns[c].queue[i_]] = (k_ < n -> DONE : AGAIN));
		k_ = k_ + conns[c].marked[i_]
	}
}

#ifdef PIECES_FORGOTTEN
#define UNMARKED DONE
#else
#define UNMARKED AGAIN
#endif

/* In any order: what carried no immediate is always written again. For the rest we ask. */
inline ask(c)
{
	for (k_ : WHOLE .. HALF) {
		j_ = 0;
		for (i_ : 0 .. WRS - 1) {
			j_ = j_ + (failed_at(c, i_) && carries(c, i_, k_));
			when(failed_at(c, i_) && !conns[c].marked[i_],
				wr[conns[c].queue[i_]] = UNMARKED)
		}
		when(j_, conns[c].asks++; say(to_r, PATH_ASK, c, k_, 0, 0))
	}
}

/* Which ones are missing cannot be known: all that failed are written again, without immediate. But
 * not those that an expectation has taken: these were posted first. */
inline told(c, i, n, taken)
{
	k_ = 0; /* missing */
	for (i_ : 0 .. WRS - 1) {
		k_ = k_ + carries(c, i_, i)
	}
	k_ = k_ - n;
	owed[i] = owed[i] + k_;
	j_ = 0;
	for (i_ : 0 .. WRS - 1) {
		when(failed_at(c, i_) && carries(c, i_, i),
			otherwise(k_ == 0 || j_ < taken || makeup(conns[c].queue[i_]),
				wr[conns[c].queue[i_]] = DONE,
				wr[conns[c].queue[i_]] = AGAIN;
				redo[conns[c].queue[i_]] = true));
		j_ = j_ + carries(c, i_, i)
	}
	conns[c].asks--
}

inline s_settle(c)
{
	when(conns[c].asks == 0, conns[c].s = SETTLED; say(to_r, PATH_OVER, c, 0, 0, 0); leave(c))
}

/* Who has said PATH_OVER and heard it destroys the connection. What is known of it is forgotten, for
 * fewer states. */
inline leave(c)
{
	when(conns[c].s == SETTLED && conns[c].s_over, conns[c].s = GONE);
	when(conns[c].r == SETTLED && conns[c].r_over, conns[c].r = GONE);
	when(conns[c].s == GONE && conns[c].r == GONE && conns[c].shut,
		for (i_ : 0 .. WRS - 1) {
			conns[c].queue[i_] = 0; conns[c].at[i_] = 0; conns[c].marked[i_] = false
		}
		for (i_ : WHOLE .. HALF) {
			conns[c].got[i_] = 0; conns[c].used[i_] = 0
		}
		conns[c].posted = 0)
}

/* All is stopped, so that no NIC reads for what is left; then that ends with an error. */
inline s_end()
{
	s_ended = true;
	for (k_ : 0 .. NICS - 1) {
		conns[k_].s = GONE;
		leave(k_)
	}
	for (k_ : A .. C) {
		when(submitted[k_] && !ends[k_], end_op(k_, true))
	}
	for (k_ : 0 .. WRS - 1) {
		wr[k_] = DROPPED; on[k_] = 0
	}
	owed[WHOLE] = 0; owed[HALF] = 0
}

active proctype sender()
{
	mtype type;
	byte c, i, n, f;

	d_step {
		submit(A);
		when(WORK != CANCEL, submit(B));
		when(WORK == BATCH, submit(C))
	}
	do
	:: d_step { WORK == ROUNDS && !submitted[C] && fires == 1 -> submit(C) }
	:: d_step { WORK == CANCEL && !submitted[B] && (fires == 1 || wrong[A]) -> submit(B) }
	:: d_step { WORK == CANCEL && !ends[A] && !canceled ->
		printf("operation 0 is taken back\n"); canceled = true; drop_ready(A); conclude() }
	EACH_CONN(POST_ON)
	EACH_CONN(SUCCEED_ON)
	EACH_CONN(NOTICE)
	:: d_step { revoked && !unmapped && !in_flight && !s_ended ->
		unmapped = true; say(to_r, UNMAP, 0, 0, 0, 0) }
	:: d_step { !s_ended && (cut || none_left(s)) -> s_end(); say(to_r, BYE, 0, 0, 0, 0) }
	:: d_step { to_s?type(c, i, n, f) ->
		if
		:: s_ended
		:: !s_ended && type == PATH_STOPPED -> s_stop(c)
		:: !s_ended && type == PATH_ARRIVED ->
			otherwise(ORDERED, arrived(c, n), ask(c)); s_settle(c)
		:: !s_ended && type == PATH_TOLD -> told(c, i, n, f); s_settle(c)
		:: !s_ended && type == PATH_OVER -> conns[c].s_over = true; leave(c)
		:: !s_ended && type == REVOKE ->
			revoked = true; drop_ready(A); drop_ready(B); drop_ready(C)
		:: !s_ended && type == SETTLE_DONE ->
			when(settling[c], settling[c] = false; end_op(c, true))
		:: !s_ended && type == BYE -> s_end()
		fi;
		conclude();
		type = 0; c = 0; i = 0; n = 0; f = 0 }
	:: finished -> break
	od
}

/* ---- The receiver --------------------------------------------------------------------------- */

#define POLL(c) :: d_step { some_uncounted(c) -> poll(c) }
#define R_NOTICE(c) :: d_step { conns[c].dead && conns[c].r == UP && !r_ended -> r_stop(c) }
#define R_GONE(c) conns[c].r = GONE; fence(c); leave(c);
#ifdef NO_COUNT
#define has(c, i) 0
#else
#define has(c, i) conns[c].got[i]
#endif
#ifdef TAKEN_UNTOLD
#define taken_of(c, i) 0
#else
#define taken_of(c, i) conns[c].used[i]
#endif

inline r_stop(c)
{
	when(conns[c].r == UP, conns[c].r = STOPPED; say(to_s, PATH_STOPPED, c, 0, 0, 0))
}

active proctype receiver()
{
	mtype type;
	byte c, i, n, f;

	do
	EACH_CONN(POLL)
	EACH_CONN(R_NOTICE)
	:: d_step { !asked_back && !r_ended -> asked_back = true; say(to_s, REVOKE, 0, 0, 0, 0) }
	:: d_step { !r_ended && (cut || none_left(r)) ->
		EACH_CONN(R_GONE) r_ended = true; say(to_s, BYE, 0, 0, 0, 0) }
	:: d_step { to_r?type(c, i, n, f) ->
		if
		:: r_ended
		:: !r_ended && type == PATH_STOPPED ->
			r_stop(c);
			fence(c);
			say(to_s, PATH_ARRIVED, c, 0, has(c, WHOLE) + has(c, HALF), 0);
			conns[c].r = SETTLED; /* nothing of ours was under way here */
			say(to_s, PATH_OVER, c, 0, 0, 0)
		:: !r_ended && type == PATH_ASK ->
			say(to_s, PATH_TOLD, c, i, has(c, i), taken_of(c, i))
		:: !r_ended && type == PATH_OVER -> conns[c].r_over = true; leave(c)
		:: !r_ended && type == UNMAP -> reusable = true; printf("revoked\n")
		:: !r_ended && type == SETTLE ->
			residue = residue - 6; say(to_s, SETTLE_DONE, c, 0, 0, 0)
		:: !r_ended && type == BYE -> EACH_CONN(R_GONE) r_ended = true
		fi;
		type = 0; c = 0; i = 0; n = 0; f = 0 }
	:: finished -> break
	od
}

/* ---- The end of a run: nothing more can happen ---------------------------------------------- */

#define well(o) (ends[o] && !wrong[o])
#define all_there(o) (landed[first(o)] && landed[last(o)])
#define over_or_up(c) (conns[c].s == conns[c].r && \
		       (conns[c].s == GONE || conns[c].s == UP && !conns[c].dead))

active proctype judge()
{
	run wires(0); run wires(1);
#if NICS == 3
	run wires(2);
#endif
#ifdef CUT
	cut = true; /* at any time, so also when all is over */
#endif
	timeout;
	d_step {
		assert(len(to_s) == 0 && len(to_r) == 0 && s_ended == r_ended);
		for (k_ : A .. C) {
			assert(ends[k_] == submitted[k_]);
			assert(s_ended || !well(k_) || all_there(k_))
		}
		assert(s_ended || reusable);
		assert(s_ended || residue == 0 && total == well(A) + well(B) + well(C));
		for (k_ : 0 .. NICS - 1) {
			assert(over_or_up(k_))
		}
	}
	finished = true
}
