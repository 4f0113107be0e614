"""Engines of this process and of others, which tests drive by the same words.

A Party is an engine with its memory and peers. Nothing that it does waits: a test asks again until
it is so, and everybody makes progress meanwhile. Run as a program, this serves parties to the test
that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from lab import there
from rounds import Reader, Writer

from pgctl.engine import MrDesc, PgError, TransferEngine

DEADLINE_S = 60.0


def pattern(length, seed=0):
    """Bytes that differ from their neighbours and from other seeds'."""
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


class Party:
    def __init__(self, **config):
        # Parties of one process are closed one after the other: their peers make no progress.
        self.engine = TransferEngine(**{"goodbye": 0.05} | config)
        self.peers = []
        self.regions = []
        self.expected = []
        self.seen = []
        self.flow = None
        self.resting = False

    def rest(self, resting=True):
        """Make no progress, as an inline engine whose program is busy."""
        self.resting = resting

    def progress(self):
        if self.resting:
            return
        self.engine.progress()
        if self.flow:
            self.flow.go_on()

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

    def fill(self, region, seed):
        memory = self.regions[region].numpy()
        memory[:] = pattern(len(memory), seed)

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
        return [event.error or event.data for event in self.events("recv")]

    def events(self, *kinds):
        """Those of these kinds that have come; the others wait to be asked for."""
        self.seen += self.engine.poll_events()
        found = [event for event in self.seen if event.kind in kinds]
        self.seen = [event for event in self.seen if event.kind not in kinds]
        return found

    def submit_barrier(self, imm):
        """To every peer."""
        self.expected.append(self.engine.submit_barrier(imm, self.peers))
        return len(self.expected) - 1

    def submit_write(self, length, imm, region, desc):
        """From the beginning of a region."""
        op = self.engine.submit_single_write(length, imm, self.regions[region], MrDesc(desc))
        self.expected.append(op)
        return len(self.expected) - 1

    def start_flow(self, desc, length):
        """Write there all the time, different bytes each time, until it fails."""
        self.flow = Flow(self.engine, self.engine.import_mr(desc), length)

    def flow_ended(self):
        """What it failed with, and every write after that; [] while it goes on."""
        return self.flow.failures

    def release_flow(self):
        """Stop, and forget the region that it writes to; whether that is done."""
        if not self.flow.ended():
            return False
        self.flow.dst.close()
        self.flow = None
        return True

    def start_rounds(self, desc, places, length):
        """Write to a peer that reads rounds; see rounds.py."""
        dst = self.engine.import_mr(desc)
        self.flow = Writer(self.engine, self.peers[0], dst, places, length)

    def read_rounds(self, region, places):
        self.flow = Reader(self.engine, self.peers[0], self.regions[region], places)

    def rounds(self):
        """How many were done at the place that is the least far, and what went wrong."""
        return min(self.flow.n), self.flow.failures

    def fence(self, peer=0):
        self.expected.append(self.engine.fence(self.peers[peer]))
        return len(self.expected) - 1

    def news(self):
        """Events of peers: the kind, which of ours, and why."""
        kinds = "peer_up", "peer_down", "peer_silent"
        return [
            (event.kind, self.peers.index(event.peer), str(event.error or ""))
            for event in self.events(*kinds)
        ]

    def nic_news(self, kind):
        """Which NICs are "nic_up" or "nic_down"."""
        return [event.nic for event in self.events(kind)]

    def stats(self):
        return self.engine.stats()

    def info(self, peer=0):
        return self.peers[peer].info()

    def connections(self, peer=0):
        return self.peers[peer].connections()

    def dump(self):
        return self.engine.dump()

    def path(self, peer=0):
        return self.peers[peer].info().path

    def close(self):
        self.engine.close()


