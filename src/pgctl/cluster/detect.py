"""Which launcher, if any, started this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pgctl.cluster.base import ClusterError

# Slurm numbers the steps that are shells (batch script, interactive step, ...) from the top.
_FIRST_SPECIAL_SLURM_STEP = 0xFFFF_FFF0


@dataclass(frozen=True, slots=True)
class Launcher:
    """What the environment says about who started this process."""

    kind: Literal["local", "mpi"]
    name: str
    """As the user knows it."""
    rank: int
    size: int | None
    """None where the launcher does not say."""
    local_rank: int | None = None
    """Among those of this host; likewise."""

    @property
    def first_of_host(self) -> bool:
        """As far as the launcher says; at least that of the first host is."""
        return (self.rank if self.local_rank is None else self.local_rank) == 0


def detect_launcher(environ: Mapping[str, str]) -> Launcher | None:
    """Read the launcher's marks in `environ`; None means that this command starts its own ranks.

    A Slurm step of one task (`srun --pty bash`) is a place to type commands, not a launcher.
    Raises ClusterError when a variable does not hold the number it should.
    """

    def number(name: str) -> int | None:
        text = environ.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()):
            raise ClusterError(f"the environment says {name}={text!r}, which is not a number")
        return int(text)

    rank = number("PGCTL_RANK")
    if rank is not None:
        return Launcher("local", "pgctl", rank, number("PGCTL_SIZE"), rank)

    size, rank = number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_RANK")
    if size is not None:
        local = number("OMPI_COMM_WORLD_LOCAL_RANK")
        return Launcher("mpi", "mpirun (Open MPI)", rank or 0, size, local)

    pmi_size, pmi_rank = number("PMI_SIZE"), number("PMI_RANK")
    pmix_rank = number("PMIX_RANK")
    step, slurm_rank = number("SLURM_STEP_ID"), number("SLURM_PROCID")
    if step is not None and slurm_rank is not None:
        tasks = number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS") or 1
        if step < _FIRST_SPECIAL_SLURM_STEP and tasks > 1 and pmi_size in (None, tasks):
            return Launcher("mpi", "srun", slurm_rank, tasks, number("SLURM_LOCALID"))
        if pmi_size in (None, 1):
            return None

    if pmi_size is not None:
        local = number("MPI_LOCALRANKID")
        return Launcher("mpi", "mpirun (PMI)", pmi_rank or 0, pmi_size, local)
    if pmix_rank is not None:
        return Launcher("mpi", "a PMIx launcher", pmix_rank, None)
    return None
