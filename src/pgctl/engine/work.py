"""Operations, ready to be submitted: once, again, or many in one call.

A destination is a RemoteRegion or an MrDesc, a source a MemoryRegion; a tuple adds an offset. All
regions and peers of an operation belong to one group of one engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pgctl._ffi import ffi, lib
from pgctl.engine.memory import MemoryRegion, RemoteRegion
from pgctl.engine.native import milliseconds, unsigned, wire_imm
from pgctl.engine.peer import Peer, PeerGroup, members_of, peers_of
from pgctl.errors import PgInvalid

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group

Source: TypeAlias = MemoryRegion | tuple[MemoryRegion, int]
Remote: TypeAlias = RemoteRegion | bytes
Destination: TypeAlias = Remote | tuple[Remote, int]
Spread = Literal["bytes", "peer", "one"]

_SPREADS: dict[str, int] = {
    "bytes": lib.PG_SPREAD_BYTES,
    "peer": lib.PG_SPREAD_PEER,
    "one": lib.PG_SPREAD_ONE,
}
_INDICES = ffi.typeof("uint32_t[]")


class Pages:
    """Pages of a region: page i lies at offset + indices[i] * stride.

    `indices`: one-dimensional C-contiguous uint32 (numpy, array.array("I"), …), used where it is:
    leave it alone until the operation has ended. `stride`: None for the page's length.
    """

    __slots__ = ("count", "indices", "offset", "pointer", "region", "stride")

    def __init__(
        self,
        region: MemoryRegion | Remote,
        indices: Any,
        stride: int | None = None,
        offset: int = 0,
    ) -> None:
        try:
            view = memoryview(indices)
        except (TypeError, ValueError):
            raise TypeError(
                f"page indices must be a uint32 array, not {type(indices).__name__}"
            ) from None
        if view.format != "I" or view.ndim != 1 or not view.c_contiguous:
            raise TypeError(
                "page indices must be a one-dimensional C-contiguous uint32 array, not "
                f"{view.ndim}-dimensional {'' if view.c_contiguous else 'strided '}{view.format!r}"
            )
        self.region = region
        self.indices = view
        self.pointer = ffi.from_buffer(_INDICES, view)
        self.count = len(view)
        self.stride = stride
        self.offset = offset


class Slice(NamedTuple):
    """One destination of a scatter: `length` bytes from `src_offset` of the scatter's source."""

    length: int
    src_offset: int
    dst: Remote
    dst_offset: int = 0


