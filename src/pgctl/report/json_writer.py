"""The record as one JSON document: on stdout, or in a file that appears whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from pgctl.report.record import Record, to_plain

STDOUT = "-"


def dumps(record: Record) -> str:
    return json.dumps(to_plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def check_target(target: str) -> None:
    """Find out before the run whether the record can be written after it. Raises OSError."""
    if target == STDOUT:
        return
    path = Path(target)
    if _in_place(path):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return
    aside = _aside(path)
    os.close(_create(aside))
    aside.unlink()


def write(record: Record, target: str) -> None:
    """Raises OSError; then nothing is left behind."""
    write_text(dumps(record), target)


def write_text(text: str, target: str) -> None:
    """Whole or not at all, as `write` does it."""
    if target == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(target)
    if _in_place(path):
        path.write_text(text, encoding="utf-8")
        return
    aside = _aside(path)
    try:
        with open(_create(aside), "w", encoding="utf-8") as file:
            file.write(text)
        aside.replace(os.path.realpath(path))
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def _in_place(path: Path) -> bool:
    """A device or a pipe must not be replaced; a directory cannot be."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _aside(path: Path) -> Path:
    return Path(os.path.realpath(path)).with_name(f".pgctl.{os.getpid()}.part")


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
