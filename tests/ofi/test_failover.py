"""NICs that go down and come back under the whole engine, over the stand-in for EFA.

What was in flight then has one of four fates, and who sent it hears of it late or not at all.
"""

import errno
import random
import time

import numpy as np
import pytest
from fake_efa import Sides
from parties import pattern

from pgctl.engine import Barrier, MrDesc, PagedWrites, Pages, Scatter, Send, Slice, Write

FATES = "lost", "placed", "counted", "late"
DEADS = "silent", "failed"
SHAPES = (1, 2), (2, 1), (2, 2), (1, 4), (3, 3), (4, 2), (2, 3), (4, 4)


def manners(fate, dead, seed):
    return f"fate={fate},dead={dead},seed={seed}"


@pytest.mark.parametrize("dead", DEADS)
@pytest.mark.parametrize("fate", FATES)
def test_each_nic_goes_down_and_comes_back(world, fabric, place, fate, dead):
    seed = FATES.index(fate) * 4 + DEADS.index(dead) * 2 + (place == "one process")
    fabric.manners(manners(fate, dead, seed))
    s = Sides(world, fabric, SHAPES[seed % len(SHAPES)], place)
    s.start_rounds()
    s.more_rounds(2)
    whole = s.pairs()
    for side in 0, 1:
        for i, nic in enumerate(s.nics[side]):
            if len(s.nics[side]) == 1:
                continue
            fabric.sysfs.down(nic)
            assert s.told(side, "nic_down") == i
            s.more_rounds(3)
            assert not any(pair[side] == i for pair in s.pairs())
            fabric.sysfs.up(nic)
            assert s.told(side, "nic_up") == i
            world.until(lambda: s.pairs() == whole, "the connections of before")
            s.carries(side)
    s.more_rounds(2)


@pytest.mark.parametrize("seed", range(4))
def test_a_nic_of_either_side_goes_at_once(world, fabric, place, seed):
    fabric.manners(f"seed={seed}")
    some = random.Random(seed)
    s = Sides(world, fabric, [(2, 2), (3, 2), (2, 4), (4, 3)][seed], place)
    s.start_rounds()
    s.more_rounds(2)
    for _ in range(3):
        i, j = (some.randrange(len(nics)) for nics in s.nics)
        fabric.sysfs.down(s.nics[0][i], s.nics[1][j])
        assert (s.told(0, "nic_down"), s.told(1, "nic_down")) == (i, j)
        s.more_rounds(2)
        fabric.sysfs.up(s.nics[0][i], s.nics[1][j])
        assert (s.told(0, "nic_up"), s.told(1, "nic_up")) == (i, j)
        s.carries(0)
        s.carries(1)


@pytest.mark.parametrize("side", [0, 1], ids=["writer", "reader"])
@pytest.mark.parametrize("dead", DEADS)
def test_who_has_no_nic_left_is_told_so_and_so_is_its_peer(world, fabric, place, dead, side):
    fabric.manners(f"dead={dead}")
    s = Sides(world, fabric, (2, 3), place)
    s.start_rounds()
    s.more_rounds(2)
    fabric.sysfs.down(*s.nics[side])
    world.until(lambda: s.a.info().status and s.b.info().status, "the end")
    for party in s.parties:
        assert party.info().status == -errno.ENETDOWN
        kind, _, why = party.news()[-1]
        assert kind == "peer_down"
        assert "no NIC is left by which it is reached" in why
    world.until(lambda: s.a.rounds()[1], "an error")
    assert "no NIC is left by which it is reached" in s.a.rounds()[1][0]


