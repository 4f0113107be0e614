"""Whether Python still shows memory that the engine owns."""

from __future__ import annotations

import weakref
from collections.abc import Callable


class Views:
    """Objects that show memory. Closing waits for none of them; freeing the memory does."""

    def __init__(self) -> None:
        self._refs: set[weakref.ref[object]] = set()
        self._then: Callable[[], None] | None = None

    def add(self, view: object) -> None:
        self._refs.add(weakref.ref(view, self._gone))

    def _gone(self, ref: weakref.ref[object]) -> None:
        self._refs.discard(ref)
        if not self._refs and self._then:
            then, self._then = self._then, None
            then()

    def when_none(self, then: Callable[[], None]) -> None:
        """Call `then` once, when there is none: perhaps now."""
        if self._refs:
            self._then = then
        else:
            then()
