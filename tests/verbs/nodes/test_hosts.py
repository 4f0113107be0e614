"""Two hosts: what goes over lines that are bad, go away and come back."""

import pytest
from lab import bad_line, deleted, down

pytestmark = pytest.mark.rdma


def test_rails_join_and_control_goes_over_tcp(hosts):
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    assert h.pairs() == [(0, 0), (1, 1)]
    info = h.a.info()
    assert not info.local
    assert "RC from rxe0 to 192.0.2.2, MTU 4096" in info.path
    assert all(h.carried())


def test_bad_lines_cost_time_and_nothing_else(hosts):
    h = hosts(options="retry=7")  # for Soft-RoCE: without end
    h.start_rounds()
    h.more_rounds(1)
    netem = "loss", "1%", "delay", "1ms", "reorder", "25%"
    with (
        bad_line("a0", *netem, host="n0"),
        bad_line("a1", *netem, host="n0"),
        bad_line("b0", *netem, host="n1"),
        bad_line("b1", *netem, host="n1"),
    ):
        h.more_rounds(2)
    h.more_rounds(1)


def test_a_nic_that_goes_down_and_comes_back(hosts):
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    with down("a1", host="n0"):
        assert h.told(h.a, "nic_down") == 1
        h.more_rounds(10)
        before = h.carried()
        h.more_rounds(10)
        after = h.carried()
        assert after[0] > before[0]
        assert after[1] == before[1]
        assert h.pairs() == [(0, 0)]
    assert h.told(h.a, "nic_up") == 1
    h.world.until(lambda: len(h.a.connections()) == 2, "the second connection")
    before = h.carried()
    h.more_rounds(10)
    assert all(now > then for now, then in zip(h.carried(), before, strict=True))


def test_what_a_line_swallows_goes_over_another(hosts):
    """Both of its ends are up, so that only retries tell."""
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    with bad_line("a1", "loss", "100%", host="n0"):
        h.more_rounds(8)
    assert h.a.stats()[1].failovers or h.b.stats()[1].failovers
    h.more_rounds(3)


@pytest.mark.parametrize("whose", ["writer", "reader"])
def test_a_device_that_is_deleted(hosts, whose):
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    device, netdev, host, party = {
        "writer": ("rxe1", "a1", "n0", h.a),
        "reader": ("rxe3", "b1", "n1", h.b),
    }[whose]
    with deleted(device, netdev, host=host):
        assert h.told(party, "nic_down") == 1
        h.more_rounds(10)
        # One between the rails may be kept in reserve.
        dead = (1, None) if whose == "writer" else (None, 1)
        pairs = h.pairs()
        assert (0, 0) in pairs
        assert not any(nic == dead[0] or peer_nic == dead[1] for nic, peer_nic in pairs)


def test_the_last_nic_ends_the_peer(hosts):
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    with down("a0", host="n0"), down("a1", host="n0"):
        h.world.until(lambda: h.a.info().status and h.b.info().status, "the end")
        for party in h.parties:
            assert any(kind == "peer_down" for kind, _, _ in party.news())


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_killed_process_is_found_dead_and_named(hosts, which):
    h = hosts()
    h.start_rounds()
    h.more_rounds(3)
    h.kill(which)
