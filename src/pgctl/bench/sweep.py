"""Every size, every cycle, each beside its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pgctl.bench import barrier, limits, measure, paged, payload, scatter, send, write
from pgctl.bench.fabric import link_gbyte_s
from pgctl.bench.session import Session
from pgctl.bench.spec import MARCH_SPAN, PAIRS
from pgctl.bench.stats import Samples
from pgctl.bench.tally import Tally, median, result
from pgctl.bench.wire import Wire
from pgctl.bench.work import Work
from pgctl.report.record import Result

_LIMIT_SHARE = 0.5
"""Of the time that the operation gets."""
_MARCHING_SIZE = 1 << 20
"""Where a hot sweep also shows what marching would allow."""

WORK: dict[str, Callable[[Session, int], Work]] = {
    "write": write.work,
    "paged": paged.work,
    "scatter": scatter.work,
    "barrier": barrier.work,
    "send": send.work,
}


class Sweep:
    """`results`, `limits` and `wrong` hold what is known so far."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._spec = session.spec
        self._seconds = self._spec.duration_s / self._spec.cycles
        senders = self._spec.senders(session.size)
        self._threaded = any(session.places[rank].threads > 1 for rank in senders)
        self._link = self._link_gbyte_s()
        self._cachelines: list[Samples] = []
        self.results: list[Result] = []
        self.limits: dict[str, Any] = {"line_rate": self._line_rate()}
        self.wrong: list[str] = []

    def run(self, begin: Callable[[int], None]) -> None:
        """begin: told of every size before it is measured."""
        session, spec = self._session, self._spec
        span = max(spec.span(spec.extent(size, session.size)) for size in spec.sizes)
        if self._shows_marching():
            span = max(span, MARCH_SPAN)
        session.meet_peers(max(span, 1))
        wire = Wire(session)
        for size in spec.sizes:
            begin(size)
            before = session.bytes_out()
            work = WORK[spec.operation](session, size)
            tally = self._measure(work)
            sent = {nic: n - before[nic] for nic, n in session.bytes_out().items()}
            self._note(work, tally, sent)
        session.ports = wire.ports()

    def _line_rate(self) -> str | None:
        """Which limit is this transport's line rate."""
        if self._spec.operation in ("barrier", "send"):
            return None
        if not self._session.maps_peer:
            return "link_gbyte_s" if self._link else None
        if self._spec.memory == "registered":
            return "process_vm_writev_gbyte_s"
        return "memcpy_threads_gbyte_s" if self._threaded else "memcpy_gbyte_s"

    def _link_gbyte_s(self) -> float | None:
        """Of the slower of two ranks, one way: what both ways carry is added."""
        if self._spec.operation not in PAIRS:
            return None
        rates = [link_gbyte_s(devices) for devices in self._session.devices]
        slower = min(rate or 0.0 for rate in rates)
        return slower * len(self._spec.senders(self._session.size)) or None

    def _shows_marching(self) -> bool:
        spec = self._spec
        return (
            spec.operation == "write"
            and spec.memory == "engine"
            and self._session.maps_peer
            and spec.touch == "hot"
            and _MARCHING_SIZE in spec.sizes
        )

    def _measure(self, work: Work) -> Tally:
        session = self._session
        tally = Tally(checked=self._spec.check and work.payload > 0)
        each_round = measure.time_rounds(session, work)
        each = measure.time_flow(session, work) if work.payload else 0.0
        for cycle in range(self._spec.cycles):
            if work.payload:
                self._limit(work, tally)
                self._flow(work, tally, cycle, each)
            if session.maps_peer and work.size == min(
                self._spec.sizes
            ):  # right beside the latency it stands for
                self._cachelines.append(limits.cacheline(session))
                self.limits["cacheline_oneway_us"] = median(self._cachelines)
            rounds = measure.rounds_for(session, self._seconds, each_round)
            tally.rounds.append(measure.run_rounds(session, work, rounds, rounds * each_round))
        return tally

    def _flow(self, work: Work, tally: Tally, cycle: int, each: float) -> None:
        session = self._session
        operations = measure.operations_for(session, self._seconds, each)
        if self._spec.check:
            payload.prepare(session, work, cycle)
        session.meet()
        flow = measure.run_flow(session, work, operations, operations * each)
        tally.flows.append(flow)
        if self._spec.check:
            tally.wrong += payload.wrong(session, work, flow.form, cycle)

    def _limit(self, work: Work, tally: Tally) -> None:
        session, spec = self._session, self._spec
        line_rate = self.limits["line_rate"]
        seconds = self._seconds * _LIMIT_SHARE
        if line_rate is None or work.size < limits.SMALLEST:
            return
        if line_rate == "link_gbyte_s":
            tally.add_limit(line_rate, np.array([self._link]))
            return
        if spec.memory == "registered":
            tally.add_limit(line_rate, limits.vm_write(session, work, seconds))
            return
        tally.add_limit("memcpy_gbyte_s", limits.memcpy(session, work, seconds))
        if self._threaded:
            threads = session.placement.threads
            samples = limits.memcpy(session, work, seconds, threads=threads)
            tally.add_limit("memcpy_threads_gbyte_s", samples)
        if self._shows_marching() and work.size == _MARCHING_SIZE:
            marching = replace(spec, touch="marching")
            samples = limits.memcpy(session, work, seconds, spec=marching)
            tally.add_limit("memcpy_marching_gbyte_s", samples)

    def _note(self, work: Work, tally: Tally, bytes_per_nic: dict[str, int]) -> None:
        for name in tally.limits:
            by_size = self.limits.setdefault(name, {})
            by_size[str(work.size)] = median(tally.limits[name])
        self.wrong += tally.wrong
        if self._session.rank != 0:
            return
        self.results.append(
            result(
                self._spec.test,
                work,
                tally,
                line_rate=self.limits["line_rate"],
                off_node=off_node(self._session, work),
                bytes_per_nic=bytes_per_nic,
            )
        )


def off_node(session: Session, work: Work) -> int:
    """Bytes that one operation of every sender moves between hosts."""
    hosts = [seat.host for seat in session.seats]
    if work.symmetric:
        return work.size * sum(a != b for a in hosts for b in hosts)
    directions = 2 if session.spec.bidirectional else 1
    return directions * work.payload * (hosts[0] != hosts[1])
