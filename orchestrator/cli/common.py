"""What several verbs share: the workspace, the options of a plan, and how `--set` is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.run import Request
    from orchestrator.workspace import Workspace

F = TypeVar("F", bound="Callable[..., Any]")


def workspace_of(ctx: click.Context) -> Workspace:
    """The workspace of this call. Raises ConfigError when there is none."""
    from orchestrator.workspace import find

    return find(home=ctx.find_object(Path), environment=os.environ, working_directory=Path.cwd())


def plan_options(verb: F) -> F:
    """The arguments that decide what is planned; the same for `plan` and `run`."""
    seconds = click.FloatRange(min=0, min_open=True)
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
    from orchestrator.planner import Options
    from orchestrator.run import Request

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
    from orchestrator.cases import DeviceConfig
    from orchestrator.errors import ConfigError, Problem
    from orchestrator.load import load_text

    malformed = [setting for setting in settings if "=" not in setting or "\n" in setting]
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
