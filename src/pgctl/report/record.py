"""The record of a run: what gates, comparisons and reports rely on. `schema.json` describes it.

Plain values only, so that a writer needs to know nothing but this file. Units stand in the names:
`bw_gbyte_s`, `lat_us`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

SCHEMA = "pgctl.result/1"

Verdict = Literal["pass", "fail", "error", "skip"]
Outcome = Literal["pass", "warn", "fail", "skip"]
"""Of one check."""
Summary = Mapping[str, float]
"""Percentiles by name: p50, p90, p99, p99.9, min, max; and mean, over the whole run."""


@dataclass(frozen=True, slots=True)
class Run:
    """Who ran what, where and when."""

    argv: tuple[str, ...]
    started: str
    host: str
    ranks: int
    versions: Mapping[str, str]
    seed: int
    launcher: str = "local"
    cpus: tuple[int | None, ...] = ()
    """The core that each rank is pinned to; null where it is not pinned."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC of rank 0."""

    name: str
    pci: str | None
    link_gbit_s: float
    counters_delta: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a host, and what it has carried."""

    host: str
    name: str
    ranks: tuple[int, ...]
    """Those that use it; none: but it has sent something."""
    payload_out: int
    """Bytes that these have sent over it."""
    data_out: int | None
    """What it has sent by its own account, headers included; None: it does not count that."""
    data_in: int | None
    counters_delta: Mapping[str, int] = field(default_factory=dict)
    """From the first size to the last, as the kernel has it; what has not grown is left out."""


@dataclass(frozen=True, slots=True)
class Fabric:
    transport: str
    why: str
    nics: tuple[Nic, ...]
    path: str = ""
    """How bytes reach the peer's memory."""
    nics_by_rank: tuple[tuple[str, ...], ...] = ()
    """As the next; empty: it did not come to that."""
    groups_by_rank: tuple[str, ...] = ()
    """Which DomainGroup of its host a rank has, as probe prints it: its GPU, or its number; empty
    where NICs were taken otherwise."""
    progress: tuple[str, ...] = ()
    impair: str = ""
    """What went wrong on purpose, with the seed of the run; empty: nothing."""
    options: str = ""
    """What its NICs were given: "gid=3,tc=106"."""
    ports: tuple[Port, ...] = ()
    """Of RDMA devices."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw measurements, in the order in which they were made."""

    unit: str
    total: int
    """How many were made; more than there are values when only every n-th was kept."""
    values: tuple[int, ...]
    per: int = 1
    """Operations that one sample spans."""


@dataclass(frozen=True, slots=True)
class Result:
    """One test at one size."""

    test: str
    size: int
    iters: int
    """Operations measured."""
    metrics: Mapping[str, Summary]
    pair: tuple[int, int] | None = None
    verified: bool | None = None
    """Whether every byte arrived as it was sent; null when nobody looked."""
    bytes_per_nic: Mapping[str, int] = field(default_factory=dict)
    """Payload that left rank 0, by NIC; the latency and the warm-up included."""
    payload: Mapping[str, int] = field(default_factory=dict)
    """Bytes that one operation moves: total, and off_node."""
    samples: Mapping[str, Samples] = field(default_factory=dict)
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    id: str
    verdict: Outcome
    title: str
    evidence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Gate:
    test: str
    size: int
    metric: str
    value: float
    verdict: Literal["pass", "fail"]
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class DomainGroup:
    """A GPU, the NICs that serve it, and the cores that drive them."""

    gpu: str | None
    """By PCI address; null on a machine without GPUs."""
    numa: int | None
    nics: tuple[str, ...]
    cpus: tuple[int, ...]
    rails: tuple[int, ...] = ()
    """By NIC."""
    closeness: tuple[str, ...] = ()
    """By NIC: PIX, PXB, PHB, NODE or SYS."""
    shared: tuple[str, ...] = ()
    """Those of its NICs that other groups use too."""


@dataclass(frozen=True, slots=True)
class Record:
    command: str
    verdict: Verdict
    run: Run
    fabric: Fabric
    results: tuple[Result, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Physical limits measured in the same run: by size, or one number."""
    findings: tuple[Finding, ...] = ()
    gates: tuple[Gate, ...] = ()
    error: str | None = None
    """Why the run came to no verdict."""
    domain_groups: tuple[DomainGroup, ...] = ()
    hardware: Mapping[str, Any] | None = None
    """What probe read."""
    schema: str = field(default=SCHEMA, init=False)


def to_plain(record: Record) -> dict[str, Any]:
    """What JSON can express: dicts, lists and scalars, `schema` first."""
    plain = _plain(record)
    return {"schema": plain.pop("schema"), **plain}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
