"""Who started this process, from its environment alone."""

import pytest

from pgctl.cluster import ClusterError, Launcher, detect_launcher

# As these launchers set them; what detection does not read is left out.
SLURM_BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
SLURM_STEP = SLURM_BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
SLURM_SHELL = SLURM_STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}
HYDRA = {"PMI_SIZE": "3", "PMI_RANK": "1", "PMI_FD": "9"}
LOCAL = {"PGCTL_RANK": "1", "PGCTL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        (LOCAL, Launcher("local", "pgctl", 1, 2, 1)),
        (OPEN_MPI, Launcher("mpi", "mpirun (Open MPI)", 2, 4)),
        (HYDRA, Launcher("mpi", "mpirun (PMI)", 1, 3)),
        (HYDRA | {"PMI_SIZE": "1", "PMI_RANK": "0"}, Launcher("mpi", "mpirun (PMI)", 0, 1)),
        ({"PMIX_RANK": "5"}, Launcher("mpi", "a PMIx launcher", 5, None)),
        (SLURM_BATCH, None),
        (SLURM_STEP, Launcher("mpi", "srun", 3, 4)),
        (SLURM_STEP | {"PMIX_RANK": "3"}, Launcher("mpi", "srun", 3, 4)),
        (SLURM_STEP | {"PMI_RANK": "3", "PMI_SIZE": "4"}, Launcher("mpi", "srun", 3, 4)),
        # A shell on a compute node, with and without the PMI that srun gives to every task.
        (SLURM_SHELL, None),
        (SLURM_SHELL | {"PMIX_RANK": "0"}, None),
        (SLURM_SHELL | {"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (SLURM_STEP | {"SLURM_STEP_ID": "4294967290"}, None),
        # An mpirun inside an allocation.
        (SLURM_SHELL | OPEN_MPI, Launcher("mpi", "mpirun (Open MPI)", 2, 4)),
        (SLURM_SHELL | HYDRA, Launcher("mpi", "mpirun (PMI)", 1, 3)),
        (SLURM_STEP | HYDRA, Launcher("mpi", "mpirun (PMI)", 1, 3)),
        # Ranks that were started from within another launcher's rank.
        (HYDRA | LOCAL, Launcher("local", "pgctl", 1, 2, 1)),
    ],
)
def test_launcher(environ, found):
    assert detect_launcher(environ) == found


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        (OPEN_MPI, False),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0"}, True),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "0"}, True),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, False),
        (HYDRA | {"MPI_LOCALRANKID": "0"}, True),
        (HYDRA | {"MPI_LOCALRANKID": "1"}, False),
        (SLURM_STEP | {"SLURM_LOCALID": "0"}, True),
        (SLURM_STEP | {"SLURM_LOCALID": "3"}, False),
        (LOCAL, False),
    ],
)
def test_the_first_of_a_host(environ, first):
    launcher = detect_launcher(environ)
    assert launcher is not None
    assert launcher.first_of_host is first


@pytest.mark.parametrize("name", ["PGCTL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
@pytest.mark.parametrize("value", ["", "two", "-1", "²"])
def test_a_number_that_is_none_is_an_error(name, value):
    with pytest.raises(ClusterError, match=f"the environment says {name}="):
        detect_launcher({name: value})
