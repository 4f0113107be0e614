"""Who one talks to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgctl._ffi import ffi, lib
from pgctl.engine.native import check, new_error, text

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
    status: int
    """Why it is down, -errno; 0 if it is not."""
    n_connections: int
    incarnation: str
    path: str
    """Transport, and how it reaches memory."""
    reason: str


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
            c.status,
            c.n_connections,
            text(c.incarnation),
            text(c.path),
            text(c.reason),
        )

    def connect(self, timeout: float | None = None) -> None:
        """Connect now, and wait `timeout` seconds (None: the engine's op_timeout) for it.

        Operations connect by themselves; this is to have it behind one. Raises PgTimeout,
        PgPeerDown, PgProtocol.
        """
        error = new_error()
        limit = self.group.op_timeout if timeout is None else timeout

        def connect(ns: int) -> int:
            return int(lib.pg_connect(self.group.c, self.handle, ns, error))

        check(self.group.wait(connect, limit), error)
