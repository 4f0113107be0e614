"""One contiguous region from rank 0 to rank 1; with --bidirectional, back as well."""

from __future__ import annotations

from pgctl.bench.loops import write_op
from pgctl.bench.session import Session
from pgctl.bench.work import Work, pair_roles


def work(session: Session, size: int) -> Work:
    destinations, sources = pair_roles(session)
    sink = session.sinks.others[1 - session.rank]
    return Work(
        size=size,
        op=write_op(session.source.handle, sink.region.handle, size),
        destinations=destinations,
        sources=sources,
        extent=session.spec.extent(size, session.size),
        payload=size,
        pieces=lambda _: [(0, 0, size)],
    )
