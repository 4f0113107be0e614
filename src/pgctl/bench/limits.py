"""What the machine can do at most: the same writes over the same memory, without an engine."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pgctl.bench import loops
from pgctl.bench.loops import Timing, Traffic
from pgctl.bench.measure import operations_for, time_of_one
from pgctl.bench.session import Session
from pgctl.bench.spec import Spec
from pgctl.bench.stats import Samples, gbyte_s
from pgctl.bench.work import Work, shape, traffic
from pgctl.errors import PgError

SMALLEST = 4096
"""The copy is not what a smaller write costs."""
_CACHELINE_ROUNDS = 3000
_FORBIDDEN = Timing(sent_ns=10**9)
"""A trial that need not be made longer, without samples."""


def memcpy(
    session: Session, work: Work, seconds: float, *, spec: Spec | None = None, threads: int = 1
) -> Samples:
    """GB/s of plain copies by every sender at once, into the same mappings, in the same order."""
    targets = [session.sinks.others[rank].mapped for rank in work.destinations]

    def copy(plan: Traffic) -> Timing:
        limit_s = session.limit_s(seconds)
        return session.loops.memcpy(plan, session.source.address, targets, threads, limit_s)

    return _measure(session, spec or session.spec, work, seconds, copy, threads=threads)


def vm_write(session: Session, work: Work, seconds: float) -> Samples:
    """GB/s of process_vm_writev into memory that is not mapped here; nothing if it is forbidden."""
    other = 1 - session.rank

    def copy(plan: Traffic) -> Timing:
        address = session.sinks.others[other].address
        limit_s = session.limit_s(seconds)
        try:
            return session.loops.vm_write(
                plan, session.source.address, session.pids[other], address, limit_s
            )
        except PgError as refused:
            if refused.code not in (errno.EPERM, errno.ENOSYS):
                raise
            return _FORBIDDEN

    return _measure(session, session.spec, work, seconds, copy)


def cacheline(session: Session) -> Samples:
    """How many µs a cache line takes from rank 0 to rank 1, or back."""
    rounds = np.zeros(1)
    loops.zero(session.lines.own.address, loops.CACHELINE_BYTES)
    session.meet()
    if session.rank < 2:
        first = session.rank == 0
        rounds = session.loops.cacheline(
            session.lines.own.address if first else session.lines.others[0].mapped,
            first=first,
            warmup=100,
            rounds=_CACHELINE_ROUNDS,
            wait=loops.SPIN if session.placement.cores > 1 else loops.YIELD,
            timeout_s=session.limit_s(),
        )
    session.meet()
    return rounds / 2e3


def _measure(
    session: Session,
    spec: Spec,
    work: Work,
    seconds: float,
    copy: Callable[[Traffic], Timing],
    *,
    threads: int = 1,
) -> Samples:
    """Every sender copies for so long, while the others sleep. threads: of this sender."""
    form, timing = shape(spec, work, 1), Timing()

    def trial(operations: int) -> tuple[int, float]:
        nonlocal form, timing
        form = shape(spec, work, operations)
        plan = traffic(spec, work, form)
        timing = copy(replace(plan, warmup_arrivals=0, arrivals=0))
        return form.operations, timing.sent_ns

    each = time_of_one(trial, session.spec.iters) if work.sends else 0.0
    session.meet()
    if work.sends:
        trial(operations_for(session, seconds, each))
    seen = session.share([work.payload * form.operations, timing.sent_ns, threads], seconds)
    sent = [(payload, ns, copying) for payload, ns, copying in seen if ns]
    if sum(copying for *_, copying in sent) > 1:  # blocks are not in step: see measure.Flow
        payload = sum(payload for payload, *_ in sent)
        return gbyte_s(payload, np.array([max(ns for _, ns, _ in sent)]))
    if not timing.block_ns.size:
        return np.empty(0)
    return gbyte_s(work.payload * form.per_block, timing.block_ns)
