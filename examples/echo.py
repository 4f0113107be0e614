"""Two processes that send each other messages. Run: python examples/echo.py"""

import multiprocessing

from pgctl import NetAddr, TransferEngine


def server(pipe):
    with TransferEngine() as engine:
        engine.submit_recvs(4096, 16)  # room for messages
        pipe.send(bytes(engine.main_address()))
        data = b""
        while data != b"goodbye":
            peer, data = engine.recv(30)
            engine.submit_send(peer, data.upper()).wait()


def client(pipe):
    with TransferEngine() as engine:
        engine.submit_recvs(4096, 16)
        peer = engine.add_peer(NetAddr(pipe.recv()))
        for word in (b"hello", b"goodbye"):
            engine.submit_send(peer, word).wait()
            print(word.decode(), "->", engine.recv(30)[1].decode())


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=server, args=(there,))
    child.start()
    client(here)
    child.join()
