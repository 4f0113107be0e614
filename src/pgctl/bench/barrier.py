"""An immediate from every rank to every other: nobody goes on before all have come."""

from __future__ import annotations

from pgctl.bench.loops import barrier_op
from pgctl.bench.session import Session
from pgctl.bench.work import Work


def work(session: Session, size: int) -> Work:
    others = tuple(session.peers)
    return Work(
        size=size,
        op=barrier_op([session.peers[rank].handle for rank in others]),
        destinations=others,
        sources=others,
        extent=0,
        payload=0,
        symmetric=True,
    )
