"""YAML text → a tree of nodes that know where they stand. Only home of PyYAML.

The tree is made from PyYAML's events, without its composer: that one recurses and expands aliases. What is
refused here is refused once: a `Broken` node is silent in everything that follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from orchestrator.errors import ConfigError, Problem
from orchestrator.load import scalars
from orchestrator.load.source import MAX_PROBLEMS, Source, Span

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 32
MAX_VALUES = 20_000
#: Control characters that no text in a config needs, however they were escaped; tab and line breaks are text.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

#: What `nx8 init` writes for a value that it cannot know.
CHANGEME = "<changeme>"

#: libyaml's parser where PyYAML has it, the same grammar in Python elsewhere.
Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, kw_only=True)
class Scalar:
    """One value; `text` as written, without its quotes, and `plain` if it had none."""

    at: Span
    value: scalars.Value
    text: str
    plain: bool


@dataclass(slots=True, kw_only=True)
class Items:
    at: Span
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Keys:
    """A mapping. `incomplete`: it has keys that could not be read, so none can be called missing."""

    at: Span
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    incomplete: bool = False


@dataclass(slots=True, kw_only=True)
class Broken:
    """Stands for something already reported."""

    at: Span


Node = Scalar | Items | Keys | Broken


def compose(source: Source) -> tuple[Node, list[Problem]]:
    """The tree of a file and what YAML itself or our narrowing of it refuses.

    Raises ConfigError when no tree can be made (E103 not YAML, E106 too deep or too many values), or when
    more was refused than a person reads at once.
    """
    composer = _Composer(source)
    for event in _events(source, composer.problems):
        composer.take(event)
    return composer.root or Scalar(at=Span(1, 1, 1, 1), value=None, text="", plain=True), composer.problems


def plain(node: Node) -> Any:
    """The tree as JSON can carry it; what is broken is null."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [plain(item) for item in node.nodes]
    if isinstance(node, Keys):
        return {key: plain(value) for key, (_, value) in node.entries.items()}
    return None


def is_whole(node: Node) -> bool:
    """Whether nothing in this tree was refused."""
    if isinstance(node, Items):
        return all(is_whole(item) for item in node.nodes)
    if isinstance(node, Keys):
        return not node.incomplete and all(is_whole(value) for _, value in node.entries.values())
    return isinstance(node, Scalar)


class _Composer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._open: list[Items | Keys] = []
        #: For each open mapping the key that waits for its value.
        self._waiting: list[Node | None] = []
        self._documents = 0
        self._values = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._place(self._scalar(event), _span(event))
        elif isinstance(event, yaml.AliasEvent):
            at = _span(event)
            if not self._is_merged():
                self._refuse("E105", f"*{event.anchor}: aliases are not read here", at, "write the value out")
            self._place(Broken(at=at), at)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self._start_collection(event)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._open.pop()
            self._waiting.pop()

    def _is_merged(self) -> bool:
        """Whether the next node is what a merge key takes in: that key is refused already."""
        key = self._waiting[-1] if self._waiting else None
        return isinstance(key, Scalar) and key.plain and key.text == "<<"

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        at = self.source.token(_span(event))
        if self._documents > 1:
            self._stop("E103", "a second document starts here", at, "keep one; a file holds one document")
        if event.version or event.tags:
            self._refuse("E105", "directives (%) are not read here", at, "remove the line")

    def _start_collection(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        at = _span(event)
        # Only the first character is known to belong to it: the end has not been read yet.
        at = Span(at.line, at.column, at.line, at.column + 1)
        if len(self._open) >= MAX_DEPTH:
            self._stop("E106", f"nested deeper than {MAX_DEPTH}", at, "is a bracket never closed?")
        self._properties(event)
        node = Items(at=at) if isinstance(event, yaml.SequenceStartEvent) else Keys(at=at)
        self._place(node, at)
        self._open.append(node)
        self._waiting.append(None)

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        at = _span(event)
        text = event.value
        is_plain = not event.style
        if not self._properties(event):
            return Broken(at=at)
        value = scalars.read(text) if is_plain else text
        if isinstance(value, scalars.Refused):
            self._refuse("E107", value.message, at, value.advice)
            return Broken(at=at)
        hidden = CONTROL.search(text)
        if hidden:
            self._refuse("E108", f"holds the control character U+{ord(hidden.group()):04X}", at, "remove it")
            return Broken(at=at)
        if text == CHANGEME:
            self._refuse(
                "E220", f"{CHANGEME} still stands here", at, "the line's comment says what belongs here"
            )
            return Broken(at=at)
        return Scalar(at=at, value=value, text=text, plain=is_plain)

    def _properties(self, event: yaml.NodeEvent) -> bool:
        """Refuses an anchor or a tag; whether the value can still be read."""
        tag = getattr(event, "tag", None)
        at = self.source.token(_span(event))
        if event.anchor is not None:
            self._refuse(
                "E105", f"&{event.anchor}: anchors are not read here", at, "remove it, and write values out"
            )
        if tag is not None:
            written = tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse("E105", f"{written}: tags are not read here", at, "remove it; quote what is text")
        return tag is None

    def _place(self, node: Node, at: Span) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            self._stop("E106", f"more than {MAX_VALUES} values", at, "is this the right file?")
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent, Items):
            parent.nodes.append(node)
        elif (key := self._waiting[-1]) is None:
            self._waiting[-1] = node
        else:
            self._waiting[-1] = None
            self._enter(parent, key, node)

    def _enter(self, mapping: Keys, key: Node, value: Node) -> None:
        if not isinstance(key, Scalar):
            mapping.incomplete = True
            if not isinstance(key, Broken):
                self._refuse("E108", "a key must be text, not a list or a mapping", key.at, "write one word")
        elif key.plain and key.text == "<<":
            mapping.incomplete = True
            self._refuse("E105", "merge keys (<<) are not read here", key.at, "write the keys out")
        elif not isinstance(key.value, str):
            mapping.incomplete = True
            what = key.text or "nothing"
            self._refuse("E108", f"a key must be text, found {what}", key.at, f'quote it: "{key.text}"')
        elif key.value in mapping.entries:
            first = mapping.entries[key.value][0].at.line
            message = f"duplicate key '{key.value}', first set on line {first}"
            self._refuse("E104", message, key.at, "keep one of the two")
        else:
            mapping.entries[key.value] = (key, value)

    def _refuse(self, code: str, message: str, at: Span, advice: str) -> None:
        self.problems.append(self.source.problem(code, message, at, advice=advice))
        if len(self.problems) > MAX_PROBLEMS:
            raise ConfigError(self.source.listed(self.problems))

    def _stop(self, code: str, message: str, at: Span, advice: str) -> NoReturn:
        self._refuse(code, message, at, advice)
        raise ConfigError(self.source.listed(self.problems))


