"""Pages from rank 0 to rank 1, each from a place of its own to a place of its own."""

from __future__ import annotations

import numpy as np

from pgctl.bench.loops import Indices, paged_op
from pgctl.bench.session import Session
from pgctl.bench.work import Piece, Work, pair_roles


def permutations(seed: int, sender: int, size: int, pages: int) -> tuple[Indices, Indices]:
    """Where the pages of `sender` lie, and where they go: every rank can tell."""
    random = np.random.default_rng([seed, sender, size])
    src, dst = (random.permutation(pages).astype(np.uint32) for _ in range(2))
    return src, dst


def work(session: Session, size: int) -> Work:
    destinations, sources = pair_roles(session)
    pages = session.spec.pages_of(size)
    sink = session.sinks.others[1 - session.rank]
    src, dst = permutations(session.spec.seed, session.rank, size, pages)

    def pieces(sender: int) -> list[Piece]:
        origins, places = permutations(session.spec.seed, sender, size, pages)
        return [
            (origin * size, place * size, size)
            for origin, place in zip(origins.tolist(), places.tolist(), strict=True)
        ]

    return Work(
        size=size,
        op=paged_op(session.source.handle, sink.region.handle, size, src, dst),
        destinations=destinations,
        sources=sources,
        extent=session.spec.extent(size, session.size),
        payload=pages * size,
        writes=pages,
        arrivals=pages,
        pieces=pieces,
        pages=pages,
    )
