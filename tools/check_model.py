"""Search every state of docs/model/failover.pml: as it is, and with faults that must be found.

Without arguments all of it, two searches at a time. With defines (-DUNORDERED -DWORK=2 ...) one
search, and the steps to its error if there is one.
"""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "docs/model/failover.pml"
BUILD = ROOT / "build/model"
MEMORY_MIB = 3500
WORKLOADS = {"batch": 1, "rounds": 2, "cancel": 3}
HOLDS = ["batch", "rounds DEATHS=2", "rounds CUT", "rounds ENDLESS", "rounds", "cancel"]
FAULTS = [
    "rounds NO_FENCE",
    "rounds NO_COUNT",
    "batch NO_WAIT",
    "batch NO_WAIT_FOR_FAILOVER",
    "cancel SETTLE_UNANSWERED",
]
UNORDERED_FAULTS = ["rounds EARLY_MAKEUPS", "rounds PIECES_FORGOTTEN", "rounds TAKEN_UNTOLD"]


@dataclass(frozen=True)
class Result:
    states: int
    mib: float
    seconds: float
    violated: str | None  # the first assertion
    complete: bool


def defines(words: str) -> list[str]:
    return [f"-DWORK={WORKLOADS[w]}" if w in WORKLOADS else f"-D{w}" for w in words.split()]


def one(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None


def search(name: str, given: list[str], optimize: str = "-O1") -> Result:
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.monotonic()
    # A cycle without progress, where no state is progress: a run without end.
    endless = "-DENDLESS" in given
    kind = ["-DNP", "-DNOFAIR"] if endless else ["-DSAFETY"]
    options = [optimize, "-w", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}", *kind]
    for command in (["spin", "-a", *given, str(MODEL)], ["gcc", *options, "-o", "pan", "pan.c"]):
        subprocess.run(command, cwd=folder, check=True)
    pan = ["./pan", "-m10000", *(["-l"] if endless else [])]
    log = subprocess.run(pan, cwd=folder, capture_output=True, text=True, check=False).stdout
    (folder / "pan.log").write_text(log)
    return Result(
        states=int(one(r"^ *(\d+) states, stored", log) or 0),
        mib=float(one(r"([\d.]+)\ttotal actual memory usage", log) or 0),
        seconds=time.monotonic() - begun,
        violated=one(r"^pan:1: (?:assertion violated )? *(.*) \(at depth", log),
        complete="errors: 0\n" in log and "Search not completed" not in log,
    )


def check(protocol: str, words: str, is_fault: bool) -> bool:
    given = ["-DUNORDERED"] if protocol == "unordered" else []
    name = f"{protocol} {words}".replace(" ", "-")
    # A fault is soon found: compiling would be most of it.
    result = search(name, given + defines(words), "-O0" if is_fault else "-O1")
    if is_fault:
        passed, verdict = result.violated is not None, f"found: {result.violated}"
    else:
        passed, verdict = result.complete, "holds"
    print(
        f"{protocol:<10}{words:<28}{result.states:>9}{result.seconds:>7.1f} s"
        f"{result.mib:>6.0f} MiB  {verdict if passed else 'FAILED: ' + str(result.violated)}",
        flush=True,
    )
    return passed


def check_all() -> int:
    runs = [(p, w, False) for w in HOLDS for p in ("unordered", "ordered")]
    runs += [(p, w, True) for w in FAULTS for p in ("unordered", "ordered")]
    runs += [("unordered", w, True) for w in UNORDERED_FAULTS]
    print(f"{'protocol':<10}{'search':<28}{'states':>9}{'time':>9}{'memory':>10}  verdict")
    with ThreadPoolExecutor(2) as pool:
        failed = sum(not passed for passed in pool.map(check, *zip(*runs, strict=True)))
    print(f"{len(runs) - failed} of {len(runs)} as expected")
    return failed > 0


def explain(given: list[str]) -> int:
    result = search("one", given)
    print(result)
    if result.violated is None:
        return not result.complete
    trail = ["spin", "-k", f"{BUILD}/one/failover.pml.trail", *given, str(MODEL)]
    steps = subprocess.run(trail, capture_output=True, text=True, check=True).stdout
    print(steps.partition("spin: trail ends")[0])
    return 1


if __name__ == "__main__":
    if not shutil.which("spin"):
        sys.exit("check_model: spin is not there: see system-packages.txt")
    sys.exit(explain(sys.argv[1:]) if sys.argv[1:] else check_all())
