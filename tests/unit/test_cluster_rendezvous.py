"""How the frames of all ranks become one result."""

import pytest

from pgctl.cluster.frames import Frame, FrameError, Kind, unpack
from pgctl.cluster.rendezvous import Rendezvous


def gather(payload, timeout_ms=1000):
    return Frame(Kind.ALLGATHER, payload, timeout_ms)


def test_the_last_rank_completes_a_call_and_the_next_one_starts_empty():
    meeting = Rendezvous(3)
    for _ in range(2):
        assert meeting.missing() == []
        assert meeting.arrive(2, gather(b"two"), now=0.0) is None
        assert meeting.arrive(0, gather(b""), now=0.0) is None
        assert meeting.missing() == [1]
        result = meeting.arrive(1, gather(b"one"), now=0.0)
        assert unpack(result.body) == [b"", b"one", b"two"]
        assert meeting.deadline == float("inf")


def test_the_rank_that_gives_up_first_sets_the_deadline():
    meeting = Rendezvous(3)
    meeting.arrive(0, gather(b"", 60_000), now=10.0)
    meeting.arrive(1, gather(b"", 2_000), now=11.0)
    assert (meeting.deadline, meeting.timeout_s) == (13.0, 2.0)


def test_ranks_must_agree_on_the_call():
    meeting = Rendezvous(3)
    meeting.arrive(0, gather(b""), now=0.0)
    with pytest.raises(FrameError, match="called barrier while others are in allgather"):
        meeting.arrive(1, Frame(Kind.BARRIER, timeout_ms=1), now=0.0)


def test_a_rank_arrives_once():
    meeting = Rendezvous(3)
    meeting.arrive(0, gather(b""), now=0.0)
    with pytest.raises(FrameError, match="called allgather before allgather was over"):
        meeting.arrive(0, gather(b""), now=0.0)
