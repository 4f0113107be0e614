"""What every transport promises.

A capability that it declares works; one that it does not declare is refused as documented.
"""

import contextlib
import errno
import re
import threading
import zlib

import numpy as np
import pytest
from meeting import IMM
from parties import pattern

from pgctl.engine import (
    Barrier,
    NicConfig,
    PagedWrites,
    Pages,
    PgAgain,
    PgBusy,
    PgCanceled,
    PgError,
    PgInvalid,
    PgPeerDown,
    PgShutdown,
    PgStale,
    PgTimeout,
    PgUnsupported,
    Scatter,
    Send,
    Slice,
    Write,
    log_to,
)

NICS = [(1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (4, 2), (3, 1), (2, 3)]
KINDS = ["engine", "numpy", "bytearray"]
IMPAIRMENTS = {
    "none": "none",
    "late": "delay=30us,jitter=30us",
    "reorder": "reorder=16,jitter=50us",
}
"""What goes wrong must not show: work requests end later, in order or not."""


def edge_sizes(caps):
    """Around everything that changes how a write goes."""
    edges = {caps.split_min, 4 * caps.split_min, min(caps.max_write, 1 << 22)}
    around = {edge + by for edge in edges for by in (-1, 0, 1)}
    return sorted(around | {1, 7, 8, 64, 4096, 3 * min(caps.max_write, 1 << 20) + 5})


# ---- Single writes


@pytest.mark.parametrize("nics", NICS, ids=lambda n: f"{n[0]}x{n[1]}")
def test_writes_of_every_size_land_whole_and_count_one(meet, place, nics):
    m = meet(place, nics=nics)
    sizes = edge_sizes(m.caps)
    gap = 64
    span = sum(sizes) + gap * len(sizes)
    src, (sink, dst) = m.source(span), m.sink(span)
    expected, at, ops = bytearray(span), 3, []
    for size in sizes:
        ops.append(m.a.engine.submit_single_write(size, IMM, (src, at - 3), (dst, at)))
        expected[at : at + size] = src.numpy()[at - 3 : at - 3 + size].tobytes()
        at += size + gap - 3
    m.world.finish(*ops)
    m.counted(len(sizes))
    m.check(sink, expected)


@pytest.mark.parametrize("nics", [(1, 1), (4, 4), (3, 2)], ids=lambda n: f"{n[0]}x{n[1]}")
def test_concurrent_writes_count_exactly(meet, mode, place, nics):
    m = meet(place, nics=nics, progress=mode)
    size, n = m.caps.split_min + 100, 24
    src, (sink, dst) = m.source(size * n), m.sink(size * n)
    fired = m.b.expect(IMM, n)
    ops = [
        m.a.engine.submit_single_write(size, IMM, (src, i * size), (dst, i * size))
        for i in range(n)
    ]
    m.world.finish(*ops)
    m.world.fired(m.b, fired)
    assert m.b.value(IMM) == 0
    m.check(sink, src.numpy())


def test_a_write_without_immediate_is_invisible(meet, mode):
    m = meet("two processes", progress=mode)
    src, (sink, dst) = m.source(1000), m.sink(1000)
    m.world.finish(m.a.engine.submit_single_write(1000, None, src, dst))
    m.world.until(lambda: m.b.read(sink) == src.numpy().tobytes(), "the payload")
    assert m.b.imms_in() == 0
    assert m.b.messages() == []


def test_an_mr_desc_is_a_destination_by_itself(meet):
    m = meet()
    src, (sink, desc) = m.source(64), m.b.alloc(64)
    for _ in range(2):
        m.world.finish(m.a.engine.submit_single_write(64, IMM, src, desc))
    m.counted(2)
    m.check(sink, src.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_registered_memory_on_both_sides(meet, place, kind):
    m = meet(place)
    sizes = [1, 4096, m.caps.split_min, 300_001]
    src, (sink, dst) = m.source(sum(sizes), kind=kind), m.sink(sum(sizes), kind)
    starts = np.cumsum([0, *sizes])
    m.world.finish(
        *(
            m.a.engine.submit_single_write(size, IMM, (src, int(at)), (dst, int(at)))
            for size, at in zip(sizes, starts, strict=False)
        )
    )
    m.counted(len(sizes))
    m.check(sink, src.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_registered_memory_through_a_bounce_buffer(meet, monkeypatch, kind):
    monkeypatch.setenv("PGCTL_SHM_CMA", "0")  # read by every engine, obeyed by shm
    m = meet("two processes", nics=(2, 3))
    size = 3 << 20
    src, (sink, dst) = m.source(size, kind=kind), m.sink(size, kind)
    m.world.finish(m.a.engine.submit_single_write(size, IMM, src, dst))
    m.counted(1)
    m.check(sink, src.numpy())
    assert m.a.path()


def test_engine_memory_is_mapped_if_declared(meet):
    m = meet("two processes")
    _, engine_memory = m.sink(4096)
    _, other_memory = m.sink(4096, "numpy")
    if m.caps.maps_peer:
        assert engine_memory.map(30)
    else:
        with pytest.raises(PgUnsupported):
            engine_memory.map(30)
    with pytest.raises(PgUnsupported):
        other_memory.map(30)


# ---- Pages


@pytest.mark.parametrize("nics", [(1, 1), (4, 4), (2, 3)], ids=lambda n: f"{n[0]}x{n[1]}")
@pytest.mark.parametrize("page", [1, 100, 4096])
def test_pages_with_strides_and_permuted_indices(meet, place, nics, page):
    m = meet(place, nics=nics)
    n, rng = 300, np.random.default_rng(page)
    src_stride, dst_stride = page + 28, page + 60
    src = m.source(n * src_stride + 5)
    sink, dst = m.sink(n * dst_stride + 9)
    from_, to = (rng.permutation(n).astype(np.uint32) for _ in range(2))
    from_[1] = from_[0]  # a source page may be used twice
    op = m.a.engine.submit_paged_writes(
        page, IMM, Pages(src, from_, src_stride, 5), Pages(dst, to, dst_stride, 9)
    )
    expected = np.zeros(n * dst_stride + 9, np.uint8)
    for i, j in zip(from_.astype(int), to.astype(int), strict=True):
        at = 5 + i * src_stride
        expected[9 + j * dst_stride :][:page] = src.numpy()[at : at + page]
    m.world.finish(op)
    m.counted(n)
    m.check(sink, expected)


def test_large_pages_are_cut_at_the_write_limit(meet):
    m = meet(nics=(2, 2))
    page = min(m.caps.max_write, 1 << 20) * 2 + 12
    src, (sink, dst) = m.source(3 * page), m.sink(3 * page)
    order = np.array([2, 0, 1], np.uint32)
    here = np.arange(3, dtype=np.uint32)
    m.world.finish(m.a.engine.submit_paged_writes(page, IMM, Pages(src, order), Pages(dst, here)))
    m.counted(3)
    m.check(sink, src.numpy().reshape(3, page)[order].ravel())


def test_pages_without_immediate_count_nothing(meet):
    m = meet()
    src, (sink, dst) = m.source(4096), m.sink(4096)
    pages = np.arange(4, dtype=np.uint32)
    m.world.finish(m.a.engine.submit_paged_writes(1024, None, Pages(src, pages), Pages(dst, pages)))
    m.world.until(lambda: m.b.read(sink) == src.numpy().tobytes(), "the payload")
    assert m.b.imms_in() == 0


# ---- Several peers


class Star:
    """A party, and others that it knows."""

    def __init__(self, world, transport, n, nics=1):
        self.hub = world.party(transport=transport.name, progress="inline", nics=nics)
        self.others = [world.party(transport=transport.name, progress="inline") for _ in range(n)]
        for other in self.others:
            self.hub.know(other.address())
            other.know(self.hub.address())


@pytest.mark.parametrize("spread", ["bytes", "peer", "one"])
def test_a_scatter_gives_every_peer_its_slice(world, transport, spread):
    star = Star(world, transport, 3, nics=2)
    sizes = [100, transport.caps.split_min + 1, 4096]
    src = star.hub.regions[star.hub.alloc(sum(sizes))[0]]
    src.numpy()[:] = pattern(len(src))
    slices, at = [], 0
    for other, size in zip(star.others, sizes, strict=True):
        _, desc = other.alloc(size + 10)
        slices.append(Slice(size, at, desc, 10))
        at += size
    op = star.hub.engine.submit_scatter(IMM, src, slices, spread)
    world.finish(op)
    assert op.statuses == [0, 0, 0]
    for other, piece in zip(star.others, slices, strict=True):
        world.fired(other, other.expect(IMM, 1))
        payload = src.numpy()[piece.src_offset :][: piece.length].tobytes()
        assert other.read(0) == bytes(10) + payload
        assert other.value(IMM) == 0


def test_several_slices_for_one_peer(meet):
    m = meet("two processes")
    src, (sink, dst) = m.source(5000), m.sink(5000)
    slices = [Slice(50, i * 50, dst, 4950 - i * 50) for i in range(100)]
    m.world.finish(m.a.engine.submit_scatter(IMM, src, slices))
    m.counted(100)
    m.check(sink, src.numpy().reshape(100, 50)[::-1].ravel())


@pytest.mark.parametrize("nics", [1, 3])
def test_a_barrier_among_four(world, transport, nics):
    parties = [
        world.party(transport=transport.name, progress="inline", nics=nics) for _ in range(4)
    ]
    for party in parties:
        for other in parties:
            if other is not party:
                party.know(other.address())
    for imm in (IMM, IMM + 1, IMM):
        expected = [party.expect(imm, 3) for party in parties]
        for i, party in enumerate(parties):
            assert party.status(expected[i]) is None or i == len(parties) - 1
            party.submit_barrier(imm)
        for party, expectation in zip(parties, expected, strict=True):
            world.fired(party, expectation)
            assert party.value(imm) == 0


def test_a_barrier_between_processes(meet, mode):
    m = meet("two processes", progress=mode)
    for _ in range(20):
        mine, theirs = m.a.expect(IMM, 1), m.b.expect(IMM, 1)
        m.b.submit_barrier(IMM)
        op = m.a.engine.submit_barrier(IMM, [m.peer])
        m.world.finish(op)
        assert op.statuses == [0]
        m.world.fired(m.a, mine)
        m.world.fired(m.b, theirs)


# ---- Messages


def test_messages_arrive_whole_and_once_in_any_order(meet, place, mode):
    m = meet(place, progress=mode)
    top = m.a.engine.limits().max_msg
    lengths = [1, 2, top, top - 1, *range(3, 303)]
    sent = [pattern(length, seed).tobytes() for seed, length in enumerate(lengths)]
    m.b.post_receives(top, 16)
    ops = [m.a.engine.submit_send(m.peer, data, block=True) for data in sent]
    assert sorted(m.receive(len(sent))) == sorted(sent)
    m.world.finish(*ops)


def test_messages_wait_for_the_pool(meet, place):
    m = meet(place)
    sent = [pattern(100, seed).tobytes() for seed in range(200)]
    ops = [m.a.engine.submit_send(m.peer, data) for data in sent]
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))  # other traffic does not wait
    m.counted(1)
    assert m.b.messages() == []
    arrived = []
    for n in (50, len(sent)):
        m.b.post_receives(100, 25)  # each is used again once its message was taken
        arrived += m.receive(n - len(arrived))
    m.world.finish(*ops)
    assert sorted(arrived) == sorted(sent)


def test_a_message_longer_than_its_buffer_arrives_cut(meet):
    m = meet()
    m.b.post_receives(10, 2)
    m.world.finish(m.a.engine.submit_send(m.peer, b"x" * 11))
    assert isinstance(m.receive(1)[0], PgInvalid)
    m.world.finish(m.a.engine.submit_send(m.peer, b"y" * 10))
    assert m.receive(1) == [b"y" * 10]


def test_recv_names_the_sender_so_that_one_can_answer(meet):
    m = meet(progress="worker")
    a, b = m.a.engine, m.b.engine
    for engine in (a, b):
        engine.submit_recvs(64, 4)
    a.submit_send(m.peer, b"question").wait(30)
    peer, data = b.recv(30)
    assert data == b"question"
    assert peer == m.b.peers[0]
    b.submit_send(peer, b"answer").wait(30)
    assert a.recv(30) == (m.peer, b"answer")
    with pytest.raises(PgTimeout, match="no message after 0 s"):
        a.recv(0)


@pytest.mark.parametrize("length", [0, 1])
def test_a_message_of_a_wrong_size_is_refused(meet, length):
    m = meet()
    data = bytes(length and m.a.engine.limits().max_msg + length)
    with pytest.raises(PgInvalid, match=f"a message of {len(data)} bytes"):
        m.a.engine.submit_send(m.peer, data)


# ---- Batches, and room


def test_a_batch_of_everything(meet, place):
    m = meet(place)
    src, (sink, dst) = m.source(4096), m.sink(4096)
    m.b.post_receives(64, 1)
    pages = np.array([1, 0], np.uint32)
    ops = m.a.engine.submit_batch(
        [
            Write(1024, IMM, src, dst),
            PagedWrites(512, IMM, Pages(src, pages, offset=1024), Pages(dst, pages, offset=1024)),
            Scatter(IMM, src, [Slice(1000, 2048, dst, 2048), Slice(1048, 3048, dst, 3048)]),
            Barrier(IMM, [m.peer]),
            Send(m.peer, b"hello"),
        ]
    )
    assert len(ops) == 5
    m.world.finish(*ops)
    m.counted(1 + 2 + 2 + 1)
    m.check(sink, src.numpy())
    assert m.receive(1) == [b"hello"]


def test_a_batch_stops_before_what_cannot_be_done(meet):
    m = meet()
    src, (_, dst) = m.source(64), m.sink(64)
    good, bad = Write(64, IMM, src, dst), Write(65, IMM, src, dst)
    ops = m.a.engine.submit_batch([good, good, bad, good])
    assert len(ops) == 2
    m.world.finish(*ops)
    m.counted(2)
    with pytest.raises(PgInvalid, match="65 bytes is past the end of a region of 64"):
        m.a.engine.submit_batch([bad, good])
    assert m.a.engine.submit_batch([]) == []


def test_prepared_work_can_be_submitted_again(meet):
    m = meet()
    src, (_, dst) = m.source(64), m.sink(64)
    work = Write(64, IMM, src, dst)
    m.world.finish(*(m.a.engine.submit(work) for _ in range(5)))
    m.counted(5)


def test_no_room_is_told_and_can_be_waited_for(meet):
    m = meet(max_ops=8, progress="worker")
    src, (_, dst) = m.source(8), m.sink(8)
    stopped = meet(max_ops=8)  # nobody makes progress at its other end
    one = Barrier(IMM, [stopped.peer])
    ops = stopped.a.engine.submit_batch([one] * 9)
    assert 0 < len(ops) < 9
    for submit in (stopped.a.engine.submit, lambda work: stopped.a.engine.submit_batch([work])):
        with pytest.raises(PgAgain, match="8 operations are in flight; no room for more"):
            submit(one)
    batch = m.a.engine.submit_batch([Write(8, IMM, src, dst)] * 100, block=True)
    assert len(batch) == 100
    batch += [m.a.engine.submit_single_write(8, IMM, src, dst, block=True) for _ in range(100)]
    m.world.finish(*batch)
    m.counted(200)
    m.world.finish(*ops)
    stopped.counted(len(ops))


# ---- Expectations


def test_an_expectation_fires_once_and_subtracts(meet):
    m = meet()
    counter = m.b.engine.counter(IMM)

    def barriers(n):
        m.world.finish(*(m.a.engine.submit_barrier(IMM, [m.peer]) for _ in range(n)))

    early = counter.expect(3)
    with pytest.raises(PgBusy):
        counter.expect(1)
    barriers(2)
    m.world.until(lambda: counter.value == 2, "a barrier")
    assert not early.done()
    barriers(3)
    m.world.finish(early)
    m.world.until(lambda: counter.value == 2, "a barrier")
    late = counter.expect(2)
    assert late.done()
    assert counter.value == 0
    canceled = counter.expect(1)
    barriers(1)
    m.world.finish(canceled)
    last = counter.expect(1)
    counter.free()
    counter.free()
    with pytest.raises(PgCanceled, match=f"1 writes with immediate {IMM:#x}: canceled"):
        last.wait(30)
    assert counter.value == 0


def test_a_wait_that_ran_out_goes_on_with_its_expectation(meet):
    m = meet()
    counter = m.b.engine.counter(IMM)
    with pytest.raises(PgTimeout, match=f"0 of 2 writes with immediate {IMM:#x} have arrived"):
        counter.wait(2, 0)
    with pytest.raises(PgBusy, match="2 writes with immediate"):
        counter.wait(1, 0)
    m.world.finish(*(m.a.engine.submit_barrier(IMM, [m.peer]) for _ in range(5)))
    m.world.until(lambda: counter.value == 3, "the expectation")
    counter.wait(2, 0)
    counter.wait(3, 0)
    assert counter.value == 0


def test_immediates_do_not_mix(meet):
    m = meet()
    imms = [0, 1, 0x3FFFFFFF, IMM]
    for i, imm in enumerate(imms):
        m.world.finish(*(m.a.engine.submit_barrier(imm, [m.peer]) for _ in range(i + 1)))
    for i, imm in enumerate(imms):
        m.counted(i + 1, imm)


# ---- Events


def test_the_end_is_told_on_the_queue_with_its_cookie(meet):
    m = meet()
    src, (_, dst) = m.source(64), m.sink(64)
    cookies = [("any", "thing"), object(), 7]
    expected = m.b.engine.expect_imm_count(IMM, 3, cookie="arrived")
    op = m.a.engine.submit_single_write(64, IMM, src, dst, cookie=cookies[0])
    with pytest.raises(PgInvalid, match="ends on the event queue"):
        op.wait(0)
    m.a.engine.submit_batch([Write(64, IMM, src, dst), Barrier(IMM, [m.peer])], cookies=cookies[1:])
    events, fired = [], []
    m.world.until(lambda: events.extend(m.a.events("op")) or len(events) == 3, "an event")
    m.world.until(lambda: fired.extend(m.b.events("imm")) or fired, "an event")
    assert {event.cookie for event in events} == set(cookies)
    assert all(event.error is None and event.imm == IMM for event in events)
    assert (op.status, expected.status) == (0, 0)
    assert [(event.kind, event.cookie, event.imm) for event in fired] == [("imm", "arrived", IMM)]
    assert m.a.engine.wait_events(0) == []
    assert [event.kind for event in m.a.seen] == ["peer_up"]


# ---- Progress


def test_an_inline_wait_makes_progress(meet):
    m = meet("two processes")
    src, (_, dst) = m.source(1 << 20), m.sink(1 << 20)
    for _ in range(3):
        m.a.engine.submit_single_write(1 << 20, IMM, src, dst).wait(30)
    m.counted(3)


def test_limits_say_what_is_in_force(meet, transport, mode):
    limits = meet(progress=mode, nics=(3, 1)).a.engine.limits()
    assert (limits.transport, limits.progress, limits.n_domains) == (transport.name, mode, 3)
    caps = transport.caps
    assert (limits.max_write, limits.max_msg) == (caps.max_write, caps.max_msg)
    assert (limits.split_min, limits.imm_bits) == (caps.split_min, 30)


def test_every_nic_carries_its_part(meet):
    m = meet(nics=(4, 4))
    size = 8 * m.caps.split_min
    src, (_, dst) = m.source(size), m.sink(size)
    m.world.finish(m.a.engine.submit_single_write(size, IMM, src, dst))
    m.counted(1)
    carried = [nic.bytes_out for nic in m.a.engine.stats()]
    assert sum(carried) == size
    assert all(carried)


# ---- What is wrong


@pytest.mark.parametrize(
    ("length", "src_offset", "dst_offset", "message"),
    [
        (0, 0, 0, "a write of 0 bytes"),
        (101, 0, 0, "source offset 0 . 101 bytes is past the end of a region of 100"),
        (60, 41, 0, "source offset 41 . 60 bytes is past the end"),
        (100, 0, 1, "destination offset 1 . 100 bytes is past the end of a region of 100"),
        (1, 2**64 - 1, 0, "source offset 18446744073709551615 . 1 bytes is past the end"),
        (2**64 - 1, 0, 0, "18446744073709551615 bytes is past the end"),
        (-1, 0, 0, "length -1 is not a number from 0 to 2.64 - 1"),
        (2**64, 0, 0, "length 18446744073709551616 is not a number"),
        (1, -1, 0, "source offset -1 is not a number"),
        (1, 0, 2**70, "destination offset 1180591620717411303424 is not a number"),
    ],
)
def test_a_write_out_of_bounds_is_refused(meet, length, src_offset, dst_offset, message):
    m = meet()
    src, (_, dst) = m.source(100), m.sink(100)
    with pytest.raises(PgInvalid, match=message):
        m.a.engine.submit_single_write(length, IMM, (src, src_offset), (dst, dst_offset))
    with pytest.raises(PgInvalid, match=message):
        m.a.engine.submit_scatter(IMM, src, [Slice(length, src_offset, dst, dst_offset)])


@pytest.mark.parametrize(
    ("src", "dst", "page", "message"),
    [
        ([3], [4], 25, "destination page index 4 .* is past the end of a region of 100"),
        ([4], [3], 25, "source page index 4 .* is past the end of a region of 100"),
        ([2**32 - 1], [0], 25, "source page index 4294967295"),
        ([0, 1], [0], 25, "2 source pages for 1 destination pages"),
        ([], [], 25, "0 pages"),
        ([0], [0], 0, "pages of 0 bytes"),
        ([0], [0], 101, "source page index 0 .* is past the end"),
        ([0], [0], -1, "page length -1 is not a number"),
    ],
)
def test_pages_out_of_bounds_are_refused(meet, src, dst, page, message):
    m = meet()
    region, (_, remote) = m.source(100), m.sink(100)
    src_pages = Pages(region, np.array(src, np.uint32))
    dst_pages = Pages(remote, np.array(dst, np.uint32))
    with pytest.raises(PgInvalid, match=message):
        m.a.engine.submit_paged_writes(page, IMM, src_pages, dst_pages)


@pytest.mark.parametrize("stride", [2**64 - 1, 2**63])
def test_strides_that_overflow_are_refused(meet, stride):
    m = meet()
    region, (_, remote) = m.source(100), m.sink(100)
    pages = np.array([0, 2], np.uint32)
    with pytest.raises(PgInvalid, match="source page index 2"):
        m.a.engine.submit_paged_writes(1, IMM, Pages(region, pages, stride), Pages(remote, pages))


@pytest.mark.parametrize("imm", [0x40000000, 0xFFFFFFFF, 1 << 40, -1])
def test_an_immediate_over_30_bits_is_refused(meet, imm):
    m = meet()
    src, (_, dst) = m.source(8), m.sink(8)
    submissions = [
        lambda: m.a.engine.submit_single_write(8, imm, src, dst),
        lambda: m.a.engine.submit_scatter(imm, src, [Slice(8, 0, dst)]),
        lambda: m.a.engine.submit_barrier(imm, [m.peer]),
        lambda: m.b.engine.expect_imm_count(imm, 1),
        lambda: m.b.engine.counter(imm),
    ]
    for submit in submissions:
        with pytest.raises(PgInvalid, match=f"immediate {imm:#x}"):
            submit()


def test_regions_that_are_gone_are_refused(meet):
    m = meet()
    src, (_, dst) = m.source(8), m.sink(8)
    work = Write(8, IMM, src, dst)
    src.close()
    src.close()
    with pytest.raises(PgStale, match=r"source region .* has been unregistered"):
        m.a.engine.submit_single_write(8, IMM, src, dst)
    with pytest.raises(PgStale):
        m.a.engine.submit(work)
    src = m.source(8)
    dst.close()
    dst.close()
    with pytest.raises(PgStale, match="destination region"):
        m.a.engine.submit_single_write(8, IMM, src, dst)


def test_a_region_that_its_owner_closed_is_refused_or_reported(meet):
    m = meet()
    src, (sink, dst) = m.source(8), m.sink(8)
    m.b.forget(sink)
    op = m.a.engine.submit_single_write(8, IMM, src, dst)
    m.world.until(op.done)
    if m.caps.maps_peer:  # it is asked for before it is used
        with pytest.raises(PgStale):
            op.wait()


def test_what_belongs_to_another_engine_is_refused(meet):
    m, other = meet(), meet()
    src, (_, dst) = m.source(8), m.sink(8)
    other_src, (_, other_dst) = other.source(8), other.sink(8)
    for wrong in (
        lambda: m.a.engine.submit_single_write(8, IMM, src, other_dst),
        lambda: m.a.engine.submit_single_write(8, IMM, other_src, other_dst),
        lambda: m.a.engine.submit(Write(8, IMM, other_src, other_dst)),
        lambda: m.a.engine.submit_barrier(IMM, [m.peer, other.peer]),
        lambda: m.a.engine.submit_batch(
            [Write(8, IMM, src, dst), Write(8, IMM, other_src, other_dst)]
        ),
    ):
        with pytest.raises(PgInvalid, match="belongs to another engine"):
            wrong()


def test_an_unknown_owner_is_refused(meet):
    m, other = meet(), meet()
    _, desc = other.b.alloc(8)
    with pytest.raises(PgInvalid, match="add its address first"):
        m.a.engine.import_mr(desc)


# ---- Death


@pytest.mark.hurts
def test_a_dead_peer_fails_what_is_in_flight_and_is_named(meet, mode):
    m = meet("two processes", progress=mode)
    src, (_, dst) = m.source(1 << 20), m.sink(1 << 20)
    m.world.finish(m.a.engine.submit_single_write(1 << 20, IMM, src, dst))
    m.process.suspend()  # so that something stays in flight
    ops = [m.a.engine.submit_send(m.peer, b"into the void") for _ in range(2000)]
    m.process.kill()
    for op in ops:
        m.world.until(op.done, "the end of a message")
    m.world.until(lambda: m.peer.info().status, "its death")
    assert ops[-1].status
    with pytest.raises(PgPeerDown, match=rf"message of 13 bytes: peer .*{m.process.child.pid}"):
        ops[-1].wait()
    for submit in (
        lambda: m.a.engine.submit_send(m.peer, b"x"),
        lambda: m.a.engine.submit_barrier(IMM, [m.peer]),
    ):
        with pytest.raises(PgPeerDown, match=str(m.process.child.pid)):
            submit()
    late = None
    with contextlib.suppress(PgPeerDown):
        late = m.a.engine.submit_single_write(8, IMM, src, dst)
    if late:
        with pytest.raises(PgPeerDown, match=str(m.process.child.pid)):
            late.wait(30)
    assert not m.peer.info().up
    src.close(30)
    dst.close()


@pytest.mark.hurts
def test_a_scatter_says_which_destination_failed(meet, world, transport):
    m = meet("two processes")
    living = world.party(transport=transport.name, progress="inline")
    m.a.know(living.address())
    living.know(m.a.address())
    src, (_, dead) = m.source(16), m.sink(8)
    sink, desc = living.alloc(8)
    m.a.engine.connect(m.peer, 30)
    m.process.kill()
    op = m.a.engine.submit_scatter(IMM, src, [Slice(8, 0, dead), Slice(8, 8, desc)])
    m.world.until(op.done, "the scatter")
    world.fired(living, living.expect(IMM, 1))
    assert living.read(sink) == src.numpy()[8:].tobytes()
    assert op.statuses[1] == 0
    assert op.status == op.statuses[0] < 0
    assert isinstance(op.error, PgPeerDown)


@pytest.mark.hurts
def test_a_peer_that_never_was_fails_and_does_not_hang(meet):
    m = meet("two processes")
    m.process.kill()
    with pytest.raises(PgPeerDown):
        m.a.engine.connect(m.peer, 30)
    with pytest.raises(PgPeerDown):
        m.a.engine.submit_barrier(IMM, [m.peer])


def test_a_peer_that_says_goodbye(meet, place):
    m = meet(place)
    src, (_, dst) = m.source(8), m.sink(8)
    m.world.finish(m.a.engine.submit_single_write(8, IMM, src, dst))
    m.b.close()
    m.world.until(lambda: m.peer.info().status, "the goodbye")
    with pytest.raises(PgPeerDown, match="goodbye"):
        m.a.engine.submit_barrier(IMM, [m.peer])


def test_closing_ends_what_is_in_flight(meet):
    m = meet()
    op = m.a.engine.submit_barrier(IMM, [m.peer])  # nobody makes progress at the other end
    expected = m.a.engine.expect_imm_count(IMM, 1)
    queued = m.a.engine.submit_barrier(IMM, [m.peer], cookie=1)
    m.a.engine.close()
    for each in (op, expected):
        with pytest.raises(PgShutdown):
            each.wait(30)
    assert queued.status == -errno.ESHUTDOWN


# ---- Fences, visibility


@pytest.mark.parametrize("kind", ["engine", "numpy"])
def test_nothing_lands_after_a_fence(meet, mode, kind, path):  # noqa: ARG001
    """Bytes that nobody counts are there once it has ended, and change no more."""
    m = meet("two processes", progress=mode, nics=(2, 3))
    size, n = 300_000, 8
    src, (sink, dst) = m.source(size * n), m.sink(size * n, kind)
    for i in range(n):
        m.a.engine.submit_single_write(size, None, (src, i * size), (dst, i * size))
    m.world.finish(m.a.engine.fence(m.peer))
    m.check(sink, src.numpy())
    assert m.b.imms_in() == 0


def test_fences_of_a_peer_that_has_nothing(meet, place):
    m = meet(place)
    m.world.finish(m.a.engine.fence(m.peer))  # which is not even connected
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]), *(m.a.engine.fence(m.peer),) * 2)
    m.counted(1)


