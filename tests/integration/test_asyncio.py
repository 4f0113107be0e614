"""Engines in event loops."""

import asyncio
import errno
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from parties import pattern

from pgctl.engine import (
    Pages,
    PgCanceled,
    PgInvalid,
    PgPeerDown,
    PgShutdown,
    PgTimeout,
    Slice,
    TransferEngine,
    Write,
)

IMM = 0x1ABCDEF2
PROVIDERS = {}
"""None of libfabric's: with them a write ends when its target makes progress, and engines of these
tests make it only while something of theirs is awaited. See tests/ofi/test_asyncio.py."""
DEADLINE_S = 60


class Pair:
    """Two engines that know each other, and memory of the second that the first can write to."""

    def __init__(self, transport, progress, **config):
        shared = {"transport": transport.name, "progress": progress, "goodbye": 0.05}
        self.a = TransferEngine(**shared | config)
        self.b = TransferEngine(**shared)
        self.peer = self.a.add_peer(self.b.main_address())
        self.back = self.b.add_peer(self.a.main_address())
        self.src, self.sink = self.a.alloc_mr(4096), self.b.alloc_mr(4096)
        self.src.numpy()[:] = pattern(4096)
        self.dst = self.a.import_mr(self.sink.desc)

    def close(self):
        self.a.close()
        self.b.close()


@pytest.fixture
def pair(transport, mode):
    it = Pair(transport, mode)
    yield it
    it.close()


@pytest.fixture
def slow(transport):
    """A pair of whose second nobody makes progress: nothing that needs it ends."""
    it = Pair(transport, "inline", max_ops=8)
    yield it
    it.close()


def run(main):
    async def limited():
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return asyncio.run(limited())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_every_operation_can_be_awaited(pair):
    a, b = pair.a, pair.b
    order = np.array([1, 0], np.uint32)

    async def send():
        await a.write(1024, IMM, pair.src, pair.dst)
        await a.paged(
            512, IMM, Pages(pair.src, order, offset=1024), Pages(pair.dst, order, 512, 1024)
        )
        slices = [Slice(1024, 2048, pair.dst, 2048), Slice(1024, 3072, pair.sink.desc, 3072)]
        await a.scatter(IMM, pair.src, slices, remote_visible=True)
        await a.barrier(IMM, [pair.peer], limit=DEADLINE_S)
        await a.send(pair.peer, b"question")
        await a.run(Write(8, None, pair.src, pair.dst))
        await a.fence_peer(pair.peer)
        return await a.received()

    async def main():
        a.submit_recvs(64, 4)
        b.submit_recvs(64, 4)
        task = asyncio.create_task(send())
        await b.counter(IMM).reached(1 + 2 + 2 + 1)
        who, question = await b.received()
        assert (who, question) == (pair.back, b"question")
        await b.send(who, b"answer")
        assert await task == (pair.peer, b"answer")
        assert pair.sink.numpy().tobytes() == pair.src.numpy().tobytes()
        assert b.counter(IMM).value == 0

    run(main())


def test_an_op_can_be_awaited_by_many_and_again(pair):
    async def main():
        op = pair.b.expect_imm_count(IMM, 1)

        async def one():
            await op

        tasks = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(0)
        await pair.a.barrier(IMM, [pair.peer])
        await asyncio.gather(*tasks)
        await op
        queued = pair.a.submit_barrier(IMM, [pair.peer], cookie="told on the queue")
        await queued
        events = [event async for event in first(pair.a.events(), 2)]
        assert {event.cookie for event in events} == {None, "told on the queue"}

    run(main())


async def first(events, n):
    for _ in range(n):
        yield await anext(events)


def test_many_tasks_and_little_room(transport, mode):
    """Each waits for room, and each ends."""
    pair = Pair(transport, mode, max_ops=4)

    async def main():
        tasks = [pair.a.write(8, IMM, pair.src, (pair.dst, 8 * i)) for i in range(300)]
        await asyncio.gather(pair.b.counter(IMM).reached(300), *tasks)
        assert pair.b.counter(IMM).value == 0

    run(main())
    pair.close()


