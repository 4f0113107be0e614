"""The C loops, called from Python, and the operations they are given. All of cffi that is here.

A loop runs on a thread of its own while the calling thread waits, so that a signal's handler runs
at once; whatever it raises stops the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgctl._ffi import ffi, lib
from pgctl.bench.stats import Samples
from pgctl.engine.native import check

NO_IMM: Final[int] = lib.PG_NO_IMM
CACHELINE_BYTES: Final[int] = lib.PG_BENCH_CACHELINE_BYTES
SPIN: Final[int] = lib.PG_BENCH_SPIN
YIELD: Final[int] = lib.PG_BENCH_YIELD
SLEEP: Final[int] = lib.PG_BENCH_SLEEP
Indices = NDArray[np.uint32]
_SLICE_NS = 5_000_000
_NOWHERE: Final[int] = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Op:
    """An operation, without its immediate."""

    c: Any
    """struct pg_op *"""
    kept: tuple[Any, ...]
    """What it points to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one rank submits and counts in a throughput loop; struct pg_bench_stream."""

    op: Op
    imm: int = NO_IMM
    batch: int = 1
    depth: int = 1
    step: int = 0
    span: int = 0
    warmup_batches: int = 0
    batches: int = 0
    block: int = 1
    warmup_arrivals: int = 0
    arrivals: int = 0
    chunk: int = 1


_SAME_IN_BOTH = (
    "batch",
    "depth",
    "step",
    "span",
    "warmup_batches",
    "batches",
    "block",
    "warmup_arrivals",
    "arrivals",
    "chunk",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one throughput loop, in ns."""

    sent_ns: int = 0
    arrived_ns: int = 0
    block_ns: Samples = field(default_factory=lambda: np.empty(0))
    complete_ns: Samples = field(default_factory=lambda: np.empty(0))


class Loops:
    """The loops over one group. Close the engine before letting go of this: late completions write
    into its flags."""

    def __init__(self, group: Any, wait: int) -> None:
        self._group = group
        self._wait = wait
        self._stop = ffi.new("int32_t *")
        self._flags = ffi.new("int32_t[]", 0)

    def stream(self, traffic: Traffic, timeout_s: float) -> Timing:
        plan, blocks, completes = self._plan(traffic, timeout_s)
        plan.flags = self._some_flags(traffic.depth * traffic.batch + 2)
        times = ffi.new("struct pg_bench_times *")
        self._run(lib.pg_bench_stream, self._group, plan, times)
        return _timing(times, blocks, completes)

    def rounds(
        self,
        op: Op,
        imm: int,
        *,
        first: bool,
        arrivals: int,
        warmup: int,
        rounds: int,
        timeout_s: float,
    ) -> Samples:
        """The round trips, in ns."""
        samples = np.zeros(rounds, np.uint64)
        plan = ffi.new("struct pg_bench_rounds *")
        self._control(plan.control, timeout_s)
        plan.op = op.c[0]
        plan.op.imm = imm
        plan.first, plan.arrivals = first, arrivals
        plan.warmup, plan.rounds = warmup, rounds
        plan.round_ns = _pointer(samples)
        plan.flags = self._some_flags(4)
        self._run(lib.pg_bench_rounds, self._group, plan)
        return samples.astype(np.float64)

    def take_messages(self, count: int, size: int, seed: int, timeout_s: float) -> int:
        """Take messages of the pattern; return how many were wrong."""
        control = ffi.new("struct pg_bench_control *")
        self._control(control, timeout_s)
        wrong = ffi.new("uint64_t *")
        self._run(lib.pg_bench_take_messages, self._group, control, count, size, seed, wrong)
        return int(wrong[0])

    def memcpy(
        self, traffic: Traffic, src: int, dsts: Sequence[int], threads: int, timeout_s: float
    ) -> Timing:
        plan, blocks, completes = self._plan(traffic, timeout_s)
        times = ffi.new("struct pg_bench_times *")
        targets = ffi.new("void *[]", [_at(dst) for dst in dsts])
        self._run(lib.pg_bench_memcpy, plan, _at(src), targets, threads, times)
        return _timing(times, blocks, completes[:0])

    def vm_write(self, traffic: Traffic, src: int, pid: int, dst: int, timeout_s: float) -> Timing:
        plan, blocks, completes = self._plan(traffic, timeout_s)
        times = ffi.new("struct pg_bench_times *")
        self._run(lib.pg_bench_vm_write, plan, _at(src), pid, dst, times)
        return _timing(times, blocks, completes[:0])

    def cacheline(
        self, line: int, *, first: bool, warmup: int, rounds: int, wait: int, timeout_s: float
    ) -> Samples:
        samples = np.zeros(rounds, np.uint64)
        control = ffi.new("struct pg_bench_control *")
        self._control(control, timeout_s)
        control.wait = wait
        self._run(
            lib.pg_bench_cacheline, control, _at(line), first, warmup, rounds, _pointer(samples)
        )
        return samples.astype(np.float64)

    def _plan(self, traffic: Traffic, timeout_s: float) -> tuple[Any, Any, Any]:
        n = traffic.batches // traffic.block
        blocks, completes = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        plan = ffi.new("struct pg_bench_stream *")
        self._control(plan.control, timeout_s)
        plan.op = traffic.op.c[0]
        plan.op.imm = traffic.imm
        plan.block_ns, plan.complete_ns = _pointer(blocks), _pointer(completes)
        for name in _SAME_IN_BOTH:
            setattr(plan, name, getattr(traffic, name))
        return plan, blocks, completes

    def _control(self, control: Any, timeout_s: float) -> None:
        control.stop = self._stop
        control.timeout_ns = int(timeout_s * 1e9)
        control.wait = self._wait

    def _some_flags(self, n: int) -> Any:
        """They live as long as this: an operation that a stopped loop left behind sets its own."""
        if len(self._flags) < n:
            self._flags = ffi.new("int32_t[]", n)
        return self._flags

    def _run(self, function: Any, *args: Any) -> None:
        error = ffi.new("struct pg_error *")
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(function(*args, error)))
        thread.start()
        try:
            thread.join()
        except BaseException:
            self._stop[0] = 1
            thread.join()
            raise
        check(outcome[0], error)


