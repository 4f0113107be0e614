"""`pgctl bench`: how fast one operation is."""

from __future__ import annotations

import sys
from typing import Any

import click

from pgctl.cli.options import OFI_FLAGS, RDMA_FLAGS, flags

_SWEEP = ("min_bytes", "max_bytes", "factor", "sizes")
_AMOUNT = ("iters", "duration", "warmup", "cycles")
_FABRIC = (
    *("ranks", "transport", "nic_names", "nics", *RDMA_FLAGS, *OFI_FLAGS, "profile"),
    *("progress", "impair", "timeout"),
)
_OUTPUT = ("json", "seed", "dry_run", "quiet", "verbose")


@click.group(short_help="How fast one operation is.")
def bench() -> None:
    """Bandwidth, rate and latency of one operation, beside the limits of the machine.

    Starts its own ranks; under mpirun or srun every process is one. Bandwidths are medians over
    blocks of operations. A latency is half a round trip.
    """


@bench.command(
    short_help="Writes of one contiguous region.",
    epilog="""\b
Examples:
  pgctl bench write
  pgctl bench write --sizes 64K,1M,32M --touch marching
  pgctl bench write -b 1M -e 64M --nics-per-rank 2 --json result.json
  pgctl bench write --nics-per-rank 4,1
  pgctl bench write --transport verbs --nics =mlx5_0,mlx5_1 --gid-index 3
  pgctl bench write --transport ofi --provider tcp --nics =eth1
  mpirun -n 2 pgctl bench write
""",
)
@flags(*_SWEEP, *_AMOUNT, "window", "bidirectional", "check")
@flags("imm", "touch", "memory", *_FABRIC, *_OUTPUT)
@click.pass_context
def write(ctx: click.Context, /, **given: Any) -> int:
    """One-sided writes of one contiguous region, from rank 0 to rank 1."""
    return _bench(ctx, "write", (8, 64 << 20), given)


@bench.command(
    short_help="Writes of many pages.",
    epilog="""\b
Examples:
  pgctl bench paged
  pgctl bench paged --sizes 4K --pages 4096 --touch marching
""",
)
@flags(*_SWEEP, "pages", *_AMOUNT, "window", "bidirectional", "check")
@flags("imm", "touch", "memory", *_FABRIC, *_OUTPUT)
@click.pass_context
def paged(ctx: click.Context, /, **given: Any) -> int:
    """One-sided writes of many pages, each from and to a place of its own."""
    return _bench(ctx, "paged", (1 << 10, 1 << 20), given)


@bench.command(
    short_help="A slice from every rank to every other.",
    epilog="""\b
Examples:
  pgctl bench scatter -r 4
  mpirun -n 4 pgctl bench scatter --sizes 64K
""",
)
@flags(*_SWEEP, *_AMOUNT, "window", "check", "imm", "touch", *_FABRIC, *_OUTPUT)
@click.pass_context
def scatter(ctx: click.Context, /, **given: Any) -> int:
    """A slice from every rank to every other, all at once; bandwidths of all are added."""
    return _bench(ctx, "scatter", (8, 1 << 20), given)


@bench.command(
    short_help="Everybody waits for everybody.",
    epilog="""\b
Examples:
  pgctl bench barrier
  pgctl bench barrier -r 4 -n 10000
""",
)
@flags(*_AMOUNT, *_FABRIC, *_OUTPUT)
@click.pass_context
def barrier(ctx: click.Context, /, **given: Any) -> int:
    """Immediates among all ranks: how long until everybody knows that all have come."""
    return _bench(ctx, "barrier", None, given)


@bench.command(
    short_help="Messages into a receive pool.",
    epilog="""\b
Examples:
  pgctl bench send
  pgctl bench send --sizes 64,4K --window 16
""",
)
@flags(*_SWEEP, *_AMOUNT, "window", "bidirectional", "check", *_FABRIC, *_OUTPUT)
@click.pass_context
def send(ctx: click.Context, /, **given: Any) -> int:
    """Messages into the receive pool of the peer, from rank 0 to rank 1."""
    return _bench(ctx, "send", (8, 4 << 10), given)


def _bench(
    ctx: click.Context, operation: str, sweep: tuple[int, int] | None, given: dict[str, Any]
) -> int:
    from pgctl.cli.benchmark import Request, carry_out

    request = Request.of(operation, sweep, given, ("pgctl", *sys.argv[1:]))
    return carry_out(request, ctx.obj)
