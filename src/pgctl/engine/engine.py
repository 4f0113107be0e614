"""One-sided, reliable, unordered transfers: the Python face of the C engine."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pgctl._ffi import ffi, lib
from pgctl.engine import config, memory
from pgctl.engine.config import GroupConfig, Limits, NicStats, Progress
from pgctl.engine.counter import ImmCounter, expect
from pgctl.engine.events import Event, Events
from pgctl.engine.group import Group
from pgctl.engine.memory import MemoryRegion, RemoteRegion
from pgctl.engine.native import IMM_MAX, NO_IMM, check, new_error, unsigned, wire_imm
from pgctl.engine.op import Op
from pgctl.engine.peer import NetAddr, Peer
from pgctl.engine.views import Views
from pgctl.engine.work import (
    Barrier,
    Destination,
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
from pgctl.errors import PgError, PgInvalid, PgTimeout

_submit_single_write = lib.pg_submit_single_write


class TransferEngine:
    """An engine: its groups of NICs, the memory that they reach, and the peers they talk to.

    groups: one GroupConfig each; or one group of `nics` equal NICs with `transport` and `progress`
    (see NicConfig and GroupConfig). op_timeout: seconds after which an operation without progress
    fails. What is None is as the environment says (PGCTL_MAX_OPS, PGCTL_OP_TIMEOUT_MS, …; see
    struct pg_config), else as the engine does.

    Any thread may call anything, but `close` only when no other thread submits. Waiting does not
    hold the GIL, and a signal's handler runs within 50 ms. Sizes and offsets are in bytes, times in
    seconds; `group` is an index. What the engine refuses or cannot do is a PgError, an argument of
    a wrong type a TypeError.

    Raises PgInvalid, PgUnsupported (this machine cannot run the transport), PgNoMemory.
    """

    def __init__(
        self,
        groups: Sequence[GroupConfig] | None = None,
        *,
        nics: int = 1,
        transport: str = "",
        progress: Progress = "auto",
        op_timeout: float | None = None,
        spin: float | None = None,
        busy_poll: bool | None = None,
        max_ops: int | None = None,
        max_events: int | None = None,
        max_unclaimed: int | None = None,
        max_peers: int | None = None,
        max_regions: int | None = None,
    ) -> None:
        if groups is None:
            groups = [config.uniform(nics, transport, progress)]
        elif (nics, transport, progress) != (1, "", "auto"):
            raise PgInvalid("with groups, say nics, transport and progress in each of them")
        c, timeout = config.create(
            groups,
            {
                "op_timeout_ns": config.nanoseconds(op_timeout, "op_timeout"),
                "spin_ns": config.nanoseconds(spin, "spin"),
                "busy_poll": busy_poll,
                "max_ops": max_ops,
                "max_events": max_events,
                "max_unclaimed": max_unclaimed,
                "max_peers": max_peers,
                "max_regions": max_regions,
            },
        )
        self._views = Views()
        kept: list[dict[int, object]] = [{} for _ in groups]
        self._groups = [
            Group(lib.pg_engine_group(c, i), timeout, self._views, memory)
            for i, memory in enumerate(kept)
        ]
        self._events = [Events(group) for group in self._groups]
        refs = [weakref.ref(group) for group in self._groups]
        self._finalizer = weakref.finalize(self, _destroy, c, refs, kept, os.getpid())

    # ---- Life

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._groups[0].closing

    def close(self) -> None:
        """Say goodbye to peers, end what is in flight (PgShutdown), free everything. Idempotent.

        Threads that wait are woken. While numpy arrays show memory of alloc_mr, that and the
        goodbye are put off until they are gone.
        """
        if not self.closed:
            for group in self._groups:
                group.close()
            self._views.when_none(self._end)

    def _end(self) -> None:
        self._finalizer()
        for group in self._groups:
            group.shut()

    # ---- Facts

    @property
    def group(self) -> Any:
        """For C: the struct pg_group * of the first group; see native()."""
        return self.native()

    def native(self, group: int = 0) -> Any:
        """For C: a struct pg_group *, valid until close()."""
        return self._group(group).c

    def limits(self, group: int = 0) -> Limits:
        return config.limits_of(self._group(group).c)

    def stats(self, group: int = 0) -> list[NicStats]:
        """Totals of each NIC."""
        return config.stats_of(self._group(group).c)

    # ---- Peers

    def main_address(self, group: int = 0) -> NetAddr:
        """What peers need to talk to this group."""
        buffer = ffi.new("char[]", lib.PG_ADDR_MAX)
        size = ffi.new("size_t *", lib.PG_ADDR_MAX)
        check(lib.pg_main_address(self._group(group).c, buffer, size))
        return NetAddr(ffi.buffer(buffer, size[0]))

    def add_peer(self, addr: bytes, group: int = 0) -> Peer:
        """Make a peer known. The first operation connects, or `connect`.

        Raises PgProtocol for bytes that are not a NetAddr, or of another wire version.
        """
        mine, handle, error = self._group(group), ffi.new("pg_peer_t *"), new_error()
        check(lib.pg_add_peer(mine.c, addr, len(addr), handle, error), error)
        mine.peers.add(handle[0])
        return Peer(self, mine, handle[0])

    def connect(self, peer: Peer, timeout: float | None = None) -> None:
        """See Peer.connect."""
        peer.connect(timeout)

    # ---- Memory

    def alloc_mr(
        self,
        length: int,
        numa: int = -1,
        hugepages: bool = False,
        prefault: bool = True,
        group: int = 0,
    ) -> MemoryRegion:
        """`length` bytes of memory that local peers map: the fast kind.

        numa: its node, -1 for any. prefault: touch every page now. Raises PgNoMemory, also when
        there are no huge pages.
        """
        flags = hugepages * lib.PG_ALLOC_HUGEPAGES | prefault * lib.PG_ALLOC_PREFAULT
        return memory.alloc_mr(self, self._group(group), length, numa, flags)

    def reg_mr(self, obj: object, group: int = 0) -> MemoryRegion:
        """Register memory of the caller's where it is, without a copy.

        obj: writable and C-contiguous, with the buffer protocol (bytearray, mmap, numpy) or
        __array_interface__. It is held, and cannot be resized, until the region is closed. Raises
        TypeError or PgInvalid for what is not so, PgUnsupported for GPU memory.
        """
        return memory.reg_mr(self, self._group(group), obj)

    def import_mr(self, desc: bytes, group: int = 0) -> RemoteRegion:
        """Make a peer's region known as a destination. Its owner must have been added.

        An MrDesc can be a destination by itself; this chooses when it is imported and forgotten.
        Raises PgProtocol for bytes that are not an MrDesc, PgInvalid for one of an unknown owner.
        """
        return memory.import_mr(self, self._group(group), desc)

    # ---- Operations

    def submit_single_write(
        self,
        length: int,
        imm: int | None,
        src: Source,
        dst: Destination,
        *,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write `length` bytes from src to dst; may be split over NICs.

        src: a MemoryRegion, or (MemoryRegion, offset). dst: a RemoteRegion or an MrDesc, or a tuple
        of one and an offset. imm: at most 30 bits, counted at the peer; None: the peer's engine
        sees nothing.

        Of every submission: the source must stay as it is until the Op has ended, and the bytes at
        the destination are undefined until the peer has counted the write. cookie: anything; the
        end is then told by an Event that carries it. block: wait for room, at most op_timeout,
        instead of raising PgAgain. Raises PgInvalid (out of bounds, among others), PgStale,
        PgPeerDown; nothing was submitted then.
        """
        if cookie is not None or block:
            return self.submit(Write(length, imm, src, dst), cookie=cookie, block=block)
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
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write page i of src_pages to page i of dst_pages; each counts 1, and none is split.

        src_pages: Pages of a MemoryRegion. dst_pages: as many, of a RemoteRegion or an MrDesc.
        The rest is as in submit_single_write.
        """
        work = PagedWrites(page_len, imm, src_pages, dst_pages)
        return self.submit(work, cookie=cookie, block=block)

    def submit_scatter(
        self,
        imm: int | None,
        src: MemoryRegion,
        dsts: Sequence[Slice],
        spread: Spread = "bytes",
        *,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Write one slice of src to each of dsts; each counts 1 at its peer.

        spread: large slices are split over the NICs ("bytes"), destination i uses NIC i mod n
        ("peer"), or everything goes by the first ("one"). Op.statuses says how each has ended.
        Takes room for every destination. The rest is as in submit_single_write.
        """
        return self.submit(Scatter(imm, src, dsts, spread), cookie=cookie, block=block)

    def submit_barrier(
        self,
        imm: int,
        peers: Sequence[Peer],
        *,
        cookie: object = None,
        block: bool = False,
    ) -> Op:
        """Raise the counter of imm by 1 at each of the peers.

        Op.statuses says how each has ended. The rest is as in submit_single_write.
        """
        return self.submit(Barrier(imm, peers), cookie=cookie, block=block)

    def submit_send(
        self, peer: Peer, data: Any, *, cookie: object = None, block: bool = False
    ) -> Op:
        """Send a message of 1 to limits().max_msg bytes; copied now.

        It waits at the sender until the peer has room in its pool. Messages arrive in any order.
        The rest is as in submit_single_write.
        """
        return self.submit(Send(peer, data), cookie=cookie, block=block)

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

    # ---- Counters

    def counter(self, imm: int, group: int = 0) -> ImmCounter:
        """The counter of an immediate."""
        return ImmCounter(self, self._group(group), imm)

    def expect_imm_count(self, imm: int, n: int, group: int = 0, *, cookie: object = None) -> Op:
        """See ImmCounter.expect."""
        return expect(self, self._group(group), imm, n, cookie)

    # ---- Progress and events

    def progress(self) -> int:
        """One round in each inline group; how much has happened. Lets go of what has ended."""
        happened = 0
        for group in self._groups:
            happened += lib.pg_progress(group.c)
            group.settle()
        return happened

    def poll_events(self, group: int = 0) -> list[Event]:
        """Some of the events that are there; [] when there are none."""
        return self.wait_events(0, group)

    def wait_events(self, timeout: float | None = None, group: int = 0) -> list[Event]:
        """Wait for at least one event; [] after `timeout` seconds (None: for ever)."""
        return self._queue(group).wait(self, _take_all, timeout) or []

    def recv(self, timeout: float | None = None, group: int = 0) -> tuple[Peer, bytes]:
        """Wait for a message; other events stay in the queue.

        Raises PgTimeout after `timeout` seconds (None: for ever), PgInvalid (EMSGSIZE) when the
        message was longer than its buffer; its beginning is lost, too, then.
        """
        event = self._queue(group).wait(self, _take_message, timeout)
        if event is None:
            raise PgTimeout(f"no message after {timeout} s")
        if event.error:
            raise event.error
        assert event.peer  # a message has a sender
        return event.peer, event.data

    # ---- Inside

    def _group(self, index: int) -> Group:
        if not 0 <= index < len(self._groups):
            raise PgInvalid(f"group {index} of {len(self._groups)}")
        return self._groups[index]

    def _queue(self, index: int) -> Events:
        self._group(index)
        return self._events[index]


def _destroy(c: Any, groups: list[weakref.ref[Group]], kept: object, pid: int) -> None:
    """kept: what the engine must not outlive. A forked child leaves the engine to its parent."""
    del kept
    for ref in groups:
        if group := ref():
            group.raw = None
    if os.getpid() == pid:
        lib.pg_engine_destroy(c)


def _prepare(engine: TransferEngine, group: Group, c: Any, work: Work, cookie: object) -> Op:
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


def _take_all(events: deque[Event]) -> list[Event] | None:
    taken = list(events)
    events.clear()
    return taken or None


def _take_message(events: deque[Event]) -> Event | None:
    for event in events:
        if event.kind == "recv":
            events.remove(event)
            return event
    return None
