"""Engines over RDMA devices that are chosen."""

from meeting import IMM
from parties import pattern

from pgctl.engine import GroupConfig, NicConfig


def group(devices, options="", transport="verbs"):
    """These devices, as an argument of TransferEngine; "": one that the transport chooses."""
    nics = [NicConfig(transport=transport, device=device, options=options) for device in devices]
    return {"groups": [GroupConfig(nics=nics, progress="inline")]}


def nic(options="", device=""):
    return group([device], options)


def transfer(world, a, b):
    """From a to b, checked; how a reaches b."""
    a.know(b.address())
    b.know(a.address())
    src = a.engine.alloc_mr(100_000)
    src.numpy()[:] = pattern(100_000)
    sink, desc = b.alloc(100_000)
    op = a.engine.submit_single_write(100_000, IMM, src, desc)
    world.finish(op)
    world.fired(b, b.expect(IMM, 1))
    assert b.read(sink) == src.numpy().tobytes()
    return a.path()
