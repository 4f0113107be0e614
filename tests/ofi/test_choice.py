"""What ofi is asked for and cannot be."""

import errno

import pytest

from pgctl.engine import GroupConfig, NicConfig, PgError, PgUnsupported, TransferEngine
from pgctl.engine.config import fabric_facts


def refused(options, device=""):
    """Why such a NIC is not opened."""
    nic = NicConfig(transport="ofi", options=options, device=device)
    with pytest.raises(PgError) as caught:
        TransferEngine([GroupConfig(nics=[nic])])
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "device", "why"),
    [
        ("provider=tcp", "", r"has no provider tcp; it has efa:fake_efa_0, efa:fake_efa_1"),
        ("", "fake_efa_9", r"has no provider that reaches other hosts with a NIC fake_efa_9; it"),
        (",provider=efa", "fake_efa_9", r"has no provider efa with a NIC fake_efa_9; it has efa:"),
    ],
)
def test_what_a_libfabric_has_not(fabric, options, device, why):
    assert why in refused(f"library={fabric.library},{options.lstrip(',')}".rstrip(","), device)


def test_an_efa_without_nics_has_nothing(fabric, monkeypatch):
    monkeypatch.setenv("FAKE_EFA_NICS", "0")
    said = refused(f"library={fabric.library},provider=efa")
    assert "has no provider efa; it has none that can write with an immediate" in said


def test_no_provider_efa_without_a_device():
    try:
        version, rows = fabric_facts()
    except PgUnsupported as none:
        pytest.skip(str(none))
    if any(row.provider == "efa" for row in rows):
        pytest.skip("this machine has an EFA")
    said = refused("provider=efa")
    assert said.startswith(f"libfabric {version} ")
    assert "has no provider efa; it has " in said


def test_emulated_writes_only_for_who_asks(world, fabric):
    fabric.manners("emulated")
    said = refused(f"library={fabric.library}")
    assert "emulated=1 takes it all the same" in said
    party = world.party(**fabric.group([0], options=",emulated=1"))
    assert party.engine.limits().transport == "ofi"


def test_two_ends_of_different_providers_do_not_meet(world, fabric):
    tcp = NicConfig(transport="ofi", options="provider=tcp")
    a = world.party(**fabric.group([0]))
    b = world.party(groups=[GroupConfig(nics=[tcp], progress="inline")])
    a.know(b.address())
    b.know(a.address())
    a.submit_barrier(1)
    world.until(lambda: a.info().status, "the end")
    assert a.info().status == -errno.EHOSTUNREACH
    assert "fake_efa_0 is of provider efa, the peer's NIC is of provider " in a.info().reason
