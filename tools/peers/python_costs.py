"""What calls from Python cost, and what a connected peer does, as lines of "name value".

Two engines of one process, so that nothing else runs while a call is timed.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pgctl import TransferEngine
from pgctl.engine import Pages, Progress

CALLS = 2000
PAGES = 4096
PEERS = 256


def pair(progress: Progress) -> tuple[TransferEngine, TransferEngine]:
    engines = TransferEngine(progress=progress), TransferEngine(progress=progress)
    engines[0].add_peer(engines[1].main_address())
    engines[1].add_peer(engines[0].main_address())
    return engines


def p50_us(nanoseconds: list[int]) -> float:
    return statistics.median(nanoseconds) / 1000


def submit_us() -> float:
    a, b = pair("inline")
    with a, b:
        source, sink = a.alloc_mr(4096), b.alloc_mr(4096)
        target = a.import_mr(sink.desc)
        first = a.submit_single_write(8, 1, source, target)
        while not first.done():
            a.progress()
            b.progress()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter_ns()
            op = a.submit_single_write(8, 1, source, target)
            times.append(time.perf_counter_ns() - start)
            op.wait()
            b.progress()
        return p50_us(times)


def submit_paged_us() -> float:
    """Pages of one byte: all that a submission costs but for the copy."""
    a, b = pair("inline")
    with a, b:
        source, sink = a.alloc_mr(PAGES * 4096), b.alloc_mr(PAGES * 4096)
        target = a.import_mr(sink.desc)
        order = np.random.default_rng(0).permutation(PAGES).astype(np.uint32)
        pages = Pages(source, order, 4096), Pages(target, order, 4096)
        times = []
        for _ in range(CALLS // 10):
            start = time.perf_counter_ns()
            op = a.submit_paged_writes(1, None, *pages)
            times.append(time.perf_counter_ns() - start)
            while not op.done():
                a.progress()
                b.progress()
        return p50_us(times)


def memory_kib() -> int:
    """Of this process; what it shares counts in part."""
    fields = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").split()
    return int(fields[fields.index("Pss:") + 1])


def rim(hub: bytes) -> None:
    """The other process: as many engines as the hub shall meet."""
    engines = [TransferEngine(progress="inline") for _ in range(PEERS)]
    for engine in engines:
        engine.submit_barrier(1, [engine.add_peer(hub)]).wait()
        print(engine.main_address().hex(), flush=True)
    sys.stdin.read()  # until the hub has measured


def peer_kib() -> float:
    """What a hub grows by with each peer, having been written to by it and written back."""
    with TransferEngine(progress="inline") as hub:
        command = [sys.executable, __file__, hub.main_address().hex()]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            met = []
            for i in range(PEERS):
                hub.expect_imm_count(1, 1).wait()
                met.append(hub.add_peer(bytes.fromhex(process.stdout.readline())))
                hub.submit_barrier(2, met[-1:]).wait()
                if i == 0:
                    before = memory_kib()
            grown = memory_kib() - before
            process.communicate()
        return grown / (PEERS - 1)


if __name__ == "__main__":
    if sys.argv[1:]:
        rim(bytes.fromhex(sys.argv[1]))
        sys.exit()
    for measure in (submit_us, submit_paged_us, peer_kib):
        print(measure.__name__, f"{measure():.3f}")
    sys.stdout.flush()
