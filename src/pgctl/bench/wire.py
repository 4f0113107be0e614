"""What the NICs say that they have carried, beside what was handed to them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pgctl.bench.session import Session
from pgctl.bench.spec import RDMA
from pgctl.hardware.counters import (
    Counters,
    data_received,
    data_sent,
    growth,
    read_counters,
    troubles,
)
from pgctl.hardware.root import Root
from pgctl.report.record import Finding, Port
from pgctl.units import format_bytes

_AGAIN_S = 0.1
_TIMES = 20
"""Some devices bring their counters up to date only now and then: so often they are read again."""

Said = tuple[Mapping[str, int], Mapping[str, Counters]]
"""By one rank: the payload that it has sent by NIC, and by how much its host's ports have grown."""


class Wire:
    """All ranks make one, and ask it for the ports, at the same time."""

    def __init__(self, session: Session, root: Root | None = None) -> None:
        self._session = session
        self._root = root or Root()
        self._over_rdma = session.transport == RDMA
        if self._over_rdma:
            session.meet()
        self._bytes = session.bytes_out()
        self._before = self._read()

    def ports(self) -> tuple[Port, ...]:
        """Of all hosts, since this was made."""
        if not self._over_rdma:
            return ()
        session = self._session
        hosts = [seat.host for seat in session.seats]
        session.meet()
        for _ in range(_TIMES):
            sent = {nic: n - self._bytes[nic] for nic, n in session.bytes_out().items()}
            found = merge(hosts, session.share([sent, self._grown()]))
            if not any(map(_is_stray, found)):
                break
            time.sleep(_AGAIN_S)
        return found

    def _read(self) -> dict[str, Counters]:
        return read_counters(self._root) if self._over_rdma else {}

    def _grown(self) -> dict[str, Counters]:
        after = self._read()
        return {nic: growth(self._before[nic], after[nic]) for nic in self._before if nic in after}


def merge(hosts: Sequence[str], said: Sequence[Said]) -> tuple[Port, ...]:
    """Ports that ranks use, and those that have sent something; host by host.

    Of a host with several ranks, the first that sees a port tells what it has counted.
    """
    counted: dict[tuple[str, str], Counters] = {}
    payload: dict[tuple[str, str], dict[int, int]] = {}
    for rank, (host, (sent, grown)) in enumerate(zip(hosts, said, strict=True)):
        for nic, counters in grown.items():
            counted.setdefault((host, nic), counters)
        for nic, n in sent.items():
            payload.setdefault((host, nic), {})[rank] = n
    others = [port for port in counted if port not in payload and data_sent(counted[port])]
    return tuple(
        _port(port, payload.get(port, {}), counted.get(port, {}))
        for port in sorted([*payload, *others])
    )


def _port(where: tuple[str, str], payload: Mapping[int, int], counted: Counters) -> Port:
    """payload: by rank."""
    host, name = where
    return Port(
        host=host,
        name=name,
        ranks=tuple(payload),
        payload_out=sum(payload.values()),
        data_out=data_sent(counted),
        data_in=data_received(counted),
        counters_delta=counted,
    )


def findings(ports: Sequence[Port]) -> list[Finding]:
    """Warnings: of every port that has sent less than it was given, and of all that had trouble."""
    strays = [_went_elsewhere(port, ports) for port in ports if _is_stray(port)]
    had = [(port, troubles(port.counters_delta)) for port in ports if port.ranks]
    texts = [_trouble(port, counters) for port, counters in had if counters]
    return strays + ([_had_trouble(texts)] if texts else [])


def _is_stray(port: Port) -> bool:
    """What stays between two ranks on one port need not leave the device, nor be counted."""
    return len(port.ranks) == 1 and port.data_out is not None and port.data_out < port.payload_out


def _went_elsewhere(port: Port, ports: Sequence[Port]) -> Finding:
    text = f"{port.name} of {port.host} has sent {_bytes(port)} of {format_bytes(port.payload_out)}"
    unused = [p for p in ports if p.host == port.host and not p.ranks]
    if unused:
        others = ", ".join(f"{other.name} {_bytes(other)}" for other in unused)
        text += f"; NICs that no rank uses: {others}"
    return Finding(
        id="PG202",
        verdict="warn",
        title="traffic went elsewhere",
        evidence=text,
        fix="see which way the address of the NIC's GID is routed (ip route get), and give each "
        "rank the NICs that you mean with --nics and --gid-index",
    )


def _trouble(port: Port, counters: Counters) -> str:
    return f"{port.name} of {port.host}: " + ", ".join(f"{k} {n}" for k, n in counters.items())


def _had_trouble(texts: Sequence[str]) -> Finding:
    return Finding(
        id="PG203",
        verdict="warn",
        title="packets were lost, late or marked",
        evidence="; ".join(texts),
        fix="look for congestion and loss on the way: flow control and ECN of the switches, "
        "the traffic class (--traffic-class), cables",
    )


def _bytes(port: Port) -> str:
    return format_bytes(port.data_out or 0)
