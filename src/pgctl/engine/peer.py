"""Who one talks to."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgctl._ffi import ffi, lib
from pgctl.engine.config import NicStats, record
from pgctl.engine.held import Held
from pgctl.engine.native import check, new_error, text
from pgctl.errors import PgInvalid

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group


class NetAddr(bytes):
    """The address of a group: bytes that travel by any channel. Only the engine reads them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<NetAddr, {len(self)} bytes>"


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """The fields of struct pg_peer_info."""

    up: bool
    responsive: bool
    """False: up, and its heartbeat is missing; it is stopped, or makes no progress."""
    local: bool
    """On this host."""
    status: int
    """Why it is down, -errno; 0 if it is not."""
    n_connections: int
    incarnation: str
    path: str
    """Transport, and how it reaches memory."""
    reason: str


@dataclass(frozen=True, slots=True)
class Connection:
    """What joins a NIC of ours to one of a peer's; the fields of struct pg_conn_info."""

    nic: int
    peer_nic: int
    weight: int
    """Its share, of the sum over all connections of the peer."""
    stats: NicStats


class Peer:
    """A peer's group, as one of ours knows it. Two of the same peer are equal."""

    __slots__ = ("engine", "group", "handle")

    def __init__(self, engine: TransferEngine, group: Group, handle: int) -> None:
        self.engine = engine
        self.group = group
        self.handle = handle

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Peer):
            return NotImplemented
        return self.group is other.group and self.handle == other.handle

    def __hash__(self) -> int:
        return hash((id(self.group), self.handle))

    def __repr__(self) -> str:
        return f"<Peer {self.handle:#x}>"

    def info(self) -> PeerInfo:
        """What is known of it now."""
        c = ffi.new("struct pg_peer_info *")
        check(lib.pg_peer_info(self.group.c, self.handle, c))
        return PeerInfo(
            c.up,
            c.responsive,
            c.local,
            c.status,
            c.n_connections,
            text(c.incarnation),
            text(c.path),
            text(c.reason),
        )

    def connections(self) -> list[Connection]:
        """Which NICs it is joined by, and what each has carried; [] before it connects."""
        c = ffi.new("struct pg_conn_info *")
        found: list[Connection] = []
        while True:
            rc = lib.pg_conn_info(self.group.c, self.handle, len(found), c)
            if rc == -errno.ERANGE:
                return found
            check(rc)
            found.append(Connection(c.nic, c.peer_nic, c.weight, record(NicStats, c.stats)))

    def connect(self, timeout: float | None = None) -> None:
        """Connect now, and wait `timeout` seconds (None: the engine's op_timeout) for it.

        Operations connect by themselves; this is to have it behind one. Raises PgTimeout,
        PgPeerDown, PgProtocol.
        """
        error = new_error()
        limit = self.group.op_timeout if timeout is None else timeout

        def connect(ns: int) -> int:
            return int(lib.pg_connect(self.group.c, self.handle, ns, error))

        self.group.check_wait(self.group.wait(connect, limit), error)


class PeerGroup(Held):
    """Peers that are addressed together, looked up and connected once.

    Made by TransferEngine.add_peer_group. Order counts: a scatter to it sends slice i to peer i.
    """

    __slots__ = ("engine", "peers")

    def __init__(
        self, engine: TransferEngine, group: Group, handle: int, peers: Sequence[Peer]
    ) -> None:
        super().__init__(group, handle, _forget_group)
        self.engine = engine
        self.peers = tuple(peers)

    def __len__(self) -> int:
        return len(self.peers)

    def __repr__(self) -> str:
        return f"<PeerGroup {self.handle:#x}, {len(self)} peers>"

    def close(self) -> None:
        """Forget it; the peers stay. Idempotent.

        Raises PgBusy while an operation or an expectation uses it.
        """
        if self.closed or self.group.forked:
            return
        error = new_error()
        rc = lib.pg_remove_peer_group(self.group.c, self.handle, error)
        if rc != -errno.ESTALE:
            check(rc, error)
        self._finalizer.detach()


def _forget_group(ref: weakref.ref[Group], handle: int) -> None:
    group = ref()
    if group and group.raw:
        lib.pg_remove_peer_group(group.raw, handle, ffi.NULL)


def add_peer_group(
    engine: TransferEngine, group: Group, peers: Sequence[Peer], timeout: float | None
) -> PeerGroup:
    array = ffi.new("pg_peer_t[]", handles_of(group, peers))
    handle, error = ffi.new("pg_peer_group_t *"), new_error()
    limit = group.op_timeout if timeout is None else timeout

    def add(ns: int) -> int:
        return int(lib.pg_add_peer_group(group.c, array, len(peers), ns, handle, error))

    group.check_wait(group.wait(add, limit), error)
    return PeerGroup(engine, group, handle[0], peers)


def handles_of(group: Group, peers: Sequence[Peer]) -> list[int]:
    """For C; PgInvalid for one of another group."""
    for peer in peers:
        if not isinstance(peer, Peer):
            raise TypeError(f"a peer is a Peer, not {type(peer).__name__}")
        if peer.group is not group:
            raise PgInvalid(f"{peer!r} belongs to another engine or group than the rest")
    return [peer.handle for peer in peers]


def peers_of(peers: Sequence[Peer] | PeerGroup) -> Sequence[Peer]:
    return peers.peers if isinstance(peers, PeerGroup) else peers


def members_of(group: Group, peers: Sequence[Peer] | PeerGroup) -> tuple[Any, int, int]:
    """For C: an array of handles and its length, or NULL, 0 and the handle of a PeerGroup."""
    if isinstance(peers, PeerGroup):
        if peers.group is not group:
            raise PgInvalid(f"{peers!r} belongs to another engine or group than the rest")
        return ffi.NULL, 0, peers.handle
    return ffi.new("pg_peer_t[]", handles_of(group, peers)), len(peers), 0
