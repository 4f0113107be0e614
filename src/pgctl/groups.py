"""From the DomainGroups that probe prints to those that an engine is made of."""

from __future__ import annotations

from collections.abc import Mapping

from pgctl.engine.config import GroupConfig, NicConfig, Progress
from pgctl.hardware.facts import read_facts
from pgctl.hardware.groups import DomainGroup
from pgctl.hardware.nics import Nic
from pgctl.hardware.selection import Selection

UNKNOWN_RAIL = -1
"""Of a NIC that is in no group of probe's: the transport knows better."""


def group_configs(
    transport: str,
    options: str = "",
    *,
    nics: str = "",
    gpus: str = "",
    nics_per_gpu: int | None = None,
    progress: Progress = "auto",
) -> list[GroupConfig]:
    """For TransferEngine: the groups that `pgctl probe` prints on this machine, in that order.

    transport: "verbs" or "ofi"; options: its own. The others are probe's flags `--nics`, `--gpus`
    and `--nics-per-gpu`. Raises SelectionError for what they name and is not there.
    """
    facts = read_facts(selection=Selection(nics, gpus, nics_per_gpu))
    rates = {nic.name: link_gbit_s(nic) for nic in facts.nics}
    return [group_config(group, rates, transport, options, progress) for group in facts.groups]


def group_config(
    group: DomainGroup,
    rates: Mapping[str, float],
    transport: str,
    options: str = "",
    progress: Progress = "auto",
) -> GroupConfig:
    """rates: of links, by NIC; what is 0, or not there, is as the transport says."""
    return GroupConfig(
        nics=[
            NicConfig(
                transport=transport,
                device=name,
                options=options,
                link_mbit_s=round(1000 * rates.get(name, 0.0)),
                rail=rail + 1,  # the engine's 0 is: none is known
            )
            for name, rail in zip(group.nics, group.rails, strict=True)
        ]
        or [NicConfig(transport="shm")],
        progress=progress,
        worker_cpu=group.cpus[0] if group.cpus else -1,
    )


def link_gbit_s(nic: Nic) -> float:
    """0: unknown, or that of an interface which a Soft-RoCE device stands on."""
    return (nic.gbit_s.value or 0.0) if nic.pci else 0.0
