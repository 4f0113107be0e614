"""The flags that commands share: the same name, the same meaning, the same words everywhere.

A command lists those that apply to it, so that any other is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from pgctl.report.json_writer import check_target
from pgctl.units import RDMA_MTUS, parse_pkey, parse_provider, parse_size, parse_sizes

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Sizes(click.ParamType[tuple[int, ...]]):
    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_sizes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Count(click.ParamType[int]):
    """A whole number of something."""

    name = "n"

    def __init__(self, least: int, most: int | None) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        number = int(value)
        if number < self._least:
            self.fail(f"{value} is too little: at least {self._least}", param, ctx)
        if self._most is not None and number > self._most:
            self.fail(f"{value} is too much: at most {self._most}", param, ctx)
        return number


class Counts(click.ParamType[tuple[int, ...]]):
    """One whole number, or several."""

    name = "n"

    def __init__(self, least: int, most: int) -> None:
        self._one = Count(least, most)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._one.convert(part.strip(), param, ctx) for part in value.split(","))


class Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= 86400:
            self.fail(
                f"{value!r} is not a number of seconds above 0, and at most a day", param, ctx
            )
        return seconds


class Target(click.ParamType[str]):
    """A file that can be written; found out now rather than after the run."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            check_target(value)
        except OSError as error:
            self.fail(f"cannot write {value!r}: {error.strerror}", param, ctx)
        return str(value)


class Impairment(click.ParamType[str]):
    """What is to go wrong."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from pgctl.engine.config import checked_impairment
        from pgctl.errors import PgInvalid

        try:
            checked_impairment(value)
        except PgInvalid as error:
            self.fail(str(error), param, ctx)
        return str(value)


class TransportName(click.ParamType[str]):
    """One that this build has; whether this machine can run it shows later."""

    name = "transport"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._names():
            self.fail(f"{value!r} is not one of {', '.join(self._names())}", param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        del param, ctx
        return f"[{'|'.join(self._names())}]"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(name) for name in self._names() if name.startswith(incomplete)]

    @staticmethod
    def _names() -> list[str]:
        from pgctl.engine.config import transport_names

        return ["auto", *transport_names()]


class PartitionKey(click.ParamType[int]):
    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_pkey(value)
        except ValueError as error:
            self.fail(f"{value!r} is not {error}", param, ctx)


class ProviderName(click.ParamType[str]):
    """Of libfabric; whether it is there shows later."""

    name = "provider"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_provider(value)
        except ValueError as error:
            self.fail(f"{value!r} is not {error}", param, ctx)


SIZE, SIZES, SECONDS, TARGET = Size(), Sizes(), Seconds(), Target()


def flags(*names: str) -> Decorator:
    """The shared flags of these names, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = _FLAGS[name](function)
        return function

    return decorate


def _count(*names: str, least: int, most: int | None = None, **rest: Any) -> Decorator:
    return click.option(*names, type=Count(least, most), metavar="N", **rest)


RDMA_FLAGS = ("gid_index", "traffic_class", "service_level", "mtu", "pkey")
"""That apply where NICs are RDMA devices."""
OFI_FLAGS = ("provider",)
"""That apply where libfabric has the NICs."""

