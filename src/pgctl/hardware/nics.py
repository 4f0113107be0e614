"""NICs as groups use them: ports that RDMA can use, wherever they were read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgctl.hardware import pci
from pgctl.hardware.cpu import Cpus
from pgctl.hardware.net import Netdev
from pgctl.hardware.pci import PciDevice, PciTree
from pgctl.hardware.rdma import Port, RdmaDevice, roce_mtu
from pgctl.hardware.root import Fact, unknown
from pgctl.hardware.selection import Candidate, Selection, SelectionError, choose_nics
from pgctl.hardware.topology_xml import Net, Topology


@dataclass(frozen=True, slots=True)
class Nic:
    """A port that RDMA can use, under the name that groups call it by."""

    name: str
    device: str
    port: int | None
    pci: str | None
    numa: int | None
    gbit_s: Fact[float]
    """Of the bond, where the port is one."""
    mtu: Fact[int]
    """RDMA's, as the driver says; else as the kernel derives it from a RoCE port's interface."""
    active: bool | None


def nics_of_system(
    rdma: tuple[RdmaDevice, ...], netdevs: tuple[Netdev, ...], tree: PciTree, cpus: Cpus
) -> tuple[Nic, ...]:
    by_name = {netdev.name: netdev for netdev in netdevs}
    nics = []
    for device in rdma:
        for port in device.ports:
            below = by_name.get(port.netdev or device.parent.value or "")
            address = device.pci or (below.pci if below else None)
            nics.append(
                Nic(
                    name=nic_name(device.name, port.number, len(device.ports)),
                    device=device.name,
                    port=port.number,
                    pci=address,
                    numa=numa_of(tree.devices.get(address or ""), cpus),
                    gbit_s=_link_rate(port, below),
                    mtu=_rdma_mtu(port, below),
                    active=port.active,
                )
            )
    return tuple(nics)


def nic_name(device: str, port: int, ports: int) -> str:
    """Of a port, on a device that has so many."""
    return device if ports == 1 else f"{device}:{port}"


def _link_rate(port: Port, netdev: Netdev | None) -> Fact[float]:
    """What the port carries, in Gb/s: that of the interface where it is a bond."""
    if netdev is not None and netdev.members:
        return netdev.speed_mbit_s.map(lambda mbit_s: mbit_s / 1000)
    return port.rate_gbit_s


def _rdma_mtu(port: Port, netdev: Netdev | None) -> Fact[int]:
    if port.active_mtu.known:
        return port.active_mtu
    if netdev is None or not port.roce:
        return unknown(f"{port.source}/active_mtu", "sysfs does not have it")
    return netdev.mtu.map(roce_mtu)


def nics_of_topology(topology: Topology, tree: PciTree, known: set[str | None]) -> tuple[Nic, ...]:
    """NICs that only the file has: under its names, or the PCI address where it has none."""
    named: dict[str, list[Net]] = {}
    for net in topology.nets:
        named.setdefault(net.pci, []).append(net)
    nics = []
    for device in (tree.devices[address] for address in topology.devices):
        if not device.is_a(pci.NETWORK) or device.address in known:
            continue
        unnamed = Net(
            device.address, 1, device.address, unknown(device.source, "the file does not say")
        )
        nets = named.get(device.address, [unnamed])
        for net in nets:
            name = net.name if len(nets) == 1 else f"{net.name}:{net.port}"
            nics.append(
                Nic(
                    name=name,
                    device=net.name,
                    port=net.port,
                    pci=net.pci,
                    numa=device.numa.value,
                    gbit_s=net.gbit_s,
                    mtu=unknown(device.source, "the file does not say"),
                    active=None,
                )
            )
    return tuple(nics)


def asked_for(selection: Selection, nics: tuple[Nic, ...]) -> tuple[Nic, ...]:
    """Those meant, in the order of their addresses. Raises SelectionError."""
    nics = tuple(sorted(nics, key=lambda nic: (nic.pci or "~", nic.port or 0, _natural(nic.name))))
    names = {Candidate(nic.device, nic.port, nic.pci): nic for nic in nics}
    asked = [names[candidate] for candidate in choose_nics(selection.nics, list(names))]
    usable = sum(nic.active is not False for nic in asked)
    if selection.nics_per_gpu is not None and selection.nics_per_gpu > usable:
        why = f"{selection.nics_per_gpu} NICs for each GPU, but {usable} can be used"
        raise SelectionError("nics_per_gpu", why)
    return tuple(asked)


def numa_of(device: PciDevice | None, cpus: Cpus) -> int | None:
    """The node of a device; of a machine that has only one, that one."""
    if device is not None and device.numa.value is not None:
        return device.numa.value
    return cpus.nodes[0].number if len(cpus.nodes) == 1 else None


def _natural(name: str) -> tuple[str | int, ...]:
    """mlx5_10 after mlx5_9."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
