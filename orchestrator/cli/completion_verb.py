"""`nx8 completion`"""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes nx8 in a shell.

    It completes verbs, options, and the names of vendors, cases, clusters and runs. Load it when the shell
    starts:

    \b
    bash    in ~/.bashrc:                eval "$(nx8 completion bash)"
    zsh     in ~/.zshrc, after compinit: eval "$(nx8 completion zsh)"
    fish    once: nx8 completion fish > ~/.config/fish/completions/nx8.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "nx8", "_NX8_COMPLETE").source())
