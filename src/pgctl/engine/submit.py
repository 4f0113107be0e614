"""Submitting operations: what TransferEngine can do with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgctl._ffi import ffi, lib
from pgctl.engine.memory import MemoryRegion, RemoteRegion
from pgctl.engine.native import IMM_MAX, NO_IMM, check, new_error, unsigned, wire_imm
from pgctl.engine.op import Op
from pgctl.engine.peer import Peer, PeerGroup
from pgctl.engine.work import (
    Barrier,
    Destination,
    Fence,
    PagedWrites,
    Pages,
    Scatter,
    Send,
    Slice,
    Source,
    Spread,
    Work,
    Write,
    destination,
    same_engine,
    same_group,
    source,
)
from pgctl.errors import PgError

if TYPE_CHECKING:
    from pgctl.engine.group import Group

_submit_single_write = lib.pg_submit_single_write


class Submitter(ABC):
    """The part of a TransferEngine that takes operations."""

    def submit_single_write(
        self,
        length: int,
        imm: int | None,
        src: Source,
        dst: Destination,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write `length` bytes from src to dst; may be split over NICs.

        src: a MemoryRegion, or (MemoryRegion, offset). dst: a RemoteRegion or an MrDesc, or a tuple
        of one and an offset. imm: at most 30 bits, counted at the peer; None: the peer's engine
        sees nothing.

        Of every submission: the source must stay as it is until the Op has ended, and the bytes at
        the destination are undefined until the peer has counted the write. remote_visible: the Op
        ends only when they are visible there, counted or not. limit: it fails after so many
        seconds, progress or not (None: as the engine's op_limit). cookie: anything; the end is then
        told by an Event that carries it. block: wait for room, at most op_timeout, instead of
        raising PgAgain. Raises PgInvalid (out of bounds, among others), PgStale (also when the
        owner has revoked the region), PgPeerDown; nothing was submitted then.
        """
        if remote_visible or limit is not None or cookie is not None or block:
            work = Write(length, imm, src, dst, remote_visible=remote_visible, limit=limit)
            return self.submit(work, cookie=cookie, block=block)
        region, src_offset = src if isinstance(src, tuple) else (src, 0)
        remote, dst_offset = dst if isinstance(dst, tuple) else (dst, 0)
        if type(region) is not MemoryRegion:
            source(region)  # raises
        if region.engine is not self:
            same_engine(self, region)  # raises
        group = region.group
        if type(remote) is not RemoteRegion or remote.group is not group:
            remote, _ = destination(group, remote)
        if imm is None:
            imm = NO_IMM
        elif imm > IMM_MAX:
            wire_imm(imm)  # raises
        slot = group.take()
        op = group.pending[slot] = Op(self, group, (region, remote, length), slot)
        try:
            rc = _submit_single_write(
                group.raw,
                length,
                imm,
                region.handle,
                src_offset,
                remote.handle,
                dst_offset,
                0,
                slot.flag,
                slot.error,
            )
        except (OverflowError, TypeError):
            group.give(slot)
            group.c  # noqa: B018 - raises if the engine is closed
            return self.submit(Write(length, imm, src, dst))  # raises, and says what is wrong
        if rc:
            group.give(slot)
            check(rc, slot.error)
        return op

    def submit_paged_writes(
        self,
        page_len: int,
        imm: int | None,
        src_pages: Pages,
        dst_pages: Pages,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write page i of src_pages to page i of dst_pages; each counts 1, and none is split.

        src_pages: Pages of a MemoryRegion. dst_pages: as many, of a RemoteRegion or an MrDesc.
        The rest is as in submit_single_write.
        """
        work = PagedWrites(
            page_len, imm, src_pages, dst_pages, remote_visible=remote_visible, limit=limit
        )
        return self.submit(work, cookie=cookie, block=block)

    def submit_scatter(
        self,
        imm: int | None,
        src: MemoryRegion,
        dsts: Sequence[Slice],
        spread: Spread = "bytes",
        *,
        group: PeerGroup | None = None,
        remote_visible: bool = False,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write one slice of src to each of dsts; each counts 1 at its peer.

        spread: large slices are split over the NICs ("bytes"), destination i uses NIC i mod n
        ("peer"), or everything goes by the first ("one"). group: dsts[i] is then a region of its
        peer i. Op.statuses says how each has ended. Takes room for every destination. The rest is
        as in submit_single_write.
        """
        work = Scatter(
            imm, src, dsts, spread, group=group, remote_visible=remote_visible, limit=limit
        )
        return self.submit(work, cookie=cookie, block=block)

    def submit_barrier(
        self,
        imm: int,
        peers: Sequence[Peer] | PeerGroup,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Raise the counter of imm by 1 at each of the peers.

        Op.statuses says how each has ended. The rest is as in submit_single_write.
        """
        work = Barrier(imm, peers, remote_visible=remote_visible, limit=limit)
        return self.submit(work, cookie=cookie, block=block)

    def submit_send(
        self,
        peer: Peer,
        data: Any,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Send a message of 1 to limits().max_msg bytes; copied now.

        It waits at the sender until the peer has room in its pool. Messages arrive in any order.
        The rest is as in submit_single_write.
        """
        work = Send(peer, data, remote_visible=remote_visible, limit=limit)
        return self.submit(work, cookie=cookie, block=block)

    def fence(
        self,
        peer: Peer,
        *,
        limit: float | None = None,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """An Op that ends when nothing submitted before it can land at the peer any more.

        It ends well also when the peer is known to be dead, and with PgPeerDown when it is lost:
        it may live, and take what was on its way. The rest is as in submit_single_write.
        """
        return self.submit(Fence(peer, limit=limit), cookie=cookie, block=block)

    def submit(self, work: Work, *, cookie: object = None, block: bool = False) -> Op:
        """Submit what was prepared."""
        cookies = None if cookie is None else [cookie]
        return self.submit_batch([work], cookies=cookies, block=block)[0]

    def submit_batch(
        self,
        works: Sequence[Work],
        *,
        cookies: Sequence[object] | None = None,
        block: bool = False,
    ) -> list[Op]:
        """Submit many operations of one group in one call, with one doorbell where there is one.

        cookies: one for each. Returns the Ops of those that were accepted, from the front. When
        they are fewer, the next had no room or was wrong: submit the rest again, and it goes or
        raises. Raises only when not even the first was accepted.
        """
        if not works:
            return []
        group = works[0].group
        for work in works:
            same_engine(self, work)
            same_group(group, work)
        array = ffi.new("struct pg_op[]", len(works))
        ops: list[Op] = []
        try:
            for i, work in enumerate(works):
                cookie = cookies[i] if cookies else None
                ops.append(_prepare(self, group, array + i, work, cookie))
            accepted = group.submit(array, len(works), block=block)
        except BaseException as error:
            # A signal's handler raised at any point, also when some had been accepted.
            group.withdraw(op for op in ops if isinstance(error, PgError) or op.refused())
            raise
        group.withdraw(ops[accepted:])
        return ops[:accepted]

    def submit_recvs(self, length: int, count: int, group: int = 0) -> None:
        """Add `count` buffers of `length` bytes to the pool that messages arrive in.

        A message that finds no free buffer waits at its sender. A longer one arrives cut.
        """
        error = new_error()
        c = self._group(group).c
        check(
            lib.pg_submit_recvs(
                c, unsigned(length, "length", 32), unsigned(count, "count", 32), error
            ),
            error,
        )

    @abstractmethod
    def _group(self, index: int) -> Group: ...


def _prepare(engine: Submitter, group: Group, c: Any, work: Work, cookie: object) -> Op:
    """Fill in a struct pg_op *, and make the Op that tells of its end."""
    c[0] = work.c[0]
    each = ffi.new("int32_t[]", work.fan_out) if work.fan_out else None
    if each:
        fan = c.u.scatter if c.opcode == lib.PG_OP_SCATTER else c.u.barrier
        fan.status = each
    if cookie is None:
        slot = group.take()
        c.done.flag = slot.flag
        op = group.pending[slot] = Op(engine, group, work, slot, each=each)
    else:
        op = Op(engine, group, work, None, cookie=cookie, each=each)
        c.done.cookie = id(op)
        group.queued[id(op)] = op
    return op
