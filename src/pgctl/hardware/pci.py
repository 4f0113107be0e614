"""The PCI tree: every device by its address, with the bridges between it and the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from pgctl.hardware.root import Fact, Root, base, natural_number, unknown, whole_number

DEVICES = "/sys/bus/pci/devices"

BRIDGE, NETWORK, DISPLAY, ACCELERATOR = 0x06, 0x02, 0x03, 0x12
"""Base classes."""
INFINIBAND, DISPLAY_3D = 0x0207, 0x0302

MEMORY_SPACE, BUS_MASTER = 1 << 1, 1 << 2
"""Bits of the command register."""

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)
_HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}", re.IGNORECASE)
_ACS = 0x000D
_FIRST_EXTENDED, _MOST_EXTENDED = 0x100, 0x1000
_PREFETCHABLE_64 = 0x2000 | 0x100000
_REDIRECTS = 0b11100
"""ACS: request redirect, completion redirect, upstream forwarding."""


@dataclass(frozen=True, slots=True)
class Link:
    """A PCI Express link: speeds in GT/s, widths in lanes."""

    speed: Fact[float]
    width: Fact[int]
    max_speed: Fact[float]
    max_width: Fact[int]


@dataclass(frozen=True, slots=True)
class Bar:
    address: int
    size: int
    large: bool
    """64 bits wide and prefetchable, as memory behind it is."""


@dataclass(frozen=True, slots=True)
class PciDevice:
    address: str
    above: Fact[tuple[str, ...]]
    """From the host bridge down: what stands between the CPU and the device."""
    kind: Fact[int]
    """Class and subclass: 0x0302."""
    vendor: Fact[int]
    device: Fact[int]
    numa: Fact[int]
    driver: Fact[str]
    link: Link
    bars: Fact[tuple[Bar, ...]]
    command: Fact[int]
    acs_redirects: Fact[bool]
    """Whether a bridge sends what peers exchange up to the CPU."""
    iommu: Fact[str]
    """What the IOMMU does with its addresses: identity, DMA, DMA-FQ; none where there is none."""
    physical_function: str | None
    """The address of what this is a virtual function of."""
    source: str

    def is_a(self, base_class: int) -> bool:
        return self.kind.value is not None and self.kind.value >> 8 == base_class


@dataclass(frozen=True, slots=True)
class PciTree:
    devices: Mapping[str, PciDevice]
    per_switch: int = 2
    """Bridges that a packet meets in one switch: its two ports, or the switch as a whole."""

    def of_class(self, *base_classes: int) -> Iterator[PciDevice]:
        return (dev for dev in self.devices.values() if any(map(dev.is_a, base_classes)))

    def path(self, address: str) -> tuple[str, ...]:
        """The host bridge, the bridges, the device; () where they are not known."""
        device = self.devices.get(address)
        above = device.above.value if device else None
        return (*above, address) if above else ()

    def bridges(self, address: str) -> list[PciDevice]:
        """From the device up."""
        return [self.devices[name] for name in self.path(address)[-2:0:-1] if name in self.devices]


def address_in(path: str) -> str | None:
    """The last PCI address in a path."""
    parts = [part for part in path.split("/") if _ADDRESS.fullmatch(part)]
    return parts[-1].lower() if parts else None


def full_address(text: str) -> str | None:
    """A PCI address with its domain, in lower case; None for any other text."""
    text = text.strip().lower()
    text = text if text.count(":") == 2 else f"0000:{text}"
    return text if _ADDRESS.fullmatch(text) else None


def read_tree(root: Root) -> tuple[PciTree, Fact[tuple[str, ...]]]:
    """The tree, and whether there was one to read."""
    names = root.names(DEVICES)
    wanted = (name for name in names.value or () if _ADDRESS.fullmatch(name))
    devices = {name.lower(): read_device(root, f"{DEVICES}/{name}") for name in wanted}
    return PciTree(devices), names


def read_device(root: Root, path: str) -> PciDevice:
    address = base(path).lower()
    config = root.raw(f"{path}/config")
    physical = root.link(f"{path}/physfn").value or ""
    kind = root.read(f"{path}/class", lambda text: natural_number(text) >> 8)
    is_bridge = kind.value is not None and kind.value >> 8 == BRIDGE
    unasked = "not asked: no bridge" if kind.known else "not asked: no class"
    return PciDevice(
        address=address,
        above=root.link(path).map(partial(_above, address)),
        kind=kind,
        vendor=root.read(f"{path}/vendor", natural_number),
        device=root.read(f"{path}/device", natural_number),
        numa=root.read(f"{path}/numa_node", numa_node),
        driver=root.link(f"{path}/driver").map(base),
        link=_link(root, path),
        bars=root.read(f"{path}/resource", _bars),
        command=config.map(_command),
        acs_redirects=config.map(acs_redirects) if is_bridge else unknown(config.source, unasked),
        iommu=_iommu(root, f"{path}/iommu_group"),
        physical_function=address_in(physical),
        source=path,
    )


def no_link(source: str, why: str) -> Link:
    return Link(
        unknown(source, why), unknown(source, why), unknown(source, why),
        unknown(source, why),
    )  # fmt: skip


def speed(text: str) -> float:
    """GT/s. Raises ValueError."""
    number = text.split(" ", maxsplit=1)[0]
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise ValueError(f"the kernel says {text[:40]!r}")
    return value


def width(text: str) -> int:
    """Lanes. Raises ValueError."""
    value = natural_number(text.removeprefix("x"))
    if not 0 < value <= 64:
        raise ValueError(f"the kernel says {value}")
    return value


def numa_node(text: str) -> int:
    value = whole_number(text)
    if value < 0:
        raise ValueError("the firmware does not say (-1)")
    return value


def acs_redirects(config: bytes) -> bool:
    """Raises ValueError where the configuration space was cut short, as it is but for root."""
    if len(config) < _MOST_EXTENDED:
        raise ValueError(f"{len(config)} bytes are readable; the rest is for root")
    offset, seen = _FIRST_EXTENDED, set[int]()
    while _FIRST_EXTENDED <= offset <= _MOST_EXTENDED - 8 and offset not in seen:
        seen.add(offset)
        head = int.from_bytes(config[offset : offset + 4], "little")
        if head & 0xFFFF == _ACS:
            control = int.from_bytes(config[offset + 6 : offset + 8], "little")
            return bool(control & _REDIRECTS)
        offset = head >> 20 & ~3
    return False


def common(first: Iterable[str], second: Iterable[str]) -> int:
    """How many members two paths share from the top."""
    shared = 0
    for mine, theirs in zip(first, second, strict=False):
        if mine != theirs:
            break
        shared += 1
    return shared


def _above(address: str, link: str) -> tuple[str, ...]:
    parts = [part.lower() for part in link.split("/")]
    start = next((i for i, part in enumerate(parts) if _HOST_BRIDGE.fullmatch(part)), None)
    if start is None or parts[-1] != address:
        raise ValueError(f"the link says {link[:80]!r}, which names no host bridge")
    bridges = [part for part in parts[start + 1 : -1] if _ADDRESS.fullmatch(part)]
    return (parts[start], *bridges)


def _link(root: Root, path: str) -> Link:
    return Link(
        speed=root.read(f"{path}/current_link_speed", speed),
        width=root.read(f"{path}/current_link_width", width),
        max_speed=root.read(f"{path}/max_link_speed", speed),
        max_width=root.read(f"{path}/max_link_width", width),
    )


def _iommu(root: Root, group: str) -> Fact[str]:
    return root.text(f"{group}/type") if root.exists(group) else Fact("none", group)


def _bars(text: str) -> tuple[Bar, ...]:
    bars = []
    for line in text.splitlines()[:6]:
        start, end, flags = map(natural_number, line.split())
        if flags:
            large = flags & _PREFETCHABLE_64 == _PREFETCHABLE_64
            bars.append(Bar(start, end - start + 1 if end else 0, large))
    return tuple(bars)


def _command(config: bytes) -> int:
    if len(config) < 6:
        raise ValueError(f"{len(config)} bytes are readable")
    return int.from_bytes(config[4:6], "little")
