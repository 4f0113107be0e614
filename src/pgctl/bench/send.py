"""Messages from rank 0 into the receive pool of rank 1: copied twice, and never dropped."""

from __future__ import annotations

from pgctl.bench.loops import send_op
from pgctl.bench.session import Session
from pgctl.bench.work import Work, pair_roles


def work(session: Session, size: int) -> Work:
    destinations, sources = pair_roles(session)
    return Work(
        size=size,
        op=send_op(session.peers[1 - session.rank].handle, size),
        destinations=destinations,
        sources=sources,
        extent=0,
        payload=size,
        messages=True,
    )
