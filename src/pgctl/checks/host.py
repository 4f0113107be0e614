"""Checks of the system around: limits, layers, versions, settings."""

from __future__ import annotations

from collections import defaultdict

from pgctl.checks.check import (
    Opinion,
    cannot,
    fail,
    good,
    no_rdma,
    several,
    skip,
    unread,
    warn,
)
from pgctl.hardware.facts import Facts
from pgctl.hardware.pci import INFINIBAND, NETWORK, PciDevice
from pgctl.hardware.system import UNLIMITED
from pgctl.profile import Expect
from pgctl.units import format_size

_LEAST_MEMLOCK = 1 << 30
"""Of each NIC: less does not hold the buffers of one rank."""
_KNOWN_BAD = (5, 12)
_AMAZON = 0x1D0F
_EFA = range(0xEFA0, 0xEFB0)
_EFA_SOFTWARE = "install the EFA software: its libfabric has the efa provider"
_PROVIDERS = {
    "mlx5_core": "mlx5",
    "mlx4_core": "mlx4",
    "efa": "efa",
    "irdma": "irdma",
    "bnxt_en": "bnxt_re",
}
_SOFT_ROCE = "rxe"


def memlock(facts: Facts, expect: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    limit, capable = facts.system.memlock, facts.system.ipc_lock
    if limit.value is None:
        return unread(facts, limit)
    if limit.value >= UNLIMITED:
        return good(f"{limit.source}: unlimited")
    if capable.value:
        return good(f"{limit}, but CAP_IPC_LOCK lifts it")
    wanted = expect.memlock or _LEAST_MEMLOCK * max(1, len(facts.used_nics))
    evidence = f"{limit.source}: {limit.value} bytes may be locked, without CAP_IPC_LOCK"
    fix = (
        "ulimit -l unlimited, in every rank: limits.conf, LimitMEMLOCK=infinity of the launcher's "
        "service, --ulimit memlock=-1 of a container"
    )
    if limit.value < wanted:
        least = "no limit" if wanted >= UNLIMITED else format_size(wanted)
        return fail(f"{evidence}; {least} wanted for {_nics(facts)}", fix)
    return good(evidence) if expect.memlock else warn(evidence, fix)


def layers(facts: Facts, _: Expect) -> Opinion:
    if facts.foreign:
        return unread(facts, facts.rdma_listing)
    hardware = [device for device in facts.tree.of_class(NETWORK) if _must_have_rdma(device)]
    known = {device.pci for device in facts.rdma}
    if not facts.rdma and hardware:
        return fail(
            f"{hardware[0].source} is an RDMA NIC, but {facts.rdma_listing.source} has no device: "
            f"{facts.rdma_listing.why or 'empty'}",
            "load its driver (mlx5_ib, efa); in a container, /sys must show the host's network "
            "namespace: --network host",
        )
    if not facts.rdma:
        return skip("no RDMA device")
    closed = [device.uverbs for device in facts.rdma if not device.uverbs.known]
    if closed:
        inside = facts.system.container.value
        where = f"; this is a {inside} container" if inside else ""
        evidence = f"cannot be opened: {several([cannot(fact) for fact in closed])}{where}"
        if len(closed) < len(facts.rdma):
            return warn(evidence, "leave out with --nics those that are not for this process")
        return fail(
            evidence,
            "docker run --device /dev/infiniband; in Kubernetes, ask the RDMA device plugin"
            if inside
            else "modprobe ib_uverbs; chmod 666 /dev/infiniband/uverbs*",
        )
    library, providers = facts.system.libraries["libibverbs"], facts.system.providers
    if not library.known:
        return fail(cannot(library), "install libibverbs1 and ibverbs-providers (rdma-core)")
    wanted = {name for device in facts.rdma if (name := _provider(facts, device.pci)) is not None}
    if any(device.pci is None and device.name.startswith(_SOFT_ROCE) for device in facts.rdma):
        wanted.add(_SOFT_ROCE)
    if wanted and not providers.known:
        return unread(facts, providers)
    missing = sorted(wanted - set(providers.value or ()))
    if missing:
        return fail(
            f"{providers.source}: no provider {', '.join(missing)}",
            "install ibverbs-providers (rdma-core)",
        )
    orphans = [device.source for device in hardware if device.address not in known]
    if orphans:
        return warn(f"RDMA NICs without a device: {several(orphans)}", "look into dmesg for them")
    return good(f"{len(facts.rdma)} devices, all of uverbs can be opened, {library.value}")


def efa(facts: Facts, _: Expect) -> Opinion:
    adapters = [device for device in facts.tree.of_class(NETWORK) if _is_efa(device)]
    if not adapters:
        return skip("no EFA device")
    if facts.foreign:
        return unread(facts, facts.rdma_listing)
    bound = {device.pci for device in facts.rdma}
    lost = [adapter.source for adapter in adapters if adapter.address not in bound]
    if lost:
        return fail(
            f"{len(lost)} of {len(adapters)} adapters have no RDMA device: {several(lost)}",
            "modprobe efa; install the EFA software",
        )
    return _efa_offers(facts, len(adapters))


def _efa_offers(facts: Facts, adapters: int) -> Opinion:
    """What libfabric makes of them."""
    library, libfabric = facts.system.libraries["libfabric"], facts.libfabric
    if not library.known and not libfabric.known:
        return fail(cannot(library), _EFA_SOFTWARE)
    if libfabric.value is None:
        return unread(facts, libfabric)
    offers = [o for o in libfabric.value.offers if o.provider == "efa"]
    what = f"{libfabric.source}: libfabric {libfabric.value.version}"
    if not offers:
        others = ", ".join(dict.fromkeys(o.provider for o in libfabric.value.offers)) or "nothing"
        return fail(f"{what} has no efa provider with RMA, only {others}", _EFA_SOFTWARE)
    domains = len({offer.domain for offer in offers})
    if domains < adapters:
        return warn(
            f"{what} offers {domains} of {adapters} adapters",
            "let this process open all of /dev/infiniband/uverbs*; unset FI_EFA_IFACE",
        )
    if facts.gpus and not any(offer.hmem for offer in offers):
        return warn(
            f"{what} does not offer GPU memory (FI_HMEM) over efa",
            f"{_EFA_SOFTWARE}, and it knows CUDA",
        )
    return good(
        f"{what} offers RMA over {adapters} adapters; whether the security group lets them talk "
        "shows only with a peer"
    )


def versions(facts: Facts, expect: Expect) -> Opinion:
    kernel, least = facts.system.kernel_version, expect.kernel or _KNOWN_BAD
    if kernel is None:
        return unread(facts, facts.system.kernel)
    if kernel < least:
        return warn(
            f"{facts.system.kernel}, below {least[0]}.{least[1]}",
            "a kernel from 5.12 on registers GPU memory by DMA-BUF",
        )
    firmware: dict[str, set[str]] = defaultdict(set)
    for device in facts.rdma:
        if device.firmware.value:
            firmware[device.board.value or "of unknown kind"].add(device.firmware.value)
    for board, found in firmware.items():
        if len(found) > 1:
            return warn(
                f"/sys/class/infiniband/*/fw_ver: {', '.join(sorted(found))} on cards {board}",
                "bring all cards of a kind to one firmware",
            )
    unknown = [d.firmware for d in facts.rdma if d.pci is not None and not d.firmware.known]
    if unknown:
        return unread(facts, *unknown)
    parts = [f"Linux {facts.system.kernel.value}"]
    if facts.system.nvidia.version.known:
        parts.append(f"NVIDIA {facts.system.nvidia.version.value}")
    found_at = {name: at.value for name, at in facts.system.libraries.items() if at.value}
    parts += [f"{name} {at.rpartition('.so.')[2]}" for name, at in found_at.items()]
    parts += sorted(f"{board} firmware {min(found)}" for board, found in firmware.items())
    return good(", ".join(parts))


def governor(facts: Facts, expect: Expect) -> Opinion:
    governors = facts.cpus.governors
    if not governors and facts.foreign:
        return unread(facts)
    if not governors:
        return skip("the kernel does not scale these cpus")
    wanted = expect.governor or "performance"
    other = [cpu for cpu, name in governors.items() if name != wanted]
    if other:
        path = f"/sys/devices/system/cpu/cpu{other[0]}/cpufreq/scaling_governor"
        return warn(
            f"{path}: {governors[other[0]]} ({len(other)} of {len(governors)} cpus)",
            f"cpupower frequency-set -g {wanted}",
        )
    without = len(set(facts.cpus.online.value or ()) - set(governors))
    if without:
        return skip(f"{without} cpus do not tell their governor")
    return good(f"{wanted} on {len(governors)} cpus")


def hugepages(facts: Facts, expect: Expect) -> Opinion:
    pages, transparent = facts.system.hugepages, facts.system.transparent_hugepages
    total = sum(pages.values())
    text = ", ".join(f"{count} of {size} KiB" for size, count in pages.items() if count) or "none"
    if expect.hugepages is not None and total < expect.hugepages:
        return warn(
            f"/sys/kernel/mm/hugepages: {text}; expected {expect.hugepages}",
            f"sysctl -w vm.nr_hugepages={expect.hugepages}",
        )
    if transparent.value is None and not total:
        return unread(facts, transparent)
    if transparent.value == "never" and not total:
        return warn(
            f"{transparent}, and none are set aside",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return good(f"set aside: {text}; transparent: {transparent.value or 'unknown'}")


def inventory(facts: Facts, expect: Expect) -> Opinion:
    per_gpu = min((len(group.nics) for group in facts.groups if group.gpu), default=0)
    found = {
        "gpus": len(facts.gpus),
        "nics": sum(nic.active is not False for nic in facts.nics),
        "nics_per_gpu": per_gpu,
    }
    wanted = {name: value for name in found if (value := getattr(expect, name)) is not None}
    if not wanted:
        return skip("no profile says what should be here")
    short = [
        f"{name}: {found[name]}, expected {value}"
        for name, value in wanted.items()
        if found[name] < value
    ]
    if short:
        return fail(several(short), "look for devices that fell off the bus: dmesg, lspci")
    return good(", ".join(f"{name}: {found[name]}" for name in wanted))


def _must_have_rdma(device: PciDevice) -> bool:
    return device.kind.value == INFINIBAND or _is_efa(device)


def _is_efa(device: PciDevice) -> bool:
    return device.vendor.value == _AMAZON and device.device.value in _EFA


def _provider(facts: Facts, address: str | None) -> str | None:
    device = facts.pci_device(address)
    return _PROVIDERS.get(device.driver.value or "") if device else None


def _nics(facts: Facts) -> str:
    count = len(facts.used_nics)
    return f"{count} NIC{'s' * (count != 1)}"
