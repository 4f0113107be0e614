"""Runs random programs until the time is over; see docs/reliability.md.

A program that fails is made smaller as long as it fails, and printed with the command that repeats
it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from over import NAMES, over
from program import Json, make, operations, without_rank
from runner import Failure, Pool, Run


def fails(program: Json, pool: Pool) -> Failure | None:
    try:
        Run(program, pool).run()
    except Failure as failure:
        return failure
    return None


def smaller(program: Json) -> Iterator[Json]:
    """What is left of a program without one part of it: large parts first."""
    rounds = program["rounds"]
    for i in reversed(range(len(rounds))):
        yield program | {"rounds": rounds[:i] + rounds[i + 1 :]}
    if len(program["ranks"]) > 2:
        for rank in reversed(range(len(program["ranks"]))):
            if without_rank(program, rank) != program:
                yield without_rank(program, rank)
    for i, steps in enumerate(rounds):
        size = len(steps) // 2
        while size:
            for at in reversed(range(0, len(steps), size)):
                less = steps[:at] + steps[at + size :]
                yield program | {"rounds": [*rounds[:i], less, *rounds[i + 1 :]]}
            size //= 2
        for at, step in enumerate(steps):
            for op in step.get("ops", ()) if len(step.get("ops", ())) > 1 else ():
                less = [*steps[:at], step | {"ops": [op]}, *steps[at + 1 :]]
                yield program | {"rounds": [*rounds[:i], less, *rounds[i + 1 :]]}
    for rank, config in enumerate(program["ranks"]):
        for plain in ({"nics": [0]}, {"progress": "inline"}, {"bounce": False}):
            if config | plain != config:
                ranks = program["ranks"]
                yield program | {"ranks": [*ranks[:rank], config | plain, *ranks[rank + 1 :]]}


def minimise(
    program: Json, failing: Callable[[Json], Failure | None], seconds: float, again: int = 2
) -> Json:
    """The smallest that was found to fail in time. Each is tried a few times: timing counts."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for less in smaller(program):
            if time.monotonic() >= end:
                break
            if any(failing(less) for _ in range(again)):
                program, found = less, True
                break
    return program


def size(program: Json) -> str:
    steps = sum(map(len, program["rounds"]))
    n = sum(1 for steps_of in program["rounds"] for _ in operations(steps_of))
    ranks, rounds = len(program["ranks"]), len(program["rounds"])
    return f"{ranks} ranks, {rounds} rounds, {steps} steps, {n} operations"


def report(program: Json, failure: Failure, pool: Pool, options: Any) -> None:
    print(f"\nFAILED: seed {program['seed']} ({program['flavour']}): {failure}")
    print(failure.dumps)
    print(f"minimising {size(program)} ...", flush=True)
    least = minimise(program, lambda less: fails(less, pool), options.minimise)
    path = Path("build", f"failed-{program['seed']}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(least, indent=1))
    print(f"{size(least)} still fail:")
    for number, steps in enumerate(least["rounds"]):
        for step in steps:
            print(f"  round {number}: {json.dumps(step)}")
    again = f"{sys.executable} {sys.argv[0]} --over {options.over}"
    again += f" --flap {options.flap}" if options.flap else ""
    again += f" --impair '{options.impair}'" if options.impair else ""
    print(f"the whole program again: {again} --seed {program['seed']} --programs 1")
    print(f"the small one again:     {again} --program {path} --programs 20")


def progress(pool: Pool, began: float, failures: int) -> str:
    c, minutes = pool.count, (time.monotonic() - began) / 60
    return (
        f"{60 * minutes:.0f} s: {c['programs']} programs ({c['programs'] / minutes:.0f} a minute), "
        f"{c['operations']} operations, {c['bytes'] / 1e6:.0f} MB, {c['kills']} kills, "
        f"{c['failovers']} failovers, {c['retries']} retries, {c['lost']} pairs lost, "
        f"{failures} failures"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=float, default=60, help="seconds")
    parser.add_argument("--seed", type=int, help="of the first program; the next has the next")
    parser.add_argument("--programs", type=int, default=0, help="at most so many; 0: any number")
    parser.add_argument("--program", type=Path, help="a file with one, instead of a seed")
    parser.add_argument("--over", default="shm", choices=NAMES, help="what carries it")
    parser.add_argument("--flap", type=float, default=0, help="seconds between two changes of NICs")
    parser.add_argument("--impair", default="", help="as of GroupConfig")
    parser.add_argument("--minimise", type=float, default=120, help="seconds for that")
    parser.add_argument("--keep-going", action="store_true", help="after a failure")
    options = parser.parse_args()
    if options.flap and options.over != "fake_efa":
        parser.error("--flap: only NICs of --over fake_efa go down and come up")
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = said = time.monotonic()
    failures = n = 0
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(over(options.over, Path(folder), options.flap, options.impair))
        try:
            while time.monotonic() < began + options.time and not 0 < options.programs <= n:
                program = (
                    json.loads(options.program.read_text()) if options.program else make(seed + n)
                )
                n += 1
                if failure := fails(program, pool):
                    failures += 1
                    report(program, failure, pool, options)
                    if not options.keep_going:
                        break
                if time.monotonic() > said + 10:
                    said = time.monotonic()
                    print(progress(pool, began, failures), flush=True)
        finally:
            pool.close()
    print(progress(pool, began, failures))
    for reason, count in pool.reasons.most_common():
        print(f"  lost {count} times: {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
