"""`nx8`: a lazy group, so that help, version and completion load nothing but click."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from orchestrator import __version__
from orchestrator.cli import language
from orchestrator.cli.dressing import dressed

if TYPE_CHECKING:
    from collections.abc import Callable

#: verb → its help line. The module is orchestrator.cli.<verb>_verb; a test holds these lines against the
#: modules' own.
VERBS = {
    "init": "Write the file of a new cluster, with comments.",
    "doctor": "Look at every node of a cluster, and say what is wrong and what mends it.",
    "run": "Train, prove and print the metric table.",
    "plan": "Show everything a run would do, and do nothing.",
    "ps": "List runs that are at work, or left something behind.",
    "logs": "Print what a run's ranks say, also while they say it.",
    "stop": "Stop a run on all its nodes, and keep what it measured.",
    "resume": "Go on with a run whose controller died, within the lease of its nodes.",
    "clean": "Remove from nodes what runs left there whose lease has expired.",
    "report": "Print the tables of a stored run.",
    "parse": "Recompute a stored run and compare, or read figures from any training log.",
    "compare": "Put runs and published rows side by side.",
    "nightly": "Run a suite unattended: look, run, judge, write down, and tell.",
    "history": "List the cells of stored runs, newest first, with what they proved.",
    "trend": "Show how a metric went, series by series, with its band.",
    "show": "Show one run beside its history: each figure, its band, and what changed.",
    "accept": "Begin a new baseline with a run, and keep who, when and why.",
    "gc": "Remove the folders of old runs; their figures stay in the history.",
    "published": "Import, check and show results that others published.",
    "bundle": "Pack a run into one file for support, secrets masked.",
    "open": "Open the page of a stored run in a browser, or say where it is.",
    "site": "Write the pages of all runs and their index, for any web server.",
    "serve": "Show the pages of all runs to this machine's browsers.",
    "list": "List cases, vendors, clusters or runs.",
    "data": "Prepare and check token files.",
    "vendors": "Check and render the vendors' folders.",
    "hosts": "Show and store the host keys of a cluster's nodes.",
    "lab": "A rehearsal cluster on this machine: real sshd, real dockerd.",
    "explain": "Say what an error code means, how it comes about and what helps.",
    "completion": "Print the script that completes nx8 in a shell.",
}


class Lazy(click.Group):
    """Imports a verb's module only when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if name not in VERBS:
            return None
        command = importlib.import_module(f"orchestrator.cli.{name}_verb").command
        assert isinstance(command, click.Command)
        return dressed(command, path=(name,))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nx8")
@click.option(
    "--home", type=click.Path(path_type=Path), help="The folder that holds cases/, dockerfiles/ and cluster/."
)
@click.option(
    "--lang",
    type=click.Choice(language.LANGUAGES),
    callback=language.keep,
    expose_value=False,
    help="Words of tables and errors, for every verb.",
)
@click.pass_context
def group(ctx: click.Context, home: Path | None) -> None:
    """Training benchmarks for accelerator clusters: no proof, no number.

    What a verb prints is its result, on standard output; everything else goes to standard error.

    Exit codes: 0 every planned cell MEASURED, 1 a gate failed, 2 usage or configuration, 3 a node cannot
    run it, 4 a cell failed or is not provable, 5 build, 6 busy, 7 time budget used, 70 a bug of ours, 124
    time limit, 129/130/143 stopped.
    """
    ctx.obj = home


def main() -> NoReturn:
    """The console script: the only place that turns an error into an exit code."""
    sys.exit(guarded(lambda: group(standalone_mode=False)))


def guarded(verb: Callable[[], Any]) -> int:
    """Runs a verb; returns the exit code, having said on stderr what went wrong."""
    from orchestrator.cli.afterwards import afterwards
    from orchestrator.errors import Exit, Nx8Error, Stopped

    language.forget()
    try:
        code = verb()
        if sys.stdout is not None:
            sys.stdout.flush()
        return int(code or 0)
    except Nx8Error as error:
        click.echo(str(error), err=True)
        if len(error.problems) > 1:
            click.echo(f"{len(error.problems)} problems", err=True)
        for line in afterwards(error.problems, language.of_words()):
            click.echo(line, err=True)
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return int(Exit.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return int(Exit.SIGINT)
    except Stopped as stopped:
        click.echo(f"stopped by {stopped}", err=True)
        return int(stopped.exit_code)
    except BrokenPipeError:
        # The reader went away (`nx8 report | head`): not our failure, but nothing more can be said either.
        sys.stdout = None
        return int(Exit.OK)
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes exit code 70
        import traceback

        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return int(Exit.SIGINT)  # Ctrl-C in the middle of an import arrives wrapped

        click.echo(traceback.format_exc(), err=True)
        click.echo(
            "this is a bug in nx8; please report it with the lines above and `nx8 --version`", err=True
        )
        return int(Exit.BUG)
