"""Where ranks run: one core each if there are enough, and what a rank does while it waits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgctl.bench import loops
from pgctl.engine.config import Progress


@dataclass(frozen=True, slots=True)
class Seat:
    """What a rank may use: its host and the cores it is allowed to run on."""

    host: str
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    cpu: int | None
    """The core that this rank has to itself; None: it is not pinned."""
    cores: int
    """Of its host, as far as its ranks may use them."""
    crowded: bool
    """There are fewer of them than threads that the ranks keep busy."""
    progress: Progress
    threads: int
    """That move this rank's bytes: lanes that their caller drives take turns on one."""
    worker: int | None = None
    """The core of the engine's worker; None: it is not pinned, or there is none."""


def decide(
    seats: Sequence[Seat],
    progress: Progress,
    lanes: Sequence[int],
    grouped: Sequence[int | None] = (),
) -> list[Placement]:
    """By rank. A pure function of what all ranks know. grouped: cores that their groups have.

    These are taken where every rank of a host has one of its own. Else, as workers and lanes are
    threads that need cores, ranks are pinned only where all of their host make progress inline. A
    launcher that has bound them already is left alone.
    """
    grouped = grouped or [None] * len(seats)
    modes = [_mode(progress, n) for n in lanes]
    threads = [1 if mode == "inline" else n for mode, n in zip(modes, lanes, strict=True)]
    places = []
    for rank, mine in enumerate(seats):
        neighbours = [i for i, seat in enumerate(seats) if seat.host == mine.host]
        cores = len({cpu for i in neighbours for cpu in seats[i].cpus})
        crowded = cores < sum(threads[i] for i in neighbours)
        alike = all(seats[i].cpus == mine.cpus and modes[i] == "inline" for i in neighbours)
        apart = len({grouped[i] for i in neighbours}) == len(neighbours)
        apart = apart and all(grouped[i] in seats[i].cpus for i in neighbours)
        own = grouped[rank] if apart and not crowded else None
        cpu = worker = None
        if len(mine.cpus) == 1 and cores >= len(neighbours):
            cpu = mine.cpus[0]
        elif own is not None and modes[rank] == "worker":
            worker = own
        elif own is not None:
            cpu = own
        elif alike and not crowded:
            cpu = mine.cpus[neighbours.index(rank)]
        places.append(Placement(cpu, cores, crowded, modes[rank], threads[rank], worker))
    return places


def own_seat(host: str) -> Seat:
    cpus = os.sched_getaffinity(0)
    return Seat(host, tuple(sorted(cpus, key=lambda cpu: (_sibling(cpu), cpu))))


def take(placement: Placement) -> None:
    if placement.cpu is not None:
        os.sched_setaffinity(0, {placement.cpu})


def wait_mode(placement: Placement) -> int:
    if placement.progress == "worker":
        return loops.SLEEP
    return loops.YIELD if placement.crowded else loops.SPIN


def _mode(progress: Progress, lanes: int) -> Progress:
    """Of a rank with so many."""
    if progress == "auto":
        return "inline" if lanes == 1 else "worker"
    return progress


def _sibling(cpu: int) -> int:
    """Its place among the hardware threads of its core: the first of each core come first."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list")
    try:
        text = siblings.read_text(encoding="ascii")
    except OSError:
        return 0
    members: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        members += range(int(first), int(last or first) + 1)
    return members.index(cpu) if cpu in members else 0
