"""What must hold: the reference that engines are compared with, written as plainly as can be.

A round is judged when everything in it has ended. For each piece of an operation the model says
with which errors it may have ended, and so how often it was counted: a range, which is one number
unless a death, a timeout or the like leaves it open.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

from program import Json, Piece, operations, pieces

DOWN = {
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
    errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
NOT_AT_ALL = {errno.ECANCELED, errno.ESTALE}  # ends of a write of which nothing was counted


@dataclass
class Round:
    """What has been done, and what was seen of it."""

    steps: list[Json]
    ended: set[int] = field(default_factory=set)
    """Ranks that were killed or have left."""
    outcomes: dict[int, Json] = field(default_factory=dict)
    """Of operations; none is known of those of a rank that was killed."""

    def __post_init__(self) -> None:
        self.ops = {op["id"]: (step["rank"], op) for step, op in operations(self.steps)}
        self.canceled = {step["id"] for step in self.steps if step["do"] == "cancel"}
        self.canceled |= {number for number, (_, op) in self.ops.items() if op.get("cancel_now")}
        self.revoked = self.those("revoke", "region")
        self.freed = self.those("free", "imm")

    def those(self, do: str, what: str) -> set[tuple[int, int]]:
        return {(step["rank"], step[what]) for step in self.steps if step["do"] == do}


class Model:
    def __init__(self, ranks: list[Json], *, nics_may_fail: bool = False) -> None:
        self.ranks = ranks
        self.nics_may_fail = nics_may_fail
        self.apart: set[frozenset[int]] = set()
        """Pairs that are known to have lost each other."""
        self.up: set[frozenset[int]] = set()
        """Pairs that were connected when the round began."""
        self.late: dict[int, tuple[int, int, int]] = {}
        """Messages that may arrive yet: from whom, to whom, how long."""

    def begin(self, the_round: Round) -> None:
        self.round = the_round
        self.reset: set[frozenset[int]] = set()

    def started(self, rank: int) -> None:
        """A new incarnation, which has lost nobody."""
        self.apart = {pair for pair in self.apart if rank not in pair}
        self.up = {pair for pair in self.up if rank not in pair}
        self.late = {number: who for number, who in self.late.items() if who[1] != rank}

    # ---- How an operation may end

    def find_resets(self) -> None:
        """An operation that runs out of time may cost its connections."""
        for number, (rank, op) in self.round.ops.items():
            outcome = self.round.outcomes.get(number, {})
            for i, piece in enumerate(pieces(op)):
                if op.get("limit_ms") and code_of(outcome, i) == errno.ETIMEDOUT:
                    self.reset.add(frozenset((rank, piece.to)))

    def broken(self, rank: int, to: int) -> bool:
        pair = frozenset((rank, to))
        gone = self.round.ended & pair
        return bool(gone) or pair in self.apart | self.reset or self.nics_may_fail

    def errors(self, rank: int, op: Json, piece: Piece) -> set[int]:
        """With which errors this piece may end."""
        allowed: set[int] = set()
        if op["id"] in self.round.canceled:
            allowed.add(errno.ECANCELED)
        if op.get("limit_ms"):
            allowed.add(errno.ETIMEDOUT)
        if op.get("stale") or (piece.to, piece.region) in self.round.revoked:
            allowed.add(errno.ESTALE)
        if rank in self.round.ended:
            allowed.add(errno.ESHUTDOWN)
        if self.broken(rank, piece.to):
            allowed |= DOWN
        if self.nics_may_fail:  # which of its writes were lost cannot always be told
            allowed.add(errno.EIO)
        # Who leaves does not wait for ever for one that is stopped, and then frees its memory.
        if piece.to in self.round.ended and any(step["do"] == "stop" for step in self.round.steps):
            allowed.add(errno.EFAULT)
        return allowed

    def must_fail(self, rank: int, op: Json, piece: Piece) -> bool:
        known = frozenset((rank, piece.to)) in self.apart and op["kind"] != "fence"
        return known or bool(op.get("stale"))

    def wrong_ends(self) -> Iterator[str]:
        slots: dict[int, int] = {}
        for number, (rank, op) in self.round.ops.items():
            its = pieces(op)
            slots[rank] = slots.get(rank, 0) + 1 + (len(its) if op["kind"] != "paged" else 0)
            outcome = self.round.outcomes.get(number)
            if outcome is None:
                if rank not in self.round.ended:
                    yield f"operation {number} of rank {rank} has not ended"
                continue
            allowed = set().union(*(self.errors(rank, op, piece) for piece in its))
            refused = outcome.get("refused")
            if refused == errno.EAGAIN and 2 * slots[rank] >= self.ranks[rank]["max_ops"]:
                continue
            if refused and refused not in allowed:
                yield f"{describe(rank, op)} was refused: {errno.errorcode[refused]}"
            if refused:
                continue
            codes = [code_of(outcome, i) for i in range(len(its))]
            if (outcome["status"] or 0) not in codes or (outcome["status"] == 0 and any(codes)):
                yield f"{describe(rank, op)} ended with {outcome['status']}, its parts with {codes}"
            for piece, code in zip(its, codes, strict=True):
                if code and code not in self.errors(rank, op, piece):
                    yield (
                        f"{describe(rank, op)} to rank {piece.to} ended with "
                        f"{errno.errorcode[code]}: {outcome['error']}"
                    )
                if not code and self.must_fail(rank, op, piece):
                    yield f"{describe(rank, op)} to rank {piece.to} ended well, and cannot have"

    # ---- What has arrived of it

    def arrived(self, rank: int, op: Json, i: int, piece: Piece) -> tuple[int, int]:
        """At least and at most how often this piece was counted, or this message arrived."""
        outcome = self.round.outcomes.get(op["id"])
        if outcome is None:
            return 0, 1
        if outcome.get("refused"):
            return 0, 0
        code = code_of(outcome, i)
        if code == 0:
            lost = frozenset((rank, piece.to)) in self.reset or piece.to in self.round.ended
            return 0 if lost else 1, 1
        if op["kind"] == "paged" or code == errno.ESHUTDOWN or self.broken(rank, piece.to):
            return 0, 1
        return 0, 0 if code in NOT_AT_ALL or not op.get("visible") else 1

    def pieces_to(self, rank: int) -> Iterator[tuple[Json, Piece, int, int]]:
        """And at least and at most how often each was counted."""
        for source, op in self.round.ops.values():
            for i, piece in enumerate(pieces(op)):
                if piece.to == rank:
                    yield op, piece, *self.arrived(source, op, i, piece)

    def wrong_counts(self, rank: int, counts: Json) -> Iterator[str]:
        """The values of counters, and how what was expected of them has ended."""
        wanted = {
            step["imm"]: step["parts"]
            for step in self.round.steps
            if step["do"] == "expect" and step["rank"] == rank and step.get("parts")
        }
        statuses = dict(counts["expected"])
        for imm, value in counts["values"]:
            mine = [
                (least, most)
                for op, _, least, most in self.pieces_to(rank)
                if op.get("imm") == imm and op["kind"] != "send"
            ]
            least, most = (sum(bound) for bound in zip(*mine, strict=True)) if mine else (0, 0)
            shares, ends = wanted.get(imm, []), statuses.get(imm, [])
            fired = sum(n for n, end in zip(shares, ends, strict=False) if end == 0)
            freed = (rank, imm) in self.round.freed
            if not (0 if freed else least) <= fired + value <= most:
                yield (
                    f"rank {rank} has counted {fired} + {value} writes with immediate {imm:#x}: "
                    f"{least} to {most} have arrived"
                )
            if value and self.forgets(rank, imm):
                yield f"rank {rank} has freed {imm:#x}, and {value} that came later are counted"
            pending = shares[len(ends) :] if all(end == 0 for end in ends) else []
            if pending and not freed and self.names_debtor(rank, imm):
                yield f"rank {rank} expects {imm:#x} of one who died, and is not told"
            if pending and value >= pending[0]:
                yield f"rank {rank} expects {pending[0]} of {imm:#x}, has {value}, and is not told"
            for end in ends:
                dead = -errno.EHOSTDOWN if self.names_ended(rank, imm) else 0
                if end not in {0, dead, -errno.ECANCELED if freed else 0}:
                    yield f"rank {rank}: an expectation of {imm:#x} ended with {end}"

    def forgets(self, rank: int, imm: int) -> bool:
        """Whether what comes for a counter that was freed is not counted until the end."""
        last = [
            step["do"]
            for step in self.round.steps
            if step["rank"] == rank and step.get("imm") == imm and step["do"] in {"free", "expect"}
        ][-1:]
        writers = any(rank in pair for pair in self.up)
        return last == ["free"] and writers and not (self.round.ended or self.reset or self.apart)

    def names_debtor(self, rank: int, imm: int) -> bool:
        """Whether somebody is named who was a peer, died, and has not written what he owed."""
        return any(
            frozenset((rank, owner)) in self.up
            and owner in self.round.ended
            and owed > sum(n for n in self.most_of(owner, rank, imm))
            for step in self.round.steps
            if step["do"] == "expect" and step["rank"] == rank and step["imm"] == imm
            for owner, owed in step.get("owes", ())
        )

    def most_of(self, source: int, rank: int, imm: int) -> Iterator[int]:
        for who, op in self.round.ops.values():
            if who == source and op.get("imm") == imm:
                for i, piece in enumerate(pieces(op)):
                    if piece.to == rank:
                        yield self.arrived(who, op, i, piece)[1]

    def names_ended(self, rank: int, imm: int) -> bool:
        """Whether somebody has gone who is named for these writes."""
        return any(
            self.broken(rank, owner)
            for step in self.round.steps
            if step["do"] == "expect" and step["rank"] == rank and step["imm"] == imm
            for owner, _ in step.get("owes", ())
        )

    def memory(self, rank: int) -> Json:
        """What the regions of a rank must hold."""
        exact, undefined = [], []
        for op, piece, least, most in self.pieces_to(rank):
            if piece.region is None or not most or op.get("stale"):
                continue
            if least:
                exact.append((piece.key, piece.region, piece.at, piece.length))
            else:
                undefined.append((piece.region, piece.at, piece.length))
        # What failed may have been written in part, and is undefined as well.
        for _, op in self.round.ops.values():
            outcome = self.round.outcomes.get(op["id"], {})
            for i, piece in enumerate(pieces(op)):
                if piece.to == rank and piece.region is not None and code_of(outcome, i):
                    undefined.append((piece.region, piece.at, piece.length))
        return {"exact": exact, "undefined": undefined}

    def expected_messages(self, rank: int) -> list[int]:
        return [op["id"] for op, _, n, _ in self.pieces_to(rank) if op["kind"] == "send" and n]

    def wrong_messages(self, rank: int, arrived: list[list[int]]) -> Iterator[str]:
        for source, op in self.round.ops.values():
            if op["kind"] != "send" or op["to"] != rank:
                continue
            if self.arrived(source, op, 0, pieces(op)[0])[1]:
                self.late[op["id"]] = source, rank, op["len"]
        pool = self.ranks[rank]["pool"][0]
        for number, source, length, code in arrived:
            if number not in self.late:
                yield f"rank {rank} has message {number}, twice or of nobody"
                continue
            sender, to, sent = self.late.pop(number)
            if to != rank:
                yield f"message {number} to rank {to} arrived at rank {rank}"
            if source != sender and not (source == -1 and number not in self.round.ops):
                yield f"rank {rank} has message {number} of rank {sender} as one of {source}"
            if length != min(sent, pool) or (code == errno.EMSGSIZE) != (sent > pool):
                yield f"message {number} of {sent} bytes arrived as {length} bytes, {code}"

    # ---- Who has lost whom

    def wrong_peers(self, rank: int, infos: list[list]) -> Iterator[str]:
        for other, _, code, reason in infos:
            if code and not self.broken(rank, other):
                yield f"rank {rank} has lost rank {other}, and nothing happened: {reason}"

    def wrong_fences(self, rank: int, fences: list[list[int]]) -> Iterator[str]:
        for other, code in fences:
            if code and not (self.broken(rank, other) and code in DOWN):
                yield f"a fence of rank {rank} at {other} ended with {errno.errorcode[code]}"


def code_of(outcome: Json, i: int) -> int:
    """How piece i has ended: 0 or an errno."""
    # Its event may have been lost with the engine, and nothing else is known then.
    statuses = None if outcome.get("status") == errno.ESHUTDOWN else outcome.get("statuses")
    code: int = statuses[i] if statuses else outcome.get("status", 0)
    return code


def describe(rank: int, op: Json) -> str:
    imm = "" if op.get("imm") is None else f" with immediate {op['imm']:#x}"
    return f"operation {op['id']} of rank {rank} ({op['kind']}{imm})"
