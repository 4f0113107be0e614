"""Probe on real RDMA devices, one of which goes down."""

import json
import os
import subprocess
import sys

import pytest
from lab import down

pytestmark = pytest.mark.rdma


def probe(tmp_path):
    """Its exit status and record."""
    record = tmp_path / "record.json"
    command = [sys.executable, "-P", "-m", "pgctl", "probe", "--json", record]
    environ = {name: value for name, value in os.environ.items() if "PGCTL" not in name}
    status = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False).returncode
    return status, json.loads(record.read_text())


def test_four_devices_and_one_that_goes_down(tmp_path):
    status, up = probe(tmp_path)
    with down("nic1"):
        status_less, less = probe(tmp_path)
    assert (status, status_less) == (0, 1)

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

    failed = [f for f in less["findings"] if f["verdict"] == "fail"]
    assert [f["id"] for f in failed] == ["PG125"]
    assert failed[0]["evidence"] == "/sys/class/infiniband/rxe1/ports/1/state: DOWN (Disabled)"
    assert less["domain_groups"][0]["nics"] == ["rxe0", "rxe2", "rxe3"]
