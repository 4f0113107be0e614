"""What is expected of a fabric, out of a YAML file.

An error names the file, the line, the key and what was expected there.

`gates` are for the commands that measure; here they are only let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pgctl.units import RDMA_MTUS, parse_pkey, parse_provider, parse_size

if TYPE_CHECKING:
    from yaml import MappingNode, Node

Severity = Literal["fail", "warn", "off"]

_MOST_BYTES = 1 << 20


class ProfileError(ValueError):
    """The file is no profile; says where and why."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What must be there. None: nothing in particular."""

    gpus: int | None = None
    nics: int | None = None
    nics_per_gpu: int | None = None
    link_gbit_s: float | None = None
    mtu: int | None = None
    memlock: int | None = None
    kernel: tuple[int, int] | None = None
    hugepages: int | None = None
    governor: str | None = None
    traffic_class: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    expect: Expect = field(default_factory=Expect)
    severities: Mapping[str, Severity] = field(default_factory=dict)
    """By check, how bad it is when what it wants is not so."""
    transport: str = ""
    """What benchmarks go over; empty: they choose."""
    verbs: Mapping[str, int] = field(default_factory=dict)
    """Options of RDMA devices, where benchmarks go over those."""
    ofi: Mapping[str, str] = field(default_factory=dict)
    """Of libfabric, likewise."""


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("a whole number")
    return int(text)


def _rate(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or float(text) == 0:
        raise ValueError("a number of Gb/s")
    return float(text)


def _size(text: str) -> int:
    try:
        return 1 << 64 if text == "unlimited" else parse_size(text)
    except ValueError:
        raise ValueError("a size like 64G, or unlimited") from None


def _kernel(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    if match is None:
        raise ValueError("a version like 5.12")
    return int(match[1]), int(match[2])


def _word(text: str) -> str:
    if not re.fullmatch(r"[a-z_]{1,40}", text):
        raise ValueError("a name")
    return text


def _up_to(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
            raise ValueError(f"a whole number up to {most}")
        return int(text)

    return parse


def _mtu(text: str) -> int:
    if text not in map(str, RDMA_MTUS):
        raise ValueError(f"one of {', '.join(map(str, RDMA_MTUS))}")
    return int(text)


def _library(text: str) -> str:
    if not re.fullmatch(r"/[^,]{1,254}", text):
        raise ValueError("the path of a libfabric.so.1")
    return text


_EXPECT: dict[str, Callable[[str], Any]] = {
    "gpus": _count,
    "nics": _count,
    "nics_per_gpu": _count,
    "link_gbit_s": _rate,
    "mtu": _count,
    "memlock": _size,
    "kernel": _kernel,
    "hugepages": _count,
    "governor": _word,
    "traffic_class": _count,
}
_FABRIC: dict[str, Callable[[str], Any]] = {
    **{name: _EXPECT[name] for name in ("nics_per_gpu", "link_gbit_s", "mtu")},
    "transport": _word,
}
_VERBS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("gid_index", "traffic_class"), _up_to(255)),
    "service_level": _up_to(15),
    "mtu": _mtu,
    "pkey": parse_pkey,
    "timeout": _up_to(31),
    "retry": _up_to(7),
}
_OFI: dict[str, Callable[[str], Any]] = {"provider": parse_provider, "library": _library}
_PARTS = ("extends", "fabric", "verbs", "ofi", "expect", "checks", "gates")


def load_profile(path: str, checks: Collection[str]) -> Profile:
    """checks: the names that may stand under `checks`. Raises ProfileError, OSError."""
    return _load(Path(path), checks, ())


def _load(path: Path, checks: Collection[str], above: tuple[Path, ...]) -> Profile:
    root = _parse(path)
    if root is None:
        return Profile()
    source = _Source(path)
    parts = source.mapping(root, "the profile", _PARTS)
    base = Profile()
    if "extends" in parts:
        name = source.text(parts["extends"], "extends")
        parent = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        chain = (*above, path.resolve())
        if parent.resolve() in chain:
            source.fail(parts["extends"], "extends", "a profile that does not lead back here")
        if not parent.is_file():
            source.fail(parts["extends"], "extends", f"a profile; there is no {parent}")
        base = _load(parent, checks, chain)
    known = {item.name for item in fields(Expect)}
    fabric = source.values(parts, "fabric", _FABRIC)
    expect = {name: value for name, value in fabric.items() if name in known}
    expect |= source.values(parts, "expect", _EXPECT)
    severities = source.values(parts, "checks", dict.fromkeys(checks, _severity))
    if "gates" in parts and _kind(parts["gates"]) != "sequence":
        source.fail(parts["gates"], "gates", "a list")
    return Profile(
        replace(base.expect, **expect),
        {**base.severities, **severities},
        fabric.get("transport", base.transport),
        {**base.verbs, **source.values(parts, "verbs", _VERBS)},
        {**base.ofi, **source.values(parts, "ofi", _OFI)},
    )


def _severity(text: str) -> Severity:
    match text:
        case "fail" | "warn" | "off":
            return text
        case _:
            raise ValueError("fail, warn or off")


def _parse(path: Path) -> Node | None:
    import yaml

    if path.exists() and not path.is_file():
        raise ProfileError(f"{path}: not a regular file")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ProfileError(f"{path}: more than 1 MiB is no profile")
    try:
        return yaml.compose(data, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProfileError(f"{path}:{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ProfileError(f"{path}: nested too deep") from None


def _kind(node: Node) -> str:
    """scalar, sequence or mapping."""
    return str(getattr(node, "id", ""))


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path

    def fail(self, node: Node, key: str, expected: str) -> NoReturn:
        found = (
            f", not {node.value[:40]!r}" if _kind(node) == "scalar" else f", not a {_kind(node)}"
        )
        line = node.start_mark.line + 1
        raise ProfileError(f"{self.path}:{line}: {key}: expected {expected}{found}")

    def mapping(self, node: Node, key: str, known: Collection[str]) -> dict[str, Node]:
        if _kind(node) != "mapping":
            self.fail(node, key, f"a mapping of {', '.join(known)}")
        mapping: MappingNode = node  # type: ignore[assignment]
        found: dict[str, Node] = {}
        for name, value in mapping.value:
            if _kind(name) != "scalar" or name.value not in known:
                self.fail(name, key, f"one of {', '.join(known)}")
            if name.value in found:
                self.fail(name, key, "each key once")
            found[name.value] = value
        return found

    def text(self, node: Node, key: str) -> str:
        if _kind(node) != "scalar":
            self.fail(node, key, "one value")
        return str(node.value)

    def values(
        self, parts: Mapping[str, Node], part: str, known: Mapping[str, Callable[[str], Any]]
    ) -> dict[str, Any]:
        if part not in parts:
            return {}
        found = {}
        for name, node in self.mapping(parts[part], part, known).items():
            text = self.text(node, f"{part}.{name}")
            try:
                found[name] = known[name](text)
            except ValueError as error:
                self.fail(node, f"{part}.{name}", str(error))
        return found
