"""Operations: what is accepted, what is borrowed, and how one waits."""

import array
import gc
import signal
import threading
import weakref

import numpy as np
import pytest

from pgctl.engine import (
    Pages,
    PgInvalid,
    PgShutdown,
    PgTimeout,
    Slice,
    TransferEngine,
    Write,
)

IMM = 5


# ---- Submission


def peer_of(loop):
    return loop.engine.add_peer(loop.engine.main_address())


INDICES = [
    ([0, 1], "not list"),
    (7, "not int"),
    (np.arange(4), "1-dimensional 'l'"),
    (np.arange(4, dtype=np.int32), "1-dimensional 'i'"),
    (np.arange(4, dtype=">u4"), "1-dimensional '>I'"),
    (np.arange(4, dtype=np.uint32)[::2], "1-dimensional strided 'I'"),
    (np.zeros((2, 2), np.uint32), "2-dimensional 'I'"),
    (np.zeros(4, np.uint8), "1-dimensional 'B'"),
]


@pytest.mark.parametrize(("indices", "message"), INDICES, ids=[m for _, m in INDICES])
def test_page_indices_are_never_converted(loop, indices, message):
    _, region, _ = loop
    with pytest.raises(TypeError, match=f"page indices must be a .*{message}"):
        Pages(region, indices)


def test_page_indices_may_be_anything_that_is_uint32(loop):
    engine, region, remote = loop
    frozen = np.arange(4, dtype=np.uint32)
    frozen.flags.writeable = False
    for indices in (array.array("I", range(4)), frozen, memoryview(frozen)):
        engine.submit_paged_writes(8, IMM, Pages(region, indices), Pages(remote, indices)).wait(30)
    engine.counter(IMM).wait(12, 30)


def test_indices_and_regions_live_until_the_operation_has_ended():
    """Their owner forgets everything at once; the engine must not."""
    with TransferEngine(progress="inline") as a, TransferEngine(progress="inline") as b:
        a.add_peer(b.main_address())
        src, dst = a.alloc_mr(4096), b.alloc_mr(4096)
        src.numpy()[:] = np.arange(4096) % 251
        expected = src.numpy().reshape(64, 64)[::-1].tobytes()
        indices = np.arange(64, dtype=np.uint32)
        back = indices[::-1].copy()
        watch = weakref.ref(indices), weakref.ref(back), weakref.ref(src)
        a.submit_paged_writes(64, IMM, Pages(src, indices), Pages(dst.desc, back))
        del indices, back, src
        gc.collect()
        assert all(ref() is not None for ref in watch)
        counter = b.counter(IMM)
        while counter.value < 64:
            a.progress()
            b.progress()
        assert dst.numpy().tobytes() == expected
        gc.collect()
        assert all(ref() is None for ref in watch)


@pytest.mark.parametrize(
    ("submit", "message"),
    [
        (
            lambda x: x.engine.submit_single_write(8, IMM, np.zeros(8), x.remote),
            "a source is a MemoryReg",
        ),
        (
            lambda x: x.engine.submit_single_write(8, IMM, x.region, np.zeros(8)),
            "a destination is a Remo",
        ),
        (
            lambda x: x.engine.submit_single_write(8, IMM, x.region, x.region),
            "a destination is a RemoteRegion",
        ),
        (lambda x: x.engine.submit_single_write(8, IMM, (x.region, 0.5), x.remote), "float"),
        (lambda x: x.engine.submit_single_write("8", IMM, x.region, x.remote), "str"),
        (
            lambda x: x.engine.submit_scatter(IMM, x.remote, [Slice(8, 0, x.remote)]),
            "a source is a MemoryRegion",
        ),
        (
            lambda x: x.engine.submit_scatter(IMM, x.region, [Slice(8, 0, x.region)]),
            "a destination is a Remote",
        ),
    ],
)
def test_the_wrong_kind_of_thing_is_a_type_error(loop, submit, message):
    with pytest.raises(TypeError, match=message):
        submit(loop)
    loop.engine.submit_single_write(8, IMM, loop.region, loop.remote).wait(30)


@pytest.mark.parametrize(
    ("submit", "message"),
    [
        (lambda x: x.engine.submit_barrier(IMM, []), "a barrier with 0 peers"),
        (lambda x: x.engine.submit_scatter(IMM, x.region, []), "a scatter to 0 destinations"),
        (
            lambda x: x.engine.submit_scatter(IMM, x.region, [Slice(1, 0, x.remote)], "x"),
            "spread 'x' is not",
        ),
        (lambda x: x.engine.submit_recvs(8, 0), "0"),
        (lambda x: x.engine.submit_recvs(-1, 1), "length -1 is not a number"),
        (lambda x: x.engine.submit_recvs(8, 1 << 40), "count 1099511627776 is not a number"),
        (lambda x: x.engine.expect_imm_count(IMM, 0), "0"),
        (lambda x: x.engine.expect_imm_count(IMM, -1), "number of writes -1 is not a number"),
        (
            lambda x: x.engine.submit_single_write(8, IMM, x.region, x.remote, limit=0),
            "limit 0 is not a positive number of seconds",
        ),
        (lambda x: x.engine.fence(peer_of(x), limit=1e9), "limit 1000000000.0 is not"),
        (lambda x: x.engine.watcher().set(-1), "value -1 is not a number from 0"),
        (lambda x: x.engine.watcher().set(1 << 64), "value 18446744073709551616 is not a number"),
        (
            lambda x: x.engine.expect_imm_count(IMM, 1, from_=[peer_of(x)], owes=[-1]),
            "number of writes -1 is not a number",
        ),
    ],
)
def test_what_can_never_work_is_invalid(loop, submit, message):
    with pytest.raises(PgInvalid, match=message):
        submit(loop)


