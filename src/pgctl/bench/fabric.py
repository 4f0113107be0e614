"""Which transport carries the benchmark, over which NICs of whom, and why that one."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from pgctl.bench.placement import Placement
from pgctl.bench.spec import AS_GROUPED, OFI, RDMA, Spec
from pgctl.engine.config import (
    GroupConfig,
    NicConfig,
    fabric_facts,
    impairment_of,
    transports,
)
from pgctl.groups import UNKNOWN_RAIL, group_config, link_gbit_s
from pgctl.hardware.facts import Facts, read_facts, regrouped
from pgctl.hardware.groups import MOST_NICS, DomainGroup
from pgctl.hardware.selection import Candidate, Selection, SelectionError, choose_nics

_LANES = "shm"
"""The transport whose NICs are threads."""
_RDMA_PROVIDERS = {"efa": "efa", "verbs;ofi_rxm": "verbs"}
"""Those of libfabric whose NICs are RDMA devices, the better ones first, and for what else they may
be asked."""


class NoTransportError(RuntimeError):
    """None of those that may be used runs between these hosts, or not over so many NICs."""


@dataclass(frozen=True, slots=True)
class Device:
    """A NIC that can carry the benchmark."""

    name: str
    pci: str | None
    gbit_s: float
    """0: not known."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a rank finds on its host."""

    host: str
    refusals: Mapping[str, str]
    """By transport of the build, why it cannot run here; empty: it can."""
    devices: tuple[Device, ...] = ()
    """Those of the transport that are meant, in the order of their PCI addresses."""
    groups: tuple[DomainGroup, ...] = ()
    """Of these, as probe has them; empty: ranks take devices one after the other."""
    unnamed: str = ""
    """Why there are none: what names them names nothing."""

    def of(self, names: Sequence[str]) -> list[Device]:
        """Those of these names; a lane of shared memory is one without an address."""
        known = {device.name: device for device in self.devices}
        return [known.get(name, Device(name, None, 0.0)) for name in names]


@dataclass(frozen=True, slots=True)
class Hand:
    """What a rank gets."""

    rank: int
    group: DomainGroup
    name: str = ""
    """Of the group as probe prints it, by its GPU or its number; empty: it is none of these."""
    core: int | None = None
    """One of the group's; None: it has none left for this rank."""

    @property
    def nics(self) -> tuple[str, ...]:
        return self.group.nics


def own_equipment() -> Equipment:
    """Without the devices, which are a transport's."""
    refusals = {transport.name: transport.reason for transport in transports()}
    return Equipment(socket.gethostname(), refusals)


def with_devices(own: Equipment, transport: str, spec: Spec, count: int) -> Equipment:
    """count: how many NICs this rank is to have, or AS_GROUPED."""
    try:
        if transport == RDMA:
            return _with_rdma(own, spec, count, _speak_rc)
        if transport == OFI:
            return _with_libfabric(own, spec, count)
    except SelectionError as error:
        return replace(own, unnamed=str(error))
    return own


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


def deal(transport: str, spec: Spec, ranks: Sequence[Equipment]) -> list[Hand]:
    """By rank. Raises NoTransportError, SelectionError.

    The ranks of a host take its groups, one after the other, or so many devices each; where there
    are not as many, it begins again. Who is to use all that are named uses all of them.
    """
    counts = spec.nics(len(ranks))
    taken: Counter[object] = Counter()
    hands = []
    for rank, (mine, count) in enumerate(zip(ranks, counts, strict=True)):
        if transport == _LANES or _is_left_to_choose(transport, spec, mine):
            hands.append(_loose(rank, [f"{transport}{i}" for i in range(count or 1)]))
            continue
        if mine.unnamed:
            raise SelectionError("nics", mine.unnamed)
        names = tuple(device.name for device in mine.devices)
        before = taken[mine.host, names]
        if mine.groups:
            hands.append(_take(rank, mine.groups, before))
            taken[mine.host, names] += 1
            continue
        wanted = len(names) if count == AS_GROUPED else count
        if not 0 < wanted <= min(len(names), MOST_NICS):
            raise NoTransportError(_not_so_many(transport, rank, mine.host, wanted, names))
        hands.append(_loose(rank, [names[(before + i) % len(names)] for i in range(wanted)]))
        taken[mine.host, names] += wanted
    return hands


def _take(rank: int, groups: Sequence[DomainGroup], before: int) -> Hand:
    """before: how many ranks have taken one."""
    rounds, number = divmod(before, len(groups))
    group = groups[number]
    core = group.cpus[rounds] if rounds < len(group.cpus) else None
    return Hand(rank, group, group.gpu or str(number), core)


def _loose(rank: int, names: Sequence[str]) -> Hand:
    """NICs that are no group of probe's, so that nobody has numbered their rails."""
    rails = (UNKNOWN_RAIL,) * len(names)
    return Hand(rank, DomainGroup(None, None, tuple(names), (), rails, (), ()))


