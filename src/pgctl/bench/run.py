"""A benchmark as a whole: from what was asked to the record of it."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from pgctl.bench import fabric, placement, wire
from pgctl.bench.session import Session
from pgctl.bench.spec import Spec
from pgctl.bench.sweep import Sweep
from pgctl.cluster import Cluster
from pgctl.report.record import Fabric, Finding, Nic, Record, Run

_PACKAGES = ("pgctl", "numpy")


class Benchmark:
    """What one rank knows of a run. The record is rank 0's."""

    def __init__(self, spec: Spec, ranks: Cluster, argv: Sequence[str]) -> None:
        self._spec = spec
        self._ranks = ranks
        self._argv = argv
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._cpus: Sequence[int | None] = ()
        self._fabric = Fabric(spec.transport, "", ())
        self._sweep: Sweep | None = None

    def run(self, begin: Callable[[int], None]) -> None:
        """begin: told of every size before it is measured."""
        with Session(self._spec, self._ranks) as session:
            self._cpus = [place.cpu for place in session.places]
            self._fabric = session.fabric()
            self._sweep = Sweep(session)
            try:
                self._sweep.run(begin)
            finally:
                self._fabric = session.fabric()

    def record(self, error: str | None = None) -> Record:
        """What is known so far. error: why it is not everything."""
        sweep = self._sweep
        wrong = sweep.wrong if sweep else ()
        findings = (*map(_corrupted, wrong), *wire.findings(self._fabric.ports))
        return Record(
            command=self._spec.command,
            verdict="error" if error else "fail" if wrong else "pass",
            run=Run(
                argv=tuple(self._argv),
                started=self._started.isoformat(timespec="seconds"),
                elapsed_s=round(time.monotonic() - self._clock, 3),
                host=socket.gethostname(),
                ranks=self._ranks.size,
                launcher=self._ranks.launcher,
                versions=_versions(),
                seed=self._spec.seed,
                cpus=tuple(self._cpus),
                parameters=self._spec.parameters(self._ranks.size),
            ),
            fabric=self._fabric,
            results=tuple(sweep.results) if sweep else (),
            limits=sweep.limits if sweep else {},
            findings=findings,
            error=error,
        )


def outline(spec: Spec, ranks: int, argv: Sequence[str]) -> Record:
    """What `ranks` ranks on this host would do. Raises fabric.NoTransportError, SelectionError."""
    host = socket.gethostname()
    own = fabric.own_equipment()
    transport, why = fabric.choose(spec, [own] * ranks)
    counts = spec.nics(ranks)
    known = {count: fabric.with_devices(own, transport, spec, count) for count in set(counts)}
    hands = fabric.deal(transport, spec, [known[count] for count in counts])
    lanes, cores = fabric.lanes(transport, hands), [hand.core for hand in hands]
    places = placement.decide([placement.own_seat(host)] * ranks, spec.progress, lanes, cores)
    return Record(
        command=spec.command,
        verdict="skip",
        run=Run(
            argv=tuple(argv),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=host,
            ranks=ranks,
            versions=_versions(),
            seed=spec.seed,
            cpus=tuple(place.cpu for place in places),
            parameters=spec.parameters(ranks),
        ),
        fabric=Fabric(
            transport,
            why,
            tuple(Nic(nic.name, nic.pci, nic.gbit_s) for nic in known[counts[0]].of(hands[0].nics)),
            nics_by_rank=tuple(hand.nics for hand in hands),
            groups_by_rank=fabric.group_names(hands),
            progress=tuple(place.progress for place in places),
            impair=spec.impair,
            options=fabric.options(transport, spec),
        ),
    )


def _corrupted(where: str) -> Finding:
    return Finding(
        id="PG201",
        verdict="fail",
        title="payload arrived changed",
        evidence=where,
        fix="run again with the same --seed; if it stays, the memory or the path to it is broken",
    )


def _versions() -> dict[str, str]:
    return {
        **{name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
