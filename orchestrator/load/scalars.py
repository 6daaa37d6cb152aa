"""What a bare word in a YAML file means: YAML 1.2's core schema, less what versions read differently.

YAML 1.1, which most tools still speak, reads `no` as false, 010 as eight, 12:30 as 750, 1_000 as 1000. Here
`no`, 12:30 and 1_000 are text, as YAML 1.2 says, and 010, where the two give different numbers, is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]+")
HEX = re.compile(r"0x[0-9a-fA-F]+")
OCTAL = re.compile(r"0o[0-7]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LONGEST_NUMBER = 64

#: Text in YAML 1.2 that YAML 1.1 reads as something else.
OLD_BOOLS = dict.fromkeys(("yes", "on", "y"), "true") | dict.fromkeys(("no", "off", "n"), "false")
OLD_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+")
OLD_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
OLD_BINARY = re.compile(r"[-+]?0b[01_]+")
OLD_SIGNED_HEX = re.compile(r"[-+]0x[0-9a-fA-F]+|0x[0-9a-fA-F_]+")
OLD_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*")

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A bare word with no one meaning: what is wrong and what to write."""

    message: str
    advice: str


def read(text: str) -> Value | Refused:
    """The value of a plain (unquoted) scalar."""
    if text in NULLS:
        return None
    if text in BOOLS:
        return BOOLS[text]
    if NOT_FINITE.fullmatch(text):
        return Refused(
            f"{text} is no number that a file here can mean", f'write a finite number, or "{text}"'
        )
    if OCTAL.fullmatch(text):
        return _octal(text)
    if INT.fullmatch(text) or HEX.fullmatch(text):
        return _whole(text)
    if FLOAT.fullmatch(text):
        return _real(text)
    return text


def _octal(text: str) -> Refused:
    number = int(text, 8) if len(text) <= LONGEST_NUMBER else None
    meant = f" for {number}" if number is not None else ""
    write = f'write {number} or "{text}"' if number is not None else f'write "{_short(text)}"'
    return Refused(f"{_short(text)} is YAML 1.2's octal{meant} and text in YAML 1.1", write)


def _whole(text: str) -> int | Refused:
    if len(text) > LONGEST_NUMBER:
        return _too_long(text)
    digits = text.lstrip("+-")
    if not text.startswith("0x") and len(digits) > 1 and digits[0] == "0":
        sign = "-" if text[0] == "-" else ""
        plain = f"{sign}{digits.lstrip('0') or '0'}"
        return Refused(
            f"{text} has a leading zero: YAML 1.1 reads it as octal, YAML 1.2 as decimal",
            f'write {plain} or "{text}"',
        )
    number = int(text, 16 if text.startswith("0x") else 10)
    return number if abs(number) < 2**63 else _too_long(text)


def _real(text: str) -> float | Refused:
    number = float(text) if len(text) <= LONGEST_NUMBER else math.inf
    return number if math.isfinite(number) else _too_long(text)


def _too_long(text: str) -> Refused:
    return Refused(f"{_short(text)} is beyond what 64 bits hold", "write a smaller number, or quote it")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def instead_of_bool(text: str) -> str | None:
    """What to write where true or false is asked and plain `text` was found; None if nobody can know."""
    meant = OLD_BOOLS.get(text.lower())
    return f"YAML 1.2 reads a bare {text} as text: write {meant}" if meant else None


def instead_of_number(text: str) -> str | None:
    """What to write where a number is asked and plain `text` was found; None if nobody can know."""
    if len(text) > LONGEST_NUMBER:
        return None
    bare = text.replace("_", "")
    if OLD_SEXAGESIMAL.fullmatch(text):
        return f"YAML 1.2 reads {text} as text, YAML 1.1 in base 60: write {_sexagesimal(bare)}"
    if OLD_BINARY.fullmatch(text):
        return f"YAML 1.2 reads {text} as text, YAML 1.1 as binary: write {int(bare, 2)}"
    if OLD_SIGNED_HEX.fullmatch(text) and bare.lstrip("+-") != "0x":
        return f"YAML 1.2 reads {text} as text: write {int(bare, 16)}"
    if "_" in text and OLD_UNDERSCORES.fullmatch(text):
        return f"YAML 1.2 reads {text} as text: write {bare}"
    if OLD_DATE.fullmatch(text):
        return f"YAML 1.2 reads {text} as text, YAML 1.1 as a date: write a number"
    if isinstance(read(text.replace(",", "")), int | float) and "," in text:
        return f"{text} is text: write {text.replace(',', '')}"
    return None


def _sexagesimal(text: str) -> int:
    total = 0
    for digits in text.lstrip("+-").split(":"):
        total = total * 60 + int(digits)
    return -total if text[0] == "-" else total
