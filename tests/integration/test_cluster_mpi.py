"""Ranks that mpirun starts, with the MPICH of the `mpi` extra."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

PATIENCE_S = 60
MPIRUN = shutil.which("mpirun", path=Path(sys.executable).parent)
RANK = """
import os, signal, sys, time
from pathlib import Path
from pgctl import cluster
"""

needs_mpirun = pytest.mark.skipif(
    MPIRUN is None, reason=f"no mpirun in {Path(sys.executable).parent}: pip install mpich"
)


class Job:
    def __init__(self, folder):
        self.folder = folder
        self._token = str(uuid.uuid4())
        self.process = None

    def start(self, ranks, program, **environ):
        script = self.folder / "rank.py"
        script.write_text(RANK + textwrap.dedent(program))
        launcher = [MPIRUN, "-n", str(ranks)] if ranks else []
        self.process = subprocess.Popen(
            [*launcher, sys.executable, script],
            env=os.environ | {"PGCTL_TEST": self._token} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def end(self):
        out, err = self.process.communicate(timeout=PATIENCE_S)
        self.wait_for(lambda: self.left() == [])  # mpirun may end before what it started
        return self.process.returncode, out, err

    def wait_for(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"processes {self.left()} are left"
            time.sleep(0.01)

    def left(self):
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._token.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                pass
        return found

    def close(self):
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    job.close()


@needs_mpirun
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_rank_gets_every_payload(job, ranks):
    program = """
        with cluster.enter() as ranks:
            assert ranks.launcher == "mpi"
            sizes = [0, 1, 1 << 20, 17]
            for turn in range(8):
                mine = bytes([ranks.rank]) * sizes[(ranks.rank + turn) % 4]
                expected = [bytes([r]) * sizes[(r + turn) % 4] for r in range(ranks.size)]
                assert ranks.allgather(mine) == expected
                ranks.barrier()
            if ranks.rank == 0:
                print("met", ranks.size)
    """
    assert job.start(ranks, program).end() == (0, f"met {ranks}\n", "")


@needs_mpirun
def test_a_barrier_holds_until_the_last_rank_has_come(job):
    program = """
        here = Path(__file__).parent
        with cluster.enter() as ranks:
            for turn in range(20):
                (here / f"turn.{turn}.{ranks.rank}").touch()
                ranks.barrier()
                assert all((here / f"turn.{turn}.{r}").exists() for r in range(ranks.size))
    """
    assert job.start(3, program).end() == (0, "", "")


@needs_mpirun
@pytest.mark.parametrize("status", [0, 1, 77])
def test_a_verdict_of_all_ranks_is_the_commands(job, status):
    program = f"""
        with cluster.enter() as ranks:
            ranks.barrier()
            sys.exit({status})
    """
    assert job.start(2, program).end()[0] == status


@needs_mpirun
@pytest.mark.parametrize(
    ("end", "report"),
    [
        ("ranks.abort('no memory')", "pgctl: rank 1 of 3 aborted: no memory"),
        ("raise ValueError('odd')", "pgctl: rank 1 of 3 failed: ValueError: odd"),
        ("raise cluster.ClusterError('lost')", "pgctl: rank 1 of 3 failed: lost"),
        ("sys.exit(3)", ""),
    ],
)
def test_a_rank_that_fails_ends_all(job, end, report):
    program = f"""
        with cluster.enter() as ranks:
            if ranks.rank == 1:
                {end}
            ranks.barrier()
    """
    status, out, err = job.start(3, program).end()
    assert (status, out) == (3, "")
    assert report in err
    assert ("Traceback" in err) == ("ValueError" in end)


@needs_mpirun
@pytest.mark.parametrize("late", [0, 2])
def test_a_deadline_names_the_rank_that_is_late(job, late):
    program = f"""
        with cluster.enter() as ranks:
            if ranks.rank == {late}:
                signal.pause()
            ranks.allgather(b"x", timeout=1.5)
    """
    status, _, err = job.start(3, program).end()
    assert status == 3
    assert re.search(
        rf"rank \d of 3 failed: allgather: rank {late} did not arrive within 1.5 s", err
    )


@needs_mpirun
def test_a_timeout_that_is_caught_still_ends_all(job):
    program = """
        with cluster.enter() as ranks:
            if ranks.rank == 1:
                signal.pause()
            try:
                ranks.barrier(timeout=0.5)
            except cluster.ClusterTimeout as error:
                print(error, flush=True)
            try:
                ranks.barrier()
            except cluster.ClusterError as error:
                print("broken:", error, flush=True)
    """
    status, out, _ = job.start(2, program).end()
    late = "barrier: rank 1 did not arrive within 0.5 s"
    assert (status, out) == (3, f"{late}\nbroken: {late}\n")


@needs_mpirun
def test_an_interrupt_leaves_no_rank(job):
    program = """
        with cluster.enter() as ranks:
            Path(__file__).with_name(f"in.{ranks.rank}").touch()
            if ranks.rank:
                ranks.barrier()
            signal.pause()
    """
    job.start(2, program)
    job.wait_for(lambda: len(list(job.folder.glob("in.*"))) == 2)
    job.process.send_signal(signal.SIGINT)
    status, _, err = job.end()
    assert status != 0
    assert "Traceback" not in err


@needs_mpirun
def test_the_number_of_ranks_is_mpiruns(job):
    program = """
        try:
            cluster.enter(4)
        except ValueError as error:
            if os.environ["PMI_RANK"] == "0":
                print(error)
    """
    message = "4 ranks were asked for, but mpirun (PMI) runs 2\n"
    assert job.start(2, program).end() == (0, message, "")


ENTER = """
    try:
        cluster.enter()
    except cluster.ClusterError as error:
        print(error)
"""


@needs_mpirun  # without it mpi4py has no MPI to load
@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"},
            "mpirun (Open MPI) started this rank, but mpi4py uses MPICH",
        ),
        (
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"},
            "srun started 4 ranks, but MPICH Version: ",
        ),
    ],
)
def test_an_mpi_that_is_not_the_launchers_is_an_error(job, launcher, message):
    status, out, err = job.start(None, ENTER, **launcher).end()
    assert (status, err) == (0, "")
    assert out.startswith(message)
    assert "pip install 'pgctl[mpi]'" in out


def test_an_mpi_that_does_not_load_is_an_error(job):
    program = "sys.modules['mpi4py.MPI'] = None\n" + textwrap.dedent(ENTER)
    status, out, _ = job.start(None, program, PMI_SIZE="2", PMI_RANK="0").end()
    assert status == 0
    assert out.startswith("mpirun (PMI) started this rank, but mpi4py does not load (")
    assert "pip install 'pgctl[mpi]'" in out
