"""Promises of the engine that hold for every input."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parties import Pool, World, pattern

from pgctl.engine import MrDesc, NetAddr, Pages, PgError, PgProtocol, TransferEngine

IMM = 0x1234567

common = settings(
    deadline=None,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def engine():
    with TransferEngine(progress="inline") as it:
        it.add_peer(it.main_address())
        yield it


@st.composite
def mutated(draw, original):
    """`original` with bytes changed, cut off, added or swapped; never itself."""
    data = bytearray(original)
    kind = draw(st.sampled_from(["flip", "cut", "add", "splice"]))
    if kind == "flip":
        for at in draw(
            st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4, unique=True)
        ):
            data[at] ^= draw(st.integers(1, 255))
    elif kind == "cut":
        del data[draw(st.integers(0, len(data) - 1)) :]
    elif kind == "add":
        data += draw(st.binary(min_size=1, max_size=600))
    else:
        at = draw(st.integers(0, len(data) - 1))
        piece = draw(st.binary(min_size=1, max_size=16))
        data[at : at + len(piece)] = piece
    return bytes(data)


@settings(common, max_examples=400)
@given(data=st.data())
def test_a_damaged_address_is_refused(engine, data):
    original = engine.main_address()
    hostile = data.draw(mutated(original) | st.binary(max_size=600))
    if hostile != original:
        with pytest.raises(PgProtocol):
            engine.add_peer(NetAddr(hostile))


@settings(common, max_examples=400)
@given(data=st.data())
def test_a_damaged_descriptor_is_refused(engine, data):
    with engine.alloc_mr(64) as region:
        hostile = data.draw(mutated(region.desc) | st.binary(max_size=600))
        if hostile != region.desc:
            with pytest.raises(PgProtocol):
                engine.import_mr(MrDesc(hostile))
            with pytest.raises(PgProtocol):
                engine.submit_single_write(1, None, region, MrDesc(hostile))


@common
@given(
    ours=st.integers(1, 4),
    theirs=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 5000) | st.integers(200_000, 2_500_000), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_byte_lands_once_and_every_write_counts_once(ours, theirs, sizes, seed):
    world = World(Pool())
    try:
        a = world.party(nics=ours, progress="inline")
        b = world.party(nics=theirs, progress="inline")
        a.know(b.address())
        total = sum(sizes)
        src = a.engine.alloc_mr(total)
        sink, desc = b.alloc(total + 32)
        src.numpy()[:] = pattern(total, seed)
        starts = np.cumsum([0, *sizes]).tolist()
        ops = [
            a.engine.submit_single_write(size, IMM, (src, at), (desc, at + 16))
            for size, at in zip(sizes, starts, strict=False)
        ]
        world.finish(*ops)
        world.fired(b, b.expect(IMM, len(sizes)))
        assert b.value(IMM) == 0
        assert b.read(sink) == bytes(16) + src.numpy().tobytes() + bytes(16)
    finally:
        world.close()


@common
@given(data=st.data())
def test_pages_land_where_their_indices_say_or_are_refused(engine, data):
    page = data.draw(st.integers(1, 300), "page")
    n = data.draw(st.integers(1, 40), "pages")
    length = data.draw(st.integers(1, 20_000), "length")

    def side():
        stride = data.draw(st.integers(0, 400))
        offset = data.draw(st.integers(0, 500))
        indices = data.draw(st.lists(st.integers(0, 60), min_size=n, max_size=n, unique=True))
        return np.array(indices, np.uint32), stride, offset

    src_indices, src_stride, src_offset = side()
    dst_indices, dst_stride, dst_offset = side()
    dst_stride = max(dst_stride, page)  # else pages overlap, and which one wins is undefined
    starts = [
        (src_offset + int(i) * src_stride, dst_offset + int(j) * dst_stride)
        for i, j in zip(src_indices, dst_indices, strict=True)
    ]
    fits = all(start + page <= length for pair in starts for start in pair)
    with engine.alloc_mr(length) as src, engine.alloc_mr(length) as dst:
        src.numpy()[:] = pattern(length)
        dst.numpy()[:] = 0
        expected = np.zeros(length, np.uint8)
        with engine.import_mr(dst.desc) as remote:
            pages = (
                Pages(src, src_indices, src_stride, src_offset),
                Pages(remote, dst_indices, dst_stride, dst_offset),
            )
            if not fits:
                with pytest.raises(PgError, match="is past the end of a region"):
                    engine.submit_paged_writes(page, IMM, *pages)
                return
            engine.submit_paged_writes(page, IMM, *pages).wait(30)
            engine.counter(IMM).wait(n, 30)
            for at, to in starts:
                expected[to : to + page] = src.numpy()[at : at + page]
            assert dst.numpy().tobytes() == expected.tobytes()


@common
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_an_expectation_subtracts_exactly_what_it_expects(engine, wanted):
    peer = engine.add_peer(engine.main_address())
    counter = engine.counter(IMM + 1)
    for op in [engine.submit_barrier(IMM + 1, [peer]) for _ in range(sum(wanted))]:
        op.wait(30)
    for n in wanted:
        counter.wait(n, 30)
    assert counter.value == 0
    with contextlib.suppress(PgError):
        counter.free()
