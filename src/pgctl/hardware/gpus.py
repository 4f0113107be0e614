"""GPUs by PCI class, and what their driver tells about them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pgctl.hardware.cpu import field
from pgctl.hardware.pci import ACCELERATOR, DISPLAY, DISPLAY_3D, PciDevice, PciTree, full_address
from pgctl.hardware.root import Fact, Root, unknown

_NVIDIA = "/proc/driver/nvidia/gpus"
_NVML = "nvmlDeviceGet"
_LEAST_APERTURE = 256 << 20
"""A display controller that lets peers see less of its memory only draws the console."""


@dataclass(frozen=True, slots=True)
class Gpu:
    pci: str
    name: Fact[str]
    uuid: Fact[str]
    aperture: Fact[int]
    """Bytes of its memory that a NIC can reach at a time: its largest BAR."""
    memory: Fact[int]
    bar1_free: Fact[int]


@dataclass(frozen=True, slots=True)
class _Told:
    """What NVML says of one GPU."""

    name: str
    uuid: str
    memory: int
    bar1_free: int


def find_gpus(tree: PciTree) -> list[PciDevice]:
    """Controllers that compute: a console's has neither the class nor the memory for it."""
    found = [device for device in tree.of_class(DISPLAY, ACCELERATOR) if _computes(device)]
    return sorted(found, key=lambda device: device.address)


def read_gpus(root: Root, tree: PciTree) -> tuple[Gpu, ...]:
    found = find_gpus(tree)
    if not found:
        return ()
    told, why = _ask_nvml() if root.live else ({}, "not asked: the root is a copy")
    return tuple(_gpu(root, device, told.get(device.address), why) for device in found)


def _computes(device: PciDevice) -> bool:
    if device.kind.value == DISPLAY_3D or device.is_a(ACCELERATOR):
        return True
    largest = _aperture(device).value
    return largest is None or largest >= _LEAST_APERTURE


def _aperture(device: PciDevice) -> Fact[int]:
    return device.bars.map(lambda bars: max((bar.size for bar in bars if bar.large), default=0))


def _gpu(root: Root, device: PciDevice, told: _Told | None, why: str) -> Gpu:
    path = f"{_NVIDIA}/{device.address}/information"
    name = root.read(path, lambda text: field(text, "Model"))
    uuid = root.read(path, lambda text: field(text, "GPU UUID"))
    if told is None:
        memory, free = (unknown(f"{_NVML}{call}", why) for call in _MEMORY_CALLS)
    else:
        name, uuid = Fact(told.name, f"{_NVML}Name"), Fact(told.uuid, f"{_NVML}UUID")
        memory = Fact(told.memory, f"{_NVML}{_MEMORY_CALLS[0]}")
        free = Fact(told.bar1_free, f"{_NVML}{_MEMORY_CALLS[1]}")
    return Gpu(
        pci=device.address,
        name=name,
        uuid=uuid,
        aperture=_aperture(device),
        memory=memory,
        bar1_free=free,
    )


_MEMORY_CALLS = ("MemoryInfo", "BAR1MemoryInfo")


def _ask_nvml() -> tuple[Mapping[str, _Told], str]:
    """By PCI address; and why a GPU is missing there."""
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return {}, "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {}, f"nvmlInit: {error}"
    told = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):
                address, answer = _ask_about(pynvml, index)
                told[address] = answer
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return told, "NVML does not know this device"


def _ask_about(nvml: Any, index: int) -> tuple[str, _Told]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    domain, _, rest = _text(nvml.nvmlDeviceGetPciInfo(handle).busId).partition(":")
    address = full_address(f"{int(domain, 16):04x}:{rest}") or ""
    return address, _Told(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        bar1_free=int(nvml.nvmlDeviceGetBAR1MemoryInfo(handle).bar1Free),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
