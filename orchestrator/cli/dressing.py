"""What every verb gets without saying so: completion of names in the shell, and its page's examples below its
help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import completing
from orchestrator.cli.pages import PAGES, epilog

if TYPE_CHECKING:
    from collections.abc import Iterator


def dressed(command: click.Command, *, path: tuple[str, ...]) -> click.Command:
    """`command` and all below it, each with its completers and, where it has a page, its examples."""
    for words, one in below(command, path=path):
        completing.attach(one, verb=words[0])
        if page := PAGES.get(" ".join(words)):
            one.epilog = epilog(page)
    return command


def below(
    command: click.Command, *, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """`command` and every subcommand of it, with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from below(one, path=(*path, name))
