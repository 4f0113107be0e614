"""The command line. A command parses, calls one function, and shows what it returns."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from pgctl.cli.bench import bench
from pgctl.cli.completion import completion
from pgctl.cli.probe import probe
from pgctl.cli.status import run

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=HELP, epilog="A command's --help has examples.")
@click.version_option(package_name="pgctl", message="%(prog)s %(version)s")
def cli() -> None:
    """Tell whether a cluster can carry the traffic of modern LLM systems, and how fast."""


cli.add_command(probe)
cli.add_command(bench)
cli.add_command(completion)


def main() -> NoReturn:
    """The one exit point."""
    sys.exit(run(cli, sys.argv[1:]))
