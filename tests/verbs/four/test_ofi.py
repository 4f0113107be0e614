"""libfabric where there are RDMA devices."""

import pytest
from parties import pattern

from pgctl.engine import GroupConfig, NicConfig, PgError, TransferEngine

pytestmark = pytest.mark.rdma


def test_verbs_of_libfabric_is_refused_as_it_names_no_sources():
    nic = NicConfig(transport="ofi", options="provider=verbs", device="rxe0")
    with pytest.raises(PgError, match=r"does not say whose an immediate is; transport verbs does$"):
        TransferEngine([GroupConfig(nics=[nic])])


def test_who_asks_for_no_provider_has_tcp(world):
    group = GroupConfig(nics=[NicConfig(transport="ofi")] * 2, progress="inline")
    a, b = (world.party(groups=[group]) for _ in range(2))
    a.know(b.address())
    b.know(a.address())
    src = a.engine.alloc_mr(1 << 20)
    src.numpy()[:] = pattern(1 << 20)
    sink, desc = b.alloc(1 << 20)
    world.finish(a.engine.submit_single_write(1 << 20, 1, src, desc))
    world.fired(b, b.expect(1, 1))
    assert b.read(sink) == src.numpy().tobytes()
    assert "(no efa or cxi here)" in a.path()
