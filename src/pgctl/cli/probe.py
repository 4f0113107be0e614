"""`pgctl probe`: what this machine is, and what is wrong with it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pgctl.cli.options import TARGET, Count, flags
from pgctl.cli.status import BY_VERDICT, PASS

_PARTS = {"nics": "--nics", "gpus": "--gpus", "nics_per_gpu": "--nics-per-gpu"}
_DIRECTORY = click.Path(exists=True, file_okay=False)
_FILE = click.Path(exists=True, dir_okay=False)


@click.command(
    short_help="What this machine is, and what is wrong with it.",
    epilog="""\b
Examples:
  pgctl probe
  pgctl probe --nics ^mlx5_4 --json probe.json
  pgctl probe --profile fabric.yaml --skip governor
  pgctl probe --topology /var/run/nvidia-topologyd/virtualTopology.xml
  pgctl probe --explain PG107
  pgctl probe --active --nics mlx5_0
""",
)
@flags("nic_names")
@click.option("--gpus", metavar="ADDRESSES", default="", help="GPUs by PCI address; ^ all others.")
@click.option(
    "--nics-per-gpu", type=Count(1, 4), metavar="N", help="So many NICs for each GPU: 1 to 4."
)
@flags("profile")
@click.option("--only", metavar="CHECKS", help="Only these checks, by id or name.")
@click.option("--skip", metavar="CHECKS", help="All checks but these.")
@click.option("--sysroot", type=_DIRECTORY, default="/", help="A copy of /sys, /proc, /dev, /etc.")
@click.option("--topology", type=_FILE, help="Where devices are, as NCCL_TOPO_DUMP_FILE has it.")
@click.option("--active", is_flag=True, help="Also try the NICs: register memory, write to itself.")
@flags("transport", "json")
@click.option("--dot", type=TARGET, help="Write the PCI tree for Graphviz; - is stdout.")
@click.option("--list", "listing", is_flag=True, help="List the checks.")
@click.option("--explain", metavar="CHECKS", help="Print the pages of these checks.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
@click.option("-v", "--verbose", is_flag=True, help="Also what passed.")
@click.pass_context
def probe(ctx: click.Context, /, **given: Any) -> int:
    """NICs, GPUs, CPUs and how they hang together; the DomainGroups that follow; what is wrong.

    Reads only: without --active it moves no bytes, and it changes nothing. Exit status 1 if a check
    failed. Under mpirun and srun the first rank of each host reports, the others do nothing.
    """
    if given["quiet"] and given["verbose"]:
        raise click.UsageError("-q and -v exclude each other")
    if given["json_target"] == given["dot"] == "-":
        raise click.UsageError("--json and --dot cannot both have stdout")
    if given["listing"] or given["explain"] is not None:
        return _tell(ctx, given["explain"])
    if given["transport"] is not None and not given["active"]:
        raise click.UsageError("--transport is what --active tries NICs with, and cannot apply")
    from pgctl.cluster import detect_launcher

    launcher = detect_launcher(os.environ)
    return _probe(given) if launcher is None or launcher.first_of_host else PASS


def _tell(ctx: click.Context, explain: str | None) -> int:
    from pgctl.checks.catalog import CHECKS

    commandline = click.core.ParameterSource.COMMANDLINE
    if sum(ctx.get_parameter_source(name) is commandline for name in ctx.params) > 1:
        raise click.UsageError("--list and --explain stand alone")
    if explain is None:
        for check in CHECKS:
            click.echo(f"{check.id}  {check.name:<15} {check.title}")
    else:
        click.echo("\n\n".join(check.page().rstrip() for check in _checks("--explain", explain)))
    return PASS


def _probe(given: dict[str, Any]) -> int:
    from pgctl.hardware.selection import Selection, SelectionError
    from pgctl.hardware.topology_xml import TopologyError
    from pgctl.probe import NotHereError, Request, probe
    from pgctl.profile import ProfileError
    from pgctl.report import json_writer
    from pgctl.report.console import Terminal

    request = Request(
        sysroot=given["sysroot"],
        topology=given["topology"],
        selection=Selection(given["nics"], given["gpus"], given["nics_per_gpu"]),
        profile=given["profile"],
        only=_checks("--only", given["only"]),
        without=_checks("--skip", given["skip"]),
        active=given["active"],
        transport=given["transport"] or "auto",
    )
    try:
        record = probe(request, ("pgctl", *sys.argv[1:]))
    except SelectionError as error:
        raise click.UsageError(f"{_PARTS[error.part]}: {error}") from None
    except NotHereError as error:
        raise click.UsageError(f"--active: {error}") from None
    except (ProfileError, TopologyError) as error:
        raise click.UsageError(str(error)) from None
    if given["dot"] is not None:
        from pgctl.report.dot import dot

        json_writer.write_text(dot(record), given["dot"])
    if given["json_target"] is not None:
        json_writer.write(record, given["json_target"])
    if json_writer.STDOUT not in (given["json_target"], given["dot"]):
        Terminal(quiet=given["quiet"]).probe(record, given["verbose"])
    return BY_VERDICT[record.verdict]


def _checks(flag: str, text: str | None) -> tuple[Any, ...]:
    from pgctl.checks.catalog import UnknownCheckError, find

    try:
        return tuple(find(name) for name in text.split(",")) if text is not None else ()
    except UnknownCheckError as error:
        raise click.UsageError(f"{flag}: {error}") from None
