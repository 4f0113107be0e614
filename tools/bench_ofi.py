#!/usr/bin/env python3
"""Measure pgctl over libfabric and libfabric by itself in turns, and write docs/benchmarks.md."""

import os
from functools import partial

from peers import ofi, ofi_table, turns
from peers.common import Row
from peers.turns import two


def main() -> None:
    parser = turns.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--providers", default="tcp,shm", help="%(default)s")
    parser.add_argument("--nic", default="", help="of tcp: the first of the provider")
    parser.add_argument("--library", help="a folder with another libfabric.so.1")
    options = parser.parse_args()
    if options.library:
        os.environ["LD_LIBRARY_PATH"] = options.library
    load, _, _ = os.getloadavg()
    cores = two([int(core) for core in options.cores.split(",")])
    rows = []
    for provider in options.providers.split(","):
        nic = options.nic if provider == "tcp" else ""
        rows += ofi.rows(provider, nic, cores, options.seconds)
        what = f"an idle engine with 64 peers over {provider}, % of a core"
        rows.append(Row("pgctl", what, partial(ofi.idle, provider), table="idle"))
    turns.take(rows, options.rounds)
    section = ofi_table.section(rows, cores, options.rounds, load, "make bench-ofi")
    turns.write(options, rows, section)
    print("\n".join(ofi_table.bars(rows)))


if __name__ == "__main__":
    main()
