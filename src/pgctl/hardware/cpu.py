"""CPUs and NUMA nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgctl.hardware.root import Fact, Root, cpu_list

_CPUS = "/sys/devices/system/cpu"
_NODES = "/sys/devices/system/node"
_STATUS = "/proc/self/status"


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node."""

    number: int
    cpus: Fact[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Cpus:
    model: Fact[str]
    virtual: Fact[bool]
    """Whether they are those of a virtual machine."""
    online: Fact[tuple[int, ...]]
    allowed: Fact[tuple[int, ...]]
    """Those that this process may use."""
    siblings: Mapping[int, tuple[int, ...]]
    """By CPU, the hardware threads of its core; absent where unknown."""
    nodes: tuple[Node, ...]
    governors: Mapping[int, str]
    """By CPU; absent where the kernel does not scale its frequency."""

    def usable(self) -> tuple[int, ...]:
        """Online and allowed; first of each core first."""
        online, allowed = self.online.value, self.allowed.value
        if online is None or allowed is None:
            cpus = set(online or allowed or ())
        else:
            cpus = set(online) & set(allowed)
        return tuple(sorted(cpus, key=lambda cpu: (self._thread(cpu), cpu)))

    def node_of(self, cpu: int) -> int | None:
        return next((node.number for node in self.nodes if cpu in (node.cpus.value or ())), None)

    def _thread(self, cpu: int) -> int:
        """Its place among the hardware threads of its core."""
        siblings = self.siblings.get(cpu, ())
        return siblings.index(cpu) if cpu in siblings else 0


def read_cpus(root: Root) -> Cpus:
    online = root.read(f"{_CPUS}/online", cpu_list)
    names = root.names(_NODES).value or ()
    nodes = [name.removeprefix("node") for name in names if name.startswith("node")]
    numbers = sorted(int(number) for number in nodes if number.isdecimal())
    siblings, governors = {}, {}
    for cpu in online.value or ():
        members = root.read(f"{_CPUS}/cpu{cpu}/topology/core_cpus_list", cpu_list)
        if not members.known:
            members = root.read(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list", cpu_list)
        if members.value is not None:
            siblings[cpu] = members.value
        governor = root.text(f"{_CPUS}/cpu{cpu}/cpufreq/scaling_governor").value
        if governor is not None:
            governors[cpu] = governor
    info = root.text("/proc/cpuinfo")
    return Cpus(
        model=info.map(_model),
        virtual=info.map(_virtual),
        online=online,
        allowed=root.text(_STATUS).map(lambda text: cpu_list(field(text, "Cpus_allowed_list"))),
        siblings=siblings,
        nodes=tuple(
            Node(number, root.read(f"{_NODES}/node{number}/cpulist", cpu_list))
            for number in numbers
        ),
        governors=governors,
    )


def field(text: str, name: str) -> str:
    """What follows "name:" in a file of such lines. Raises ValueError."""
    for line in text.splitlines():
        head, colon, value = line.partition(":")
        if colon and head.strip() == name:
            return value.strip()
    raise ValueError(f"it has no {name}")


def _model(text: str) -> str:
    return field(text, "model name")


def _virtual(text: str) -> bool:
    return "hypervisor" in field(text, "flags").split()
