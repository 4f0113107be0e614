"""Sizes in, figures out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.units import align_points, format_number, format_size, gbit_s, parse_size, parse_sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("8", 8),
        ("4K", 4096),
        ("4k", 4096),
        ("64M", 1 << 26),
        ("1G", 1 << 30),
        (" 2K", 2048),
    ],
)
def test_a_size_is_bytes_or_binary_multiples(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "0", "0K", "-1", "1.5K", "4KB", "4KiB", "1T", "0x10", "٣", "9" * 30]
)
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_size(text)


@given(st.integers(1, (1 << 63) - 1))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_sizes_keep_their_order() -> None:
    assert parse_sizes("1M,8,4K") == (1 << 20, 8, 4096)


@pytest.mark.parametrize("text", ["", "4K,", "4K,,8", "8,x"])
def test_one_bad_size_spoils_the_list(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_sizes(text)


def test_a_size_named_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="'4K,4096' names 4K twice"):
        parse_sizes("4K,4096")


def test_a_byte_is_eight_bits() -> None:
    assert gbit_s(50.0) == 400.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0000001, "0.00000"),
        (0.000213, "0.00021"),
        (0.1394, "0.139"),
        (0.9996, "1.00"),
        (1.994, "1.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1257.6, "1258"),
        (-3.14159, "-3.14"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(0.01, 1e9))
def test_a_figure_is_within_half_a_percent(value: float) -> None:
    assert float(format_number(value)) == pytest.approx(value, rel=0.00502)


def test_points_stand_in_one_column() -> None:
    assert align_points(["1.25", "300", "-", "20.5"]) == ["1.25", "300   ", "-   ", "20.5 "]
    assert align_points(["1", "300"]) == ["1", "300"]
    assert align_points([]) == []