@pytest.mark.hurts
def test_a_fence_of_the_dead_ends_well(meet, mode):
    m = meet("two processes", progress=mode)
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))
    m.process.suspend()
    asked = m.a.engine.fence(m.peer)
    assert not asked.done()
    m.process.kill()
    m.world.finish(asked)
    m.world.until(lambda: m.peer.info().status, "its death")
    m.world.finish(m.a.engine.fence(m.peer))


@pytest.mark.parametrize("kind", ["engine", "numpy"])
def test_what_is_remote_visible_does_not_end_before(meet, kind, path):  # noqa: ARG001
    """Not while the peer makes no progress that it takes to have the bytes there."""
    m = meet("two processes")
    size = 5000  # what fits between the processes
    src, (sink, dst) = m.source(size, kind=kind), m.sink(size, kind)
    m.world.finish(m.a.engine.submit_single_write(1, None, src, dst), m.a.engine.fence(m.peer))
    m.b.rest()
    op = m.a.engine.submit_single_write(size, None, src, dst, remote_visible=True)
    for _ in range(100):
        m.a.progress()
    ended = op.seen()
    assert m.b.read(sink) == src.numpy().tobytes() or not ended
    m.b.rest(False)
    m.world.finish(op)
    m.check(sink, src.numpy())


@pytest.mark.parametrize("kind", ["engine", "numpy"])
def test_what_is_remote_visible_is_there_at_its_end(meet, mode, kind, path):  # noqa: ARG001
    m = meet("two processes", progress=mode, nics=(2, 2))
    size = 1 << 20
    src, (sink, dst) = m.source(4 * size, kind=kind), m.sink(4 * size, kind)
    pages = np.arange(2, dtype=np.uint32)
    works = [
        Write(size, None, src, dst, remote_visible=True),
        PagedWrites(
            size // 2,
            None,
            Pages(src, pages, offset=size),
            Pages(dst, pages, offset=size),
            remote_visible=True,
        ),
        Scatter(None, src, [Slice(size, 2 * size, dst, 2 * size)], remote_visible=True),
    ]
    for i, work in enumerate(works):
        m.world.finish(m.a.engine.submit(work))
        m.check(sink, bytes(src.numpy()[: (i + 1) * size]) + bytes((3 - i) * size))
    m.world.finish(m.a.engine.submit_single_write(size, IMM, src, dst, remote_visible=True))
    m.counted(1)


