"""One rank's part in a benchmark: its place, its engine, its memory and its peers."""

from __future__ import annotations

import json
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, astuple, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from pgctl.bench import fabric, loops, placement
from pgctl.bench.fabric import Device, Equipment
from pgctl.bench.loops import CACHELINE_BYTES, Background, Loops, post_receives
from pgctl.bench.placement import Seat
from pgctl.bench.spec import MESSAGE_MAX, Spec
from pgctl.cluster import Cluster
from pgctl.engine import MemoryRegion, Peer, RemoteRegion, TransferEngine
from pgctl.hardware.groups import DomainGroup
from pgctl.report.record import Fabric, Nic, Port

RECEIVES = 256
"""Buffers for messages. A sender that finds none waits."""
_MARGIN = 3.0
"""Something may take this many times as long as it should, and the timeout besides."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A region of another rank."""

    region: RemoteRegion
    mapped: int
    """Where it is mapped here; 0 if it is not."""
    address: int
    """In its owner's process."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A region of this rank, and the same of every other."""

    own: MemoryRegion
    others: dict[int, Remote]


class Session:
    def __init__(self, spec: Spec, ranks: Cluster) -> None:
        self.spec = spec
        self.ranks = ranks
        self.rank, self.size = ranks.rank, ranks.size
        self._serves = False
        """Peers need this rank's progress also while it waits for them."""
        mine = placement.own_seat(socket.gethostname())
        self.seats = [Seat(host, tuple(cpus)) for host, cpus in self.share([mine.host, mine.cpus])]
        own = fabric.own_equipment()
        self.transport, self._why = fabric.choose(spec, self._everybodys(own))
        own = fabric.with_devices(own, self.transport, spec, spec.nics(self.size)[self.rank])
        equipment = self._everybodys(own)
        self.hands = fabric.deal(self.transport, spec, equipment)
        """What every rank gets."""
        self.devices = [has.of(hand.nics) for has, hand in zip(equipment, self.hands, strict=True)]
        """The NICs of every rank."""
        self.nics = self.hands[self.rank].nics
        lanes = fabric.lanes(self.transport, self.hands)
        cores = [hand.core for hand in self.hands]
        self.places = placement.decide(self.seats, spec.progress, lanes, cores)
        self.placement = self.places[self.rank]
        placement.take(self.placement)
        hand = self.hands[self.rank]
        group = fabric.group(self.transport, hand, self.placement, own, spec)
        self.engine = TransferEngine([group])
        self.maps_peer = self.engine.limits().caps.maps_peer
        """Regions of other ranks can be seen here."""
        self._at_start = self.counters()
        self.ports: tuple[Port, ...] = ()
        """What NICs have counted; known at the end."""
        self.peers: dict[int, Peer] = {}
        self.loops = Loops(self.engine.group, placement.wait_mode(self.placement))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.close()

    def meet_peers(self, span: int) -> None:
        """Connect with everybody, and make memory known: `span` bytes to send, as many to receive.

        Engines that make progress only when called must be called by all until all are done.
        """
        with Background(self.engine.group):
            self.pids: list[int] = self.share(os.getpid())
            addresses = self.ranks.allgather(self.engine.main_address(), self.limit_s())
            self.peers = {
                rank: self.engine.add_peer(address)
                for rank, address in enumerate(addresses)
                if rank != self.rank
            }
            for peer in self.peers.values():
                peer.connect(self.limit_s())
            engines = self.spec.memory == "engine"
            allocate = self._engine_memory if engines else self._program_memory
            self.source = allocate(span)
            self.sinks = self._memory(allocate(span), engines and self.maps_peer)
            self.lines = self._memory(self._engine_memory(CACHELINE_BYTES), self.maps_peer)
            if self.spec.operation == "send":
                post_receives(self.engine.group, MESSAGE_MAX, RECEIVES)
            self.meet()
        inline = self.placement.progress == "inline"
        self._serves = inline and fabric.needs_receiver(self.transport)

    def _everybodys(self, own: Equipment) -> list[Equipment]:
        return [
            Equipment(
                host,
                refusals,
                tuple(Device(*device) for device in devices),
                tuple(DomainGroup(*map(_frozen, group)) for group in groups),
                unnamed,
            )
            for host, refusals, devices, groups, unnamed in self.share(astuple(own))
        ]

    def _engine_memory(self, size: int) -> MemoryRegion:
        return self.engine.alloc_mr(size, prefault=True)

    def _program_memory(self, size: int) -> MemoryRegion:
        touched = np.ones(size, np.uint8)
        return self.engine.reg_mr(touched)

    def _memory(self, own: MemoryRegion, mapped: bool) -> Memory:
        shared = self.share([own.desc.hex(), own.address])
        others = {}
        for rank, (desc, address) in enumerate(shared):
            if rank != self.rank:
                region = self.engine.import_mr(bytes.fromhex(desc))
                here = loops.address(region.map(self.limit_s())) if mapped else 0
                loops.touch(here, own.length if mapped else 0)
                others[rank] = Remote(region, here, address)
        return Memory(own, others)

    def limit_s(self, expected_s: float = 0.0) -> float:
        """How long something may take that should take `expected_s`."""
        return self.spec.timeout_s + _MARGIN * expected_s

    def share(self, value: Any, expected_s: float = 0.0) -> list[Any]:
        """Everybody's value, by rank: what JSON can express."""
        payload = json.dumps(value).encode()
        with self._serving():
            everybodys = self.ranks.allgather(payload, self.limit_s(expected_s))
        return [json.loads(p) for p in everybodys]

    def meet(self, expected_s: float = 0.0) -> None:
        """Wait for everybody, asleep unless they need this rank."""
        with self._serving():
            self.ranks.barrier(self.limit_s(expected_s))

    def _serving(self) -> AbstractContextManager[None]:
        return Background(self.engine.group) if self._serves else nullcontext()

    def bytes_out(self) -> dict[str, int]:
        """What has left this rank so far, by NIC."""
        return {nic: counters["bytes_out"] for nic, counters in self.counters().items()}

    def counters(self) -> dict[str, dict[str, int]]:
        """By NIC of this rank."""
        stats = self.engine.stats()
        return {nic: asdict(counters) for nic, counters in zip(self.nics, stats, strict=True)}

    def fabric(self) -> Fabric:
        """As the record states it."""
        delta = {
            nic: {name: value - self._at_start[nic][name] for name, value in counters.items()}
            for nic, counters in self.counters().items()
        }
        return Fabric(
            transport=self.transport,
            why=self._why,
            nics=tuple(
                Nic(device.name, device.pci, device.gbit_s, delta[device.name])
                for device in self.devices[self.rank]
            ),
            path=self.peers[min(self.peers)].info().path if self.peers else "",
            nics_by_rank=tuple(hand.nics for hand in self.hands),
            groups_by_rank=fabric.group_names(self.hands),
            progress=tuple(place.progress for place in self.places),
            impair=self.spec.impair,
            options=fabric.options(self.transport, self.spec),
            ports=self.ports,
        )


def _frozen(value: Any) -> Any:
    """A list was a tuple before it was JSON."""
    return tuple(value) if isinstance(value, list) else value
