"""A DomainGroup, as the objects that belong to it see it: waiting, and what is in flight."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pgctl._ffi import ffi, lib
from pgctl.engine.events import Events
from pgctl.engine.memory import RemoteRegion, import_mr
from pgctl.engine.native import NS, check, new_error, text
from pgctl.engine.op import IDLE, Op
from pgctl.engine.views import Views
from pgctl.errors import PgError, PgShutdown, PgStale, PgTimeout

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from pgctl.engine.aio import Driver

_SLICE_S: Final = 0.05
"""C waits at most so long, so that a signal's handler soon runs."""
_ROOM_S: Final = 20e-6
"""A blocked submission tries again after so long, then twice as long, and so on."""
_CLOSE_S: Final = 1e-3
_CHUNK: Final = 64
_MEANING = {
    errno.ECANCELED: "canceled",
    errno.EHOSTDOWN: "the peer is down",
    errno.ESHUTDOWN: "the engine was closed",
    errno.ESTALE: "the region is gone",
    errno.ETIMEDOUT: "no progress within the engine's op_timeout",
}


class Slot:
    """Where the engine tells that an operation has ended."""

    __slots__ = ("error", "flag")

    def __init__(self, flag: Any, error: Any) -> None:
        self.flag = flag
        self.error = error


_groups: weakref.WeakSet[Group] = weakref.WeakSet()


