#!/usr/bin/env python3
"""Measure pgctl and perftest in turns over the same RDMA devices, and write docs/benchmarks.md.

On this machine's devices, or on those of a lab. Exits 77 where there is neither.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import rdma_lab
from bench_peers import say
from peers import perftest, table, verbs, verbs_table
from peers.common import ROOT, NotMeasuredError, Pair, Row

MINUTE = 60
Item = TypeVar("Item")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--devices", help="of the sender and the receiver: the first two")
    parser.add_argument("--gid-index", type=int, help="%(default)s: each chooses by itself")
    parser.add_argument("--cores", default="0,1", help="one for each process")
    parser.add_argument("--perftest", type=Path, help="a folder with another build of perftest")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    options = parser.parse_args()
    if not rdma_lab.has_device():
        sys.exit(elsewhere(options.rounds))
    pair = Pair(
        devices=two(options.devices.split(",") if options.devices else perftest.devices()),
        cores=two([int(core) for core in options.cores.split(",")]),
        gid_index=options.gid_index,
        seconds=options.seconds,
    )
    rows = [*verbs.rows(pair), *perftest.rows(pair, options.perftest)]
    for i in range(options.rounds):
        for row in rows if i % 2 == 0 else reversed(rows):
            measure(row, f"round {i + 1} of {options.rounds}")
    for row in rows:
        if not any(row.samples):
            row.samples.clear()

    section = verbs_table.section(rows, pair, options.rounds, "make bench-verbs")
    old = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    options.output.write_text(table.replace_section(old, section), encoding="utf-8")
    if options.json:
        records = [
            {"who": r.who, "setting": r.setting, "reason": r.reason, "rounds": r.samples}
            for r in rows
        ]
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print("\n".join(verbs_table.bars(rows)))
    say(f"wrote {options.output}")


def measure(row: Row, when: str) -> None:
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


def elsewhere(rounds: int) -> int:
    """The same in a lab; its exit status."""
    lab = rdma_lab.find()
    if lab is None:
        say(f"bench-verbs: skipped: {rdma_lab.missing()}")
        return rdma_lab.SKIP
    say(f"bench-verbs: in the lab {lab}")
    python = str(Path(sys.prefix) / "bin/python")  # a lab has no PATH of ours
    words = [python, str(Path(__file__).resolve()), *sys.argv[1:]]
    limit_s = (rounds + 1) * 2 * MINUTE
    return subprocess.run(rdma_lab.command(lab, words, limit_s), check=False).returncode


def two(items: list[Item]) -> tuple[Item, Item]:
    if len(items) != 2:
        sys.exit(f"bench-verbs: two are needed, not {items}")
    return items[0], items[1]


if __name__ == "__main__":
    main()