def post_receives(group: Any, size: int, count: int) -> None:
    """Buffers for messages."""
    error = ffi.new("struct pg_error *")
    check(lib.pg_submit_recvs(group, size, count, error), error)


class Background:
    """Makes progress for a group while Python does other things."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._over = ffi.new("int32_t *")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over[0] = 1
        self._thread.join()

    def _run(self) -> None:
        while not self._over[0]:
            lib.pg_wait_flags(self._group, self._over, 1, _SLICE_NS)


def write_op(src: int, dst: int, size: int) -> Op:
    op = _op(lib.PG_OP_WRITE)
    op.c.u.write.src, op.c.u.write.dst, op.c.u.write.len = src, dst, size
    return op


def paged_op(src: int, dst: int, page: int, src_indices: Indices, dst_indices: Indices) -> Op:
    """Pages of `page` bytes, page i at i * page."""
    arrays = [ffi.from_buffer("uint32_t[]", indices) for indices in (src_indices, dst_indices)]
    op = _op(lib.PG_OP_PAGED, *arrays)
    paged = op.c.u.paged
    paged.src, paged.dst = src, dst
    paged.src_stride = paged.dst_stride = paged.page_len = page
    paged.src_indices, paged.dst_indices = arrays
    paged.n_pages = len(src_indices)
    return op


def scatter_op(src: int, slices: Sequence[tuple[int, int, int]], size: int) -> Op:
    """Slices of `size` bytes: offset at the source, region, offset there."""
    dsts = ffi.new("struct pg_scatter_dst[]", len(slices))
    for dst, (src_offset, region, dst_offset) in zip(dsts, slices, strict=True):
        dst.src_offset, dst.dst, dst.dst_offset, dst.len = src_offset, region, dst_offset, size
    op = _op(lib.PG_OP_SCATTER, dsts)
    op.c.u.scatter.src, op.c.u.scatter.dsts, op.c.u.scatter.n = src, dsts, len(slices)
    return op


def barrier_op(peers: Sequence[int]) -> Op:
    array = ffi.new("pg_peer_t[]", list(peers))
    op = _op(lib.PG_OP_BARRIER, array)
    op.c.u.barrier.peers, op.c.u.barrier.n = array, len(peers)
    return op


def send_op(peer: int, size: int) -> Op:
    data = ffi.new("uint8_t[]", size)
    op = _op(lib.PG_OP_SEND, data)
    op.c.u.send.peer, op.c.u.send.data, op.c.u.send.len = peer, data, size
    return op


def fill_message(op: Op, seed: int) -> None:
    lib.pg_bench_fill(op.c.u.send.data, op.c.u.send.len, seed, 0)


def _op(opcode: int, *kept: Any) -> Op:
    c = ffi.new("struct pg_op *")
    c.opcode, c.imm = opcode, NO_IMM
    return Op(c, kept)


def address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def zero(address: int, size: int) -> None:
    ffi.memmove(_at(address), bytes(size), size)


def fill(address: int, size: int, seed: int) -> None:
    """Write the pattern of `seed`."""
    lib.pg_bench_fill(_at(address), size, seed, 0)


def first_wrong(
    address: int, size: int, seed: int, *, origin: int, pieces: int, step: int
) -> int | None:
    """The offset of the first byte that is not the pattern's; None when all are."""
    at: int = lib.pg_bench_verify(_at(address), size, pieces, step, seed, origin)
    return None if at == _NOWHERE else at


def touch(address: int, size: int) -> None:
    """Have the pages of a mapping in place."""
    lib.pg_bench_touch(_at(address), size)


def _at(address: int) -> Any:
    return ffi.cast("void *", address)


def _pointer(samples: NDArray[np.uint64]) -> Any:
    return ffi.cast("uint64_t *", samples.ctypes.data) if samples.size else ffi.NULL


def _timing(times: Any, blocks: Any, completes: Any) -> Timing:
    return Timing(
        times.sent_ns,
        times.arrived_ns,
        blocks.astype(np.float64),
        completes.astype(np.float64),
    )
