"""MPI_Put and MPI_Barrier of Open MPI and MPICH, in a C loop compiled with their own mpicc."""

import os
from functools import partial
from pathlib import Path

from peers.common import (
    Cores,
    NotMeasuredError,
    Row,
    Sample,
    lines_to_sample,
    rows_or_reason,
    run,
    venv_with,
)

SOURCE = Path(__file__).with_name("mpi_peer.c")
PUTS = (("allocate", "MPI_Win_allocate"), ("create", "MPI_Win_create"))
OPENMPI = ["--bind-to", "none", "--mca", "mpi_yield_when_idle", "0"]
FASTER_BARRIER = {
    "openmpi": ["--mca", "coll_sm_priority", "100"],
    "mpich": ["-genv", "MPIR_CVAR_BARRIER_POSIX_INTRA_ALGORITHM", "release_gather"],
}


def rows(cores: Cores) -> list[Row]:
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [
        *rows_or_reason(
            "Open MPI",
            lambda: _rows("Open MPI", "openmpi", "5.0.11", [*as_root, *OPENMPI], cores),
        ),
        *rows_or_reason("MPICH", lambda: _rows("MPICH", "mpich", "5.0.2", [], cores)),
    ]


def _rows(name: str, package: str, version: str, options: list[str], cores: Cores) -> list[Row]:
    venv = venv_with(package, f"{package}=={version}")
    program = venv / "mpi_peer"
    run([str(venv / "bin/mpicc"), "-O2", str(SOURCE), "-o", str(program)], _path(venv))
    who = f"{name} {version}"
    tuned = FASTER_BARRIER[package]
    launch = partial(_measure, venv, program, cores)
    return [
        *(Row(who, setting, partial(launch, options, mode)) for mode, setting in PUTS),
        Row(who, "default", partial(launch, options, "barrier"), "barrier"),
        Row(who, " ".join(tuned[1:]), partial(launch, options + tuned, "barrier"), "barrier"),
    ]


def _path(venv: Path) -> dict[str, str]:
    return {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}


def _measure(venv: Path, program: Path, cores: Cores, options: list[str], mode: str) -> Sample:
    command = [str(venv / "bin/mpiexec"), *options, "-n", "2", str(program), mode]
    sample = lines_to_sample(run([*command, *map(str, cores)], _path(venv)))
    if not sample:
        raise NotMeasuredError("mpi_peer printed no result")
    return sample
