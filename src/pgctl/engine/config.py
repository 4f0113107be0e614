"""What an engine is made of, and what it says about itself: plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from pgctl._ffi import ffi, lib
from pgctl.engine.native import NS, check, fixed, new_error, text
from pgctl.errors import PgInvalid

Progress = Literal["auto", "inline", "worker"]

_PROGRESS: dict[str, int] = {
    "auto": lib.PG_PROGRESS_AUTO,
    "inline": lib.PG_PROGRESS_INLINE,
    "worker": lib.PG_PROGRESS_WORKER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NicConfig:
    """One NIC (Domain) of a group."""

    transport: str = ""
    """Empty: the first that this machine can run."""
    device: str = ""
    """Empty: the transport chooses."""
    options: str = ""
    """The transport's own: "gid=3,tc=106". Empty: as its environment variable says."""
    cpu: int = -1
    """Where this NIC's own thread is pinned, if it has one; -1: nowhere."""
    link_mbit_s: int = 0
    """Its share of split writes; 0: as the transport says."""
    rail: int = 0
    """NICs of one rail prefer each other; 0: as the transport says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """One DomainGroup: 1 to 4 NICs that work together."""

    nics: Sequence[NicConfig] = (NicConfig(),)
    progress: Progress = "auto"
    """"worker": a thread of the engine's. "inline": the caller's; who stops calling stalls peers.
    "auto": a worker where there are more than two cores."""
    worker_cpu: int = -1
    """Where the worker is pinned; -1: nowhere."""
    rail_only: bool = False
    """NICs of different rails do not reach each other."""
    impair: str = ""
    """What goes wrong with its NICs on purpose: "reorder=16,jitter=50us"; see docs/impair.md.
    Empty: as PGCTL_IMPAIR and PGCTL_IMPAIR_SEED say, or nothing."""
    impair_seed: int = 0
    """Of what is left to chance."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What a transport promises; the fields of struct pg_caps."""

    max_write: int
    max_msg: int
    max_outstanding: int
    imm_bits: int
    split_min: int
    max_inline: int
    link_mbit_s: int
    ordered: bool
    reports_source: bool
    can_fence: bool
    placement_once: bool
    wait_fd: bool
    sync_post: bool
    maps_peer: bool
    exact_failure: bool
    reaches_hosts: bool
    gpu: bool


@dataclass(frozen=True, slots=True)
class Transport:
    """A transport of this build. Either `caps`, or the `reason` why this machine cannot run it."""

    name: str
    caps: Caps | None
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a group; the fields of struct pg_limits."""

    n_domains: int
    max_ops: int
    max_msg: int
    imm_bits: int
    max_write: int
    split_min: int
    progress: Progress
    transport: str
    caps: Caps
    """Of the first NIC."""


@dataclass(frozen=True, slots=True)
class NicStats:
    """Totals of a NIC since the engine was made, or of a connection; the fields of struct
    pg_nic_stats. Payload bytes; operations as work requests."""

    bytes_out: int
    posted: int
    imms_in: int
    msgs_in: int
    eagain: int
    retries: int
    failovers: int


@dataclass(frozen=True, slots=True)
class NicFacts:
    """What the driver of an RDMA device says of it; the fields of struct pg_nic_facts."""

    firmware: str
    max_mr_size: int
    max_mr: int
    max_qp: int
    max_qp_wr: int
    max_sge: int
    max_cqe: int
    max_srq_wr: int
    max_reads: int
    max_mtu: int
    active_mtu: int
    link_mbit_s: int
    atomics: bool
    dmabuf: int
    """Whether it registers DMA-BUFs: 1, 0, or -errno where nobody knows."""


@dataclass(frozen=True, slots=True)
class FabricFacts:
    """What libfabric offers on a domain of a provider; the fields of struct pg_fabric_facts."""

    provider: str
    fabric: str
    domain: str
    max_msg: int
    link_mbit_s: int
    """0: unknown."""
    cq_data: bool
    """Whether a write can bring 32 bits to the target's completion queue."""
    hmem: bool
    """Whether GPU memory will do as well."""


Record = TypeVar("Record", Caps, NicStats)


def record(kind: type[Record], struct: Any) -> Record:
    """The fields of a C struct that have the names of `kind`'s."""
    return kind(**{field.name: getattr(struct, field.name) for field in fields(kind)})


def transport_names() -> list[str]:
    """Of this build, in the order of preference; whether this machine can run them is not asked."""
    found: list[str] = []
    while name := lib.pg_transport_name(len(found)):
        found.append(text(name))
    return found


def transports() -> list[Transport]:
    """Every transport of this build, in the order of preference."""
    found = []
    for name in transport_names():
        caps, error = ffi.new("struct pg_caps *"), new_error()
        if lib.pg_transport_caps(name.encode(), caps, error):
            found.append(Transport(name, None, text(error.text)))
        else:
            found.append(Transport(name, record(Caps, caps), ""))
    return found


def nic_facts(nic: str) -> NicFacts:
    """Of an RDMA device, "mlx5_0", or "mlx5_0:2" for its second port. May take long, as drivers do.

    Raises PgUnsupported for one that is not there, or that cannot be asked.
    """
    c, error = ffi.new("struct pg_nic_facts *"), new_error()
    check(lib.pg_nic_facts(nic.encode(), c, error), error)
    values = {field.name: getattr(c, field.name) for field in fields(NicFacts)}
    return NicFacts(**values | {"firmware": text(c.firmware)})


