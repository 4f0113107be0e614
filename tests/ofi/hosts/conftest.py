"""Two hosts with four NICs each, and parties on them over libfabric's tcp provider."""

import pytest
from hosts import CONTROL, Network, missing
from pair import Pair
from required import do_without

from pgctl.engine import GroupConfig, NicConfig, transports


@pytest.fixture(scope="session")
def networks():
    """Makes each once: to start a process on a host takes longer than most tests do."""
    if reason := missing():
        do_without("hosts", reason)
    made = {}

    def make(name, **kind):
        if name not in made:
            made[name] = Network(name, **kind)
        return made[name]

    yield make
    for network in made.values():
        network.close()


@pytest.fixture
def rails(networks):
    """Four cables: a NIC reaches its counterpart alone."""
    return networks("rails")


@pytest.fixture
def switched(networks):
    """A switch: every NIC reaches every other."""
    return networks("switched", switch=True)


@pytest.fixture(scope="session")
def ofi():
    """The transport is there."""
    offered = {transport.name: transport.reason for transport in transports()}
    if reason := offered["ofi"]:
        do_without("ofi:tcp", reason)


@pytest.fixture
def join(ofi, world):  # noqa: ARG001
    """Makes a party on each host of a network, a with n of its NICs and b with m of its."""

    def make(network, n=4, m=4, *, speeds=(0, 0, 0, 0), rail=0, rail_only=False, **config):
        def engine(count):
            nics = [
                NicConfig(
                    transport="ofi",
                    device=nic,
                    options="provider=tcp",
                    link_mbit_s=speed,
                    rail=rail,
                )
                for nic, speed in zip(network.nics[:count], speeds, strict=False)
            ]
            group = GroupConfig(nics=nics, progress="inline", rail_only=rail_only)
            return {"groups": [group], "control": CONTROL, **config}

        return Pair(world, network.hosts, [engine(n), engine(m)])

    return make
