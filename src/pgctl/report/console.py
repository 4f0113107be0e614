"""What a person sees. The only file that knows rich.

Results go to stdout, everything else to stderr. Colour and movement only on a terminal.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pgctl.report import describe_probe
from pgctl.report.describe import NO_BREAK, Line, footer, header, would_run
from pgctl.report.record import Record, Result
from pgctl.units import align_points, format_number, format_size

Advance = Callable[[str], None]
"""Says that a step begins, by name."""

_PROGRESS_AFTER_S = 1.0
_LABEL_WIDTH = 15
_COLUMN_WIDTH = 8
_NARROWEST = 20


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    unit: str
    text: Callable[[Result], str]


def _metric(name: str, statistic: str = "p50") -> Callable[[Result], str]:
    def text(result: Result) -> str:
        value = result.metrics.get(name, {}).get(statistic)
        return "-" if value is None else format_number(value)

    return text


def _percent(result: Result) -> str:
    value = result.metrics.get("bw_pct_line_rate", {}).get("p50")
    return "-" if value is None else f"{value:.0f} %"


_SIZE = _Column("size", "", lambda result: format_size(result.size))
_PAGE = _Column("page", "", lambda result: format_size(result.size))
_PAGES = _Column("pages", "", lambda result: str(result.pages))
_BANDWIDTH = (
    _Column("", "GB/s", _metric("bw_gbyte_s")),
    _Column("", "Gb/s", _metric("bw_gbit_s")),
)
_RATE = _Column("", "Mop/s", _metric("rate_mop_s"))
_LATENCY = (
    _Column("p50", "µs", _metric("lat_us", "p50")),
    _Column("p99", "µs", _metric("lat_us", "p99")),
)
_LIMIT = _Column("of limit", "", _percent)

_COLUMNS: dict[str, tuple[_Column, ...]] = {
    "bench.write": (_SIZE, *_BANDWIDTH, _RATE, *_LATENCY, _LIMIT),
    "bench.paged": (_PAGE, _PAGES, *_BANDWIDTH, _RATE, *_LATENCY, _LIMIT),
    "bench.scatter": (_SIZE, *_BANDWIDTH, _RATE, *_LATENCY, _LIMIT),
    "bench.send": (_SIZE, *_BANDWIDTH, _RATE, *_LATENCY),
    "bench.barrier": tuple(
        _Column(name, "µs", _metric("lat_us", name))
        for name in ("min", "p50", "p90", "p99", "p99.9", "max")
    ),
}


class Terminal:
    """stdout for results, stderr for a bar."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.quiet = quiet
        self._out = Console(file=stdout or sys.stdout, highlight=False, emoji=False, markup=False)
        self._err = Console(file=stderr or sys.stderr, highlight=False, emoji=False, markup=False)

    def show(self, record: Record) -> None:
        """The whole report; just the table if quiet."""
        table = [_table(record.results)] if record.results else []
        lines = () if self.quiet else (header(record), footer(record))
        around = [_lines(part, self._out.width) for part in lines if part]
        self._show([*around[:1], *table, *around[1:]])

    def plan(self, record: Record) -> None:
        """What would be done."""
        lines = [*header(record), would_run(record)]
        self._show([_lines(lines, self._out.width)])

    def probe(self, record: Record, verbose: bool = False) -> None:
        """The machine, its groups and the verdicts; just what is wrong if quiet."""
        width = self._out.width
        if self.quiet:
            lines = describe_probe.problems(record)
            self._show([_lines(lines, width)] if lines else [])
            return
        tables = (describe_probe.matrix(record, width), describe_probe.groups(record, width))
        self._show(
            [
                _lines(describe_probe.machine(record), width),
                *(_plain_table(table) for table in tables if table),
                _lines(describe_probe.verdicts(record, verbose), width),
            ]
        )

    def _show(self, parts: Sequence[Text]) -> None:
        for i, part in enumerate(parts):
            if i:
                self._out.print()
            self._out.print(part, soft_wrap=True)
        self._out.file.flush()

    @contextmanager
    def progress(self, steps: int, *, shown: bool) -> Iterator[Advance]:
        """A bar on stderr, if that is a terminal and this takes more than a moment."""
        if not shown or self.quiet or not self._err.is_terminal:
            yield lambda _: None
            return
        bar = Progress(
            TextColumn("{task.description:>6}"),
            BarColumn(bar_width=40, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.completed} of {task.total}"),
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
            refresh_per_second=4,
        )
        task = bar.add_task("", total=steps)
        started = time.monotonic()
        done = -1

        def advance(name: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=name, completed=done)
            if time.monotonic() - started > _PROGRESS_AFTER_S:
                bar.start()

        try:
            yield advance
        finally:
            bar.stop()


def _lines(lines: Sequence[Line], width: int) -> Text:
    """Labels on the left, sentences beside them, nothing to the right of these."""
    text = Text()
    for line in lines:
        wrapped = textwrap.wrap(line.text, max(width - _LABEL_WIDTH, _NARROWEST))
        for i, part in enumerate(wrapped):
            label = line.label if i == 0 else ""
            text.append(f"{label:<{_LABEL_WIDTH}}", style="bold")
            text.append(part.replace(NO_BREAK, " ") + "\n", style=line.style)
    text.rstrip()
    return text


def _table(results: Sequence[Result]) -> Text:
    """Figures on the right of their columns, their points below each other."""
    columns = []
    for column in _COLUMNS[results[0].test]:
        title = f"{column.title} {column.unit}".strip()
        texts = [title, *align_points(column.text(result) for result in results)]
        width = max(_COLUMN_WIDTH, *map(len, texts))
        columns.append([text.rjust(width) for text in texts])
    head, *rows = ("  ".join(row).rstrip() for row in zip(*columns, strict=True))
    return Text("\n").join([Text(head, style="bold"), *map(Text, rows)])


def _plain_table(rows: Sequence[str]) -> Text:
    head, *rest = rows
    return Text("\n").join([Text(head, style="bold"), *map(Text, rest)])
