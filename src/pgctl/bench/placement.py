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
    """There are fewer of them than ranks."""
    progress: Progress


def decide(seats: Sequence[Seat], rank: int, progress: Progress, nics: int) -> Placement:
    """A pure function of what all ranks know.

    Workers and lanes are threads that need cores of their own, so that only inline progress pins.
    A launcher that has bound the ranks already is left alone.
    """
    if progress == "auto":
        progress = "inline" if nics == 1 else "worker"
    mine = seats[rank]
    neighbours = [i for i, seat in enumerate(seats) if seat.host == mine.host]
    cpus = {cpu for i in neighbours for cpu in seats[i].cpus}
    cores, crowded = len(cpus), len(cpus) < len(neighbours)
    shared = all(seats[i].cpus == mine.cpus for i in neighbours)
    if len(mine.cpus) == 1 and not crowded:
        return Placement(mine.cpus[0], cores, crowded, progress)
    if progress == "worker" or crowded or not shared:
        return Placement(None, cores, crowded, progress)
    return Placement(mine.cpus[neighbours.index(rank)], cores, crowded, progress)


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
