"""The section of docs/benchmarks.md about libfabric."""

from peers import table
from peers.common import Cores, Row

BEGIN = "<!-- bench-ofi: measured, do not edit -->"
END = "<!-- bench-ofi: end -->"
COLUMNS = table.TABLES["write"][1]
METHOD = """\
## libfabric

Two processes on this machine, the sender on core {cores[0]}, the receiver on core {cores[1]}; load
average {load:.2f} before it began. All rows take turns, {rounds} rounds, back and forth; a cell is
the median over the rounds, with the least and the greatest beside it. All have as many writes in
flight: 64, or as many as make up 8 MiB, at least 2; they go to the same place again and again, and
are complete when they have been delivered.

- pgctl: bandwidth and rate are means over a run, until everything was complete, and counted where
  there is an immediate; latency is the median of half a ping-pong of an 8 B write with its counter.
- libfabric: `native/bench/ofi_raw.c`, the same without an engine: `fi_writemsg` with
  `FI_DELIVERY_COMPLETE`, and
  `fi_cq_read` on both sides. Debian packages no fabtests. Without an immediate its receiver polls
  as well, that of pgctl sleeps until it is woken.
"""


def section(rows: list[Row], cores: Cores, rounds: int, load: float, command: str) -> str:
    parts = [BEGIN, METHOD.format(cores=cores, rounds=rounds, load=load), *bars(rows), ""]
    parts += [*table.table(rows, "write", COLUMNS), ""]
    parts += [f"{table.machine(cores)} To repeat: `{command}`.", END]
    return "\n".join(parts) + "\n"


def bars(rows: list[Row]) -> list[str]:
    lines = table.shares_header("pgctl, as % of libfabric in the same round")
    for mine in (row for row in rows if "pgctl" in row.who and row.setting.endswith(" imm")):
        for peer in rows:
            if peer is not mine and peer.setting == mine.setting:
                lines += table.shares(mine, peer, COLUMNS)
    for row in rows:
        if row.table == "idle":
            measured = table.cell(row.samples, "idle_percent")
            lines.append(f"| {row.setting} | < 2 | {measured} |")
    return lines
