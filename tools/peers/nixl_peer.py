"""NIXL writes between two processes: prints one "metric value" line per measurement.

usage: nixl_peer.py CORE0 CORE1 thread|poll [BACKEND_PARAMETER=VALUE...]
  thread  each side has NIXL's progress thread, and the target sleeps
  poll    no progress thread: the target asks for notifications in a loop
"""

import ctypes
import mmap
import multiprocessing
import os
import random
import statistics
import sys
import time
import zlib
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import nixl_cu12._bindings as bindings  # type: ignore[import-not-found]
from nixl_cu12._api import nixl_agent, nixl_agent_config  # type: ignore[import-not-found]

SIZES = (4096, 64 << 10, 1 << 20, 32 << 20)
PAGED = ((4096, 4096), (64 << 10, 512), (1 << 20, 32))
INBOUND, OUTBOUND, REGION = 0, 32 << 20, 64 << 20  # the peer writes into the lower half
WINDOW_BYTES, WINDOW_MAX = 16 << 20, 1024
MEASURE_S = 0.2


class Side:
    """One agent, its registered memory, and the peer that it writes to."""

    def __init__(self, name: str, core: int, mode: str, parameters: dict[str, str]) -> None:
        os.sched_setaffinity(0, {core})
        self.polls = mode == "poll"
        config = nixl_agent_config(enable_prog_thread=not self.polls, backends=[])
        self.agent = nixl_agent(name, config)
        self.agent.create_backend("UCX", parameters)
        self.memory = mmap.mmap(-1, REGION)
        self.bytes = memoryview(self.memory)
        self.bytes[:] = bytes(REGION)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        whole = [(self.address, REGION, 0, "")]
        self.agent.register_memory(self.agent.get_reg_descs(whole, "DRAM"))
        self.remote, self.peer = 0, ""
        self.requests: list[Any] = []

    def meet(self, pipe: Connection) -> None:
        pipe.send((self.address, self.agent.get_agent_metadata()))
        self.remote, metadata = pipe.recv()
        self.peer = self.agent.add_remote_agent(metadata)

    def request(self, size: int, targets: list[int], step: int = 0) -> int:
        """A write of many parts: part i from outbound byte i * step to byte targets[i]."""
        origin = self.address + OUTBOUND
        local = [(origin + i * step, size, 0) for i in range(len(targets))]
        remote = [(self.remote + INBOUND + target, size, 0) for target in targets]
        descriptors = [self.agent.get_xfer_descs(parts, "DRAM") for parts in (local, remote)]
        self.requests.append(self.agent.initialize_xfer("WRITE", *descriptors, self.peer))
        return int(self.requests[-1]._handle)  # noqa: SLF001  the wrapper costs half a microsecond

    def write(self, request: int) -> None:
        agent, done = self.agent.agent, bindings.NIXL_SUCCESS
        if agent.postXferReq(request) != done:
            while agent.getXferStatus(request) != done:
                pass


def leave() -> NoReturn:
    """Without the library's own exit handlers, which crash in this version."""
    sys.stdout.flush()
    os._exit(0)


def target(pipe: Connection, core: int, mode: str, parameters: dict[str, str]) -> None:
    side = Side("target", core, mode, parameters)
    side.meet(pipe)
    while True:
        while side.polls and not pipe.poll():
            for _ in range(1000):
                side.agent.agent.getNotifs({})
        length = pipe.recv()
        if not length:
            leave()
        pipe.send(zlib.crc32(side.bytes[INBOUND : INBOUND + length]))


def write_s(side: Side, request: int) -> float:
    """Median time of one request, from the call until it is complete; the first one connects."""
    side.write(request)
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) < 4 or time.perf_counter() - begin < MEASURE_S:
        start = time.perf_counter()
        side.write(request)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def paged_s(side: Side, pipe: Connection, size: int, pages: int) -> float:
    """As write_s, from consecutive pages to shuffled ones; the target's bytes are checked."""
    to = list(range(pages))
    random.Random(size).shuffle(to)
    wanted = bytearray(size * pages)
    for i, page in enumerate(to):
        content = bytes([i % 251 + 1]) * size
        side.bytes[OUTBOUND + i * size : OUTBOUND + (i + 1) * size] = content
        wanted[page * size : (page + 1) * size] = content
    took = write_s(side, side.request(size, [page * size for page in to], size))
    pipe.send(len(wanted))
    if pipe.recv() != zlib.crc32(wanted):
        raise SystemExit("a page arrived with the wrong bytes")
    return took


def measure(side: Side, pipe: Connection) -> None:
    print("lat_us.8", write_s(side, side.request(8, [0])) * 1e6)
    for size in (8, *SIZES):
        parts = max(1, min(WINDOW_MAX, WINDOW_BYTES // size))
        took = write_s(side, side.request(size, [0] * parts))
        if size == 8:
            print("rate_mop_s.8", parts / took / 1e6)
        else:
            print(f"bw_gbyte_s.{size}", size * parts / took / 1e9)
    for size, pages in PAGED:
        took = paged_s(side, pipe, size, pages)
        print(f"paged_gbyte_s.{size}", size * pages / took / 1e9)


def main() -> None:
    core0, core1, mode, *settings = sys.argv[1:]
    parameters = dict(setting.split("=", 1) for setting in settings)
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    arguments = (end, int(core1), mode, parameters)
    context.Process(target=target, args=arguments, daemon=True).start()
    end.close()  # so that the target's death is seen
    side = Side("initiator", int(core0), mode, parameters)
    side.meet(pipe)
    measure(side, pipe)
    pipe.send(0)
    leave()


if __name__ == "__main__":
    main()
