"""What was tried on this machine's NICs, and what came of it: facts that had to be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

What = Literal["registration", "loopback", "ordering"]
"""In the order in which they are tried: none makes sense where the one before it failed."""


@dataclass(frozen=True, slots=True)
class Trial:
    what: What
    nic: str
    good: bool
    told: str
    """What was seen."""


@dataclass(frozen=True, slots=True)
class Trials:
    transport: str
    why: str
    """Why that one."""
    done: tuple[Trial, ...]
