"""Engines over libfabric in an event loop."""

import asyncio

import pytest
from parties import pattern

from pgctl.engine import GroupConfig, NicConfig, TransferEngine, transports

IMM = 0x0ABCDEF1
DEADLINE_S = 60


@pytest.fixture(params=["tcp", "shm"])
def engines(request):
    if reason := {each.name: each.reason for each in transports()}["ofi"]:
        pytest.skip(f"ofi: {reason}")
    nic = NicConfig(transport="ofi", options=f"provider={request.param}")
    group = GroupConfig(nics=[nic], progress="inline")
    with TransferEngine([group], goodbye=0.05) as a, TransferEngine([group], goodbye=0.05) as b:
        yield a, b


def test_both_ends_are_woken(engines):
    """The descriptors of libfabric are epolls themselves, and few may be nested."""
    a, b = engines
    source, sink = a.alloc_mr(4096), b.alloc_mr(4096)
    source.numpy()[:] = pattern(4096)
    a.add_peer(b.main_address())

    async def main():
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(3):
                arrived = asyncio.create_task(b.counter(IMM).reached(1))
                await asyncio.gather(a.write(4096, IMM, source, sink.desc), arrived)

    asyncio.run(main())
    assert sink.numpy().tobytes() == source.numpy().tobytes()
