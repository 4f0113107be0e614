"""Whether every byte arrives as it was sent: looked at before and after the clock runs.

The source holds a pattern of (seed, sender, size, cycle), the sink one that nobody sends.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from pgctl.bench import loops
from pgctl.bench.session import Session
from pgctl.bench.work import Shape, Work, shape, traffic


def prepare(session: Session, work: Work, cycle: int) -> None:
    """Before a throughput run."""
    if work.messages:
        return
    span = session.spec.span(work.extent)
    loops.fill(session.source.address, span, _seed(session, work, cycle, session.rank))
    loops.fill(session.sinks.own.address, span, _seed(session, work, cycle, None))


def wrong(session: Session, work: Work, form: Shape, cycle: int) -> list[str]:
    """After it: what has arrived wrongly at any rank. Messages, which leave nothing behind, are
    sent once more."""
    if work.messages:
        here = _wrong_messages(session, work, cycle)
    else:
        here = _wrong_memory(session, work, form, cycle)
    return [text for text in session.share(here) if text is not None]


def _wrong_memory(session: Session, work: Work, form: Shape, cycle: int) -> str | None:
    sink = session.sinks.own.address
    step = session.spec.step(work.extent)
    done = form.batch * (form.warmup + form.batches)
    positions = min(done, session.spec.span(work.extent) // step) if step else 1
    for sender in work.sources:
        seed = _seed(session, work, cycle, sender)
        for origin, offset, size in work.pieces(sender):
            at = loops.first_wrong(
                sink + offset, size, seed, origin=origin, pieces=positions, step=step
            )
            if at is not None:
                return f"byte {offset + at} at rank {session.rank}, from rank {sender}"
    return None


def _wrong_messages(session: Session, work: Work, cycle: int) -> str | None:
    form = replace(shape(session.spec, work, session.spec.window_of(work.payload)), warmup=0)
    text = None
    for receiver in 1, 0:
        seed = _seed(session, work, cycle, 1 - receiver)
        if session.rank == receiver and work.sources:
            count = form.operations
            differ = session.loops.take_messages(count, work.size, seed, session.limit_s())
            if differ:
                text = f"{differ} of {count} messages at rank {receiver}"
        elif session.rank != receiver and work.sends:
            loops.fill_message(work.op, seed)
            plan = traffic(session.spec, work, form)
            session.loops.stream(replace(plan, arrivals=0), session.limit_s())
        session.meet()
    return text


def _seed(session: Session, work: Work, cycle: int, sender: int | None) -> int:
    text = f"{session.spec.seed} {sender} {work.size} {cycle}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
