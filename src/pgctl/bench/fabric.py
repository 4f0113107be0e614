"""Which transport carries the benchmark, over which NICs of whom, and why that one."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgctl.bench.spec import ALL_NAMED, OFI, RDMA, Spec
from pgctl.engine.config import (
    GroupConfig,
    NicConfig,
    Progress,
    fabric_facts,
    impairment_of,
    transports,
)
from pgctl.hardware.facts import read_facts
from pgctl.hardware.groups import MOST_NICS
from pgctl.hardware.selection import Candidate, Selection, SelectionError, choose_nics

_LANES = "shm"
"""The transport whose NICs are threads."""


class NoTransportError(RuntimeError):
    """None of those that may be used runs between these hosts, or not over so many NICs."""


@dataclass(frozen=True, slots=True)
class Device:
    """A NIC that can carry the benchmark."""

    name: str
    pci: str | None
    gbit_s: float
    """0: unknown, or that of an interface which a Soft-RoCE device stands on."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a rank finds on its host."""

    host: str
    refusals: Mapping[str, str]
    """By transport of the build, why it cannot run here; empty: it can."""
    devices: tuple[Device, ...]
    """Those that are meant, in the order of their PCI addresses."""
    unnamed: str = ""
    """Why that are none: what names them names nothing."""

    def of(self, names: Sequence[str]) -> list[Device]:
        """Those of these names; a lane of shared memory is one without an address."""
        known = {device.name: device for device in self.devices}
        return [known.get(name, Device(name, None, 0.0)) for name in names]


def own_equipment(spec: Spec) -> Equipment:
    host = socket.gethostname()
    refusals = {transport.name: transport.reason for transport in transports()}
    try:
        if spec.transport in ("auto", RDMA) and refusals.get(RDMA) == "":
            return Equipment(host, refusals, _devices(spec.nic_names))
        if spec.transport == OFI and refusals.get(OFI) == "" and spec.nic_names:
            return Equipment(host, refusals, _domains(spec.nic_names))
    except SelectionError as error:
        return Equipment(host, refusals, (), str(error))
    return Equipment(host, refusals, ())


def choose(spec: Spec, ranks: Sequence[Equipment]) -> tuple[str, str]:
    """The name of a transport, and why it is that one. Raises NoTransportError."""
    hosts = [rank.host for rank in ranks]
    refusals = []
    for name in ranks[0].refusals:
        if spec.transport not in ("auto", name):
            continue
        refusal = _too_far(name, hosts) or _refused(name, ranks)
        if not refusal:
            apart = f"the ranks are on {len(set(hosts))} hosts"
            near = "all ranks are on this host" if len(set(hosts)) == 1 else apart
            return name, spec.transport_why or near
        refusals.append(f"{name}: {refusal}")
    raise NoTransportError("; ".join(refusals) or f"this build has no transport {spec.transport!r}")


def deal(transport: str, spec: Spec, ranks: Sequence[Equipment]) -> list[tuple[str, ...]]:
    """The NICs of every rank. Raises NoTransportError, SelectionError.

    Ranks of one host get different devices, one after the other, as long as there are any; then it
    begins again. Who is to use all that are named uses all of them, whoever else does.
    """
    counts = spec.nics(len(ranks))
    if transport == _LANES or _is_left_to_choose(transport, spec):
        return [tuple(f"{transport}{i}" for i in range(count)) for count in counts]
    dealt: dict[tuple[str, ...], int] = {}
    hands = []
    for rank, (mine, count) in enumerate(zip(ranks, counts, strict=True)):
        if mine.unnamed:
            raise SelectionError("nics", mine.unnamed)
        names = tuple(device.name for device in mine.devices)
        wanted = len(names) if count == ALL_NAMED else count
        if not 0 < wanted <= min(len(names), MOST_NICS):
            raise NoTransportError(_not_so_many(transport, rank, mine.host, wanted, names))
        first = dealt.get((mine.host, *names), 0)
        dealt[mine.host, *names] = first + wanted
        hands.append(tuple(names[(first + i) % len(names)] for i in range(wanted)))
    return hands


