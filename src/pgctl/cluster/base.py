"""What every cluster offers, whoever started the ranks."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, Self

DEFAULT_TIMEOUT_S = 60.0

# Statuses by which a rank says something about the machine or the command line. Any other
# non-zero status means that the rank could not run, and so does the whole command.
VERDICTS = frozenset({1, 2, 77, 130})
COULD_NOT_RUN = 3
INTERRUPTED = 130


class ClusterError(RuntimeError):
    """The ranks cannot meet, or have lost each other."""


class ClusterTimeout(ClusterError, TimeoutError):  # noqa: N818 - named like TimeoutExpired
    """A collective call was not completed in time; the message names the ranks it waited for."""


class Cluster(ABC):
    """The ranks of one run, seen from one of them.

    Every rank makes the same collective calls in the same order. The calls belong to one thread
    at a time; `abort` may come from any thread. After a ClusterTimeout or a ClusterError the
    cluster is good for `abort` and `close` only.

    As a context manager it tells a verdict from a crash: leaving by SystemExit, or by an
    exception with an `exit_code` (click's convention), is a decision of this rank; leaving by any
    other exception ends all ranks with status 3.
    """

    launcher: str
    """Who started the ranks: "local" or "mpi"."""
    rank: int
    """This process's place, 0 to size - 1. Rank 0 speaks to the user."""
    size: int
    timeout: float
    """Seconds that a collective call may take unless it is given another limit."""

    @abstractmethod
    def allgather(self, payload: bytes, timeout: float | None = None) -> list[bytes]:
        """Give `payload` to every rank; return all payloads by rank. Lengths may differ.

        timeout: seconds from this rank's call on, time in which the job is stopped (Ctrl-Z)
        included. Raises ClusterTimeout when it runs out,
        ClusterError when the cluster is closed or broken.
        """

    @abstractmethod
    def barrier(self, timeout: float | None = None) -> None:
        """Wait until every rank has come here. Raises as `allgather` does."""

    @abstractmethod
    def abort(self, reason: str) -> NoReturn:
        """End every rank; the command prints `reason` and exits with status 3."""

    @abstractmethod
    def close(self) -> None:
        """Leave. The other ranks may go on, but not wait for this one. Idempotent."""

    @abstractmethod
    def _leave_by(self, error: BaseException) -> None:
        """The `with` block is being left by `error`: tell the others if it is a crash."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._leave_by(error)
        self.close()

    def _limit(self, timeout: float | None) -> float:
        limit = self.timeout if timeout is None else timeout
        if not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f"a timeout must be a positive number of seconds, not {limit}")
        return limit


def exit_status(error: BaseException) -> int | None:
    """The exit status that `error` stands for; None if nobody chose one."""
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", "")
    if code is None:  # a bare sys.exit()
        return 0
    return code if isinstance(code, int) else None


def describe(error: BaseException) -> str:
    """`error` in one line; only unexpected kinds need their name."""
    return str(error) if isinstance(error, ClusterError) else f"{type(error).__name__}: {error}"


def name_ranks(ranks: list[int]) -> str:
    """[2] is "rank 2", [0, 2, 3] is "ranks 0, 2 and 3"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def say(line: str) -> None:
    """Write a line to stderr, or to nobody if stderr is gone."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
