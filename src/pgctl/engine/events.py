"""The event queue of a group: what has ended, messages, and news of peers, NICs and watchers."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from pgctl._ffi import ffi, lib
from pgctl.engine.native import check, text
from pgctl.engine.peer import Peer
from pgctl.errors import PgError, error_of

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group

Kind: TypeAlias = Literal[
    "op", "imm", "recv", "peer_up", "peer_down", "peer_silent", "nic_up", "nic_down", "watch"
]

_BATCH: Final = 16
_TAKEN: Final = 0xFFFFFFFF
"""The kind of an event in the buffer that is not one."""
_KINDS: dict[int, Kind] = {
    lib.PG_EVENT_OP: "op",
    lib.PG_EVENT_IMM: "imm",
    lib.PG_EVENT_RECV: "recv",
    lib.PG_EVENT_PEER_UP: "peer_up",
    lib.PG_EVENT_PEER_DOWN: "peer_down",
    lib.PG_EVENT_PEER_SILENT: "peer_silent",
    lib.PG_EVENT_NIC_UP: "nic_up",
    lib.PG_EVENT_NIC_DOWN: "nic_down",
    lib.PG_EVENT_WATCH: "watch",
}
_CLAIMED: Final = frozenset({"op", "imm"})

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Event:
    """What has happened.

    "op": an operation ended. "imm": an expectation did. "recv": a message arrived. "peer_up": a
    peer connected, or is heard of again. "peer_down": it ended or was given up. "peer_silent": its
    heartbeat is missing, and it is not known to be dead. "nic_up", "nic_down": a NIC of ours.
    "watch": a watched word changed. News that nobody has taken is replaced by later news of the
    same peer or NIC; changes of a word that nobody has taken become one.
    """

    kind: Kind
    cookie: object
    """What the operation, expectation or watcher was made with."""
    status: int
    """0 or -errno."""
    error: PgError | None
    """Which names peer, NIC and cause."""
    peer: Peer | None
    imm: int | None
    data: bytes
    """The message."""
    nic: int | None = None
    """Which of ours."""
    old: int | None = None
    new: int | None = None
    """Of a watched word."""

    def message(self) -> tuple[Peer, bytes]:
        """What arrived; raises its error when it was cut."""
        if self.error:
            raise self.error
        assert self.peer  # a message has a sender
        return self.peer, self.data


class Arrived:
    """What was taken from the engine, and by nobody from here.

    A message stays in its buffer, so that a peer that sends more than anybody takes has to wait.
    """

    __slots__ = (
        "cookie",
        "data",
        "imm",
        "key",
        "kind",
        "new",
        "nic",
        "old",
        "peer",
        "size",
        "status",
        "text",
        "word",
    )

    def __init__(self, group: Group, c: Any) -> None:
        self.kind = _KINDS[c.kind]
        self.status: int = c.status
        self.text = text(c.text) if c.status else ""
        self.peer: int = c.peer
        self.data, self.size = c.data, c.len
        self.imm: int | None = None
        self.cookie: object = None
        self.key: object = None
        self.nic: int | None = None
        self.word: int | None = None
        self.old: int | None = None
        self.new: int | None = None
        if self.kind in _CLAIMED:
            self.imm = None if c.imm == lib.PG_NO_IMM else c.imm
            if op := group.queued.pop(c.cookie, None):
                op.finish(c.status)
                self.cookie = op.cookie
        elif self.kind == "watch":
            self.key, self.word = ("watch", c.cookie), c.cookie
            self.cookie = group.watched.get(c.cookie)
            self.old, self.new = c.old_value, c.value
        elif self.kind.startswith("nic"):
            self.nic = c.nic
            self.key = "nic", c.nic
        elif self.kind != "recv":
            self.key = "peer", c.peer

    def wanted(self, group: Group) -> bool:
        """Unless its watcher was closed meanwhile."""
        return self.word is None or self.word in group.watched

    def event(self, engine: TransferEngine, group: Group) -> Event:
        data = b""
        if self.kind == "recv":
            data = bytes(ffi.buffer(self.data, self.size))
            lib.pg_recv_release(group.c, self.data)
        return Event(
            self.kind,
            self.cookie,
            self.status,
            error_of(self.status, self.text) if self.status else None,
            Peer(engine, group, self.peer) if self.peer else None,
            self.imm,
            data,
            self.nic,
            self.old,
            self.new,
        )


class Events:
    """Threads that wait take turns: one takes events from the engine, and wakes the others.

    `arrivals` rises whenever something arrives.
    """

    def __init__(self, group: Group) -> None:
        self.arrivals = 0
        self._group = group
        self._waiting: deque[Arrived] = deque()
        self._news: dict[object, Arrived] = {}
        self._buffer = _buffer()
        self._polled = _buffer()
        self.in_child()

    def in_child(self) -> None:
        """After a fork, and at first: nobody waits."""
        self._changed = threading.Condition()
        self._polling = threading.Lock()
        self._led = False

    def wait(
        self,
        engine: TransferEngine,
        pick: Callable[[Events], list[Arrived]],
        timeout: float | None,
    ) -> list[Event]:
        """What `pick` takes as soon as it takes something; [] after `timeout`."""
        end = None if timeout is None else time.monotonic() + timeout
        late = False
        while True:
            with self._changed:
                found = self._pick(engine, pick)
                if found or late:
                    return found
                left = None if end is None else max(0.0, end - time.monotonic())
                late = left == 0
                if self._led:
                    self._changed.wait(left)
                    continue
                self._led = True
            try:
                self._lead(left)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()

    def now(self, engine: TransferEngine, pick: Callable[[Events], list[Arrived]]) -> list[Event]:
        """The same, of what is here already."""
        with self._changed:
            return self._pick(engine, pick)

    def poll(self) -> None:
        """Take what the engine has, without waiting; for event loops."""
        buffer = self._polled
        with self._polling:
            try:
                for _ in range(_BATCH):
                    if not check(lib.pg_poll_events(self._group.c, buffer, _BATCH)):
                        break
                    self._absorb(buffer)
            finally:
                self._absorb(buffer)

    def pick_all(self) -> list[Arrived]:
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def pick_first(self) -> list[Arrived]:
        return [self._waiting.popleft()] if self._waiting else []

    def pick_message(self) -> list[Arrived]:
        for arrived in self._waiting:
            if arrived.kind == "recv":
                self._waiting.remove(arrived)
                return [arrived]
        return []

    def _pick(self, engine: TransferEngine, pick: Callable[[Events], list[Arrived]]) -> list[Event]:
        group = self._group
        with group:
            while picked := pick(self):
                for arrived in picked:
                    if self._news.get(arrived.key) is arrived:
                        del self._news[arrived.key]
                if found := [a.event(engine, group) for a in picked if a.wanted(group)]:
                    return found
        return []

    def _lead(self, timeout: float | None) -> None:
        group, buffer = self._group, self._buffer
        try:
            rc = group.wait(
                lambda ns: int(lib.pg_wait_events(group.c, buffer, _BATCH, ns)), timeout
            )
        finally:  # a signal's handler may have raised when the events were here already
            self._absorb(buffer)
        if rc != -errno.ETIMEDOUT:
            check(rc)

    def _absorb(self, buffer: Any) -> None:
        with self._changed:
            some = False
            for c in buffer:
                if c.kind == _TAKEN:
                    continue
                arrived, c.kind = Arrived(self._group, c), _TAKEN
                some = True
                if not self._replaced(arrived):
                    self._waiting.append(arrived)
            if not some:
                return
            self.arrivals += 1
            self._changed.notify_all()
        for driver in list(self._group.drivers.values()):
            driver.look_soon()

    def _replaced(self, later: Arrived) -> bool:
        """Whether it went into the place of earlier news."""
        if later.key is None:
            return False
        earlier = self._news.get(later.key)
        if earlier is None:
            self._news[later.key] = later
            return False
        earlier.kind, earlier.status, earlier.text = later.kind, later.status, later.text
        earlier.new = later.new
        return True


def _buffer() -> Any:
    buffer = ffi.new("struct pg_event[]", _BATCH)
    for event in buffer:
        event.kind = _TAKEN
    return buffer
