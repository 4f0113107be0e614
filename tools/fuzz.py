#!/usr/bin/env python3
"""Run the fuzz targets that were built for libFuzzer, one after the other.

New inputs and findings go to the build directory. With --merge nothing is tried: of the inputs
found so far, those that reach more code than the corpus does are added to it.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path("native/fuzz/corpus")
MAX_LEN = 800
"""Bytes of an input: longer ones are slower, and reach nothing more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--time", type=int, default=60, help="seconds for each target")
    parser.add_argument("--only", help="these targets, divided by commas")
    parser.add_argument("--merge", action="store_true", help="add to the corpus what was found")
    options = parser.parse_args()
    targets = options.only.split(",") if options.only else sorted(all_targets())
    run = merge if options.merge else fuzz
    bad = [target for target in targets if not run(options.build, target, options.time)]
    sys.exit(1 if bad else 0)


def all_targets() -> list[str]:
    return [path.name for path in (ROOT / CORPUS).iterdir()]


def fuzz(build: Path, target: str, seconds: int) -> bool:
    """Whether nothing was found."""
    findings = build / "findings" / target
    for folder in (found(build, target), findings):
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
    log = libfuzzer(
        build,
        target,
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        f"-artifact_prefix={findings}/",
        "-timeout=20",
        "-print_final_stats=1",
        str(found(build, target)),
        str(CORPUS / target),
    )
    runs = re.findall(r"number_of_executed_units: (\d+)", log)
    edges = re.findall(r"cov: (\d+) ft: (\d+)", log)
    said = f"{runs[-1] if runs else '?'} runs"
    if edges:
        said += f", {edges[-1][0]} edges, {edges[-1][1]} features"
    artifact = re.search(r"Test unit written to (\S+)", log)
    if artifact:
        said += (
            f": found {artifact[1]}; reproduce it with\n  {command(build, target)} {artifact[1]}"
        )
        print(log, file=sys.stderr)
    elif not runs:
        said = f"did not run\n{log}"
    print(f"{target}: {said}", flush=True)
    return bool(runs) and not artifact


def merge(build: Path, target: str, _seconds: int) -> bool:
    log = libfuzzer(
        build,
        target,
        "-set_cover_merge=1",
        "-use_counters=0",
        str(CORPUS / target),
        str(found(build, target)),
    )
    added = re.search(r"MERGE-OUTER: (\d+) new files", log)
    print(f"{target}: {added[1] if added else 'no'} inputs added", flush=True)
    return added is not None


def found(build: Path, target: str) -> Path:
    return build / "corpus" / target


def command(build: Path, target: str) -> str:
    """Without random addresses: older sanitizers expect that."""
    return f"setarch -R {build}/native/fuzz_{target}"


def libfuzzer(build: Path, target: str, *arguments: str) -> str:
    done = subprocess.run(
        [*command(build, target).split(), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    main()
