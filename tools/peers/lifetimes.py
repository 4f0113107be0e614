"""What peers cost in time, as lines of "name value": to meet, to miss, and to keep.

The others are engines of other processes, each with a worker that sleeps when there is nothing.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgctl import TransferEngine

MEETINGS = 100
DEATHS = 10
IDLE_PEERS = 64
IDLE_S = 5.0


@contextmanager
def others(n: int, transport: str) -> Iterator[tuple[int, list[tuple[bytes, bytes]]]]:
    """A process with n engines: its pid, their addresses and a region of each."""
    command = [sys.executable, __file__, "--transport", transport, "--serve", str(n)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(n)]
        try:
            yield process.pid, [(bytes.fromhex(a), bytes.fromhex(d)) for a, d in lines]
        finally:
            process.kill()


def serve(n: int, transport: str) -> None:
    engines = [TransferEngine(transport=transport, progress="worker") for _ in range(n)]
    regions = [engine.alloc_mr(4096) for engine in engines]
    for engine, region in zip(engines, regions, strict=True):
        print(engine.main_address().hex(), region.desc.hex(), flush=True)
    sys.stdin.read()


def meet_ms(transport: str) -> float:
    """From knowing only the address of a peer to 8 bytes of ours in its memory."""
    times = []
    ours = TransferEngine(transport=transport, progress="inline")
    with others(MEETINGS, transport) as (_, known), ours as engine:
        source = engine.alloc_mr(4096)
        for address, desc in known:
            start = time.perf_counter()
            engine.add_peer(address)
            engine.submit_single_write(8, 1, source, engine.import_mr(desc)).wait()
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def death_ms(transport: str) -> float:
    """From SIGKILL of a peer's process to the news of it."""
    times = []
    for _ in range(DEATHS):
        ours = TransferEngine(transport=transport, progress="inline")
        with others(1, transport) as (pid, known), ours as engine:
            engine.add_peer(known[0][0]).connect()
            os.kill(pid, signal.SIGKILL)
            start = time.perf_counter()
            while all(event.kind != "peer_down" for event in engine.wait_events(1)):
                pass
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def idle_percent(transport: str) -> float:
    """Of a core, for an engine with a worker, while nothing happens."""
    ours = TransferEngine(transport=transport, progress="worker")
    with others(IDLE_PEERS, transport) as (_, known), ours as engine:
        for address, _desc in known:
            engine.add_peer(address).connect()
        time.sleep(1.0)  # until all are asleep
        cpu, wall = time.process_time(), time.monotonic()
        time.sleep(IDLE_S)
        return (time.process_time() - cpu) / (time.monotonic() - wall) * 100


MEASURES: dict[str, Callable[[str], float]] = {
    measure.__name__: measure for measure in (meet_ms, death_ms, idle_percent)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", default="", help="the first that this machine can run")
    parser.add_argument("--serve", type=int, metavar="N", help="be the others")
    parser.add_argument("measures", nargs="*", default=list(MEASURES))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.transport)
        return
    for name in options.measures:
        print(name, f"{MEASURES[name](options.transport):.3f}", flush=True)


if __name__ == "__main__":
    main()
