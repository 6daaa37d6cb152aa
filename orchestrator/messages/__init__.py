"""Every word of reports and of what is said about many runs, in Chinese and English, by key. A test holds
that both have the same placeholders.

report.py, operating.py  words by key      sentences.py  our own sentences as results hold them

Names of metrics and files and what programs said stay as they are in both: they are looked up word for word.
Sentences of ours that results hold in English are put into Chinese by `translated`; whatever is not ours is
marked as the original text.
"""

from __future__ import annotations

import re
from functools import cache

from orchestrator.messages.message import Language, Message
from orchestrator.messages.operating import OPERATING
from orchestrator.messages.report import REPORT
from orchestrator.messages.sentences import SENTENCES

__all__ = [
    "MESSAGES",
    "SENTENCES",
    "Language",
    "Message",
    "nodes_text",
    "proof_text",
    "reason_text",
    "say",
    "translated",
    "words",
]

MESSAGES: dict[str, Message] = {**REPORT, **OPERATING}

_NODES_ZH = ("单", "两", "三", "四", "五", "六", "七", "八", "九", "十")


def say(key: str, language: Language, /, **values: object) -> str:
    """The message `key` in `language`. Values go in as they are: writers of a format escape the whole."""
    message = MESSAGES[key]
    return (message.zh if language == "zh" else message.en).format(**values)


def words(key: str, /, **values: object) -> Message:
    """The message `key` in both languages; a value that is a Message goes in by its own language."""

    def of(language: Language) -> str:
        own = {
            name: (value.zh if language == "zh" else value.en) if isinstance(value, Message) else value
            for name, value in values.items()
        }
        return say(key, language, **own)

    return Message(of("zh"), of("en"))


def nodes_text(num_nodes: int, language: Language) -> str:
    """The node count of 配置: 单机, 两机, … 十机, 11机; in English the digits."""
    if language == "en":
        return str(num_nodes)
    return f"{_NODES_ZH[num_nodes - 1] if 1 <= num_nodes <= 10 else num_nodes}机"


#: Longer texts than any sentence of ours are not looked at.
MAX_SENTENCE = 2000
#: How many sentences may stand inside one another.
MAX_DEPTH = 5
_WHERE = r"(?:, (?:after step \d+|before any record|before its first step|before it was ready))"


def translated(text: str, language: Language) -> str:
    """One of our own sentences in `language`; any other text as it is, in Chinese marked as the original."""
    return text if language == "en" else _chinese(text, depth=0)


def proof_text(name: str, language: Language) -> str:
    """The name of a proof, in Chinese with what it says; one that is not known as it is."""
    key = f"proves.{name}"
    return say("proof.named", language, label=say(key, language), name=name) if key in MESSAGES else name


def reason_text(reason: str, language: Language) -> str:
    """A verdict's reason: a proof that does not hold, or one of our sentences."""
    name, colon, detail = reason.partition(": ")
    key = f"proves.{name}"
    if not colon or key not in MESSAGES:
        return translated(reason, language)
    label = say(key, language)
    return say("proof.broken", language, label=label, name=name, detail=translated(detail, language))


def _chinese(text: str, *, depth: int) -> str:
    found = None
    if len(text) <= MAX_SENTENCE and depth < MAX_DEPTH:
        matches = ((pattern.fullmatch(text), message) for pattern, message in _patterns())
        found = next(((match, message) for match, message in matches if match), None)
    if found is None:
        return say("original", "zh", text=text)
    match, message = found
    values = {
        key: _chinese(value, depth=depth + 1) if value and key in ("why", "where") else value or ""
        for key, value in match.groupdict().items()
    }
    return message.zh.format(**values)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Message], ...]:
    """Each sentence as an expression: what stands between its words is anything on one line."""
    found = []
    for message in SENTENCES:
        parts = re.split(r"\{(\w+)\}", message.en)
        text = "".join(
            re.escape(part)
            if n % 2 == 0
            else f"(?P<{part}>{_WHERE})?"
            if part == "where"
            else f"(?P<{part}>.+?)"
            for n, part in enumerate(parts)
        )
        found.append((re.compile(text), message))
    return tuple(found)
