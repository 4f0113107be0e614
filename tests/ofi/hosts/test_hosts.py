"""Two hosts with four NICs each: what goes over which, and what happens when one goes away."""

import pytest

MB = 1 << 20
WRITES = 24


def grown(before, after):
    return [now - then for then, now in zip(before, after, strict=True)]


def shares(amounts):
    return [amount / sum(amounts) for amount in amounts]


def close(parts):
    return pytest.approx(shares(parts), abs=0.02)


def test_every_nic_carries_its_part(rails, join):
    h = join(rails)
    before = rails.sent(rails.a)
    h.write(h.a, h.b, WRITES)()
    assert h.pairs() == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert not h.a.info().local
    assert sum(h.carried()) == WRITES * MB
    assert shares(h.carried()) == close([1, 1, 1, 1])
    for given, sent in zip(h.carried(), grown(before, rails.sent(rails.a)), strict=True):
        assert given <= sent <= 1.2 * given  # headers, and what is sent again


def test_both_directions_at_once(rails, join):
    h = join(rails)
    before = rails.sent(rails.b)
    ends = [h.write(h.a, h.b, WRITES), h.write(h.b, h.a, WRITES)]
    for end in ends:
        end()
    assert shares(h.carried()) == close([1, 1, 1, 1])
    assert shares(grown(before, rails.sent(rails.b))) == close([1, 1, 1, 1])


@pytest.mark.parametrize("mbit_s", [[400, 400, 400, 400], [800, 400, 200, 200]])
def test_nics_carry_in_proportion_to_their_speed(rails, join, mbit_s):
    with rails.shaped(*mbit_s):
        h = join(rails, speeds=mbit_s)
        before = rails.sent(rails.a)
        h.write(h.a, h.b, WRITES)()
        assert shares(h.carried()) == close(mbit_s)
        assert shares(grown(before, rails.sent(rails.a))) == close(mbit_s)


@pytest.mark.parametrize(("n", "m"), [(4, 2), (1, 3), (3, 4)])
def test_unequal_numbers_of_nics(switched, join, n, m):
    h = join(switched, n, m, rail=1)
    out, into = switched.sent(switched.a), switched.received(switched.b)
    h.write(h.a, h.b, WRITES)()
    assert sum(h.carried()) == WRITES * MB
    sent = grown(out, switched.sent(switched.a))
    received = grown(into, switched.received(switched.b))
    assert shares(sent) == close([1] * n + [0] * (4 - n))
    assert shares(received) == close([1] * m + [0] * (4 - m))


def test_rails_do_not_mix(rails, join):
    h = join(rails, 2, 4, rail_only=True)
    before = rails.sent(rails.a)
    h.write(h.a, h.b, WRITES)()
    assert h.pairs() == [(0, 0), (1, 1)]
    assert shares(grown(before, rails.sent(rails.a))) == close([1, 1, 0, 0])


def test_nics_that_do_not_reach_each_other_are_paired_again(rails, join):
    """Nobody has said that there are rails: that is found out."""
    h = join(rails, 2, 4)
    h.write(h.a, h.b, WRITES)()
    h.world.until(lambda: h.pairs() == [(0, 0), (1, 1)], "the pairing")
    h.write(h.a, h.b, WRITES)()


@pytest.mark.parametrize("whose", ["writer", "reader"])
def test_a_nic_that_goes_down_and_comes_back(rails, join, whose):
    h = join(rails)
    h.start_rounds()
    h.more_rounds(3)
    host, party = {"writer": (rails.a, h.a), "reader": (rails.b, h.b)}[whose]
    with rails.down(host, rails.nics[2]):
        assert h.told(party, "nic_down") == 2
        h.world.until(lambda: h.pairs() == [(0, 0), (1, 1), (3, 3)], "the others")
        before = h.carried()
        h.more_rounds(20)
        over = grown(before, h.carried())
        assert over[2] == 0
        assert all(over[nic] for nic in (0, 1, 3))
    assert h.told(party, "nic_up") == 2

    def carries_its_part():
        before = rails.sent(rails.a)
        h.more_rounds(10)
        return shares(grown(before, rails.sent(rails.a))) == pytest.approx([0.25] * 4, abs=0.05)

    h.world.until(carries_its_part, "its part")


def test_a_nic_that_goes_down_behind_a_switch(switched, join):
    """The NICs of the other host see nothing of it."""
    h = join(switched)
    h.start_rounds()
    h.more_rounds(3)
    with switched.down(switched.b, switched.nics[2]):
        assert h.told(h.b, "nic_down") == 2
        h.world.until(lambda: 2 not in [theirs for _, theirs in h.pairs()], "the others")
        h.more_rounds(20)
    assert h.a.nic_news("nic_down") == []
    assert h.told(h.b, "nic_up") == 2
    h.world.until(lambda: (2, 2) in h.pairs(), "the connection")
    before = h.carried()
    h.world.until(lambda: h.carried()[2] > before[2], "its part")
    h.more_rounds(3)


def test_a_nic_that_is_taken_away(rails, join):
    h = join(rails)
    h.start_rounds()
    h.more_rounds(3)
    with rails.unplugged(rails.nics[1]):
        for party in h.parties:
            assert h.told(party, "nic_down") == 1
        h.more_rounds(20)


def test_what_a_line_loses_costs_time_and_nothing_else(rails, join):
    with rails.shaped(200, 200, 200, 200, queue="128kb"):
        h = join(rails)
        h.write(h.a, h.b, WRITES)()
        assert all(rails.lost(rails.a))


@pytest.mark.parametrize("whose", ["writes", "answers"])
def test_what_a_line_swallows_goes_over_others(rails, join, whose):
    """Both of its ends are up, and TCP tries for a quarter of an hour. Of answers that are lost
    the writes have arrived and were counted."""
    h = join(rails, heartbeat=0.2, silent=1, dead=1)
    h.start_rounds()
    h.more_rounds(3)
    host = {"writes": rails.a, "answers": rails.b}[whose]
    with rails.swallowed(host, rails.nics[1]):
        h.more_rounds(20)
        assert h.a.stats()[1].failovers
    before = h.carried()
    h.world.until(lambda: h.carried()[1] > before[1], "its part")
    h.more_rounds(3)


def test_the_last_nic_ends_the_peer(rails, join):
    h = join(rails, 1, 1)
    h.start_rounds()
    h.more_rounds(3)
    with rails.down(rails.a, rails.nics[0]):
        h.world.until(lambda: h.a.info().status and h.b.info().status, "the end")
        for party in h.parties:
            assert any(kind == "peer_down" for kind, _, _ in party.news())


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_killed_process_is_found_dead_and_named(rails, join, which):
    h = join(rails)
    h.start_rounds()
    h.more_rounds(3)
    h.kill(which)