# ---- Cancelling


@pytest.mark.hurts
def test_what_was_not_posted_is_dropped(meet, place):
    """Whole pages of it were written and counted, and it ends once."""
    m = meet(place)
    page, n = 64, 20_000
    src, (sink, dst) = m.source(page * n), m.sink(page * n)
    m.world.finish(m.a.engine.submit_barrier(IMM + 1, [m.peer]))
    if m.process:
        m.process.suspend()
    order = np.arange(n, dtype=np.uint32)
    work = PagedWrites(page, IMM, Pages(src, order), Pages(dst, order))
    op = m.a.engine.submit(work, cookie="mine")
    assert op.cancel()
    if m.process:
        m.process.resume()
    told = []
    m.world.until(lambda: told.extend(m.a.events("op")) or told, "its end")
    assert not op.cancel()
    with pytest.raises(PgCanceled, match=f"{n} pages of 64 bytes .*: canceled"):
        raise op.error
    m.world.finish(m.a.engine.fence(m.peer))
    told += m.a.events("op")
    assert [event.cookie for event in told] == ["mine"]
    counted = m.b.value(IMM)
    got = np.frombuffer(m.b.read(sink), np.uint8).reshape(n, page)
    whole = (got == src.numpy().reshape(n, page)).all(axis=1)
    assert 0 <= counted <= whole.sum() < n
    m.world.finish(*(m.a.engine.submit_barrier(IMM, [m.peer]) for _ in range(3)))
    m.counted(counted + 3)


