"""Network interfaces, and the bonds that they make up."""

from __future__ import annotations

from dataclasses import dataclass

from pgctl.hardware.pci import address_in
from pgctl.hardware.root import Fact, Root, base, natural_number

_NET = "/sys/class/net"
_SPEED_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class Netdev:
    name: str
    pci: str | None
    state: Fact[str]
    mtu: Fact[int]
    speed_mbit_s: Fact[int]
    """Of a bond, that of its members which are up, added by the kernel."""
    master: str | None
    """The bond or bridge it belongs to."""
    members: tuple[str, ...]
    """Of a bond."""
    bond_mode: str | None
    source: str


def read_netdevs(root: Root) -> tuple[Netdev, ...]:
    names = root.names(_NET).value or ()
    return tuple(_netdev(root, f"{_NET}/{name}") for name in names if _is_device(root, name))


def _is_device(root: Root, name: str) -> bool:
    """`bonding_masters` stands among the devices and is none."""
    return name != "lo" and root.exists(f"{_NET}/{name}/mtu")


def _netdev(root: Root, path: str) -> Netdev:
    where = root.link(path).value or root.link(f"{path}/device").value or ""
    master = root.link(f"{path}/master").value
    members = root.text(f"{path}/bonding/slaves").value
    mode = root.text(f"{path}/bonding/mode").value
    return Netdev(
        name=base(path),
        pci=address_in(where),
        state=root.text(f"{path}/operstate"),
        mtu=root.read(f"{path}/mtu", natural_number),
        speed_mbit_s=root.read(f"{path}/speed", _speed),
        master=base(master) if master else None,
        members=tuple(members.split()) if members else (),
        bond_mode=mode.split(maxsplit=1)[0] if mode else None,
        source=path,
    )


def _speed(text: str) -> int:
    value = natural_number(text)
    if not 0 < value < _SPEED_LIMIT:
        raise ValueError(f"the driver says {value}")
    return value
