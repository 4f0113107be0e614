"""What is of a group and is given back: by `close`, or when nobody has it any more."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pgctl.engine.group import Group


class Held(ABC):
    """A handle of a group, and a context that closes it."""

    __slots__ = ("__weakref__", "_finalizer", "group", "handle")

    def __init__(
        self, group: Group, handle: int, forget: Callable[..., None], *more: object
    ) -> None:
        """`forget(reference of the group, handle, *more)` gives back what nobody closed."""
        self.group = group
        self.handle = handle
        self._finalizer = weakref.finalize(self, forget, weakref.ref(group), handle, *more)
        self._finalizer.atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive or self.group.closing

    @abstractmethod
    def close(self) -> None:
        """Give it back. Idempotent."""