@pytest.mark.hurts
def test_a_split_write_that_was_cancelled_counts_whole_or_not(meet, place):
    """Some of its shards may have been counted; they are no part of any other write."""
    m = meet(place, nics=(2, 2))
    size, fill = 8 * m.caps.split_min, 3000
    src, (_, dst) = m.source(size), m.sink(size)
    m.world.finish(m.a.engine.submit_single_write(size, IMM, src, dst))
    m.counted(1)
    whole = 0
    for _ in range(4):
        if m.process:
            m.process.suspend()
        first_nic = m.a.engine.submit_scatter(IMM + 1, src, [Slice(1, 0, dst)] * fill, "one")
        split = m.a.engine.submit_single_write(size, IMM, src, dst)
        for _ in range(1000):  # as much as can be is posted
            m.a.progress()
        split.cancel()
        if m.process:
            m.process.resume()
        m.world.finish(first_nic)
        m.world.until(split.done, "its end")
        assert split.status in {0, -errno.ECANCELED}
        whole += split.status == 0
        m.world.finish(m.a.engine.fence(m.peer))
    m.counted(4 * fill, IMM + 1)
    assert m.b.value(IMM) == whole
    m.world.finish(*(m.a.engine.submit_single_write(size, IMM, src, dst) for _ in range(6)))
    m.counted(whole + 6)