_FLAGS: dict[str, Decorator] = {
    "min_bytes": click.option(
        "-b", "--min-bytes", type=SIZE, help="Smallest size of the sweep: 8, 4K, 1M."
    ),
    "max_bytes": click.option("-e", "--max-bytes", type=SIZE, help="Largest size of the sweep."),
    "factor": _count(
        "-f", "--factor", least=2, help="From one size of the sweep to the next.  [default: 2]"
    ),
    "sizes": click.option("--sizes", type=SIZES, help="These sizes instead: 4K,64K,1M."),
    "iters": _count("-n", "--iters", least=1, help="Operations per size and cycle."),
    "duration": click.option(
        "-D", "--duration", type=SECONDS, help="Seconds per size and measurement, instead of -n."
    ),
    "warmup": _count(
        "-w",
        "--warmup",
        least=0,
        help="Operations before each measurement.  [default: as many as are in flight]",
    ),
    "window": _count(
        "--window",
        least=1,
        most=1024,
        help="Operations in flight.  [default: 64, fewer of those above 128K]",
    ),
    "bidirectional": click.option(
        "--bidirectional", is_flag=True, help="Both ways at once; bandwidths are added."
    ),
    "check": click.option(
        "-c/ ",
        "--check/--no-check",
        default=True,
        help="Verify every byte, outside the timed part (default), or do not.",
    ),
    "cycles": _count(
        "-N",
        "--cycles",
        least=1,
        default=3,
        show_default=True,
        help="Measure each size so often; statistics are over all.",
    ),
    "timeout": click.option(
        "-T",
        "--timeout",
        type=SECONDS,
        default="30",
        show_default=True,
        help="Seconds after which a step that hangs is given up.",
    ),
    "ranks": _count("-r", "--ranks", least=1, help="Local ranks to start.  [default: 2]"),
    "nics": click.option(
        "--nics-per-rank",
        type=Counts(1, 4),
        metavar="N[,N...]",
        help="NICs of each rank, or lanes of shared memory: 1 to 4 for all, or one number per "
        "rank: 4,1. Ranks of one host get different NICs if there are enough.  [default: one lane, "
        "or the NICs of the DomainGroup of that number, as probe prints them]",
    ),
    "nic_names": click.option(
        "--nics",
        metavar="NAMES",
        default="",
        help="NICs by name as in NCCL_IB_HCA: mlx5 is a prefix, =mlx5_1 exact, ^ all others, "
        ":2 a port; or by PCI address. With --provider those of libfabric: eth1.",
    ),
    "profile": click.option(
        "--profile",
        type=click.Path(exists=True, dir_okay=False),
        help="YAML of what this fabric should be.",
    ),
    "transport": click.option(
        "--transport",
        type=TransportName(),
        help="What carries the bytes. auto: shm on one host, else NICs.  [default: auto]",
    ),
    "gid_index": _count("--gid-index", least=0, most=255, help="GID of RDMA NICs, by its index."),
    "traffic_class": _count(
        "--traffic-class", least=0, most=255, help="Of RDMA packets, as in the IP header: 106."
    ),
    "service_level": _count("--service-level", least=0, most=15, help="Of RDMA packets."),
    "mtu": click.option(
        "--mtu",
        type=click.Choice([str(mtu) for mtu in RDMA_MTUS]),
        help="Of RDMA packets at most.  [default: that of the port]",
    ),
    "pkey": click.option(
        "--pkey", type=PartitionKey(), help="Partition of RDMA NICs, by its key: 0x8001."
    ),
    "provider": click.option(
        "--provider",
        type=ProviderName(),
        help="Of libfabric: efa, cxi, tcp or shm.  [default: the first of these that is there and "
        "reaches other hosts]",
    ),
    "progress": click.option(
        "--progress",
        type=click.Choice(["auto", "inline", "worker"]),
        default="auto",
        show_default=True,
        help="Who drives the engine: the benchmark's thread or one of its own. "
        "auto: inline at ranks with one NIC.",
    ),
    "memory": click.option(
        "--memory",
        type=click.Choice(["engine", "registered"]),
        default="engine",
        show_default=True,
        help="Who allocated the memory: the engine, or a program that registers it.",
    ),
    "touch": click.option(
        "--touch",
        type=click.Choice(["hot", "marching"]),
        default="hot",
        show_default=True,
        help="The same bytes again and again, or on through 256M.",
    ),
    "imm": click.option(
        "--imm/--no-imm",
        default=True,
        help="Have the receiver count each write (default), or let it sleep.",
    ),
    "pages": _count(
        "--pages",
        least=1,
        most=1 << 20,
        help="Pages per operation.  [default: 16M of them, at most 4096]",
    ),
    "json": click.option(
        "--json",
        "json_target",
        type=TARGET,
        help="Write the record as JSON; - is stdout, and then nothing else is.",
    ),
    "seed": _count(
        "--seed",
        least=0,
        most=2**32 - 1,
        default=0,
        show_default=True,
        help="Of all that is drawn.",
    ),
    "impair": click.option(
        "--impair",
        type=Impairment(),
        default="",
        envvar="PGCTL_IMPAIR",
        help="What goes wrong with NICs on purpose, drawn with --seed: reorder=16,jitter=50us, "
        "kill=nic1@0.3s; docs/impair.md has the rest.  [env: PGCTL_IMPAIR]",
    ),
    "dry_run": click.option("--dry-run", is_flag=True, help="Say what would run; start nothing."),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="Only the figures."),
    "verbose": click.option(
        "-v", "--verbose", is_flag=True, help="Show what ranks above 0 print, and tracebacks."
    ),
}
