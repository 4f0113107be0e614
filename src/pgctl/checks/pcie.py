"""Checks of what lies between GPUs, NICs and CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pgctl.checks.check import (
    Opinion,
    environment,
    fail,
    good,
    no_pair,
    no_rdma,
    several,
    skip,
    tried,
    unread,
    warn,
)
from pgctl.hardware.facts import Facts
from pgctl.hardware.pci import PciDevice
from pgctl.profile import Expect

_TRANSLATES = ("DMA", "DMA-FQ")
_RELAXED = ("NCCL_IB_PCI_RELAXED_ORDERING", "UCX_IB_PCI_RELAXED_ORDERING")


def affinity(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    groups = [group for group in facts.groups if group.gpu is not None]
    far = [
        f"{group.gpu} to {nic}: {how}"
        for group in groups
        for nic, how in zip(group.nics, group.closeness, strict=True)
        if how == "SYS"
    ]
    if far:
        return warn(
            f"the closest NIC is across the machine, or nobody knows where it is: {several(far)}",
            "move the card to the GPU's socket; in a virtual machine, give --topology FILE",
        )
    counts = Counter(len(group.nics) for group in groups)
    users = Counter(nic for group in groups for nic in group.nics)
    if len(counts) > 1 or len(set(users.values())) > 1:
        uneven = [f"{group.gpu}: {', '.join(group.nics)}" for group in groups]
        return warn(
            f"GPUs do not have equal shares of the NICs: {several(uneven)}",
            "choose NICs with --nics, or how many each GPU gets with --nics-per-gpu",
        )
    order = ("PIX", "PXB", "PHB", "NODE")
    worst = max((how for group in groups for how in group.closeness), key=order.index)
    each = f"{min(counts)} NIC{'s' * (min(counts) > 1)}"
    shared = max(users.values())
    together = f", which {shared} GPUs share" if shared > 1 else ""
    return good(f"each GPU has {each}{together}, {worst} or closer")


def acs(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_pair(facts)) is not None:
        return nothing
    ends = list(_ends(facts))
    if facts.cpus.virtual.value:
        return skip("in a virtual machine the host decides about ACS and IOMMU")
    bridges = {b.address: b for end in ends for b in facts.tree.bridges(end.address)}
    redirecting = [
        b.acs_redirects.source for b in bridges.values() if b.acs_redirects.value is True
    ]
    if redirecting:
        return warn(
            f"ACS sends what GPU and NIC exchange up to the CPU: {several(redirecting)}",
            "turn ACS off in the firmware, or setpci -s BRIDGE ECAP_ACS+6.w=0000 at boot",
        )
    translated = [end.iommu for end in ends if end.iommu.value in _TRANSLATES]
    if translated:
        return warn(
            f"the IOMMU translates: {several(translated)}",
            "boot with iommu=pt, or turn the IOMMU off in the firmware",
        )
    unread_bits = [b.acs_redirects for b in bridges.values() if not b.acs_redirects.known]
    unread_types = [end.iommu for end in ends if not end.iommu.known]
    if unread_bits or unread_types:
        return unread(facts, *unread_bits[:1], *unread_types[:1])
    if not bridges:
        return skip("no bridge between them is known")
    return good(f"{len(bridges)} bridges redirect nothing, and no IOMMU translates")


def pcie_link(facts: Facts, _: Expect) -> Opinion:
    ends = list(_ends(facts))
    if not ends:
        return skip("neither GPU nor NIC on PCI")
    narrow, slow, unknown = [], [], []
    for end in ends:
        path = [end, *facts.tree.bridges(end.address)]
        link = end.link
        its = (link.width, link.speed, link.max_width, link.max_speed)
        unknown += [fact for fact in its if not fact.known]
        widths = [d.link.max_width.value for d in path if d.link.max_width.value is not None]
        speeds = [d.link.max_speed.value for d in path if d.link.max_speed.value is not None]
        for device in path if widths and speeds else ():
            width, speed = device.link.width, device.link.speed
            if width.value is not None and width.value < min(widths):
                narrow.append(f"{width.source}: x{width.value} of x{min(widths)}")
            if speed.value is not None and speed.value < min(speeds):
                slow.append(f"{speed.source}: {speed.value:g} of {min(speeds):g} GT/s")
    if narrow:
        return fail(several(dict.fromkeys(narrow)), "reseat the card; try another slot or riser")
    if slow:
        return warn(
            several(dict.fromkeys(slow)),
            "an idle link may slow down to save power: look again under load, then reseat the card",
        )
    if unknown:
        return unread(facts, *unknown)
    return good(f"as fast and as wide as the paths to {len(ends)} GPUs and NICs allow")


def ordering(facts: Facts, _: Expect) -> Opinion:
    opinion = tried(
        facts,
        "ordering",
        "turn relaxed ordering off for the NIC, update its firmware and tell the vendor; leave it "
        "out with --nics ^NAME",
    )
    if opinion.verdict == "fail":
        return opinion
    relaxed = [
        f"{name}={value}"
        for name in _RELAXED
        if (value := environment(facts).get(name, "0").lower()) in ("1", "on", "y", "yes")
    ]
    if relaxed:
        return warn(
            f"{', '.join(relaxed)}: a flag that is polled in memory may pass the data before it",
            "unset it for programs that poll memory; counted immediates do not mind",
        )
    return opinion


def numa(facts: Facts, _: Expect) -> Opinion:
    if not facts.used_nics:
        return no_rdma(facts) or skip("no NIC is in use")
    nodes = {node.number for node in facts.cpus.nodes}
    if len(nodes) < 2:
        return skip("one NUMA node, or none is known")
    if not facts.cpus.allowed.known:
        return unread(facts, facts.cpus.allowed)
    usable = facts.cpus.usable()
    mine = {facts.cpus.node_of(cpu) for cpu in usable}
    away = [f"{nic.name} on node {nic.numa}" for nic in facts.used_nics if nic.numa not in mine]
    lost = [nic for nic in facts.used_nics if nic.numa is None]
    if lost:
        devices = [facts.pci_device(nic.pci) for nic in lost]
        return unread(facts, *[d.numa if d else "a NIC that is not on PCI" for d in devices])
    if away:
        return warn(
            f"{facts.cpus.allowed.source}: none of the cpus allowed is near {several(away)}",
            "let the process use the NIC's node: numactl --cpunodebind=NODE, or --cpuset-cpus",
        )
    without = [group.gpu or group.nics[0] for group in facts.groups if not group.cpus]
    if without:
        return warn(
            f"{len(usable)} cpus are allowed, and none is left for {several(without)}",
            "allow the process more cpus: --cpus-per-task, cpuset",
        )
    return good("each group has cpus of its own on its node")


def _ends(facts: Facts) -> Iterator[PciDevice]:
    """The GPUs and NICs that groups use; no virtual functions, which have no link of their own."""
    addresses = [group.gpu for group in facts.groups]
    addresses += [nic.pci for nic in facts.used_nics]
    for address in dict.fromkeys(addresses):
        device = facts.pci_device(address)
        if device is not None and device.physical_function is None:
            yield device
