"""One LLaVA JSON file → its conversations, one at a time: the file of finetune is a gigabyte.

The file is one array of objects {"id", "image" (absent: text only), "conversations": [{"from", "value"}, …]}.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_CHARS = 1024 * 1024
#: No conversation is longer; a file that never closes a bracket must not fill the memory.
MAX_ITEM_CHARS = 16 * 1024 * 1024
PLACEHOLDER = "<image>"
_SPACE = re.compile(r"[ \t\r\n]*")
#: What may stand in an image's name: no control character (it would break the list), no backslash, which
#: sha256sum escapes.
_IMAGE_NAME = re.compile(r"[^\x00-\x1f\x7f\\]{1,400}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """`number` counts from 0 in the file; `turns` are (role, text), human and gpt in turn, human first.
    `image` is the name below the folder of images.
    """

    number: int
    image: str | None
    turns: tuple[tuple[str, str], ...]

    @property
    def words(self) -> int:
        """LLaVA's measure of length when it groups by modality: words as split() finds them, placeholder
        included, negative for text alone.
        """
        count = max(1, sum(len(text.split()) for _, text in self.turns))
        return count if self.image is not None else -count


class MisfitError(ValueError):
    """An item that is no conversation, or not one of its stage."""


def read(path: Path) -> Iterator[Conversation | Problem]:
    """Every item in order: the conversation, or the Problem (E719) of one that is none.

    Raises ConfigError (E718) when the file is not such an array.
    """
    for number, item in enumerate(items(path)):
        try:
            yield conversation(item, number=number)
        except MisfitError as error:
            yield misfit(path, number, str(error))


def misfit(path: Path, number: int, message: str) -> Problem:
    return Problem(code="E719", file=str(path), message=f"sample {number}: {message}")


def conversation(item: Any, *, number: int) -> Conversation:
    """The typed value of one item. Raises MisfitError."""
    if not isinstance(item, dict):
        raise MisfitError("not an object")
    image = item.get("image")
    if image is not None and not (isinstance(image, str) and is_image_name(image)):
        raise MisfitError(f"image {ascii(image)[:80]} is no file name below the folder of images")
    turns = _turns(item.get("conversations"))
    with_image = sum(PLACEHOLDER in text for _, text in turns)
    if image is not None and with_image != 1:
        raise MisfitError(f"one image, but {with_image} turns have {PLACEHOLDER}")
    return Conversation(number=number, image=image, turns=turns)


def is_image_name(name: str) -> bool:
    """A plain relative path that cannot leave its folder."""
    return bool(_IMAGE_NAME.fullmatch(name)) and all(part not in {"", ".", ".."} for part in name.split("/"))


def _turns(found: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, list) or not found:
        raise MisfitError('no "conversations"')
    turns = []
    for turn in found:
        role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if role not in {"human", "gpt"} or not isinstance(text, str):
            raise MisfitError('a turn is not {"from": "human" or "gpt", "value": text}')
        turns.append((str(role), text))
    if turns[0][0] == "gpt":
        del turns[0]  # as LLaVA does: such samples begin in the middle of a talk
    if not turns or any(role != ("human", "gpt")[at % 2] for at, (role, _) in enumerate(turns)):
        raise MisfitError("human and gpt do not take turns")
    return tuple(turns)


def items(path: Path) -> Iterator[Any]:
    """The elements of one JSON array, decoded one by one. Raises ConfigError (E718)."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Array(file.read).items()
    except OSError as error:
        raise ConfigError(_unreadable(path, error.strerror or "cannot be read")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(_unreadable(path, f"not UTF-8: {error.reason}")) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(_unreadable(path, str(error))) from error


def _unreadable(path: Path, message: str) -> Problem:
    return Problem(
        code="E718",
        file=str(path),
        message=f"not an array of conversations: {message}",
        help="the file is incomplete or another one: fetch it again",
    )


class _Array:
    """A window over a long JSON array: at most one item and one chunk are held."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self._text = ""
        self._at = 0
        self._gone = 0
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[Any]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
        else:
            yield self._item()
            while self._peek() == ",":
                self._at += 1
                self._peek()
                yield self._item()
            self._expect("]")
        if self._peek():
            raise ValueError(f"more text after its end, at character {self._gone + self._at}")

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, char: str) -> None:
        found = self._peek()
        if found != char:
            raise ValueError(f"{char!r} expected at character {self._gone + self._at}, found {found!r}")
        self._at += 1

    def _item(self) -> Any:
        if self._peek() != "{":
            # Of everything else JSON has, a part can look like a whole: 12 of 123.
            raise ValueError(f"an object expected at character {self._gone + self._at}")
        wanted = READ_CHARS
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return value
            except ValueError:
                # Twice as much each time, or a long item would be decoded from its start once a chunk.
                if not self._more(wanted):
                    raise ValueError(
                        f"the object at character {self._gone + self._at} is broken or never ends"
                    ) from None
                wanted *= 2
                if len(self._text) - self._at > MAX_ITEM_CHARS:
                    raise ValueError(
                        f"the object at character {self._gone + self._at} is broken or longer than "
                        f"{MAX_ITEM_CHARS} characters"
                    ) from None

    def _more(self, wanted: int = READ_CHARS) -> bool:
        chunk = self._read(wanted)
        self._gone += self._at
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return bool(chunk)
