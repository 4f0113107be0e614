"""One measurement of one size, by all ranks together: how much, how often, how fast.

Every rank calls the same function at the same time. How often is decided from what rank 0 sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgctl.bench.loops import NO_IMM, Timing
from pgctl.bench.session import Session
from pgctl.bench.stats import KEPT_SAMPLES, Samples
from pgctl.bench.work import ROUNDS_IMM, Shape, Work, shape, traffic

_LONG_ENOUGH_NS = 1e6
"""A trial of this length tells how long a repetition takes."""
_GROWTH = 50
_ROUNDS_MAX = KEPT_SAMPLES
"""Of all cycles: the record then holds every one."""
_ROUNDS_MIN = 3
_ROUNDS_WARMUP = 100


@dataclass(frozen=True, slots=True)
class Flow:
    """One throughput run."""

    form: Shape
    senders: int
    elapsed_ns: float
    """Until the last operation of the slowest sender was complete, and counted."""
    sample_ns: Samples
    """The blocks of the one sender. Those of several do not run in step, least of all where they
    share cores: of them there is but one sample, the whole run."""
    per_sample: int
    """Operations of each sender."""
    complete_ns: Samples
    """Of rank 0."""


def run_flow(session: Session, work: Work, operations: int, expected_ns: float = 0) -> Flow:
    """At least `operations` by every sender, all of them counted."""
    form = shape(session.spec, work, operations)
    mine = traffic(session.spec, work, form)
    expected_s = expected_ns / 1e9
    timing = Timing()
    if mine.batches or mine.arrivals:
        timing = session.loops.stream(mine, session.limit_s(expected_s))
    elapsed = max(timing.sent_ns, timing.arrived_ns)
    shared = session.share([elapsed, timing.block_ns.tolist()], expected_s)
    blocks = [blocks for _, blocks in shared if blocks]
    elapsed_ns = max(ns for ns, _ in shared)
    alone = len(blocks) == 1
    return Flow(
        form=form,
        senders=len(blocks),
        elapsed_ns=elapsed_ns,
        sample_ns=np.array(blocks[0] if alone else [elapsed_ns], np.float64),
        per_sample=form.per_block if alone else form.operations,
        complete_ns=timing.complete_ns,
    )


def time_flow(session: Session, work: Work) -> float:
    """How many ns one operation takes."""

    def trial(operations: int) -> tuple[int, float]:
        flow = run_flow(session, work, operations)
        return flow.form.operations, flow.elapsed_ns

    return time_of_one(trial, session.spec.iters)


def run_rounds(session: Session, work: Work, rounds: int, expected_ns: float = 0) -> Samples:
    """The times of rank 0's rounds."""
    expected_s = expected_ns / 1e9
    warmup = session.spec.warmup
    samples = np.empty(0)
    if work.symmetric or session.rank < 2:
        samples = session.loops.rounds(
            work.op,
            NO_IMM if work.messages else ROUNDS_IMM,
            first=work.symmetric or session.rank == 0,
            arrivals=work.arrivals * max(len(work.sources), 1),
            warmup=min(rounds, _ROUNDS_WARMUP) if warmup is None else warmup,
            rounds=rounds,
            timeout_s=session.limit_s(expected_s),
        )
    session.meet(expected_s)
    return samples


def time_rounds(session: Session, work: Work) -> float:
    """How many ns one round takes."""

    def trial(rounds: int) -> tuple[int, float]:
        samples = run_rounds(session, work, max(rounds, _ROUNDS_MIN))
        return max(rounds, _ROUNDS_MIN), session.share(float(samples.sum()))[0]

    return time_of_one(trial, session.spec.iters)


def rounds_for(session: Session, seconds: float, each_ns: float) -> int:
    """Enough for the percentiles, and no more."""
    if session.spec.iters is not None:
        return session.spec.iters
    most = _ROUNDS_MAX // session.spec.cycles
    return max(_ROUNDS_MIN, min(most, round(seconds * 1e9 / each_ns)))


def operations_for(session: Session, seconds: float, each_ns: float) -> int:
    if session.spec.iters is not None:
        return session.spec.iters
    return max(1, round(seconds * 1e9 / each_ns))


def time_of_one(trial: Callable[[int], tuple[int, float]], most: int | None) -> float:
    """Repeat more and more often until it takes long enough, but not more often than `most`.

    trial: does something at least as often as it is told; returns how often, and the ns in all.
    """
    wanted = 1
    while True:
        done, ns = trial(wanted)
        if ns >= _LONG_ENOUGH_NS or (most is not None and done >= most):
            return max(ns / done, 1e-3)
        wanted = done * int(min(_GROWTH, 1 + _LONG_ENOUGH_NS // max(ns, 1.0)))
