"""What is tried on one NIC. Each attempt says what it saw, or raises; `begin` hears of every step.

The engine talks to itself through the NIC, and only the caller makes progress: one thread, so that
what hangs is the NIC.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgctl.active.cuda import gpu_memory
from pgctl.engine import (
    GroupConfig,
    MemoryRegion,
    NicConfig,
    Op,
    Peer,
    RemoteRegion,
    TransferEngine,
)
from pgctl.hardware.trials import What
from pgctl.units import format_size

Begin = Callable[[str], None]
"""Hears what is about to be done."""

OP_TIMEOUT_S = 8.0
_REGISTERED = 2 << 20
_LOOPED = 64 << 10
_LANES = 4
_SLOT = 512 << 10
_LENGTHS = (8, 256, 4 << 10, 64 << 10, _SLOT)
"""The longest is split over the lanes. Every slot has each of them in turn."""
_WRITES = 4096
_STRESS_S = 2.0


class LateError(Exception):
    """Payload was missing when its immediate was counted."""


def registration(nic: NicConfig, begin: Begin) -> str:
    with _open(nic, 1, begin) as engine:
        begin(f"registering {format_size(_REGISTERED)}")
        region = engine.reg_mr(bytearray(_REGISTERED))
        begin("revoking it")
        region.close()
    return f"{format_size(_REGISTERED)} registered and revoked"


def loopback(nic: NicConfig, begin: Begin) -> str:
    with _open(nic, 1, begin) as engine:
        peer = _connect_to_itself(engine, begin)
        src, dst = (engine.alloc_mr(_LOOPED) for _ in range(2))
        src.numpy()[:] = np.random.default_rng(0).integers(0, 256, _LOOPED, np.uint8)
        begin(f"writing {format_size(_LOOPED)} with an immediate")
        _write(engine, 1, src, dst)
        _compare(dst.numpy(), src.numpy())
        return f"{format_size(_LOOPED)} written and counted; {peer.info().path}"


def ordering(nic: NicConfig, begin: Begin) -> str:
    with _open(nic, _LANES, begin) as engine:
        peer = _connect_to_itself(engine, begin)
        src, dst = (engine.alloc_mr(_SLOT * len(_LENGTHS)) for _ in range(2))
        remote = engine.import_mr(dst.desc)
        slots = [_Slot(engine, i, src, dst, remote) for i in range(len(_LENGTHS))]
        begin("writing several at a time, and looking when each is counted")
        count = _stress(engine, slots)
        lanes = len(peer.connections())
    return f"{count} writes over {lanes} connections, each there when it was counted"


def gpu_reach(gpu: str, nic: NicConfig, begin: Begin) -> str:
    size = _REGISTERED
    with gpu_memory(gpu, size, begin) as memory, _open(nic, 1, begin) as engine:
        peer = _connect_to_itself(engine, begin)
        begin(f"registering {format_size(size)} of the GPU")
        there = engine.reg_mr((ctypes.c_uint8 * size).from_address(memory.address))
        src, dst = (engine.alloc_mr(size) for _ in range(2))
        src.numpy()[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        memory.fill(bytes(~src.numpy()))
        begin(f"writing {format_size(size)} into the GPU")
        _write(engine, 1, src, there)
        begin(f"writing {format_size(size)} out of the GPU")
        _write(engine, 2, there, dst)
        # Only now, as what the NIC reads cannot overtake what it wrote there before.
        begin("copying with CUDA what the NIC wrote")
        _compare(np.frombuffer(memory.copy(), np.uint8), src.numpy(), " in the GPU")
        _compare(dst.numpy(), src.numpy(), " that came out of the GPU")
        return f"{format_size(size)} written into the GPU and out of it; {peer.info().path}"


ATTEMPTS: Mapping[What, Callable[[NicConfig, Begin], str]] = {
    "registration": registration,
    "loopback": loopback,
    "ordering": ordering,
}
"""Those that need a NIC alone."""


@contextmanager
def _open(nic: NicConfig, lanes: int, begin: Begin) -> Iterator[TransferEngine]:
    begin("opening the NIC")
    group = GroupConfig(nics=[nic] * lanes, progress="inline")
    with TransferEngine([group], op_timeout=OP_TIMEOUT_S, goodbye=0.1) as engine:
        yield engine
        begin("closing the NIC")


def _connect_to_itself(engine: TransferEngine, begin: Begin) -> Peer:
    begin("connecting the NIC with itself")
    peer = engine.add_peer(engine.main_address())
    peer.connect()
    return peer


def _write(engine: TransferEngine, imm: int, src: MemoryRegion, dst: MemoryRegion) -> None:
    engine.submit_single_write(len(src), imm, src, engine.import_mr(dst.desc)).wait()
    engine.counter(imm).wait(1, OP_TIMEOUT_S)


def _compare(seen: NDArray[np.uint8], sent: NDArray[np.uint8], where: str = "") -> None:
    if len(wrong := np.flatnonzero(seen != sent)):
        raise LateError(f"{len(wrong)} of {len(sent)} bytes{where} differ, the first is {wrong[0]}")


@dataclass(slots=True)
class _Slot:
    """A place that is written again and again, and the write that is under way there."""

    engine: TransferEngine
    index: int
    src: MemoryRegion
    dst: MemoryRegion
    remote: RemoteRegion
    number: int = 0
    counted: Op | None = None
    written: Op | None = None

    def write(self, number: int) -> None:
        """Every word of the payload is `number`, so that one that is missing shows."""
        length = _LENGTHS[(self.index + number) % len(_LENGTHS)]
        self.number = number
        self._words(self.src, length)[:] = number
        at = self.index * _SLOT
        imm = self.index + 1
        self.counted = self.engine.expect_imm_count(imm, 1)
        self.written = self.engine.submit_single_write(
            length, imm, (self.src, at), (self.remote, at)
        )

    def look(self) -> bool:
        """Whether the write has ended. Raises LateError if it was counted before it was there."""
        assert self.counted is not None
        assert self.written is not None
        if self.counted.seen():
            self.counted.raise_failure()
            self._check()
        if self.written.seen():
            self.written.raise_failure()
        return self.counted.seen() and self.written.seen()

    def _check(self) -> None:
        length = _LENGTHS[(self.index + self.number) % len(_LENGTHS)]
        words = self._words(self.dst, length)
        if len(late := np.flatnonzero(words != self.number)):
            raise LateError(
                f"write {self.number}, of {length} bytes, was counted before it was there: at "
                f"byte {8 * late[0]} stood what write {words[late[0]]} had left"
            )

    def _words(self, region: MemoryRegion, length: int) -> NDArray[np.uint64]:
        start = self.index * _SLOT // 8
        return region.numpy(np.uint64)[start : start + length // 8]


def _stress(engine: TransferEngine, slots: list[_Slot]) -> int:
    """How many writes were looked at."""
    end = time.monotonic() + _STRESS_S
    started = 0
    under_way = list(slots)
    for slot in slots:
        started += 1
        slot.write(started)
    while under_way:
        if not engine.progress():
            os.sched_yield()
        for slot in list(under_way):
            if not slot.look():
                continue
            if started < _WRITES and time.monotonic() < end:
                started += 1
                slot.write(started)
            else:
                under_way.remove(slot)
    return started
