"""Does a tree fit a dataclass? pydantic decides; where and in which words it is said is decided here.

Whatever pydantic calls a misfit, the message is made from two things a person can check: what the type
wants and what the file says. Its own list of errors is only read for the places.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, is_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_origin

from pydantic import TypeAdapter, ValidationError

from orchestrator.load import scalars
from orchestrator.load.nodes import Broken, Items, Keys, Node, Scalar, is_whole, plain
from orchestrator.load.source import Span, dotted
from orchestrator.load.wanted import (
    asks_for,
    bare,
    choices,
    hints,
    key_of,
    members,
    near,
    part_of,
    required,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.errors import Problem
    from orchestrator.load.source import Source

T = TypeVar("T")
Loc = tuple[str | int, ...]

#: What pydantic puts last in a place to say: not the value, its key.
THE_KEY = "[key]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """One place of a tree: the node, what its type wants, and how it is reached."""

    loc: Loc
    node: Node
    wants: Any
    key: Scalar | None = None
    inside: _Spot | None = None
    #: The complaint is about the key, not about its value.
    of_key: bool = False
    #: A key that is not there.
    missing: str | None = None

    @property
    def at(self) -> Span:
        """Where to point: at the value if it is one word, else at its key."""
        if (
            isinstance(self.node, Scalar)
            and self.node.at.end_column > self.node.at.column
            and not self.of_key
        ):
            return self.node.at
        if self.key is not None:
            return self.key.at
        if isinstance(self.node, Keys) and self.node.entries:
            return next(iter(self.node.entries.values()))[0].at
        return self.node.at


def adapter(kind: type[T]) -> TypeAdapter[T]:
    made: TypeAdapter[T] = _adapter(cast(Any, kind))
    return made


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def judge(root: Node, kind: type[T], source: Source) -> tuple[T | None, list[Problem]]:
    """The value, or None and every misfit. What hangs on a broken node is not complained about again."""
    if isinstance(root, Broken):
        return None, []
    if not isinstance(root, Keys):
        return None, [_no_mapping(root, kind, source)]
    value, errors = None, []
    try:
        value = adapter(kind).validate_json(json.dumps(plain(root)), strict=True, extra="forbid")
    except ValidationError as error:
        errors = [(one["loc"], one["type"], one.get("ctx", {})) for one in error.errors(include_url=False)]
    errors += [(loc, "literal_error", {}) for loc in _lookalikes(root, kind, ())]
    problems = _problems(errors, root, kind, source)
    return (None, problems) if problems else (value, [])


def _no_mapping(root: Scalar | Items, kind: type, source: Source) -> Problem:
    empty = isinstance(root, Scalar) and root.value is None
    what = "the file is empty" if empty else f"found {_found(root)} instead of keys"
    advice = f"it wants keys, as in 'key: value': {', '.join(required(kind))}"
    return source.problem("E108", what, root.at, advice=advice, excerpt=not empty)


def _lookalikes(node: Node, wants: Any, loc: Loc) -> Iterator[Loc]:
    """Places where true or 1.0 stands for the Literal 1: Python calls them equal, and so does pydantic."""
    if isinstance(node, Scalar):
        equal = [value for value in choices(wants) if value == node.value]
        if equal and all(type(value) is not type(node.value) for value in equal) and len(members(wants)) == 1:
            yield loc
    elif isinstance(node, Items):
        for index, item in enumerate(node.nodes):
            yield from _lookalikes(item, part_of(_narrow(wants, node), index), (*loc, index))
    elif isinstance(node, Keys):
        for key, (_, value) in node.entries.items():
            yield from _lookalikes(value, part_of(_narrow(wants, node), key), (*loc, key))


def _narrow(wants: Any, node: Node) -> Any:
    """The alternative that a list or a mapping was probably meant to be; for a single word all of them."""
    several = members(wants)
    if len(several) > 1 and isinstance(node, Keys):
        classes = [one for one in several if is_dataclass(bare(one)[0])]
        if classes:
            return max(classes, key=lambda one: _resemblance(bare(one)[0], node))
        return next((one for one in several if asks_for(one, dict)), wants)
    if len(several) > 1 and isinstance(node, Items):
        return next((one for one in several if asks_for(one, tuple, list)), wants)
    return wants


def _resemblance(kind: type, node: Keys) -> tuple[int, int]:
    """First the keys whose value only this class allows (`transport: ssh`), then the keys it knows."""
    shared = [(hints(kind)[key], value) for key, (_, value) in node.entries.items() if key in hints(kind)]
    told = sum(isinstance(value, Scalar) and value.value in choices(wants) for wants, value in shared)
    return told, len(shared)


def _locate(root: Node, kind: type, loc: Loc) -> _Spot | None:
    """The place that pydantic means by `loc`; None if it is broken, or if another alternative was meant."""
    spot = _Spot(loc=(), node=root, wants=kind)
    for part in loc:
        node = spot.node
        entries = node.entries if isinstance(node, Keys) else {}
        if part == THE_KEY and spot.key is not None and part not in entries:
            return replace(spot, of_key=True, wants=key_of(spot.inside.wants) if spot.inside else str)
        if len(members(spot.wants)) > 1:
            # pydantic puts the alternative's name between two places.
            chosen = _narrow(spot.wants, node)
            if not _is_named(chosen, str(part)):
                return None
            spot = replace(spot, wants=chosen)
        elif part in entries:
            key, value = entries[str(part)]
            spot = _Spot(
                loc=(*spot.loc, part), node=value, wants=part_of(spot.wants, part), key=key, inside=spot
            )
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.nodes):
            spot = _Spot(
                loc=(*spot.loc, part), node=node.nodes[part], wants=part_of(spot.wants, part), inside=spot
            )
        else:
            spot = replace(spot, missing=str(part))
            break
    return None if isinstance(spot.node, Broken) else spot


def _is_named(chosen: Any, name: str) -> bool:
    inner, _ = bare(chosen)
    if len(members(chosen)) > 1:
        return True
    return name.startswith((get_origin(inner) or inner).__name__)


def _problems(
    errors: list[tuple[Loc, str, dict[str, Any]]], root: Keys, kind: type, source: Source
) -> list[Problem]:
    """One problem for each mistake: a misspelt key is not missing as well."""
    spots = [(spot, what, ctx) for loc, what, ctx in errors if (spot := _locate(root, kind, loc))]
    misspelt = {
        (*spot.loc[:-1], meant)
        for spot, what, _ in spots
        if what == "unexpected_keyword_argument" and (meant := _meant(spot))
    }
    problems = []
    for spot, what, ctx in spots:
        if what == "unexpected_keyword_argument":
            problems.append(_unknown(spot, source))
        elif spot.missing is not None:
            complete = isinstance(spot.node, Keys) and not spot.node.incomplete
            if complete and (*spot.loc, spot.missing) not in misspelt:
                problems.append(_missing(spot, source))
        elif what in ("value_error", "assertion_error"):
            if is_whole(spot.node):
                problems.append(_contradiction(spot, str(ctx["error"]), source))
        elif not _is_echo(spot, what, ctx):
            problems.append(_bad_key(spot, source) if spot.of_key else _misfit(spot, source))
    return problems


def _is_echo(spot: _Spot, what: str, ctx: dict[str, Any]) -> bool:
    """pydantic counts only entries that fit, so a list whose entries are wrong is “too short” as well."""
    if what != "too_short":
        return False
    node = spot.node
    size = len(node.nodes) if isinstance(node, Items) else len(node.entries) if isinstance(node, Keys) else 0
    return size >= ctx["min_length"] or (isinstance(node, Keys) and node.incomplete)


def _where(loc: Loc) -> str:
    return f"{dotted(loc)}: " if loc else ""


def _home(spot: _Spot) -> Any:
    """The class whose key this is."""
    return bare(members(spot.inside.wants)[0])[0] if spot.inside else None


def _meant(spot: _Spot) -> str | None:
    """The key of the same mapping that was probably meant, if it is still free."""
    inside = spot.inside.node if spot.inside else None
    taken = inside.entries if isinstance(inside, Keys) else {}
    return near(str(spot.loc[-1]), [name for name in hints(_home(spot)) if name not in taken])


def _unknown(spot: _Spot, source: Source) -> Problem:
    meant = _meant(spot)
    advice = f"did you mean '{meant}'?" if meant else f"known keys: {', '.join(hints(_home(spot)))}"
    message = f"{_where(spot.loc[:-1])}unknown key {_quoted(str(spot.loc[-1]))}"
    return source.problem("E101", message, spot.key.at if spot.key else spot.at, advice=advice)


def _missing(spot: _Spot, source: Source) -> Problem:
    wants = says(part_of(spot.wants, spot.missing or ""))
    return source.problem(
        "E109",
        f"{_where(spot.loc)}missing key '{spot.missing}'",
        spot.at,
        advice=f"'{spot.missing}' wants {wants}",
        excerpt=bool(spot.loc),
    )


def _contradiction(spot: _Spot, said: str, source: Source) -> Problem:
    return source.problem("E110", f"{_where(spot.loc)}{said}", spot.at, excerpt=bool(spot.loc))


def _bad_key(spot: _Spot, source: Source) -> Problem:
    key = str(spot.loc[-1])
    known = [str(value) for value in choices(spot.wants)]
    if known:
        meant = near(key, known)
        advice = f"did you mean '{meant}'?" if meant else f"known keys: {', '.join(known)}"
        return source.problem(
            "E101", f"{_where(spot.loc[:-1])}unknown key {_quoted(key)}", spot.at, advice=advice
        )
    message = f"{_where(spot.loc[:-1])}a key wants {says(spot.wants)}, found {_quoted(key)}"
    return source.problem("E108", message, spot.at)


def _misfit(spot: _Spot, source: Source) -> Problem:
    code, advice = _advice(spot)
    message = f"{_where(spot.loc)}wants {says(spot.wants)}, found {_found(spot.node)}"
    return source.problem(code, message, spot.at, advice=advice)


def _advice(spot: _Spot) -> tuple[str, str | None]:
    """The code of a misfit, and what to write instead where that can be told."""
    node, wants = spot.node, spot.wants
    if isinstance(node, Scalar) and node.plain and isinstance(node.value, str):
        old = scalars.instead_of_bool(node.text) if asks_for(wants, bool) else None
        if old is None and asks_for(wants, int, float):
            old = scalars.instead_of_number(node.text)
        if old:
            return "E107", old
    return "E108", _advice_on_value(node, wants) if isinstance(node, Scalar) else _advice_on_shape(wants)


def _advice_on_value(node: Scalar, wants: Any) -> str | None:
    if isinstance(node.value, str):
        meant = near(node.text, [str(value) for value in choices(wants)])
        if meant:
            return f"did you mean '{meant}'?"
        unquoted = scalars.read(node.text)
        if not node.plain and isinstance(unquoted, bool | int | float):
            fits = bool if isinstance(unquoted, bool) else (int, float)
            if asks_for(wants, *(fits if isinstance(fits, tuple) else (fits,))):
                return f"write {node.text} without quotes"
    if isinstance(node.value, bool | int | float) and _takes_text(wants):
        return f'quote it: "{node.text}"'
    if isinstance(node.value, float) and node.value.is_integer() and asks_for(wants, int):
        return f"write {int(node.value)}"
    return _advice_on_shape(wants) if node.value is not None else None


def _takes_text(wants: Any) -> bool:
    return asks_for(wants, str) or any(isinstance(value, str) for value in choices(wants))


def _advice_on_shape(wants: Any) -> str | None:
    if asks_for(wants, tuple, list):
        return "start each entry with '- ', or write [one, two]"
    return None


def _found(node: Node) -> str:
    if isinstance(node, Items):
        return "a list" if node.nodes else "an empty list"
    if isinstance(node, Keys):
        return "a mapping" if node.entries else "an empty mapping"
    if not isinstance(node, Scalar) or (node.value is None and not node.text):
        return "nothing"
    if not isinstance(node.value, str):
        return node.text
    return f"text {_quoted(node.text)}" if node.text else "empty text"


def _quoted(text: str) -> str:
    """On one line and not longer than a person compares."""
    line = " ".join(text.split())
    return f"'{line if len(line) <= 60 else line[:59] + '…'}'"
