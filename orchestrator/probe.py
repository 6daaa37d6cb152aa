"""A vendor's probe output → samples, and samples → that output again for stand-ins. Pure; no vendor is named:
how an output is read stands in its vendor.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.linear import compiled
from orchestrator.vendors import BlockParser, CsvParser, TableParser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.vendors import Column, Probe

#: More than any tool prints; what is beyond is not read, and counted.
MAX_BYTES = 1024 * 1024
MAX_LINE = 1000
MAX_DEVICES = 256
#: Unread lines that are kept, to be looked at.
MAX_KEPT = 5

#: unit → how many of ours one is: °C, W, bytes, a fraction.
FACTORS = {
    "C": 1.0,
    "W": 1.0,
    "mW": 1e-3,
    "B": 1.0,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
    "GiB": 1024.0**3,
    "percent": 1e-2,
    "percent_of_capacity": 1e-2,
    "fraction": 1.0,
}
NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
PLACE = re.compile(
    r"\{(index|temperature|power|memory_used|memory_total|utilisation)(?::([<>])([0-9]{1,2}))?\}"
)
#: field of a sample → the quantity it is read from
QUANTITY_OF = {
    "temperature_c": "temperature",
    "power_w": "power",
    "memory_used_bytes": "memory_used",
    "memory_total_bytes": "memory_total",
    "utilisation": "utilisation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One device at one time; None is what its tool did not say. `utilisation` is a fraction."""

    index: int
    temperature_c: float | None = None
    power_w: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilisation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one output said, by device, and what of it was not understood."""

    samples: tuple[Sample, ...]
    num_unread: int
    unread: tuple[str, ...]


def read_probe(raw: bytes, probe: Probe, *, capacity_bytes: int | None = None) -> Reading:
    """The samples of one output. `capacity_bytes` is a device's memory, for tools that say only how full it
    is. Never raises: what does not fit is counted and kept.
    """
    unread = _Unread()
    if len(raw) > MAX_BYTES:
        unread.add(f"{len(raw) - MAX_BYTES} bytes beyond the first {MAX_BYTES}")
    text = raw[:MAX_BYTES].decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    kept = []
    for line in lines:
        if len(line) > MAX_LINE:
            unread.add(line)
        elif line:
            kept.append(line)
    samples: dict[int, Sample] = {}
    for ordinal, found in enumerate(_found(kept, probe, unread)):
        sample = _sample(found, ordinal, probe, unread, capacity_bytes)
        if sample is None:
            continue
        if sample.index in samples or len(samples) >= MAX_DEVICES:
            unread.add(f"device {sample.index} once more")
        else:
            samples[sample.index] = sample
    return Reading(
        samples=tuple(samples[index] for index in sorted(samples)),
        num_unread=unread.number,
        unread=tuple(unread.kept),
    )


class _Unread:
    def __init__(self) -> None:
        self.number = 0
        self.kept: list[str] = []

    def add(self, line: str) -> None:
        self.number += 1
        if len(self.kept) < MAX_KEPT:
            self.kept.append("".join(char if char.isprintable() else "\ufffd" for char in line[:200]))


def _found(lines: list[str], probe: Probe, unread: _Unread) -> Iterator[dict[str, str]]:
    """The words of each device, by quantity."""
    parser = probe.parser
    if isinstance(parser, CsvParser):
        return _from_csv(lines, parser, unread)
    if isinstance(parser, TableParser):
        return _from_table(lines, parser, unread)
    return _from_blocks(lines, parser)


def _from_csv(lines: list[str], parser: CsvParser, unread: _Unread) -> Iterator[dict[str, str]]:
    ignored = [compiled(regex) for regex in parser.ignore]
    kept = [line for line in lines if not any(regex.match(line) for regex in ignored)]
    header = _cells(kept[0], parser) if parser.has_header and kept else []
    columns = _columns(parser, header)
    for line in kept[1:] if parser.has_header else kept:
        cells = _cells(line, parser)
        if not columns or max(columns.values()) >= len(cells):
            unread.add(line)
        else:
            yield {name: cells[column] for name, column in columns.items()}


def _columns(parser: CsvParser, header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for name, column in parser.columns.items():
        if isinstance(column, int):
            columns[name] = column
        else:
            found = [header.index(one) for one in column if one in header]
            if found:
                columns[name] = found[0]
    return columns


def _cells(line: str, parser: CsvParser) -> list[str]:
    return [cell.strip() for cell in line.split(parser.separator)]


def _from_table(lines: list[str], parser: TableParser, unread: _Unread) -> Iterator[dict[str, str]]:
    rows = [[compiled(regex) for regex in row] for row in parser.rows]
    ignored = [compiled(regex) for regex in parser.ignore]
    words: dict[str, str] = {}
    seen: list[str] = []
    for line in lines:
        row = _row(line, rows[len(seen)])
        if row is None and seen and (again := _row(line, rows[0])) is not None:
            # A device's next row is missing: what there is of it is not a sample.
            for one in seen:
                unread.add(one)
            words, seen, row = {}, [], again
        if row is not None:
            words |= row
            seen.append(line)
            if len(seen) == len(rows):
                yield words
                words, seen = {}, []
        elif not any(regex.match(line) for regex in ignored):
            unread.add(line)
    for one in seen:
        unread.add(one)


def _row(line: str, regexes: list[re.Pattern[str]]) -> dict[str, str] | None:
    for regex in regexes:
        found = regex.match(line)
        if found:
            return {name: word for name, word in found.groupdict().items() if word is not None}
    return None


def _from_blocks(lines: list[str], parser: BlockParser) -> Iterator[dict[str, str]]:
    # A block holds many lines that nobody asked for, so none of them counts as unread.
    starts = compiled(parser.starts)
    wanted = {name: compiled(regex) for name, regex in parser.lines.items()}
    words: dict[str, str] | None = None
    for line in lines:
        start = starts.match(line)
        if start:
            if words is not None:
                yield words
            words = {name: word for name, word in start.groupdict().items() if name == "index"}
        elif words is not None:
            for name, regex in wanted.items():
                found = regex.match(line)
                if found and name not in words:
                    words[name] = found[1]
    if words is not None:
        yield words


def _sample(
    words: dict[str, str], ordinal: int, probe: Probe, unread: _Unread, capacity_bytes: int | None
) -> Sample | None:
    index = words.get("index", str(ordinal))
    if not re.fullmatch(r"[0-9]{1,6}", index):
        unread.add(f"index {index}")
        return None
    values: dict[str, float | None] = {}
    for name, column in probe.quantities.items():
        values[name] = _value(words.get(name), name, column, probe, unread)
    total = values.get("memory_total")
    used = values.get("memory_used")
    column_used = probe.quantities.get("memory_used")
    if column_used is not None and column_used.unit == "percent_of_capacity":
        total = total if total is not None else capacity_bytes
        used = used * total if used is not None and total is not None else None
    return Sample(
        index=int(index),
        temperature_c=values.get("temperature"),
        power_w=values.get("power"),
        memory_used_bytes=None if used is None else round(used),
        memory_total_bytes=None if total is None else round(total),
        utilisation=values.get("utilisation"),
    )


def _value(word: str | None, name: str, column: Column, probe: Probe, unread: _Unread) -> float | None:
    if word is None:
        unread.add(f"no {name}")
        return None
    word = word.strip()
    if word in probe.not_available:
        return None
    figure = word.removesuffix(column.suffix.strip()).strip()
    if figure in probe.not_available:
        return None
    # Rounded: 94 % is 0.94, whatever a hundredth is in binary.
    value = round(float(figure) * FACTORS[column.unit], 9) if NUMBER.fullmatch(figure) else None
    likely = value is not None and (name == "temperature" or value >= 0)
    if not likely or (column.unit in ("percent", "fraction", "percent_of_capacity") and (value or 0) > 1):
        unread.add(f"{name} {word}")
        return None
    return value


def render_probe(samples: Iterable[Sample], probe: Probe) -> str:
    """The text that the vendor's tool would print for these samples: what stand-ins in a lab answer."""
    blocks = [line for sample in samples for line in _drawn(sample, probe, probe.layout.each)]
    return "".join(f"{line}\n" for line in (*probe.layout.head, *blocks, *probe.layout.foot))


