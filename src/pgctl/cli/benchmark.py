"""From the flags of `pgctl bench` to its exit status."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from pgctl import cluster
from pgctl.bench.spec import AS_GROUPED, DEFAULT_SECONDS, MESSAGE_MAX, OFI, PAIRS, RDMA, Spec
from pgctl.cli.options import OFI_FLAGS, RDMA_FLAGS
from pgctl.cli.status import BY_VERDICT, PASS, as_rank
from pgctl.profile import Profile, ProfileError, load_profile
from pgctl.report import json_writer
from pgctl.report.console import Terminal
from pgctl.report.record import Record
from pgctl.units import format_size

_AS_GIVEN = (
    *("iters", "warmup", "window", "cycles", "bidirectional", "check", "imm", "touch"),
    *("pages", "memory", "progress", "impair", "seed"),
)

Show = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked."""

    spec: Spec
    ranks: int
    argv: tuple[str, ...]
    json_target: str | None
    dry_run: bool
    quiet: bool
    verbose: bool

    @classmethod
    def of(
        cls,
        operation: str,
        sweep: tuple[int, int] | None,
        given: Mapping[str, Any],
        argv: Sequence[str],
    ) -> Request:
        """Raises click.UsageError."""
        if given["iters"] is not None and given["duration"] is not None:
            raise click.UsageError("-n says how many and -D for how long: give one of them")
        if given["dry_run"] and given["json_target"] is not None:
            raise click.UsageError("--dry-run measures nothing that --json could write")
        if given["quiet"] and given["verbose"]:
            raise click.UsageError("-q and -v exclude each other")
        sizes = (0,) if sweep is None else _sizes(operation, sweep, given)
        spec = Spec(
            operation=operation,
            sizes=sizes,
            duration_s=given["duration"] or DEFAULT_SECONDS,
            timeout_s=given["timeout"],
            **_over(given),
            **{name: given[name] for name in _AS_GIVEN if name in given},
        )
        ranks = _ranks(operation, given["ranks"], spec.nics_per_rank)
        _check_impairment(spec, ranks)
        return cls(
            spec=spec,
            ranks=ranks,
            argv=tuple(argv),
            **{name: given[name] for name in ("json_target", "dry_run", "quiet", "verbose")},
        )


def carry_out(request: Request, run: Callable[[Request, Terminal, Show], int] | None) -> int:
    """run: what to do instead of starting ranks."""
    terminal = Terminal(quiet=request.quiet)

    def show(record: Record) -> None:
        try:
            if request.json_target is not None:
                json_writer.write(record, request.json_target)
        finally:
            if request.json_target != json_writer.STDOUT and record.results:
                terminal.show(record)

    if request.dry_run:
        return _dry_run(request, terminal)
    return (run or _as_ranks)(request, terminal, show)


def _as_ranks(request: Request, terminal: Terminal, show: Show) -> int:
    """Become a rank, or start the ranks and leave with their status."""
    ranks = cluster.enter(request.ranks, verbose=request.verbose)
    with as_rank(request.verbose), ranks:
        from pgctl.bench.run import Benchmark

        benchmark = Benchmark(request.spec, ranks, request.argv)
        first = ranks.rank == 0
        try:
            with (
                terminal.progress(len(request.spec.sizes), shown=first) as advance,
                _names_are_usage(),
            ):
                benchmark.run(lambda size: advance(format_size(size)))
        except BaseException as problem:
            if first:
                show(benchmark.record(_why(problem)))
            raise
        record = benchmark.record()
        if first:
            show(record)
        return BY_VERDICT[record.verdict]


def _dry_run(request: Request, terminal: Terminal) -> int:
    from pgctl.bench.run import outline

    launcher = cluster.detect_launcher(os.environ)
    if launcher is None or launcher.rank == 0:
        with _names_are_usage():
            terminal.plan(outline(request.spec, request.ranks, request.argv))
    return PASS


@contextmanager
def _names_are_usage() -> Iterator[None]:
    from pgctl.hardware.selection import SelectionError

    try:
        yield
    except SelectionError as error:
        raise click.UsageError(f"--nics: {error}") from None


def _why(problem: BaseException) -> str:
    if isinstance(problem, (KeyboardInterrupt, SystemExit)):
        return "interrupted, or another rank has failed"
    return str(problem) or type(problem).__name__


