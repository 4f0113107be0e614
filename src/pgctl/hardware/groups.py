"""DomainGroups: which NICs serve which GPU, and whose cores drive them.

NICs go to the GPUs that they share the closest PCI ancestor with, then the NUMA node, then the
machine; there, they are dealt out evenly. Who comes away with none shares the closest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pgctl.hardware.cpu import Cpus
from pgctl.hardware.pci import PciTree, common

Closeness = Literal["PIX", "PXB", "PHB", "NODE", "SYS"]

MOST_NICS = 4
"""Of one group."""

Place = frozenset[tuple[str, ...]]
"""Everything that a device stands in: the machine, its node, bridges. The longer, the closer."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a GPU or a NIC is."""

    name: str
    pci: str | None
    numa: int | None


@dataclass(frozen=True, slots=True)
class DomainGroup:
    gpu: str | None
    numa: int | None
    nics: tuple[str, ...]
    closeness: tuple[Closeness, ...]
    """By NIC."""
    rails: tuple[int, ...]
    """By NIC: NICs of one number reach each other through the same switches."""
    cpus: tuple[int, ...]
    """Cores of its own, one for each NIC."""
    shared: tuple[str, ...]
    """Those of its NICs that another group uses too."""


def affinity(tree: PciTree, gpu: Spot, nic: Spot) -> Closeness:
    """As `nvidia-smi topo -m` has it."""
    up, down = tree.path(gpu.pci or ""), tree.path(nic.pci or "")
    shared = common(up, down)
    if shared > 1:
        longest = max(len(up), len(down)) - shared
        return "PIX" if longest <= tree.per_switch else "PXB"
    if shared == 1:
        return "PHB"
    return "NODE" if gpu.numa is not None and gpu.numa == nic.numa else "SYS"


def make_groups(
    tree: PciTree, gpus: Sequence[Spot], nics: Sequence[Spot], cpus: Cpus, per_gpu: int | None
) -> tuple[DomainGroup, ...]:
    """A group for each GPU; without GPUs, for each NUMA node and at most MOST_NICS of its NICs."""
    if gpus:
        dealt = _deal(tree, gpus, nics) if per_gpu is None else _closest(tree, gpus, nics, per_gpu)
        made = [_group(tree, gpu, dealt[gpu.name]) for gpu in gpus]
    else:
        made = [
            _bare_group(node, part)
            for node, there in _by_node(nics, cpus).items()
            for part in _parts(there, per_gpu or MOST_NICS)
        ]
    return tuple(_with_cpus(_with_rails(made), cpus))


def place(tree: PciTree, spot: Spot) -> Place:
    path = tree.path(spot.pci or "")
    bridges = {("machine", "pci", *path[:n]) for n in range(1, len(path) + 1)}
    node = {("machine", f"node{spot.numa}")} if spot.numa is not None else set()
    return frozenset({("machine",), *node, *bridges})


def nearness(one: Place, other: Place) -> int:
    """How deep the innermost thing is that both stand in."""
    return max(map(len, one & other))


def _deal(tree: PciTree, gpus: Sequence[Spot], nics: Sequence[Spot]) -> dict[str, list[Spot]]:
    places = {spot: place(tree, spot) for spot in (*gpus, *nics)}
    dealt: dict[str, list[Spot]] = {gpu.name: [] for gpu in gpus}
    free = list(nics)
    things = set[tuple[str, ...]]().union(*places.values())
    for thing in sorted(things, key=lambda thing: (-len(thing), thing)):
        here = [gpu for gpu in gpus if not dealt[gpu.name] and thing in places[gpu]]
        there = [nic for nic in free if thing in places[nic]]
        if here and there:
            _share(here, there[: MOST_NICS * len(here)], dealt)
            given = {nic for gpu in here for nic in dealt[gpu.name]}
            free = [nic for nic in free if nic not in given]
    without = [gpu for gpu in gpus if not dealt[gpu.name]]
    if without and nics:
        used = Counter(nic for mine in dealt.values() for nic in mine)
        for gpu in without:
            dealt[gpu.name] = [_best(places, gpu, nics, used)]
            used.update(dealt[gpu.name])
    return dealt