class Group:
    """It holds no engine, and whoever uses it must: what is here goes when the engine goes.

    `raw` is the struct pg_group *, None once the engine is closed; `c` then raises, as it does in a
    forked child.
    """

    def __init__(self, c: Any, op_timeout: float, views: Views, kept: dict[int, object]) -> None:
        self.raw: Any | None = c
        self.op_timeout = op_timeout
        self.views = views
        self.kept = kept
        """Memory of others that is registered, by handle."""
        self.pending: dict[Slot, Op] = {}
        """Not seen to be done. Keeps alive what the engine reads and writes, and the flags."""
        self.queued: dict[int, Op] = {}
        """Those that end on the event queue, by the cookie that the engine has: their id()."""
        self.peers: set[int] = set()
        self.imports: dict[bytes, RemoteRegion] = {}
        self.watched: dict[int, object] = {}
        """The cookies of watchers, by those that the engine has."""
        self.leaving: set[int] = set()
        """Regions that nobody has any more, when their peers may write there still."""
        self.events = Events(self)
        self.drivers: dict[AbstractEventLoop, Driver] = {}
        self.closing = False
        self.forked = False
        self._free: list[Slot] = []
        self._chunks: list[Any] = []
        self._lock = threading.RLock()  # collecting garbage may close an engine
        self._inside: list[int] = []
        _groups.add(self)

    @property
    def c(self) -> Any:
        if self.raw is None:
            raise PgShutdown("the engine is closed")
        if self.forked:
            raise PgStale(
                "this engine belongs to the process that was forked: make another one here"
            )
        return self.raw

    # ---- Waiting

    def wait(
        self, call: Callable[[int], int], timeout: float | None, late: int = -errno.ETIMEDOUT
    ) -> int:
        """Ask `call(ns)`, which waits at most so long in C, until it answers neither `late` nor
        that a signal came; return its answer, or `late` after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE_S if end is None else min(_SLICE_S, max(0.0, end - time.monotonic()))
            rc = self._slice(call, int(left * NS))
            if rc not in (late, -errno.EINTR):
                return rc
            if end is not None and time.monotonic() >= end:
                return late

    def _slice(self, call: Callable[[int], int], ns: int) -> int:
        with self:
            return call(ns)

    def __enter__(self) -> None:
        """Keep the engine from being destroyed meanwhile."""
        self._inside.append(threading.get_ident())  # then look; close() does it the other way round
        if self.closing or self.forked:
            self._inside.remove(threading.get_ident())
            self.c  # noqa: B018 - raises in a forked child
            raise PgShutdown("the engine is closed")

    def __exit__(self, *_: object) -> None:
        self._inside.remove(threading.get_ident())

    def close(self) -> None:
        """Let every other thread's wait end, which takes a slice; then nothing gets in."""
        me = threading.get_ident()  # a signal's handler may close what its thread waits for
        self.closing = True
        for driver in list(self.drivers.values()):
            driver.shut()
        while any(who != me for who in self._inside):
            time.sleep(_CLOSE_S)
        self.raw = None

    def in_child(self) -> None:
        """After a fork: threads that waited are not here, nor are the loops."""
        self.forked = True
        self._inside.clear()
        self._lock = threading.RLock()
        self.events.in_child()
        self.drivers.clear()

    def check_wait(self, rc: int, error: Any = None) -> None:
        """check(), for what has waited."""
        try:
            check(rc, error)
        except PgTimeout as late:
            raise self.with_dump(late) from None

    def with_dump(self, error: PgError) -> PgError:
        """`error`; one of time with what is in flight now."""
        if isinstance(error, PgTimeout) and self.raw and not self.forked:
            error.dump = self.dump()
            error.add_note(error.dump)
        return error

    def dump(self) -> str:
        """What is in flight, and what waiters wait for."""
        fd = os.memfd_create("pgctl-dump")
        try:
            check(lib.pg_dump(self.c, fd))
            with open(fd, encoding="utf-8", errors="replace", closefd=False) as file:
                file.seek(0)
                return file.read()
        finally:
            os.close(fd)

    # ---- Operations

    def take(self) -> Slot:
        """A slot that nobody uses."""
        while True:
            try:
                slot = self._free.pop()
            except IndexError:
                self.settle()
            else:
                slot.flag[0] = IDLE
                return slot
            if not self._free:
                flags = ffi.new("int32_t[]", _CHUNK)
                errors = ffi.new("struct pg_error[]", _CHUNK)
                self._chunks += flags, errors
                self._free += [Slot(flags + i, errors + i) for i in range(_CHUNK)]

    def give(self, slot: Slot) -> None:
        """Undo take(): the engine refused."""
        self.pending.pop(slot, None)
        self._free.append(slot)

    def withdraw(self, ops: Iterable[Op]) -> None:
        """Forget what the engine refused."""
        for op in ops:
            if op.slot:
                self.give(op.slot)
            else:
                self.queued.pop(id(op), None)

    def settle(self, ops: Iterable[Op] | None = None) -> None:
        """Take note of the ends that flags tell: of these operations, or of all."""
        with self._lock:
            for op in list(self.pending.values()) if ops is None else ops:
                slot = op.slot  # none: another thread has taken note
                if slot and (value := slot.flag[0]) not in (0, IDLE):
                    op.finish(min(value, 0))
                    del self.pending[slot]
                    self._free.append(slot)

    def cancel(self, op: Op) -> bool:
        """Whether it was in flight."""
        done = ffi.new("struct pg_done *")
        with self._lock:  # else its flag may be another's by now
            if op.slot:
                done.flag = op.slot.flag
            elif id(op) in self.queued:
                done.cookie = id(op)
            else:
                return False
            rc = lib.pg_cancel(self.c, done)
        return rc != -errno.ENOENT and check(rc) == 0

    def await_op(self, op: Op, timeout: float | None) -> bool:
        """Whether it has ended in time."""

        def look(ns: int) -> int:
            slot = op.slot
            return int(lib.pg_wait_flags(self.c, slot.flag, 1, ns)) if slot else 0

        rc = self.wait(look, timeout)
        if rc != -errno.ETIMEDOUT:
            check(rc)
        self.settle([op])
        return op.status is not None

    def submit(self, ops: Any, n: int, *, block: bool) -> int:
        """How many were accepted; with `block` all, unless one never can be."""
        error, accepted = new_error(), 0
        pause, waited = _ROOM_S, 0.0
        while True:
            rc: int = lib.pg_submit(self.c, ops + accepted, n - accepted, 0, error)
            if rc > 0:
                accepted += rc
                pause, waited = _ROOM_S, 0.0
                if accepted == n or not block:
                    return accepted
            elif rc == -errno.EAGAIN and block and waited < self.op_timeout:
                self._make_progress(pause)
                waited += pause
                pause = min(2 * pause, _SLICE_S)
            else:
                return accepted or check(rc, error)

    def _make_progress(self, seconds: float) -> None:
        never = ffi.new("int32_t *")
        self.wait(lambda ns: int(lib.pg_wait_flags(self.c, never, 1, ns)), seconds)

    def shut(self) -> None:
        """The engine is gone: what was in flight has ended."""
        self.settle()
        for op in [*self.pending.values(), *self.queued.values()]:
            op.finish(-errno.ESHUTDOWN)
        self.pending.clear()
        self.queued.clear()
        self.imports.clear()
        self.watched.clear()
        self.kept.clear()

    # ---- Peers

    def reason(self, status: int, targets: Sequence[bytes | int]) -> str:
        """Why an operation to these MrDescs or peers ended with `status`, as far as it is known.

        A flag tells no more than the status; why a peer is down is known of the peer.
        """
        reasons = []
        info = ffi.new("struct pg_peer_info *")
        for peer in list(self.peers) if self.raw else ():
            if lib.pg_peer_info(self.raw, peer, info) or not info.status:
                continue
            who = bytes.fromhex(text(info.incarnation))
            if any(t == peer or (isinstance(t, bytes) and who in t) for t in targets):
                reasons.append(text(info.reason))
        return "; ".join(reasons) or _MEANING.get(-status) or os.strerror(-status)

    def imported(self, desc: bytes) -> RemoteRegion:
        """The region that `desc` names, imported when it is first used.

        What was imported so stays until there is no room, or the engine closes.
        """
        remote = self.imports.get(desc)
        if remote is None:
            try:
                remote = import_mr(None, self, desc)
            except PgError as error:
                if error.code != errno.ENOSPC or not self.imports:
                    raise
                self.imports.clear()  # those in use live on with their operations
                remote = import_mr(None, self, desc)
            self.imports[desc] = remote
        return remote

    # ---- Memory

    def leave(self, region: int) -> None:
        """Unregister what nobody here has any more: now, or when no peer has it any more."""
        if lib.pg_unreg_mr(self.c, region, 0, ffi.NULL) == -errno.EBUSY:
            self.leaving.add(region)
        else:
            self.leaving.discard(region)
            self.kept.pop(region, None)

    def leave_all(self) -> None:
        """Try again."""
        for region in list(self.leaving):
            self.leave(region)


def _in_child() -> None:
    for group in list(_groups):
        group.in_child()


os.register_at_fork(after_in_child=_in_child)
