"""What several verbs share: the workspace, the options of a plan, and how `--set` is read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestrator.request import Request
    from orchestrator.workspace import Workspace

F = TypeVar("F", bound="Callable[..., Any]")


def workspace_of(ctx: click.Context) -> Workspace:
    """The workspace of this call. Raises ConfigError when there is none."""
    from orchestrator.workspace import find

    return find(home=ctx.find_object(Path), environment=os.environ, working_directory=_working_directory())


def _working_directory() -> Path:
    """Where we stand; the root where that folder is gone."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def json_text(document: object) -> str:
    """What `--json` prints, without its line's end. Raises ValueError for a number that JSON has not."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def columns(rows: Sequence[Sequence[object]], *, right: Collection[int] = ()) -> str:
    """Rows as aligned lines, two blanks between; the columns `right` stand at the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*texts, strict=True)]
    lines = (
        "  ".join(
            f"{cell:>{width}}" if at in right else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


class WithDefault(click.Group):
    """A group with a command that is meant where none is named: `nx8 nightly SUITE`, `nx8 history -n 5`."""

    def __init__(self, *args: Any, default: str, **given: Any) -> None:
        super().__init__(*args, **given)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else [self.default, *args])


class Seconds(click.FloatRange):
    """A positive, finite number of seconds."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds; leave the option away for no limit", param, ctx)
        return seconds


def plan_options(verb: F) -> F:
    """The arguments that decide what is planned; the same for `plan` and `run`."""
    seconds = Seconds()
    for decorate in reversed(
        (
            click.argument("cases", nargs=-1, metavar="[CASE]..."),
            click.option("--vendor", metavar="NAME", help="A folder of dockerfiles/."),
            click.option(
                "--cluster",
                metavar="NAME",
                help="A file of cluster/. [default: the vendor's only one; local]",
            ),
            click.option(
                "--set",
                "changes",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a tunable key of the case.",
            ),
            click.option("--steps", type=click.IntRange(min=1), help="Measured steps. [default: the case's]"),
            click.option(
                "--time-limit", type=seconds, metavar="S", help="End the run after S seconds (exit 124)."
            ),
            click.option(
                "--startup-limit", type=seconds, metavar="S", help="Longest wait for the first step."
            ),
            click.option("--stall-limit", type=seconds, metavar="S", help="Longest wait between two steps."),
        )
    ):
        verb = decorate(verb)
    return verb


def request_of(**given: Any) -> Request:
    """The options as one value. Raises ConfigError (E116) listing every `--set` that cannot be read."""
    from orchestrator.options import Options
    from orchestrator.request import Request

    return Request(
        cases=given["cases"],
        vendor=given["vendor"],
        cluster=given["cluster"],
        options=Options(
            changes=changes_of(given["changes"]),
            measured_steps=given["steps"],
            startup_limit_s=given["startup_limit"],
            stall_limit_s=given["stall_limit"],
            time_limit_s=given["time_limit"],
        ),
    )


def changes_of(settings: tuple[str, ...]) -> Any:
    """`KEY=VALUE …` → DeviceConfig, by the same reader as the files and with the same messages."""
    from orchestrator.configs import DeviceConfig
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.load import load_text

    malformed = [one for one in settings if not one.partition("=")[2].strip() or "\n" in one]
    if malformed:
        raise ConfigError(
            [Problem(code="E116", message=f"--set {one!r}: wants KEY=VALUE") for one in malformed]
        )
    pairs = [setting.split("=", 1) for setting in settings]
    lines = ["schema: 1", *(f"{key.strip()}: {value.strip()}" for key, value in pairs)]
    lines.append("why: {" + ", ".join(f"{key.strip()}: on the command line" for key, _ in pairs) + "}")
    try:
        return load_text("\n".join(lines), DeviceConfig, shown_as="--set")
    except ConfigError as error:
        # The line of reasons is ours: what is wrong with it is wrong with a setting, and said there already.
        own = [problem for problem in error.problems if problem.line != len(lines)] or error.problems
        raise ConfigError(own) from error