def test_a_refused_submission_leaves_nothing_behind(loop):
    engine, region, remote = loop
    group = engine._groups[0]
    pages = np.array([9999], np.uint32)
    for _ in range(200):
        for cookie in (None, 1):
            with pytest.raises(PgInvalid):
                engine.submit_single_write(9999, IMM, region, remote, cookie=cookie)
            with pytest.raises(PgInvalid):
                engine.submit_paged_writes(
                    8, IMM, Pages(region, pages), Pages(remote, pages), cookie=cookie
                )
        with pytest.raises(TypeError):
            engine.submit_single_write("8", IMM, region, remote)
    assert not group.pending
    assert not group.queued
    assert len(group._chunks) <= 2


def test_operations_that_nobody_waits_for_use_no_more_room_over_time(loop):
    engine, region, remote = loop
    engine.submit_single_write(8, None, region, remote).wait(30)
    for _ in range(10_000):
        engine.submit_single_write(8, None, region, remote)
    assert len(engine._groups[0].pending) <= 128


def test_an_op_says_what_it_is(loop):
    engine, region, remote = loop
    op = engine.submit_single_write(8, None, region, remote)
    op.wait(30)
    op.wait(0)
    assert (op.done(), op.status, op.error, op.statuses) == (True, 0, None, None)
    assert repr(op) == "<Op: done>"
    pending = engine.expect_imm_count(IMM, 3)
    assert repr(pending) == "<Op: in flight>"
    with pytest.raises(PgTimeout, match="3 writes with immediate 0x5: not done after 0 s"):
        pending.wait(0)
    assert repr(Write(8, IMM, region, remote)) == "<Write: write of 8 bytes with immediate 0x5>"


# ---- Waiting


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    "wait",
    [
        lambda e, _: e.expect_imm_count(IMM, 1).wait(),
        lambda e, _: e.counter(IMM).wait(1),
        lambda e, _: e.wait_events(),
        lambda e, _: e.recv(),
        lambda e, silent: e.connect(e.add_peer(silent), 1e6),
    ],
)
@pytest.mark.parametrize("progress", ["inline", "worker"])
def test_a_signal_interrupts_a_wait(wait, progress):
    def handler(*_):
        raise Interrupted

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with (
            TransferEngine(progress="inline") as other,
            TransferEngine(progress=progress) as engine,
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            with pytest.raises(Interrupted):
                wait(engine, other.main_address())
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_handler_that_returns_does_not_end_a_wait(engine):
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        with pytest.raises(PgTimeout):
            engine.expect_imm_count(IMM, 1).wait(0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert seen


@pytest.mark.parametrize("progress", ["inline", "worker"])
def test_closing_wakes_every_thread_that_waits(progress):
    engine = TransferEngine(progress=progress)
    op = engine.expect_imm_count(IMM, 1)
    started, ended = threading.Barrier(5), []

    def wait(how):
        started.wait()
        try:
            how()
        except PgShutdown as error:
            ended.append(error)

    hows = [op.wait, op.wait, engine.wait_events, engine.recv]
    threads = [threading.Thread(target=wait, args=(how,)) for how in hows]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(ended) == 4


def test_a_handler_may_close_what_its_thread_waits_for():
    engine = TransferEngine(progress="inline")
    old = signal.signal(signal.SIGALRM, lambda *_: engine.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(PgShutdown):
            engine.expect_imm_count(IMM, 1).wait()
    finally:
        signal.signal(signal.SIGALRM, old)


def test_threads_that_wait_for_events_share_them(engine):
    """One leads; what it takes for the others wakes them."""
    peer = engine.add_peer(engine.main_address())
    engine.submit_recvs(8, 16)
    got = []
    threads = [threading.Thread(target=lambda: got.append(engine.recv(60)[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    sent = [bytes([i]) for i in range(4)]
    for data in sent:
        engine.submit_send(peer, data).wait(30)
    for thread in threads:
        thread.join(60)
    assert sorted(got) == sent


def test_other_events_wait_while_a_message_is_received(engine):
    peer = engine.add_peer(engine.main_address())
    engine.submit_recvs(8, 4)
    engine.submit_barrier(IMM, [peer], cookie="barrier")
    engine.submit_send(peer, b"hello").wait(30)
    assert engine.recv(30) == (peer, b"hello")
    events = engine.wait_events(30)
    assert {event.kind: event.cookie for event in events} == {"peer_up": None, "op": "barrier"}