def link_gbyte_s(devices: Sequence[Device]) -> float | None:
    """Of a rank's NICs together; None: not known of all."""
    rates = [device.gbit_s for device in devices]
    return sum(rates) / 8 if all(rates) else None


def lanes(transport: str, hands: Sequence[Sequence[str]]) -> list[int]:
    """By rank, how many threads could move its bytes. A device does that by itself."""
    return [len(hand) if transport == _LANES else 1 for hand in hands]


def needs_receiver(transport: str) -> bool:
    """Whether a write may only arrive where somebody makes progress: libfabric's providers can be
    software that runs nowhere else."""
    return transport == OFI


def options(transport: str, spec: Spec) -> str:
    """Those that its NICs are given. A profile may have some for a transport that is not used."""
    return spec.nic_options.get(transport, "")


def group(
    rank: int, transport: str, nics: Sequence[str], progress: Progress, spec: Spec
) -> GroupConfig:
    """The DomainGroup of a rank."""
    given = options(transport, spec)
    devices = [""] * len(nics) if _is_left_to_choose(transport, spec) else nics
    return GroupConfig(
        nics=[NicConfig(transport=transport, device=name, options=given) for name in devices],
        progress=progress,
        impair=impairment_of(rank, spec.impair),
        impair_seed=spec.seed,
    )


def _is_left_to_choose(transport: str, spec: Spec) -> bool:
    """libfabric's NICs are its provider's, in its order, unless they are named."""
    return transport == OFI and not spec.nic_names


def _domains(names: str) -> tuple[Device, ...]:
    """Of any provider: whether the one that is meant has them is for the transport to find out."""
    _, offers = fabric_facts()
    rates = {offer.domain: offer.link_mbit_s / 1000 for offer in offers}
    candidates = [Candidate(name, None, None) for name in rates]
    chosen = [nic.device for nic in choose_nics(names, candidates)]
    return tuple(Device(name, None, rates[name]) for name in chosen)


def _devices(names: str) -> tuple[Device, ...]:
    """Ports that are up and speak RC: neither iWARP nor EFA."""
    facts = read_facts(selection=Selection(nics=names))
    speak = {
        (port.device, port.number)
        for port in facts.ports
        if port.roce or port.link_layer.value == "InfiniBand"
    }
    return tuple(
        Device(nic.name, nic.pci, (nic.gbit_s.value or 0.0) if nic.pci else 0.0)
        for nic in facts.nics
        if nic.active is not False and (nic.device, nic.port) in speak
    )


def _too_far(name: str, hosts: Sequence[str]) -> str:
    if name == _LANES and len(set(hosts)) > 1:
        return f"it does not leave a host, and the ranks are on {', '.join(sorted(set(hosts)))}"
    return ""


def _refused(name: str, ranks: Sequence[Equipment]) -> str:
    """By the host of any rank."""
    here = ranks[0].host
    for rank in ranks:
        refusal = rank.refusals.get(name, "this build does not have it")
        if refusal:
            return refusal if rank.host == here else f"{refusal} (on {rank.host})"
    return ""


def _not_so_many(transport: str, rank: int, host: str, count: int, names: Sequence[str]) -> str:
    if not names and transport == OFI:
        return f"{OFI}: libfabric has no NIC of {host} but those that are not meant"
    if not names:
        return f"{RDMA}: no port of {host} is up and speaks RC: pgctl probe says why"
    if count > MOST_NICS:
        return (
            f"rank {rank} has at most {MOST_NICS} NICs, and {count} are meant: "
            f"{', '.join(names)}; say how many each uses with --nics-per-rank"
        )
    return f"rank {rank} is to have {count} NICs, and {host} has {len(names)}: {', '.join(names)}"