def _share(gpus: Sequence[Spot], nics: Sequence[Spot], dealt: Mapping[str, list[Spot]]) -> None:
    """Neighbours to neighbours: in the order of both."""
    if len(nics) < len(gpus):
        for i, gpu in enumerate(gpus):
            dealt[gpu.name].append(nics[i * len(nics) // len(gpus)])
    else:
        for i, nic in enumerate(nics):
            dealt[gpus[i * len(gpus) // len(nics)].name].append(nic)


def _closest(
    tree: PciTree, gpus: Sequence[Spot], nics: Sequence[Spot], per_gpu: int
) -> dict[str, list[Spot]]:
    """So many for each, whether or not others have them too."""
    places = {spot: place(tree, spot) for spot in (*gpus, *nics)}
    dealt: dict[str, list[Spot]] = {gpu.name: [] for gpu in gpus}
    used: Counter[Spot] = Counter()
    for _ in range(min(per_gpu, len(nics))):
        for gpu in gpus:
            left = [nic for nic in nics if nic not in dealt[gpu.name]]
            nic = _best(places, gpu, left, used)
            dealt[gpu.name].append(nic)
            used[nic] += 1
    return dealt


def _best(
    places: Mapping[Spot, Place], gpu: Spot, nics: Iterable[Spot], used: Mapping[Spot, int]
) -> Spot:
    """The closest; of these, the one least used."""
    return min(nics, key=lambda nic: (-nearness(places[gpu], places[nic]), used[nic]))


def _group(tree: PciTree, gpu: Spot, nics: Sequence[Spot]) -> DomainGroup:
    return DomainGroup(
        gpu=gpu.pci,
        numa=gpu.numa,
        nics=tuple(nic.name for nic in nics),
        closeness=tuple(affinity(tree, gpu, nic) for nic in nics),
        rails=(),
        cpus=(),
        shared=(),
    )


def _bare_group(node: int | None, nics: Sequence[Spot]) -> DomainGroup:
    return DomainGroup(None, node, tuple(nic.name for nic in nics), (), (), (), ())


def _by_node(nics: Sequence[Spot], cpus: Cpus) -> dict[int | None, list[Spot]]:
    """NICs by NUMA node; where there are none, the nodes alone, for shared memory."""
    nodes: dict[int | None, list[Spot]] = {}
    for nic in nics:
        nodes.setdefault(nic.numa, []).append(nic)
    if not nodes:
        nodes = {node.number: [] for node in cpus.nodes if node.cpus.value} or {None: []}
    return nodes


def _parts(nics: Sequence[Spot], most: int) -> list[Sequence[Spot]]:
    """As few as hold at most so many each, of even sizes."""
    count = max(1, -(-len(nics) // most))
    bounds = [i * len(nics) // count for i in range(count + 1)]
    return [nics[start:end] for start, end in pairwise(bounds)]


def _with_rails(groups: Sequence[DomainGroup]) -> list[DomainGroup]:
    used = Counter(nic for group in groups for nic in group.nics)
    rails = {nic: rail for rail, nic in enumerate(used)}
    return [
        replace(
            group,
            rails=tuple(rails[nic] for nic in group.nics),
            shared=tuple(nic for nic in group.nics if used[nic] > 1),
        )
        for group in groups
    ]


def _with_cpus(groups: Sequence[DomainGroup], cpus: Cpus) -> list[DomainGroup]:
    """Cores of the group's node, whole ones first; none twice, so that they may run out."""
    free = list(cpus.usable())
    made = []
    for group in groups:
        node = group.numa
        near = [cpu for cpu in free if node is None or cpus.node_of(cpu) in (node, None)]
        mine = near[: max(1, len(group.nics))]
        free = [cpu for cpu in free if cpu not in mine]
        made.append(replace(group, cpus=tuple(sorted(mine))))
    return made
