#!/usr/bin/env python3
"""Measure pgctl and perftest in turns over the same RDMA devices, and write docs/benchmarks.md.

On this machine's devices, or on those of a lab. Exits 77 where there is neither.
"""

import subprocess
import sys
from pathlib import Path

import rdma_lab
from peers import perftest, turns, verbs, verbs_table
from peers.common import Pair
from peers.turns import say, two

MINUTE = 60


def main() -> None:
    parser = turns.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--devices", help="of the sender and the receiver: the first two")
    parser.add_argument("--gid-index", type=int, help="%(default)s: each chooses by itself")
    parser.add_argument("--perftest", type=Path, help="a folder with another build of perftest")
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
    turns.take(rows, options.rounds)
    section = verbs_table.section(rows, pair, options.rounds, "make bench-verbs")
    turns.write(options, rows, section)
    print("\n".join(verbs_table.bars(rows)))


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


if __name__ == "__main__":
    main()