def test_others_run_while_one_awaits_what_ends_at_once(pair):
    async def main():
        await asyncio.gather(pair.a.barrier(IMM, [pair.peer]), pair.b.counter(IMM).reached(1))
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        for _ in range(100):
            await pair.a.write(8, None, pair.src, pair.dst)
        assert ticks >= 100
        ticker.cancel()

    run(main())


# ---- Failures


def test_a_failure_is_raised_and_says_which_destination(transport, mode, world):
    process, never = world.process(), world.process()
    parties = [each.party(transport=transport.name, progress="inline") for each in (process, never)]
    living = Pair(transport, mode)
    peer, unmet = [living.a.add_peer(party.address()) for party in parties]
    (_, desc), (_, unmet_desc) = [party.alloc(8) for party in parties]
    never.kill()
    expected = [living.a.counter(IMM), living.a.counter(IMM + 1)]

    async def main():
        await living.a.write(8, None, living.src, desc)
        tasks = [asyncio.create_task(each.reached(1, from_=[peer])) for each in expected]
        process.kill()
        for task in tasks:
            with pytest.raises(PgPeerDown, match=str(process.child.pid)):
                await task
        served = asyncio.create_task(living.b.counter(IMM).reached(1))
        slices = [Slice(8, 0, unmet_desc), Slice(8, 0, living.dst)]
        with pytest.raises(PgPeerDown) as failed:
            await living.a.scatter(IMM, living.src, slices)
        assert failed.value.statuses[0] < 0 == failed.value.statuses[1]
        await served
        for dead in (peer, unmet):
            with pytest.raises(PgPeerDown):
                await living.a.barrier(IMM, [dead])
        with pytest.raises(PgInvalid):
            await living.a.write(0, IMM, living.src, living.dst)

    run(main())
    living.close()


def test_a_time_limit_fails_it_and_shows_what_was_in_flight(slow):
    async def main():
        with pytest.raises(PgTimeout, match="barrier of 1 peers") as late:
            await slow.a.barrier(IMM, [slow.peer], limit=0.05)
        assert "operations in flight" in late.value.dump
        assert late.value.__notes__ == [late.value.dump]

    run(main())


def test_cancelling_the_task_cancels_the_operation(slow):
    region = slow.a.alloc_mr(64)
    watch, ops = weakref.ref(region), []

    async def one(op):
        ops.append(op)
        await op

    async def main():
        nonlocal region
        task = asyncio.create_task(one(slow.a.submit_single_write(64, IMM, region, slow.dst)))
        region = None
        await until(lambda: ops)
        await asyncio.sleep(0.01)
        assert ops[0].status is None
        assert watch()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: ops[0].status is not None)
        with pytest.raises(PgCanceled, match="write of 64 bytes"):
            await ops[0]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await slow.a.barrier(IMM, [slow.peer])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.gather(*(slow.a.barrier(IMM, [slow.peer]) for _ in range(20)))
        await until(lambda: slow.a.dump().startswith("group 0: 0 operations in flight"))
        del task
        ops.clear()

    run(main())
    assert slow.a.progress() >= 0
    gc.collect()
    assert not watch()
    while slow.b.progress() or not slow.peer.info().up:
        slow.a.progress()
    assert slow.b.counter(IMM).value == 0


def test_a_cancelled_wait_for_writes_leaves_them_counted(pair):
    async def main():
        counter = pair.b.counter(IMM)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await counter.reached(2)
        await pair.a.barrier(IMM, [pair.peer])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await counter.reached(2)
        await pair.a.barrier(IMM, [pair.peer])
        await counter.reached(2)
        assert counter.value == 0

    run(main())


# ---- Ends


@pytest.mark.parametrize("thread", [False, True])
def test_closing_the_engine_wakes_who_awaits(pair, thread):
    async def events():
        async for _ in pair.a.events():
            pass

    async def main():
        op = pair.a.expect_imm_count(IMM, 1)

        async def one():
            await op

        waits = [one(), pair.a.counter(IMM + 1).reached(1), pair.a.received(), events()]
        tasks = [asyncio.create_task(each) for each in waits]
        await asyncio.sleep(0.02)
        if thread:
            closer = threading.Thread(target=pair.a.close)
            closer.start()
        else:
            pair.a.close()
        for task in tasks:
            with pytest.raises(PgShutdown):
                await task
        if thread:
            closer.join(DEADLINE_S)
        with pytest.raises(PgShutdown):
            await pair.a.received()

    run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_leaves_the_engine_to_the_next(pair):
    loop = asyncio.new_event_loop()
    task = loop.create_task(pair.b.counter(IMM).reached(1))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()

    async def main():
        await asyncio.gather(
            pair.a.barrier(IMM, [pair.peer]),
            pair.b.counter(IMM + 1).reached(1),
            pair.a.barrier(IMM + 1, [pair.peer]),
        )

    run(main())
    run(main())
    assert pair.b.counter(IMM).value == 1
    pair.b.close()
    task._log_destroy_pending = False


