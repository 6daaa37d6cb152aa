"""A text in both languages."""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["zh", "en"]


class Message(NamedTuple):
    zh: str
    en: str
