"""What probe found, in sentences and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgctl.report.describe import Line, labels_once
from pgctl.report.record import DomainGroup, Finding, Outcome, Record

_STYLES = {"fail": "bold red", "warn": "yellow", "pass": "green", "skip": "dim"}
_WORDS: tuple[tuple[Outcome, str], ...] = (
    ("pass", "passed"),
    ("warn", "warned"),
    ("fail", "failed"),
    ("skip", "skipped"),
)
_LEGEND = "PIX one switch, PXB several, PHB host bridge, NODE NUMA node, SYS the machine"
_GAP = "  "
_MANY = 2


def machine(record: Record) -> list[Line]:
    """What it is."""
    hardware = record.hardware or {}
    lines = [Line("probe", _host(record, hardware)), Line("cpus", _cpus(hardware["cpus"]))]
    lines.append(Line("gpus", _counted(_gpu_names(hardware)) or "none"))
    lines.append(Line("nics", _nics(hardware)))
    if hardware["libfabric"]:
        lines.append(Line("libfabric", _libfabric(hardware["libfabric"])))
    if hardware["topology"]:
        lines.append(Line("topology", hardware["topology"]))
    if trials := hardware["trials"]:
        lines.append(Line("tried", f"{trials['transport']}, {trials['why']}"))
    return lines


def matrix(record: Record, width: int) -> list[str]:
    """GPUs by NICs, as `nvidia-smi topo -m` has them; NICs that are alike share a column."""
    hardware = record.hardware or {}
    affinity: Mapping[str, Mapping[str, str]] = hardware["affinity"]
    alike: dict[tuple[str, ...], list[str]] = {}
    for nic in hardware["nics"]:
        alike.setdefault(tuple(row[nic["name"]] for row in affinity.values()), []).append(
            nic["name"]
        )
    if not affinity or not alike:
        return []
    first = ["", *affinity]
    columns = [[_heading(names), *cells] for cells, names in alike.items()]
    tables = [_table([first, *some]) for some in _fitting(columns, first, width)]
    return [*(line for table in tables for line in (*table, "")), _LEGEND]


def groups(record: Record, width: int) -> list[str]:
    """The DomainGroups; names in between are left out where they do not fit."""
    whole = _group_table(record, " ".join)
    fits = all(len(line) <= width for line in whole)
    return whole if fits else _group_table(record, _listed)


def _group_table(record: Record, names: Callable[[Sequence[str]], str]) -> list[str]:
    with_gpu = any(group.gpu for group in record.domain_groups)
    rows = [["GPU" if with_gpu else "group", "NUMA", "cpus", "rails", "NICs"]]
    for i, group in enumerate(record.domain_groups):
        cpus, rails = _ranges(group.cpus), _ranges(group.rails)
        rows.append([group.gpu or str(i), _number(group.numa), cpus, rails, _members(group, names)])
    return _table([list(column) for column in zip(*rows, strict=True)])


def verdicts(record: Record, verbose: bool) -> list[Line]:
    """How many checks came out how; what is wrong, and what to do about it."""
    counts = Counter(finding.verdict for finding in record.findings)
    summary = ", ".join(f"{counts[v]} {word}" for v, word in _WORDS if counts[v])
    lines = [Line("checks", summary or "none", _STYLES["fail" if counts["fail"] else "pass"])]
    lines += problems(record)
    if verbose:
        lines += [_line(finding) for finding in record.findings if finding.verdict == "pass"]
    reasons: dict[str, list[str]] = {}
    for finding in record.findings:
        if finding.verdict == "skip":
            reasons.setdefault(finding.evidence, []).append(finding.id)
    skipped = [
        Line("skip", f"{', '.join(ids)}: {why}", _STYLES["skip"]) for why, ids in reasons.items()
    ]
    return lines + labels_once(skipped)


def problems(record: Record) -> list[Line]:
    """The worst first."""
    lines = []
    for verdict in ("fail", "warn"):
        for finding in record.findings:
            if finding.verdict == verdict:
                lines += [_line(finding), Line("  fix", finding.fix)]
    return lines


def _line(finding: Finding) -> Line:
    text = f"{finding.id} {finding.title}: {finding.evidence}"
    return Line(finding.verdict, text, _STYLES[finding.verdict])


def _host(record: Record, hardware: Mapping[str, Any]) -> str:
    system = hardware["system"]
    kernel = f"Linux {system['kernel']}" if system["kernel"] else "kernel unknown"
    parts = [part for part in (record.run.host, system["product"], kernel) if part]
    if hardware["cpus"]["virtual"]:
        parts.append("virtual machine")
    if system["container"]:
        parts.append(f"{system['container']} container")
    if not hardware["real"]:
        parts.append("not this machine")
    return ", ".join(parts)


def _cpus(cpus: Mapping[str, Any]) -> str:
    online, allowed, nodes = cpus["online"], cpus["allowed"], len(cpus["nodes"])
    parts = [f"{len(online)} online" if online else "number unknown"]
    if online and allowed and len(allowed) < len(online):
        parts.append(f"{len(allowed)} allowed")
    parts.append(f"{nodes} NUMA node{'s' * (nodes != 1)}" if nodes else "NUMA nodes unknown")
    return f"{cpus['model'] or 'model unknown'}: {', '.join(parts)}"


def _gpu_names(hardware: Mapping[str, Any]) -> list[str]:
    devices = {device["address"]: device for device in hardware["pci"]}
    names = []
    for gpu in hardware["gpus"]:
        ids = devices.get(gpu["pci"], {})
        vendor, device = ids.get("vendor"), ids.get("device")
        known = f"{vendor:04x}:{device:04x}" if vendor and device else "of unknown make"
        names.append(gpu["name"] or known)
    return names


def _nics(hardware: Mapping[str, Any]) -> str:
    if not hardware["nics"]:
        plain = [netdev["name"] for netdev in hardware["netdevs"] if netdev["pci"]]
        return f"no RDMA device; {', '.join(plain)}" if plain else "no RDMA device"
    layers = {
        (port["device"], port["number"]): port["link_layer"]
        for device in hardware["rdma"]
        for port in device["ports"]
    }
    kinds = []
    for nic in hardware["nics"]:
        rate = f"{nic['gbit_s']:g} Gb/s" if nic["gbit_s"] else "unknown rate"
        layer = layers.get((nic["device"], nic["port"]))
        down = " (down)" if nic["active"] is False else ""
        kinds.append(rate + (f" {layer}" if layer in ("Ethernet", "InfiniBand") else "") + down)
    names = [nic["name"] for nic in hardware["nics"]]
    return f"{_counted(kinds)}: {_listed(names)}"


def _libfabric(libfabric: Mapping[str, Any]) -> str:
    """Its providers, and the domains of each that is not one by itself, as shared memory is."""
    domains: dict[str, list[str]] = {}
    for offer in libfabric["offers"]:
        domains.setdefault(offer["provider"], []).append(offer["domain"])
    texts = [
        name if where == [name] else f"{name} ({_listed(where)})" for name, where in domains.items()
    ]
    return f"{libfabric['version']}: {', '.join(texts) or 'no provider with RMA'}"


def _counted(items: Sequence[str]) -> str:
    return ", ".join(f"{count} x {item}" for item, count in Counter(items).items())


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MANY:
        return " ".join(names)
    return f"{names[0]} to {names[-1]}"


def _heading(names: Sequence[str]) -> str:
    return names[0] + (f"+{len(names) - 1}" if len(names) > 1 else "")


def _members(group: DomainGroup, names: Callable[[Sequence[str]], str]) -> str:
    if not group.nics:
        return "none: shared memory only"
    closeness = group.closeness or [""] * len(group.nics)
    by_how: dict[tuple[str, bool], list[str]] = {}
    for nic, how in zip(group.nics, closeness, strict=True):
        by_how.setdefault((how, nic in group.shared), []).append(nic)
    texts = []
    for (how, shared), nics in by_how.items():
        notes = ", ".join(filter(None, (how, "shared" if shared else "")))
        texts.append(names(nics) + (f" ({notes})" if notes else ""))
    return ", ".join(texts)


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _ranges(numbers: Sequence[int]) -> str:
    """0-3,8 of 0, 1, 2, 3, 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(
        str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts
    ) or ("-")


def _fitting(
    columns: Sequence[list[str]], first: Sequence[str], width: int
) -> Iterator[list[list[str]]]:
    """As many columns at a time as fit beside the first."""
    taken = max(map(len, first))
    room, some = width - taken, list[list[str]]()
    for column in columns:
        need = max(map(len, column)) + len(_GAP)
        if some and need > room:
            yield some
            room, some = width - taken, []
        some.append(column)
        room -= need
    yield some


def _table(columns: Sequence[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return [
        _GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
