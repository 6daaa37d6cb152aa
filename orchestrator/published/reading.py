"""A published document's bytes → Document. Pure; whatever the text is, it is read or refused, never a
traceback.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, Problem
from orchestrator.published import words
from orchestrator.published.markup import blocks_of, decoded, lines_of, plain
from orchestrator.published.model import Block, Cell, Document, Precision, Row, Source, TableLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.published.model import Column, KnownDevice

#: Rows and columns beyond these are no table that a person published.
MAX_TABLES = 50
MAX_ROWS = 500
MAX_COLUMNS = 40
METRICS: frozenset[Column] = frozenset(words.SHAPES)
_MODEL = ("模型", "model", "模型名称")
_DEVICE = ("硬件设备简称", "device", "hardware", "device, in short")
_PRECISION = ("数据精度", "precision", "data precision", "精度")
_CARD = ("加速卡型号", "accelerator", "accelerator model")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the document says once for all of its rows."""

    precision: Precision | None
    defaults: Mapping[tuple[str, str | None], int]
    data_parallel_only: bool
    recompute: bool | None
    known: tuple[str, ...]
    device: str | None

    def default(self, key: str, stage: str | None) -> int | None:
        staged = self.defaults.get((key, stage))
        return self.defaults.get((key, None)) if staged is None else staged


def read_document(data: bytes, *, file: str, known: Sequence[KnownDevice]) -> Document:
    """Raises ConfigError: E820 for a text without a result table, E821 for one that is no such document."""
    text, encoding = decoded(data)
    lines = lines_of(text, file=file)
    blocks = tuple(_numbered(blocks_of(lines)))
    tables = [block for block in blocks if block.table is not None]
    if not tables:
        raise ConfigError(_no_table(file, blocks))
    _check_size(tables, file=file)
    general = _general(blocks)
    title = next((plain(block.text) for block in blocks if block.kind == "heading" and block.text), None)
    said = _said(blocks, general, title, known)
    model = _general_value(general, _MODEL)
    rows = tuple(row for block in tables for row in _rows(block, said))
    vendor, device = _vendor_and_device(rows, said, general, title, known)
    return Document(
        schema=1,
        source=Source(
            file=file,
            sha256=hashlib.sha256(data).hexdigest(),
            num_lines=len(lines) - (not lines[-1]),
            encoding=encoding,
        ),
        title=title,
        vendor=vendor,
        device=device,
        model=model,
        case=None if model is None else words.case_of(model),
        rows=rows,
        blocks=tuple(_without_rows(block) for block in blocks),
    )


def _no_table(file: str, blocks: Sequence[Block]) -> Problem:
    found = sum(block.kind == "table" for block in blocks)
    return Problem(
        code="E820",
        file=file,
        message=f"no result table: none of {found} tables has columns such as token/p/s, loss, mem or MFU",
        help="a result table has 配置 (Configuration) and at least one such column: docs/published.md",
    )


def _check_size(tables: Sequence[Block], *, file: str) -> None:
    """Raises ConfigError (E821)."""
    rows = sum(len(table.lines) - 1 for table in tables)
    columns = max(len(line.cells) for table in tables for line in table.lines)
    if len(tables) > MAX_TABLES or rows > MAX_ROWS or columns > MAX_COLUMNS:
        what = (
            f"{len(tables)} result tables of {rows} rows and up to {columns} cells;"
            f" {MAX_TABLES}, {MAX_ROWS} and {MAX_COLUMNS} are the most"
        )
        raise ConfigError(Problem(code="E821", file=file, message=what, help="is this the right file?"))


def _numbered(blocks: Iterable[Block]) -> Iterator[Block]:
    """Result tables get their number."""
    number = 0
    for block in blocks:
        if block.kind == "table" and _has_results(block):
            number += 1
            yield replace(block, kind="results", table=number)
        else:
            yield block


def _has_results(table: Block) -> bool:
    """A 配置 column and one metric, or two metrics; a list of what metrics mean has neither."""
    columns = {words.column_of(heading)[0] for heading in table.lines[0].cells}
    return len(columns & METRICS) >= (1 if "config" in columns else 2)


def _without_rows(block: Block) -> Block:
    """Of a result table the headings: its cells are in the rows."""
    return replace(block, lines=block.lines[:1]) if block.table is not None else block


def _general(blocks: Iterable[Block]) -> list[TableLine]:
    """The lines of every table that is no result table: 指标名称, 指标值, 特殊说明."""
    return [line for block in blocks if block.kind == "table" for line in block.lines]


def _general_value(general: Iterable[TableLine], names: Sequence[str]) -> str | None:
    for line in general:
        if len(line.cells) > 1 and words.folded(plain(line.cells[0])).lower() in names:
            value = plain(line.cells[1])
            return value if value and not words.is_placeholder(value) else None
    return None


def _items(blocks: Iterable[Block]) -> Iterator[str]:
    return (block.text for block in blocks if block.kind in ("item", "text"))


def _labelled(blocks: Iterable[Block], names: Sequence[str]) -> str | None:
    """The words behind `加速卡型号:`, the colon of either width."""
    for text in _items(blocks):
        label, colon, value = words.folded(plain(text)).partition(":")
        if colon and label.strip().lower() in names:
            return value.strip() or None
    return None