def _span(event: yaml.Event) -> Span:
    start, end = event.start_mark, event.end_mark
    assert start is not None
    assert end is not None
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _events(source: Source, problems: list[Problem]) -> Iterator[yaml.Event]:
    """PyYAML's events; its errors become ours, after the problems found so far."""
    # Only the parser's own steps are guarded: an error of ours must stay one.
    steps = yaml.parse(source.text, Loader=Parser)
    at = Span(1, 1, 1, 1)
    while True:
        try:
            event = next(steps)
        except StopIteration:
            return
        except yaml.MarkedYAMLError as error:
            raise ConfigError(source.listed([*problems, _syntax(source, error)])) from error
        except Exception as error:
            # On bad input PyYAML also raises ValueError, IndexError and others.
            odd = source.problem("E103", f"cannot be read as YAML: {error}", at, excerpt=False)
            raise ConfigError(source.listed([*problems, odd])) from error
        at = _span(event)
        yield event


@dataclass(frozen=True, slots=True)
class _Said:
    """Our words for what the parser says; `opened`: the place to look at is where the thing began."""

    theirs: str
    ours: str
    advice: str
    opened: bool = False


_SAYINGS = (
    _Said(
        "mapping values are not allowed",
        "a ':' where no key can stand",
        "check the indentation, or quote text that holds ': '",
    ),
    _Said("could not find expected ':'", "a line without ':'", "write 'key: value'", opened=True),
    _Said(
        "unexpected end of stream", "a quote that is never closed", "close it on the same line", opened=True
    ),
    _Said("',' or ']'", "a '[' that is not closed", "separate with ',' and close with ']'", opened=True),
    _Said("',' or '}'", "a '{' that is not closed", "separate with ',' and close with '}'", opened=True),
    _Said("unknown escape", 'an escape that YAML does not know in a "…" text', "use '…', or double the \\"),
    _Said("Unicode character escape", "an escape for no character", "write the character itself"),
    _Said("'-' indicator", "a key where the list above goes on", "check the indentation"),
    _Said("expected <block end>", "this does not fit the lines above", "check the indentation and quotes"),
    _Said(
        "did not find expected key", "this does not fit the lines above", "check the indentation and quotes"
    ),
    _Said("<document start>", "this does not fit the lines above", "check the indentation"),
    _Said("node content", "a value is missing before this", "remove it, or write the value"),
    _Said("cannot start any token", "no value can start with this character", "quote the text"),
    _Said("alphabetic or numeric", "'*' and '&' start aliases and anchors", "quote the text"),
)


def _syntax(source: Source, error: yaml.MarkedYAMLError) -> Problem:
    theirs = error.problem or error.context or "not YAML"
    said = next((said for said in _SAYINGS if said.theirs in theirs), None)
    mark = error.problem_mark or error.context_mark
    if said and said.opened and error.context_mark:
        mark = error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    at = Span(line, column, line, column + 1)
    text = source.lines[line - 1] if line <= len(source.lines) else ""
    if ("cannot start any token" in theirs or "tab character" in theirs) and "\t" in text[: column + 1]:
        return source.problem("E103", "a tab in the indentation", at, advice="YAML indents with spaces only")
    if said is None:
        return source.problem("E103", f"not YAML: {theirs}", at)
    return source.problem("E103", said.ours, at, advice=said.advice)
