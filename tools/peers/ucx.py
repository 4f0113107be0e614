"""UCX: puts with its own ucx_perftest, from Debian and from the newest wheel."""

import os
import re
import shutil
from functools import partial
from pathlib import Path

from peers.common import (
    SIZES,
    Cores,
    NotMeasuredError,
    Row,
    Sample,
    await_listener,
    find_in,
    finish,
    free_port,
    rows_or_reason,
    run,
    start,
    stop,
    venv_with,
)

WHEEL = "libucx-cu12==1.22.0"
LATENCY_ITERATIONS = 200_000
BANDWIDTH_ITERATIONS = dict(zip((8, *SIZES), (2_000_000, 200_000, 20_000, 2_000, 50), strict=True))
SETTINGS: tuple[tuple[str, dict[str, str]], ...] = (
    ("default", {}),
    ("UCX_TLS=posix", {"UCX_TLS": "posix"}),
)


def rows(cores: Cores) -> list[Row]:
    return [
        *rows_or_reason("UCX (Debian)", lambda: _settings(_debian(), {}, cores)),
        *rows_or_reason("UCX (wheel)", lambda: _wheel(cores)),
    ]


def _debian() -> Path:
    found = shutil.which("ucx_perftest")
    if found is None and os.geteuid() == 0:
        run(["apt-get", "install", "-y", "-q", "ucx-utils"], timeout=300)
        found = shutil.which("ucx_perftest")
    if found is None:
        raise NotMeasuredError("ucx_perftest is not installed (apt-get install ucx-utils)")
    return Path(found)


def _wheel(cores: Cores) -> list[Row]:
    perftest = find_in(venv_with("ucx", WHEEL), "libucx/bin/ucx_perftest")
    return _settings(perftest, {"LD_LIBRARY_PATH": str(perftest.parents[1] / "lib")}, cores)


def _settings(perftest: Path, base: dict[str, str], cores: Cores) -> list[Row]:
    info = run([str(perftest.with_name("ucx_info")), "-v"], base)
    version = re.search(r"[Vv]ersion:? (\S+)", info)
    who = f"UCX {version[1]}" if version else "UCX"
    return [
        Row(who, name, partial(_measure, perftest, {**base, **env}, cores))
        for name, env in SETTINGS
    ]


def _measure(perftest: Path, env: dict[str, str], cores: Cores) -> Sample:
    test = partial(_perftest, perftest, env, cores)
    latency = test(("ucp_put_lat", 8, LATENCY_ITERATIONS))
    sample = {"lat_us.8": latency[3]}
    for size, iterations in BANDWIDTH_ITERATIONS.items():
        result = test(("ucp_put_bw", size, iterations))
        if size == 8:
            sample["rate_mop_s.8"] = result[7] / 1e6
        else:
            sample[f"bw_gbyte_s.{size}"] = result[5] * 2**20 / 1e9  # it prints MiB/s as MB/s
    return sample


def _perftest(
    perftest: Path, env: dict[str, str], cores: Cores, test: tuple[str, int, int]
) -> list[float]:
    """Run (name, size, iterations) and return the eight numbers of the final line: iterations;
    latency in µs, median, average and overall; MiB/s and messages/s, average and overall."""
    name, size, iterations = test
    port = free_port()
    server = start([str(perftest), "-p", str(port), "-c", str(cores[1])], env)
    client = [str(perftest), "127.0.0.1", "-p", str(port), "-c", str(cores[0]), "-f"]
    client += ["-t", name, "-s", str(size), "-n", str(iterations), "-w", str(iterations // 10)]
    try:
        await_listener(port, server)
        lines = run(client, env, timeout=60).splitlines()
        finish(server, timeout=10)
    finally:
        stop(server)
    numbers = [line.split() for line in lines if re.fullmatch(r"[\d\s.]+", line.strip())]
    if not numbers or len(numbers[-1]) != 8:
        raise NotMeasuredError("ucx_perftest printed no result")
    return [float(number) for number in numbers[-1]]
