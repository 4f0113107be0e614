"""libfabric's verbs;ofi_rxm over Soft-RoCE: it is chosen, it says what it needs.

Its connections are made by rdma_cm, which does not reach another network namespace here: both
engines are in one.
"""

import json
import os
import subprocess
import sys

import pytest
from nics import group
from pair import Pair

pytestmark = pytest.mark.rdma

BENCH = sys.executable, "-P", "-m", "pgctl", "bench", "write", "-n", "20", "-N", "1", "-T", "20"


def bench(*args, **environ):
    return subprocess.run(
        [*BENCH, "--transport", "ofi", "--sizes", "64K", *args, "--json", "-"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "why"), [((), "no efa here"), (("--provider", "verbs"), "asked for")]
)
def test_it_is_the_best_there_is_here(args, why):
    ended = bench("--check", "--nics-per-rank", "2", *args)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    fabric = record["fabric"]
    assert f"verbs;ofi_rxm ({why}) from rxe0" in fabric["path"]
    assert fabric["nics_by_rank"] == [["rxe0", "rxe1"], ["rxe2", "rxe3"]]
    assert record["results"][0]["verified"]


def test_who_does_not_make_its_queue_shorter_is_told_how():
    ended = bench(FI_UNIVERSE_SIZE="256")
    assert ended.returncode != 0
    assert "FI_UNIVERSE_SIZE=16 in the environment makes it shorter" in ended.stderr


@pytest.fixture
def two(world):
    return Pair(
        world,
        (None, None),
        [group(nics, "provider=verbs", "ofi") for nics in (("rxe0", "rxe1"), ("rxe2", "rxe3"))],
    )


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_killed_process_is_found_dead_and_named(two, which):
    two.start_rounds()
    two.more_rounds(3)
    two.kill(which)
