"""The section of docs/benchmarks.md about RDMA devices."""

from peers import table
from peers.common import Pair, Row

BEGIN = "<!-- bench-verbs: measured, do not edit -->"
END = "<!-- bench-verbs: end -->"
COLUMNS = [
    ("8 B, one way, µs", "lat_us.8"),
    ("8 B, Mop/s", "rate_mop_s.8"),
    ("4 KiB, GB/s", "bw_gbyte_s.4096"),
    ("64 KiB, GB/s", "bw_gbyte_s.65536"),
    ("1 MiB, GB/s", "bw_gbyte_s.1048576"),
]
METHOD = """\
## RDMA devices

Two processes on one machine: the sender on {devices[0]} and core {cores[0]}, the receiver on
{devices[1]} and core {cores[1]}. All rows take turns, {rounds} rounds, back and forth; a cell is
the median over the rounds, with the least and the greatest beside it. Both programs have as many
writes in flight: 64, or 8 of 1 MiB.

- pgctl: bandwidth and rate are means over a run, until everything was complete, and counted where
  there is an immediate; latency is the median of half a ping-pong of an 8 B write with its counter.
- perftest: averages of `ib_write_bw`; latency is `t_typical`, the median, of `ib_write_lat` and
  `ib_send_lat`. Without an immediate `ib_write_lat` polls the receiver's memory.
"""


def section(rows: list[Row], pair: Pair, rounds: int, command: str) -> str:
    parts = [BEGIN, METHOD.format(devices=pair.devices, cores=pair.cores, rounds=rounds)]
    parts += [*bars(rows), "", *table.table(rows, "write", COLUMNS), ""]
    parts += [f"{table.machine(pair.cores)} To repeat: `{command}`.", END]
    return "\n".join(parts) + "\n"


def bars(rows: list[Row]) -> list[str]:
    ours = next(row for row in rows if "pgctl" in row.who and row.setting == "write with imm")
    peers = [row for row in rows if "pgctl" not in row.who]
    return [
        *table.shares_header("pgctl, write with imm, as % of perftest in the same round"),
        *(line for peer in peers for line in table.shares(ours, peer, COLUMNS)),
    ]
