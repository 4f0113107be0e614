"""A local rank as its launcher sees it: a process, a socket and perhaps its output."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pgctl.cluster.frames import MAX_PAYLOAD, Decoder, Frame

_CHUNK = 1 << 18  # above the default capacity of a pipe and of a socket
_TAIL_LINES = 20
_LONGEST_LINE = 4096
_STATES = {"D": "in an uninterruptible wait", "T": "stopped", "t": "stopped by a debugger"}


class Output:
    """The lines that a rank prints: the last ones are kept, each may be passed on."""

    def __init__(self, passed_on: Callable[[str], None] | None = None) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._passed_on = passed_on
        self._partial = b""

    def feed(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._partial) > _LONGEST_LINE:
            self._line(self._partial[:_LONGEST_LINE])
            self._partial = self._partial[_LONGEST_LINE:]

    def finish(self) -> None:
        if self._partial:
            self._line(self._partial)
            self._partial = b""

    def _line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        self.tail.append(line)
        if self._passed_on is not None:
            self._passed_on(line)


class Child:
    """Nothing here blocks. `status` is None while the process lives, then its exit status, or
    the negative number of the signal that killed it."""

    def __init__(
        self, rank: int, size: int, command: Sequence[str], on_line: Callable[[str], None] | None
    ) -> None:
        self.rank = rank
        self.output = Output(on_line)
        self.status: int | None = None
        self.joined = False
        self.left_at: float | None = None
        """When its end of the socket was closed, time.monotonic()."""
        self._decoder = Decoder(MAX_PAYLOAD)
        self._outbox: deque[memoryview] = deque()
        self.sock, theirs = socket.socketpair()
        try:
            self._process = _start(rank, size, command, theirs)
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.pipe = self._process.stdout
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._process.kill()
            self._process.communicate()
            self.sock.close()
            raise
        self.sock.setblocking(False)
        if self.pipe is not None:
            os.set_blocking(self.pipe.fileno(), False)

    def queue(self, data: bytes) -> None:
        self._outbox.append(memoryview(data))

    def flush(self) -> bool:
        """Send what goes now; False if some of it has to wait."""
        try:
            while self._outbox:
                sent = self.sock.send(self._outbox[0])
                self._outbox[0] = self._outbox[0][sent:]
                if not self._outbox[0]:
                    self._outbox.popleft()
        except BlockingIOError:
            return False
        except OSError:  # it has left; reading says so too
            self._outbox.clear()
        return True

    # One system call takes up all that a socket or a pipe holds. Asking for more at once would
    # give a rank that never stops talking the launcher's whole attention.

    def receive(self) -> list[Frame]:
        """The frames that have come; notes when the rank has left. Raises FrameError."""
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.left_at = self.left_at or time.monotonic()
        return self._decoder.feed(data)

    def read_output(self) -> bool:
        """Take up what it has printed; False when nothing more can come."""
        if self.pipe is None:
            return False
        try:
            data = os.read(self.pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        self.output.feed(data)
        return bool(data)

    def reap(self) -> bool:
        """True once the process has ended."""
        if self.status is None:
            self.status = self._process.poll()
        return self.status is not None

    def gone_since(self, moment: float) -> bool:
        """True if it has ended, or had left the others by `moment`."""
        return self.status is not None or (self.left_at is not None and self.left_at <= moment)

    def kill(self, number: signal.Signals) -> None:
        if self.status is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Release everything; a process that still lives is killed."""
        self.kill(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.sock.close()
        os.close(self.pidfd)
        if self.pipe is not None:
            self.pipe.close()

    def __str__(self) -> str:
        state = _state(self.pid)
        return f"rank {self.rank} (pid {self.pid}{f', {state}' if state else ''})"


def _start(
    rank: int, size: int, command: Sequence[str], sock: socket.socket
) -> subprocess.Popen[bytes]:
    """Rank 0 has the launcher's own stdin, stdout and stderr, so that it alone speaks."""
    environ = os.environ | {
        "PGCTL_RANK": str(rank),
        "PGCTL_SIZE": str(size),
        "PGCTL_CLUSTER_FD": str(sock.fileno()),
        "PGCTL_LAUNCHER_PID": str(os.getpid()),
    }
    captured = rank > 0
    if captured:
        environ["PYTHONUNBUFFERED"] = "1"  # a rank that is killed has said its last words
    else:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
    return subprocess.Popen(
        command,
        bufsize=0,
        env=environ,
        pass_fds=(sock.fileno(),),
        stdin=subprocess.DEVNULL if captured else None,
        stdout=subprocess.PIPE if captured else None,
        stderr=subprocess.STDOUT if captured else None,
    )


def _state(pid: int) -> str:
    """What keeps the process from running, as far as the kernel knows; usually nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return _STATES.get(stat.rpartition(") ")[2][:1], "")
