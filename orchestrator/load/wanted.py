"""What a type asks for, in words, and the way from a type to the types of its parts."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen

from orchestrator.text import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@lru_cache
def hints(kind: type) -> dict[str, Any]:
    """A dataclass's fields with their types, resolved."""
    resolved = get_type_hints(kind, include_extras=True)
    return {part.name: resolved[part.name] for part in fields(kind) if part.init}


def required(kind: type) -> list[str]:
    return [
        part.name
        for part in fields(kind)
        if part.init and part.default is MISSING and part.default_factory is MISSING
    ]


def bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without its Annotated, and what that said."""
    if get_origin(annotation) is Annotated:
        inner, said = bare(annotation.__origin__)
        return inner, (*said, *annotation.__metadata__)
    return annotation, ()


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type, None left out: `int | None` has one."""
    inner, said = bare(annotation)
    if get_origin(inner) in (Union, UnionType):
        return tuple(member for member in get_args(inner) if member is not NoneType)
    return (annotation if said else inner,)


def part_of(annotation: Any, part: str | int) -> Any:
    """The type of an entry or item; None where the type knows no such part."""
    for member in members(annotation):
        inner, _ = bare(member)
        arguments = get_args(inner)
        if is_dataclass(inner) and isinstance(inner, type):
            return hints(inner).get(str(part))
        if get_origin(inner) is dict:
            return arguments[1]
        if get_origin(inner) in (tuple, list):
            several = get_origin(inner) is tuple and Ellipsis not in arguments
            return arguments[int(part) if several and int(part) < len(arguments) else 0]
    return None


def key_of(annotation: Any) -> Any:
    """The type of a dict's keys."""
    return next((get_args(bare(m)[0])[0] for m in members(annotation) if get_origin(bare(m)[0]) is dict), str)


def choices(annotation: Any) -> list[Any]:
    """The values of a Literal, of every alternative."""
    inners = [bare(member)[0] for member in members(annotation)]
    return [value for inner in inners if get_origin(inner) is Literal for value in get_args(inner)]


def asks_for(annotation: Any, *kinds: type) -> bool:
    """Whether one of `kinds` is an alternative of the type."""
    return any((get_origin(bare(m)[0]) or bare(m)[0]) in kinds for m in members(annotation))


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    plain = {_folded(one): one for one in known}
    close = get_close_matches(_folded(word), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def _folded(word: str) -> str:
    return word[:100].lower().replace("-", "_").replace(" ", "_")


def says(annotation: Any) -> str:
    """What the type asks for, to be read after “wants”."""
    inner, _ = bare(annotation)
    alternatives = [_says_one(member) for member in members(annotation)]
    if get_origin(inner) in (Union, UnionType) and NoneType in get_args(inner):
        alternatives.append("null")
    return " or ".join(dict.fromkeys(alternatives))


def _says_one(annotation: Any) -> str:
    inner, said = bare(annotation)
    origin = get_origin(inner) or inner
    if origin is Literal:
        values = get_args(inner)
        return f"one of {', '.join(map(str, values))}" if len(values) > 1 else repr(values[0])
    if is_dataclass(inner) and isinstance(inner, type):
        keys = required(inner) or list(hints(inner))
        return f"a mapping with {', '.join(keys)}"
    if origin is bool:
        return "true or false"
    if origin in (int, float):
        return f"a {'whole ' if origin is int else ''}number{_bounds(said)}"
    if origin is str:
        pattern = next((one.says for one in said if isinstance(one, Pattern)), None)
        return pattern or f"text{_length(said, 'character')}"
    if origin in (tuple, list):
        return f"a list{_length(said, 'entry')}"
    if origin is dict:
        return f"a mapping{_length(said, 'key')}"
    return getattr(inner, "__name__", str(inner))


def _flat(said: tuple[Any, ...]) -> Iterator[Any]:
    """annotated_types writes some limits as groups of others."""
    for one in said:
        if isinstance(one, Interval | Len):
            yield from _flat(tuple(one))
        else:
            yield one


def _bounds(said: tuple[Any, ...]) -> str:
    limits = {type(one): one for one in _flat(said)}
    if Ge in limits and Le in limits:
        return f" from {limits[Ge].ge} to {limits[Le].le}"
    words = []
    if Ge in limits:
        words.append(f"at least {limits[Ge].ge}")
    if Gt in limits:
        words.append(f"greater than {limits[Gt].gt}")
    if Le in limits:
        words.append(f"at most {limits[Le].le}")
    if Lt in limits:
        words.append(f"less than {limits[Lt].lt}")
    return f", {' and '.join(words)}" if words else ""


def _length(said: tuple[Any, ...], unit: str) -> str:
    limits = {type(one): one for one in _flat(said)}
    words = []
    if MinLen in limits:
        words.append(f"at least {_counted(limits[MinLen].min_length, unit)}")
    if MaxLen in limits:
        words.append(f"at most {_counted(limits[MaxLen].max_length, unit)}")
    return f" of {' and '.join(words)}" if words else ""


def _counted(number: int, unit: str) -> str:
    plural = unit.removesuffix("y") + "ies" if unit == "entry" else unit + "s"
    return f"{number} {unit if number == 1 else plural}"
