"""Sizes, bandwidths and times as people write and read them: binary in, decimal out."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIZE = re.compile(r"([0-9]+)([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
RDMA_MTUS = (256, 512, 1024, 2048, 4096)
"""Bytes of a packet, without headers."""
_SIGNIFICANT = 3
_MOST_DECIMALS = 5


def parse_size(text: str) -> int:
    """Bytes in "4096", "4K", "64M" or "1G". Raises ValueError, which names the text."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write bytes, or K, M or G like 4K")
    size = int(match[1]) * _FACTORS[match[2].upper()]
    if size == 0:
        raise ValueError(f"{text!r} is not a size: it must be at least 1 byte")
    if size >= 1 << 63:
        raise ValueError(f"{text!r} is too large for a size")
    return size


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes separated by commas, in the order given. Raises ValueError."""
    sizes = tuple(parse_size(part) for part in text.split(","))
    twice = next((size for i, size in enumerate(sizes) if size in sizes[:i]), None)
    if twice is not None:
        raise ValueError(f"{text!r} names {format_size(twice)} twice")
    return sizes


def parse_pkey(text: str) -> int:
    """The key of a partition: 0x8001. Raises ValueError, which says what it should be."""
    match = re.fullmatch(r"0[xX]([0-9a-fA-F]{1,4})", text.strip())
    key = int(match[1], 16) if match else 0
    if not key & 0x7FFF:
        raise ValueError("a partition key: write 0x8001")
    return key


def parse_provider(text: str) -> str:
    """The name of a libfabric provider. Raises ValueError, which says what it should be."""
    if not re.fullmatch(r"[A-Za-z0-9_;-]{1,31}", text):
        raise ValueError("a provider of libfabric: efa, cxi, tcp or shm")
    return text


def format_size(size: int) -> str:
    """The shortest text that parse_size reads as `size`."""
    for suffix in "GMK":
        if size and size % _FACTORS[suffix] == 0:
            return f"{size // _FACTORS[suffix]}{suffix}"
    return str(size)


def gbit_s(gbyte_s: float) -> float:
    """Gb/s of GB/s."""
    return gbyte_s * 8


def format_number(value: float) -> str:
    """Three digits that mean something, and every digit before the point."""
    if value == 0:
        return "0"
    for decimals in range(_MOST_DECIMALS):
        if abs(value) * 10**decimals >= 10 ** (_SIGNIFICANT - 1) - 0.5:
            return f"{value:.{decimals}f}"
    return f"{value:.{_MOST_DECIMALS}f}"


def format_bytes(count: int) -> str:
    """An amount of data, in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{format_number(count / factor)} {unit}"
    return f"{count} B"


def align_points(texts: Iterable[str]) -> list[str]:
    """Pad on the right, so that right-aligned numbers have their decimal points in one column."""
    texts = list(texts)
    tails = [len(text) - text.find(".") if "." in text else 0 for text in texts]
    widest = max(tails, default=0)
    return [text + " " * (widest - tail) for text, tail in zip(texts, tails, strict=True)]
