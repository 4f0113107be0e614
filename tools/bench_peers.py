#!/usr/bin/env python3
"""Measure pgctl and its peers in turns on this machine, and write docs/benchmarks.md.

Peers are installed from public packages, into .venv-peers and with apt. One that cannot be
installed or run is a row with its reason.
"""

from peers import bars, mpi, nixl, ours, table, turns, ucx
from peers.common import NotMeasuredError, Row
from peers.turns import say

PEERS = {"bars": bars.rows, "ours": ours.rows, "ucx": ucx.rows, "nixl": nixl.rows, "mpi": mpi.rows}
SKIPPED = [
    Row("libfabric", "shm", reason="Debian packages no fabtests; fi_pingpong is two-sided"),
]


def main() -> None:
    parser = turns.arguments(__doc__)
    parser.add_argument("--only", default=",".join(PEERS), help="%(default)s")
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
    turns.write(options, rows, table.section(rows, (first, second), options.rounds, command))


def measure(row: Row, when: str) -> None:
    if row.reason:
        return
    say(f"{when}: {row.who}, {row.setting}")
    try:
        row.samples.append(row.measure())
    except NotMeasuredError as error:
        row.reason = str(error)
        say(f"  {error}")


if __name__ == "__main__":
    main()
