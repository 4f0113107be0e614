"""The C tests of the transport by itself, in the flavours that were built."""

import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"

pytestmark = pytest.mark.rdma


@pytest.mark.parametrize("flavour", ["test-c", "asan"])
@pytest.mark.parametrize("name", ["test_verbs", "test_verbs_wake"])
def test_the_transport_by_itself(name, flavour):
    program = BUILD / flavour / "native" / name
    if not program.exists():
        pytest.skip(f"not built: make {flavour}")
    ended = subprocess.run([program], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
