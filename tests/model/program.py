"""Programs: what some ranks do to each other, as plain data that a seed alone decides.

A program is a dict that JSON can hold: its `ranks` (NICs, progress, regions) and its `rounds`, each
a list of steps. Steps of a round are all under way at once; behind a round everything is awaited,
and checked. A step that makes no sense is passed over, so that any part of a program is one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]

IMMS = 0, 1, 0x2ABCDEF1, 0x3FFFFFFF
SPLIT = 256 << 10  # where writes begin to be split
SIZES = 3 << 20, 12 << 20  # of the regions of a program
LARGE = 10 << 20  # the most of a write: it is posted in several turns, and can be cut between them
MOST_PIECES = 4096  # of one operation
MOST_MESSAGE = 4096
HEADER = 8  # of a message: which one it is


class Piece(NamedTuple):
    """What counts by itself: a write, a page, a slice, or one peer of a barrier."""

    key: int  # decides its bytes
    to: int
    region: int | None
    at: int
    src: int
    length: int


def pieces(op: Json) -> list[Piece]:
    first = op["id"] * MOST_PIECES
    kind = op["kind"]
    if kind == "write":
        return [Piece(first, op["to"], op["region"], op["at"], op["src"], op["len"])]
    if kind == "paged":
        size, stride = op["page"], op["stride"]
        return [
            Piece(
                first + i, op["to"], op["region"], op["at"] + j * stride, op["src"] + s * size, size
            )
            for i, (s, j) in enumerate(zip(*page_indices(op), strict=True))
        ]
    if kind == "scatter":
        return [
            Piece(first + i, d["to"], d["region"], d["at"], d["src"], d["len"])
            for i, d in enumerate(op["dsts"])
        ]
    if kind == "barrier":
        return [Piece(first + i, to, None, 0, 0, 0) for i, to in enumerate(op["to"])]
    return [Piece(first, op["to"], None, 0, 0, op.get("len", 0))]  # a message, a fence


def page_indices(op: Json) -> tuple[list[int], list[int]]:
    """Of the source and of the destination; each page once, in any order."""
    some = random.Random(op["id"])
    return some.sample(range(op["n"]), op["n"]), some.sample(range(op["n"]), op["n"])


def operations(steps: list[Json]) -> Iterator[tuple[Json, Json]]:
    """Each operation, and the step that submits it."""
    for step in steps:
        for op in step.get("ops", ()):
            yield step, op


def effective(steps: list[Json]) -> list[Json]:
    """The steps of a round that can be done, and what expectations wait for.

    All ranks are there when it begins. What its ranks are told once they are gone or stopped is
    passed over, and so is a second expectation of a counter.
    """
    gone: set[int] = set()
    stopped: set[int] = set()
    done: list[Json] = []
    expected: set[tuple[int, int]] = set()
    for step in steps:
        do, rank = step["do"], step["rank"]
        if rank in gone or (rank in stopped) != (do == "cont"):
            continue
        if do == "connect" and step["to"] in stopped:
            continue
        if do == "expect":
            if (rank, step["imm"]) in expected:
                continue
            expected.add((rank, step["imm"]))
        if do in {"kill", "bye"}:
            gone.add(rank)
        if do == "stop":
            stopped.add(rank)
        if do == "cont":
            stopped.remove(rank)
        done.append(step)
    done += [{"do": "cont", "rank": rank} for rank in sorted(stopped)]
    done = [with_parts(done, step) if step["do"] == "expect" else step for step in done]
    return [step for step in done if step.get("parts") != []]


def counted(steps: list[Json], rank: int, imm: int) -> list[tuple[int, Piece]]:
    """What a counter gets in a round if all goes well, and from whom."""
    return [
        (step["rank"], piece)
        for step, op in operations(steps)
        if op.get("imm") == imm and not op.get("stale")
        for piece in pieces(op)
        if piece.to == rank
    ]


def with_parts(steps: list[Json], step: Json) -> Json:
    """Its expectations, one after the other; who owes; what is there when the last has fired."""
    due = counted(steps, step["rank"], step["imm"])
    total = len(due)
    shares = 1 if step["named"] else max(1, min(step["shares"], total))
    each = total // shares
    parts = [each] * (shares - 1) + [total - each * (shares - 1)] if total else []
    owes = sorted(Counter(source for source, _ in due).items()) if step["named"] else []
    covers = [
        (piece.key, piece.region, piece.at, piece.length)
        for _, piece in due
        if piece.region is not None
    ]
    return step | {"parts": parts, "owes": owes, "covers": covers}


# ---- Making them

FLAVOURS = {
    "plain": {},
    "cancels": {"cancel": 3},
    "revokes": {"revoke": 2},
    "stops": {"stop": 2, "cancel": 1},
    "limits": {"stop": 2, "limit": 0.15},
    "deaths": {"kill": 1, "bye": 0.5},
    "frees": {"free": 2},
    "halves": {"half": 3},
    "everything": {
        "cancel": 1, "revoke": 1, "stop": 1, "limit": 0.03, "kill": 0.4, "bye": 0.3, "free": 0.5,
    },
}  # fmt: skip


class Maker:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.flavour = self.random.choice([*FLAVOURS, "everything", "plain"])
        self.odds = FLAVOURS[self.flavour]
        self.n = self.random.choice([2, 2, 3, 3, 4, 5, 6])
        self.region = SIZES[self.n <= 3 and self.random.random() < 0.4]
        if self.flavour == "halves":
            self.n, self.region = 2, SIZES[1]
        self.ids = 0
        self.at: dict[tuple[int, int], int] = {}
        self.src: dict[int, int] = {}
        self.old: set[tuple[int, int]] = set()
        self.revoked = set()

    def make(self, seed: int) -> Json:
        some = self.random
        most = 3 if self.region == SIZES[0] else 1
        ranks = [
            {
                "nics": [
                    some.choice([0, 0, 100_000, 1_000_000]) for _ in range(some.randint(1, 4))
                ],
                "progress": some.choice(["inline", "inline", "worker"]),
                "regions": [some.choice(["engine", "numpy"]) for _ in range(some.randint(1, most))],
                "size": self.region,
                "source": some.choice(["engine", "numpy"]),
                "pool": [some.choice([16, 512, 4096, 4096, 4096]), some.choice([1, 4, 32])],
                "max_ops": some.choice([64, 256, 256, 4096]),
                "bounce": some.random() < 0.2,
            }
            for _ in range(self.n)
        ]
        if self.flavour == "halves":
            for rank in ranks:
                rank["nics"] = [100_000, 1_000_000]
        self.regions = [len(rank["regions"]) for rank in ranks]
        rounds = [self.round() for _ in range(some.randint(2, 5))]
        return {"seed": seed, "flavour": self.flavour, "ranks": ranks, "rounds": rounds}

    def round(self) -> list[Json]:
        some = self.random
        steps: list[Json] = []
        self.gone: set[int] = set()
        self.old |= self.revoked
        self.revoked: set[tuple[int, int]] = set()
        self.at, self.src = {}, {}
        self.stopped: list[int] = []
        self.halved: set[tuple[int, int]] = set()
        self.in_flight: list[tuple[int, int]] = []
        self.counted = [some.choice(IMMS) for _ in range(some.randint(1, 3))]
        if self.flavour == "halves":  # what is left of one would show in the next
            self.counted = [IMMS[2]]
        kinds = {"ops": 10.0, "expect": 2.0, "connect": 0.5} | {
            kind: odds for kind, odds in self.odds.items() if kind != "limit"
        }
        for kind in some.choices([*kinds], [*kinds.values()], k=some.randint(4, 30)):
            steps += getattr(self, "make_" + kind)()
        steps += [{"do": "cont", "rank": rank} for rank in self.stopped]
        for rank in range(self.n):
            for imm in self.counted:
                if some.random() < 0.6:
                    steps.append(self.expectation(rank, imm))
        return steps

    def here(self) -> list[int]:
        """Ranks that can be told to do something."""
        return [rank for rank in range(self.n) if rank not in self.gone | {*self.stopped}]

    def other(self, rank: int) -> int:
        """Nearly always one that is there."""
        others = [r for r in range(self.n) if r != rank]
        living = [r for r in others if r not in self.gone]
        return self.random.choice(living if living and self.random.random() < 0.9 else others)

    def make_ops(self) -> list[Json]:
        if not self.here():
            return []
        rank = self.random.choice(self.here())
        n = self.random.choice([1, 1, 1, 2, 5])
        ops = [op for op in (self.op(rank) for _ in range(n)) if op]
        self.in_flight += [(rank, op["id"]) for op in ops]
        return [{"do": "submit", "rank": rank, "ops": ops}] if ops else []

    def make_half(self) -> list[Json]:
        """A split write that is taken back when one NIC has posted its shard and another has not.

        One for each source and counter: what it has added is taken back by a message of its own,
        and until then may make a whole with another half.
        """
        if not self.here():
            return []
        rank = self.random.choice(self.here())
        place = self.place(rank, self.other(rank), LARGE // 2)
        if not place or (rank, place["to"]) in self.halved:
            return []
        self.halved.add((rank, place["to"]))
        self.ids += 1
        op = {"id": self.ids, "kind": "write", "cookie": False, "imm": self.counted[0]}
        op |= {"visible": False, "cancel_now": True} | place
        return [{"do": "submit", "rank": rank, "ops": [op]}]

    def op(self, rank: int) -> Json | None:
        some = self.random
        kinds = {"write": 6, "paged": 3, "scatter": 2, "barrier": 2, "send": 3, "fence": 0.7}
        kind = some.choices([*kinds], [*kinds.values()])[0]
        self.ids += 1
        op: Json = {"id": self.ids, "kind": kind, "cookie": some.random() < 0.5}
        if kind not in {"send", "fence"}:
            op["imm"] = some.choice(self.counted)
            if kind != "barrier" and some.random() < 0.15:
                op["imm"] = None
            op["visible"] = some.random() < 0.15
        if some.random() < self.odds.get("limit", 0):
            op["limit_ms"] = some.choice([1, 5, 20, 50])
        if kind == "write":
            place = self.place(rank, self.other(rank), self.size())
            if not place:
                return None
            if (place["to"], place["region"]) in self.old and some.random() < 0.2:
                op["stale"] = True  # with the descriptor from before the last revocation
            return op | place
        if kind == "paged":
            return self.paged(rank, op)
        if kind == "scatter":
            dsts = [
                self.place(rank, self.other(rank), self.size()) for _ in range(some.randint(1, 6))
            ]
            dsts = [dst for dst in dsts if dst]
            return (
                op | {"dsts": dsts, "spread": some.choice(["bytes", "peer", "one"])}
                if dsts
                else None
            )
        if kind == "barrier":
            others = [r for r in range(self.n) if r != rank and r not in self.gone]
            return (
                op | {"to": some.sample(others, some.randint(1, len(others)))} if others else None
            )
        op["to"] = self.other(rank)
        if kind == "send":
            op["len"] = some.choice([HEADER, 17, 400, 2000, MOST_MESSAGE])
        return op

    def size(self) -> int:
        some = self.random
        if self.region > LARGE and some.random() < 0.2:
            return some.randint(LARGE // 3, LARGE)
        return some.choice(
            [
                some.randint(1, 300),
                some.randint(1, 9000),
                some.randint(1, 90_000),
                some.randint(SPLIT - 3, SPLIT + 3),
                some.randint(SPLIT, 4 * SPLIT),
            ]
        )

    def place(self, rank: int, to: int, length: int) -> Json | None:
        """Bytes that nothing else of the round uses, at either end."""
        region = self.random.randrange(self.regions[to])
        at = self.at.get((to, region), 0) + self.random.choice([0, 0, 1, 8, 61])
        src = self.src.get(rank, 0) + self.random.choice([0, 0, 1, 3])
        if at + length > self.region or src + length > 2 * self.region:
            return None
        self.at[to, region] = at + length
        self.src[rank] = src + length
        return {"to": to, "region": region, "at": at, "src": src, "len": length}

    def paged(self, rank: int, op: Json) -> Json | None:
        some = self.random
        page, n = some.choice([1, 16, 100, 4096, 5000, 65536]), some.choice([1, 2, 3, 8, 40, 200])
        stride = page + some.choice([0, 0, 1, 64])
        place = self.place(rank, self.other(rank), stride * n)
        if not place:
            return None
        del place["len"]
        return op | place | {"page": page, "stride": stride, "n": n}

    def expectation(self, rank: int, imm: int) -> Json:
        named = self.random.random() < 0.25
        shares = self.random.choice([1, 1, 1, 2, 3])
        cookie = self.random.random() < 0.5
        return {
            "do": "expect", "rank": rank, "imm": imm, "shares": shares, "cookie": cookie,
            "named": named,
        }  # fmt: skip

    def make_expect(self) -> list[Json]:
        here = self.here()
        if not here:
            return []
        return [self.expectation(self.random.choice(here), self.random.choice(self.counted))]

    def make_connect(self) -> list[Json]:
        here = self.here()
        if len(here) < 2:
            return []
        rank, to = self.random.sample(here, 2)
        return [{"do": "connect", "rank": rank, "to": to}]

    def make_cancel(self) -> list[Json]:
        mine = [(rank, op) for rank, op in self.in_flight[-6:] if rank in self.here()]
        if not mine:
            return []
        rank, op = self.random.choice(mine)
        return [{"do": "cancel", "rank": rank, "id": op}]

    def make_revoke(self) -> list[Json]:
        here = self.here()
        if not here:
            return []
        rank = self.random.choice(here)
        region = self.random.randrange(self.regions[rank])
        self.revoked.add((rank, region))
        return [{"do": "revoke", "rank": rank, "region": region}]

    def make_stop(self) -> list[Json]:
        if self.stopped and self.random.random() < 0.7:
            return [{"do": "cont", "rank": self.stopped.pop(0)}]
        here = self.here()
        if len(here) < 2:
            return []
        self.stopped.append(self.random.choice(here))
        return [{"do": "stop", "rank": self.stopped[-1]}]

    def make_kill(self) -> list[Json]:
        return self.end("kill")

    def make_bye(self) -> list[Json]:
        return self.end("bye")

    def end(self, how: str) -> list[Json]:
        here = self.here()
        if len(here) < 2:
            return []
        rank = self.random.choice(here)
        self.gone.add(rank)
        return [{"do": how, "rank": rank}]

    def make_free(self) -> list[Json]:
        here = self.here()
        if not here:
            return []
        imm = self.random.choice(self.counted)
        return [{"do": "free", "rank": self.random.choice(here), "imm": imm}]


def make(seed: int) -> Json:
    return Maker(seed).make(seed)


# ---- Parts of them, for minimising


def without_rank(program: Json, rank: int) -> Json:
    """The rank stays, and nothing has to do with it; the last one goes."""

    def kept(op: Json) -> Json | None:
        if op["kind"] == "scatter":
            dsts = [dst for dst in op["dsts"] if dst["to"] != rank]
            return op | {"dsts": dsts} if dsts else None
        if op["kind"] == "barrier":
            to = [each for each in op["to"] if each != rank]
            return op | {"to": to} if to else None
        return None if op["to"] == rank else op

    def trim(step: Json) -> Json | None:
        if step["rank"] == rank or step.get("to") == rank:
            return None
        if "ops" not in step:
            return step
        ops = [op for op in map(kept, step["ops"]) if op]
        return step | {"ops": ops} if ops else None

    rounds = [[step for step in map(trim, steps) if step] for steps in program["rounds"]]
    ranks = program["ranks"]
    return program | {"ranks": ranks[:-1] if rank == len(ranks) - 1 else ranks, "rounds": rounds}
