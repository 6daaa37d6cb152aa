"""JSON of the contract, read strictly: one object, no repeated key, no NaN, known keys of their types."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NoReturn

from orchestrator.parse.visible import encodable, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Any integer that a float can hold: larger ones are no count of anything and would overflow the arithmetic.
MAX_INTEGER = 10**300
MAX_TEXT_CHARS = 65536


class Misread(Exception):  # noqa: N818 - a finding about a line, which never leaves the readers
    """Why these bytes are not what the contract says. Raised and caught inside the readers."""


def strict_object(data: bytes) -> Fields:
    """The JSON object in `data`. Raises Misread for anything else, NaN and repeated keys included."""
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_without_repeats
        )
    except UnicodeDecodeError as error:
        raise Misread(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Misread(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        # Python refuses to read integers beyond 4300 digits.
        raise Misread("a number with too many digits") from None
    except RecursionError:
        raise Misread("nested too deeply") from None
    if not isinstance(value, dict):
        raise Misread(f"not a JSON object but {_kind(value)}")
    return Fields(value)


class Fields:
    """The keys of one JSON object, read by type. A method raises Misread when the value is missing or of
    another type.

    A bool is no integer; an integer is a number; the `optional_` readers take null and a missing key as None.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def value(self, key: str) -> object:
        """As it stands, whatever its type; None when missing."""
        return self._values.get(key)

    def integer(self, key: str) -> int:
        value = self._present(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Misread(f"{key} is {_kind(value)}, not an integer")
        if abs(value) > MAX_INTEGER:
            raise Misread(f"{key} is an integer beyond 1e300")
        return value

    def number(self, key: str) -> float:
        value = self._present(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Misread(f"{key} is {_kind(value)}, not a number")
        if abs(value) > MAX_INTEGER or not math.isfinite(value):
            raise Misread(f"{key} is not a finite number below 1e300")
        return float(value)

    def text(self, key: str, *, limit: int = MAX_TEXT_CHARS) -> str:
        value = self._present(key)
        if not isinstance(value, str):
            raise Misread(f"{key} is {_kind(value)}, not a string")
        return encodable(value[:limit])

    def flag(self, key: str) -> bool:
        value = self._present(key)
        if not isinstance(value, bool):
            raise Misread(f"{key} is {_kind(value)}, not true or false")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self._values.get(key) is None else self.integer(key)

    def optional_number(self, key: str) -> float | None:
        return None if self._values.get(key) is None else self.number(key)

    def optional_text(self, key: str, *, limit: int = MAX_TEXT_CHARS) -> str | None:
        return None if self._values.get(key) is None else self.text(key, limit=limit)

    def optional_flag(self, key: str) -> bool | None:
        return None if self._values.get(key) is None else self.flag(key)

    def texts(self, key: str, *, most: int = 100) -> tuple[tuple[str, str | None], ...]:
        """An object of strings and nulls as (name, text) pairs in its own order, the first `most` of them."""
        fields = self.inner(key)
        return tuple(
            (encodable(name[:200]), fields.optional_text(name, limit=200))
            for name in list(fields._values)[:most]
        )

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._present(key)
        plain = isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) and abs(item) <= MAX_INTEGER
            for item in value
        )
        if not plain:
            raise Misread(f"{key} is {_kind(value)}, not a list of integers")
        return tuple(value)  # type: ignore[arg-type]

    def strings(self, key: str, *, limit: int = MAX_TEXT_CHARS) -> tuple[str, ...]:
        value = self._present(key)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise Misread(f"{key} is {_kind(value)}, not a list of strings")
        return tuple(encodable(item[:limit]) for item in value)

    def objects(self, key: str) -> tuple[Fields, ...]:
        value = self._present(key)
        # A tuple is what a list was before it was ever written.
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            raise Misread(f"{key} is {_kind(value)}, not a list of objects")
        return tuple(Fields(item) for item in value)

    def inner(self, key: str) -> Fields:
        value = self._present(key)
        if not isinstance(value, dict):
            raise Misread(f"{key} is {_kind(value)}, not an object")
        return Fields(value)

    def _present(self, key: str) -> object:
        if key not in self._values:
            raise Misread(f"{key} is missing")
        return self._values[key]


def _refuse_constant(constant: str) -> NoReturn:
    raise Misread(f"{constant} is no JSON number")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    raise Misread(f"the key {visible(repeated, limit=60)!r} twice")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
