#!/usr/bin/env python3
"""Measure pgctl and its peers in turns on this machine, and write docs/benchmarks.md.

Peers are installed from public packages, into .venv-peers and with apt. One that cannot be
installed or run is a row with its reason.
"""

import argparse
import json
import sys
from pathlib import Path

from peers import bars, mpi, nixl, ours, table, ucx
from peers.common import ROOT, NotMeasuredError, Row

PEERS = {"bars": bars.rows, "ours": ours.rows, "ucx": ucx.rows, "nixl": nixl.rows, "mpi": mpi.rows}
SKIPPED = [
    Row("libfabric", "shm", reason="Debian packages no fabtests; fi_pingpong is two-sided"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", default="0,1", help="one for each process")
    parser.add_argument("--only", default=",".join(PEERS), help="%(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    options = parser.parse_args()
    first, second = (int(core) for core in options.cores.split(","))

    say("installing")
    rows = [
        row for name in options.only.split(",") for row in PEERS[name]((first, second))
    ] + SKIPPED
    for i in range(options.rounds):
        for row in rows:
            measure(row, f"round {i + 1} of {options.rounds}")

    command = f".venv/bin/python tools/bench_peers.py --rounds {options.rounds}"
    command += f" --cores {options.cores}"
    section = table.section(rows, (first, second), options.rounds, command)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    old = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    options.output.write_text(table.replace_section(old, section), encoding="utf-8")
    if options.json:
        records = [
            {"who": r.who, "setting": r.setting, "reason": r.reason, "rounds": r.samples}
            for r in rows
        ]
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {options.output}")


def measure(row: Row, when: str) -> None:
    if row.reason:
        return
    say(f"{when}: {row.who}, {row.setting}")
    try:
        row.samples.append(row.measure())
    except NotMeasuredError as error:
        row.reason = str(error)
        say(f"  {error}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
