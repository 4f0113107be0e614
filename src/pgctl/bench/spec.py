"""What a user asks of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MARCH_SPAN = 256 << 20
"""Marching goes through this much memory: more than any cache holds."""
MESSAGE_MAX = 4096
PAIRS = frozenset({"write", "paged", "send"})
"""Operations between ranks 0 and 1; the others are between all."""
WINDOW = 64
WINDOW_BYTES = 8 << 20
PAGED_BYTES = 16 << 20
"""Pages of one operation, unless --pages says how many."""
PAGES_MAX = 4096
RDMA = "verbs"
"""The transport whose NICs are RDMA devices."""
OFI = "ofi"
"""The transport whose NICs are libfabric's."""
AS_GROUPED = 0
"""As a number of NICs: those of the DomainGroup that the rank takes; where there are no groups, all
that are named, or one that the transport chooses."""

DEFAULT_SECONDS = 0.1
"""Per size and measurement, over all cycles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    operation: str
    sizes: tuple[int, ...] = (0,)
    iters: int | None = None
    """Operations per cycle; None: as many as fill the duration."""
    duration_s: float = DEFAULT_SECONDS
    warmup: int | None = None
    """Operations before each cycle; None: as many as are in flight."""
    window: int | None = None
    """Operations in flight; None: WINDOW, but no more than make up WINDOW_BYTES, and at least 2."""
    cycles: int = 3
    bidirectional: bool = False
    check: bool = True
    imm: bool = True
    touch: Literal["hot", "marching"] = "hot"
    pages: int | None = None
    memory: Literal["engine", "registered"] = "engine"
    transport: str = "auto"
    transport_why: str = ""
    """What asked for it; empty: nothing did."""
    nic_names: str = ""
    """NICs of the transport, as NCCL_IB_HCA has them; empty: any."""
    nics_per_rank: tuple[int, ...] = (1,)
    """By rank, or AS_GROUPED; a single number is every rank's."""
    nic_options: Mapping[str, str] = field(default_factory=dict)
    """By transport: {"verbs": "gid=3,tc=106"}."""
    progress: Literal["auto", "inline", "worker"] = "auto"
    timeout_s: float = 30.0
    seed: int = 0
    impair: str = ""
    """What goes wrong on purpose."""

    @property
    def test(self) -> str:
        return f"bench.{self.operation}"

    @property
    def command(self) -> str:
        return f"bench {self.operation}"

    def nics(self, ranks: int) -> tuple[int, ...]:
        """By rank."""
        given = self.nics_per_rank
        return given * ranks if len(given) == 1 else given

    def senders(self, ranks: int) -> range:
        """Who submits operations, and not only receives them."""
        one_way = self.operation in PAIRS and not self.bidirectional
        return range(1 if one_way else ranks)

    def pages_of(self, size: int) -> int:
        return self.pages or max(1, min(PAGES_MAX, PAGED_BYTES // size))

    def window_of(self, payload: int) -> int:
        """Operations of `payload` bytes in flight."""
        return self.window or max(2, min(WINDOW, WINDOW_BYTES // max(payload, 1)))

    def extent(self, size: int, ranks: int) -> int:
        """Bytes of the source, and of each sink, within which one operation works."""
        if self.operation == "paged":
            return self.pages_of(size) * size
        if self.operation == "scatter":
            return ranks * size
        return size if self.operation == "write" else 0

    def step(self, extent: int) -> int:
        """From one operation to the next."""
        return _padded(extent) if self.touch == "marching" else 0

    def span(self, extent: int) -> int:
        """What the operations go through, one after the other."""
        return max(MARCH_SPAN, _padded(extent)) if self.touch == "marching" else _padded(extent)

    def parameters(self, ranks: int) -> dict[str, Any]:
        """Those that bear on the operation, as the record states them."""
        extent = max(self.extent(size, ranks) for size in self.sizes)
        every = asdict(self)
        for name in (*_ELSEWHERE, *_WITHOUT.get(self.operation, ())):
            del every[name]
        if self.operation != "paged":
            del every["pages"]
        return every | ({"span": self.span(extent)} if extent else {})


def _padded(size: int) -> int:
    return -(-size // _LINE) * _LINE


_LINE = 64
_ELSEWHERE = (
    *("operation", "seed", "impair", "transport", "transport_why"),
    *("nic_names", "nics_per_rank", "nic_options"),
)
"""The record has a place of its own for these."""
_MEMORY = ("touch", "memory", "imm")
_WITHOUT = {
    "scatter": ("bidirectional",),
    "barrier": (*_MEMORY, "sizes", "window", "bidirectional", "check"),
    "send": _MEMORY,
}
