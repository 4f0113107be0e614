"""Who the ranks are and how they meet.

A command that needs ranks says so in three lines:

    with cluster.enter(ranks, argv=sys.argv[1:]) as ranks:
        addresses = ranks.allgather(my_address)
        ...

`enter` returns only in a rank. In the process that the user typed it starts the ranks, waits for
them and raises SystemExit with the status of the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pgctl.cluster.base import DEFAULT_TIMEOUT_S, Cluster, ClusterError, ClusterTimeout
from pgctl.cluster.detect import Launcher, detect_launcher
from pgctl.cluster.launcher import DEFAULT_RANKS, launch
from pgctl.cluster.local import join as join_local
from pgctl.cluster.mpi import join as join_mpi

__all__ = [
    "DEFAULT_RANKS",
    "DEFAULT_TIMEOUT_S",
    "Cluster",
    "ClusterError",
    "ClusterTimeout",
    "Launcher",
    "detect_launcher",
    "enter",
    "launch",
]


def enter(
    ranks: int | None = None,
    argv: Sequence[str] | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    verbose: bool = False,
    command: Sequence[str] | None = None,
) -> Cluster:
    """Become a rank, or start the ranks and exit with their status.

    ranks: how many the user asked for; None means DEFAULT_RANKS locally and as many as the
    launcher started under MPI. argv: the arguments the local ranks are started with (by default
    this process's own). timeout: seconds that each blocking call of the cluster may take unless
    it says otherwise. verbose: pass the output of ranks above 0 on to stderr as it comes.
    command: what a local rank executes instead of this program; argv is appended to it.

    Raises ValueError when `ranks` is below 1 or contradicts the launcher, ClusterError when the
    ranks cannot meet, and SystemExit in the process that started the ranks. Call it from the
    main thread, once per process.
    """
    if ranks is not None and ranks < 1:
        raise ValueError(f"the number of ranks must be at least 1, not {ranks}")
    found = detect_launcher(os.environ)
    if found is None:
        arguments = sys.argv[1:] if argv is None else argv
        raise SystemExit(
            launch(ranks or DEFAULT_RANKS, arguments, command=command, verbose=verbose)
        )
    if found.kind == "local":
        return join_local(os.environ, timeout)
    if ranks is not None and found.size is not None and ranks != found.size:
        raise ValueError(f"{ranks} ranks were asked for, but {found.name} runs {found.size}")
    return join_mpi(found, timeout)
