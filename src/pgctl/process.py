"""A process that may hang or crash without harm to this one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_KILLED_S = 1.0
"""One that SIGKILL does not end within this time sits in the kernel, and is left behind."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    out: list[str]
    """Lines; also those of one that was late or crashed."""
    err: list[str]
    why: str
    """How it ended, if not well: it was late, a signal ended it, or its status is not 0."""


class Stop:
    """Ends processes that several threads wait for, also those that are started later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def now(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.kill()

    @contextmanager
    def ends(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            self._running.add(child)
            if self._stopped:
                child.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(child)


def run(command: Sequence[str], deadline_s: float, stop: Stop | None = None) -> Ended:
    """Raises OSError if it cannot be started."""
    with _memory() as out, _memory() as err:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            with (stop or Stop()).ends(child):
                child.wait(deadline_s)
            why = _ill(child.returncode)
        except subprocess.TimeoutExpired:
            why = f"nothing came of it within {deadline_s:g} s"
        finally:
            stuck = not _ends(child)
        if stuck:
            why += ", and the kernel does not let go of it"
        return Ended(_lines(out), _lines(err), why)


def _ill(status: int) -> str:
    if status < 0:
        return f"it crashed: {signal.Signals(-status).name}"
    return f"it ended with status {status}" if status else ""


def _ends(child: subprocess.Popen[bytes]) -> bool:
    """Whether it does, when it has to."""
    child.kill()
    try:
        child.wait(_KILLED_S)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _memory() -> Iterator[int]:
    """A file that needs no reader, so that nobody waits for one."""
    fd = os.memfd_create("pgctl-output")
    try:
        yield fd
    finally:
        os.close(fd)


def _lines(fd: int) -> list[str]:
    return os.pread(fd, _MOST_BYTES, 0).decode(errors="replace").splitlines()
