"""What every transport promises about the ends of regions, peers and counters."""

import contextlib
import errno
import time

import numpy as np
import pytest
from meeting import IMM
from parties import DEADLINE_S

from pgctl.engine import PgBusy, PgCanceled, PgError, PgPeerDown, PgStale


def close(m, region):
    """As an owner does whose peers may be engines of the same thread."""

    def closed():
        with contextlib.suppress(PgBusy):
            region.close(0)
        return region.closed

    m.world.until(closed, "the revocation")


# ---- Regions


@pytest.mark.parametrize("nics", [1, 3])
def test_nobody_writes_to_a_region_that_is_closed(meet, place, mode, nics, path):  # noqa: ARG001
    """The memory stays the caller's, so that one can see that it does not change any more."""
    m = meet(place, progress=mode, nics=(nics, nics))
    memory = np.zeros(2 << 20, np.uint8)
    region = m.a.engine.reg_mr(memory)
    m.b.start_flow(region.desc, len(memory))
    m.world.until(memory.any, "the first write")
    desc = region.desc
    close(m, region)
    after = memory.copy()
    m.world.until(m.b.flow_ended, "the refusal")
    m.world.until(lambda: len(m.b.flow_ended()) >= 100, "more refusals")
    assert {type(error) for error in m.b.flow_ended()} == {PgStale}
    number, _ = m.b.alloc(8)
    late = None
    with contextlib.suppress(PgStale):
        late = m.b.submit_write(8, IMM, number, desc)
    if late is not None:
        m.world.until(lambda: m.b.status(late) is not None, "the end of a late write")
        assert m.b.status(late) == -errno.ESTALE
    m.world.finish(m.a.engine.fence(m.peer))
    assert np.array_equal(memory, after)
    assert m.a.value(IMM) == 0
    assert m.peer.info().up  # it has done nothing wrong


def test_engine_memory_that_is_closed_is_refused_likewise(meet, place):
    m = meet(place)
    number, desc = m.a.alloc(1 << 20)
    m.b.start_flow(desc, 1 << 20)
    m.world.until(lambda: any(m.a.read(number)), "the first write")
    close(m, m.a.regions[number])
    m.world.until(m.b.flow_ended, "the refusal")
    assert {type(error) for error in m.b.flow_ended()} == {PgStale}


@pytest.mark.hurts
def test_closing_waits_for_a_writer_that_is_stopped(meet, mode):
    m = meet("two processes", progress=mode)
    memory = np.zeros(1 << 20, np.uint8)
    region = m.a.engine.reg_mr(memory)
    m.b.start_flow(region.desc, len(memory))
    m.world.until(memory.any, "the first write")
    m.process.suspend()
    for _ in range(2):
        with pytest.raises(PgBusy, match=rf"{m.process.child.pid}.* may still write"):
            region.close(0.05)
    assert not region.closed
    m.process.resume()
    region.close(DEADLINE_S)
    after = memory.copy()
    m.world.until(m.b.flow_ended, "the refusal")
    assert isinstance(m.b.flow_ended()[0], PgStale)
    assert np.array_equal(memory, after)


@pytest.mark.hurts
def test_closing_does_not_wait_for_the_dead(meet, mode):
    m = meet("two processes", progress=mode)
    memory = np.zeros(1 << 20, np.uint8)
    region = m.a.engine.reg_mr(memory)
    m.b.start_flow(region.desc, len(memory))
    m.world.until(memory.any, "the first write")
    m.process.suspend()
    m.process.kill()
    region.close(DEADLINE_S)
    after = memory.copy()
    m.world.until(lambda: m.peer.info().status, "its death")
    assert np.array_equal(memory, after)


@pytest.mark.hurts
def test_a_region_that_its_writer_has_released_is_closed_without_it(meet, mode):
    m = meet("two processes", progress=mode)
    region = m.a.engine.reg_mr(np.zeros(4096, np.uint8))
    m.b.start_flow(region.desc, 4096)
    m.world.until(lambda: region.numpy().any(), "the first write")
    m.world.until(m.b.release_flow, "the end of its writes")
    m.world.fired(m.b, m.b.fence())  # it has said so before it asked this
    m.process.suspend()
    region.close(DEADLINE_S)
    assert region.closed


def test_a_forgotten_region_is_given_back_when_its_writers_have_left(meet, place):
    """Nobody waits when garbage is collected, so it is asked again later."""
    m = meet(place)
    memory = bytearray(4096)
    region = m.a.engine.reg_mr(memory)
    m.b.start_flow(region.desc, 4096)
    m.world.until(lambda: any(memory), "the first write")
    del region

    def free():
        m.a.engine.alloc_mr(8)
        try:
            memory.append(1)
        except BufferError:
            return False
        return True

    m.world.until(free, "the end of the region")
    m.world.until(m.b.flow_ended, "the refusal")