def _over(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Spec that say what carries it: flags first, then the profile."""
    profile = _profile(given["profile"])
    transport, why = _transport(given, profile)
    rdma = {**profile.verbs, **_given(given, RDMA_FLAGS)}
    return {
        "transport": transport,
        "transport_why": why,
        "nic_names": given["nics"],
        "nics_per_rank": given["nics_per_rank"] or _default_nics(transport),
        "nic_options": {
            RDMA: _joined({_OPTIONS.get(name, name): value for name, value in rdma.items()}),
            OFI: _joined({**profile.ofi, **_given(given, OFI_FLAGS)}),
        },
    }


def _default_nics(transport: str) -> tuple[int, ...]:
    """One lane where it can be nothing but shared memory, as it is between ranks started here."""
    alone = transport == "auto" and cluster.detect_launcher(os.environ) is None
    return (1,) if alone or transport == "shm" else (AS_GROUPED,)


_NICS_OF = {RDMA: "RDMA devices", OFI: "libfabric"}
"""By transport, the better one first: whose NICs flags can be about."""
_OPTIONS = {"gid_index": "gid", "traffic_class": "tc", "service_level": "sl"}
"""What the transport calls those of flags and profiles, where it is not the same."""


def _transport(given: Mapping[str, Any], profile: Profile) -> tuple[str, str]:
    """Which it is to be, and what asks for that: flags that only some obey do."""
    asking = {
        **({"--nics": tuple(_NICS_OF)} if given["nics"] else {}),
        **{_flag(name): (RDMA,) for name in _given(given, RDMA_FLAGS)},
        **{_flag(name): (OFI,) for name in _given(given, OFI_FLAGS)},
    }
    if given["transport"] not in (None, "auto"):
        for flag, able in asking.items():
            if given["transport"] not in able:
                raise click.UsageError(
                    f"{flag} is for --transport {' or '.join(able)}, not {given['transport']}"
                )
        return given["transport"], f"--transport {given['transport']}"
    told = given["transport"] or profile.transport or "auto"
    left = [name for name in _NICS_OF if all(name in names for names in asking.values())]
    if not left:
        each = [f"{flag} is for --transport {' or '.join(names)}" for flag, names in asking.items()]
        raise click.UsageError(f"{', '.join(each)}: give those of one")
    if not asking or told in left:
        return told, "" if told == "auto" else "the profile says so"
    flag = min(asking, key=lambda flag: len(asking[flag]))
    return left[0], f"{flag} is for {_NICS_OF[left[0]]}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if given[name] is not None}


def _joined(options: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


def _profile(path: str | None) -> Profile:
    from pgctl.checks.catalog import CHECKS

    if path is None:
        return Profile()
    try:
        return load_profile(path, [check.name for check in CHECKS])
    except ProfileError as error:
        raise click.UsageError(str(error)) from None


def _sizes(operation: str, sweep: tuple[int, int], given: Mapping[str, Any]) -> tuple[int, ...]:
    explicit: tuple[int, ...] | None = given["sizes"]
    if explicit is not None:
        clash = [flag for flag, name in _SWEEP_FLAGS.items() if given[name] is not None]
        if clash:
            raise click.UsageError(f"--sizes names the sizes, so {clash[0]} cannot apply")
        sizes = explicit
    else:
        smallest, largest = given["min_bytes"] or sweep[0], given["max_bytes"] or sweep[1]
        if given["max_bytes"] is None:
            largest = max(smallest, largest)
        if smallest > largest:
            raise click.UsageError(f"-b {format_size(smallest)} is above -e {format_size(largest)}")
        sizes = _progression(smallest, largest, given["factor"] or 2)
    if operation == "send" and max(sizes) > MESSAGE_MAX:
        raise click.UsageError(
            f"a message holds at most {format_size(MESSAGE_MAX)}, not {format_size(max(sizes))}"
        )
    return sizes


def _check_impairment(spec: Spec, ranks: int) -> None:
    """There must be the NICs and the rank that it names."""
    from pgctl.engine.config import checked_impairment
    from pgctl.errors import PgInvalid

    meant = checked_impairment(spec.impair)
    if meant is not None and meant >= ranks:
        raise click.UsageError(f"--impair is for rank {meant}, and there are {ranks}")
    nics = spec.nics(ranks)
    try:
        checked_impairment(spec.impair, min(nics) if meant is None else nics[meant])
    except PgInvalid as error:
        raise click.UsageError(f"--impair: {error}") from None


_SWEEP_FLAGS = {"-b": "min_bytes", "-e": "max_bytes", "-f": "factor"}


def _progression(smallest: int, largest: int, factor: int) -> tuple[int, ...]:
    sizes = [smallest]
    while sizes[-1] * factor <= largest:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


def _ranks(operation: str, asked: int | None, nics: Sequence[int]) -> int:
    """nics: one number, or as many as there are ranks."""
    launcher = cluster.detect_launcher(os.environ)
    started = launcher.size if launcher is not None else None
    if asked is not None and started is not None and asked != started:
        assert launcher is not None
        raise click.UsageError(f"-r {asked}, but {launcher.name} has started {started} ranks")
    named = len(nics) if len(nics) > 1 else None
    ranks = asked or started or named or cluster.DEFAULT_RANKS
    if named not in (None, ranks):
        raise click.UsageError(f"--nics-per-rank has {named} numbers, for {ranks} ranks")
    if operation in PAIRS and ranks != 2:
        raise click.UsageError(f"bench {operation} is between 2 ranks, not {ranks}")
    if ranks < 2:
        raise click.UsageError(f"bench {operation} needs at least 2 ranks, not {ranks}")
    return ranks