def _drawn(sample: Sample, probe: Probe, lines: tuple[str, ...]) -> list[str]:
    words = {"index": str(sample.index)}
    for attribute, name in QUANTITY_OF.items():
        words[name] = _word(getattr(sample, attribute), _column(probe, name), sample, probe)

    def put(place: re.Match[str]) -> str:
        word, side, width = words[place[1]], place[2], int(place[3] or 0)
        return word.rjust(width) if side == ">" else word.ljust(width)

    return [PLACE.sub(put, line) for line in lines]


def _column(probe: Probe, name: str) -> Column | None:
    return next((column for listed, column in probe.quantities.items() if listed == name), None)


def _word(value: float | None, column: Column | None, sample: Sample, probe: Probe) -> str:
    if value is None or column is None:
        return probe.not_available[0]
    factor = FACTORS[column.unit]
    if column.unit == "percent_of_capacity":
        if not sample.memory_total_bytes:
            return probe.not_available[0]
        factor *= sample.memory_total_bytes
    return f"{value / factor:.{column.decimals}f}{column.suffix}"


def stand_in(probe: Probe) -> dict[str, Any]:
    """All that a stand-in tool needs to print this format, as plain data: the same rule as `render_probe`,
    for a program that has nothing but Python's library.

    Keys: `argv`, `head`, `each`, `foot` (lines), `not_available` (a word) and `quantities`, by name its
    `factor` (value in °C, W, bytes or as a fraction ÷ factor = figure), `of_capacity`, `suffix`, `decimals`.
    """
    return {
        "argv": list(probe.argv),
        "head": list(probe.layout.head),
        "each": list(probe.layout.each),
        "foot": list(probe.layout.foot),
        "not_available": probe.not_available[0],
        "quantities": {
            name: {
                "factor": FACTORS[column.unit],
                "of_capacity": column.unit == "percent_of_capacity",
                "suffix": column.suffix,
                "decimals": column.decimals,
            }
            for name, column in probe.quantities.items()
        },
    }