def test_every_kind_can_be_cancelled_before_it_is_connected(meet):
    m = meet()
    src, (sink, dst) = m.source(64), m.sink(64)
    pages = np.zeros(1, np.uint32)
    works = [
        Write(64, IMM, src, dst),
        PagedWrites(64, IMM, Pages(src, pages), Pages(dst, pages)),
        Scatter(IMM, src, [Slice(32, 0, dst), Slice(32, 32, dst)]),
        Barrier(IMM, [m.peer]),
        Send(m.peer, b"message"),
    ]
    for work in works:
        op = m.a.engine.submit(work)
        assert not op.done()
        assert op.cancel()
        assert op.done()
        assert not op.cancel()
        assert op.status == -errno.ECANCELED
        assert not op.statuses or set(op.statuses) == {-errno.ECANCELED}
    with pytest.raises(PgInvalid, match="free its counter"):
        m.a.engine.expect_imm_count(IMM, 1).cancel()
    m.b.post_receives(64, 1)
    m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]), m.a.engine.fence(m.peer))
    m.counted(1)
    m.check(sink, bytes(64))
    assert m.b.messages() == []


# ---- Groups of peers


def test_a_group_is_addressed_like_its_peers(world, transport):
    star = Star(world, transport, 3)
    hub = star.hub.engine
    src = hub.alloc_mr(300)
    src.numpy()[:] = pattern(300)
    sinks = [other.alloc(100) for other in star.others]
    addresses = [other.address() for other in star.others]
    made = []
    thread = threading.Thread(target=lambda: made.append(hub.add_peer_group(addresses, 30)))
    thread.start()
    world.until(lambda: made or not thread.is_alive(), "the connections")
    thread.join()
    (group,) = made
    assert list(group.peers) == star.hub.peers
    slices = [Slice(100, 100 * i, desc) for i, (_, desc) in enumerate(sinks)]
    ops = [
        hub.submit_scatter(IMM, src, slices, group=group),
        hub.submit_barrier(IMM, group),
    ]
    world.finish(*ops)
    assert [op.statuses for op in ops] == [[0] * 3] * 2
    for i, (other, (sink, _)) in enumerate(zip(star.others, sinks, strict=True)):
        world.fired(other, other.expect(IMM, 2))
        assert other.read(sink) == src.numpy()[100 * i :][:100].tobytes()
    turned = hub.submit_scatter(IMM, src, slices[::-1], group=group)
    world.until(turned.done, "the refusal")
    with pytest.raises(PgInvalid):
        turned.wait()
    with pytest.raises(PgInvalid, match="2 destinations for a group of 3"):
        hub.submit_scatter(IMM, src, slices[:2], group=group)
    with pytest.raises(PgInvalid, match="same peer"):
        hub.add_peer_group([addresses[0], star.hub.peers[0]])
    with pytest.raises(PgInvalid, match="a group of 0 peers"):
        hub.add_peer_group([])
    with group:
        assert len(group) == 3
    group.close()
    assert group.closed
    with pytest.raises(PgStale, match="has been removed"):
        hub.submit_barrier(IMM, group)


