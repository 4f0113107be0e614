"""One-sided, reliable, unordered transfers between processes and machines, over the C engine."""

from pgctl.engine.config import (
    Caps,
    FabricFacts,
    GroupConfig,
    Limits,
    NicConfig,
    NicFacts,
    NicStats,
    Progress,
    Transport,
    fabric_facts,
    nic_facts,
    transports,
)
from pgctl.engine.counter import ImmCounter
from pgctl.engine.engine import TransferEngine
from pgctl.engine.events import Event
from pgctl.engine.log import log_to
from pgctl.engine.memory import MemoryRegion, MrDesc, RemoteRegion
from pgctl.engine.native import IMM_MAX, check
from pgctl.engine.op import Op
from pgctl.engine.peer import Connection, NetAddr, Peer, PeerGroup, PeerInfo
from pgctl.engine.watcher import Watcher
from pgctl.engine.work import Barrier, Fence, PagedWrites, Pages, Scatter, Send, Slice, Work, Write
from pgctl.errors import (
    PgAgain,
    PgBusy,
    PgCanceled,
    PgError,
    PgInvalid,
    PgNoMemory,
    PgPeerDown,
    PgProtocol,
    PgShutdown,
    PgStale,
    PgTimeout,
    PgUnsupported,
)

__all__ = [
    "IMM_MAX",
    "Barrier",
    "Caps",
    "Connection",
    "Event",
    "FabricFacts",
    "Fence",
    "GroupConfig",
    "ImmCounter",
    "Limits",
    "MemoryRegion",
    "MrDesc",
    "NetAddr",
    "NicConfig",
    "NicFacts",
    "NicStats",
    "Op",
    "PagedWrites",
    "Pages",
    "Peer",
    "PeerGroup",
    "PeerInfo",
    "PgAgain",
    "PgBusy",
    "PgCanceled",
    "PgError",
    "PgInvalid",
    "PgNoMemory",
    "PgPeerDown",
    "PgProtocol",
    "PgShutdown",
    "PgStale",
    "PgTimeout",
    "PgUnsupported",
    "Progress",
    "RemoteRegion",
    "Scatter",
    "Send",
    "Slice",
    "TransferEngine",
    "Transport",
    "Watcher",
    "Work",
    "Write",
    "check",
    "fabric_facts",
    "log_to",
    "nic_facts",
    "transports",
]