class Flow:
    """A few writes in flight at any time."""

    DEPTH = 8

    def __init__(self, engine, dst, length):
        self.engine, self.dst, self.length = engine, dst, length
        self.sources = [engine.alloc_mr(length) for _ in range(2)]
        for seed, source in enumerate(self.sources):
            source.numpy()[:] = pattern(length, seed)
        self.ops = []
        self.failures = []
        self.n = 0
        self.ending = False

    def go_on(self):
        for op in [op for op in self.ops if op.seen()]:
            self.ops.remove(op)
            if op.status:
                self.failures.append(op.error)
        while len(self.ops) < self.DEPTH and len(self.failures) < 100 and not self.ending:
            source = self.sources[self.n % 2]
            self.n += 1
            try:
                self.ops.append(
                    self.engine.submit_single_write(self.length, None, source, self.dst)
                )
            except PgError as error:
                self.failures.append(error)

    def ended(self):
        """Submit no more; whether all have ended, for which some need their target's progress."""
        self.ending = True
        self.go_on()
        return not self.ops


class RemoteParty:
    """A Party of another process."""

    def __init__(self, process, key):
        self.process = process
        self._key = key

    def __getattr__(self, name):
        return lambda *args: self.process.call(self._key, name, *args)


class Process:
    """Another process that has parties. Its engines make progress while it has any."""

    def __init__(self, host=None):
        """host: of lab.py."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
        with theirs:
            self.child = subprocess.Popen(there(host, *command), pass_fds=[theirs.fileno()])
        self.host = host
        self.pipe = Connection(ours.detach())
        self.parties = 0

    def begin(self, environ):
        """A test's, whatever others have done here before."""
        self.call(None, "begin", environ)
        self.parties = 0

    def party(self, **config):
        self.call(None, "make", config)
        self.parties += 1
        return RemoteParty(self, self.parties - 1)

    def call(self, key, name, *args):
        self.pipe.send((key, name, args))
        if not self.pipe.poll(DEADLINE_S):
            self.kill()  # what it says later would be taken for another answer
            raise TimeoutError(f"no answer to {name} from process {self.child.pid}")
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def suspend(self):
        """Returns once it has stopped."""
        self.child.send_signal(signal.SIGSTOP)
        os.waitpid(self.child.pid, os.WUNTRACED)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    def kill(self):
        self.child.kill()
        self.child.wait()

    @property
    def killed(self):
        return self.child.returncode is not None

    def end(self):
        """Close its parties."""
        self.resume()
        self.call(None, "end")

    def close(self):
        self.pipe.close()
        self.kill()


class Pool:
    """Processes that no test has now: to start one takes longer than most tests do."""

    def __init__(self):
        self.idle = []

    def take(self, host, environ):
        """Of this host if there is one, else a new one."""
        process = next((each for each in self.idle if each.host == host), None)
        if process:
            self.idle.remove(process)
        else:
            process = Process(host)
        process.begin(environ)
        return process

    def give_back(self, process):
        if process.killed:
            process.close()
            return
        try:
            process.end()
        except BaseException:
            process.close()
            raise
        self.idle.append(process)

    def close(self):
        for process in self.idle:
            process.close()
        self.idle.clear()


def begin(environ):
    os.environ.clear()
    os.environ.update(environ)


def end(parties):
    for party in parties:
        party.close()
    parties.clear()


def serve(pipe):
    parties, turn = [], 0
    while True:
        if pipe.poll(0 if any(not party.engine.closed for party in parties) else None):
            try:
                key, name, args = pipe.recv()
            except EOFError:
                return
            try:
                if name == "make":
                    answer = parties.append(Party(**args[0]))
                elif name == "begin":
                    answer = begin(*args)
                elif name == "end":
                    answer = end(parties)
                else:
                    answer = getattr(parties[key], name)(*args)
            except (PgError, TypeError) as error:
                answer = error
            pipe.send(answer)
        else:  # of a crowd one at a time, so that questions do not wait for all
            turn = (turn + 1) % len(parties)
            if not parties[turn].engine.closed:
                parties[turn].progress()


class World:
    """The parties of one test."""

    def __init__(self, pool):
        self.pool = pool
        self.parties = []
        self.processes = []

    def process(self, env=None, host=None):
        self.processes.append(self.pool.take(host, os.environ | (env or {})))
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
        with contextlib.ExitStack() as stack:
            for process in self.processes:
                stack.callback(self.pool.give_back, process)
            for party in self.parties:
                stack.callback(party.close)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
