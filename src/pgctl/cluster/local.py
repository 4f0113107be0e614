"""A rank that was started by this package's own launcher."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from pgctl.cluster.base import (
    COULD_NOT_RUN,
    Cluster,
    ClusterError,
    ClusterTimeout,
    describe,
    exit_status,
)
from pgctl.cluster.frames import (
    MAX_PAYLOAD,
    Decoder,
    Frame,
    Kind,
    encode,
    max_result,
    milliseconds,
    unpack,
)

_PR_SET_PDEATHSIG = 1
# The launcher keeps the deadlines, because it knows who is late. This much later a rank stops
# believing in the launcher.
_LAUNCHER_SLACK_S = 2.0


def join(environ: MutableMapping[str, str], timeout: float) -> LocalCluster:
    """Take up the place that the launcher wrote into `environ`. There is only one to take.

    What stays in `environ` keeps this process and its children from launching ranks themselves.
    From here on this process dies with the launcher, ignores SIGINT (Ctrl-C is the launcher's
    business) and leaves by SystemExit when it gets SIGTERM, so that it cleans up.
    """
    try:
        rank, size = int(environ["PGCTL_RANK"]), int(environ["PGCTL_SIZE"])
        parent = int(environ.pop("PGCTL_LAUNCHER_PID"))
        sock = socket.socket(fileno=int(environ.pop("PGCTL_CLUSTER_FD")))
    except (KeyError, ValueError, OSError) as error:
        raise ClusterError(
            "PGCTL_RANK says that this is a rank, but there is no place to take: this program or "
            f"the one that started it has taken it ({error})"
        ) from error
    sock.set_inheritable(False)
    _die_with(parent)
    signal.signal(signal.SIGTERM, _leave_on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with suppress(AttributeError, OSError, ValueError):  # a stderr that is no file
        faulthandler.enable()
    return LocalCluster(sock, rank, size, timeout)


class LocalCluster(Cluster):
    """Ranks on this machine; the launcher is where they meet."""

    launcher = "local"

    def __init__(self, sock: socket.socket, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self._sock = sock
        self._decoder = Decoder(max_result(size))
        self._sending = threading.Lock()  # frames stay whole when another thread aborts
        self._broken = ""
        self._tell(Kind.JOIN, "")

    def allgather(self, payload: bytes, timeout: float | None = None) -> list[bytes]:
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a payload of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
        payloads = unpack(self._call(Kind.ALLGATHER, payload, self._limit(timeout)))
        if len(payloads) != self.size:
            self._broken = f"allgather returned {len(payloads)} payloads, not {self.size}"
            raise ClusterError(self._broken)
        return payloads

    def barrier(self, timeout: float | None = None) -> None:
        self._call(Kind.BARRIER, b"", self._limit(timeout))

    def abort(self, reason: str) -> NoReturn:
        self._tell(Kind.ABORT, reason)
        raise SystemExit(COULD_NOT_RUN)

    def close(self) -> None:
        self._broken = self._broken or "the cluster is closed"
        with suppress(OSError):  # a forked child may hold the socket open
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _leave_by(self, error: BaseException) -> None:
        if exit_status(error) is None:
            self._tell(Kind.CRASH, describe(error))

    def _call(self, kind: Kind, body: bytes, timeout: float) -> bytes:
        if self._broken:
            raise ClusterError(self._broken)
        self._broken = f"{kind.label} was interrupted"
        deadline = time.monotonic() + timeout + _LAUNCHER_SLACK_S
        try:
            self._send(Frame(kind, body, milliseconds(timeout)), deadline)
            reply = self._receive(deadline)
        except TimeoutError as error:
            self._broken = f"{kind.label}: the launcher did not answer within {timeout:g} s"
            raise ClusterTimeout(self._broken) from error
        except OSError as error:
            self._broken = f"{kind.label}: lost the launcher: {error}"
            raise ClusterError(self._broken) from error
        if reply.kind is Kind.TIMEOUT:
            self._broken = reply.body.decode()
            raise ClusterTimeout(self._broken)
        self._broken = ""
        return reply.body

    def _send(self, frame: Frame, deadline: float) -> None:
        with self._sending:
            self._sock.settimeout(max(deadline - time.monotonic(), 1e-3))
            self._sock.sendall(encode(frame))

    def _receive(self, deadline: float) -> Frame:
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), 1e-3))
            data = self._sock.recv(1 << 20)
            if not data:
                raise ConnectionResetError("it closed the connection")
            for frame in self._decoder.feed(data):
                return frame

    def _tell(self, kind: Kind, text: str) -> None:
        """Send what needs no answer; a launcher that does not hear it is going or gone."""
        with suppress(OSError):
            self._send(Frame(kind, text.encode(errors="replace")), time.monotonic() + 1)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies, or leave if it is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise ClusterError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        os._exit(COULD_NOT_RUN)


def _leave_on_signal(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # leaving is not to be interrupted
    sys.unraisablehook = _say_nothing  # the interpreter may be on its way out already
    sys.exit(128 + number)


def _say_nothing(_: object) -> None:
    pass
