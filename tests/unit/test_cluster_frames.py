"""The bytes between a local rank and its launcher."""

import random

import pytest

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