class Work:
    """What all operations have. `c` is a struct pg_op * without `done`.

    remote_visible, limit: see TransferEngine.submit_single_write.
    """

    __slots__ = ("c", "engine", "fan_out", "group", "held", "targets", "what")

    c: Any
    engine: TransferEngine
    group: Group
    what: str
    """For people."""
    held: tuple[object, ...]
    """What `c` points to."""
    targets: tuple[bytes | int, ...]
    """Who takes part: the MrDescs or the handles of peers."""
    fan_out: int
    """Destinations that have a status of their own."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.what}>"

    def _begin(
        self,
        of: MemoryRegion | Peer,
        opcode: int,
        imm: int | None,
        what: str,
        fan_out: int,
        *,
        remote_visible: bool,
        limit: float | None,
    ) -> None:
        self.engine, self.group = of.engine, of.group
        self.c = ffi.new("struct pg_op *")
        self.c.opcode, self.c.imm = opcode, wire_imm(imm)
        self.c.flags = remote_visible * lib.PG_REMOTE_VISIBLE
        self.c.limit_ms = milliseconds(limit)
        self.what = what if imm is None else f"{what} with immediate {imm:#x}"
        self.fan_out = fan_out


class Write(Work):
    """One contiguous region; see TransferEngine.submit_single_write."""

    __slots__ = ()

    def __init__(
        self,
        length: int,
        imm: int | None,
        src: Source,
        dst: Destination,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        region, src_offset = source(src)
        remote, dst_offset = destination(region.group, dst)
        what = f"write of {length} bytes"
        self._begin(
            region, lib.PG_OP_WRITE, imm, what, 0, remote_visible=remote_visible, limit=limit
        )
        c = self.c.u.write
        c.src, c.dst, c.len = region.handle, remote.handle, unsigned(length, "length")
        c.src_offset = unsigned(src_offset, "source offset")
        c.dst_offset = unsigned(dst_offset, "destination offset")
        self.held = region, remote
        self.targets = (remote.desc,)


class PagedWrites(Work):
    """Pages; see TransferEngine.submit_paged_writes."""

    __slots__ = ()

    def __init__(
        self,
        page_len: int,
        imm: int | None,
        src: Pages,
        dst: Pages,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        region, _ = source(src.region)
        remote, _ = destination(region.group, dst.region)
        if src.count != dst.count:
            raise PgInvalid(f"{src.count} source pages for {dst.count} destination pages")
        what = f"{src.count} pages of {page_len} bytes"
        self._begin(
            region, lib.PG_OP_PAGED, imm, what, 0, remote_visible=remote_visible, limit=limit
        )
        c = self.c.u.paged
        c.src, c.dst = region.handle, remote.handle
        c.src_indices, c.dst_indices, c.n_pages = src.pointer, dst.pointer, src.count
        c.page_len = unsigned(page_len, "page length")
        c.src_offset = unsigned(src.offset, "source offset")
        c.dst_offset = unsigned(dst.offset, "destination offset")
        c.src_stride = unsigned(page_len if src.stride is None else src.stride, "source stride")
        c.dst_stride = unsigned(
            page_len if dst.stride is None else dst.stride, "destination stride"
        )
        self.held = region, remote, src, dst
        self.targets = (remote.desc,)


class Scatter(Work):
    """A slice to each of many regions; see TransferEngine.submit_scatter."""

    __slots__ = ()

    def __init__(
        self,
        imm: int | None,
        src: MemoryRegion,
        dsts: Sequence[Slice],
        spread: Spread = "bytes",
        *,
        group: PeerGroup | None = None,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        region, _ = source(src)
        if spread not in _SPREADS:
            raise PgInvalid(f"spread {spread!r} is not bytes, peer or one")
        what = f"scatter to {len(dsts)} destinations"
        self._begin(
            region,
            lib.PG_OP_SCATTER,
            imm,
            what,
            len(dsts),
            remote_visible=remote_visible,
            limit=limit,
        )
        array = ffi.new("struct pg_scatter_dst[]", len(dsts))
        remotes = [destination(region.group, dst.dst)[0] for dst in dsts]
        for c, dst, remote in zip(array, dsts, remotes, strict=True):
            c.len = unsigned(dst.length, "length")
            c.src_offset = unsigned(dst.src_offset, "source offset")
            c.dst, c.dst_offset = remote.handle, unsigned(dst.dst_offset, "destination offset")
        scatter = self.c.u.scatter
        scatter.src, scatter.dsts, scatter.n = region.handle, array, len(dsts)
        scatter.spread = _SPREADS[spread]
        if group is not None:
            scatter.group = members_of(self.group, group)[2]
        self.held = region, array, group, *remotes
        self.targets = tuple(remote.desc for remote in remotes)


class Barrier(Work):
    """An immediate to each of many peers; see TransferEngine.submit_barrier."""

    __slots__ = ()

    def __init__(
        self,
        imm: int,
        peers: Sequence[Peer] | PeerGroup,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        n = len(peers)
        if not n:
            raise PgInvalid("a barrier with 0 peers")
        members = peers_of(peers)
        what = f"barrier of {n} peers"
        self._begin(
            members[0], lib.PG_OP_BARRIER, imm, what, n, remote_visible=remote_visible, limit=limit
        )
        array, count, handle = members_of(self.group, peers)
        barrier = self.c.u.barrier
        barrier.n, barrier.group = count, handle
        if count:
            barrier.peers = array
        self.targets = tuple(peer.handle for peer in members)
        self.held = array, peers


class Send(Work):
    """A message; see TransferEngine.submit_send."""

    __slots__ = ()

    def __init__(
        self,
        peer: Peer,
        data: Any,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        buffer = ffi.from_buffer(data)
        what = f"message of {len(buffer)} bytes"
        self._begin(peer, lib.PG_OP_SEND, None, what, 0, remote_visible=remote_visible, limit=limit)
        c = self.c.u.send
        c.peer, c.data, c.len = peer.handle, buffer, min(len(buffer), 0xFFFFFFFF)
        self.held = (buffer,)
        self.targets = (peer.handle,)


class Fence(Work):
    """Everything before it; see TransferEngine.fence."""

    __slots__ = ()

    def __init__(self, peer: Peer, *, limit: float | None = None) -> None:
        self._begin(peer, lib.PG_OP_FENCE, None, "fence", 0, remote_visible=False, limit=limit)
        self.c.u.fence.peer = peer.handle
        self.held = ()
        self.targets = (peer.handle,)


def source(src: Any) -> tuple[MemoryRegion, int]:
    """Region and offset, of either form."""
    region, offset = src if isinstance(src, tuple) else (src, 0)
    if not isinstance(region, MemoryRegion):
        raise TypeError(f"a source is a MemoryRegion, not {type(region).__name__}")
    return region, offset


def destination(group: Group, dst: Any) -> tuple[RemoteRegion, int]:
    """Imported region and offset, of any form."""
    remote, offset = dst if isinstance(dst, tuple) else (dst, 0)
    if isinstance(remote, bytes):
        return group.imported(remote), offset
    if not isinstance(remote, RemoteRegion):
        raise TypeError(
            f"a destination is a RemoteRegion or an MrDesc, not {type(remote).__name__}"
        )
    same_group(group, remote)
    return remote, offset


def same_engine(engine: object, other: MemoryRegion | Work) -> None:
    if other.engine is not engine:
        raise PgInvalid(f"{other!r} belongs to another engine")


def same_group(group: Group, other: RemoteRegion | Peer | Work) -> None:
    if other.group is not group:
        raise PgInvalid(f"{other!r} belongs to another engine or group than the rest")
