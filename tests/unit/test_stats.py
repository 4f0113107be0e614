"""Raw samples to figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.bench import stats

samples = st.lists(st.floats(1, 1e9), min_size=1, max_size=500).map(np.array)


@given(samples)
def test_percentiles_are_samples_in_order(values: stats.Samples) -> None:
    summary = stats.percentiles(values)
    names = ["min", "p50", "p90", "p99", "p99.9", "max"]
    assert [summary[name] for name in names] == sorted(summary.values())
    assert set(summary.values()) <= set(values.tolist())
    assert (summary["min"], summary["max"]) == (values.min(), values.max())


@given(samples, st.randoms(use_true_random=False))
def test_percentiles_do_not_depend_on_order(values: stats.Samples, random: object) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stats.percentiles(shuffled) == stats.percentiles(values)


def test_percentiles_of_a_thousand() -> None:
    summary = stats.percentiles(np.arange(1.0, 1001.0))
    assert summary == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "min": 1, "max": 1000}


def test_no_samples_have_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.percentiles([])


def test_a_byte_per_nanosecond_is_a_gigabyte_per_second() -> None:
    assert stats.gbyte_s(64_000, np.array([1000.0, 2000.0])).tolist() == [64, 32]


def test_an_operation_per_nanosecond_is_a_thousand_million_per_second() -> None:
    assert stats.mop_s(16, np.array([16.0, 1600.0])).tolist() == [1000, 10]


def test_a_time_too_short_to_see_is_no_infinite_bandwidth() -> None:
    assert np.isfinite(stats.gbyte_s(1, np.array([0.0]))).all()


@given(samples, st.integers(2, 50))
def test_thinning_keeps_ends_order_and_the_cap(values: stats.Samples, keep: int) -> None:
    kept = stats.thin(values, keep)
    assert kept.size == min(keep, values.size)
    assert (kept[0], kept[-1]) == (values[0], values[-1])
    remaining = iter(values.tolist())
    assert all(value in remaining for value in kept.tolist())
