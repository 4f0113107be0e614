"""Checks of GPUs as RDMA sees them."""

from __future__ import annotations

from pgctl.checks.check import (
    Opinion,
    cannot,
    environment,
    fail,
    good,
    no_gpu,
    no_pair,
    several,
    skip,
    tried,
    unread,
    warn,
)
from pgctl.hardware.facts import Facts
from pgctl.hardware.pci import BUS_MASTER, MEMORY_SPACE
from pgctl.profile import Expect
from pgctl.units import format_size

_NVIDIA = 0x10DE
_DMABUF_KERNEL = (5, 12)
_PEER_MODULES = ("nvidia_peermem", "nv_peer_mem", "efa_nv_peermem")
_SMALL_APERTURE = 256 << 20
_LEAST_MAPS = 65530
_LEAST_REGIONS = 4096
"""As many as an engine keeps."""
_STREAM, _OVERRIDE = "EnableStreamMemOPs", "PeerMappingOverride=1"


def gpu_memory(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    system = facts.system
    loaded = [fact for name in _PEER_MODULES if (fact := system.modules[name]).known]
    if loaded:
        return good(several(loaded))
    if system.peer_memory.value:
        return good(f"{system.peer_memory.source}: {', '.join(system.peer_memory.value)}")
    kernel = system.kernel_version
    if kernel is None:
        return unread(facts, system.kernel)
    fix = "modprobe nvidia-peermem; or Linux 5.12 with the open NVIDIA kernel modules (DMA-BUF)"
    if kernel < _DMABUF_KERNEL:
        return fail(f"{system.kernel}: no DMA-BUF, and none of {', '.join(_PEER_MODULES)}", fix)
    refusing = [device.dmabuf for device in facts.used_devices if device.dmabuf.value is False]
    if refusing:
        return fail(
            f"{several(refusing)}, and none of {', '.join(_PEER_MODULES)} is loaded",
            "modprobe nvidia-peermem; or a driver of the NIC that registers DMA-BUFs",
        )
    if not _any_nvidia(facts):
        return good(f"DMA-BUF: {system.kernel}")
    if system.nvidia.open_kernel.value is None:
        return unread(facts, system.nvidia.open_kernel)
    if system.nvidia.open_kernel.value:
        return good(f"DMA-BUF: {system.kernel}, and the open kernel module")
    modules = ", ".join(_PEER_MODULES)
    return fail(f"{system.nvidia.version}, not the open kernel module; none of {modules}", fix)


def gpu_reach(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    wrong = []
    for group in facts.groups:
        gpu = facts.pci_device(group.gpu)
        if gpu is None:
            continue
        if gpu.command.value is not None and not gpu.command.value & MEMORY_SPACE:
            wrong.append(f"{gpu.command.source}: memory decoding is off")
        if any(bar.large and not bar.address for bar in gpu.bars.value or ()):
            wrong.append(f"{gpu.bars.source}: a memory BAR has no address")
    for nic in facts.used_nics:
        device = facts.pci_device(nic.pci)
        if device is None or device.command.value is None:
            continue
        if not device.command.value & BUS_MASTER:
            wrong.append(f"{device.command.source}: bus mastering is off")
    if wrong:
        return fail(
            several(wrong),
            "load the device's driver; for BARs, enable Above 4G Decoding in the firmware",
        )
    return tried(
        facts,
        "gpu_reach",
        "if memory is not registered: modprobe nvidia-peermem, or Linux 5.12 with the open NVIDIA "
        "kernel modules (PG102); if writes fail, hang or leave other bytes: turn ACS off on the "
        "bridges between both, and the IOMMU off or to pass-through, iommu=pt (PG111)",
    )


def mr_limits(facts: Facts, _: Expect) -> Opinion:
    if not facts.gpus and not facts.nics:
        return skip("neither GPU nor NIC")
    maps = facts.system.max_map_count
    if maps.value is not None and maps.value < _LEAST_MAPS:
        return warn(str(maps), "sysctl -w vm.max_map_count=262144")
    tight, unknown = [], []
    for gpu in facts.gpus:
        room, memory = gpu.aperture.value, gpu.memory.value
        if room is None:
            unknown.append(gpu.aperture)
        elif room <= _SMALL_APERTURE or (memory is not None and room < memory):
            tight.append(f"{gpu.aperture.source}: BAR of {format_size(room)}")
    if tight:
        return warn(
            f"only so much of a GPU can be registered at a time: {several(tight)}",
            "enable Resizable BAR or Above 4G Decoding in the firmware",
        )
    if unknown:
        return unread(facts, *unknown)
    if not maps.known:
        return unread(facts, maps)
    devices = [device.limits for device in facts.used_devices]
    few = [
        f"{limits.source}: max_mr {limits.value.max_mr}"
        for limits in devices
        if limits.value and limits.value.max_mr < _LEAST_REGIONS
    ]
    if few:
        return warn(
            f"so few regions can be registered: {several(few)}",
            "raise the limit in the NIC's firmware or driver; register fewer, larger regions",
        )
    if facts.real and (silent := [limits for limits in devices if not limits.known]):
        return unread(facts, *silent)
    rooms = {gpu.aperture.value or 0 for gpu in facts.gpus}
    bars = ", ".join(f"BAR of {format_size(room)}" for room in sorted(rooms))
    return good(f"{bars}; {maps}" if bars else str(maps))


def gpu_order(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_gpu(facts)) is not None:
        return nothing
    if not facts.system.environment.known:
        return unread(facts, facts.system.environment)
    variables = environment(facts)
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return good("CUDA_VISIBLE_DEVICES is not set")
    items = [item.strip() for item in visible.split(",")]
    evidence = f"CUDA_VISIBLE_DEVICES={visible}"
    if not all(item.isdecimal() for item in items):
        return good(evidence)
    straight = items == [str(i) for i in range(len(items))]
    if straight and variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return good(f"{evidence}, CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return warn(
        f"{evidence}: CUDA's device 0 need not be the first GPU here",
        "go by PCI address or UUID: CUDA_VISIBLE_DEVICES=GPU-...; CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )


def gpu_rdma_knobs(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    if not _any_nvidia(facts):
        return skip("no GPU that is known to be of NVIDIA")
    params = facts.system.nvidia.params
    if params.value is None:
        return unread(facts, params)
    found = params.value
    off = []
    if found.get(_STREAM) != "1":
        off.append(f"{_STREAM}: {found.get(_STREAM)}")
    if _OVERRIDE not in found.get("RegistryDwords", ""):
        off.append(f"RegistryDwords: {found.get('RegistryDwords')}")
    if off:
        return warn(
            f"kernels cannot drive the NIC themselves: {params.source}: {several(off)}",
            "options nvidia NVreg_EnableStreamMemOPs=1 "
            'NVreg_RegistryDwords="PeerMappingOverride=1;" in /etc/modprobe.d, then reload',
        )
    return good(f"{params.source}: EnableStreamMemOPs and PeerMappingOverride are on")


def gdrcopy(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    if not _any_nvidia(facts):
        return skip("no GPU that is known to be of NVIDIA")
    if facts.foreign:
        return unread(facts, facts.system.gdrcopy)
    if facts.system.gdrcopy.known:
        return good(f"{facts.system.gdrcopy.source} can be opened")
    return warn(
        cannot(facts.system.gdrcopy),
        "install GDRCopy and modprobe gdrdrv; in a container, pass --device /dev/gdrdrv",
    )


def _any_nvidia(facts: Facts) -> bool:
    devices = (facts.pci_device(gpu.pci) for gpu in facts.gpus)
    return any(device is not None and device.vendor.value == _NVIDIA for device in devices)
