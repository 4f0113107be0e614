"""Engines of this process and of others, which tests drive by the same words.

A Party is an engine with its memory and peers. Nothing that it does waits: a test asks again until
it is so, and everybody makes progress meanwhile. Run as a program, this serves parties to the test
that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pgctl.engine import PgError, TransferEngine

DEADLINE_S = 60.0


def pattern(length, seed=0):
    """Bytes that differ from their neighbours and from other seeds'."""
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


class Party:
    def __init__(self, **config):
        self.engine = TransferEngine(**config)
        self.peers = []
        self.regions = []
        self.expected = []

    def progress(self):
        self.engine.progress()

    def address(self):
        return self.engine.main_address()

    def know(self, address):
        self.peers.append(self.engine.add_peer(address))

    def alloc(self, length, kind="engine"):
        """A region of zeros; its number and MrDesc."""
        make = {
            "engine": lambda: self.engine.alloc_mr(length),
            "numpy": lambda: self.engine.reg_mr(np.zeros(length, np.uint8)),
            "bytearray": lambda: self.engine.reg_mr(bytearray(length)),
        }
        self.regions.append(make[kind]())
        return len(self.regions) - 1, self.regions[-1].desc

    def read(self, region):
        return self.regions[region].numpy().tobytes()

    def forget(self, region):
        self.regions[region].close()

    def expect(self, imm, n):
        self.expected.append(self.engine.expect_imm_count(imm, n))
        return len(self.expected) - 1

    def status(self, expectation):
        """None until it ends."""
        op = self.expected[expectation]
        op.done()
        return op.status

    def value(self, imm):
        return self.engine.counter(imm).value

    def imms_in(self):
        return sum(nic.imms_in for nic in self.engine.stats())

    def post_receives(self, length, count):
        self.engine.submit_recvs(length, count)

    def messages(self):
        """Those that have arrived; a PgError for one that was cut."""
        return [event.error or event.data for event in self.engine.poll_events()]

    def submit_barrier(self, imm):
        """To every peer."""
        self.expected.append(self.engine.submit_barrier(imm, self.peers))
        return len(self.expected) - 1

    def path(self, peer=0):
        return self.peers[peer].info().path

    def close(self):
        self.engine.close()


class RemoteParty:
    """A Party of another process."""

    def __init__(self, process, key):
        self.process = process
        self._key = key

    def __getattr__(self, name):
        return lambda *args: self.process.call(self._key, name, *args)


class Process:
    """Another process that has parties. Its engines make progress while it has any."""

    def __init__(self, env=None):
        ours, theirs = socket.socketpair()
        with theirs:
            self.child = subprocess.Popen(
                [sys.executable, Path(__file__), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | (env or {}),
            )
        self.pipe = Connection(ours.detach())
        self.parties = 0

    def party(self, **config):
        self.call(None, "make", config)
        self.parties += 1
        return RemoteParty(self, self.parties - 1)

    def call(self, key, name, *args):
        self.pipe.send((key, name, args))
        if not self.pipe.poll(DEADLINE_S):
            raise TimeoutError(f"no answer to {name} from process {self.child.pid}")
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        self.pipe.close()
        try:
            self.child.wait(DEADLINE_S)
        finally:
            self.kill()


def serve(pipe):
    parties = []
    while True:
        open_ones = [party for party in parties if not party.engine.closed]
        if pipe.poll(0 if open_ones else None):
            try:
                key, name, args = pipe.recv()
            except EOFError:
                return
            try:
                if name == "make":
                    answer = parties.append(Party(**args[0]))
                else:
                    answer = getattr(parties[key], name)(*args)
            except (PgError, TypeError) as error:
                answer = error
            pipe.send(answer)
        else:
            for party in open_ones:
                party.progress()


class World:
    """The parties of one test."""

    def __init__(self):
        self.parties = []
        self.processes = []

    def process(self, env=None):
        self.processes.append(Process(env))
        return self.processes[-1]

    def party(self, **config):
        self.parties.append(Party(**config))
        return self.parties[-1]

    def until(self, condition, what="it"):
        """Make progress until `condition()`."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen in {DEADLINE_S} s"
            for party in self.parties:
                if not party.engine.closed:
                    party.progress()

    def finish(self, *ops):
        """Make progress until every Op has ended well."""
        for op in ops:
            self.until(op.done, repr(op))
            op.wait()

    def fired(self, party, expectation):
        """Make progress until an expectation has fired."""
        self.until(lambda: party.status(expectation) is not None, "the expectation")
        assert party.status(expectation) == 0

    def close(self):
        for party in self.parties:
            party.close()
        for process in self.processes:
            process.stop()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
