"""What pgctl must reach, each against a limit of the same run: the table of bars."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers.common import Cores, NotMeasuredError, Row, Sample, lines_to_sample, run

PYTHON_COSTS = Path(__file__).with_name("python_costs.py")
LIFETIMES = Path(__file__).with_name("lifetimes.py")


@dataclass(frozen=True)
class Bar:
    what: str
    asked: str
    arguments: tuple[str, ...]
    """Of pgctl bench."""
    metric: str
    """Of the record's results; "lines" is a latency in cache-line trips."""


PERCENT = "bw_pct_line_rate"
BARS = [
    Bar(
        "write, hot, receiver asleep, % of memcpy",
        ">= 95",
        ("write", "--no-imm", "--sizes", "64K,1M,32M"),
        PERCENT,
    ),
    Bar(
        "the same, marching",
        ">= 95",
        ("write", "--no-imm", "--touch", "marching", "--sizes", "64K,1M,32M"),
        PERCENT,
    ),
    Bar("8 B, one way and counted, cache-line trips", "<= 2", ("write", "--sizes", "8"), "lines"),
    Bar("8 B, counted, Mop/s", ">= 12", ("write", "--sizes", "8"), "rate_mop_s"),
    Bar(
        "4096 pages of 4 KiB, marching, % of memcpy",
        ">= 90",
        ("paged", "--touch", "marching", "--sizes", "4K"),
        PERCENT,
    ),
    Bar(
        "memory not of the engine, % of process_vm_writev",
        ">= 90",
        ("write", "--no-imm", "--memory", "registered", "--sizes", "64K,1M,32M"),
        PERCENT,
    ),
    Bar(
        "two lanes with workers, receiver asleep, % of two threads' memcpy",
        ">= 90",
        ("write", "--no-imm", "--nics-per-rank", "2", "--progress", "worker", "--sizes", "32M"),
        PERCENT,
    ),
]
COSTS = [
    ("submit from Python, 8 B, p50, µs", "<= 2", "costs", "submit_us"),
    (
        "submit from Python, 4096 pages, before the copy, p50, µs",
        "<= 20",
        "costs",
        "submit_paged_us",
    ),
    ("memory per connected peer and NIC, KiB", "<= 64", "costs", "peer_kib"),
    ("from a peer's address to bytes in its memory, ms", "<= 1", "lifetimes", "meet_ms"),
    ("until the death of a local process is known, ms", "<= 50", "lifetimes", "death_ms"),
    ("an idle engine with 64 peers, % of a core", "< 1", "lifetimes", "idle_percent"),
]
"""What, the bar, the script that measures it, and the name of its line."""


def rows(cores: Cores) -> list[Row]:
    pgctl = Path(sys.executable).with_name("pgctl")
    if not pgctl.exists():
        return [Row("bars", "-", table="bars", reason="pgctl is not installed (make venv)")]
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    bench = [Row(b.what, b.asked, partial(_bench, [*pinned, str(pgctl)], b), "bars") for b in BARS]
    scripts = {
        name: partial(run, [*pinned, sys.executable, str(path)])
        for name, path in (("costs", PYTHON_COSTS), ("lifetimes", LIFETIMES))
    }
    costs = [
        Row(what, asked, partial(_cost, scripts[script], name), "bars")
        for what, asked, script, name in COSTS
    ]
    return [*bench, *costs]


def _cost(costs: partial[str], name: str) -> Sample:
    return {"bar": lines_to_sample(costs(), (name,))[name]}


def _bench(pgctl: list[str], bar: Bar) -> Sample:
    record: dict[str, Any] = json.loads(run([*pgctl, "bench", *bar.arguments, "--json", "-"]))
    sample: Sample = {}
    for result in record["results"]:
        metrics = result["metrics"]
        if bar.metric == "lines":
            value = metrics["lat_us"]["p50"] / record["limits"]["cacheline_oneway_us"]
        elif bar.metric in metrics:
            value = metrics[bar.metric]["p50"]
        else:
            raise NotMeasuredError(f"the record of {' '.join(bar.arguments)} has no {bar.metric}")
        sample[f"bar.{result['size']}" if len(record["results"]) > 1 else "bar"] = value
    return sample
