"""Ranks that mpirun or srun started, over mpi4py. Nothing else imports mpi4py."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import termios
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NoReturn

from pgctl.cluster.base import (
    COULD_NOT_RUN,
    INTERRUPTED,
    VERDICTS,
    Cluster,
    ClusterError,
    ClusterTimeout,
    describe,
    exit_status,
    name_ranks,
    say,
)
from pgctl.cluster.detect import Launcher

if TYPE_CHECKING:
    from mpi4py import MPI

_LENGTH = struct.Struct("<Q")
_MAX_TOTAL = 2**31 - 1  # MPI counts in C ints
_TAGS = {"allgather": 1, "barrier": 2}
_LONGEST_PAUSE_S = 1e-3
_LONGEST_READ_S = 1.0
# Rank 0 knows who is late, so it gives up first and has the word.
_RANK_0_LEAD_S = 1.0


def join(found: Launcher, timeout: float) -> MpiCluster:
    """Join the job that `found` started. Raises ClusterError when MPI does not see that job."""
    remedy = "install mpi4py for the launcher's MPI, or `pip install 'pgctl[mpi]'` and its mpirun"
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # `abort` says it better
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"{found.name} started this rank, but mpi4py does not load ({error}); {remedy}"
        ) from error
    library = " ".join(MPI.Get_library_version().splitlines()[0].partition(",")[0].split())
    if "Open MPI" in found.name and "Open MPI" not in library:  # it would end this process
        raise ClusterError(f"{found.name} started this rank, but mpi4py uses {library}; {remedy}")
    if not MPI.Is_initialized():
        with warnings.catch_warnings(action="ignore"):  # the check of the size says it better
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
    size = MPI.COMM_WORLD.Get_size()
    if found.size is not None and size != found.size:
        if found.name == "srun":
            remedy += ", or another `srun --mpi` (`srun --mpi=list` shows them)"
        raise ClusterError(
            f"{found.name} started {found.size} ranks, but {library} sees {size}; {remedy}"
        )
    return MpiCluster(timeout)


@dataclass(frozen=True, slots=True)
class _Call:
    """A collective call of this rank."""

    name: str
    limit_s: float
    deadline: float


class MpiCluster(Cluster):
    """Ranks under an MPI launcher.

    Collective calls are non-blocking ones that this process polls, so that a deadline or Ctrl-C
    ends them. What MPI has begun it must finish, though: after a timeout the only way out is to
    end all ranks, and `close` does that. MPI_Finalize, at exit, releases the communicator.
    """

    launcher = "mpi"

    def __init__(self, timeout: float) -> None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        self.rank, self.size, self.timeout = world.Get_rank(), world.Get_size(), timeout
        self._mpi = MPI
        self._closed = False
        self._broken = ""
        self._unfinished: object = None
        """The buffers of a call that was given up: MPI may still use them."""
        comm, request = world.Idup()
        try:
            self._finish(self._begin("start", None), [request])
        except ClusterTimeout as error:
            self.abort(str(error))
        self._comm = comm

    def allgather(self, payload: bytes, timeout: float | None = None) -> list[bytes]:
        call = self._begin("allgather", timeout)
        lengths = self._exchange(call, len(payload))
        total = sum(lengths)
        if total > _MAX_TOTAL:
            raise ValueError(f"payloads of {total} bytes in all exceed {_MAX_TOTAL}")
        everything = bytearray(total)
        byte = self._mpi.BYTE
        request = self._comm.Iallgatherv([payload, byte], [everything, lengths, byte])
        self._finish(call, [request], payload, everything)
        ends = accumulate(lengths)
        return [bytes(everything[end - n : end]) for end, n in zip(ends, lengths, strict=True)]

    def barrier(self, timeout: float | None = None) -> None:
        self._exchange(self._begin("barrier", timeout), 0)

    def abort(self, reason: str) -> NoReturn:
        say(f"pgctl: rank {self.rank} of {self.size} aborted: {reason}")
        self._end(COULD_NOT_RUN)

    def close(self) -> None:
        if self._broken and not self._closed:
            self.abort(self._broken)
        self._closed = True

    def _leave_by(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._end(INTERRUPTED)
        status = exit_status(error)
        if status is None:
            if not isinstance(error, ClusterError):
                say("".join(traceback.format_exception(error)).rstrip())
            say(f"pgctl: rank {self.rank} of {self.size} failed: {describe(error)}")
        if status != 0 and status not in VERDICTS:
            self._end(COULD_NOT_RUN)

    def _begin(self, name: str, timeout: float | None) -> _Call:
        if self._closed or self._broken:
            raise ClusterError(self._broken or "the cluster is closed")
        limit = self._limit(timeout)
        return _Call(name, limit, time.monotonic() + limit)

    def _exchange(self, call: _Call, number: int) -> list[int]:
        """Give one number to every rank. It goes through rank 0, which thus knows who is late."""
        comm, byte, tag = self._comm, self._mpi.BYTE, _TAGS[call.name]
        table = bytearray(_LENGTH.size * self.size)
        cells = [
            memoryview(table)[at : at + _LENGTH.size] for at in range(0, len(table), _LENGTH.size)
        ]
        if self.rank == 0:
            _LENGTH.pack_into(table, 0, number)
            others = range(1, self.size)
            arrivals = [comm.Irecv([cells[r], byte], source=r, tag=tag) for r in others]
            self._finish(call, arrivals, table, peers=others)
            self._finish(call, [comm.Ibcast([table, byte], root=0)], table)
        else:
            mine = _LENGTH.pack(number)
            arrival = comm.Isend([mine, byte], dest=0, tag=tag)
            answer = comm.Ibcast([table, byte], root=0)
            self._finish(call, [arrival, answer], mine, table, peers=[0, 0])
        return [_LENGTH.unpack(cell)[0] for cell in cells]

    def _finish(
        self,
        call: _Call,
        requests: list[MPI.Request],
        *buffers: bytes | bytearray,
        peers: Sequence[int] = (),
    ) -> None:
        """Poll until all `requests` are done; `peers` are the ranks that they wait for."""
        self._broken, self._unfinished = f"{call.name} was interrupted", (requests, buffers)
        deadline = call.deadline if self.rank == 0 else call.deadline + _RANK_0_LEAD_S
        pause = 0.0
        while not self._mpi.Request.Testall(requests):
            if time.monotonic() >= deadline:
                late = {peer for peer, r in zip(peers, requests, strict=False) if not r.Test()}
                who = name_ranks(sorted(late)) if late else "another rank"
                self._broken = f"{call.name}: {who} did not arrive within {call.limit_s:g} s"
                raise ClusterTimeout(self._broken)
            time.sleep(pause)
            pause = min(2 * pause + 1e-6, _LONGEST_PAUSE_S)
        self._broken, self._unfinished = "", None

    def _end(self, status: int) -> NoReturn:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        for fd in (1, 2):
            _wait_for_reader(fd)
        self._mpi.COMM_WORLD.Abort(status)
        raise SystemExit(status)


def _wait_for_reader(fd: int) -> None:
    """Wait a moment until pipe `fd` is empty: Hydra drops what an aborting rank has just said."""
    end = time.monotonic() + _LONGEST_READ_S
    with suppress(OSError):
        while stat.S_ISFIFO(os.fstat(fd).st_mode) and time.monotonic() < end:
            if not any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))):
                return
            time.sleep(_LONGEST_PAUSE_S)
