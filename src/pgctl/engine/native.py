"""Between Python and the C engine: errors, strings, numbers."""

from __future__ import annotations

import math
import operator
from typing import Any, Final

from pgctl._ffi import ffi, lib
from pgctl.errors import PgInvalid, error_of

IMM_MAX: Final[int] = lib.PG_IMM_MAX
NO_IMM: Final[int] = lib.PG_NO_IMM
NS: Final = 1_000_000_000


def text(chars: Any) -> str:
    """A char array of a struct."""
    return str(ffi.string(chars), errors="replace")


def new_error() -> Any:
    return ffi.new("struct pg_error *")


def check(rc: int, error: Any = None) -> int:
    """Return what a C function returned, or raise its -errno with the sentence in `error`."""
    if rc < 0:
        raise error_of(rc, text(error.text) if error else "")
    return rc


def unsigned(value: int, what: str, bits: int = 64) -> int:
    """`value` for an unsigned integer of C; TypeError if it is none at all."""
    number = operator.index(value)
    if not 0 <= number < 1 << bits:
        raise PgInvalid(f"{what} {number} is not a number from 0 to 2^{bits} - 1")
    return number


def milliseconds(seconds: float | None) -> int:
    """A limit as the engine takes it, 0 for none."""
    if seconds is None:
        return 0
    if not 0 < seconds < (1 << 32) / 1000:
        raise PgInvalid(f"limit {seconds} is not a positive number of seconds")
    return math.ceil(seconds * 1000)


def wire_imm(imm: int | None) -> int:
    """`imm` as the engine takes it; None is a write that the peer's engine does not see."""
    if imm is None:
        return NO_IMM
    if not 0 <= imm <= IMM_MAX:
        raise PgInvalid(f"immediate {imm:#x} has more than 30 bits")
    return imm


def fixed(value: str, size: int, what: str) -> bytes:
    """`value` for a char array of `size`."""
    encoded = value.encode()
    if len(encoded) >= size or b"\0" in encoded:
        raise PgInvalid(f"{what} {value!r} is not a name of up to {size - 1} bytes")
    return encoded
