"""The sentences around a table: how its figures came about, and what to compare them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgctl.report.record import Fabric, Port, Record, Result
from pgctl.units import format_bytes, format_number, format_size

_TRAFFIC = {
    "bench.write": "writes",
    "bench.paged": "paged writes",
    "bench.scatter": "scatters",
    "bench.send": "messages",
}
_SHOWN_LIMITS = (1 << 16, 1 << 20, 1 << 25)
_MANY = 8
NO_BREAK = "\u00a0"
"""A space at which no line may end; shown as any other."""
_SMALL = 4096
"""Up to here a latency is more than a copy."""
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"
_STYLES = {"pass": _GOOD, "warn": "yellow", "fail": _BAD, "skip": _QUIET}


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    text: str
    style: str = ""


def header(record: Record) -> list[Line]:
    """What was measured, over what, and why over that."""
    lines = [Line(record.command, _ranks(record)), Line("transport", _fabric(record))]
    if record.fabric.groups_by_rank:
        lines.append(Line("groups", _groups(record.fabric.groups_by_rank)))
    if record.fabric.impair:
        lines.append(Line("impaired", f"{record.fabric.impair}, seed {record.run.seed}", _BAD))
    parameters = record.run.parameters
    registered = parameters.get("memory") == "registered"
    if "memory" in parameters:
        lines.append(Line("memory", _memory(parameters)))
    if record.fabric.path and (record.fabric.transport != "shm" or registered):
        lines.append(Line("path", record.fabric.path))
    if "window" in parameters:
        lines.append(Line("traffic", _traffic(record)))
    return lines


def would_run(record: Record) -> Line:
    """What --dry-run leaves out."""
    parameters = record.run.parameters
    sizes = [format_size(size) for size in parameters.get("sizes", ())]
    if len(sizes) > _MANY:
        sizes = [f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"]
    often = f"{parameters['cycles']} times"
    if parameters["iters"] is not None:
        often += f" {parameters['iters']} operations"
    return Line("would run", f"{_and(sizes)}, {often}" if sizes else often)


def footer(record: Record) -> list[Line]:
    """Limits, ratios, and whether anybody looked at the payload."""
    lines = [Line("limits", text) for text in _limits(record)]
    if (ratio := _latency_ratio(record)) is not None:
        lines.append(Line("latency", ratio))
    lines += [Line("wire", text) for text in _wire(record.fabric.ports)]
    if (failovers := _failovers(record.fabric)) is not None:
        lines.append(Line("failovers", failovers))
    lines += [
        Line(finding.verdict, f"{finding.title}: {finding.evidence}", _STYLES[finding.verdict])
        for finding in record.findings
    ]
    if (line := _verified(record.results)) is not None:
        lines.append(line)
    if record.error is not None:
        sizes = len(record.run.parameters.get("sizes", [0]))
        done = f"{len(record.results)} of {sizes} sizes" if sizes > 1 else "nothing"
        lines.append(Line("incomplete", f"{done} measured: {record.error}", _BAD))
    return labels_once(lines)


def _ranks(record: Record) -> str:
    run = record.run
    cpus = [cpu for cpu in run.cpus if cpu is not None]
    if len(cpus) == run.ranks:
        where = f"pinned to {'core' if len(cpus) == 1 else 'cores'} {_and(cpus)}"
    else:
        where = "not pinned"
    by = "" if run.launcher == "local" else f", started by {run.launcher}"
    return f"{run.ranks} ranks on {run.host}{by}, {where}"


def _fabric(record: Record) -> str:
    fabric = record.fabric
    nics = _nics(fabric) + (f"; {fabric.options}" if fabric.options else "")
    text = f"{fabric.transport} ({nics}), {_progress(fabric.progress)}"
    return f"{text}; {fabric.why}" if fabric.why else text


def _groups(names: Sequence[str]) -> str:
    """Whose NICs ranks have."""
    different = len(set(names))
    noun = "GPU" if ":" in names[0] else "group"
    if different == 1:
        return f"{noun} {names[0]} at each rank, as pgctl probe prints it"
    which = f"{noun} {' / '.join(names)}" if len(names) <= _MANY else f"{different} {noun}s"
    return f"{which}, as pgctl probe prints them"


def _nics(fabric: Fabric) -> str:
    hands = fabric.nics_by_rank
    if len(set(hands)) <= 1:
        return _and([nic.name for nic in fabric.nics])
    counts = [len(hand) for hand in hands]
    if len(hands) > _MANY:
        return f"{_each(counts)} {'NIC' if set(counts) == {1} else 'NICs'} each"
    names = " / ".join(map(_range, hands))
    if len(set(counts)) == 1:
        return names
    if len(counts) > 2:
        return f"{_each(counts)} NICs: {names}"
    first, second = counts
    return f"{first} {'NIC' if first == 1 else 'NICs'} against {second}: {names}"


def _progress(modes: Sequence[str]) -> str:
    first, *others = dict.fromkeys(modes)
    if not others:
        return f"{first} progress"
    rest = [f"{mode} at {_ranks_with(mode, modes)}" for mode in others]
    return ", ".join([f"{first} progress at {_ranks_with(first, modes)}", *rest])


def _ranks_with(mode: str, modes: Sequence[str]) -> str:
    ranks = [rank for rank, its in enumerate(modes) if its == mode]
    noun = "rank" if len(ranks) == 1 else "ranks"
    if len(modes) > _MANY:
        return f"{len(ranks)}{NO_BREAK}{noun}"
    return f"{noun}{NO_BREAK}{_and(ranks)}"


def _memory(parameters: Mapping[str, Any]) -> str:
    touch = {
        "hot": "hot (the same bytes each time)",
        "marching": f"marching through {format_size(parameters.get('span') or 0)}",
    }[parameters["touch"]]
    return f"{parameters['memory']} memory, pre-faulted, {touch}"


def _traffic(record: Record) -> str:
    parameters = record.run.parameters
    test = record.command.replace(" ", ".")
    operations = _TRAFFIC.get(test, "operations")
    if parameters["window"] == 1:
        operations = operations.removesuffix("s")
    text = f"{parameters['window'] or 'up to 64'} {operations} in flight"
    if parameters.get("bidirectional"):
        text += " each way, both directions added"
    if "imm" not in parameters:
        return text
    if parameters["imm"]:
        return f"{text}, each counted by the receiver"
    asleep = "" if parameters.get("bidirectional") else ", the receiver asleep"
    return f"{text}, complete at the sender{asleep}"


def _limits(record: Record) -> list[str]:
    limits = record.limits
    texts = []
    touch = record.run.parameters.get("touch", "hot")
    names = {
        "memcpy_gbyte_s": f"memcpy, {touch}",
        "memcpy_threads_gbyte_s": f"memcpy by {_threads(record)} threads, {touch}",
        "memcpy_marching_gbyte_s": "memcpy, marching",
        "process_vm_writev_gbyte_s": f"process_vm_writev, {touch}",
    }
    if by_size := limits.get("link_gbyte_s"):
        texts.append(f"the links of a rank: {format_number(max(by_size.values()))} GB/s")
    for key, name in names.items():
        if by_size := limits.get(key):
            texts.append(f"{name}: {_by_size(by_size)}")
    if "cacheline_oneway_us" in limits:
        texts.append(
            f"a cache line, there and seen: {format_number(limits['cacheline_oneway_us'])} µs"
        )
    return texts


def _threads(record: Record) -> str:
    """Of each sender: one per NIC, or there would be no such limit."""
    counts = [len(hand) for hand in record.fabric.nics_by_rank]
    one_way = not record.run.parameters.get("bidirectional", True)
    return _each(counts[:1] if one_way else counts)


def _by_size(values: Mapping[str, float]) -> str:
    shown = [size for size in _SHOWN_LIMITS if str(size) in values]
    sizes = shown or [int(size) for size in list(values)[-3:]]
    texts = [f"{format_number(values[str(n)])} GB/s at {format_size(n)}" for n in sizes]
    return ", ".join(text.replace(" ", NO_BREAK) for text in texts)


def _latency_ratio(record: Record) -> str | None:
    line = record.limits.get("cacheline_oneway_us")
    smallest = min(record.results, key=lambda result: result.size, default=None)
    if not line or smallest is None or "lat_us" not in smallest.metrics:
        return None
    if smallest.size * (smallest.pages or 1) > _SMALL:
        return None
    value = smallest.metrics["lat_us"]["p50"]
    what = {
        "bench.barrier": "a barrier",
        "bench.scatter": f"{format_size(smallest.size)} from each to all",
    }.get(smallest.test, f"{format_size(smallest.size)} one way, half a round trip")
    return f"{what}: {format_number(value)} µs, {format_number(value / line)} times the cache line"


def _failovers(fabric: Fabric) -> str | None:
    counters = {nic.name: nic.counters_delta for nic in fabric.nics}
    broke = {name: n for name, nic in counters.items() if (n := nic.get("failovers", 0))}
    if not broke:
        return None
    where = _and(
        [f"{n} {'connection' if n == 1 else 'connections'} of {name}" for name, n in broke.items()]
    )
    retries = sum(nic.get("retries", 0) for nic in counters.values())
    return f"{where} broke; {retries} work requests were sent again by others"


def _wire(ports: Sequence[Port]) -> list[str]:
    """What each port says that it has carried, beside what it was given."""
    apart = len({port.host for port in ports}) > 1
    texts = []
    for port in ports:
        name = f"{port.name} of {port.host}" if apart else port.name
        payload = f"payload {format_bytes(port.payload_out)}" if port.payload_out else ""
        if port.data_out is None:
            texts.append(f"{name}: {payload or 'no payload'} out; it does not count what it sends")
            continue
        text = ", ".join(filter(None, [f"{name}: {format_bytes(port.data_out)} out", payload]))
        if port.data_in is not None:
            text += f"; {format_bytes(port.data_in)} in"
        texts.append(text if port.ranks else f"{text}; no rank uses it")
    return texts


def _verified(results: Sequence[Result]) -> Line | None:
    looked = [result.verified for result in results if result.size]
    if not looked:
        return None
    if all(looked):
        return Line("verified", "every byte arrived as it was sent", _GOOD)
    wrong = [format_size(r.size) for r in results if r.verified is False]
    if wrong:
        return Line("verified", f"WRONG at {_and(wrong)}", _BAD)
    return Line("verified", "no, as --no-check asked", _QUIET)


def labels_once(lines: list[Line]) -> list[Line]:
    """A label that repeats the one above is left out."""
    labels = [line.label for line in lines]
    return [
        line if i == 0 or labels[i - 1] != line.label else Line("", line.text, line.style)
        for i, line in enumerate(lines)
    ]


def _each(counts: Sequence[int]) -> str:
    """One number if all have the same; at worst, from the least to the most."""
    if len(set(counts)) == 1:
        return str(counts[0])
    return _and(counts) if len(counts) <= _MANY else f"{min(counts)} to {max(counts)}"


def _range(names: Sequence[str]) -> str:
    """Where they are numbered one after the other, the first and the last."""
    stem = names[0].rstrip("0123456789")
    first = names[0].removeprefix(stem)
    numbered = [f"{stem}{int(first) + i}" for i in range(len(names))] if first else []
    in_a_row = len(names) > 1 and list(names) == numbered
    return f"{names[0]}..{names[-1]}" if in_a_row else ", ".join(names)


def _and(items: Sequence[object]) -> str:
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