@pytest.mark.hurts
def test_a_barrier_says_who_was_not_there(meet, world, transport):
    """Of peers of whose death nobody has heard yet."""
    m = meet("two processes")
    living = world.party(transport=transport.name, progress="inline")
    m.a.know(living.address())
    m.process.kill()
    op = m.a.engine.submit_barrier(IMM, m.a.peers)
    m.world.until(op.done, "the barrier")
    assert op.statuses[0] == op.status < 0 == op.statuses[1]
    assert op.error.statuses == op.statuses
    assert isinstance(op.error, PgPeerDown)
    world.fired(living, living.expect(IMM, 1))


# ---- NICs of different speeds


def nics(*speeds, rails=None):
    return [
        NicConfig(link_mbit_s=speed, rail=rails[i] if rails else 0)
        for i, speed in enumerate(speeds)
    ]


UNEQUAL = [
    (nics(400), nics(100, 100, 100, 100)),
    (nics(100, 100, 100, 100), nics(400)),
    (nics(200, 200), nics(100, 100, 100, 100)),
    (nics(400, 100), nics(100, 400)),
    (nics(300, 100), nics(200, 200)),
    (nics(100, 100, rails=[1, 2]), nics(100, 100, rails=[2, 1])),
    (nics(400, 200, 100), nics(100, 200, 400)),
]


