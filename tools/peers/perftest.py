"""ib_write_bw, ib_write_lat and ib_send_lat of perftest, from Debian or another build."""

import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from peers.common import (
    NotMeasuredError,
    Pair,
    Row,
    Sample,
    await_listener,
    finish,
    free_port,
    rows_or_reason,
    run,
    start,
    stop,
    window,
)

SIZES = (4096, 64 << 10, 1 << 20)
IMM = "--write_with_imm"
FIRST_TRY = 200
Result = TypeVar("Result")
MOST = 10_000_000
TRIES = 3
Counts = dict[tuple[str, ...], int]
"""How often a test repeats, found out at its first run."""


def devices() -> list[str]:
    """The first two of this machine, or the only one twice."""
    names = sorted(path.name for path in Path("/sys/class/infiniband").iterdir())
    return (names * 2)[:2] if len(names) == 1 else names[:2]


def rows(pair: Pair, folder: Path | None) -> list[Row]:
    return rows_or_reason("perftest", lambda: _rows(pair, folder))


def _rows(pair: Pair, folder: Path | None) -> list[Row]:
    found = {name: _find(name, folder) for name in ("ib_write_bw", "ib_write_lat", "ib_send_lat")}
    version = re.search(r"[\d.]+", _says(found["ib_write_bw"], "--version"))
    who = f"perftest {version[0]}" if version else "perftest"
    known = _says(found["ib_write_bw"], "--help")
    plain = Row(who, "write", partial(_writes, found, (), pair, {}))
    if IMM in known:
        imm = Row(who, "write with imm", partial(_writes, found, (IMM,), pair, {}))
    else:
        imm = Row(who, "write with imm", reason=f"this perftest has no {IMM}")
    return [plain, imm, Row(who, "send", partial(_send, found, pair, {}))]


def _find(name: str, folder: Path | None) -> str:
    path = shutil.which(name, path=str(folder) if folder else None)
    if path is None:
        where = f"is not in {folder}" if folder else "is not installed (apt-get install perftest)"
        raise NotMeasuredError(f"{name} {where}")
    return path


def _says(program: str, flag: str) -> str:
    """It leaves with 1 after that."""
    out, err = start([program, flag]).communicate(timeout=10)
    return out + err


def _writes(found: dict[str, str], extra: tuple[str, ...], pair: Pair, counts: Counts) -> Sample:
    sample = {"lat_us.8": _latency(found["ib_write_lat"], extra, pair, counts)}
    gbit_s, mop_s = _bandwidth(found["ib_write_bw"], 8, extra, pair, counts)
    sample["rate_mop_s.8"] = mop_s
    for size in SIZES:
        gbit_s, _ = _bandwidth(found["ib_write_bw"], size, extra, pair, counts)
        sample[f"bw_gbyte_s.{size}"] = gbit_s / 8
    return sample


def _send(found: dict[str, str], pair: Pair, counts: Counts) -> Sample:
    return {"lat_us.8": _latency(found["ib_send_lat"], (), pair, counts)}


def _latency(program: str, extra: tuple[str, ...], pair: Pair, counts: Counts) -> float:
    """The median, of half a round trip. Columns: bytes, iterations, min, max, typical, average."""

    def test(n: int) -> tuple[float, float]:
        numbers = _run(program, ("-s", "8", "-n", str(n), *extra), pair)
        return numbers[4], 2e-6 * numbers[5] * n

    return _long_enough(test, (program, *extra), pair, counts)


def _bandwidth(
    program: str, size: int, extra: tuple[str, ...], pair: Pair, counts: Counts
) -> tuple[float, float]:
    """Averages, in Gb/s and Mop/s. Columns: bytes, iterations, peak, average, rate."""
    words = ("-s", str(size), "-t", str(window(size)), "--report_gbits", *extra)

    def test(n: int) -> tuple[tuple[float, float], float]:
        numbers = _run(program, (*words, "-n", str(n)), pair)
        # Of 8 bytes, its Gb/s have too few digits.
        return (numbers[3], numbers[4]), n / (numbers[4] * 1e6)

    return _long_enough(test, (program, *words), pair, counts)


def _long_enough(
    test: Callable[[int], tuple[Result, float]],
    key: tuple[str, ...],
    pair: Pair,
    counts: Counts,
) -> Result:
    """What a test measures that takes about as long as it should."""
    if key not in counts:
        _, seconds = test(FIRST_TRY)
        counts[key] = max(FIRST_TRY, min(MOST, int(FIRST_TRY * pair.seconds / seconds)))
    return test(counts[key])[0]


def _run(program: str, words: tuple[str, ...], pair: Pair) -> list[float]:
    """The line of figures. Now and then it takes the rate of the clock for 0 or infinite."""
    for _ in range(TRIES):
        texts = _outputs(program, words, pair)
        for line in "\n".join(texts).splitlines():
            if figures := _figures(line):
                return figures
    said = " ".join(" ".join(texts).split())[-200:]
    raise NotMeasuredError(f"{Path(program).name} printed no result: {said}")


def _figures(line: str) -> list[float]:
    """Those of a line that has some; of what it looks at, the fourth and the fifth, they are good.

    With immediates it is the receiver who knows the bandwidth: the sender's are 0.
    """
    if not re.match(r"\s*\d+\s+\d+\s+[\d.infa-]+\s", line):
        return []
    numbers = [float(word) for word in line.split()]
    return numbers if all(0 < n < math.inf for n in numbers[3:5]) else []


def _outputs(program: str, words: tuple[str, ...], pair: Pair) -> list[str]:
    """Of the sender and of the receiver."""
    port = free_port()
    sender, receiver = (
        ["taskset", "-c", str(core), program, "-d", device, "-F", "-p", str(port), *words]
        for core, device in zip(pair.cores, pair.devices, strict=True)
    )
    if pair.gid_index is not None:
        for side in (sender, receiver):
            side += ["-x", str(pair.gid_index)]
    server = start(receiver)
    try:
        await_listener(port, server)
        return [run([*sender, "127.0.0.1"]), finish(server, timeout=10)]
    finally:
        stop(server)
