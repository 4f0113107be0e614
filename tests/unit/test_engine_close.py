"""The end of an engine."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgctl.engine import (
    GroupConfig,
    NicConfig,
    PgError,
    PgShutdown,
    PgStale,
    TransferEngine,
    Write,
)

IMM = 5


def test_closing_twice_and_using_what_is_closed():
    engine = TransferEngine()
    peer = engine.add_peer(engine.main_address())
    region = engine.alloc_mr(64)
    remote = engine.import_mr(region.desc)
    desc = region.desc
    work = Write(8, IMM, region, remote)
    counter = engine.counter(IMM)
    group = engine.add_peer_group([peer], 30)
    watcher = engine.watcher()
    op = engine.expect_imm_count(IMM + 1, 1)
    engine.close()
    engine.close()
    for handle in (region, remote, group, watcher):
        handle.close()
        handle.close()
    assert region.closed
    assert group.closed
    assert watcher.closed
    assert not engine.submit_batch([])
    with pytest.raises(PgShutdown):
        op.wait()
    for use in (
        engine.main_address,
        engine.limits,
        engine.stats,
        engine.progress,
        engine.poll_events,
        lambda: engine.add_peer(b""),
        lambda: engine.alloc_mr(8),
        lambda: engine.reg_mr(bytearray(8)),
        lambda: engine.import_mr(desc),
        lambda: engine.submit_single_write(8, IMM, region, remote),
        lambda: engine.submit_single_write(8, IMM, region, desc),
        lambda: engine.submit(work),
        lambda: engine.submit_barrier(IMM, [peer]),
        lambda: engine.submit_send(peer, b"x"),
        lambda: engine.submit_recvs(8, 1),
        lambda: engine.expect_imm_count(IMM, 1),
        lambda: engine.recv(0),
        lambda: counter.value,
        lambda: counter.wait(1, 0),
        counter.free,
        peer.info,
        peer.connections,
        lambda: peer.connect(1),
        lambda: remote.map(1),
        lambda: engine.fence(peer),
        lambda: engine.add_peer_group([peer]),
        lambda: engine.submit_barrier(IMM, group),
        lambda: engine.expect_imm_count(IMM, 1, from_=group),
        lambda: watcher.set(1),
        lambda: watcher.value,
        engine.watcher,
        engine.dump,
    ):
        with pytest.raises(PgShutdown, match="the engine is closed"):
            use()
    with pytest.raises(PgStale):
        region.numpy()


def test_a_word_that_is_shown_outlives_close():
    engine = TransferEngine()
    word = engine.watcher().word
    engine.close()
    word[0] = 7
    finalizer = engine._finalizer
    assert finalizer.alive
    assert word.tolist() == [7]
    del word
    gc.collect()
    assert not finalizer.alive


def test_an_engine_that_is_forgotten_is_destroyed():
    engine = TransferEngine()
    finalizer = engine._finalizer
    region = engine.alloc_mr(64)
    counter = engine.counter(IMM)
    op = engine.expect_imm_count(IMM, 1)
    group = engine.add_peer_group([engine.add_peer(engine.main_address())], 30)
    watcher = engine.watcher()
    del engine
    gc.collect()
    assert finalizer.alive  # its children hold it
    del region, counter, op, group
    gc.collect()
    assert finalizer.alive
    del watcher
    gc.collect()
    assert not finalizer.alive


def test_an_engine_that_was_never_made_leaves_nothing():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        with pytest.raises(PgError):
            TransferEngine([GroupConfig(), GroupConfig(nics=[NicConfig(transport="nonsense")])])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_program_that_never_closes_ends_well():
    program = """
import numpy as np
from pgctl.engine import TransferEngine, Pages
engine = TransferEngine(progress="worker")
peer = engine.add_peer(engine.main_address())
region = engine.alloc_mr(4096)
view = region.numpy()
op = engine.expect_imm_count(1, 100)
for _ in range(50):
    engine.submit_barrier(1, [peer])
engine.submit_send(peer, b"nobody listens")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_engine_to_its_parent(world):
    a, b = world.party(progress="inline"), world.party(progress="worker")
    a.know(b.address())
    src, (_, desc) = a.engine.alloc_mr(8), b.alloc(8)
    world.finish(a.engine.submit_single_write(8, IMM, src, desc))
    child = os.fork()
    if not child:
        a.close()  # and yet no goodbye to b
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    _, fresh = b.alloc(8)  # which a must first ask b for
    world.finish(a.engine.submit_single_write(8, IMM, src, fresh))
    world.fired(b, b.expect(IMM, 2))
