"""How long a NIC's death is felt, and what rate the others reach.

Two processes, four NICs of shared memory, each held to a fraction of what memory could do, one of
which dies and later comes back.

    python tools/failover.py [--seconds 3] [--rate 500M] [--impair reorder=64]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing as mp
import time
from itertools import pairwise
from multiprocessing.connection import Connection

from pgctl.engine import GroupConfig, NicConfig, PgTimeout, TransferEngine

NICS = 4
SIZE = 64 << 10
WINDOW = 64
IMM = 1


def engine(impair: str) -> TransferEngine:
    return TransferEngine(
        [GroupConfig(nics=[NicConfig(transport="shm")] * NICS, progress="inline", impair=impair)]
    )


def receive(wire: Connection, impair: str) -> None:
    with engine(impair) as e:
        sink = e.alloc_mr(WINDOW * SIZE)
        wire.send((bytes(e.main_address()), bytes(sink.desc)))
        while not wire.poll():
            with contextlib.suppress(PgTimeout):
                e.wait_events(0.01)
        wire.recv()
        wire.send(e.counter(IMM).value)
        wire.recv()


def send(wire: Connection, impair: str, seconds: float) -> tuple[list[float], list[float], float]:
    """When writes ended, when NICs went or came; how long the slowest of those took that were in
    flight when the first one went."""
    begun: dict[int, float] = {}
    ends, news, slowest = [], [], 0.0
    with engine(impair) as e:
        addr, desc = wire.recv()
        e.connect(e.add_peer(addr))
        source, to = e.alloc_mr(WINDOW * SIZE), e.import_mr(desc)
        begin = time.monotonic()
        flying = submitted = 0
        while flying or time.monotonic() - begin < seconds:
            while flying < WINDOW and time.monotonic() - begin < seconds:
                at = submitted % WINDOW * SIZE
                begun[submitted] = time.monotonic() - begin
                e.submit_single_write(SIZE, IMM, (source, at), (to, at), cookie=submitted)
                submitted += 1
                flying += 1
            for event in e.wait_events(5):
                now = time.monotonic() - begin
                if event.kind == "op":
                    if event.error:
                        raise event.error
                    ends.append(now)
                    since = begun.pop(event.cookie)
                    if news and since < news[0]:
                        slowest = max(slowest, now - since)
                    flying -= 1
                elif event.kind.startswith("nic"):
                    news.append(now)
        wire.send(None)
        counted = wire.recv()
        if counted != submitted:
            raise SystemExit(f"{counted} of {submitted} writes were counted")
        wire.send(None)
    return ends, news, slowest


def rate(ends: list[float], begin: float, end: float) -> float:
    return sum(begin <= at < end for at in ends) * SIZE / (end - begin) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rate", default="500M")
    parser.add_argument("--impair", default="")
    args = parser.parse_args()
    third = args.seconds / 3
    more = f",{args.impair}" if args.impair else ""
    impair = f"cap={args.rate}{more}"
    ours, theirs = mp.Pipe()
    child = mp.Process(target=receive, args=(theirs, impair))
    child.start()
    dying = f"{impair},kill=nic1@{third}s,revive=nic1@{2 * third}s"
    ends, news, slowest = send(ours, dying, args.seconds)
    child.join()
    down, up = news
    margin = 0.2
    whole = rate(ends, margin, down)
    rest = rate(ends, down + margin, up)
    again = rate(ends, up + margin, args.seconds)
    felt = [at for at in ends if down - 0.01 < at < down + margin]
    pause = max(b - a for a, b in pairwise(felt))
    steady = next(
        (
            ms
            for ms in range(1000)
            if rate(ends, down + ms / 1e3, down + ms / 1e3 + 0.1) >= 0.85 * rest
        ),
        None,
    )
    share = rest / whole * NICS / (NICS - 1)
    print(f"{whole:.1f} MB/s with {NICS} NICs")
    print(f"{rest:.1f} MB/s with {NICS - 1}, {share:.1%} of their share, from {steady} ms on")
    print(f"{again:.1f} MB/s after it came back, {again / whole:.1%}")
    print(
        f"longest pause {pause * 1e3:.1f} ms; "
        f"the slowest write that was in flight took {slowest * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
