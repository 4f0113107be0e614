"""Four processes: each scatters a slice to each other one, then all meet at a barrier.

Run: python examples/scatter_barrier.py
"""

import multiprocessing

from pgctl import MrDesc, NetAddr, TransferEngine
from pgctl.engine import Slice

RANKS, SIZE, DATA, MET = 4, 1024, 1, 2


def rank(me, pipe):
    with TransferEngine() as engine:
        mine, theirs = engine.alloc_mr(RANKS * SIZE), engine.alloc_mr(RANKS * SIZE)
        pipe.send((bytes(engine.main_address()), bytes(theirs.desc)))
        everybody = pipe.recv()
        others = [i for i in range(RANKS) if i != me]
        group = engine.add_peer_group([NetAddr(everybody[i][0]) for i in others])
        mine.numpy().reshape(RANKS, SIZE)[:] = [[10 * me + i] for i in range(RANKS)]
        dsts = [Slice(SIZE, i * SIZE, MrDesc(everybody[i][1]), me * SIZE) for i in others]
        engine.submit_scatter(DATA, mine, dsts, group=group).wait()
        engine.counter(DATA).wait(len(others), 30, from_=group)
        pipe.send([int(theirs.numpy()[i * SIZE]) for i in others])
        engine.submit_barrier(MET, group).wait()
        engine.counter(MET).wait(len(others), 30, from_=group)


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(RANKS)]
    for me, (_, there) in enumerate(pipes):
        spawn.Process(target=rank, args=(me, there)).start()
    everybody = [here.recv() for here, _ in pipes]
    for here, _ in pipes:
        here.send(everybody)
    for me, (here, _) in enumerate(pipes):
        print("rank", me, "has", *here.recv())