# ---- Peers


def test_both_sides_hear_of_each_other(meet, place, mode):
    m = meet(place, progress=mode)
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))
    ours, theirs = [], []
    m.world.until(lambda: ours.extend(m.a.news()) or ours, "peer_up here")
    m.world.until(lambda: theirs.extend(m.b.news()) or theirs, "peer_up there")
    assert ours == theirs == [("peer_up", 0, "")]
    m.b.close()
    m.world.until(lambda: ours.extend(m.a.news()) or len(ours) == 2, "peer_down")
    kind, who, why = ours[1]
    assert (kind, who) == ("peer_down", 0)
    assert "goodbye" in why
    assert m.peer.info().local


@pytest.mark.hurts
def test_a_stopped_peer_is_silent_and_a_killed_one_is_down(meet, mode):
    m = meet("two processes", progress=mode, heartbeat=0.05, silent=0.2)
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))
    news = []

    def heard(kind):
        news.extend(m.a.news())
        return news and news[-1][0] == kind

    m.world.until(lambda: heard("peer_up"), "peer_up")
    for _ in range(2):
        m.process.suspend()
        m.world.until(lambda: heard("peer_silent"), "peer_silent")
        info = m.peer.info()
        assert (info.up, info.responsive, info.status) == (True, False, 0)
        m.process.resume()
        m.world.until(lambda: heard("peer_up"), "peer_up again")
        assert m.peer.info().responsive
        m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))
    assert {kind for kind, _, _ in news} == {"peer_up", "peer_silent"}
    m.process.suspend()
    m.process.kill()
    m.world.until(lambda: heard("peer_down"), "peer_down")
    assert str(m.process.child.pid) in news[-1][2]
    m.world.until(lambda: not heard("") and not m.peer.info().up, "its end")
    assert news[-1][0] == "peer_down"


@pytest.mark.hurts
@pytest.mark.parametrize(
    ("place", "end"),
    [("one process", "closed"), ("two processes", "closed"), ("two processes", "killed")],
)
def test_a_peer_returns_as_another(meet, place, end):
    m = meet(place)
    src, (_, dst) = m.source(4096), m.sink(4096)
    m.world.finish(m.a.engine.submit_single_write(4096, IMM, src, dst))
    m.counted(1)
    old = m.peer.info().incarnation
    if end == "killed":
        m.process.kill()
    else:
        m.b.close()
    m.world.until(lambda: m.peer.info().status, "its end")
    home = m.world.process() if m.process else m.world
    config = {"transport": m.transport.name, "progress": "inline"}
    m.b = home.party(**config)
    m.a.know(m.b.address())
    m.b.know(m.a.address())
    again = m.a.peers[1]
    assert again != m.peer
    sink, fresh = m.sink(4096)
    m.world.finish(m.a.engine.submit_single_write(4096, IMM, src, fresh))
    m.counted(1)
    m.check(sink, src.numpy())
    assert again.info().incarnation != old
    assert not m.peer.info().up
    for stale in (
        lambda: m.a.engine.submit_single_write(8, IMM, src, dst),
        lambda: m.a.engine.submit_barrier(IMM, [m.peer]),
        lambda: m.a.engine.add_peer_group([m.peer, again], DEADLINE_S),
    ):
        with pytest.raises(PgPeerDown):
            stale()


# ---- Who writes


class Trio:
    """A party that two others, each of a process of its own, write to."""

    def __init__(self, world, transport, mode):
        self.world = world
        self.processes = [world.process() for _ in range(2)]
        self.here = world.party(transport=transport.name, progress=mode)
        self.writers = []
        for process in self.processes:
            writer = process.party(transport=transport.name, progress="inline")
            self.here.know(writer.address())
            writer.know(self.here.address())
            self.writers.append(writer)
            self.write(len(self.writers) - 1, IMM + 1)
        world.fired(self.here, self.here.expect(IMM + 1, 2))

    def write(self, who, imm=IMM):
        self.world.fired(self.writers[who], self.writers[who].submit_barrier(imm))

    def kill(self, who):
        """Returns once everything that ends with it has ended."""
        peer = self.here.peers[who]
        last = self.here.engine.expect_imm_count(IMM + 9, 1, from_=[peer])
        self.processes[who].kill()
        self.world.until(last.done, "its end")
        assert last.status == -errno.EHOSTDOWN


