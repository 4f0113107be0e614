"""What was tried on this machine's NICs, and what came of it: facts that had to be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

What = Literal["registration", "loopback", "ordering", "gpu_reach"]
"""In the order in which they are tried: none makes sense where the one before it failed."""


@dataclass(frozen=True, slots=True)
class Trial:
    what: What
    nic: str
    good: bool | None
    """None: it could not be tried, which says nothing about the NIC."""
    told: str
    """What was seen."""
    gpu: str | None = None
    """PCI address of the GPU that it was tried with."""

    @property
    def whom(self) -> str:
        return f"{self.nic} with {self.gpu}" if self.gpu else self.nic


@dataclass(frozen=True, slots=True)
class Trials:
    transport: str
    why: str
    """Why that one."""
    done: tuple[Trial, ...]
