"""Words whose changes are told."""

from __future__ import annotations

import weakref
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from pgctl._ffi import ffi, lib
from pgctl.engine.held import Held
from pgctl.engine.native import check, new_error, unsigned
from pgctl.errors import PgBusy, PgStale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group

_KEYS: Final = count(1)
"""Cookies for the engine; those of the caller may be anything."""


class Watcher(Held):
    """A 64-bit word, 0 at first. Each change is told by an Event of kind "watch" with its cookie.

    Changes may coalesce; the last value is never lost. Made by TransferEngine.watcher. Whatever
    sets it with a plain aligned store of 8 bytes will do; a sleeping engine looks once in a
    millisecond at the latest, and at once after `set`.
    """

    __slots__ = ("_pointer", "_window", "engine")

    def __init__(self, engine: TransferEngine, group: Group, cookie: object) -> None:
        pointer, handle, error = ffi.new("uint64_t **"), ffi.new("pg_watcher_t *"), new_error()
        key = next(_KEYS)
        group.watched[key] = cookie
        try:
            done = ffi.new("struct pg_done *", {"cookie": key})
            check(lib.pg_alloc_watcher(group.c, done, pointer, handle, error), error)
        except BaseException:
            del group.watched[key]
            raise
        super().__init__(group, handle[0], _forget, key)
        self.engine = engine
        self._pointer = pointer[0]
        self._window: weakref.ref[_Word] | None = None

    def __repr__(self) -> str:
        return f"<Watcher {self.handle:#x}>"

    @property
    def word(self) -> NDArray[np.uint64]:
        """The word as an array of one uint64, which keeps it alive. Raises PgStale after close."""
        import numpy as np

        window = self._window() if self._window else None
        if window is None:
            window = _Word(self)
            self._window = weakref.ref(window)
            self.group.views.add(window)
        return np.asarray(window).view(np.uint64)

    @property
    def address(self) -> int:
        """Where it is, for C or for a GPU. Valid until close."""
        return int(ffi.cast("uintptr_t", self._pointer))

    @property
    def value(self) -> int:
        """What is there now. Raises PgStale after close."""
        self._check()
        return int(self._pointer[0])

    def set(self, value: int) -> None:
        """Store a value there, and have it looked at soon."""
        self._check()
        check(lib.pg_watcher_set(self.group.c, self.handle, unsigned(value, "value")))

    def close(self) -> None:
        """Watch it no longer; changes that were not told are not told. Idempotent.

        Raises PgBusy while arrays show it: the word will be somebody else's.
        """
        if self.closed:
            return
        if self._window and self._window():
            raise PgBusy(f"{self!r} cannot be closed: numpy arrays still show it")
        self._finalizer()

    def _check(self) -> None:
        self.group.c  # noqa: B018 - raises if the engine is closed
        if self.closed:
            raise PgStale(f"{self!r} is closed")


def _forget(ref: weakref.ref[Group], handle: int, key: int) -> None:
    if group := ref():
        group.watched.pop(key, None)
        if group.raw:
            lib.pg_free_watcher(group.raw, handle)


class _Word:
    """What numpy arrays over a word have as their base."""

    __slots__ = ("__array_interface__", "__weakref__", "held")

    def __init__(self, watcher: Watcher) -> None:
        if watcher.closed:
            raise PgStale(f"{watcher!r} is closed")
        self.held = watcher
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": (8,),
            "typestr": "|u1",
            "data": (watcher.address, False),
        }
