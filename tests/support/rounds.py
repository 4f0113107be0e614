"""Checked writes without end: a place is written to again once its reader has compared it.

So a write that is lost stops its place, and one that is counted twice is compared with bytes that
have not come.
"""

import numpy as np

from pgctl.engine import PgError

DATA, ANSWER = 0x1000, 0x2000
"""Immediates of the first place."""


def content(place, n, length):
    """Of the n-th write to a place."""
    return np.random.default_rng((place, n)).integers(0, 256, length, np.uint8)


class Side:
    """One of both; it stops at its first failure."""

    def __init__(self, engine, peer, places):
        self.engine, self.peer = engine, peer
        self.failures = []
        self.n = [0] * places
        self.under_way = [self.begin(place) for place in range(places)]

    def go_on(self):
        try:
            for place, ops in enumerate(self.under_way):
                if not self.failures and all(op.done() for op in ops):
                    for op in ops:
                        op.wait(0)
                    self.end(place)
                    self.n[place] += 1
                    self.under_way[place] = self.begin(place)
        except PgError as error:
            self.failures.append(str(error))


class Writer(Side):
    def __init__(self, engine, peer, dst, places, length):
        self.src, self.dst, self.length = engine.alloc_mr(places * length), dst, length
        super().__init__(engine, peer, places)

    def begin(self, place):
        """Its write, and the answer to that."""
        at = place * self.length
        self.src.numpy()[at : at + self.length] = content(place, self.n[place], self.length)
        answer = self.engine.expect_imm_count(ANSWER + place, 1, from_=[self.peer])
        source, target = (self.src, at), (self.dst, at)
        return answer, self.engine.submit_single_write(self.length, DATA + place, source, target)

    def end(self, place):
        pass


class Reader(Side):
    def __init__(self, engine, peer, region, places):
        self.region, self.length = region, len(region) // places
        super().__init__(engine, peer, places)

    def begin(self, place):
        """The next write, and the answer to the one before."""
        next_write = self.engine.expect_imm_count(DATA + place, 1, from_=[self.peer])
        if not self.n[place]:
            return (next_write,)
        return next_write, self.engine.submit_barrier(ANSWER + place, [self.peer])

    def end(self, place):
        n, at = self.n[place], place * self.length
        got = self.region.numpy()[at : at + self.length]
        wrong = np.count_nonzero(got != content(place, n, self.length))
        if wrong:
            self.failures.append(f"write {n} to place {place} differs in {wrong} bytes")