def group_names(hands: Sequence[Hand]) -> tuple[str, ...]:
    """By rank; empty: they have none of probe's."""
    names = tuple(hand.name for hand in hands)
    return names if all(names) else ()


def link_gbyte_s(devices: Sequence[Device]) -> float | None:
    """Of a rank's NICs together; None: not known of all."""
    rates = [device.gbit_s for device in devices]
    return sum(rates) / 8 if all(rates) else None


def lanes(transport: str, hands: Sequence[Hand]) -> list[int]:
    """By rank, how many threads could move its bytes. A device does that by itself."""
    return [len(hand.nics) if transport == _LANES else 1 for hand in hands]


def needs_receiver(transport: str) -> bool:
    """Whether a write may only arrive where somebody makes progress: libfabric's providers can be
    software that runs nowhere else."""
    return transport == OFI


def options(transport: str, spec: Spec) -> str:
    """Those that its NICs are given. A profile may have some for a transport that is not used."""
    return spec.nic_options.get(transport, "")


def group(transport: str, hand: Hand, place: Placement, own: Equipment, spec: Spec) -> GroupConfig:
    """The DomainGroup of a rank."""
    given = options(transport, spec)
    if own.devices:
        worker = () if place.worker is None else (place.worker,)
        rates = {device.name: device.gbit_s for device in own.devices}
        config = group_config(
            replace(hand.group, cpus=worker), rates, transport, given, place.progress
        )
    else:
        named = transport != OFI
        config = GroupConfig(
            nics=[
                NicConfig(transport=transport, device=name if named else "", options=given)
                for name in hand.nics
            ],
            progress=place.progress,
        )
    return replace(config, impair=impairment_of(hand.rank, spec.impair), impair_seed=spec.seed)


def _is_left_to_choose(transport: str, spec: Spec, mine: Equipment) -> bool:
    """libfabric's NICs are its provider's, in its order, unless they are named or RDMA devices."""
    return transport == OFI and not mine.devices and not spec.nic_names


def _with_rdma(
    own: Equipment, spec: Spec, count: int, usable: Callable[[Facts], Container[str]]
) -> Equipment:
    """Of the ports that are up, those that can be used. Raises SelectionError."""
    facts = read_facts(selection=Selection(nics=spec.nic_names))
    able = usable(facts)
    nics = [nic for nic in facts.nics if nic.active is not False and nic.name in able]
    if not nics:
        return own
    return replace(
        own,
        devices=tuple(Device(nic.name, nic.pci, link_gbit_s(nic)) for nic in nics),
        groups=regrouped(facts, able) if count == AS_GROUPED else (),
    )


def _speak_rc(facts: Facts) -> set[str]:
    """Neither iWARP nor EFA."""
    speak = {
        (port.device, port.number)
        for port in facts.ports
        if port.roce or port.link_layer.value == "InfiniBand"
    }
    return {nic.name for nic in facts.nics if (nic.device, nic.port) in speak}


def _with_libfabric(own: Equipment, spec: Spec, count: int) -> Equipment:
    """RDMA devices, as with verbs; else its NICs of these names, of any provider: whether the one
    that is meant has them is for the transport to find out. Raises SelectionError."""
    try:
        found = _with_rdma(own, spec, count, lambda facts: _offered(facts, spec))
    except SelectionError:
        if not spec.nic_names:
            raise
        found = own
    if found.devices or not spec.nic_names:
        return found
    _, offers = fabric_facts()
    rates = {offer.domain: offer.link_mbit_s / 1000 for offer in offers}
    candidates = [Candidate(name, None, None) for name in rates]
    chosen = [nic.device for nic in choose_nics(spec.nic_names, candidates)]
    return replace(own, devices=tuple(Device(name, None, rates[name]) for name in chosen))


def _offered(facts: Facts, spec: Spec) -> set[str]:
    """RDMA devices of the provider that is meant, if its NICs are such; of the best that has some,
    if none is named."""
    asked = _provider(options(OFI, spec) or os.environ.get("PGCTL_OFI", ""))
    meant = [name for name, short in _RDMA_PROVIDERS.items() if asked in ("", name, short)]
    if not facts.nics or not meant:
        return set()
    _, offers = fabric_facts()
    for provider in meant:
        # efa calls the domain of rdmap0s0 rdmap0s0-rdm
        domains = {o.domain.removesuffix("-rdm") for o in offers if o.provider == provider}
        if found := {nic.name for nic in facts.nics if nic.name in domains}:
            return found
    return set()


def _provider(given: str) -> str:
    """Of options; empty: they do not say."""
    named = dict(option.partition("=")[::2] for option in given.split(","))
    return named.get("provider", "")


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