def test_an_engine_that_was_awaited_and_is_forgotten_is_destroyed(transport, mode):
    pair = Pair(transport, mode)
    finalizers = [pair.a._finalizer, pair.b._finalizer]

    async def main():
        nonlocal pair
        await asyncio.gather(pair.a.barrier(IMM, [pair.peer]), pair.b.counter(IMM).reached(1))
        pair = None
        await asyncio.sleep(0)
        gc.collect()
        assert not any(finalizer.alive for finalizer in finalizers)

    run(main())


# ---- Threads


def test_loops_and_threads_share_an_engine(pair):
    """Two loops and a thread without one wait for different things of the same groups at once."""
    n, failures = 200, []
    start = threading.Barrier(3)

    def guarded(what):
        def body():
            try:
                start.wait(DEADLINE_S)
                what()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        return threading.Thread(target=body)

    async def rounds(imm):
        for _ in range(n):
            await asyncio.gather(pair.a.barrier(imm, [pair.peer]), pair.b.counter(imm).reached(1))

    def without_loop():
        for _ in range(n):
            pair.a.submit_barrier(IMM + 2, [pair.peer]).wait(DEADLINE_S)
            pair.b.counter(IMM + 2).wait(1, DEADLINE_S)

    threads = [
        guarded(lambda: run(rounds(IMM))),
        guarded(lambda: run(rounds(IMM + 1))),
        guarded(without_loop),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_messages_go_to_loops_and_threads_once(pair):
    n = 60
    got, ended = [], threading.Event()
    pair.b.submit_recvs(8, 4)

    def take():
        while len(got) < n:
            try:
                got.append(pair.b.recv(0.01)[1])
            except PgTimeout:
                continue

    async def main():
        async def taker():
            while True:
                got.append((await pair.b.received())[1])

        tasks = [asyncio.create_task(taker()) for _ in range(3)]
        for i in range(n):
            await pair.a.send(pair.peer, bytes([i]))
        await until(lambda: len(got) >= n)
        for task in tasks:
            task.cancel()
        ended.set()

    thread = threading.Thread(target=take)
    thread.start()
    run(main())
    thread.join(DEADLINE_S)
    assert ended.is_set()
    assert sorted(got) == [bytes([i]) for i in range(n)]


# ---- Idle


def test_awaiting_what_does_not_come_costs_no_cpu(pair):
    """A second of it; also while a message waits that nobody takes, and has no buffer."""

    async def main():
        pair.b.submit_recvs(8, 1)
        for _ in range(3):
            pair.a.submit_send(pair.peer, b"stays")
        tasks = [asyncio.create_task(each.counter(IMM).reached(1)) for each in (pair.a, pair.b)]
        await asyncio.sleep(0.2)
        before = time.process_time()
        await asyncio.sleep(1)
        spent = time.process_time() - before
        for task in tasks:
            task.cancel()
        return spent

    spent = run(main())
    print(f"{spent:.4f} s of CPU in an idle second")  # noqa: T201
    assert spent < 0.2


def test_news_of_peers_come_to_a_loop(transport, mode, world):
    process = world.process()
    engine = TransferEngine(transport=transport.name, progress=mode, goodbye=0)
    remote = process.party(transport=transport.name, progress="inline")
    peer = engine.add_peer(remote.address())

    async def main():
        events = engine.events()
        await engine.barrier(IMM, [peer])
        up = await anext(events)
        assert (up.kind, up.peer, up.error) == ("peer_up", peer, None)
        process.kill()
        down = await anext(events)
        assert (down.kind, down.peer, down.status) == ("peer_down", peer, -errno.EHOSTDOWN)
        assert str(process.child.pid) in str(down.error)

    run(main())
    engine.close()
