"""docs/cli.md and the man pages: everything about every verb, from click's own commands and cli/pages.py."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from orchestrator.cli.dressing import below
from orchestrator.cli.main import VERBS, group
from orchestrator.cli.pages import PAGES, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Exit codes as docs/exit-codes.md has them, in a few words.
EXITS = {
    0: "done",
    1: "measured, or read, but a gate failed",
    2: "usage or configuration",
    3: "a node, or this machine, cannot do it",
    4: "a cell failed, is not provable, or a file cannot be written",
    5: "image build or distribution failed",
    6: "busy",
    7: "the time budget was used up",
    124: "the time limit was used up",
}
#: Options that mean the same wherever they stand.
COMMON = {
    "--json": "one JSON document with `schema` on standard output, and nothing else there",
    "--quiet": "no progress, no notes: errors and the result only",
    "--lang": "`zh` or `en`: words of tables and explanations; JSON, codes and keys are the same in both",
    "--dry-run": "does nothing, and prints what would be done",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command that does something by itself, or (`leaf` false) a group of such alone."""

    words: tuple[str, ...]
    command: click.Command
    page: Page | None

    @property
    def name(self) -> str:
        return " ".join(("nx8", *self.words))

    @property
    def leaf(self) -> bool:
        return not isinstance(self.command, click.Group) or self.command.invoke_without_command

    @property
    def context(self) -> click.Context:
        return click.Context(self.command, info_name=self.name)

    @property
    def usage(self) -> str:
        return " ".join((self.name, *self.command.collect_usage_pieces(self.context)))

    @property
    def options(self) -> list[tuple[str, str]]:
        records = (param.get_help_record(self.context) for param in self.command.get_params(self.context))
        return [
            (names, text)
            for names, text in filter(None, records)
            if text and "--help" not in names.replace(",", " ").split()
        ]

    @property
    def paragraphs(self) -> list[tuple[bool, str]]:
        """The help text: (is it laid out by its lines?, text) for each paragraph."""
        text = inspect.cleandoc(self.command.help or "")
        parts = (part.strip("\n") for part in re.split(r"\n{2,}", text))
        return [(part.startswith("\b"), part.removeprefix("\b").strip("\n")) for part in parts if part]


def verbs() -> Iterator[Verb]:
    """Every verb in the order of `nx8 --help`, groups before what is in them."""
    context = click.Context(group)
    for name in VERBS:
        command = group.get_command(context, name)
        assert command is not None
        for words, one in below(command, path=(name,)):
            yield Verb(words=words, command=one, page=PAGES.get(" ".join(words)))


def unwritten() -> list[str]:
    """Verbs without a page, pages without a verb, and examples with options that do not exist."""
    leaves = {" ".join(verb.words): verb for verb in verbs() if verb.leaf}
    found = [f"orchestrator/cli/pages.py: nx8 {name} has no page" for name in leaves if name not in PAGES]
    found += [
        f"orchestrator/cli/pages.py: there is no verb nx8 {name}" for name in PAGES if name not in leaves
    ]
    for name, verb in leaves.items():
        known = {option for param in verb.command.params for option in param.opts}
        for example, _ in verb.page.examples if verb.page else ():
            if f"nx8 {name}" not in example:
                found.append(f"orchestrator/cli/pages.py: {example!r} is no example of nx8 {name}")
            found += [
                f"orchestrator/cli/pages.py: nx8 {name} has no option {option}"
                for option in re.findall(r"(?<= )--[a-z-]+", example)
                if option not in known
            ]
    return found


def page() -> str:
    """docs/cli.md."""
    every = list(verbs())
    top = Verb(words=(), command=group, page=None)
    lines = [
        "# The command line",
        "",
        "Every verb of `nx8`, as `nx8 VERB --help` has it. Written by `make docs` from the verbs themselves; "
        "`make man` makes man pages of the same.",
        "",
        "A result goes to standard output, progress and errors to standard error. Exit codes are "
        "[promised](exit-codes.md); besides those of a verb, every one may end with 70 (a bug), 129, 130 or "
        "143 (a signal). An error says code, what, where and what next; `nx8 explain CODE` says more "
        "([list](errors.md)).",
        "",
        "## For all verbs",
        "",
        *_options(top),
        "",
        "Variables: `NX8_HOME` (as `--home`), `NX8_LANG` (as `--lang`), `NO_COLOR` and `CI` (no live view). "
        "Tables are Chinese unless asked otherwise, as published ones are; errors and explanations follow "
        "the locale, and add the Chinese meaning of each code where it is Chinese. Help is English.",
        "",
        "| option | means, wherever it stands |",
        "| --- | --- |",
        *(f"| `{option}` | {means} |" for option, means in COMMON.items()),
        "",
        "| verb | " + " | ".join(f"`{option}`" for option in COMMON) + " |",
        "| --- |" + " --- |" * len(COMMON),
        *(_matrix(verb) for verb in every if verb.leaf),
        "",
        "## Completion",
        "",
        "Verbs, options and the names of vendors, cases, clusters and runs: "
        '`eval "$(nx8 completion bash)"` in `~/.bashrc`; '
        "for zsh and fish see [below](#nx8-completion).",
    ]
    for verb in every:
        lines += ["", *_section(verb)]
    return "\n".join(lines) + "\n"