@pytest.mark.parametrize("unequal", UNEQUAL, ids=lambda pair: f"{len(pair[0])}x{len(pair[1])}")
def test_shares_follow_the_speeds_on_both_sides(meet, place, unequal):
    m = meet(place, nics=unequal)
    size, n = 64 * m.caps.split_min, 12
    src, (_, dst) = m.source(size), m.sink(size)
    m.world.finish(*(m.a.engine.submit_single_write(size, IMM, src, dst) for _ in range(n)))
    m.counted(n)
    ours, theirs = m.peer.connections(), m.b.connections()
    joins = [(each.nic, each.peer_nic) for each in ours]
    total = sum(each.weight for each in ours)
    assert len(joins) == len(set(joins)) <= len(unequal[0]) + len(unequal[1]) - 1
    assert m.peer.info().n_connections == len(ours)
    assert sorted((each.peer_nic, each.nic, each.weight) for each in theirs) == sorted(
        (each.nic, each.peer_nic, each.weight) for each in ours
    )
    rails = [{nic.rail for nic in some} != {0} for some in unequal]
    if all(rails):
        assert all(unequal[0][i].rail == unequal[1][j].rail for i, j in joins)
    for each in ours:
        assert each.stats.bytes_out == pytest.approx(size * n * each.weight / total, rel=0.15)
    stats = m.a.engine.stats()
    for i, nic in enumerate(stats):
        mine = [each.stats for each in ours if each.nic == i]
        for field in ("bytes_out", "posted", "imms_in", "msgs_in", "eagain"):
            assert getattr(nic, field) == sum(getattr(each, field) for each in mine)
    assert sum(nic.bytes_out for nic in stats) == size * n


def test_rails_may_be_apart(meet, place):
    m = meet(place, nics=(nics(1, 1, rails=[1, 2]), nics(1, 1, rails=[2, 3])), rail_only=True)
    size = 4 * m.caps.split_min
    src, (sink, dst) = m.source(size), m.sink(size)
    m.world.finish(m.a.engine.submit_single_write(size, IMM, src, dst))
    m.counted(1)
    m.check(sink, src.numpy())
    assert [(each.nic, each.peer_nic) for each in m.peer.connections()] == [(1, 0)]
    names = rf"{m.transport.name} on rail 1.*{m.transport.name} on rail 2, .* on rail 3"
    with pytest.raises(PgPeerDown, match=names):
        meet(place, nics=(nics(1, rails=[1]), nics(1, 1, rails=[2, 3])), rail_only=True)


# ---- Many threads


