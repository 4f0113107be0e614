"""A slice from every rank to every other, all at once.

Rank r's slice for rank d lies at d * size in r's source, and arrives at r * size in d's sink.
"""

from __future__ import annotations

from pgctl.bench.loops import scatter_op
from pgctl.bench.session import Session
from pgctl.bench.work import Work


def work(session: Session, size: int) -> Work:
    me, others = session.rank, tuple(session.peers)
    sinks = session.sinks.others
    slices = [(rank * size, sinks[rank].region.handle, me * size) for rank in others]
    return Work(
        size=size,
        op=scatter_op(session.source.handle, slices, size),
        destinations=others,
        sources=others,
        extent=session.spec.extent(size, session.size),
        payload=len(others) * size,
        writes=len(others),
        pieces=lambda sender: [(me * size, sender * size, size)],
        symmetric=True,
    )
