"""Trials of NICs, each in a process of its own with a deadline: what hangs or crashes is a fact."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import get_args

from pgctl import process
from pgctl.hardware.facts import Facts
from pgctl.hardware.trials import Trial, Trials, What

DEADLINE_S = 20.0
"""Of one trial; more than the engine's own deadlines in it, which know better what was late."""

GPU_DEADLINE_S = 60.0
"""Of one with a GPU: CUDA alone starts for many seconds where nothing keeps its driver loaded."""

STEP, GOOD, BAD, UNTRIED = "step: ", "good: ", "bad: ", "untried: "
"""How the lines begin that a child prints."""

_CHILD = (sys.executable, "-P", "-m", "pgctl.active.child")
_SHARED_MEMORY, _VERBS = "shm", "verbs"
_LONGEST_WORD = 200


def try_nics(facts: Facts, transport: str, wanted: Collection[What]) -> Trials:
    """What is wanted, on every NIC asked for. transport: "auto", or the name of one."""
    name, why, refusal = _choose(facts, transport)
    order = [what for what in get_args(What) if what in wanted]
    if refusal:
        return Trials(name, why, tuple(Trial(what, name, False, refusal) for what in order[:1]))
    stop = process.Stop()
    attempt = partial(_try_nic, facts, name, order, stop)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            done = list(pool.map(attempt, _nics(facts, name)))
        except KeyboardInterrupt:
            stop.now()
            raise
    return Trials(name, why, tuple(trial for trials in done for trial in trials))


def ask(
    command: Sequence[str], deadline_s: float, stop: process.Stop | None = None
) -> tuple[bool | None, str]:
    """Whether what a child tries is good, and what it saw; or how it ended instead.

    None: it says that it cannot be tried, and why.
    """
    ended = process.run(command, deadline_s, stop)
    *_, last = ["", *ended.out]
    for head, good in ((GOOD, True), (BAD, False), (UNTRIED, None)):
        if last.startswith(head):
            return good, last.removeprefix(head)
    doing = f" while {last.removeprefix(STEP)}" if last else ""
    *_, word = ["", *ended.err]
    said = f": {word[:_LONGEST_WORD]}" if word else ""
    return False, f"{ended.why or 'it said nothing'}{doing}{said}"


def _choose(facts: Facts, asked: str) -> tuple[str, str, str]:
    """A transport, why that one, and why this machine cannot run it."""
    from pgctl.engine import transports

    refusals = {transport.name: transport.reason for transport in transports()}
    if asked != "auto":
        name, why = asked, f"--transport {asked}"
    elif not facts.nics:
        name, why = _SHARED_MEMORY, "there is no RDMA device"
    elif _VERBS not in refusals:
        name, why = _SHARED_MEMORY, "this build has no transport for RDMA devices"
    else:
        name, why = _VERBS, "there are RDMA devices"
    return name, why, refusals.get(name, f"this build has no transport {name!r}")


def _nics(facts: Facts, transport: str) -> list[tuple[str, str]]:
    """Names, as the record has them and as the transport does."""
    if transport == _SHARED_MEMORY:
        return [(f"{transport}0", "")]
    return [(nic.name, nic.name) for nic in facts.nics]


def _try_nic(
    facts: Facts, transport: str, order: Sequence[What], stop: process.Stop, nic: tuple[str, str]
) -> list[Trial]:
    """Up to the first that fails."""
    name, device = nic
    done: list[Trial] = []
    for what in order:
        if what == "gpu_reach":
            done += _try_gpus(facts, transport, stop, name, device)
            continue
        good, told = ask([*_CHILD, what, transport, device], DEADLINE_S, stop)
        done.append(Trial(what, name, good, told))
        if not good:
            break
    return done


def _try_gpus(
    facts: Facts, transport: str, stop: process.Stop, name: str, device: str
) -> Iterator[Trial]:
    """Those that the groups give the NIC to: no other pair moves bytes."""
    if transport == _SHARED_MEMORY:
        if facts.gpus:
            yield Trial("gpu_reach", name, None, "shared memory does not reach GPUs")
        return
    for group in facts.groups:
        if group.gpu is not None and name in group.nics:
            command = [*_CHILD, "gpu_reach", transport, device, group.gpu]
            yield Trial("gpu_reach", name, *ask(command, GPU_DEADLINE_S, stop), group.gpu)
