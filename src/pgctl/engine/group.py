"""A DomainGroup, as the objects that belong to it see it: waiting, and what is in flight."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pgctl._ffi import ffi, lib
from pgctl.engine.memory import RemoteRegion, import_mr
from pgctl.engine.native import NS, check, new_error, text
from pgctl.engine.op import IDLE, Op
from pgctl.engine.views import Views
from pgctl.errors import PgError, PgShutdown

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


class Group:
    """It holds no engine, and whoever uses it must: what is here goes when the engine goes.

    `raw` is the struct pg_group *, None once the engine is closed; `c` then raises.
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
        self.closing = False
        self._free: list[Slot] = []
        self._chunks: list[Any] = []
        self._lock = threading.RLock()  # collecting garbage may close an engine
        self._inside: list[int] = []

    @property
    def c(self) -> Any:
        if self.raw is None:
            raise PgShutdown("the engine is closed")
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
        me = threading.get_ident()
        self._inside.append(me)  # before the look at `closing`: close() does it the other way round
        try:
            if self.closing:
                raise PgShutdown("the engine is closed")
            return call(ns)
        finally:
            self._inside.remove(me)

    def close(self) -> None:
        """Let every other thread's wait end, which takes a slice; then nothing gets in."""
        me = threading.get_ident()  # a signal's handler may close what its thread waits for
        self.closing = True
        while any(who != me for who in self._inside):
            time.sleep(_CLOSE_S)
        self.raw = None

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
