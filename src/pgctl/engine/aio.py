"""An engine in event loops of asyncio.

One driver for each group and running loop watches the file descriptor of pg_wait_fd. A round makes
progress, looks at everything that is awaited, and arms the descriptor again; while that says that
there is something already, another round follows, and other callbacks of the loop run in between.

pg_wait_arm consumes what the descriptor told, also what it told another loop of the same group: who
has armed it has the others look, and who goes without arming it has them arm it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pgctl._ffi import lib
from pgctl.engine.events import Arrived, Event, Events
from pgctl.engine.native import check
from pgctl.engine.op import Expectation, Op
from pgctl.errors import PgAgain, PgShutdown, PgStale

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group
    from pgctl.engine.submit import Submitter
    from pgctl.engine.work import Work

_LINGER_S: Final = 0.1
"""A driver that nobody needs stays so long."""
_ROOM_S: Final = 1e-4
"""A submission without room is tried again after so long, then twice as long, and so on."""
_ROOM_MAX_S: Final = 0.01


class Driver:
    """Of one loop, and on its thread, but for shut() and what ends in _soon."""

    def __init__(self, group: Group, loop: asyncio.AbstractEventLoop) -> None:
        self._group = group
        self._loop = loop
        # Our own, so that the engine may be gone before the loop stops watching.
        self._fd = os.dup(check(lib.pg_wait_fd(group.c)))
        self._close = weakref.finalize(self, os.close, self._fd)
        self._close.atexit = False
        self._waits: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._next: asyncio.Handle | None = None
        self._idle: asyncio.TimerHandle | None = None
        group.drivers[loop] = self
        loop.add_reader(self._fd, self._round)

    def until(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """A future that is done when `condition()` is, or when the engine is closed."""
        future = self._loop.create_future()
        future.add_done_callback(self._forget)
        self._waits[future] = condition
        self.round_soon()
        return future

    def _forget(self, future: asyncio.Future[None]) -> None:
        if self._waits.pop(future, None) and not self._waits:
            self._rest()

    def round_soon(self) -> None:
        if self._next is None and self._close.alive:
            self._next = self._loop.call_soon(self._round)

    def _round(self) -> None:
        if self._next:
            self._next.cancel()
            self._next = None
        if not self._close.alive:
            return
        try:
            with self._group:
                armed = self._progress()
        except (PgShutdown, PgStale):
            self._end()
            return
        self._look()
        if armed and not self._waits:
            self._rest()
        elif self._waits and not armed:
            self.round_soon()
        elif not armed:
            self._end()

    def _progress(self) -> bool:
        """Whether the descriptor is armed."""
        group = self._group
        check(lib.pg_progress(group.c))
        group.events.poll()
        self._look()
        armed = check(lib.pg_wait_arm(group.c)) == 1
        for other in self._others():
            other.look_soon()
        return armed

    def _look(self) -> None:
        for future, condition in list(self._waits.items()):
            if future.done() or condition():
                del self._waits[future]
                if not future.done():
                    future.set_result(None)

    def _rest(self) -> None:
        if self._idle is None and self._close.alive:
            self._idle = self._loop.call_later(_LINGER_S, self._idled)

    def _idled(self) -> None:
        self._idle = None
        if not self._waits:
            self._end()

    def _end(self) -> None:
        """Nothing is watched any more; whoever waits finds out why."""
        if not self._close.alive:
            return
        if self._group.drivers.get(self._loop) is self:
            del self._group.drivers[self._loop]
        for other in self._others():
            other.again_soon()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._close()
        for handle in (self._next, self._idle):
            if handle:
                handle.cancel()
        for future in self._waits:
            if not future.done() and not self._loop.is_closed():
                future.set_result(None)
        self._waits.clear()

    def _others(self) -> list[Driver]:
        return [driver for driver in list(self._group.drivers.values()) if driver is not self]

    # ---- From any thread

    def look_soon(self) -> None:
        self._soon(self._look)

    def again_soon(self) -> None:
        self._soon(self.round_soon)

    def shut(self) -> None:
        self._soon(self._end)

    def _soon(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # it is closed, and nothing of it waits
            self._end()


def driver_of(group: Group) -> Driver:
    """Of the running loop."""
    loop = asyncio.get_running_loop()
    for stale in [driver for which, driver in list(group.drivers.items()) if which.is_closed()]:
        stale.shut()
    with group:
        return group.drivers.get(loop) or Driver(group, loop)


async def ended(op: Op) -> None:
    """What Op.__await__ does."""
    if op.seen():
        await asyncio.sleep(0)  # who awaits one after the other lets others run, too
    else:
        try:
            await driver_of(op.group).until(op.seen)
        except asyncio.CancelledError:
            if op.status is None and not isinstance(op.work, Expectation):
                with contextlib.suppress(PgShutdown):
                    op.cancel()
                    driver_of(op.group).until(op.seen)  # makes progress until it has ended
            raise
    if op.status is None:
        op.group.c  # noqa: B018 - raises if this is a forked child, or the engine is gone
        raise PgShutdown("the engine is closed")
    op.raise_failure()


async def submitted(engine: Submitter, work: Work) -> Op:
    """Its Op, as soon as there is room."""
    pause, waited = _ROOM_S, 0.0
    while True:
        try:
            return engine.submit(work)
        except PgAgain:
            if waited >= work.group.op_timeout:
                raise
        driver = driver_of(work.group)
        progress = driver.until(lambda: False)
        try:
            await asyncio.sleep(pause)
        finally:
            progress.cancel()
        waited += pause
        pause = min(2 * pause, _ROOM_MAX_S)


async def taken(
    engine: TransferEngine, group: Group, pick: Callable[[Events], list[Arrived]]
) -> Event:
    """The event that `pick` takes, as soon as it takes one."""
    while True:
        seen = group.events.arrivals
        if found := group.events.now(engine, pick):
            return found[0]
        await driver_of(group).until(lambda seen=seen: group.events.arrivals != seen)  # type: ignore[misc]
