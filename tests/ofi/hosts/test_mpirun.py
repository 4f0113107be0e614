"""What a person types on the first of two hosts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 60
MPIRUN = Path(sys.executable).with_name("mpirun")
PGCTL = (sys.executable, "-P", "-m", "pgctl")

pytestmark = [
    pytest.mark.usefixtures("ofi"),
    pytest.mark.skipif(not MPIRUN.exists(), reason=f"no {MPIRUN}: pip install mpich"),
]


def test_a_benchmark_between_two_hosts(rails, tmp_path):
    nics = "--provider", "tcp", "--nics", ",".join(rails.nics)
    bench = *PGCTL, "bench", "write", *nics, "--sizes", "1M", "-n", "20", "--json", "-"
    command, environ = rails.command(tmp_path, str(MPIRUN), "-n", "2", *bench)
    before = rails.sent(rails.a)
    ran = subprocess.run(
        command, env=os.environ | environ, capture_output=True, timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["fabric"]["transport"] == "ofi"
    assert record["results"][0]["verified"]
    given = {nic["name"]: nic["counters_delta"]["bytes_out"] for nic in record["fabric"]["nics"]}
    for nic, then, now in zip(rails.nics, before, rails.sent(rails.a), strict=True):
        assert now - then >= given[nic] > 0
