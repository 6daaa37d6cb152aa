"""String types shared by what people write: names that are safe in a path, a label and a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, slots=True)
class Pattern:
    """Marks a string type with the regular expression it must match; pydantic, in load.py, enforces it.

    Its engine is linear (Rust's regex), so no input can make a match slow.
    """

    regex: str
    says: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return {**handler(source), "pattern": self.regex}


#: A name of ours: it becomes a folder, a container label and a table cell, so it may hold neither
#: separators nor spaces.
Name = Annotated[
    str, Pattern(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", "letters, digits, '.', '_' and '-', 63 at most")
]
#: An environment variable's name.
EnvName = Annotated[str, Pattern(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", "the name of an environment variable")]
#: A dotted Python module.
ModuleName = Annotated[
    str, Pattern(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", "the dotted name of a Python module")
]
#: One line of words for people: no control characters, so that it can neither draw on a terminal nor add a
#: line to a file.
Line = Annotated[
    str, Pattern(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,400}$", "one line of text, 400 characters at most")
]
