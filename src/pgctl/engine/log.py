"""What the engine has to say besides errors."""

from __future__ import annotations

import os
import threading
from typing import Literal, Protocol, TypeAlias

from pgctl._ffi import lib
from pgctl.errors import PgInvalid


class _HasFd(Protocol):
    def fileno(self) -> int: ...


Level: TypeAlias = Literal["off", "warn", "info", "debug"]
Sink: TypeAlias = int | _HasFd

_LEVELS: dict[str, int] = {
    "off": lib.PG_LOG_OFF,
    "warn": lib.PG_LOG_WARN,
    "info": lib.PG_LOG_INFO,
    "debug": lib.PG_LOG_DEBUG,
}
_lock = threading.Lock()
_fd = -1


def log_to(sink: Sink | None, level: Level = "warn") -> None:
    """Have the engines of this process log to a file descriptor, or a file that has one.

    "warn": a peer lost, a stranger refused, a timeout with what was in flight. "info": also a peer
    found, how it is reached, a goodbye. "debug": also every control message. None: silence, which
    is the default. Replaces what was said before. The file may be closed afterwards.
    """
    global _fd  # noqa: PLW0603 - it is one for the process in C, too
    if level not in _LEVELS:
        raise PgInvalid(f"level {level!r} is not off, warn, info or debug")
    fd = -1 if sink is None else os.dup(descriptor(sink))
    with _lock:
        lib.pg_log_to_fd(fd, _LEVELS[level])
        if _fd >= 0:
            os.close(_fd)  # nobody writes there any more
        _fd = fd


def descriptor(sink: Sink) -> int:
    """Of either form; what Python has buffered before is written first."""
    if isinstance(sink, int):
        return sink
    if flush := getattr(sink, "flush", None):
        flush()
    return sink.fileno()
