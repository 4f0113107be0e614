"""Run the tests that need an RDMA device: on this machine's, or on those of a lab.

Which lab, see rdma_lab.py. Exits 77 where there is neither; with PGCTL_REQUIRE=verbs that is a
failure. That tests have run is read from what pytest wrote down of them, not from how it ended.

With --ran nothing is run: it fails where tests could have been run, and have not been.
"""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import rdma_lab
from rdma_lab import ROOT

REPORTS = ROOT / "build/verbs"
PACKAGES = [ROOT / "tools/system-packages", "tests/verbs/system-packages.txt"]
LIMIT_S = 900
"""Of a run: much more than it takes."""


# What goes wrong on purpose does so above a transport, bounce buffers are of another one.
OF_VERBS = ("-m", "rdma", "-k", "not verbs+ and not bounce and not ofi:verbs")
# The rest needs no NICs of a kernel, and takes 3 minutes in one like this.
OF_TCP = ("-k", "ofi:tcp and (every_size or rails or dead_peer)")
OF_RXM = ("-k", "ofi:verbs and (test_conformance or a_stopped_peer) or test_rxm")
# It has queues for all peers there might be, longer than Soft-RoCE's, and buffers for each entry.
SMALL_RXM = {"FI_UNIVERSE_SIZE": "16", "FI_OFI_RXM_BUFFER_SIZE": "4608"}


@dataclass(frozen=True)
class Run:
    """Tests that run together; on a lab, in a kernel of their own with this network."""

    layout: str
    tests: tuple[str, ...]
    which: tuple[str, ...] = OF_VERBS
    requires: str = "verbs"
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        more = "" if self.requires == "verbs" else "-" + self.requires.replace(":", "-")
        return self.layout + more

    @property
    def report(self) -> Path:
        return REPORTS / f"{self.name}.xml"

    def command(self) -> list[str]:
        python = Path(sys.prefix) / "bin/python"  # a lab has no PATH of ours
        options = ["-q", "--color=no", "-p", "no:cacheprovider", *self.which]
        return [str(python), "-m", "pytest", *options, f"--junit-xml={self.report}", *self.tests]


HERE = Run("here", ("tests",))
EVERY_TRANSPORT = ("tests/integration/test_conformance.py", "tests/integration/test_lifetimes.py")
IN_A_LAB = (
    Run(
        "four",
        (*EVERY_TRANSPORT, "tests/verbs", *(f"--ignore=tests/verbs/{f}" for f in ("nodes", "rxm"))),
    ),
    Run("nodes", ("tests/verbs/nodes",)),
    Run("four", EVERY_TRANSPORT[:1], OF_TCP, "ofi:tcp"),
    Run("four", (*EVERY_TRANSPORT, "tests/verbs/rxm"), OF_RXM, "ofi:verbs", SMALL_RXM),
)


@dataclass(frozen=True)
class Place:
    """Where the tests are run, and which; no lab: on this machine."""

    name: str
    runs: tuple[Run, ...]
    lab: Path | None = None


def find() -> Place | None:
    if rdma_lab.has_device():
        return Place("the RDMA devices of this machine", (HERE,))
    lab = rdma_lab.find()
    return Place(f"the lab {lab}", IN_A_LAB, lab) if lab else None


def start(place: Place, run: Run) -> int:
    """Its exit status."""
    environ = {"PGCTL_REQUIRE": run.requires, **run.environ}
    if place.lab is None:
        command = run.command()
        return subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=False).returncode
    environ["PGCTL_LAB"] = run.layout
    words = [*(f"{name}={value}" for name, value in environ.items()), *run.command()]
    lab = rdma_lab.command(place.lab, ["env", *words], LIMIT_S, run.layout)
    return subprocess.run(lab, check=False).returncode


def run_all(place: Place) -> None:
    if place.lab:
        subprocess.run(PACKAGES, check=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    for run in place.runs:
        run.report.unlink(missing_ok=True)
        print(f"verbs tests: {run.name}, on {place.name}", flush=True)
        begun = time.monotonic()
        status = start(place, run)
        print(f"verbs tests: {run.name} took {time.monotonic() - begun:.0f} s", flush=True)
        if status:
            sys.exit(f"verbs tests: {run.name} failed ({status})")


def passed(run: Run) -> int:
    """How many tests have; 0 as well if one failed."""
    try:
        suites = list(ET.parse(run.report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        return 0

    def count(name: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites)

    failed = count("failures") + count("errors")
    return 0 if failed else count("tests") - count("skipped")


def check(place: Place) -> None:
    for run in place.runs:
        if not passed(run):
            sys.exit(f"verbs tests: there is {place.name}, but no test of {run.name} has passed")
    print(f"verbs tests: {sum(map(passed, place.runs))} passed, on {place.name}")


def main(only_check: bool) -> None:
    place = find()
    if place is None:
        print(f"verbs tests: skipped: {rdma_lab.missing()}: see docs/verbs.md", file=sys.stderr)
        sys.exit(1 if "verbs" in os.environ.get("PGCTL_REQUIRE", "").split(",") else rdma_lab.SKIP)
    if not only_check:
        run_all(place)
    check(place)


if __name__ == "__main__":
    main(sys.argv[1:] == ["--ran"])
