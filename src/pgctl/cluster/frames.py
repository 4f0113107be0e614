"""The bytes between a local rank and its launcher.

A frame is a 16-byte header (kind, the sender's timeout in milliseconds, length of the body) and
a body. The body of a RESULT is the payloads of all ranks, each behind its 8-byte length. All
numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pgctl.cluster.base import ClusterError

MAX_PAYLOAD = 64 << 20
"""Bytes that one rank may contribute to one allgather."""

_HEADER = struct.Struct("<BxxxIQ")
_LENGTH = struct.Struct("<Q")


class FrameError(ClusterError):
    """The bytes are not a frame."""


class Kind(IntEnum):
    # rank to launcher
    JOIN = 1
    ALLGATHER = 2
    BARRIER = 3
    ABORT = 4
    CRASH = 5
    # launcher to rank
    RESULT = 6
    TIMEOUT = 7

    @property
    def label(self) -> str:
        """The name of the call that sends this kind of frame."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    body: bytes = b""
    timeout_ms: int = 0


def encode(frame: Frame) -> bytes:
    return _HEADER.pack(frame.kind, frame.timeout_ms, len(frame.body)) + frame.body


def milliseconds(seconds: float) -> int:
    """`seconds` as a frame carries them: at least 1 ms, at most 49 days."""
    return min(max(int(seconds * 1000), 1), 2**32 - 1)


class Decoder:
    """Cuts a byte stream into frames. A FrameError leaves it unusable."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`; return the frames that it completes."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < _HEADER.size:
            return None
        number, timeout_ms, length = _HEADER.unpack_from(self._buffer)
        if length > self._max_body:
            raise FrameError(f"a frame of {length} bytes exceeds the limit of {self._max_body}")
        try:
            kind = Kind(number)
        except ValueError:
            raise FrameError(f"{number} is not a kind of frame") from None
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return Frame(kind, body, timeout_ms)


def max_result(ranks: int) -> int:
    """The longest body that a RESULT for so many ranks can have."""
    return ranks * (_LENGTH.size + MAX_PAYLOAD)


def pack(payloads: Iterable[bytes]) -> bytes:
    return b"".join(part for p in payloads for part in (_LENGTH.pack(len(p)), p))


def unpack(body: bytes) -> list[bytes]:
    payloads, at = [], 0
    while at < len(body):
        start = at + _LENGTH.size
        if start > len(body):
            raise FrameError(f"{len(body) - at} bytes are too few for a length")
        at = start + _LENGTH.unpack_from(body, start - _LENGTH.size)[0]
        if at > len(body):
            raise FrameError(f"a payload ends {at - len(body)} bytes behind its frame")
        payloads.append(body[start:at])
    return payloads