@pytest.mark.parametrize("side", [0, 1], ids=["writer", "reader"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_nic_is_down_while_they_connect(world, fabric, place, when, side):
    nic = 4 * side + 1
    if when == "before":
        fabric.sysfs.down(nic)
    s = Sides(world, fabric, (2, 2), place)
    fabric.sysfs.down(nic)
    s.start_rounds()
    s.more_rounds(3)
    world.until(lambda: not any(pair[side] == 1 for pair in s.pairs()), "that nothing goes there")
    s.more_rounds(1)
    fabric.sysfs.up(nic)
    assert s.told(side, "nic_up") == 1
    s.carries(side)
    s.more_rounds(2)


# ---- All kinds of operations


class Kinds:
    """Rounds in which a writes in every way at once to b, where all is checked and counted."""

    IMM = 0x3000
    PAGES, PAGE, SLICES, SLICE, WRITE, MESSAGES = 24, 5000, 3, 70_001, 200_003, 5
    SIZE = PAGES * PAGE + SLICES * SLICE + WRITE

    def __init__(self, s):
        self.s, self.n, self.arrived = s, 0, []
        self.content = bytes(self.SIZE)
        self.src = s.a.engine.alloc_mr(self.SIZE)
        self.sink, desc = s.b.alloc(self.SIZE)
        self.dst = s.a.engine.import_mr(bytes(desc))
        s.b.post_receives(64, 4)  # fewer than there are messages: some wait
        self.order = np.random.default_rng(0).permutation(self.PAGES).astype(np.uint32)

    def work(self):
        imm, peer, pages = self.IMM, self.s.a.peers[0], self.PAGES * self.PAGE
        slices = [
            Slice(self.SLICE, at, self.dst, at)
            for at in range(pages, pages + self.SLICES * self.SLICE, self.SLICE)
        ]
        at = self.SIZE - self.WRITE
        return [
            PagedWrites(
                self.PAGE, imm, Pages(self.src, self.order), Pages(self.dst, self.order, self.PAGE)
            ),
            Scatter(imm + 1, self.src, slices),
            Write(self.WRITE, imm + 2, (self.src, at), (self.dst, at)),
            Barrier(imm + 3, [peer]),
            *(Send(peer, f"{self.n} {i}".encode()) for i in range(self.MESSAGES)),
        ]

    def round(self, trouble):
        """What happens once all is under way."""
        s = self.s
        expected = {
            self.IMM: self.PAGES, self.IMM + 1: self.SLICES, self.IMM + 2: 1, self.IMM + 3: 1,
        }  # fmt: skip
        assert s.b.read(self.sink) == self.content
        content = pattern(self.SIZE, self.n)
        self.content = content.tobytes()
        self.src.numpy()[:] = content
        fired = [s.b.expect(imm, n) for imm, n in expected.items()]
        ops = s.a.engine.submit_batch(self.work())
        trouble()
        for expectation in fired:
            s.world.until(lambda e=expectation: self.has_fired(e), "the expectation")
        assert s.b.read(self.sink) == self.content
        self.take_messages()
        s.world.finish(*ops)
        assert [s.b.value(imm) for imm in expected] == [0] * len(expected)
        self.n += 1

    def has_fired(self, expectation):
        """Messages are taken meanwhile: a connection is not over before they are."""
        self.arrived += self.s.b.messages()
        assert self.s.b.status(expectation) in {None, 0}
        return self.s.b.status(expectation) == 0

    def take_messages(self):
        sent = [f"{self.n} {i}".encode() for i in range(self.MESSAGES)]

        def all_have_come():
            self.arrived += self.s.b.messages()
            return len(self.arrived) >= len(sent)

        self.s.world.until(all_have_come, "the messages")
        assert sorted(self.arrived) == sent  # once and whole; in order only where there is one NIC
        self.arrived.clear()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("seed", range(3))
def test_everything_is_exact_while_nics_go_and_come(world, fabric, place, fate, seed):
    """One NIC of each side stays up; of the others one changes with each round."""
    some = random.Random(f"{fate} {seed}")
    shape = some.choice([(1, 4), (4, 1), (2, 2), (3, 4), (4, 4)])
    fabric.manners(f"fate={fate},seed={seed}")
    s = Sides(world, fabric, shape, place)
    kinds = Kinds(s)
    nics = [nic for its in s.nics for nic in its[1:]]
    down = set()

    def change():
        nic = some.choice(nics)
        (fabric.sysfs.up if nic in down else fabric.sysfs.down)(nic)
        down.symmetric_difference_update({nic})

    for _ in range(12):
        kinds.round(change)
        for _ in range(3):  # soon: into memory where something may land late
            kinds.round(lambda: None)
    fabric.sysfs.up(*nics)
    kinds.round(lambda: None)
    for party in s.parties:
        fence = party.fence()
        world.fired(party, fence)
        assert party.info().status == 0


# ---- Nobody says that a NIC is dead


def test_who_is_not_answered_over_a_nic_is_told_what_to_look_at(world, fabric, tmp_path):
    """The writer's NIC swallows what it is given; its control stream lives, sysfs says nothing."""
    fabric.manners("dead=silent,fate=lost")
    elsewhere = tmp_path / "nothing"
    s = Sides(world, fabric, (1, 1), "two processes", sysfs=elsewhere, op_timeout=1.0)
    src, (_, desc) = s.a.engine.alloc_mr(64), s.b.alloc(64)
    world.finish(s.a.engine.submit_single_write(64, 1, src, MrDesc(desc)))
    fabric.sysfs.down(0)
    time.sleep(0.01)  # the stand-in looks each millisecond
    op = s.a.engine.submit_single_write(64, 1, src, MrDesc(desc), cookie="its")
    ended = []  # a flag has no room for a sentence
    world.until(lambda: ended.extend(s.a.events("op")) or ended, "the end")
    said = str(ended[0].error)
    assert op.status == -errno.ETIMEDOUT
    assert f"peer {s.a.info().incarnation[:8]}" in said
    assert "over fake_efa_0: no progress for 1000 ms" in said
    assert "a security group that allows all traffic to and from itself" in said


def test_what_a_nic_swallows_goes_over_another(world, fabric, place):
    """Only that nothing ends tells of it, and takes it for a while."""
    fabric.manners("dead=silent")
    times = {"heartbeat": 0.05, "silent": 0.3, "dead": 0.5}
    s = Sides(world, fabric, (2, 2), place, sysfs=fabric.sysfs.path / "none", **times)
    s.start_rounds()
    s.more_rounds(3)
    fabric.sysfs.down(0)
    s.more_rounds(5)
    assert s.a.stats()[0].failovers
    fabric.sysfs.up(0)
    s.carries(0)


# ---- Connections that break while their NICs are up


@pytest.mark.parametrize("shape", [(4, 1), (3, 2)], ids=["4x1", "3x2"])
def test_what_runs_out_of_time_costs_others_nothing(world, fabric, place, shape):
    """Its connection breaks, and others that are in flight there are sent again."""
    s = Sides(world, fabric, shape, place)
    kinds = Kinds(s)
    src, (_, aside) = s.a.engine.alloc_mr(1000), s.b.alloc(1000)
    target = s.a.engine.import_mr(bytes(aside))

    def broken():
        return sum(nic.failovers for nic in s.a.stats())

    def hurry():
        before = broken()
        s.b.rest()  # nothing lands meanwhile
        op = s.a.engine.submit_single_write(1000, None, src, target, limit=0.001)
        world.until(lambda: broken() > before or op.done(), "the limit")
        s.b.rest(False)
        world.until(op.done, "its end")
        assert op.status == -errno.ETIMEDOUT

    for _ in range(10):
        kinds.round(hurry)
    assert broken()
    assert s.a.info().status == s.b.info().status == 0
