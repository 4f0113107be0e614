"""Checks of RDMA ports: their state, addresses, sizes and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pgctl.checks.check import (
    NEEDS_TIME,
    NEEDS_TRAFFIC,
    Opinion,
    environment,
    fail,
    good,
    no_rdma,
    several,
    skip,
    unread,
    warn,
)
from pgctl.hardware.facts import Facts
from pgctl.hardware.rdma import Gid, Port, roce_mtu
from pgctl.hardware.root import Fact
from pgctl.hardware.selection import Candidate, SelectionError, choose_nics
from pgctl.profile import Expect

_FULL_MEMBER = 1 << 15
_RETRAINING = ("LinkErrorRecovery", "PortConfigurationTraining")
_FULL_MTU = 4096


def traffic_path(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    variables = environment(facts)
    if variables.get("NCCL_IB_DISABLE", "0") != "0":
        return warn(f"NCCL_IB_DISABLE={variables['NCCL_IB_DISABLE']}", "unset NCCL_IB_DISABLE")
    if variables.get("NCCL_NET", "").lower() == "socket":
        return warn(f"NCCL_NET={variables['NCCL_NET']}", "unset NCCL_NET")
    if asked := variables.get("NCCL_IB_HCA"):
        known = [Candidate(nic.device, nic.port, nic.pci) for nic in facts.nics]
        try:
            choose_nics(asked, known)
        except SelectionError as error:
            return fail(f"NCCL_IB_HCA={asked}: {error}", "name NICs that are here, or unset it")
    if all(port.active is False for port in facts.ports):
        return fail(
            "no RDMA port is ACTIVE, so that everything falls back to TCP",
            "bring a port up: see PG125",
        )
    return skip(NEEDS_TRAFFIC)


def states(facts: Facts, expect: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    down = [port for port in facts.ports if port.active is False]
    if not down:
        unknown = [port.state for port in facts.ports if not port.state.known]
        if unknown:
            return unread(facts, *unknown)
        return good(f"all {len(facts.ports)} ports are ACTIVE")
    evidence = several([f"{port.state} ({port.phys_state.value})" for port in down])
    fix = "check cable, switch port and `ip link`; leave out unused ports with --nics ^NAME"
    active = [port for port in facts.ports if port.active]
    cards = {_card(facts, port) for port in active}
    spare = all(_card(facts, port) in cards for port in down)
    if spare or (expect.nics is not None and len(active) >= expect.nics):
        return warn(evidence, fix)
    return fail(evidence, fix)


def gid(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    roce = [port for port in facts.ports if _is_roce(port)]
    if not roce:
        return skip("no RoCE port")
    asked = environment(facts).get("NCCL_IB_GID_INDEX", "")
    unreadable = [port for port in roce if port.gids and not any(g.kind.known for g in port.gids)]
    if unreadable:
        kinds = [port.gids[0].kind for port in unreadable]
        return skip(f"{several(kinds)}; in a container that is normal")
    wrong, chosen = [], []
    for port in roce:
        fit = [entry for entry in port.gids if _fits(entry)]
        if asked.isdecimal():
            fit = [entry for entry in fit if entry.index == int(asked)]
        if fit:
            chosen.append((port, fit[0].index))
        else:
            wrong.append(f"{port.source}/gids: {_table(port)}")
    if wrong and asked.isdecimal():
        return fail(
            f"NCCL_IB_GID_INDEX={asked}, but {several(wrong)}",
            "unset NCCL_IB_GID_INDEX, or name an index of a routable RoCE v2 GID",
        )
    if not facts.system.environment.known:
        return unread(facts, facts.system.environment)
    if wrong:
        return fail(
            f"no routable RoCE v2 GID: {several(wrong)}",
            "give the interface an IP address: ip addr add ADDRESS/LENGTH dev NETDEV",
        )
    return good("RoCE v2, routable: " + several([f"{port.device} index {i}" for port, i in chosen]))


def mtu(facts: Facts, expect: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    active = [port for port in facts.ports if port.active is not False]
    told = [port.active_mtu for port in active if port.active_mtu.known]
    if told and len(told) == len(active):
        return _mtu_told(told, expect)
    sizes: dict[str, int] = {}
    unknown = []
    for port in filter(_is_roce, facts.ports):
        netdev = facts.netdev(port.netdev)
        if netdev is not None and netdev.mtu.value is not None:
            sizes[netdev.name] = netdev.mtu.value
        else:
            unknown.append(netdev.mtu if netdev else f"{port.source}: its interface is unknown")
    least = expect.mtu or _FULL_MTU
    small = {name: size for name, size in sizes.items() if roce_mtu(size) < least}
    shown = [f"/sys/class/net/{name}/mtu: {size}" for name, size in (small or sizes).items()]
    fix = "ip link set NETDEV mtu 9000, on both ends and on the switch between them"
    if small:
        return warn(f"{several(shown)}; RDMA makes {roce_mtu(min(sizes.values()))} of it", fix)
    if len(set(sizes.values())) > 1:
        return warn(f"they differ: {several(shown)}", fix)
    if unknown:
        return unread(facts, *unknown)
    if not sizes:
        return skip("active_mtu is not in sysfs, and there is no interface to derive it from")
    return good(f"RDMA makes {roce_mtu(min(sizes.values()))} of {several(shown)}")


def _mtu_told(told: Sequence[Fact[int]], expect: Expect) -> Opinion:
    """By the drivers, of all ports."""
    fix = "ip link set NETDEV mtu 9000, or the subnet manager's; also at the peer and in between"
    small = [fact for fact in told if (fact.value or 0) < (expect.mtu or _FULL_MTU)]
    if small:
        return warn(several(small), fix)
    if len({fact.value for fact in told}) > 1:
        return warn(f"they differ: {several(told)}", fix)
    return good(several(told))


def rails(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    limited = [
        f"{port.source}/pkeys: {', '.join(f'{key:#06x}' for key in port.pkeys.value)}"
        for port in facts.ports
        if port.pkeys.value and not any(key & _FULL_MEMBER for key in port.pkeys.value)
    ]
    if limited:
        return fail(
            f"limited members cannot talk to each other: {several(limited)}",
            "have the subnet manager make this port a full member (bit 15 of the key)",
        )
    used = {(nic.device, nic.port) for nic in facts.used_nics}
    layers = Counter(
        port.link_layer.value
        for port in facts.ports
        if (port.device, port.number) in used and port.link_layer.known
    )
    if len(layers) > 1:
        mixed = ", ".join(f"{count} {layer}" for layer, count in layers.most_common())
        return warn(f"the groups' NICs mix link layers: {mixed}", "choose one kind with --nics")
    return skip(NEEDS_TRAFFIC)


def roce_class(facts: Facts, expect: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    roce = [port for port in facts.ports if _is_roce(port)]
    if not roce:
        return skip("no RoCE port")
    known = [port.traffic_class for port in roce if port.traffic_class.known]
    unknown = [port.traffic_class for port in roce if not port.traffic_class.known]
    if not known:
        return unread(facts, unknown[0])
    classes = {fact.value for fact in known}
    evidence = several(known)
    fix = "echo CLASS > /sys/class/infiniband/NIC/tc/1/traffic_class, as the switches expect it"
    if len(classes) > 1:
        return warn(f"they differ: {evidence}", fix)
    if unknown:
        return unread(facts, *unknown)
    wanted, found = expect.traffic_class, next(iter(classes))
    if wanted is not None and found != wanted:
        return warn(f"{evidence}; expected {wanted}", fix)
    if not found:
        return warn(f"no class is set, so that switches may drop: {evidence}", fix)
    return good(f"{evidence}; loss and congestion show only under load")


def link_rate(facts: Facts, expect: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    for port in facts.ports:
        bond = facts.netdev(port.netdev)
        if bond is None or not bond.members:
            continue
        members = [member for name in bond.members if (member := facts.netdev(name)) is not None]
        lost = [member.state for member in members if member.state.value != "up"]
        if lost:
            return warn(
                f"a member of {bond.name} is down: {several(lost)}",
                "check its cable and switch port",
            )
        mbit_s, rate = bond.speed_mbit_s, port.rate_gbit_s
        if mbit_s.value and rate.value and mbit_s.value != rate.value * 1000:
            return warn(
                f"{rate} Gb/s, but {mbit_s} Mb/s",
                f"size by the bond: programs that read `rate` of {port.device} are wrong",
            )
    rates = {nic.name: nic.gbit_s for nic in facts.used_nics}
    unknown = [rate for rate in rates.values() if not rate.known]
    if unknown or not rates:
        return unread(facts, *unknown) if unknown else skip("no NIC is in use")
    wanted = expect.link_gbit_s
    slow = [rate for rate in rates.values() if wanted and (rate.value or 0) < wanted]
    if slow:
        return fail(
            f"expected {wanted:g} Gb/s: {several(slow)}", "check cable, transceiver and switch port"
        )
    if len({rate.value for rate in rates.values()}) > 1:
        return warn(f"they differ: {_by_rate(facts)}", "choose NICs of one rate with --nics")
    return good(_by_rate(facts))


def flaps(facts: Facts, _: Expect) -> Opinion:
    if (nothing := no_rdma(facts)) is not None:
        return nothing
    training = [port.phys_state for port in facts.ports if port.phys_state.value in _RETRAINING]
    if training:
        return fail(
            f"the link trains again at this moment: {several(training)}",
            "reseat or replace cable and transceiver; look at the switch port's errors",
        )
    return skip(NEEDS_TIME)


def _is_roce(port: Port) -> bool:
    return port.roce and port.active is not False


def _fits(entry: Gid) -> bool:
    return entry.kind.value == "RoCE v2" and entry.routable


def _table(port: Port) -> str:
    kinds = [f"{entry.index} {entry.kind.value} {entry.address}" for entry in port.gids]
    return several(kinds) or f"{port.gids_readable.value or 'no'} entries, all empty"


def _card(facts: Facts, port: Port) -> str:
    """Ports and functions of one card share all of the address but the function."""
    address = next((d.pci for d in facts.rdma if d.name == port.device), None)
    return (address or port.device).partition(".")[0]


def _by_rate(facts: Facts) -> str:
    counts = Counter(nic.gbit_s.value for nic in facts.used_nics)
    return ", ".join(f"{count} NICs of {rate:g} Gb/s" for rate, count in counts.most_common())
