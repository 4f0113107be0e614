"""From raw samples to the result of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pgctl.bench import stats
from pgctl.bench.measure import Flow
from pgctl.bench.stats import Samples
from pgctl.bench.work import Work
from pgctl.report.record import Result, Summary
from pgctl.report.record import Samples as Series
from pgctl.units import gbit_s


@dataclass(slots=True)
class Tally:
    """What the cycles of one size have brought."""

    flows: list[Flow] = field(default_factory=list)
    rounds: list[Samples] = field(default_factory=list)
    """ns, of rank 0."""
    limits: dict[str, list[Samples]] = field(default_factory=dict)
    """GB/s by name."""
    wrong: list[str] = field(default_factory=list)
    checked: bool = False

    def add_limit(self, name: str, samples: Samples) -> None:
        if samples.size:
            self.limits.setdefault(name, []).append(samples)

    def limit_p50(self) -> dict[str, float]:
        return {name: median(samples) for name, samples in self.limits.items()}


def median(cycles: Sequence[Samples]) -> float:
    return stats.percentiles(np.concatenate(cycles))["p50"]


def result(
    test: str,
    work: Work,
    tally: Tally,
    *,
    line_rate: str | None,
    off_node: int,
    bytes_per_nic: Mapping[str, int],
) -> Result:
    """off_node: bytes that one operation of every sender moves between hosts."""
    metrics: dict[str, Summary] = {}
    series: dict[str, Series] = {}
    senders = tally.flows[0].senders if tally.flows else 0
    if tally.flows:
        metrics |= _flow_metrics(work, tally.flows)
        series |= _flow_series(tally.flows)
    if tally.rounds:
        metrics["lat_us"] = stats.percentiles(_one_way(work, tally.rounds) / 1e3)
        series["round_ns"] = _series(tally.rounds, 1)
    if line_rate in tally.limits and "bw_gbyte_s" in metrics:
        share = metrics["bw_gbyte_s"]["p50"] / median(tally.limits[line_rate])
        metrics["bw_pct_line_rate"] = {"p50": 100 * share}
    return Result(
        test=test,
        size=work.size,
        pages=work.pages,
        iters=sum(flow.form.operations for flow in tally.flows) or sum(map(len, tally.rounds)),
        pair=None if work.symmetric else (0, 1),
        verified=not tally.wrong if tally.checked else None,
        bytes_per_nic=bytes_per_nic,
        payload={"total": senders * work.payload, "off_node": off_node} if work.payload else {},
        metrics=metrics,
        samples=series,
    )


def _flow_metrics(work: Work, flows: Sequence[Flow]) -> dict[str, Summary]:
    """Of all senders together. The mean is over whole runs, until everything was counted."""
    samples = np.concatenate([flow.sample_ns for flow in flows])
    operations = flows[0].senders * flows[0].per_sample
    total = flows[0].senders * sum(flow.form.operations for flow in flows)
    total_ns = np.array(sum(flow.elapsed_ns for flow in flows))
    gbyte_s = stats.percentiles(stats.gbyte_s(work.payload * operations, samples))
    gbyte_s["mean"] = float(stats.gbyte_s(work.payload * total, total_ns))
    mop_s = stats.percentiles(stats.mop_s(work.writes * operations, samples))
    mop_s["mean"] = float(stats.mop_s(work.writes * total, total_ns))
    metrics: dict[str, Summary] = {
        "bw_gbit_s": {name: gbit_s(value) for name, value in gbyte_s.items()},
        "bw_gbyte_s": gbyte_s,
        "rate_mop_s": mop_s,
    }
    complete = np.concatenate([flow.complete_ns for flow in flows])
    if complete.size:
        metrics["complete_us"] = stats.percentiles(complete / 1e3)
    return metrics


def _flow_series(flows: Sequence[Flow]) -> dict[str, Series]:
    series = {"block_ns": _series([flow.sample_ns for flow in flows], flows[0].per_sample)}
    if flows[0].complete_ns.size:
        series["complete_ns"] = _series([flow.complete_ns for flow in flows], flows[0].form.batch)
    return series


def _one_way(work: Work, rounds: Sequence[Samples]) -> Samples:
    """Half a ping-pong. Where all do the same at once, there is only there, not back."""
    ns = np.concatenate(rounds)
    return ns if work.symmetric else ns / 2


def _series(cycles: Sequence[Samples], per: int) -> Series:
    ns = np.concatenate(cycles)
    kept = stats.thin(ns, stats.KEPT_SAMPLES).round().astype(np.int64)
    return Series(unit="ns", total=ns.size, per=per, values=tuple(kept.tolist()))
