"""What is in flight."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pgctl.errors import PgError, PgInvalid, PgTimeout, error_of

IDLE: Final = 2
"""A flag that the engine has not been given: it writes 0, then 1 or -errno."""

if TYPE_CHECKING:
    from pgctl.engine.group import Group, Slot
    from pgctl.engine.memory import MemoryRegion, RemoteRegion
    from pgctl.engine.submit import Submitter
    from pgctl.engine.work import Work

    Written: TypeAlias = tuple[MemoryRegion, RemoteRegion, int]
    """A single write, without the cost of an object: source, destination, bytes."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """That `n` writes with an immediate arrive."""

    imm: int
    n: int
    writers: tuple[int, ...] = ()
    """The handles of the peers that are named; () for any."""
    held: object = None

    @property
    def what(self) -> str:
        return f"{self.n} writes with immediate {self.imm:#x}"

    @property
    def targets(self) -> tuple[bytes | int, ...]:
        return self.writers


class Op:
    """An operation that was submitted, or an expectation.

    It may be dropped: the engine keeps what it borrows until it has ended. One made with a `cookie`
    ends when its event is taken from the queue, the others by themselves. Any thread may use it.
    """

    __slots__ = ("__weakref__", "cookie", "each", "engine", "group", "slot", "status", "work")

    def __init__(
        self,
        engine: Submitter,
        group: Group,
        work: Work | Written | Expectation,
        slot: Slot | None,
        *,
        cookie: object = None,
        each: Any = None,
    ) -> None:
        self.engine = engine
        self.group = group
        self.work: Work | Written | Expectation | None = work
        self.slot = slot
        self.cookie = cookie
        self.each = each
        self.status: int | None = None
        """None until it is seen to have ended; then 0 or -errno."""

    def __repr__(self) -> str:
        state = "in flight" if self.status is None else str(self.error or "done")
        return f"<Op: {state}>"

    def done(self) -> bool:
        """Whether it has ended, well or not. Makes progress in an inline group."""
        if self.status is None and self.slot:
            self.group.await_op(self, 0)
        return self.status is not None

    def seen(self) -> bool:
        """Whether it has ended, without making progress."""
        if self.status is None:
            self.group.settle([self])
        return self.status is not None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended; raise the error if it failed.

        timeout: seconds; None is for ever, and yet an operation that makes no progress fails after
        the engine's op_timeout. Raises PgTimeout when it is still in flight, PgShutdown when the
        engine is closed meanwhile.
        """
        if self.status is None:
            if not self.slot:
                raise PgInvalid("an operation with a cookie ends on the event queue")
            if not self.group.await_op(self, timeout):
                late = PgTimeout(f"{self._what()[0]}: not done after {timeout} s")
                raise self.group.with_dump(late)
        self.raise_failure()

    def __await__(self) -> Generator[Any, None, None]:
        """Wait in an event loop of asyncio; the rest is as in `wait`.

        Cancelling the task that awaits it cancels the operation; what it borrows stays borrowed
        until it has ended. An expectation stands.
        """
        from pgctl.engine.aio import ended

        return ended(self).__await__()

    def cancel(self) -> bool:
        """Take it back; whether it was in flight.

        What was not posted is dropped, what was is awaited. It then ends with PgCanceled, or as it
        does if all of it was posted already. Raises PgInvalid for an expectation: free its counter.
        """
        if isinstance(self.work, Expectation):
            raise PgInvalid("an expectation is not cancelled: free its counter")
        return self.status is None and self.group.cancel(self)

    def raise_failure(self) -> None:
        """Raise its error, if it has failed."""
        if self.status:
            raise self.group.with_dump(self._failure(self.status))

    @property
    def error(self) -> PgError | None:
        """Why it failed, once it has."""
        return self._failure(self.status) if self.status else None

    @property
    def statuses(self) -> list[int] | None:
        """Of a scatter or a barrier that has ended: 0 or -errno of each destination, in order."""
        return None if self.status is None or self.each is None else list(self.each)

    def finish(self, status: int) -> None:
        """It has ended: what it borrowed is free."""
        self.status = status
        self.slot = None
        if status == 0:
            self.work = None

    def refused(self) -> bool:
        """Whether it is known that the engine has not taken it."""
        return self.slot is not None and self.slot.flag[0] == IDLE

    def _what(self) -> tuple[str, tuple[bytes | int, ...]]:
        work = self.work
        if work is None:
            return "operation", ()
        if isinstance(work, tuple):
            return f"write of {work[2]} bytes", (work[1].desc,)
        return work.what, work.targets

    def _failure(self, status: int) -> PgError:
        what, targets = self._what()
        error = error_of(status, f"{what}: {self.group.reason(status, targets)}")
        error.statuses = self.statuses
        return error