def _matrix(verb: Verb) -> str:
    """Which of COMMON a verb takes."""
    known = {option for param in verb.command.params for option in param.opts}
    marks = " | ".join("✓" if option in known else "" for option in COMMON)
    return f"| [`{verb.name}`](#{verb.name.replace(' ', '-')}) | {marks} |"


def _section(verb: Verb) -> list[str]:
    lines = [f"## {verb.name}", "", "```", verb.usage, "```"]
    for laid_out, text in verb.paragraphs:
        lines += ["", *(["```", text, "```"] if laid_out else [" ".join(text.split())])]
    if options := _options(verb):
        lines += ["", *options]
    if verb.page:
        lines += [
            "",
            "```",
            *(f"{command:<{_width(verb.page)}}  # {does}" for command, does in verb.page.examples),
            "```",
        ]
        codes = "; ".join(f"{code} {EXITS[code]}" for code in (0, *verb.page.exits))
        lines += ["", f"- Exit codes: {codes}"]
        lines += [f"- Reads: {_files(verb.page.reads)}"] if verb.page.reads else []
        lines += [f"- Writes: {_files(verb.page.writes)}"] if verb.page.writes else []
    return lines


def _width(page: Page) -> int:
    return max(len(command) for command, _ in page.examples)


def _files(files: tuple[str, ...]) -> str:
    """Paths as code; what stands beside one in words stays words."""
    return "; ".join(
        re.sub(r"(?<![\w<])((?:[\w<>*.-]*/)+[\w<>*.-]*|\w+\.(?:yaml|json|txt))", r"`\1`", one)
        for one in files
    )


def _options(verb: Verb) -> list[str]:
    if not verb.options:
        return []
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in verb.options]
    return ["| option | |", "| --- | --- |", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def man_pages() -> dict[str, str]:
    """nx8.1 and one page for each verb, such as nx8-run.1, in roff's man macros."""
    top = Verb(words=(), command=group, page=None)
    pages = {"nx8.1": _man(top, see=[verb.name for verb in verbs()])}
    for verb in verbs():
        pages[f"{verb.name.replace(' ', '-')}.1"] = _man(verb, see=["nx8"])
    return pages


def _man(verb: Verb, *, see: list[str]) -> str:
    title = verb.name.replace(" ", "-")
    summary = " ".join((verb.command.help or "").split("\n\n")[0].split()).rstrip(".")
    lines = [
        f'.TH "{title.upper()}" 1 "" "nx8" "Nx8"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(summary)}",
        ".SH SYNOPSIS",
        f"\\fB{_roff(verb.name)}\\fR {_roff(verb.usage.removeprefix(verb.name).strip())}",
        ".SH DESCRIPTION",
    ]
    for laid_out, text in verb.paragraphs:
        lines += (
            [".nf", *map(_roff, text.splitlines()), ".fi"] if laid_out else [_roff(" ".join(text.split()))]
        )
        lines.append(".PP")
    if verb.options:
        lines.append(".SH OPTIONS")
        for names, text in verb.options:
            lines += [".TP", f"\\fB{_roff(names)}\\fR", _roff(" ".join(text.split()))]
    if verb.page:
        lines.append(".SH EXAMPLES")
        for command, does in verb.page.examples:
            lines += [".TP", f"\\fB{_roff(command)}\\fR", _roff(does)]
        lines += [".SH EXIT STATUS"]
        for code in (0, *verb.page.exits):
            lines += [".TP", str(code), _roff(EXITS[code])]
        for heading, files in (("FILES READ", verb.page.reads), ("FILES WRITTEN", verb.page.writes)):
            lines += [f".SH {heading}"] if files else []
            for file in files:
                lines += [".PP", _roff(file)]
    lines += [".SH SEE ALSO", _roff(", ".join(f"{name.replace(' ', '-')}(1)" for name in see))]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text that roff takes as it is: no escapes, no line that begins like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
