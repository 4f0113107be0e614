"""What the drivers of RDMA devices say, and sysfs does not.

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


def nothing_told(nic: str, why: str) -> Told:
    return Told(*(unknown(f"{call} {nic}", why) for call in (_DEVICE, _DMABUF, _PORT)))


def ask_drivers(nics: Sequence[str]) -> Mapping[str, Told]:
    """Of all of these: "mlx5_0:1" is a port."""
    if not nics:
        return {}
    ended = process.run([*_CHILD, *nics], _DEADLINE_S)
    told = {nic: nothing_told(nic, ended.why or "it did not say") for nic in nics}
    for line in ended.out:
        nic, _, answer = line.partition(" ")
        if nic in told:
            told[nic] = _told(nic, json.loads(answer))
    return told


def _told(nic: str, answer: Mapping[str, Any]) -> Told:
    if "why" in answer:
        return nothing_told(nic, answer["why"])
    dmabuf, source = answer["dmabuf"], f"{_DMABUF} {nic}"
    return Told(
        limits=Fact(
            Limits(**{name: answer[name] for name in Limits.__slots__}), f"{_DEVICE} {nic}"
        ),
        dmabuf=Fact(bool(dmabuf), source) if dmabuf >= 0 else unknown(source, os.strerror(-dmabuf)),
        active_mtu=Fact(answer["active_mtu"], f"{_PORT} {nic}"),
    )


def _answer(nics: Sequence[str]) -> None:
    from pgctl.engine import PgError, nic_facts

    for nic in nics:
        try:
            answer = asdict(nic_facts(nic))
        except PgError as error:
            answer = {"why": str(error)}
        sys.stdout.write(f"{nic} {json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer(sys.argv[1:])
