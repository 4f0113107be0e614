"""The C test of the transport by itself, in the flavours that were built."""

import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"

pytestmark = pytest.mark.rdma


@pytest.mark.parametrize("flavour", ["test-c", "asan"])
def test_the_transport_by_itself(flavour):
    program = BUILD / flavour / "native/test_verbs"
    if not program.exists():
        pytest.skip(f"not built: make {flavour}")
    ended = subprocess.run([program], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
