"""Forking with an engine, as a data loader does: the child has none, and the parent goes on."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest

from pgctl.engine import PgPeerDown, PgStale, TransferEngine, Write

IMM = 0x0ABCDEF3
DEADLINE_S = 60

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


class Traffic:
    """An engine with all kinds of handles, and a party elsewhere that it always writes to."""

    def __init__(self, world, transport, mode):
        self.process = world.process()
        self.remote = self.process.party(transport=transport.name, progress="inline")
        self.engine = TransferEngine(transport=transport.name, progress=mode, goodbye=0.05)
        self.peer = self.engine.add_peer(self.remote.address())
        self.remote.know(self.engine.main_address())
        self.region, self.memory = self.engine.alloc_mr(4096), bytearray(4096)
        self.registered = self.engine.reg_mr(self.memory)
        _, desc = self.remote.alloc(4096)
        self.dst = self.engine.import_mr(desc)
        self.work = Write(8, IMM, self.region, self.dst)
        self.group = self.engine.add_peer_group([self.peer], DEADLINE_S)
        self.watcher = self.engine.watcher("w")
        self.pending = self.engine.expect_imm_count(IMM, 1 << 40)
        self.counter = self.engine.counter(IMM + 1)
        self.failures = []
        self.rounds = 0
        self._stop = False
        self._threads = [threading.Thread(target=each) for each in (self._write, self._wait)]
        for thread in self._threads:
            thread.start()

    def _write(self):
        try:
            while not self._stop:
                self.engine.submit(self.work).wait(DEADLINE_S)
                self.rounds += 1
        except BaseException as error:  # noqa: BLE001
            self.failures.append(error)

    def _wait(self):
        """Is in the engine nearly always, also when the process forks."""
        try:
            while not self._stop:
                self.pending.done()
                self.engine.wait_events(0.2)
        except BaseException as error:  # noqa: BLE001
            self.failures.append(error)

    def goes_on(self):
        """Until both have made progress once more."""
        before, end = self.rounds, time.monotonic() + DEADLINE_S
        while self.rounds < before + 10:
            assert not self.failures
            assert time.monotonic() < end
            time.sleep(0.001)

    def close(self):
        self._stop = True
        for thread in self._threads:
            thread.join(DEADLINE_S)
        assert not self.failures
        self.engine.close()


@pytest.fixture(params=["inline", "worker"])
def traffic(world, transport, request):
    it = Traffic(world, transport, request.param)
    yield it
    it.close()


def use_everything(t):
    """In the child: each call is refused, and none hangs."""
    engine = t.engine
    for use in (
        lambda: engine.submit_single_write(8, IMM, t.region, t.dst),
        lambda: engine.submit(t.work),
        lambda: engine.submit_barrier(IMM, [t.peer]),
        lambda: engine.submit_barrier(IMM, t.group),
        lambda: engine.submit_send(t.peer, b"x"),
        lambda: engine.submit_recvs(8, 1),
        lambda: engine.fence(t.peer),
        lambda: engine.expect_imm_count(IMM + 2, 1),
        t.pending.done,
        lambda: t.pending.wait(1),
        lambda: t.counter.wait(1, 1),
        lambda: t.counter.value,
        t.counter.free,
        lambda: engine.wait_events(1),
        engine.poll_events,
        lambda: engine.recv(1),
        engine.progress,
        engine.main_address,
        engine.limits,
        engine.dump,
        lambda: engine.add_peer(bytes(8)),
        lambda: engine.add_peer_group([t.peer]),
        lambda: engine.alloc_mr(8),
        lambda: engine.reg_mr(bytearray(8)),
        lambda: engine.import_mr(t.dst.desc),
        lambda: t.dst.map(1),
        t.peer.info,
        t.peer.connections,
        lambda: t.peer.connect(1),
        lambda: t.watcher.set(1),
        engine.watcher,
        t.region.numpy,
    ):
        with pytest.raises(PgStale, match="forked"):
            use()


def let_go(t):
    """In the child: closing and forgetting do nothing, and do not hang."""
    for handle in (t.region, t.registered, t.dst, t.group, t.watcher):
        handle.close()
        handle.close()
    gc.collect()
    t.engine.close()
    t.engine.close()
    for name in list(vars(t)):
        delattr(t, name)
    gc.collect()


@pytest.mark.parametrize("child", [use_everything, let_go, lambda _: gc.collect()])
def test_a_child_that_exits_at_once(traffic, child):
    for _ in range(3):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                child(traffic)
                status = 0
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        traffic.goes_on()


def in_worker(t, queue):
    try:
        use_everything(t)
        with TransferEngine(progress="inline") as own:  # which is a child's own
            peer = own.add_peer(own.main_address())
            own.submit_barrier(IMM, [peer]).wait(DEADLINE_S)
            own.counter(IMM).wait(1, DEADLINE_S)
        let_go(t)
        queue.put("well")
    except BaseException:  # noqa: BLE001
        queue.put(traceback.format_exc())


def test_workers_of_multiprocessing(traffic):
    """Which exit by the interpreter's ordinary end, with its finalisers."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=in_worker, args=(traffic, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get() for _ in workers] == ["well", "well"]
    for worker in workers:
        worker.join(DEADLINE_S)
        assert worker.exitcode == 0
    traffic.goes_on()


def test_a_child_that_ends_like_a_program():
    """With atexit, threads that are gone, and an engine that nobody closed."""
    program = """
import os, sys, threading
from pgctl.engine import TransferEngine
engine = TransferEngine(progress="worker")
peer = engine.add_peer(engine.main_address())
region, view = engine.alloc_mr(4096), memoryview(engine.alloc_mr(64).numpy())
op = engine.expect_imm_count(1, 5)
waiter = threading.Thread(target=engine.wait_events, daemon=True)
waiter.start()
engine.submit_barrier(2, [peer]).wait(30)
if os.fork() == 0:
    sys.exit(0)
assert os.wait()[1] == 0
for _ in range(5):
    engine.submit_barrier(1, [peer])
op.wait(30)
print("well")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        timeout=DEADLINE_S,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_a_child_that_outlives_its_parent_does_not_hide_the_death(transport, world):
    """What the child holds of the parent's engine must not look like its life."""
    program = """
import os, sys, time
from pgctl.engine import NetAddr, TransferEngine
engine = TransferEngine(transport=sys.argv[1], progress="inline")
print(bytes(engine.main_address()).hex(), flush=True)
peer = engine.add_peer(NetAddr(bytes.fromhex(sys.stdin.readline())))
region = engine.reg_mr(bytearray(8))
engine.connect(peer, 30)
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
while True:
    engine.wait_events(1)
"""
    mine = world.party(transport=transport.name, progress="inline")
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, transport.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        peer = mine.engine.add_peer(bytes.fromhex(parent.stdout.readline()))
        parent.stdin.write(bytes(mine.address()).hex() + "\n")
        parent.stdin.flush()
        line = []
        reader = threading.Thread(target=lambda: line.append(parent.stdout.readline()))
        reader.start()
        world.until(lambda: line, "the fork")
        mine.engine.submit_barrier(IMM, [peer]).wait(DEADLINE_S)
        assert peer.info().up
        parent.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        world.until(lambda: peer.info().status, "its death")
        assert time.monotonic() < killed + 5  # what the engine promises, and far more than it takes
        os.kill(int(line[0]), 0)  # the child lives
        with pytest.raises(PgPeerDown):
            mine.engine.submit_barrier(IMM, [peer])
        parent.stdin.close()
