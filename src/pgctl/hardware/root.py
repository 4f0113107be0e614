"""Files under one root. What cannot be read is unknown, and says why.

The root is the live system or a copy of one, in which symbolic links stay inside as after chroot. A
copy may be hostile: links may loop, files may be pipes or endless, text may be binary.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

_MOST_BYTES = 1 << 18
_MOST_LINKS = 40
_MOST_NAMES = 1 << 14
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Fact(Generic[T_co]):
    """A value and where it stands; or None, and why it is unknown."""

    value: T_co | None
    source: str
    why: str = ""

    @property
    def known(self) -> bool:
        return self.value is not None

    def __str__(self) -> str:
        """As evidence."""
        text = f"unknown ({self.why})" if self.value is None else str(self.value)
        return f"{self.source}: {text}"

    def map(self, parse: Callable[[T_co], U]) -> Fact[U]:
        """`parse` raises ValueError for a value that is none."""
        if self.value is None:
            return unknown(self.source, self.why)
        try:
            return Fact(parse(self.value), self.source)
        except ValueError as error:
            return unknown(self.source, str(error))


def unknown(source: str, why: str) -> Fact[Any]:
    return Fact(None, source, why)


class Root:
    """Paths are absolute, as on the machine itself; so are the sources of facts."""

    def __init__(self, path: str = "/") -> None:
        self.path = os.path.realpath(path)
        self.live = self.path == "/"
        self._resolved: dict[str, str] = {}

    def raw(self, path: str) -> Fact[bytes]:
        try:
            descriptor = os.open(self._locate(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return unknown(path, "not a regular file")
                return Fact(_read(file.read), path)
        except OSError as error:
            return unknown(path, reason(error))

    def text(self, path: str) -> Fact[str]:
        """Without the white space around it, and with nothing that a terminal would obey."""
        return self.raw(path).map(_clean)

    def read(self, path: str, parse: Callable[[str], U]) -> Fact[U]:
        return self.text(path).map(parse)

    def names(self, path: str) -> Fact[tuple[str, ...]]:
        """Of a directory's entries, sorted."""
        try:
            names = os.listdir(self._locate(path))
        except OSError as error:
            return unknown(path, reason(error))
        if len(names) > _MOST_NAMES:
            return unknown(path, f"{len(names)} entries are too many")
        return Fact(tuple(sorted(name for name in names if _utterable(name))), path)

    def link(self, path: str) -> Fact[str]:
        """Where a symbolic link points, as it is written."""
        try:
            target = os.readlink(self._locate_parent(path))
        except OSError as error:
            return unknown(path, reason(error))
        return Fact(target, path) if _utterable(target) else unknown(path, "unreadable link")

    def exists(self, path: str) -> bool:
        try:
            return os.path.lexists(self._locate_parent(path))
        except OSError:
            return False

    def openable(self, path: str) -> Fact[bool]:
        """Whether this process can open it to read and write, found out by doing so."""
        try:
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            os.close(os.open(self._locate(path), flags))
        except OSError as error:
            return unknown(path, reason(error))
        return Fact(True, path)

    def _locate(self, path: str) -> str:
        """The path to give to the system. Raises OSError."""
        return path if self.live else f"{self.path}{self._resolve(path)}"

    def _locate_parent(self, path: str) -> str:
        if self.live:
            return path
        above, _, name = path.rpartition("/")
        return f"{self.path}{self._resolve(above)}/{name}"

    def _resolve(self, path: str) -> str:
        """The path once every link in it is followed, none of them out of the root."""
        if not path:
            return ""
        if (known := self._resolved.get(path)) is not None:
            return known
        above, _, name = path.rpartition("/")
        done, pending, links = self._resolve(above), [name], 0
        while pending:
            part = pending.pop()
            if part == "..":
                done = done.rpartition("/")[0]
            elif part not in ("", "."):
                here = f"{done}/{part}"
                if not os.path.islink(f"{self.path}{here}"):
                    done = here
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(f"{self.path}{here}")
                done = "" if target.startswith("/") else done
                pending += reversed(target.split("/"))
        self._resolved[path] = done
        return done


class Nowhere(Root):
    """A root that nothing is read from."""

    def __init__(self, why: str) -> None:
        super().__init__("/")
        self.live = False
        self._why = why

    def raw(self, path: str) -> Fact[bytes]:
        return unknown(path, self._why)

    def names(self, path: str) -> Fact[tuple[str, ...]]:
        return unknown(path, self._why)

    def link(self, path: str) -> Fact[str]:
        return unknown(path, self._why)

    def exists(self, path: str) -> bool:
        del path
        return False

    def openable(self, path: str) -> Fact[bool]:
        return unknown(path, self._why)


def reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "not there"
    name = errno.errorcode.get(error.errno or 0, "")
    text = (error.strerror or str(error)).lower()
    return f"{text}, {name}" if name else text


def base(path: str) -> str:
    return PurePosixPath(path).name


def whole_number(text: str) -> int:
    """Decimal, or hexadecimal with 0x. Raises ValueError."""
    digits = text[2:] if text.lower().startswith("0x") else text
    try:
        if len(digits) > _MOST_DIGITS:
            raise ValueError
        return int(digits, 10 if digits is text else 16)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None


def natural_number(text: str) -> int:
    """As `whole_number`, and not negative. Raises ValueError."""
    number = whole_number(text)
    if number < 0:
        raise ValueError(f"{text[:40]!r} is negative")
    return number


def cpu_list(text: str) -> tuple[int, ...]:
    """Of "0-3,8": 0, 1, 2, 3, 8. Raises ValueError."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        start, stop = whole_number(first), whole_number(last if dash else first)
        if not 0 <= start <= stop < 1 << 16:
            raise ValueError(f"{text[:40]!r} is not a list of cpus")
        cpus += range(start, stop + 1)
    return tuple(sorted(set(cpus)))


def _read(read: Callable[[int], bytes]) -> bytes:
    parts, room = [], _MOST_BYTES
    while room and (part := read(room)):
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _clean(data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip(" \t\r\n\0")
    if not text:
        raise ValueError("empty")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t\0" else "\ufffd" for c in text)


def _utterable(name: str) -> bool:
    return name.isprintable() and name.isascii()
