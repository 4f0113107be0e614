"""What the drivers of RDMA devices and libfabric say, and sysfs does not.

They are asked in a process of its own, since one whose device is in trouble may not answer. Run
as a program, this is that process: `python -m pgctl.hardware.driver NIC...`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgctl import process
from pgctl.hardware.root import Fact, unknown

_DEVICE, _DMABUF, _PORT = "ibv_query_device", "ibv_reg_dmabuf_mr", "ibv_query_port"
_LIBFABRIC = "fi_getinfo"
_DEADLINE_S = 5.0
_CHILD = (sys.executable, "-P", "-m", "pgctl.hardware.driver")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a device."""

    max_mr_size: int
    max_mr: int
    max_qp: int
    max_qp_wr: int
    max_sge: int
    max_cqe: int
    max_srq_wr: int
    max_reads: int
    atomics: bool


@dataclass(frozen=True, slots=True)
class Told:
    """Of a port, and the device that it belongs to."""

    limits: Fact[Limits]
    dmabuf: Fact[bool]
    """Whether it registers DMA-BUFs, thus GPU memory."""
    active_mtu: Fact[int]


@dataclass(frozen=True, slots=True)
class Offer:
    """Of a provider on a domain: endpoints without connections, for messages and RMA."""

    provider: str
    """ "efa", "verbs;ofi_rxm"."""
    fabric: str
    domain: str
    max_msg: int
    link_mbit_s: int
    """0: unknown."""
    cq_data: bool
    """Whether a write can bring 32 bits to the target's completion queue."""
    hmem: bool
    """Whether GPU memory will do as well."""


@dataclass(frozen=True, slots=True)
class Libfabric:
    version: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    by_port: Mapping[str, Told]
    libfabric: Fact[Libfabric]
    why: str
    """Why the other ports said nothing."""

    def of(self, nic: str) -> Told:
        return self.by_port.get(nic) or _nothing_told(nic, self.why)


def no_answers(why: str) -> Answers:
    return Answers({}, unknown(_LIBFABRIC, why), why)


def ask_drivers(nics: Sequence[str]) -> Answers:
    """Of all of these: "mlx5_0:1" is a port; and libfabric, of what it finds by itself."""
    ended = process.run([*_CHILD, *nics], _DEADLINE_S)
    told, why = dict[str, Told](), ended.why or "it did not say"
    libfabric: Fact[Libfabric] = unknown(_LIBFABRIC, why)
    for line in ended.out:
        who, _, answer = line.partition(" ")
        if who == _LIBFABRIC:
            libfabric = _libfabric(json.loads(answer))
        elif who in nics:
            told[who] = _told(who, json.loads(answer))
    return Answers(told, libfabric, why)


def _libfabric(answer: Mapping[str, Any]) -> Fact[Libfabric]:
    if "why" in answer:
        return unknown(_LIBFABRIC, answer["why"])
    offers = tuple(Offer(**offer) for offer in answer["offers"])
    return Fact(Libfabric(answer["version"], offers), _LIBFABRIC)


def _nothing_told(nic: str, why: str) -> Told:
    return Told(*(unknown(f"{call} {nic}", why) for call in (_DEVICE, _DMABUF, _PORT)))


def _told(nic: str, answer: Mapping[str, Any]) -> Told:
    if "why" in answer:
        return _nothing_told(nic, answer["why"])
    dmabuf, source = answer["dmabuf"], f"{_DMABUF} {nic}"
    return Told(
        limits=Fact(
            Limits(**{name: answer[name] for name in Limits.__slots__}), f"{_DEVICE} {nic}"
        ),
        dmabuf=Fact(bool(dmabuf), source) if dmabuf >= 0 else unknown(source, os.strerror(-dmabuf)),
        active_mtu=Fact(answer["active_mtu"], f"{_PORT} {nic}"),
    )


def _answer(nics: Sequence[str]) -> None:
    """libfabric last: it looks through all of its providers, which takes longest."""
    from pgctl.engine import PgError, fabric_facts, nic_facts

    def of_nic(nic: str) -> dict[str, Any]:
        return asdict(nic_facts(nic))

    def of_libfabric(_: str) -> dict[str, Any]:
        version, offers = fabric_facts()
        return {"version": version, "offers": [asdict(offer) for offer in offers]}

    for who, ask in (*((nic, of_nic) for nic in nics), (_LIBFABRIC, of_libfabric)):
        try:
            answer = ask(who)
        except PgError as error:
            answer = {"why": str(error)}
        sys.stdout.write(f"{who} {json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer(sys.argv[1:])
