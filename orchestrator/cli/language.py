"""In which language `nx8` speaks: `--lang`, then NX8_LANG, then, for what is no table, the locale."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.messages import Language

F = TypeVar("F", bound="Callable[..., Any]")

VARIABLE = "NX8_LANG"
DEFAULT = f"{VARIABLE}, or zh"
LANGUAGES = ("zh", "en")
#: What `--lang` said, before or after the verb. Errors are shown when the verb's context is gone.
_given: ContextVar[Language | None] = ContextVar("language", default=None)


def of_tables() -> str:
    """The default of a table's words: the published tables are Chinese, whatever the locale is."""
    return _given.get() or os.environ.get(VARIABLE) or "zh"


def of_words(environment: Mapping[str, str] | None = None) -> Language:
    """The language of errors and explanations: English unless something asks for Chinese."""
    environment = os.environ if environment is None else environment
    said = _given.get() or environment.get(VARIABLE)
    if said not in LANGUAGES:
        locales = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
        said = next((locale for locale in locales if locale), "")
    return "zh" if said.startswith("zh") else "en"


def keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Remembers an explicit `--lang` for everything after it."""
    if ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE:
        _given.set(value)
    return value


def forget() -> None:
    """For the next call in the same process."""
    _given.set(None)


def option(help_text: str, *, tables: bool = True) -> Callable[[F], F]:
    """`--lang` of a verb: of its tables, or (`tables=False`) of its words."""
    return click.option(
        "--lang",
        type=click.Choice(LANGUAGES),
        default=of_tables if tables else of_words,
        show_default=DEFAULT if tables else "NX8_LANG, or the locale's",
        callback=keep,
        help=help_text,
    )
