"""Which NICs and GPUs are meant: NCCL_IB_HCA's syntax, and PCI addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgctl.hardware.pci import full_address


class SelectionError(ValueError):
    """Names nothing that is here. `part`: the field of Selection."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(why)
        self.part = part


@dataclass(frozen=True, slots=True)
class Candidate:
    """A port of a NIC."""

    device: str
    port: int | None
    pci: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for; empty texts ask for everything."""

    nics: str = ""
    gpus: str = ""
    nics_per_gpu: int | None = None


def choose_nics(text: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """`mlx5` is a prefix, `=mlx5_1` a name, `^` all others, `:2` a port; commas add up.

    A PCI address stands for the NIC there. Raises SelectionError.
    """
    if not text:
        return list(candidates)
    others, rest = text.startswith("^"), text.removeprefix("^")
    exact, rest = rest.startswith("="), rest.removeprefix("=")
    named: set[Candidate] = set()
    for item in rest.split(","):
        found = [nic for nic in candidates if _is_meant(item.strip(), exact, nic)]
        if not found:
            known = ", ".join(dict.fromkeys(nic.device for nic in candidates)) or "there is none"
            raise SelectionError("nics", f"{item.strip()!r} is no NIC of this machine: {known}")
        named.update(found)
    return [nic for nic in candidates if (nic in named) is not others]


def choose_gpus(text: str, gpus: Sequence[str]) -> list[str]:
    """PCI addresses, separated by commas; `^` means all others. Raises SelectionError."""
    if not text:
        return list(gpus)
    others, rest = text.startswith("^"), text.removeprefix("^")
    named = set()
    for item in rest.split(","):
        address = full_address(item)
        if address is None:
            raise SelectionError(
                "gpus",
                f"{item.strip()!r} is not a PCI address, and indices shift with "
                "CUDA_VISIBLE_DEVICES: write 0000:18:00.0 or 18:00.0",
            )
        if address not in gpus:
            known = ", ".join(gpus) or "there is none"
            raise SelectionError("gpus", f"{item.strip()!r} is no GPU of this machine: {known}")
        named.add(address)
    return [gpu for gpu in gpus if (gpu in named) is not others]


def _is_meant(item: str, exact: bool, nic: Candidate) -> bool:
    if (address := full_address(item)) is not None:
        return nic.pci == address
    name, _, port = item.partition(":")
    if port and (not port.isdecimal() or nic.port != int(port)):
        return False
    return bool(name) and (nic.device == name if exact else nic.device.startswith(name))
