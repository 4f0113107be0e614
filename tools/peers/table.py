"""The measured section of docs/benchmarks.md."""

import datetime as dt
import os
import platform
import re
import statistics
from pathlib import Path

from peers.common import PAGED, SIZES, Cores, Row, Sample

BEGIN = "<!-- bench-peers: measured, do not edit -->"
END = "<!-- bench-peers: end -->"
NAMES = dict(zip(SIZES, ("4 KiB", "64 KiB", "1 MiB", "32 MiB"), strict=True))
TABLES = {
    "write": (
        "One write",
        [
            ("8 B, one way, µs", "lat_us.8"),
            ("8 B, Mop/s", "rate_mop_s.8"),
            *((f"{NAMES[size]}, GB/s", f"bw_gbyte_s.{size}") for size in SIZES),
        ],
    ),
    "paged": (
        "Paged write",
        [(f"{NAMES[size]} x {pages}, GB/s", f"paged_gbyte_s.{size}") for size, pages in PAGED],
    ),
    "barrier": ("Barrier of two ranks", [("µs", "barrier_us")]),
}
METHOD = """\
Two processes on this machine, one pinned to core {0} and one to core {1}; memory is touched
before it is timed. All rows take turns, {rounds} rounds; a cell is the median over the rounds, with
the least and the greatest beside it. GB is 1e9 bytes. Writes of one size go to the same place
again and again; a paged write goes from consecutive pages to shuffled ones, 16 to 32 MiB in all.

- pgctl: medians of its record; latency is half the ping-pong of an 8 B write with its counter. The
  limits are measured by pgctl, between its own two processes and in its own memory.
- UCX: averages of `ucx_perftest -t ucp_put_lat` (half a ping-pong) and `-t ucp_put_bw`, in memory
  that UCX allocated.
- Open MPI, MPICH: latency is half a ping-pong of `MPI_Put`, flush, and a read of the target's
  memory; bandwidth and rate are of puts (up to 16 MiB, at most 1024) and one flush.
- NIXL: latency is from the call until the write is complete, so it bounds one way from above;
  bandwidth and rate are of one request with as many parts as there are puts above. Driven from
  Python, two calls a request.
"""


def section(rows: list[Row], cores: Cores, rounds: int, command: str) -> str:
    rows = [*rows, *(limit for row in rows for limit in _limits(row))]
    parts = [BEGIN, METHOD.format(*cores, rounds=rounds), "### What must be reached\n"]
    parts += [*_bars(rows), ""]
    for name, (title, columns) in TABLES.items():
        parts += [f"### {title}\n", *table(rows, name, columns), ""]
    parts += [f"{machine(cores)} To repeat: `{command}`.", END]
    return "\n".join(parts) + "\n"


def replace_section(document: str, new: str) -> str:
    """The document with this measured section replaced, or at its end."""
    first, *_, last = new.splitlines()
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last + "\n")
    if begin and not end:
        raise SystemExit(f"the measured section has no end: {last}")
    if not begin:
        before = document.rstrip() + "\n\n" if document.strip() else "# Benchmarks\n\n"
    return before + new + after


def table(rows: list[Row], name: str, columns: list[tuple[str, str]]) -> list[str]:
    metrics = [metric for _, metric in columns]
    lines = [
        "| | setting | " + " | ".join(title for title, _ in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [cell(row.samples, metric) for metric in metrics]
        setting = row.setting
        if not row.samples and row.table == name:
            cells[0] = f"not measured: {row.reason or 'no round ended'}"
        elif not any(metric in sample for sample in row.samples for metric in metrics):
            continue
        elif row.reason:
            setting += f" ({len([s for s in row.samples if s])} rounds: {row.reason})"
        lines.append(f"| {row.who} | {setting} | " + " | ".join(cells) + " |")
    return lines


def _bars(rows: list[Row]) -> list[str]:
    lines = ["| pgctl, against the limit of the same run | asked | measured |", "|---|---|---|"]
    for row in rows:
        if row.table != "bars":
            continue
        metrics = list(dict.fromkeys(metric for sample in row.samples for metric in sample))
        cells = [
            f"{NAMES[int(metric[4:])]}: {cell(row.samples, metric)}"
            if metric.startswith("bar.")
            else cell(row.samples, metric)
            for metric in metrics
        ]
        measured = "; ".join(cells) or f"not measured: {row.reason or 'no round ended'}"
        lines.append(f"| {row.who} | {row.setting} | {measured} |")
    return lines


def cell(samples: list[Sample], metric: str) -> str:
    values = [sample[metric] for sample in samples if metric in sample]
    if not values:
        return "-"
    text = f"{statistics.median(values):.3g}"
    return f"{text} ({min(values):.3g}-{max(values):.3g})" if len(values) > 1 else text


def shares_header(what: str) -> list[str]:
    return [f"| {what} | asked | measured |", "|---|---|---|"]


def shares(ours: Row, peer: Row, columns: list[tuple[str, str]]) -> list[str]:
    """Our figures as shares of a peer's, of the same round each, beside what is asked."""
    lines = []
    for title, metric in columns:
        asked = "<= 110" if metric.startswith("lat") else ">= 95"
        each = [
            {"share": 100 * mine[metric] / theirs[metric]}
            for mine, theirs in zip(ours.samples, peer.samples, strict=False)
            if metric in mine and metric in theirs
        ]
        if not each:
            continue
        what = title.partition(", GB/s")[0].partition(", µs")[0]
        lines.append(f"| {what}: {peer.setting} | {asked} | {cell(each, 'share')} |")
        if metric.startswith("lat"):
            share = f"{100 * _least(ours, metric) / _least(peer, metric):.3g}"
            lines.append(f"| the same, the least of all rounds | {asked} | {share} |")
    return lines


def _least(row: Row, metric: str) -> float:
    return min(sample[metric] for sample in row.samples if metric in sample)


def _limits(row: Row) -> list[Row]:
    """The physical limits in pgctl's record, as rows of the table that they belong to."""
    found: dict[str, Row] = {}
    bandwidth = "paged_gbyte_s" if row.table == "paged" else "bw_gbyte_s"
    for i, sample in enumerate(row.samples):
        for key, value in sample.items():
            kind, _, rest = key.partition(".")
            name, _, size = rest.partition(".")
            if kind != "limit" or (name.endswith("_us") and row.table != "write"):
                continue
            setting = re.sub(r"_(gbyte_s|us|oneway_us)$", "", name).replace("_", " ")
            metric = "lat_us.8" if name.endswith("_us") else f"{bandwidth}.{size}"
            limit = found.setdefault(
                name, Row("limit", setting, table=row.table, samples=[{} for _ in row.samples])
            )
            limit.samples[i][metric] = value
    return list(found.values())


def machine(cores: Cores) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    today = dt.datetime.now(dt.UTC).date()
    return (
        f"Machine: {model[1] if model else platform.machine()}, {os.cpu_count()} cores"
        f" ({cores[0]} and {cores[1]} used), Linux {platform.release()}, {system},"
        f" Python {platform.python_version()}, {today}."
    )
