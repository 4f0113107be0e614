"""Probe on real RDMA devices: Soft-RoCE in a kernel of its own, from PGCTL_RDMA_LAB."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

LAB = os.environ.get("PGCTL_RDMA_LAB")
PROBE = f"{sys.executable} -P -m pgctl probe --json"

pytestmark = pytest.mark.skipif(not LAB, reason="PGCTL_RDMA_LAB names no folder with run.sh")


@pytest.fixture
def shared():
    """A folder that the guest sees too: beside the interpreter, because /tmp is its own."""
    with TemporaryDirectory(dir=sys.prefix) as folder:
        yield Path(folder)


def test_four_devices_and_one_that_goes_down(shared):
    script = f"""\
cd {shared}
{PROBE} up.json > up.txt; echo $? > up.status
ip link set nic1 down
{PROBE} down.json > down.txt; echo $? > down.status"""
    lab = [str(Path(LAB) / "run.sh"), "-t", "100", "-C", sys.prefix, script]
    subprocess.run(lab, check=True, capture_output=True)
    assert (shared / "up.status").read_text() == "0\n"
    assert (shared / "down.status").read_text() == "1\n"

    up = json.loads((shared / "up.json").read_text())
    ports = [device["ports"][0] for device in up["hardware"]["rdma"]]
    assert [port["device"] for port in ports] == ["rxe0", "rxe1", "rxe2", "rxe3"]
    assert {port["state"] for port in ports} == {"ACTIVE"}
    assert {nic["mtu"] for nic in up["hardware"]["nics"]} == {4096}
    for i, port in enumerate(ports):
        assert port["netdev"] == f"nic{i}"
        mapped = f"0000:0000:0000:0000:0000:ffff:c000:020{i + 1}"
        assert mapped in [gid["value"] for gid in port["gids"] if gid["kind"] == "RoCE v2"]
    assert up["domain_groups"][0]["nics"] == ["rxe0", "rxe1", "rxe2", "rxe3"]
    assert {f["verdict"] for f in up["findings"]} == {"pass", "skip"}

    down = json.loads((shared / "down.json").read_text())
    failed = [f for f in down["findings"] if f["verdict"] == "fail"]
    assert [f["id"] for f in failed] == ["PG125"]
    assert failed[0]["evidence"] == "/sys/class/infiniband/rxe1/ports/1/state: DOWN (Disabled)"
    assert down["domain_groups"][0]["nics"] == ["rxe0", "rxe2", "rxe3"]