@pytest.fixture
def trio(world, transport, mode):
    return Trio(world, transport, mode)


@pytest.fixture(params=["peers", "peer group"])
def named(trio, request):
    if request.param == "peers":
        return trio.here.peers
    return trio.here.engine.add_peer_group(trio.here.peers, DEADLINE_S)


def test_the_death_of_a_writer_that_owes_ends_the_expectation(trio, named):
    counter = trio.here.engine.counter(IMM)
    op = counter.expect(4, from_=named)
    queued = trio.here.engine.expect_imm_count(IMM + 2, 2, from_=named, cookie="queued")
    trio.write(0)
    trio.world.until(lambda: counter.value == 1, "a barrier")
    assert not op.done()
    trio.kill(0)
    trio.world.until(op.done, "the end of the expectation")
    with pytest.raises(PgPeerDown, match=rf"4 writes .*{trio.processes[0].child.pid}"):
        op.wait()
    events = []
    trio.world.until(lambda: events.extend(trio.here.events("imm")) or events, "the event")
    assert (events[0].cookie, events[0].status) == ("queued", -errno.EHOSTDOWN)
    assert str(trio.processes[0].child.pid) in str(events[0].error)
    assert queued.status == -errno.EHOSTDOWN
    with pytest.raises(PgPeerDown):  # dead already
        counter.wait(2, DEADLINE_S, from_=named)


def test_the_death_of_a_writer_that_owes_nothing_does_not(trio, named):
    op = trio.here.engine.expect_imm_count(IMM, 3, from_=named, owes=[1, 2])
    trio.write(0)
    trio.world.until(lambda: trio.here.value(IMM) == 1, "a barrier")
    trio.kill(0)
    assert not op.done()
    trio.write(1)
    assert not op.done()
    trio.write(1)
    trio.world.finish(op)
    assert trio.here.value(IMM) == 0


def test_anybody_may_write_what_nobody_is_named_for(trio):
    op = trio.here.engine.expect_imm_count(IMM, 2)
    trio.kill(0)
    assert not op.done()
    for _ in range(2):
        trio.write(1)
    trio.world.finish(op)


def test_wrong_writers_are_refused(trio):
    engine, peers = trio.here.engine, trio.here.peers
    group = engine.add_peer_group(peers, DEADLINE_S)
    for message, writers in (
        ("3 writes cannot be shared by 2 peers evenly", {"from_": peers}),
        ("3 numbers of writes for 2 writers", {"from_": group, "owes": [1, 1, 1]}),
        ("owes without from_", {"owes": [3]}),
        ("no writers are named", {"from_": []}),
    ):
        with pytest.raises(PgError, match=message):
            engine.expect_imm_count(IMM, 3, **writers)
    with pytest.raises(PgError):
        engine.expect_imm_count(IMM, 3, from_=peers, owes=[1, 1])
    op = engine.expect_imm_count(IMM, 2, from_=group)
    with pytest.raises(PgBusy, match="use the peer group"):
        group.close()
    engine.counter(IMM).free()
    with pytest.raises(PgCanceled):
        op.wait(DEADLINE_S)
    group.close()
    group.close()
    with pytest.raises(PgStale):
        engine.expect_imm_count(IMM, 2, from_=group)
    with pytest.raises(PgStale):
        engine.submit_barrier(IMM, group)


def test_late_writes_of_a_freed_immediate_are_swallowed(meet, place):
    m = meet(place)
    counter = m.a.engine.counter(IMM)

    def write(n):
        for _ in range(n):
            m.world.fired(m.b, m.b.submit_barrier(IMM))
        m.world.fired(m.b, m.b.fence())

    write(2)
    m.world.until(lambda: counter.value == 2, "the barriers")
    counter.free()
    write(3)
    assert "3 late arrivals not counted" in m.a.engine.dump()
    assert counter.value == 0  # from here on it is of use again
    write(2)
    assert counter.value == 2
    counter.wait(2, DEADLINE_S)
    counter.free()
    op = counter.expect(1)
    write(1)
    m.world.finish(op)


def test_an_operation_fails_after_its_limit_whatever_it_does(meet):
    """To a peer that makes no progress; others are not concerned."""
    m = meet(op_limit=0.05)
    engine = m.a.engine
    short = engine.submit_barrier(IMM, [m.peer])
    long = engine.submit_barrier(IMM, [m.peer], limit=DEADLINE_S)
    end = time.monotonic() + DEADLINE_S
    while not short.done():
        assert time.monotonic() < end
    assert short.status == -errno.ETIMEDOUT
    assert not long.done()
    m.world.finish(long)
    m.counted(1)
