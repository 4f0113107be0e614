"""How a command ends: the exit status, and what is said about it. Nothing else decides either."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from pgctl.errors import PgError

PASS = 0
FAIL = 1
USAGE = 2
COULD_NOT_RUN = 3
SKIP = 77
INTERRUPTED = 128 + signal.SIGINT
OUTPUT_GONE = 128 + signal.SIGPIPE

BY_VERDICT = {"pass": PASS, "fail": FAIL, "error": COULD_NOT_RUN, "skip": SKIP}

_PROBLEMS = (PgError, OSError, RuntimeError, ValueError, MemoryError)


def run(command: click.Command, args: Sequence[str], obj: object = None) -> int:
    """Carry out the command; return its exit status. obj: what commands are to use, for tests."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = command.main(list(args), prog_name="pgctl", standalone_mode=False, obj=obj)
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        if speaks():
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as leaving:
        # click and rich leave so when nobody reads on, with the status of a check that failed.
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        _forget_stdout()
        return OUTPUT_GONE
    except BrokenPipeError:
        _forget_stdout()
        return OUTPUT_GONE
    except _PROBLEMS as error:
        click.echo(f"pgctl: {error}", err=True)
        return COULD_NOT_RUN
    return status if isinstance(status, int) else PASS


@contextmanager
def as_rank(verbose: bool = False) -> Iterator[None]:
    """Around what a rank does: whoever started it tells why it crashed, so nobody else has to."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, KeyboardInterrupt):
        raise
    except BrokenPipeError as error:
        _forget_stdout()
        raise SystemExit(OUTPUT_GONE) from error
    except Exception as error:
        if verbose:
            traceback.print_exc()
        raise SystemExit(COULD_NOT_RUN) from error


def speaks() -> bool:
    """Ranks other than the first say nothing that rank 0 says as well."""
    from pgctl.cluster import detect_launcher

    launcher = detect_launcher(os.environ)
    return launcher is None or launcher.rank == 0


def _open_what_is_closed() -> None:
    """After `>&-` Python has no stream there, and the next file that is opened its descriptor."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))


def _forget_stdout() -> None:
    """Python would complain at exit that it cannot flush it."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
