"""pgctl over libfabric, and libfabric by itself: native/bench/ofi_raw.c."""

import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers import ours
from peers.common import (
    ROOT,
    SIZES,
    Cores,
    NotMeasuredError,
    Row,
    Sample,
    lines_to_sample,
    rows_or_reason,
    run,
    window,
)

RAW = ROOT / "build/test-c/native/ofi_raw"
MANNERS = {"write with imm": ([], []), "write": (["--no-imm"], ["-n"])}
"""What pgctl is told, and what the raw loop is."""


@dataclass(frozen=True)
class Fabric:
    """What both go over."""

    asked: str
    """The provider that pgctl is asked for,"""
    provider: str
    """and what that is in this libfabric."""
    domain: str
    version: str


def rows(provider: str, nic: str, cores: Cores, seconds: float) -> list[Row]:
    """nic: empty for the one that the transport chooses."""
    return rows_or_reason(
        f"libfabric, {provider}",
        lambda: _rows(_find(provider, nic, cores), cores, seconds),
    )


def _rows(fabric: Fabric, cores: Cores, seconds: float) -> list[Row]:
    if not RAW.exists():
        raise NotMeasuredError(f"there is no {RAW.relative_to(ROOT)} (make bench-ofi)")
    who = f"libfabric {fabric.version}"
    return [
        row
        for manner, (for_us, for_raw) in MANNERS.items()
        for row in (
            Row(
                ours.name(),
                f"{fabric.provider}, {manner}",
                partial(_ours, for_us, fabric, cores, seconds),
            ),
            Row(
                who,
                f"{fabric.provider}, {manner}",
                partial(_raw, for_raw, fabric, cores, seconds),
            ),
        )
    ]


def _find(provider: str, nic: str, cores: Cores) -> Fabric:
    """What pgctl says that it goes over."""
    words = ["--provider", provider, "--sizes", "8", "-n", "1"]
    if nic:
        words += ["--nics", f"={nic}", "--nics-per-rank", "1"]
    path = ours.write_record(words, cores)["fabric"]["path"]
    found = re.match(r"libfabric (\S+) (\S+) \(.*\) from (\S+)", path)
    if not found:
        raise NotMeasuredError(f"pgctl's path is {path!r}")
    version, name, domain = found.groups()
    return Fabric(asked=provider, provider=name, domain=domain, version=version)


def _ours(extra: list[str], fabric: Fabric, cores: Cores, seconds: float) -> Sample:
    words = ["--provider", fabric.asked, "--nics", f"={fabric.domain}", "--nics-per-rank", "1"]
    words += ["--sizes", ",".join(map(str, (8, *SIZES))), "-D", str(seconds), *extra]
    return ours.means(ours.write_record(words, cores), counted=not extra)


def _raw(extra: list[str], fabric: Fabric, cores: Cores, seconds: float) -> Sample:
    words = ["-p", fabric.provider, "-d", fabric.domain, "-c", ",".join(map(str, cores))]
    words += ["-s", str(seconds), *extra, *(f"{size}:{window(size)}" for size in (8, *SIZES))]
    return lines_to_sample(run([str(RAW), *words]))


def idle(provider: str) -> Sample:
    """Of a core, what a process whose engine has peers and nothing to do takes."""
    script = Path(__file__).with_name("lifetimes.py")
    words = [sys.executable, str(script), "--transport", "ofi", "idle_percent"]
    text = run(words, {"PGCTL_OFI": f"provider={provider}"})
    return lines_to_sample(text, ("idle_percent",))
