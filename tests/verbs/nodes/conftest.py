"""Two hosts with two rails: n0 has rxe0, rxe1 over a0, a1, and n1 has rxe2, rxe3 over b0, b1."""

import pytest
from nics import group
from pair import Pair

DEVICES = ("rxe0", "rxe1"), ("rxe2", "rxe3")


@pytest.fixture
def hosts(world):
    return lambda options="": Pair(
        world, ("n0", "n1"), [group(devices, options) for devices in DEVICES]
    )
