"""Facts as JSON can hold them: the values, and a list of what is unknown and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pgctl.hardware.facts import Facts
from pgctl.hardware.pci import PciDevice
from pgctl.hardware.root import Fact
from pgctl.hardware.system import UNLIMITED


def to_plain(facts: Facts) -> dict[str, Any]:
    unknown: dict[str, str] = {}
    cpus = facts.cpus
    plain = {
        "root": facts.root,
        "real": facts.real,
        "topology": facts.topology,
        "system": facts.system,
        "cpus": {
            "model": cpus.model,
            "virtual": cpus.virtual,
            "online": cpus.online,
            "allowed": cpus.allowed,
            "nodes": cpus.nodes,
            "governors": Counter(cpus.governors.values()),
        },
        "gpus": facts.gpus,
        "nics": facts.nics,
        "rdma": facts.rdma,
        "libfabric": facts.libfabric,
        "netdevs": facts.netdevs,
        "pci": _devices_between(facts),
        "affinity": facts.affinity,
        "trials": facts.trials,
    }
    listings = (facts.pci_listing, facts.rdma_listing)
    unknown |= {listing.source: listing.why for listing in listings if not listing.known}
    done: dict[str, Any] = _plain(plain, unknown)
    return {**done, "unknown": [{"source": at, "why": why} for at, why in unknown.items()]}


def _devices_between(facts: Facts) -> list[PciDevice]:
    """The GPUs, the NICs, and all bridges above them."""
    ends = [gpu.pci for gpu in facts.gpus] + [nic.pci for nic in facts.nics if nic.pci]
    paths = (facts.tree.path(end) or (end,) for end in ends)
    addresses = dict.fromkeys(address for path in paths for address in path)
    devices = (facts.tree.devices.get(address) for address in sorted(addresses))
    return [device for device in devices if device is not None]


def _plain(value: Any, unknown: dict[str, str]) -> Any:
    if isinstance(value, Fact):
        if value.value is None:
            unknown[value.source] = value.why
        return _plain(value.value, unknown)
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name), unknown) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, unknown) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, unknown) for item in value]
    return "unlimited" if value == UNLIMITED else value
