"""From raw samples to figures. Nothing else computes a percentile or a bandwidth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

KEPT_SAMPLES = 10_000
"""Of one series, in a record."""
_PER_MILLE = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


def percentiles(samples: Samples | Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, p99.9, min, max: each of them one of the samples."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if values.size == 0:
        raise ValueError("no samples to summarize")
    summary = {
        name: float(values[-(-values.size * part // 1000) - 1]) for name, part in _PER_MILLE.items()
    }
    return summary | {"min": float(values[0]), "max": float(values[-1])}


def gbyte_s(payload: float, ns: Samples) -> Samples:
    """Decimal GB/s of `payload` bytes moved in each of these times. A byte per ns is a GB/s."""
    return payload / np.maximum(ns, 1.0)


def mop_s(operations: float, ns: Samples) -> Samples:
    """Millions of operations a second."""
    return operations * 1e3 / np.maximum(ns, 1.0)


def thin(samples: Samples, keep: int) -> Samples:
    """At most `keep` of the samples, evenly spread over the run."""
    if samples.size <= keep:
        return samples
    return samples[np.linspace(0, samples.size - 1, keep).round().astype(np.int64)]
