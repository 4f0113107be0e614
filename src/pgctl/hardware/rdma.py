"""RDMA devices, as /sys/class/infiniband has them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pgctl.hardware.driver import Answers, Limits
from pgctl.hardware.pci import address_in
from pgctl.hardware.root import Fact, Root, natural_number, unknown
from pgctl.units import RDMA_MTUS

CLASS = "/sys/class/infiniband"
VERBS = "/sys/class/infiniband_verbs"
DEV = "/dev/infiniband"

_COUNTERS = (
    *("port_xmit_data", "port_rcv_data", "link_downed", "link_error_recovery"),
    *("symbol_error", "port_xmit_wait", "port_xmit_discards"),
)
_HW_COUNTERS = (
    *("out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err"),
    *("np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"),
)
_MOST_GIDS = 256
_ROCE_HEADERS = 96
"""Bytes that the kernel sets aside in a frame before it chooses the RDMA MTU."""


@dataclass(frozen=True, slots=True)
class Gid:
    index: int
    value: str
    kind: Fact[str]
    """IB/RoCE v1, or RoCE v2."""
    netdev: str | None

    @property
    def address(self) -> ipaddress.IPv6Address:
        return ipaddress.IPv6Address(self.value)

    @property
    def routable(self) -> bool:
        """An address that a router would forward: no link-local one."""
        return not self.address.is_link_local


@dataclass(frozen=True, slots=True)
class Port:
    device: str
    number: int
    state: Fact[str]
    phys_state: Fact[str]
    link_layer: Fact[str]
    roce: bool
    """Over Ethernet, and no iWARP."""
    active_mtu: Fact[int]
    rate_gbit_s: Fact[float]
    """As the RDMA device has it; of a bond it is often that of one member."""
    gids: tuple[Gid, ...]
    gids_readable: Fact[int]
    """How many entries the table has."""
    pkeys: Fact[tuple[int, ...]]
    netdev: str | None
    traffic_class: Fact[int]
    counters: Mapping[str, int]
    source: str

    @property
    def active(self) -> bool | None:
        return None if self.state.value is None else self.state.value == "ACTIVE"


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    name: str
    pci: str | None
    ports: tuple[Port, ...]
    node_type: Fact[str]
    firmware: Fact[str]
    board: Fact[str]
    parent: Fact[str]
    """The interface that a device without hardware of its own stands on."""
    uverbs: Fact[bool]
    """Whether this process can open it."""
    limits: Fact[Limits]
    dmabuf: Fact[bool]
    """Whether it registers DMA-BUFs, thus GPU memory."""
    source: str


def rdma_ports(root: Root) -> list[str]:
    """As drivers call them: "mlx5_0:1"; of a device without ports, the first."""
    names = root.names(CLASS).value or ()
    return [f"{name}:{number}" for name in names for number in _port_numbers(root, name) or [1]]


def read_rdma(root: Root, answers: Answers) -> tuple[tuple[RdmaDevice, ...], Fact[tuple[str, ...]]]:
    """The devices, and the directory they were found in. answers: of their drivers."""
    names = root.names(CLASS)
    verbs = {}
    for name in root.names(VERBS).value or ():
        device = root.text(f"{VERBS}/{name}/ibdev").value
        if device is not None:
            verbs[device] = name
    devices = (_device(root, name, verbs.get(name), answers) for name in names.value or ())
    return tuple(devices), names


def roce_mtu(netdev_mtu: int) -> int:
    """The RDMA MTU that the kernel makes of an interface's; 0 where none fits."""
    return next((mtu for mtu in reversed(RDMA_MTUS) if mtu <= netdev_mtu - _ROCE_HEADERS), 0)


def _port_numbers(root: Root, device: str) -> list[int]:
    names = root.names(f"{CLASS}/{device}/ports").value or ()
    return sorted(int(name) for name in names if name.isdecimal())


