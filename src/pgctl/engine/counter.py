"""How many writes with an immediate have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pgctl._ffi import ffi, lib
from pgctl.engine.native import check, new_error, unsigned, wire_imm
from pgctl.engine.op import Expectation, Op
from pgctl.engine.peer import Peer, PeerGroup, members_of, peers_of
from pgctl.errors import PgBusy, PgInvalid, PgTimeout

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group

Writers: TypeAlias = Sequence[Peer] | PeerGroup


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
        self._awaited: tuple[tuple[object, ...], Op] | None = None

    def __repr__(self) -> str:
        return f"<ImmCounter {self.imm:#x}>"

    def expect(
        self,
        n: int,
        *,
        from_: Writers | None = None,
        owes: Sequence[int] | None = None,
        cookie: object = None,
    ) -> Op:
        """An Op that ends when n writes have arrived; they are then subtracted.

        from_: who will write, Peers or a PeerGroup. The Op then ends with PgPeerDown as soon as one
        of them dies that still owes writes. owes: how many of the n each will write; None: all the
        same. This tells peers apart as long as every expectation on this immediate does.

        Raises PgBusy while another expectation is outstanding.
        """
        return expect(self.engine, self.group, self.imm, n, from_=from_, owes=owes, cookie=cookie)

    def wait(
        self,
        n: int,
        timeout: float | None = None,
        *,
        from_: Writers | None = None,
        owes: Sequence[int] | None = None,
    ) -> None:
        """Wait until n writes have arrived, and subtract them. from_, owes: as in `expect`.

        timeout: seconds; None is for ever. After PgTimeout, or a signal's exception, the
        expectation stands: waiting for the same goes on with it.
        """
        op = self._await(n, from_, owes)
        try:
            op.wait(timeout)
        except PgTimeout as late:
            have = f"{self.value} of {n} writes with immediate {self.imm:#x} have arrived"
            late.args = (f"{have} after {timeout} s",)
            raise
        finally:
            self._awaited_ended(op)

    async def reached(
        self, n: int, *, from_: Writers | None = None, owes: Sequence[int] | None = None
    ) -> None:
        """`wait` in an event loop. When it is cancelled, the expectation stands likewise."""
        op = self._await(n, from_, owes)
        try:
            await op
        finally:
            self._awaited_ended(op)

    def _await(self, n: int, from_: Writers | None, owes: Sequence[int] | None) -> Op:
        key = n, None if from_ is None else tuple(peers_of(from_)), owes and tuple(owes)
        if self._awaited is None:
            self._awaited = key, self.expect(n, from_=from_, owes=owes)
        expected, op = self._awaited
        if key != expected:
            raise PgBusy(f"{expected[0]} writes with immediate {self.imm:#x} are awaited already")
        return op

    def _awaited_ended(self, op: Op) -> None:
        if op.status is not None and self._awaited and self._awaited[1] is op:
            self._awaited = None

    @property
    def value(self) -> int:
        """Writes that have arrived and no expectation has subtracted."""
        value = ffi.new("uint64_t *")
        check(lib.pg_imm_value(self.group.c, self.imm, value))
        return int(value[0])

    def free(self) -> None:
        """Forget it; an outstanding expectation ends with PgCanceled. Idempotent.

        Writes that still come are not counted, until the immediate is expected or read again, or
        all who were peers then are gone.
        """
        check(lib.pg_free_imm(self.group.c, self.imm))


def expect(
    engine: TransferEngine,
    group: Group,
    imm: int,
    n: int,
    *,
    from_: Writers | None,
    owes: Sequence[int] | None,
    cookie: object,
) -> Op:
    error, done = new_error(), ffi.new("struct pg_done *")
    wire_imm(imm)
    unsigned(n, "number of writes")
    c, (c_from, what) = group.c, _named(group, imm, n, from_, owes)
    if cookie is None:
        slot = group.take()
        op = Op(engine, group, what, slot)
        group.pending[slot] = op
        done.flag = slot.flag
    else:
        op = Op(engine, group, what, None, cookie=cookie)
        group.queued[id(op)] = op
        done.cookie = id(op)
    rc = lib.pg_expect_imm_from(c, imm, n, c_from, done, error)
    if rc:
        group.withdraw([op])
    check(rc, error)
    return op


def _named(
    group: Group, imm: int, n: int, from_: Writers | None, owes: Sequence[int] | None
) -> tuple[Any, Expectation]:
    """A struct pg_from *, or NULL for anybody."""
    if from_ is None:
        if owes is not None:
            raise PgInvalid("owes without from_: whose are they?")
        return ffi.NULL, Expectation(imm, n)
    array, count, handle = members_of(group, from_)
    peers = peers_of(from_)
    shares = ffi.NULL
    if owes is not None:
        if len(owes) != len(peers):
            raise PgInvalid(f"{len(owes)} numbers of writes for {len(peers)} writers")
        shares = ffi.new("uint64_t[]", [unsigned(each, "number of writes") for each in owes])
    c = ffi.new("struct pg_from *", [array, shares, count, handle])
    writers = tuple(peer.handle for peer in peers)
    return c, Expectation(imm, n, writers, (from_, array, shares))
