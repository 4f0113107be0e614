"""Probe on real RDMA devices, one of which goes down."""

import json
import os
import subprocess
import sys

import fake_cuda
import pytest
from lab import down

from pgctl import process
from pgctl.active import run

pytestmark = pytest.mark.rdma


def probe(tmp_path, *args):
    """Its exit status and record."""
    record = tmp_path / "record.json"
    command = [sys.executable, "-P", "-m", "pgctl", "probe", *args, "--json", record]
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
    assert {port["active_mtu"] for port in ports} == {4096}
    for device in up["hardware"]["rdma"]:
        assert device["dmabuf"] is False
        assert device["limits"]["max_sge"] == 32
        assert device["limits"]["atomics"] is True
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


def test_trials_of_four_devices(tmp_path):
    status, record = probe(tmp_path, "--active", "--transport", "verbs")
    assert status == 0
    assert (record["fabric"]["transport"], record["fabric"]["why"]) == (
        "verbs",
        "--transport verbs",
    )
    assert [(t["what"], t["nic"], t["good"]) for t in record["hardware"]["trials"]["done"]] == [
        (what, f"rxe{i}", True)
        for i in range(4)
        for what in ("registration", "loopback", "ordering")
    ]
    verdicts = {f["id"]: f["verdict"] for f in record["findings"]}
    assert {verdicts[id_] for id_ in ("PG113", "PG127", "PG128")} == {"pass"}


def test_a_trial_of_a_gpu_whose_driver_is_a_fake(tmp_path, monkeypatch):
    """Its memory is the process's own, which a NIC reaches by address and not as a DMA-BUF."""
    for name, value in fake_cuda.environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    command = [*run._CHILD, "gpu_reach", "verbs", "rxe2", fake_cuda.GPU]
    ended = process.run(command, 60)
    assert ended.out[-1].startswith(f"{run.GOOD}2M written into the GPU and out of it; ")
    assert "cuMemGetHandleForAddressRange" in ended.err
    assert ended.err[-1] == "cuDevicePrimaryCtxRelease"


def test_trials_where_a_port_is_down(tmp_path):
    with down("nic1"):
        status, record = probe(tmp_path, "--active")
    assert status == 1
    assert record["fabric"]["why"] == "there are RDMA devices"
    failed = {f["id"]: f["evidence"] for f in record["findings"] if f["verdict"] == "fail"}
    assert list(failed) == ["PG125", "PG127"]
    assert failed["PG127"] == "rxe1: rxe1 port 1 is down"
    bad = [trial for trial in record["hardware"]["trials"]["done"] if not trial["good"]]
    assert [(trial["what"], trial["nic"]) for trial in bad] == [("registration", "rxe1")]
