"""A process writes pages into another's memory, which counts them.

Run: python examples/paged_counter.py
"""

import multiprocessing

import numpy as np

from pgctl import MrDesc, NetAddr, TransferEngine
from pgctl.engine import Pages

PAGE, PAGES, IMM = 4096, 64, 7


def sender(pipe):
    address, desc = pipe.recv()
    with TransferEngine() as engine:
        engine.add_peer(NetAddr(address))
        source = engine.alloc_mr(PAGES * PAGE)
        places = np.random.default_rng().permutation(PAGES).astype(np.uint32)
        source.numpy().reshape(PAGES, PAGE)[:] = places[:, None]
        pages = Pages(source, np.arange(PAGES, dtype=np.uint32))
        engine.submit_paged_writes(PAGE, IMM, pages, Pages(MrDesc(desc), places)).wait()


def receiver(pipe):
    with TransferEngine() as engine:
        cache = engine.alloc_mr(PAGES * PAGE)
        pipe.send((bytes(engine.main_address()), bytes(cache.desc)))
        engine.counter(IMM).wait(PAGES, 30)  # all are there, in whatever order they came
        firsts = cache.numpy().reshape(PAGES, PAGE)[:, 0]
        print(PAGES, "pages, each in its place:", (firsts == np.arange(PAGES)).all())


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=sender, args=(there,)).start()
    receiver(here)
