"""The meeting of all ranks in one collective call: state only, no input or output."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgctl.cluster.frames import Frame, FrameError, Kind, pack


@dataclass(slots=True)
class Rendezvous:
    """Collects one frame from every rank, over and over."""

    size: int
    call: str = ""
    """The name of the collective that is going on."""
    waiting: dict[int, bytes] = field(default_factory=dict)
    """The payloads of the ranks that are in it."""
    deadline: float = float("inf")
    """When the first of them gives up, and ..."""
    timeout_s: float = 0.0
    """... the limit that it set."""

    def arrive(self, rank: int, frame: Frame, now: float) -> Frame | None:
        """Count `rank` in. The last one completes the call: the result is for every rank."""
        call = frame.kind.label
        if rank in self.waiting:
            raise FrameError(f"called {call} before {self.call} was over")
        if self.waiting and call != self.call:
            raise FrameError(f"called {call} while others are in {self.call}")
        self.call = call
        self.waiting[rank] = frame.body
        limit = frame.timeout_ms / 1000
        if now + limit < self.deadline:
            self.deadline, self.timeout_s = now + limit, limit
        if len(self.waiting) < self.size:
            return None
        result = Frame(Kind.RESULT, pack(self.waiting[r] for r in range(self.size)))
        self.clear()
        return result

    def missing(self) -> list[int]:
        """The ranks that the others wait for; empty when nobody waits."""
        return [r for r in range(self.size) if r not in self.waiting] if self.waiting else []

    def clear(self) -> None:
        self.call, self.waiting, self.deadline = "", {}, float("inf")
