"""`pgctl bench` over four Soft-RoCE devices: who gets which, what they carry, what they count."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.rdma

PGCTL = (sys.executable, "-P", "-m", "pgctl")
PATIENCE_S = 60


def bench(operation, *args):
    """The record of a quick run."""
    return record_of("bench", operation, "-n", "20", "-N", "1", "-T", "20", *args)


def record_of(*args):
    ended = subprocess.run(
        [*PGCTL, *args, "--json", "-"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("nics", [(), ("--nics", "^rxe2")], ids=["all", "some"])
def test_ranks_have_the_group_that_probe_prints(nics):
    (group,) = record_of("probe", *nics)["domain_groups"]
    fabric = bench("write", "--transport", "verbs", "--sizes", "64K", "--check", *nics)["fabric"]
    assert fabric["nics_by_rank"] == [group["nics"]] * 2
    assert fabric["groups_by_rank"] == ["0", "0"]


def test_ranks_have_different_devices_which_count_the_payload():
    one = ("--nics-per-rank", "1")
    record = bench("write", "--transport", "verbs", "--sizes", "8,64K", "--check", *one)
    fabric = record["fabric"]
    assert fabric["nics_by_rank"] == [["rxe0"], ["rxe1"]]
    assert fabric["path"].startswith("RC from rxe0 to 192.0.2.2")
    assert [result["verified"] for result in record["results"]] == [True, True]
    used = {port["name"]: port for port in fabric["ports"]}
    assert list(used) == ["rxe0", "rxe1"]
    sent = sum(result["bytes_per_nic"]["rxe0"] for result in record["results"])
    assert used["rxe0"]["payload_out"] == sent
    assert used["rxe0"]["data_out"] > sent
    assert used["rxe1"]["data_in"] > sent
    assert "PG202" not in {finding["id"] for finding in record["findings"]}


def test_devices_by_name_are_those_of_every_rank():
    record = bench("write", "--nics", "rxe0,rxe1", "--sizes", "64K", "--check")
    assert record["fabric"]["why"] == "--nics is for RDMA devices"
    assert record["fabric"]["nics_by_rank"] == [["rxe0", "rxe1"]] * 2
    assert record["results"][0]["verified"]
    assert min(record["results"][0]["bytes_per_nic"].values()) > 0


def test_as_many_devices_as_are_asked_for():
    few = ("--sizes", "4K", "--pages", "16")
    record = bench("paged", "--transport", "verbs", "--nics-per-rank", "2", *few)
    assert record["fabric"]["nics_by_rank"] == [["rxe0", "rxe1"], ["rxe2", "rxe3"]]


def test_options_reach_the_devices():
    record = bench("write", "--nics", "=rxe2", "--mtu", "1024", "--gid-index", "1", "--sizes", "4K")
    assert record["fabric"]["options"] == "gid=1,mtu=1024"
    assert record["fabric"]["path"].endswith("MTU 1024")


@pytest.mark.parametrize("operation", ["scatter", "barrier", "send"])
def test_every_operation(operation):
    sizes = () if operation == "barrier" else ("--sizes", "64")
    assert bench(operation, "--transport", "verbs", *sizes)["verdict"] == "pass"


def test_ranks_on_one_host_are_left_to_shared_memory():
    assert bench("write", "--sizes", "8")["fabric"]["transport"] == "shm"


@pytest.mark.parametrize(
    ("args", "status", "why"),
    [
        ("--nics mlx5", 2, "--nics: 'mlx5' is no NIC of this machine: rxe0, rxe1, rxe2, rxe3"),
        ("--nics =rxe0 --nics-per-rank 2", 3, "rank 0 is to have 2 NICs, and lab has 1: rxe0"),
    ],
)
def test_nics_that_are_not_there(args, status, why):
    command = [*PGCTL, "bench", "write", *args.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert why in ended.stderr
