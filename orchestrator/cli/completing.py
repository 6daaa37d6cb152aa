"""Which names the shell offers: vendors, cases, clusters, suites, runs, published documents, error codes.

A parameter is known by its name, so a verb that calls its options as all others do is completed without
another word. Only names of files and folders are looked up, nothing is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.workspace import Workspace

#: The last runs are the ones that are asked for.
MAX_RUNS = 50


def _runs(workspace: Workspace) -> Iterable[str]:
    folder = workspace.runs
    found = folder.iterdir() if folder.is_dir() else ()
    names = sorted((path.name for path in found if path.is_dir()), reverse=True)
    return [*(["latest"] if names else []), *[name for name in names if name != "latest"][:MAX_RUNS]]


def _published(workspace: Workspace) -> Iterable[str]:
    return sorted(path.stem for path in (workspace.home / "results" / "published").glob("*.yaml"))


def _sides(workspace: Workspace) -> Iterable[str]:
    return [*_runs(workspace), *(f"published:{name}" for name in _published(workspace))]


def _data(workspace: Workspace) -> Iterable[str]:
    """Token files and folders, prepared sets and weights, without their manifests."""
    found = (workspace.home / "results" / "data").glob("*")
    return sorted({path.stem if path.is_file() else path.name for path in found if ".json" not in path.name})


def _codes(workspace: Workspace) -> Iterable[str]:  # noqa: ARG001 - one signature for all
    import re

    from orchestrator.catalogue import FOLDER

    texts = (path.read_text("utf-8") for path in sorted(FOLDER.glob("*.yaml")))
    return [code for text in texts for code in re.findall(r"^  (E\d{3}):", text, re.MULTILINE)]


NAMES: dict[str, Callable[[Workspace], Iterable[str]]] = {
    "--vendor": lambda workspace: workspace.vendor_names(),
    "--cluster": lambda workspace: workspace.cluster_names(),
    "--case": lambda workspace: workspace.case_names(),
    "CASE": lambda workspace: workspace.case_names(),
    "SUITE": lambda workspace: workspace.suite_names(),
    "RUN": _runs,
    "RUN | FILE": _runs,
    "RUN|published:NAME[/ROW]": _sides,
    "CODE": _codes,
}


#: What NAME is, by the first word of the verb.
NAME_OF: dict[str, Callable[[Workspace], Iterable[str]]] = {
    "vendors": lambda workspace: workspace.vendor_names(),
    "published": _published,
    "data": _data,
}


def attach(command: click.Command, *, verb: str) -> None:
    """Gives every parameter of `command` whose name stands in NAMES its completer."""
    for param in command.params:
        keys = param.opts if isinstance(param, click.Option) else [metavar(param)]
        found = next((NAMES[key] for key in keys if key in NAMES), None)
        if keys == ["NAME"]:
            found = NAME_OF.get(verb)
        if found is not None:
            setattr(param, "shell_complete", _completer(param, found))  # noqa: B010 - this one, not its class


def metavar(param: click.Parameter) -> str:
    """'[CASE]...' and 'CASE' are CASE; an argument without a metavar is called by its own name."""
    text = (param.metavar or (param.name or "").upper()).rstrip(".")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].rstrip(".")
    return text


def _completer(
    param: click.Parameter, names: Callable[[Workspace], Iterable[str]]
) -> Callable[[click.Context, str], list[CompletionItem]]:
    plain = type(param).shell_complete

    def complete(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from orchestrator.cli.common import workspace_of
        from orchestrator.errors import Nx8Error

        try:
            offered = [name for name in names(workspace_of(ctx)) if name.startswith(incomplete)]
        except (Nx8Error, OSError):
            offered = []
        # What is no name may be a file: `nx8 parse FILE`.
        files = plain(param, ctx, incomplete) if not offered else []
        return [CompletionItem(name) for name in offered] + files

    return complete