def _device(root: Root, name: str, verbs: str | None, answers: Answers) -> RdmaDevice:
    path = f"{CLASS}/{name}"
    where = root.link(path).value or ""
    pci = address_in(where) or address_in(root.link(f"{path}/device").value or "")
    node_type = root.read(f"{path}/node_type", _after_colon)
    ports = _port_numbers(root, name)
    first = answers.of(f"{name}:{ports[0] if ports else 1}")
    if verbs is None:
        uverbs = unknown(VERBS, f"no entry is of {name}")
    else:
        uverbs = root.openable(f"{DEV}/{verbs}")
    return RdmaDevice(
        name=name,
        pci=pci,
        ports=tuple(
            _port(root, name, number, node_type.value, answers.of(f"{name}:{number}").active_mtu)
            for number in ports
        ),
        node_type=node_type,
        firmware=root.text(f"{path}/fw_ver"),
        board=root.text(f"{path}/board_id"),
        parent=root.text(f"{path}/parent"),
        uverbs=uverbs,
        limits=first.limits,
        dmabuf=first.dmabuf,
        source=path,
    )


def _port(
    root: Root, device: str, number: int, node_type: str | None, active_mtu: Fact[int]
) -> Port:
    path = f"{CLASS}/{device}/ports/{number}"
    gids, readable = _gids(root, path)
    layer = root.text(f"{path}/link_layer")
    return Port(
        device=device,
        number=number,
        state=root.read(f"{path}/state", _after_colon),
        phys_state=root.read(f"{path}/phys_state", _after_colon),
        link_layer=layer,
        roce=layer.value == "Ethernet" and node_type in ("CA", None),
        active_mtu=active_mtu,
        rate_gbit_s=root.read(f"{path}/rate", _rate),
        gids=gids,
        gids_readable=readable,
        pkeys=_pkeys(root, f"{path}/pkeys"),
        netdev=next((gid.netdev for gid in gids if gid.netdev), None),
        traffic_class=root.read(f"{CLASS}/{device}/tc/{number}/traffic_class", _traffic_class),
        counters={**_counters(root, path), **_hw_counters(root, device, path)},
        source=path,
    )


def _gids(root: Root, path: str) -> tuple[tuple[Gid, ...], Fact[int]]:
    names = root.names(f"{path}/gids")
    gids = []
    indices = sorted(int(name) for name in names.value or () if name.isdecimal())
    for index in indices[:_MOST_GIDS]:
        value = root.read(f"{path}/gids/{index}", _gid).value
        if value is not None:
            kind = root.text(f"{path}/gid_attrs/types/{index}")
            netdev = root.text(f"{path}/gid_attrs/ndevs/{index}").value
            gids.append(Gid(index, value, kind, netdev))
    return tuple(gids), names.map(len)


def _pkeys(root: Root, path: str) -> Fact[tuple[int, ...]]:
    names = root.names(path)
    if names.value is None:
        return unknown(path, names.why)
    keys = (root.read(f"{path}/{name}", natural_number) for name in names.value[:_MOST_GIDS])
    return Fact(tuple(key.value for key in keys if key.value), path)


def _counters(root: Root, path: str) -> dict[str, int]:
    return _numbers(root, f"{path}/counters", _COUNTERS)


def _hw_counters(root: Root, device: str, path: str) -> dict[str, int]:
    """Of the port; older drivers keep them with the device."""
    of_port = _numbers(root, f"{path}/hw_counters", _HW_COUNTERS)
    return of_port or _numbers(root, f"{CLASS}/{device}/hw_counters", _HW_COUNTERS)


def _numbers(root: Root, path: str, names: tuple[str, ...]) -> dict[str, int]:
    found = {name: root.read(f"{path}/{name}", natural_number).value for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _after_colon(text: str) -> str:
    """ACTIVE of "4: ACTIVE"."""
    _, _, name = text.partition(":")
    if not name.strip():
        raise ValueError(f"the kernel says {text[:40]!r}")
    return name.strip()


def _rate(text: str) -> float:
    """Gb/s of "400 Gb/sec (4X NDR)"."""
    number, _, rest = text.partition(" ")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e6 or not rest.startswith("Gb/sec"):
        raise ValueError(f"the kernel says {text[:40]!r}")
    return rate


def _traffic_class(text: str) -> int:
    """106 of "Global tclass=106"; classes of single addresses may follow."""
    match = re.match(r"(?:Global tclass=)?([0-9]{1,3})\s*$", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"the kernel says {text[:40]!r}")
    return int(match[1])


def _gid(text: str) -> str:
    """Raises ValueError for one that is empty."""
    address = ipaddress.IPv6Address(text)
    if not int(address) or not int(address) & (1 << 64) - 1:
        raise ValueError("an empty entry")
    return text
