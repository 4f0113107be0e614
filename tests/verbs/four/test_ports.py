"""Ports and devices that differ."""

import pytest
from lab import down, mtu, on, state
from nics import nic, transfer

from pgctl.engine import PgError, PgUnsupported, TransferEngine

pytestmark = pytest.mark.rdma


@pytest.fixture
def siw():
    """A soft-iWARP device."""
    on(None, "rdma", "link", "add", "siw0", "type", "siw", "netdev", "nic3")
    yield "siw0"
    on(None, "rdma", "link", "del", "siw0")


def test_iwarp_is_refused_with_the_reason(siw):
    with pytest.raises(PgUnsupported, match="siw0 is iWARP, which cannot write with an immediate"):
        TransferEngine(**nic(device=siw))


def test_ports_that_are_not_enough_are_counted(siw):
    """One is down, another of the wrong kind."""
    with down("nic1"):
        with pytest.raises(PgError, match="3 RDMA ports are active, and NIC 3 was asked for"):
            TransferEngine(transport="verbs", nics=4)
        with pytest.raises(PgError, match="rxe1 port 1 is down"):
            TransferEngine(**nic(device="rxe1"))
        assert state(siw) == "4: ACTIVE"


def test_a_port_of_a_smaller_mtu(world):
    with mtu("nic2", 1500, 4200):
        with pytest.raises(PgError, match="rxe2 port 1 has an MTU of 1024, less than 4096"):
            TransferEngine(**nic("mtu=4096", "rxe2"))
        a, b = world.party(**nic(device="rxe0")), world.party(**nic(device="rxe2"))
        assert transfer(world, a, b) == "RC from rxe0 to 192.0.2.3, MTU 1024"
        assert b.path() == "RC from rxe2 to 192.0.2.1, MTU 1024"
