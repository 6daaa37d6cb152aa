"""YAML file → typed value, every problem at once as file:line:col. Only home of pydantic and PyYAML.

    E101 unknown key                 E106 too large, too deep, too many values
    E102 unreadable file             E107 a scalar that YAML versions read differently
    E103 not YAML, not UTF-8         E108 wrong type or value
    E104 duplicate key               E109 missing key
    E105 anchor, alias, tag, merge   E110 keys that contradict each other
    E220 a <changeme> of `nx8 init`
    E602 a stored JSON file of ours that cannot be read

source.py reads the text, scalars.py decides what a bare word means, nodes.py makes the tree, judge.py asks
pydantic whether it fits, wanted.py has the words for what would have fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from orchestrator import text
from orchestrator.errors import ConfigError, Problem
from orchestrator.load.judge import adapter, judge
from orchestrator.load.nodes import CHANGEME as CHANGEME
from orchestrator.load.nodes import compose
from orchestrator.load.source import clean, dotted, read_bytes, read_source, text_source

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.load.source import Source

T = TypeVar("T")

#: Regular expression → its words, for every string type of ours.
PATTERN_SAYS = {
    said.regex: said.says
    for kind in vars(text).values()
    for said in getattr(kind, "__metadata__", ())
    if isinstance(said, text.Pattern)
}
#: A plan names every rank of every cell, so it may be far larger than anything a person writes.
MAX_STORED_BYTES = 64 * 1024 * 1024


def load(path: Path, kind: type[T], *, shown_as: str | None = None) -> T:
    """The value of one YAML file; `kind` is a frozen dataclass. Problems name the file as `shown_as`.

    Raises ConfigError with every problem of the file, in the order of its lines.
    """
    return _value(read_source(path, shown_as=shown_as), kind)


def load_text(text: str, kind: type[T], *, shown_as: str) -> T:
    """As `load`, of YAML text that is no file, for example what was said on the command line."""
    return _value(text_source(text, shown_as=shown_as), kind)


def _value(source: Source, kind: type[T]) -> T:
    root, problems = compose(source)
    value, misfits = judge(root, kind, source)
    if problems or misfits:
        raise ConfigError(source.listed([*problems, *misfits]))
    assert value is not None
    return value


def read_stored(path: Path, kind: type[T]) -> T:
    """The value of a JSON file that we wrote: typed, but keys of a newer version are ignored.

    Raises ConfigError (E602) with the file and every key that does not fit.
    """
    raw = read_bytes(path, shown=str(path), limit=MAX_STORED_BYTES, code="E602")
    try:
        from_json(raw, allow_inf_nan=False)
        value: T = adapter(kind).validate_json(raw, strict=True, extra="ignore")
        return value
    except ValidationError as error:
        found = [(dotted(problem["loc"]), problem["msg"]) for problem in error.errors(include_url=False)]
    except ValueError as error:
        found = [("", f"not JSON: {error}")]
    raise ConfigError(
        Problem(
            code="E602",
            file=clean(str(path)),
            message=clean(f"{where}: {what}" if where else what),
            help="nx8 wrote this file, and a changed or cut one proves nothing; make it again",
        )
        for where, what in found
    )


def json_schema(kind: type) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the files that `load` reads into `kind`, for editors."""
    generated = adapter(kind).json_schema()
    finished: dict[str, Any] = _finished(generated)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **finished}


def _finished(schema: Any) -> Any:
    """What pydantic made, with unknown keys refused as `load` does, and each pattern in words beside it."""
    if isinstance(schema, list):
        return [_finished(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    finished = {key: _finished(part) for key, part in schema.items()}
    if "properties" in finished or "patternProperties" in finished:
        finished["additionalProperties"] = False
    # A str: a field may be called `pattern`, too.
    if isinstance(regex := schema.get("pattern"), str) and regex in PATTERN_SAYS:
        finished["description"] = PATTERN_SAYS[regex]
    return finished
