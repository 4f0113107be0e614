"""`pgctl completion`: the script that teaches a shell pgctl's commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    short_help="The completion script of a shell.",
    epilog="""\b
Examples:
  pgctl completion bash >> ~/.bashrc
  pgctl completion zsh >> ~/.zshrc
  pgctl completion fish > ~/.config/fish/completions/pgctl.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script."""
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(ctx.find_root().command, {}, "pgctl", "_PGCTL_COMPLETE").source())
