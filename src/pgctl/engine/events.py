"""The event queue of a group: what has ended, and messages."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pgctl._ffi import ffi, lib
from pgctl.engine.native import check, text
from pgctl.engine.peer import Peer
from pgctl.errors import PgError, error_of

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group

_BATCH: Final = 16
_TAKEN: Final = 0xFFFFFFFF
"""The kind of an event in the buffer that is not one."""
_KINDS: dict[int, Literal["op", "imm", "recv"]] = {
    lib.PG_EVENT_OP: "op",
    lib.PG_EVENT_IMM: "imm",
    lib.PG_EVENT_RECV: "recv",
}

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Event:
    """An operation ended ("op"), an expectation did ("imm"), or a message arrived ("recv")."""

    kind: Literal["op", "imm", "recv"]
    cookie: object
    """What the operation or expectation was made with."""
    status: int
    """0 or -errno."""
    error: PgError | None
    """Which names peer, NIC and cause."""
    peer: Peer | None
    imm: int | None
    data: bytes
    """The message."""


class Events:
    """Threads that wait take turns: one takes events from the engine, and wakes the others."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._buffer = ffi.new("struct pg_event[]", _BATCH)
        for event in self._buffer:
            event.kind = _TAKEN
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._led = False

    def wait(
        self,
        engine: TransferEngine,
        pick: Callable[[deque[Event]], Found | None],
        timeout: float | None,
    ) -> Found | None:
        """What `pick` takes from the events as soon as it takes something; None after `timeout`."""
        end = None if timeout is None else time.monotonic() + timeout
        late = False
        while True:
            with self._changed:
                found = pick(self._waiting)
                if found is not None or late:
                    return found
                left = None if end is None else max(0.0, end - time.monotonic())
                late = left == 0
                if self._led:
                    self._changed.wait(left)
                    continue
                self._led = True
            try:
                self._lead(engine, left)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()

    def _lead(self, engine: TransferEngine, timeout: float | None) -> None:
        group, buffer = self._group, self._buffer
        try:
            rc = group.wait(
                lambda ns: int(lib.pg_wait_events(group.c, buffer, _BATCH, ns)), timeout
            )
        finally:  # a signal's handler may have raised when the events were here already
            with self._changed:
                for c in buffer:
                    if c.kind in _KINDS:
                        self._waiting.append(self._event(engine, c))
                    c.kind = _TAKEN
        if rc != -errno.ETIMEDOUT:
            check(rc)

    def _event(self, engine: TransferEngine, c: Any) -> Event:
        kind, group = _KINDS[c.kind], self._group
        cookie, data = c.cookie, b""
        if kind == "recv":
            data = bytes(ffi.buffer(c.data, c.len))
            lib.pg_recv_release(group.c, c.data)
        elif op := group.queued.pop(cookie, None):
            op.finish(c.status)
            cookie = op.cookie
        return Event(
            kind=kind,
            cookie=None if kind == "recv" else cookie,
            status=c.status,
            error=error_of(c.status, text(c.text)) if c.status else None,
            peer=Peer(engine, group, c.peer) if c.peer else None,
            imm=None if kind == "recv" or c.imm == lib.PG_NO_IMM else c.imm,
            data=data,
        )
