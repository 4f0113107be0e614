"""Rows that take turns over several rounds, so that what one round has of each can be compared."""

import argparse
import json
import sys
from pathlib import Path
from typing import TypeVar

from peers import table
from peers.common import ROOT, NotMeasuredError, Row

Item = TypeVar("Item")


def arguments(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", default="0,1", help="one for each process")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    return parser


def take(rows: list[Row], rounds: int) -> None:
    """Back and forth."""
    for i in range(rounds):
        for row in rows if i % 2 == 0 else reversed(rows):
            _measure(row, f"round {i + 1} of {rounds}")
    for row in rows:
        if not any(row.samples):
            row.samples.clear()


def _measure(row: Row, when: str) -> None:
    """One more sample, so that those of one round have one index: an empty one if it fails."""
    if row.reason and not row.samples:
        return
    say(f"{when}: {row.who}, {row.setting}")
    try:
        row.samples.append(row.measure())
    except NotMeasuredError as error:
        row.samples.append({})
        row.reason = f"a round failed: {error}"
        say(f"  {error}")


def write(options: argparse.Namespace, rows: list[Row], section: str) -> None:
    """The section into its document, and every figure into a file where that is asked for."""
    document: Path = options.output
    document.parent.mkdir(parents=True, exist_ok=True)
    old = document.read_text(encoding="utf-8") if document.exists() else ""
    document.write_text(table.replace_section(old, section), encoding="utf-8")
    if options.json:
        records = [
            {"who": r.who, "setting": r.setting, "reason": r.reason, "rounds": r.samples}
            for r in rows
        ]
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {document}")


def two(items: list[Item]) -> tuple[Item, Item]:
    if len(items) != 2:
        sys.exit(f"two are needed, not {items}")
    return items[0], items[1]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
