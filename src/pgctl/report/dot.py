"""The PCI tree of a record as a picture, for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pgctl.report.record import Record


def dot(record: Record) -> str:
    """NUMA nodes as frames, bridges as points, each group's NICs on dashed lines."""
    hardware = record.hardware or {}
    return "\n".join(["graph pci {", *_indented(_body(record, hardware)), "}", ""])


def _body(record: Record, hardware: Mapping[str, Any]) -> Iterator[str]:
    yield "rankdir=LR; compound=true; node [shape=box, fontname=sans];"
    labels = _labels(hardware)
    edges: dict[tuple[str, str], None] = {}
    nodes: dict[Any, dict[str, None]] = {}
    for device in hardware.get("pci", ()):
        path = [*(device["above"] or ()), device["address"]]
        edges.update(dict.fromkeys(pairwise(path)))
        nodes.setdefault(device["numa"], {}).update(dict.fromkeys(path))
    placed = {device["address"] for device in hardware.get("pci", ())}
    for nic in hardware.get("nics", ()):
        if nic["pci"] not in placed:
            nodes.setdefault(nic["numa"], {})[nic["name"]] = None
    seen: set[str] = set()
    for numa, names in sorted(nodes.items(), key=lambda item: str(item[0])):
        title = "NUMA node unknown" if numa is None else f"NUMA node {numa}"
        yield f"subgraph {_quoted(f'cluster {title}')} {{"
        yield f"  label={_quoted(title)};"
        for name in names:
            if name not in seen:
                seen.add(name)
                yield f"  {_quoted(name)} {labels.get(name, _BRIDGE)};"
        yield "}"
    for above, below in edges:
        yield f"{_quoted(above)} -- {_quoted(below)};"
    where = {nic["name"]: nic["pci"] or nic["name"] for nic in hardware.get("nics", ())}
    for group in record.domain_groups:
        for nic in group.nics if group.gpu else ():
            yield f"{_quoted(group.gpu or '')} -- {_quoted(where[nic])} [style=dashed, {_LOOSE}];"


_BRIDGE = "[shape=ellipse, color=gray]"
_LOOSE = "constraint=false"


def _labels(hardware: Mapping[str, Any]) -> dict[str, str]:
    """By PCI address, or by name for a NIC that has none."""
    labels = {
        gpu["pci"]: _style(gpu["name"] or "GPU", gpu["pci"], "palegreen")
        for gpu in hardware.get("gpus", ())
    }
    ports: dict[str, list[str]] = {}
    for nic in hardware.get("nics", ()):
        ports.setdefault(nic["pci"] or nic["name"], []).append(nic["name"])
    for address, names in ports.items():
        labels[address] = _style(", ".join(names), address, "lightblue")
    return labels


def _style(name: str, address: str, colour: str) -> str:
    text = name if name == address else f"{name}\n{address}"
    return f"[label={_quoted(text)}, style=filled, fillcolor={colour}]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
