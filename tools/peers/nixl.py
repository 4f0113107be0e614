"""NIXL: writes between host memories with its UCX backend, driven by nixl_peer.py."""

from functools import partial
from pathlib import Path

from peers.common import (
    Cores,
    NotMeasuredError,
    Row,
    Sample,
    lines_to_sample,
    rows_or_reason,
    run,
    venv_with,
)

VERSION = "1.5.1"
PROGRAM = Path(__file__).with_name("nixl_peer.py")

# Shared memory alone is refused while errors are handled, since it cannot notice a dead peer.
# Segments of 64 KiB deliver wrong bytes in this version, which the check in nixl_peer.py shows.
SETTINGS: tuple[tuple[str, dict[str, str], list[str]], ...] = (
    ("default", {}, ["thread"]),
    ("no progress thread", {}, ["poll"]),
    (
        "no progress thread, no error handling, UCX_TLS=posix UCX_POSIX_SEG_SIZE=32k",
        {"UCX_TLS": "posix", "UCX_POSIX_SEG_SIZE": "32k"},
        ["poll", "ucx_error_handling_mode=none"],
    ),
)


def rows(cores: Cores) -> list[Row]:
    return rows_or_reason("NIXL", lambda: _rows(cores))


def _rows(cores: Cores) -> list[Row]:
    venv = venv_with("nixl", f"nixl-cu12=={VERSION}", "numpy")
    command = [str(venv / "bin/python"), str(PROGRAM), *map(str, cores)]
    return [
        Row(f"NIXL {VERSION}", setting, partial(_measure, [*command, *arguments], env))
        for setting, env, arguments in SETTINGS
    ]


def _measure(command: list[str], env: dict[str, str]) -> Sample:
    sample = lines_to_sample(run(command, {"NIXL_LOG_LEVEL": "ERROR", **env}))
    if not sample:
        raise NotMeasuredError("nixl_peer.py printed no result")
    return sample