@pytest.mark.parametrize("told", ["flag", "event"])
def test_eight_threads_submit_at_once(meet, mode, told):
    m = meet("two processes", progress=mode, nics=(2, 2), max_ops=64)
    threads, each, size = 8, 150, 64
    src, (sink, dst) = m.source(threads * size), m.sink(threads * size)
    ops, failures = [], []

    def submit(i):
        try:
            for k in range(each):
                op = m.a.engine.submit_single_write(
                    size,
                    IMM,
                    (src, i * size),
                    (dst, i * size),
                    cookie=(i, k) if told == "event" else None,
                    block=True,
                )
                ops.append(op)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    workers = [threading.Thread(target=submit, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    cookies = []
    m.world.until(
        lambda: (
            cookies.extend(event.cookie for event in m.a.events("op"))
            or not any(worker.is_alive() for worker in workers)
        ),
        "the end of the threads",
    )
    assert not failures
    m.world.until(
        lambda: (
            cookies.extend(event.cookie for event in m.a.events("op"))
            or all(op.seen() for op in ops)
        ),
        "the end of the operations",
    )
    assert len(ops) == threads * each
    assert {op.status for op in ops} == {0}
    expected = [(i, k) for i in range(threads) for k in range(each)] if told == "event" else []
    assert sorted(cookies) == expected
    m.counted(threads * each)
    m.check(sink, src.numpy())


# ---- Watchers


def test_a_word_is_watched(meet, mode):
    m = meet(progress=mode)
    engine = m.a.engine
    seen = []

    def told(n):
        m.world.until(lambda: seen.extend(m.a.events("watch")) or len(seen) >= n, "a change")

    with engine.watcher("one") as one, engine.watcher("other") as other:
        assert one.value == 0
        one.set(5)
        told(1)
        one.word[0] = (1 << 64) - 1
        told(2)
        other.word[0] = 7
        told(3)
        assert [(event.cookie, event.old, event.new) for event in seen] == [
            ("one", 0, 5),
            ("one", 5, (1 << 64) - 1),
            ("other", 0, 7),
        ]
        assert (one.value, other.value) == ((1 << 64) - 1, 7)
        word = one.word
        with pytest.raises(PgBusy, match="numpy arrays still show it"):
            one.close()
        del word
    one.close()
    for use in (lambda: one.set(1), lambda: one.value, lambda: one.word):
        with pytest.raises(PgStale, match="is closed"):
            use()


def test_a_word_that_changes_all_the_time_loses_no_last_value(meet, mode):
    """While a thread sleeps in the engine; changes follow each other without a gap."""
    m = meet(progress=mode)
    engine, n, seen = m.a.engine, 20_000, []

    def listen():
        while not seen or seen[-1].new < n:
            seen.extend(event for event in engine.wait_events(30) if event.kind == "watch")

    with engine.watcher() as watcher:
        thread = threading.Thread(target=listen)
        thread.start()
        word = watcher.word
        for value in range(1, n + 1):
            word[0] = value
        thread.join(60)
        assert not thread.is_alive()
        assert [event.old for event in seen] == [0, *(event.new for event in seen[:-1])]
        assert 1 <= len(seen) <= n
        seen.clear()
        thread = threading.Thread(target=listen)
        thread.start()
        watcher.set(3)
        watcher.set(n + 1)
        thread.join(60)
        assert not thread.is_alive()
        del word


def test_words_run_out_and_come_back(meet):
    m = meet()
    watchers = [m.a.engine.watcher(i) for i in range(256)]
    with pytest.raises(PgError, match="no room for more than 256 watchers"):
        m.a.engine.watcher()
    watchers[7].set(1)
    m.a.progress()
    watchers.pop(7).close()
    again = m.a.engine.watcher("again")
    assert again.value == 0
    again.set(2)
    seen = []
    m.world.until(lambda: seen.extend(m.a.events("watch")) or seen, "a change")
    assert [(event.cookie, event.old, event.new) for event in seen] == [("again", 0, 2)]


# ---- What it says


def test_a_timeout_shows_what_was_in_flight(meet, tmp_path):
    m = meet()
    engine = m.a.engine
    op = engine.submit_barrier(IMM, [m.peer])
    counter = engine.counter(IMM + 1)
    for wait in (
        lambda: op.wait(0.01),
        lambda: counter.wait(3, 0.01),
        lambda: engine.recv(0.01),
        lambda: engine.connect(m.peer, 0.01),
    ):
        with pytest.raises(PgTimeout) as late:
            wait()
        assert late.value.__notes__ == [late.value.dump]
    for dump in (late.value.dump, engine.dump()):
        assert re.search(r"^operation \d+: barrier to ", dump, re.MULTILINE)
        assert f"immediate to peer {m.peer.info().incarnation[:8]}" in dump
        assert "waits for the connection" in dump
        assert f"immediate {IMM + 1:#x}: have 0 of 3 wanted" in dump
    with (tmp_path / "dump").open("w+") as file:
        file.write("before\n")
        assert engine.dump(file)
        file.seek(0)
        assert file.readline() == "before\n"
        assert "waits for the connection" in file.read()
    m.world.finish(op)


def forged(address):
    """With another token; see native/src/engine/address.c."""
    body = bytearray(address[:-4])
    body[8 + 16] ^= 1
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.hurts
def test_the_log_says_who_was_refused_and_who_was_lost(meet, world, transport, tmp_path):
    m = meet("two processes")
    stranger = world.party(transport=transport.name, progress="inline", op_timeout=0.5)
    log = tmp_path / "log"
    try:
        with log.open("w") as file:
            log_to(file, "info")
        stranger.know(forged(m.a.address()))
        refused = stranger.engine.submit_barrier(IMM, stranger.peers)
        world.until(lambda: "refused a HELLO" in log.read_text(), "the refusal")
        world.until(refused.done, "the end of a barrier to who refuses it")
        assert refused.status < 0
        m.world.finish(m.a.engine.submit_barrier(IMM, [m.peer]))
        m.process.kill()
        who = rf"pgctl: warn: peer .*{m.process.child.pid}.*: "
        world.until(lambda: re.search(who, log.read_text()), "the loss")
        assert re.search(r"pgctl: info: peer .* is up", log.read_text())
        before = log.read_text()
    finally:
        log_to(None)
    m.a.close()
    assert log.read_text() == before
    for wrong, error in (
        (lambda: log_to(1, "loud"), PgInvalid),
        (lambda: log_to("log"), AttributeError),
    ):
        with pytest.raises(error):
            wrong()
