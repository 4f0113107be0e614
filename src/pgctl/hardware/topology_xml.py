"""The PCI tree out of an NCCL topology file, the kind that NCCL_TOPO_DUMP_FILE writes.

The parser takes no document type, hence no entities, and ends at a size and a depth that no machine
reaches.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from pgctl.hardware import pci
from pgctl.hardware.cpu import Node
from pgctl.hardware.root import Fact, U, natural_number, unknown, whole_number

_MOST_BYTES = 4 << 20
_MOST_DEPTH = 64
_MOST_DEVICES = 1 << 10
_NAME = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_ABSENT = "not in the topology file"


class TopologyError(ValueError):
    """The file is none; says where."""


@dataclass(frozen=True, slots=True)
class Net:
    """A port of a NIC."""

    name: str
    port: int
    pci: str
    gbit_s: Fact[float]


@dataclass(frozen=True, slots=True)
class Topology:
    source: str
    devices: Mapping[str, pci.PciDevice]
    nodes: tuple[Node, ...]
    nets: tuple[Net, ...]
    cpu_vendor: str


def read_topology(path: str) -> Topology:
    """Raises TopologyError, or OSError for a file that cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TopologyError(f"{path}: not a regular file")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise TopologyError(
            f"{path}: more than {_MOST_BYTES >> 20} MiB is no topology of a machine"
        )
    return _Reader(path).read(data)


@dataclass(slots=True)
class _Reader:
    path: str
    parser: expat.XMLParserType = field(init=False)
    depth: int = 0
    above: list[tuple[str, str]] = field(default_factory=list)
    """Open elements that stand in a path: (element, name)."""
    numa: Fact[int] = field(default_factory=lambda: unknown("", _ABSENT))
    devices: dict[str, pci.PciDevice] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    nets: list[Net] = field(default_factory=list)
    cpu_vendor: str = ""

    def read(self, data: bytes) -> Topology:
        # As NCCL writes. What the file calls its encoding would be looked up among Python's codecs.
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        try:
            self.parser.Parse(data, True)
        except expat.ExpatError as error:
            cause = expat.errors.messages[error.code]
            raise TopologyError(f"{self.path}:{error.lineno}: {cause}") from None
        if not self.devices:
            raise TopologyError(f"{self.path}: it holds no <pci> element")
        nodes = tuple(self.nodes[number] for number in sorted(self.nodes))
        return Topology(self.path, self.devices, nodes, tuple(self.nets), self.cpu_vendor)

    def _refuse(self, *_: object) -> NoReturn:
        self._fail("a document type is not allowed here")

    def _fail(self, why: str) -> NoReturn:
        raise TopologyError(f"{self.path}:{self.parser.CurrentLineNumber}: {why}")

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            self._fail(f"elements are nested {self.depth} deep")
        if self.depth == 1 and element != "system":
            self._fail(f"expected <system>, not <{element[:40]}>")
        if element == "cpu":
            self._cpu(attributes)
        elif element == "pci":
            self._pci(attributes)
        elif element == "net":
            self._net(attributes)

    def _end(self, element: str) -> None:
        self.depth -= 1
        if element in ("cpu", "pci"):
            self.above.pop()

    def _cpu(self, attributes: dict[str, str]) -> None:
        number = self._number("cpu", "numaid", attributes, whole_number)
        self.above.append(("cpu", f"cpu{number}"))
        self.numa = self._fact(number) if number >= 0 else unknown(self.path, "numaid is -1")
        self.cpu_vendor = attributes.get("vendor", "")[:40]
        if number >= 0:
            mask = attributes.get("affinity")
            cpus = unknown(self.path, _ABSENT)
            self.nodes[number] = Node(number, self._fact(self._mask(mask)) if mask else cpus)

    def _pci(self, attributes: dict[str, str]) -> None:
        address = pci.full_address(attributes.get("busid", ""))
        if address is None:
            self._fail(f"<pci> has busid {attributes.get('busid', '')[:40]!r}, not a PCI address")
        if address in self.devices:
            self._fail(f"busid {address} stands here for the second time")
        if len(self.devices) >= _MOST_DEVICES:
            self._fail(f"more than {_MOST_DEVICES} PCI devices")
        if not self.above:
            self._fail("<pci> stands outside of <cpu>")
        kind = self._number("pci", "class", attributes) >> 8
        self.devices[address] = self._device(address, kind, attributes)
        self.above.append(("pci", address))

    def _device(self, address: str, kind: int, attributes: dict[str, str]) -> pci.PciDevice:
        source = f"{self.path}:{self.parser.CurrentLineNumber}"
        ids = {
            name: self._fact(self._number("pci", name, attributes))
            if attributes.get(name)
            else unknown(source, _ABSENT)
            for name in ("vendor", "device")
        }
        link = pci.no_link(source, _ABSENT)
        speed, width = attributes.get("link_speed"), attributes.get("link_width")
        return pci.PciDevice(
            address=address,
            above=Fact(tuple(name for _, name in self.above), source),
            kind=Fact(kind, source),
            vendor=ids["vendor"],
            device=ids["device"],
            numa=self.numa,
            driver=unknown(source, _ABSENT),
            link=pci.Link(
                Fact(speed, source).map(pci.speed) if speed else link.speed,
                Fact(width, source).map(pci.width) if width else link.width,
                link.max_speed,
                link.max_width,
            ),
            bars=unknown(source, _ABSENT),
            command=unknown(source, _ABSENT),
            acs_redirects=unknown(source, _ABSENT),
            iommu=unknown(source, _ABSENT),
            physical_function=None,
            source=source,
        )

    def _net(self, attributes: dict[str, str]) -> None:
        name = attributes.get("name", "")
        if not self.above or self.above[-1][0] != "pci":
            return  # a socket interface without a device of its own
        if not _NAME.fullmatch(name):
            self._fail(f"<net> has name {name[:40]!r}")
        port = self._number("net", "port", attributes) if attributes.get("port") else 1
        speed = self._number("net", "speed", attributes) if attributes.get("speed") else 0
        gbit_s = Fact(speed / 1000, self.path) if speed > 0 else unknown(self.path, _ABSENT)
        self.nets.append(Net(name, port, self.above[-1][1], gbit_s))

    def _number(
        self,
        element: str,
        name: str,
        attributes: dict[str, str],
        parse: Callable[[str], int] = natural_number,
    ) -> int:
        try:
            return parse(attributes.get(name, ""))
        except ValueError as error:
            self._fail(f"<{element}> needs {name}: {error}")

    def _mask(self, text: str) -> tuple[int, ...]:
        try:
            bits = int("".join(group.rjust(8, "0") for group in text.split(",")), 16)
        except ValueError:
            self._fail(f"affinity {text[:40]!r} is not a mask of cpus")
        if bits.bit_length() > 1 << 16:
            self._fail("affinity names more cpus than there are")
        return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)

    def _fact(self, value: U) -> Fact[U]:
        return Fact(value, f"{self.path}:{self.parser.CurrentLineNumber}")
