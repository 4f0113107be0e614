"""Engines for tests of one process."""

from typing import NamedTuple

import pytest

from pgctl.engine import MemoryRegion, RemoteRegion, TransferEngine


@pytest.fixture
def engine():
    with TransferEngine(progress="inline") as it:
        yield it


class Loop(NamedTuple):
    """An engine that knows itself, a region of it, and the same as a destination."""

    engine: TransferEngine
    region: MemoryRegion
    remote: RemoteRegion


@pytest.fixture
def loop():
    with TransferEngine(progress="inline") as it:
        it.add_peer(it.main_address())
        region = it.alloc_mr(4096)
        yield Loop(it, region, it.import_mr(region.desc))