def fabric_facts() -> tuple[str, list[FabricFacts]]:
    """libfabric's version, and what it offers on this machine. May take long, as providers do.

    Raises PgUnsupported where there is no libfabric, and PgError for what it says.
    """
    version, error = ffi.new("uint32_t *"), new_error()
    room, n = 0, 64
    while n > room:
        room = n
        rows = ffi.new("struct pg_fabric_facts[]", room)
        n = check(lib.pg_fabric_facts(rows, room, version, error), error)
    return f"{version[0] >> 16}.{version[0] & 0xFFFF}", [_fabric_facts(row) for row in rows[0:n]]


def _fabric_facts(c: Any) -> FabricFacts:
    values = {field.name: getattr(c, field.name) for field in fields(FabricFacts)}
    names = {name: text(values[name]) for name in ("provider", "fabric", "domain")}
    return FabricFacts(**values | names)


def limits_of(group: Any) -> Limits:
    c = ffi.new("struct pg_limits *")
    check(lib.pg_limits(group, c))
    progress: Progress = "worker" if c.progress == lib.PG_PROGRESS_WORKER else "inline"
    return Limits(
        c.n_domains,
        c.max_ops,
        c.max_msg,
        c.imm_bits,
        c.max_write,
        c.split_min,
        progress,
        text(c.transport),
        record(Caps, c.caps),
    )


def stats_of(group: Any) -> list[NicStats]:
    c = ffi.new("struct pg_nic_stats *")
    found: list[NicStats] = []
    while lib.pg_stats(group, len(found), c) == 0:
        found.append(record(NicStats, c))
    return found


def uniform(nics: int, transport: str, progress: Progress) -> GroupConfig:
    """A group of equal NICs."""
    if not 1 <= nics <= lib.PG_MAX_DOMAINS:
        raise PgInvalid(f"{nics} NICs in a group; 1 to {lib.PG_MAX_DOMAINS}")
    return GroupConfig(nics=[NicConfig(transport=transport)] * nics, progress=progress)


def impairment_of(rank: int, impair: str) -> str:
    """The part of a rank in what is to go wrong, which may be meant for one rank alone.

    Of a connection that breaks, both ends have to be stopped: where one rank's do, the others hold
    work requests back as well, but for no time. Raises PgInvalid.
    """
    meant = checked_impairment(impair)
    pieces = [piece for piece in impair.split(",") if not piece.startswith("rank=")]
    if meant in (None, rank):
        return ",".join(pieces) or "none" * bool(impair)
    breaks = any(piece.startswith(("kill=nic", "fail=")) for piece in pieces)
    return "delay=0ns" if breaks else "none"


def checked_impairment(impair: str, nics: int = 0) -> int | None:
    """The rank that it is meant for; None: every one. Raises PgInvalid, which names the piece.

    nics: how many there are; 0: any number.
    """
    rank, error = ffi.new("int32_t *"), new_error()
    check(lib.pg_impair_check(impair.encode(), nics, rank, error), error)
    return None if rank[0] < 0 else int(rank[0])


def nanoseconds(seconds: float | None, what: str) -> int | None:
    if seconds is None:
        return None
    if not 0 <= seconds < 1 << 32:
        raise PgInvalid(f"{what} {seconds} is not a number of seconds")
    return int(seconds * NS)


def create(
    groups: Sequence[GroupConfig], overrides: dict[str, int | None], control: str | None
) -> tuple[Any, float]:
    """A struct pg_engine *, and its op_timeout.

    What `overrides` leaves None is as the environment says, or the engine.
    """
    config, error = ffi.new("struct pg_config *"), new_error()
    check(lib.pg_config_init(config, error), error)
    array = ffi.new("struct pg_group_config[]", len(groups))
    for c, group in zip(array, groups, strict=True):
        _fill_group(c, group)
    config.groups, config.n_groups = array, len(groups)
    for name, value in overrides.items():
        if value is not None:
            _set(config, name, value)
    if control is not None:
        config.control = fixed(control, ffi.sizeof(config.control), "control")
    engine = ffi.new("struct pg_engine **")
    check(lib.pg_engine_create(config, engine, error), error)
    return engine[0], config.op_timeout_ns / NS


def _fill_group(c: Any, group: GroupConfig) -> None:
    if group.progress not in _PROGRESS:
        raise PgInvalid(f"progress {group.progress!r} is not auto, inline or worker")
    c.progress = _PROGRESS[group.progress]
    _set(c, "worker_cpu", group.worker_cpu)
    c.rail_only = group.rail_only
    c.impair = fixed(group.impair, ffi.sizeof(c.impair), "impair")
    _set(c, "impair_seed", group.impair_seed)
    c.n_domains = len(group.nics)  # the engine refuses more than the array holds
    for domain, nic in zip(c.domains, group.nics, strict=False):
        domain.transport = fixed(nic.transport, ffi.sizeof(domain.transport), "transport")
        domain.device = fixed(nic.device, ffi.sizeof(domain.device), "device")
        domain.options = fixed(nic.options, ffi.sizeof(domain.options), "options")
        _set(domain, "cpu", nic.cpu)
        _set(domain, "link_mbit_s", nic.link_mbit_s)
        _set(domain, "rail", nic.rail)


def _set(struct: Any, field: str, value: int) -> None:
    try:
        setattr(struct, field, value)
    except OverflowError:
        raise PgInvalid(f"{field} {value} is out of range") from None
