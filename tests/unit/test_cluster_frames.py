"""The bytes between a local rank and its launcher."""

import contextlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.cluster.base import ClusterError
from pgctl.cluster.frames import (
    Decoder,
    Frame,
    FrameError,
    Kind,
    encode,
    milliseconds,
    pack,
    unpack,
)

FRAMES = [
    Frame(Kind.JOIN),
    Frame(Kind.ALLGATHER, b"abc", 60_000),
    Frame(Kind.BARRIER, timeout_ms=1),
    Frame(Kind.RESULT, bytes(100_000)),
    Frame(Kind.ABORT, "größer".encode()),
]


def test_frames_survive_any_cut_of_the_stream():
    stream = b"".join(map(encode, FRAMES))
    seed = random.randrange(2**32)
    cuts = random.Random(seed)
    decoder, frames, at = Decoder(100_000), [], 0
    while at < len(stream):
        size = cuts.choice([1, 7, 16, 17, 30_000])
        frames += decoder.feed(stream[at : at + size])
        at += size
    assert frames == FRAMES, f"seed {seed}"


def test_nothing_is_delivered_before_it_is_whole():
    data = encode(Frame(Kind.ALLGATHER, b"payload", 5))
    decoder = Decoder(7)
    assert decoder.feed(data[:-1]) == []
    assert decoder.feed(data[-1:]) == [Frame(Kind.ALLGATHER, b"payload", 5)]


def test_a_length_above_the_limit_is_refused_before_the_body_comes():
    header = encode(Frame(Kind.ALLGATHER, bytes(8)))[:16]
    with pytest.raises(FrameError, match="a frame of 8 bytes exceeds the limit of 7"):
        Decoder(7).feed(header)


@pytest.mark.parametrize("kind", [0, 8, 255])
def test_an_unknown_kind_is_refused(kind):
    data = bytes([kind]) + encode(Frame(Kind.JOIN))[1:]
    with pytest.raises(ClusterError, match=f"{kind} is not a kind of frame"):
        Decoder(7).feed(data)


@pytest.mark.parametrize("payloads", [[], [b""], [b"", b"x", b"", b"yz"], [bytes(1 << 20), b"!"]])
def test_packed_payloads_come_out_as_they_went_in(payloads):
    assert unpack(pack(payloads)) == payloads


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 11])
def test_cut_payloads_are_refused(cut):
    with pytest.raises(FrameError):
        unpack(pack([b"", b"1234"])[: -cut if cut < 11 else 1])


@pytest.mark.parametrize(
    ("seconds", "carried"), [(60, 60_000), (1e-9, 1), (0.25, 250), (1e12, 2**32 - 1)]
)
def test_a_timeout_fits_its_field(seconds, carried):
    assert milliseconds(seconds) == carried


LIMIT = 40
HEADERS = st.builds(
    lambda kind, pad, timeout_ms, more, body: (
        bytes([kind])
        + pad
        + timeout_ms.to_bytes(4, "little")
        + (len(body) + more).to_bytes(8, "little")
        + body
    ),
    st.integers(0, 9),
    st.binary(min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0, 0, 1, 2**63]),
    st.binary(max_size=8) | st.binary(min_size=LIMIT - 1, max_size=LIMIT + 1),
)
STREAMS = st.lists(HEADERS | st.binary(max_size=20), max_size=6).map(b"".join)
"""Bytes that may be frames, of somebody who keeps to nothing."""


def decoded(chunks: list[bytes]) -> tuple[list[Frame], str]:
    """The frames before the first error, and what that says."""
    decoder, frames = Decoder(LIMIT), []
    try:
        for chunk in chunks:
            frames += decoder.feed(chunk)
    except FrameError as error:
        return frames, str(error)
    return frames, ""


@given(STREAMS, st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_are_frames_within_the_limit_or_an_error_however_they_are_cut(stream, cuts):
    ends = sorted({min(cut, len(stream)) for cut in [*cuts, 0, len(stream)]})
    by_byte, error = decoded([bytes([byte]) for byte in stream])
    frames, said = decoded([stream[a:b] for a, b in itertools.pairwise(ends)])
    assert said == error
    assert frames == by_byte[: len(frames)]
    assert said or frames == by_byte
    assert all(len(frame.body) <= LIMIT for frame in by_byte)
    if not error:
        assert decoded([b"".join(map(encode, by_byte))]) == (by_byte, "")


PACKED = st.lists(st.binary(max_size=9), max_size=5).map(pack)
CUT = st.builds(lambda body, cut: body[: len(body) - cut], PACKED, st.integers(0, 3))


@given(st.binary(max_size=80) | CUT)
def test_any_body_is_payloads_that_pack_to_it_or_an_error(body):
    with contextlib.suppress(FrameError):
        assert pack(unpack(body)) == body