def _said(
    blocks: Sequence[Block], general: Sequence[TableLine], title: str | None, known: Sequence[KnownDevice]
) -> _Said:
    names = tuple(device.name for device in known)
    defaults: dict[tuple[str, str | None], int] = {}
    data_parallel = False
    for text in _items(blocks):
        for key, value in words.defaults_of(text).items():
            defaults.setdefault(key, value)
        after = words.folded(plain(text)).partition("data_parallel_size=world_size")
        data_parallel = data_parallel or bool(after[1] and not after[2].startswith("/"))
    precision = _general_value(general, _PRECISION)
    texts = (_general_value(general, _DEVICE), _labelled(blocks, _CARD), title)
    return _Said(
        precision=words.precision_of(precision) if precision else None,
        defaults=defaults,
        data_parallel_only=data_parallel,
        recompute=True if any(_recomputes(text) for text in _items(blocks)) else None,
        known=names,
        device=next(
            (name for text in texts if text and (name := words.named_device(text, known=names))), None
        ),
    )


def _recomputes(text: str) -> bool:
    """An optimisation of the document: `checkpointing`, `gradient_checkpointing`."""
    name = words.folded(plain(text)).lower()
    return name in (
        "checkpointing",
        "gradient_checkpointing",
        "gradient checkpointing",
        "recompute",
        "重计算",
    )


def _rows(table: Block, said: _Said) -> Iterator[Row]:
    headings = table.lines[0].cells
    columns = _columns(headings)
    assert table.table is not None
    for line in table.lines[1:]:
        cells = tuple(_cells(headings, columns, line.cells))
        yield _row(cells, line=line.line, table=table.table, said=said)


def _columns(headings: Sequence[str]) -> list[Column | None]:
    """Of two headings for the same column only the first is it."""
    found: list[Column | None] = []
    for heading in headings:
        column = words.column_of(heading)[0]
        found.append(None if column in found else column)
    return found


def _cells(headings: Sequence[str], columns: Sequence[Column | None], raws: Sequence[str]) -> Iterator[Cell]:
    for number in range(max(len(headings), len(raws))):
        heading, column = (headings[number], columns[number]) if number < len(headings) else ("", None)
        raw = raws[number] if number < len(raws) else None
        reading = words.read_cell(column, raw)
        yield Cell(
            heading=heading,
            raw=raw or "",
            state=reading.state,
            column=column,
            value=reading.value,
            capacity=reading.capacity,
        )


def _row(cells: tuple[Cell, ...], *, line: int, table: int, said: _Said) -> Row:
    by_column = {cell.column: cell.raw for cell in cells if cell.column is not None}
    configured = words.read_config(by_column.get("config", ""), known=said.known)
    fix_hp = by_column.get("fix_hp", "")
    given, unsaid = words.settings(fix_hp), words.unsaid(fix_hp)

    def size(key: str) -> int | None:
        return given.get(key, None if key in unsaid else said.default(key, configured.stage))

    row = Row(
        line=line,
        table=table,
        cells=cells,
        device=configured.device,
        num_nodes=configured.num_nodes,
        devices_per_node=configured.devices_per_node,
        stage=configured.stage,
        precision=words.precision_of(by_column.get("precision", ""))
        or words.set_precision(fix_hp)
        or (None if "precision" in unsaid else said.precision),
        parallel=_parallel(by_column.get("parallel")),
        micro_batch_size=size("LBS"),
        sequence_length=size("MPE"),
        gradient_accumulation_steps=size("GAS"),
        recompute=_first(words.recompute_of(fix_hp), said.recompute),
    )
    made = None if "GBS" in unsaid else _global_batch_size(row, said)
    return replace(row, global_batch_size=given.get("GBS", made))


def _first(value: bool | None, otherwise: bool | None) -> bool | None:
    return otherwise if value is None else value


def _parallel(raw: str | None) -> str | None:
    text = plain(raw or "")
    return None if not text or words.is_placeholder(text) else text


def _global_batch_size(row: Row, said: _Said) -> int | None:
    """LBS × GAS × DP, where all three are known. Data parallelism alone takes every device."""
    parallel = words.degrees(row.parallel or "").get("DP")
    if parallel is None and said.data_parallel_only and row.parallel is None:
        world = (row.num_nodes or 0) * (row.devices_per_node or 0)
        parallel = world or None
    sizes = (row.micro_batch_size, row.gradient_accumulation_steps, parallel)
    if None in sizes:
        return None
    product = 1
    for size in sizes:
        product *= size or 0
    return product or None


def _vendor_and_device(
    rows: Sequence[Row],
    said: _Said,
    general: Sequence[TableLine],
    title: str | None,
    known: Sequence[KnownDevice],
) -> tuple[str | None, str | None]:
    """The device of the rows, else of the document; its vendor by the folder that has this device, else by
    the folder's name in the document.
    """
    devices = dict.fromkeys(row.device for row in rows if row.device is not None)
    device = next(iter(devices)) if len(devices) == 1 else said.device
    vendors = {one.vendor for one in known if one.name == device}
    if len(vendors) == 1:
        return vendors.pop(), device
    names = tuple(sorted({one.vendor for one in known}))
    texts = (_general_value(general, _DEVICE), title)
    return (
        next((name for text in texts if text and (name := words.named_device(text, known=names))), None),
        device,
    )
