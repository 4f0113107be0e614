"""What every peer shares: rows of figures, and processes that are run with a deadline."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZES = (4096, 64 << 10, 1 << 20, 32 << 20)
PAGED = ((4096, 4096), (64 << 10, 512), (1 << 20, 32))  # bytes, pages


def window(size: int) -> int:
    """Writes in flight, as many as pgctl has by default."""
    return max(2, min(64, (8 << 20) // size))


# One run's figures: "lat_us.8", "rate_mop_s.8", "bw_gbyte_s.SIZE", "paged_gbyte_s.SIZE",
# "barrier_us".
Sample = dict[str, float]
Cores = tuple[int, int]


class NotMeasuredError(Exception):
    """Why a row has no figures, in one sentence."""


def _nothing() -> Sample:
    raise NotMeasuredError("no measurement")


@dataclass(frozen=True)
class Pair:
    """A sender and a receiver, each with a device and a core."""

    devices: tuple[str, str]
    cores: Cores
    gid_index: int | None
    seconds: float
    """Of each measurement."""


@dataclass
class Row:
    who: str
    setting: str
    measure: Callable[[], Sample] = _nothing
    table: str = "write"
    reason: str = ""
    samples: list[Sample] = field(default_factory=list)


def rows_or_reason(who: str, build: Callable[[], list[Row]]) -> list[Row]:
    try:
        return build()
    except NotMeasuredError as error:
        return [Row(who, "-", reason=str(error))]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings that would change what a peer's default is."""
    tuned = ("UCX_", "NIXL_", "OMPI_", "PRTE_", "PMIX_", "MPICH_", "MPIR_", "FI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    return {**kept, **extra}


def start(command: list[str], env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            command,
            env=clean_environment(env or {}),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise NotMeasuredError(f"{command[0]}: {error.strerror}") from error


def stop(process: "subprocess.Popen[str]") -> None:
    """End the process and what it started; mpiexec must be asked first to end its ranks."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
    process.communicate()


def finish(process: "subprocess.Popen[str]", timeout: float) -> str:
    """What the process prints; a failure or a hang is a reason."""
    name = _name(process)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise NotMeasuredError(f"{name} did not end within {timeout:.0f} s") from error
    finally:
        stop(process)
    if process.returncode:
        raise NotMeasuredError(f"{name} exited with {process.returncode}: {_cause(err or out)}")
    return out


def _name(process: "subprocess.Popen[str]") -> str:
    """Of the program, whatever pins it."""
    words = [str(word) for word in process.args] if isinstance(process.args, list) else ["?"]
    return Path(words[3] if words[:2] == ["taskset", "-c"] else words[0]).name


def _cause(text: str) -> str:
    """The line that most likely says what went wrong: the last error, or else the first words."""
    words = [line.strip() for line in text.splitlines() if re.search("[A-Za-z]", line)]
    errors = [line for line in words if re.match(r"E: |ERROR|[\w.]*Error: ", line)]
    return errors[-1] if errors else words[0] if words else "no output"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def await_listener(port: int, server: "subprocess.Popen[str]") -> None:
    """Wait until somebody listens, without a connection: the server takes the first for a test."""
    wanted = f":{port:04X}"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
            for line in table.read_text().splitlines()[1:] if table.exists() else []:
                fields = line.split()
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    return
        if server.poll() is not None:
            finish(server, timeout=1)
        time.sleep(0.01)
    raise NotMeasuredError(f"{_name(server)} does not listen")


def run(command: list[str], env: Mapping[str, str] | None = None, timeout: float = 120) -> str:
    return finish(start(command, env), timeout)


def venv_with(name: str, requirement: str, *needed: str) -> Path:
    """An environment of its own for one package: two MPIs would overwrite each other's mpicc.

    Its declared dependencies are left out (they hold gigabytes for GPUs), but for `needed`.
    """
    venv = ROOT / ".venv-peers" / name
    installed = venv / f"installed-{requirement}"
    if not installed.exists():
        shutil.rmtree(venv, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(venv)])
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*pip, requirement, *needed], timeout=900)
        installed.touch()
    return venv


def find_in(venv: Path, pattern: str) -> Path:
    found = next(venv.glob(f"lib/python*/site-packages/{pattern}"), None)
    if found is None:
        raise NotMeasuredError(f"the package holds no {pattern}")
    return found


METRICS = ("lat_us", "rate_mop_s", "bw_gbyte_s", "paged_gbyte_s", "barrier_us")


def lines_to_sample(text: str, metrics: tuple[str, ...] = METRICS) -> Sample:
    """Lines of "metric value"; others are the peer's own chatter."""
    sample = {}
    for line in text.splitlines():
        metric, _, value = line.partition(" ")
        if metric.startswith(metrics):
            sample[metric] = float(value)
    return sample
