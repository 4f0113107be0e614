"""One-sided, reliable, unordered transfers: the Python face of the C engine."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pgctl._ffi import ffi, lib
from pgctl.engine import config, memory, peer
from pgctl.engine.awaited import Awaited
from pgctl.engine.config import GroupConfig, Limits, NicStats, Progress
from pgctl.engine.counter import ImmCounter, Writers, expect
from pgctl.engine.events import Event, Events
from pgctl.engine.group import Group
from pgctl.engine.log import Sink, descriptor
from pgctl.engine.memory import MemoryRegion, RemoteRegion
from pgctl.engine.native import check, new_error
from pgctl.engine.op import Op
from pgctl.engine.peer import NetAddr, Peer, PeerGroup
from pgctl.engine.views import Views
from pgctl.engine.watcher import Watcher
from pgctl.errors import PgInvalid, PgTimeout


class TransferEngine(Awaited):
    """An engine: its groups of NICs, the memory that they reach, and the peers they talk to.

    groups: one GroupConfig each; or one group of `nics` equal NICs with `transport` and `progress`
    (see NicConfig and GroupConfig). op_timeout, op_limit: seconds after which an operation fails,
    without progress or in any case. heartbeat: peers hear of us so often; one that was not heard
    for `silent` is unresponsive, a host that acknowledges nothing for `dead` is dead. goodbye:
    closing waits so long for peers that may still write to registered memory. control: where peers
    on other hosts find us, an address, address:port or an interface. What is None is as the
    environment says (PGCTL_MAX_OPS, PGCTL_OP_TIMEOUT_MS, …; see struct pg_config), else as the
    engine does.

    Any thread may call anything, but `close` only when no other thread submits. Waiting does not
    hold the GIL, and a signal's handler runs within 50 ms. Sizes and offsets are in bytes, times in
    seconds; `group` is an index. What the engine refuses or cannot do is a PgError, an argument of
    a wrong type a TypeError. A forked child has no engine: everything raises PgStale there, closing
    does nothing, and memory of alloc_mr is not there.

    `await` works on every Op, and on what Awaited lists.

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
        op_limit: float | None = None,
        heartbeat: float | None = None,
        silent: float | None = None,
        dead: float | None = None,
        goodbye: float | None = None,
        control: str | None = None,
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
                "op_limit_ns": config.nanoseconds(op_limit, "op_limit"),
                "heartbeat_ns": config.nanoseconds(heartbeat, "heartbeat"),
                "silent_ns": config.nanoseconds(silent, "silent"),
                "dead_ns": config.nanoseconds(dead, "dead"),
                "goodbye_ns": config.nanoseconds(goodbye, "goodbye"),
                "spin_ns": config.nanoseconds(spin, "spin"),
                "busy_poll": busy_poll,
                "max_ops": max_ops,
                "max_events": max_events,
                "max_unclaimed": max_unclaimed,
                "max_peers": max_peers,
                "max_regions": max_regions,
            },
            control,
        )
        self._views = Views()
        kept: list[dict[int, object]] = [{} for _ in groups]
        self._groups = [
            Group(lib.pg_engine_group(c, i), timeout, self._views, memory)
            for i, memory in enumerate(kept)
        ]
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

        Threads and tasks that wait are woken. Waits for peers that may still write to registered
        memory, at most `goodbye` seconds. While numpy arrays show memory of the engine, that and
        the goodbye are put off until they are gone.
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

    def dump(self, file: Sink | None = None) -> str:
        """What is in flight, and what each waiter waits for, for people.

        file: a descriptor, or a file that has one, which then gets it as well.
        """
        if file is not None:
            fd = descriptor(file)
            for group in self._groups:
                check(lib.pg_dump(group.c, fd))
        return "".join(group.dump() for group in self._groups)

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

    def add_peer_group(
        self, peers: Sequence[Peer | bytes], timeout: float | None = None, group: int = 0
    ) -> PeerGroup:
        """Peers that will be addressed together, by Peer or NetAddr: connects to all of them.

        Waits for `timeout` seconds (None: the engine's op_timeout). Raises PgTimeout, PgPeerDown,
        PgProtocol; PgInvalid for a peer that is in it twice.
        """
        members = [each if isinstance(each, Peer) else self.add_peer(each, group) for each in peers]
        return peer.add_peer_group(self, self._group(group), members, timeout)

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
        __array_interface__; or memory of a GPU that has __cuda_array_interface__, where the NICs
        reach it: what a stream still does there is the caller's to wait for. It is held, and
        cannot be resized, until the region is closed. Raises TypeError or PgInvalid for what is
        not so, PgUnsupported for GPU memory over shm, or if CUDA was loaded after the engine.
        """
        return memory.reg_mr(self, self._group(group), obj)

    def import_mr(self, desc: bytes, group: int = 0) -> RemoteRegion:
        """Make a peer's region known as a destination. Its owner must have been added.

        An MrDesc can be a destination by itself; this chooses when it is imported and forgotten.
        Raises PgProtocol for bytes that are not an MrDesc, PgInvalid for one of an unknown owner.
        """
        return memory.import_mr(self, self._group(group), desc)

    # ---- Counters

    def counter(self, imm: int, group: int = 0) -> ImmCounter:
        """The counter of an immediate."""
        return ImmCounter(self, self._group(group), imm)

    def expect_imm_count(
        self,
        imm: int,
        n: int,
        group: int = 0,
        *,
        from_: Writers | None = None,
        owes: Sequence[int] | None = None,
        cookie: object = None,
    ) -> Op:
        """See ImmCounter.expect."""
        return expect(self, self._group(group), imm, n, from_=from_, owes=owes, cookie=cookie)

    # ---- Watchers

    def watcher(self, cookie: object = None, group: int = 0) -> Watcher:
        """A word whose changes are told by events that carry `cookie`."""
        return Watcher(self, self._group(group), cookie)

    # ---- Progress and events

    def progress(self) -> int:
        """One round in each inline group; how much has happened. Lets go of what has ended."""
        happened = 0
        for group in self._groups:
            happened += check(lib.pg_progress(group.c))
            group.settle()
        return happened

    def poll_events(self, group: int = 0) -> list[Event]:
        """Some of the events that are there; [] when there are none."""
        return self.wait_events(0, group)

    def wait_events(self, timeout: float | None = None, group: int = 0) -> list[Event]:
        """Wait for at least one event; [] after `timeout` seconds (None: for ever)."""
        return self._group(group).events.wait(self, Events.pick_all, timeout)

    def recv(self, timeout: float | None = None, group: int = 0) -> tuple[Peer, bytes]:
        """Wait for a message; other events stay in the queue.

        Raises PgTimeout after `timeout` seconds (None: for ever), PgInvalid (EMSGSIZE) when the
        message was longer than its buffer; its beginning is lost, too, then.
        """
        mine = self._group(group)
        found = mine.events.wait(self, Events.pick_message, timeout)
        if not found:
            raise mine.with_dump(PgTimeout(f"no message after {timeout} s"))
        return found[0].message()

    # ---- Inside

    def _group(self, index: int) -> Group:
        if not 0 <= index < len(self._groups):
            raise PgInvalid(f"group {index} of {len(self._groups)}")
        return self._groups[index]


def _destroy(c: Any, groups: list[weakref.ref[Group]], kept: object, pid: int) -> None:
    """kept: what the engine must not outlive. A forked child leaves the engine to its parent."""
    del kept
    for ref in groups:
        if group := ref():
            group.raw = None
    if os.getpid() == pid:
        lib.pg_engine_destroy(c)
