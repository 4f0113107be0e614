"""What tests of ofi can ask for."""

import os

import pytest
from fake_efa import N_NICS, Fabric
from over import LIBRARY
from sysfs import Sysfs


@pytest.fixture(params=["one process", "two processes"])
def place(request):
    return request.param


@pytest.fixture
def fabric(tmp_path, monkeypatch):
    """The stand-in for EFA; all of its NICs are up."""
    if not LIBRARY.exists():
        required = "ofi:fake_efa" in os.environ.get("PGCTL_REQUIRE", "").split(",")
        (pytest.fail if required else pytest.skip)(f"{LIBRARY} is not built: make test-c")
    sysfs = Sysfs(tmp_path / "infiniband", N_NICS)
    monkeypatch.setenv("FAKE_EFA_NICS", str(N_NICS))
    monkeypatch.setenv("FAKE_EFA_SYSFS", str(sysfs.path))
    return Fabric(LIBRARY, sysfs, monkeypatch.setenv)
