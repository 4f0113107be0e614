"""Everything that is known about a machine, as one value."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from pgctl.hardware import pci
from pgctl.hardware.cpu import Cpus, read_cpus
from pgctl.hardware.driver import Answers, Libfabric, ask_drivers, no_answers
from pgctl.hardware.gpus import Gpu, read_gpus
from pgctl.hardware.groups import Closeness, DomainGroup, Spot, affinity, make_groups
from pgctl.hardware.net import Netdev, read_netdevs
from pgctl.hardware.nics import Nic, asked_for, nics_of_system, nics_of_topology, numa_of
from pgctl.hardware.pci import PciDevice, PciTree
from pgctl.hardware.rdma import Port, RdmaDevice, rdma_ports, read_rdma
from pgctl.hardware.root import Fact, Nowhere, Root
from pgctl.hardware.selection import Selection, choose_gpus
from pgctl.hardware.system import System, read_system
from pgctl.hardware.topology_xml import Topology, read_topology
from pgctl.hardware.trials import Trials


@dataclass(frozen=True, slots=True)
class Facts:
    root: str
    real: bool
    """Whether they are of the machine that this runs on."""
    topology: str | None
    """The topology file, if one was given."""
    foreign: bool
    """The topology file is of a machine that is not the one under the root."""
    tree: PciTree
    pci_listing: Fact[tuple[str, ...]]
    cpus: Cpus
    gpus: tuple[Gpu, ...]
    """Those asked for."""
    rdma: tuple[RdmaDevice, ...]
    rdma_listing: Fact[tuple[str, ...]]
    libfabric: Fact[Libfabric]
    netdevs: tuple[Netdev, ...]
    system: System
    nics: tuple[Nic, ...]
    """Those asked for; groups use the ones that are not down."""
    affinity: Mapping[str, Mapping[str, Closeness]]
    """By GPU and NIC."""
    groups: tuple[DomainGroup, ...]
    trials: Trials | None = None
    """None: nothing was tried."""

    @property
    def ports(self) -> list[Port]:
        """Of the NICs asked for."""
        asked = {(nic.device, nic.port) for nic in self.nics}
        ports = (port for device in self.rdma for port in device.ports)
        return [port for port in ports if (port.device, port.number) in asked]

    @property
    def used_nics(self) -> list[Nic]:
        """Those that groups use."""
        used = {name for group in self.groups for name in group.nics}
        return [nic for nic in self.nics if nic.name in used]

    @property
    def used_devices(self) -> list[RdmaDevice]:
        """Those whose ports groups use."""
        used = {nic.device for nic in self.used_nics}
        return [device for device in self.rdma if device.name in used]

    def netdev(self, name: str | None) -> Netdev | None:
        return next((netdev for netdev in self.netdevs if netdev.name == name), None)

    def pci_device(self, address: str | None) -> PciDevice | None:
        return self.tree.devices.get(address or "")


class NothingThereError(RuntimeError):
    """The root holds no trace of a machine."""


def read_facts(
    sysroot: str = "/",
    topology: str | None = None,
    selection: Selection | None = None,
    *,
    drivers: bool = False,
) -> Facts:
    """drivers: ask them and libfabric as well, which starts a process.

    Raises NothingThereError, TopologyError, SelectionError, OSError.
    """
    root = _open(sysroot)
    tree, listing = pci.read_tree(root)
    given = read_topology(topology) if topology is not None else None
    foreign = given is not None and not _is_of(given, tree)
    if foreign:
        root = Nowhere("the topology file is of another machine")
    cpus = read_cpus(root)
    if given is not None:
        tree = _overlay(given, PciTree({}) if foreign else tree)
        cpus = _cpus_of(given, cpus) if foreign else cpus
    answers = _ask(root, drivers)
    rdma, rdma_listing = read_rdma(root, answers)
    netdevs = read_netdevs(root)
    nics = nics_of_system(rdma, netdevs, tree, cpus)
    if given is not None:
        nics += nics_of_topology(given, tree, {nic.pci for nic in nics})
    gpus = read_gpus(root, tree)
    wanted = selection or Selection()
    nics = asked_for(wanted, nics)
    meant = choose_gpus(wanted.gpus, [gpu.pci for gpu in gpus])
    gpus = tuple(gpu for gpu in gpus if gpu.pci in meant)
    gpu_spots = {gpu.name: gpu for gpu in _gpu_spots(gpus, tree, cpus)}
    nic_spots = {nic.name: nic for nic in _nic_spots(nics)}
    return Facts(
        root=sysroot,
        real=root.live,
        topology=topology,
        foreign=foreign,
        tree=tree,
        pci_listing=listing,
        cpus=cpus,
        gpus=gpus,
        rdma=rdma,
        rdma_listing=rdma_listing,
        libfabric=answers.libfabric,
        netdevs=netdevs,
        system=read_system(root),
        nics=nics,
        affinity={
            gpu: {name: affinity(tree, spot, nic) for name, nic in nic_spots.items()}
            for gpu, spot in gpu_spots.items()
        },
        groups=make_groups(
            tree,
            list(gpu_spots.values()),
            [nic_spots[nic.name] for nic in nics if nic.active is not False],
            cpus,
            wanted.nics_per_gpu,
        ),
    )


def regrouped(facts: Facts, names: Container[str]) -> tuple[DomainGroup, ...]:
    """The groups as they are when only NICs of these names are meant."""
    meant = [nic for nic in facts.nics if nic.name in names and nic.active is not False]
    gpus = _gpu_spots(facts.gpus, facts.tree, facts.cpus)
    return make_groups(facts.tree, gpus, _nic_spots(meant), facts.cpus, None)


def _gpu_spots(gpus: Iterable[Gpu], tree: PciTree, cpus: Cpus) -> list[Spot]:
    return [Spot(gpu.pci, gpu.pci, numa_of(tree.devices.get(gpu.pci), cpus)) for gpu in gpus]


def _nic_spots(nics: Iterable[Nic]) -> list[Spot]:
    return [Spot(nic.name, nic.pci, nic.numa) for nic in nics]


def _open(sysroot: str) -> Root:
    root = Root(sysroot)
    entries = root.names("/")
    if entries.value is None:
        raise NothingThereError(f"{sysroot}: {entries.why}")
    if not {"sys", "proc"} & set(entries.value):
        raise NothingThereError(f"{sysroot} has neither sys nor proc: there is nothing to read")
    return root


def _ask(root: Root, drivers: bool) -> Answers:
    if not root.live:
        return no_answers("not asked: the root is a copy")
    return ask_drivers(rdma_ports(root)) if drivers else no_answers("nobody asked")


def _is_of(topology: Topology, tree: PciTree) -> bool:
    """Whether a device of the file is in the tree, and is there what the file says."""
    kinds = {address: device.kind.value for address, device in tree.devices.items()}
    ends = (pci.NETWORK, pci.DISPLAY, pci.ACCELERATOR)
    return any(
        kinds.get(device.address) == device.kind.value
        for device in topology.devices.values()
        if any(map(device.is_a, ends))
    )


def _overlay(topology: Topology, tree: PciTree) -> PciTree:
    """The file knows better where devices are, the system what they are."""
    devices = dict(tree.devices)
    for address, told in topology.devices.items():
        known = devices.get(address)
        devices[address] = replace(known, above=told.above, numa=told.numa) if known else told
    return PciTree(devices, per_switch=1)


def _cpus_of(topology: Topology, nowhere: Cpus) -> Cpus:
    cpus = tuple(sorted({cpu for node in topology.nodes for cpu in node.cpus.value or ()}))
    return replace(
        nowhere,
        nodes=topology.nodes,
        online=Fact(cpus, topology.source) if cpus else nowhere.online,
    )
