"""How many writes with an immediate have arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgctl._ffi import ffi, lib
from pgctl.engine.native import check, new_error, unsigned, wire_imm
from pgctl.engine.op import Expectation, Op
from pgctl.errors import PgBusy, PgTimeout

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group


class ImmCounter:
    """The counter of one immediate: it rises by 1 for every write, page, slice or barrier with it.

    When it does, the whole payload is visible. Made by TransferEngine.counter; as many as one likes
    share one counter.
    """

    __slots__ = ("_awaited", "engine", "group", "imm")

    def __init__(self, engine: TransferEngine, group: Group, imm: int) -> None:
        wire_imm(imm)
        self.engine = engine
        self.group = group
        self.imm = imm
        self._awaited: tuple[int, Op] | None = None

    def __repr__(self) -> str:
        return f"<ImmCounter {self.imm:#x}>"

    def expect(self, n: int, *, cookie: object = None) -> Op:
        """An Op that ends when n writes have arrived; they are then subtracted.

        Raises PgBusy while another expectation is outstanding.
        """
        return expect(self.engine, self.group, self.imm, n, cookie)

    def wait(self, n: int, timeout: float | None = None) -> None:
        """Wait until n writes have arrived, and subtract them.

        timeout: seconds; None is for ever. After PgTimeout, or a signal's exception, the
        expectation stands: waiting for the same n goes on with it.
        """
        if self._awaited is None:
            self._awaited = n, self.expect(n)
        expected, op = self._awaited
        if n != expected:
            raise PgBusy(f"{expected} writes with immediate {self.imm:#x} are awaited already")
        try:
            op.wait(timeout)
        except PgTimeout:
            have = f"{self.value} of {n} writes with immediate {self.imm:#x} have arrived"
            raise PgTimeout(f"{have} after {timeout} s") from None
        finally:
            if op.status is not None:
                self._awaited = None

    @property
    def value(self) -> int:
        """Writes that have arrived and no expectation has subtracted."""
        value = ffi.new("uint64_t *")
        check(lib.pg_imm_value(self.group.c, self.imm, value))
        return int(value[0])

    def free(self) -> None:
        """Set it to 0; an outstanding expectation ends with PgCanceled. Idempotent."""
        lib.pg_free_imm(self.group.c, self.imm)


def expect(engine: TransferEngine, group: Group, imm: int, n: int, cookie: object) -> Op:
    error, what = new_error(), Expectation(imm, n)
    wire_imm(imm)
    unsigned(n, "number of writes")
    if cookie is None:
        slot = group.take()
        op = Op(engine, group, what, slot)
        group.pending[slot] = op
        rc = lib.pg_expect_imm_flag(group.c, imm, n, slot.flag, error)
    else:
        op = Op(engine, group, what, None, cookie=cookie)
        group.queued[id(op)] = op
        done = ffi.new("struct pg_done *", {"cookie": id(op)})
        rc = lib.pg_expect_imm(group.c, imm, n, done, error)
    if rc:
        group.withdraw([op])
    check(rc, error)
    return op
