"""A server that writes its answers into its clients. Run: python examples/asyncio_server.py"""

import asyncio
import multiprocessing

from pgctl import MrDesc, NetAddr, TransferEngine

CLIENTS, SIZE, IMM = 3, 1 << 16, 1


async def serve(queue):
    with TransferEngine() as engine:
        answer = engine.alloc_mr(SIZE)
        answer.numpy()[:] = 42
        engine.submit_recvs(4096, 16)
        for _ in range(CLIENTS):
            queue.put(bytes(engine.main_address()))
        requests = [await engine.received() for _ in range(CLIENTS)]
        await asyncio.gather(*[engine.write(SIZE, IMM, answer, MrDesc(d)) for _, d in requests])
        for _ in range(CLIENTS):
            print((await engine.received())[1].decode())


def client(queue):
    with TransferEngine() as engine:
        mine = engine.alloc_mr(SIZE)
        peer = engine.add_peer(NetAddr(queue.get()))
        engine.submit_send(peer, mine.desc).wait()
        engine.counter(IMM).wait(1, 30)
        engine.submit_send(peer, b"a client has %d in each byte" % mine.numpy().mean()).wait()


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    addresses = spawn.Queue()
    for _ in range(CLIENTS):
        spawn.Process(target=client, args=(addresses,)).start()
    asyncio.run(serve(addresses))
