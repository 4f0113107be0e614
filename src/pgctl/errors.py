"""What can go wrong in the engine, as exceptions that are also Python's own."""

# ruff: noqa: N818 - named like the codes of the engine
from __future__ import annotations

import errno
import os


class PgError(Exception):
    """The engine's answer was no; the message is its sentence.

    `code` is the cause as in the module `errno`: 11 (EAGAIN), never -11.
    """

    _default = errno.EIO
    statuses: list[int] | None = None
    """Of a scatter or barrier that failed: 0 or -errno of each destination, in order."""

    def __init__(self, message: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.code = self._default if code is None else code


class PgTimeout(PgError, TimeoutError):
    """Nothing happened in time."""

    _default = errno.ETIMEDOUT
    dump = ""
    """What was in flight, and what it waited for; a traceback shows it, too."""


class PgAgain(PgError, BlockingIOError):
    """No room now: wait for something to complete, then submit again."""

    _default = errno.EAGAIN


class PgInvalid(PgError, ValueError):
    """An argument that can never work: out of bounds, of the wrong size, unknown."""

    _default = errno.EINVAL


class PgStale(PgError):
    """The region or the peer is gone; in a forked child, the whole engine."""

    _default = errno.ESTALE


class PgBusy(PgError):
    """Somebody still uses it; nothing has changed."""

    _default = errno.EBUSY


class PgPeerDown(PgError, ConnectionError):
    """The peer died, said goodbye or cannot be reached."""

    _default = errno.EHOSTDOWN


class PgProtocol(PgError, ValueError):
    """Bytes that are truncated, foreign or of another wire version."""

    _default = errno.EPROTO


class PgCanceled(PgError):
    """It was taken back before it was done."""

    _default = errno.ECANCELED


class PgShutdown(PgError):
    """The engine is closed."""

    _default = errno.ESHUTDOWN


class PgUnsupported(PgError, NotImplementedError):
    """This machine, build or transport cannot do it."""

    _default = errno.ENOTSUP


class PgNoMemory(PgError, MemoryError):
    """No memory of the kind asked for."""

    _default = errno.ENOMEM


_KINDS: dict[int, type[PgError]] = {
    errno.ETIMEDOUT: PgTimeout,
    errno.EAGAIN: PgAgain,
    errno.EINVAL: PgInvalid,
    errno.ERANGE: PgInvalid,
    errno.EMSGSIZE: PgInvalid,
    errno.ENOENT: PgInvalid,
    errno.ESTALE: PgStale,
    errno.EBUSY: PgBusy,
    errno.EHOSTDOWN: PgPeerDown,
    errno.EHOSTUNREACH: PgPeerDown,
    errno.ECONNREFUSED: PgPeerDown,
    errno.ECONNRESET: PgPeerDown,
    errno.EPIPE: PgPeerDown,
    errno.EPROTO: PgProtocol,
    errno.ECANCELED: PgCanceled,
    errno.ESHUTDOWN: PgShutdown,
    errno.ENOTSUP: PgUnsupported,
    errno.ENODEV: PgUnsupported,
    errno.ENOMEM: PgNoMemory,
}


def error_of(status: int, message: str = "") -> PgError:
    """The exception for a status of the engine, which is -errno."""
    return _KINDS.get(-status, PgError)(message or os.strerror(-status), -status)
