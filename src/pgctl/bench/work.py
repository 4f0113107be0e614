"""What one rank does at one size: the operation that it submits, and what it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgctl.bench.loops import NO_IMM, Op, Traffic
from pgctl.bench.session import Session
from pgctl.bench.spec import Spec

_BATCHED_BYTES = 512 << 10
"""Operations are batched until a batch moves this much: then one submission is cheap enough."""
_IN_FLIGHT_BATCHES = 4
_BLOCKS = 100
"""Bandwidth samples of a cycle, at most. Each is of whole windows, because the operations of one
may well complete together."""
_CHUNK = 1024
STREAM_IMM = 1
ROUNDS_IMM = 2
"""And the next, in odd rounds."""

Piece = tuple[int, int, int]
"""Offset at the source, offset in the sink, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    size: int
    op: Op
    """Its immediate is the measurement's to choose."""
    destinations: tuple[int, ...]
    """The ranks that an operation of this rank goes to; empty if it only receives."""
    sources: tuple[int, ...]
    """The ranks that send to this one."""
    extent: int
    """Bytes of the source, and of each sink, within which one operation works."""
    payload: int
    """Bytes that one operation moves."""
    writes: int = 1
    """Logical writes of one operation, which the rate counts."""
    arrivals: int = 1
    """How often the counter of each destination rises for it."""
    pieces: Callable[[int], Sequence[Piece]] = lambda _: ()
    """Where the operation of a source puts what in the sink of this rank."""
    messages: bool = False
    symmetric: bool = False
    """Every rank does the same at the same time; otherwise ranks 0 and 1 are a pair."""
    pages: int | None = None

    @property
    def sends(self) -> bool:
        return bool(self.destinations)


def pair_roles(session: Session) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Destinations and sources: rank 0 sends to rank 1, and back if both directions are asked."""
    other = 1 - session.rank
    senders = session.spec.senders(session.size)
    return (
        (other,) if session.rank in senders else (),
        (other,) if other in senders else (),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """How a number of operations is submitted: the same for everyone who takes part."""

    batch: int
    depth: int
    warmup: int
    """In batches, as the next."""
    batches: int
    block: int

    @property
    def operations(self) -> int:
        return self.batch * self.batches

    @property
    def per_block(self) -> int:
        return self.batch * self.block


def shape(spec: Spec, work: Work, operations: int) -> Shape:
    """At least `operations`, in whole batches and blocks."""
    window = spec.window_of(work.payload)
    batch = min(window // _IN_FLIGHT_BATCHES, _BATCHED_BYTES // max(work.payload, 1))
    batch = max(1, min(batch, operations))
    batches = _up(operations, batch) // batch
    depth = max(1, min(window // batch, batches))
    block = _up(max(1, batches // _BLOCKS), depth)
    warmup = depth if spec.warmup is None else _up(spec.warmup, batch) // batch
    return Shape(batch, depth, warmup, _up(batches, block), block)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def traffic(spec: Spec, work: Work, form: Shape) -> Traffic:
    """What this rank does for the whole to be `form`."""
    imm = STREAM_IMM if spec.imm and not work.messages else NO_IMM
    counts = work.messages or imm != NO_IMM
    per_batch = form.batch * work.arrivals * len(work.sources) if counts else 0
    in_flight = per_batch * form.depth
    return Traffic(
        op=work.op,
        imm=imm,
        batch=form.batch,
        depth=form.depth,
        step=spec.step(work.extent),
        span=spec.span(work.extent),
        warmup_batches=form.warmup if work.sends else 0,
        batches=form.batches if work.sends else 0,
        block=form.block,
        warmup_arrivals=per_batch * form.warmup,
        arrivals=per_batch * form.batches,
        chunk=max(_CHUNK, in_flight),
    )
