"""Document → findings: what of it contradicts itself, the known peaks, or the way such tables are written.

NO_RESULT         no row has a number              MEM_IN_FIX_HP  used/capacity under fix_hp
VALUE_MISSING     a metric's cell is empty         MEM_EMPTY      a row with results, without mem
SWAPPED           two cells stand in each other's  MISPLACED      a value under a wrong heading
CFG_NAME          a config named without its .py   CFG_DEVICE     a config of another device
HEADING_SPELLING  understood, but not the wording  UNITS          a number written in another way
UNREAD            neither number nor placeholder   ROW_SHAPE      more or fewer cells than headings
PEAK_DTYPE        MFU follows from another peak    MFU_VALUE      MFU follows from none
DUP_METRICS       two rows with the same figures   LOSS_OUTLIER   far from the other rows
PARALLEL          TP × PP × DP is not the scale    ENCODING       not UTF-8
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.published import words
from orchestrator.published.markup import plain
from orchestrator.published.model import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.published.model import Cell, Column, Document, KnownDevice, Row

#: Published MFUs are cut or rounded to a tenth of a point; half as much again is left for the token/p/s.
MFU_TOLERANCE = 0.0015
#: A loss beyond this factor of its table's median, either way, belongs to another quantity or run.
LOSS_FACTOR = 2.0
#: Cross entropy of a random model over any vocabulary in use stays below this, and no device is that slow.
MOST_LOSS = 20.0
#: What a row's label may compute in. Published fp32 rows ran on tensor cores in TF32.
DTYPES = {
    "fp32": ("fp32", "tf32"),
    "tf32": ("tf32",),
    "amp": ("bf16", "fp16"),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
}
MULTIPLIERS = (2, 4, 6)
_CONFIG = re.compile(r"config_([A-Za-z0-9.+-]{1,40}?)x([0-9]{1,5})x([0-9]{1,5})(\.py)?(?![A-Za-z0-9])")
_EMPTY = frozenset({"blank", "absent"})
_UNMEASURED = frozenset({"blank", "absent", "placeholder", "status"})
SPEED: Column = "tokens_per_second_per_device"


def lint(document: Document, *, known: Sequence[KnownDevice]) -> tuple[Finding, ...]:
    """Every finding, by line. Pure; a document without any is as such documents should be."""
    headings = {
        block.table: len(block.lines[0].cells) for block in document.blocks if block.table is not None
    }
    found = [
        *_encoding(document),
        *_headings(document),
        *_configs(document),
        *_no_result(document),
        *(finding for row in _with_results(document) for finding in _row(row, document, known)),
        *(finding for row in _with_results(document) for finding in _shape(row, headings[row.table])),
        *_duplicates(document),
        *_losses(document),
    ]
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.code, finding.columns)))


def findings_of(row: Row, findings: Iterable[Finding], column: Column) -> tuple[Finding, ...]:
    """Those that make this cell doubtful."""
    return tuple(one for one in findings if row.line in one.lines and column in one.columns)


def _encoding(document: Document) -> Iterator[Finding]:
    if document.source.encoding != "utf-8":
        yield Finding(
            code="ENCODING",
            line=1,
            lines=(1,),
            message=f"the file is {document.source.encoding}",
            fits="UTF-8",
        )


def _headings(document: Document) -> Iterator[Finding]:
    for block in document.blocks:
        for heading in block.lines[0].cells if block.table is not None else ():
            column, is_right = words.column_of(heading)
            if column is not None and not is_right:
                right = words.right_spelling(column)
                yield Finding(
                    code="HEADING_SPELLING",
                    line=block.line,
                    lines=(block.line,),
                    message=f"the heading {plain(heading)!r} is understood as {right}",
                    fits=right,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    name: str
    device: str
    complete: bool
    line: int


def _named_configs(document: Document) -> Iterator[_Config]:
    for block in document.blocks:
        if block.kind in ("item", "text"):
            for found in _CONFIG.finditer(plain(block.text)):
                yield _Config(name=found[0], device=found[1], complete=found[4] is not None, line=block.line)


def _configs(document: Document) -> Iterator[Finding]:
    """Each name once, with all its lines."""
    by_name: dict[str, list[_Config]] = defaultdict(list)
    for config in _named_configs(document):
        by_name[config.name].append(config)
    devices = sorted({row.device for row in document.rows if row.device}) or [document.device or ""]
    shown, same = ", ".join(devices), {device.lower() for device in devices}
    for name, uses in by_name.items():
        lines = tuple(dict.fromkeys(use.line for use in uses))
        if not uses[0].complete:
            yield Finding(
                code="CFG_NAME",
                line=lines[0],
                lines=lines,
                message=f"{name} is no file name{_also(lines)}",
                fits=f"{name}.py",
            )
        if shown and uses[0].device.lower() not in same:
            yield Finding(
                code="CFG_DEVICE",
                line=lines[0],
                lines=lines,
                message=f"{name} is a config of {uses[0].device}; the results are of {shown}{_also(lines)}",
                fits=name.replace(uses[0].device, devices[0], 1),
            )


def _also(lines: Sequence[int]) -> str:
    return f" (lines {', '.join(map(str, lines))})" if len(lines) > 1 else ""


def _has_results(row: Row) -> bool:
    """Any number, or anything where a number belongs: `44.2/48.0` under loss is a result in a wrong place."""
    return any(cell.state in ("number", "unread") for cell in row.cells) or _memory_in_fix_hp(row)


def _with_results(document: Document) -> tuple[Row, ...]:
    return tuple(row for row in document.rows if _has_results(row))


def _no_result(document: Document) -> Iterator[Finding]:
    """Once for each table that has such rows."""
    for block in document.blocks:
        of_table = [row for row in document.rows if block.table is not None and row.table == block.table]
        lines = [row.line for row in of_table if not _has_results(row)]
        rows = len(of_table)
        if lines or (block.table is not None and not rows):
            where = tuple(lines) or (block.line,)
            what = "no row of the table has a number" if len(lines) == rows else "a row without any number"
            yield Finding(
                code="NO_RESULT",
                line=where[0],
                lines=where,
                message=f"{what}{_also(where)}",
                fits="measured figures; until then the row is no result, not a zero",
            )


def _row(row: Row, document: Document, known: Sequence[KnownDevice]) -> Iterator[Finding]:
    swapped = list(_swapped(row))
    misplaced = [] if swapped else list(_misplaced(row))
    elsewhere = {column for finding in (*swapped, *misplaced) for column in finding.columns}
    yield from swapped
    yield from misplaced
    yield from _memory(row)
    yield from (one for one in _cells(row) if not set(one.columns) & elsewhere)
    yield from _parallel(row)
    if "mfu" not in elsewhere and SPEED not in elsewhere:
        yield from _mfu(row, document, known)


def _finding(row: Row, code: str, message: str, *, fits: str, columns: tuple[Column, ...] = ()) -> Finding:
    return Finding(code=code, line=row.line, lines=(row.line,), message=message, fits=fits, columns=columns)


def _metric_cells(row: Row) -> list[tuple[Column, Cell]]:
    return [
        (cell.column, cell) for cell in row.cells if cell.column is not None and cell.column in words.SHAPES
    ]


def _name(column: Column) -> str:
    return words.right_spelling(column)


def _text(cell: Cell) -> str:
    return words.folded(plain(cell.raw))


def _swapped(row: Row) -> Iterator[Finding]:
    """Two cells, each of the other's shape; or a loss no model has beside a speed no device has."""
    cells = _metric_cells(row)
    for number, (column, cell) in enumerate(cells):
        for other_column, other in cells[number + 1 :]:
            mine, theirs = words.SHAPES[column], words.SHAPES[other_column]
            crossed = mine != theirs and (words.shape(cell.raw), words.shape(other.raw)) == (theirs, mine)
            if crossed or _crossed_by_size((column, cell), (other_column, other)):
                yield _finding(
                    row,
                    "SWAPPED",
                    f"{_name(column)} holds {_text(cell)!r} and {_name(other_column)} {_text(other)!r}",
                    fits=f"{_name(column)} {_text(other)}, {_name(other_column)} {_text(cell)}",
                    columns=(column, other_column),
                )


def _crossed_by_size(one: tuple[Column, Cell], other: tuple[Column, Cell]) -> bool:
    values = {column: cell.value for column, cell in (one, other)}
    if set(values) != {SPEED, "loss"}:
        return False
    speed, loss = values[SPEED], values["loss"]
    return speed is not None and loss is not None and speed < MOST_LOSS < loss


def _memory_in_fix_hp(row: Row) -> bool:
    cell = row.cell("fix_hp")
    return cell is not None and words.shape(plain(cell.raw)) == "pair"


def _memory(row: Row) -> Iterator[Finding]:
    fix_hp, mem = row.cell("fix_hp"), row.cell("mem")
    moved = fix_hp is not None and _memory_in_fix_hp(row)
    if fix_hp is not None and moved:
        yield _finding(
            row,
            "MEM_IN_FIX_HP",
            f"fix_hp holds {_text(fix_hp)!r}, used/capacity of memory",
            fits=f"mem {_text(fix_hp)}, fix_hp /",
            columns=("fix_hp",),
        )
    if mem is not None and mem.state in ("blank", "absent", "placeholder"):
        yield _finding(
            row,
            "MEM_EMPTY",
            f"mem is {_shown(mem)} in a row with results",
            fits=f"mem {_text(fix_hp)}" if fix_hp is not None and moved else "used/capacity in GiB",
            columns=("mem",),
        )


def _shown(cell: Cell) -> str:
    return "empty" if cell.state in _EMPTY else repr(_text(cell))


def _misplaced(row: Row) -> Iterator[Finding]:
    """A cell of the shape of another column, which is empty."""
    empty = {words.SHAPES[column]: column for column, cell in _metric_cells(row) if cell.state in _UNMEASURED}
    for column, cell in _metric_cells(row):
        found = words.shape(plain(cell.raw))
        if cell.state == "unread" and found in ("pair", "percent") and found in empty:
            yield _finding(
                row,
                "MISPLACED",
                f"{_name(column)} holds {_text(cell)!r}",
                fits=f"{_name(empty[found])} {_text(cell)}",
                columns=(column, empty[found]),
            )


def _cells(row: Row) -> Iterator[Finding]:
    """What each metric's cell lacks on its own; an empty mem is said by its own code."""
    examples = {
        "number": "a bare number: 4013",
        "pair": "used/capacity in GiB: 74/80",
        "percent": "per cent: 39.57%",
    }
    for column, cell in _metric_cells(row):
        fits = examples[words.SHAPES[column]]
        if cell.state in _EMPTY and column != "mem":
            yield _finding(
                row,
                "VALUE_MISSING",
                f"{_name(column)} is empty",
                fits=f"{fits}, or / where it was not measured",
                columns=(column,),
            )
        elif cell.state == "unread":
            yield _finding(
                row, "UNREAD", f"{_name(column)} holds {_text(cell)!r}", fits=fits, columns=(column,)
            )
        else:
            reading = words.read_cell(column, cell.raw)
            if reading.unit is not None and cell.value is not None:
                yield _finding(
                    row,
                    "UNITS",
                    f"{_name(column)} {_text(cell)!r}: {reading.unit}",
                    fits=_rewritten(column, cell),
                )


def _rewritten(column: Column, cell: Cell) -> str:
    value = cell.value or 0.0
    if words.SHAPES[column] == "percent":
        return f"{100 * value:g}%"
    return f"{value:g}/{cell.capacity:g}" if cell.capacity is not None else f"{value:.10g}"


def _shape(row: Row, headings: int) -> Iterator[Finding]:
    written = sum(cell.state != "absent" for cell in row.cells)
    if written != headings:
        yield _finding(
            row, "ROW_SHAPE", f"{written} cells under {headings} headings", fits=f"{headings} cells"
        )


def _parallel(row: Row) -> Iterator[Finding]:
    degrees = words.degrees(row.parallel or "")
    if not {"TP", "PP", "DP"} <= set(degrees) or row.num_nodes is None or row.devices_per_node is None:
        return
    product = degrees["TP"] * degrees["PP"] * degrees["DP"] * degrees.get("CP", 1)
    world = row.num_nodes * row.devices_per_node
    if product != world:
        others = product // degrees["DP"] if degrees["DP"] else 0
        fits = f"DP{world // others}" if others and world % others == 0 else f"a product of {world}"
        yield _finding(
            row,
            "PARALLEL",
            f"{row.parallel} is {product} devices; {row.scale} has {world}",
            fits=fits,
            columns=("parallel",),
        )


def _mfu(row: Row, document: Document, known: Sequence[KnownDevice]) -> Iterator[Finding]:
    """MFU = token/p/s × multiplier × N ÷ peak, by the published rule; the peak is that of the row's dtype."""
    speed, mfu = row.value(SPEED), row.value("mfu")
    parameters = words.nominal_parameters(document.case or "")
    if speed is None or mfu is None or parameters is None or mfu <= 0 or speed <= 0:
        return
    multiplier = words.flops_multiplier(document.case or "", row.stage)
    peaks = _peaks(row.device or document.device, document.vendor, known)
    wanted = {dtype: peaks[dtype] for dtype in DTYPES.get(row.precision or "", ()) if dtype in peaks}
    work = speed * parameters / 1e12
    if not peaks or any(_follows(mfu, work * multiplier / peak) for peak in wanted.values()):
        return
    would = "; ".join(
        f"{dtype}'s {peak:g} gives {_percent(work * multiplier / peak)}" for dtype, peak in wanted.items()
    )
    others = [
        (dtype, peak, factor)
        for factor in sorted(MULTIPLIERS, key=lambda factor: factor != multiplier)
        for dtype, peak in peaks.items()
        if _follows(mfu, work * factor / peak)
    ]
    if not others and not wanted:
        return
    label = row.precision or "of a precision that is not said"
    if others and others[0][2] == multiplier:
        dtype, peak, _ = others[0]
        yield _finding(
            row,
            "PEAK_DTYPE",
            f"MFU {_percent(mfu)} follows from the {dtype} peak of {peak:g} TFLOPS, and the row is {label}",
            fits=would or f"a peak for {label}",
            columns=("mfu",),
        )
        return
    if others:
        _, peak, factor = others[0]
        why = f"it follows from {factor}·N at {peak:g} TFLOPS, where the rule is {multiplier}·N"
    else:
        why = f"it would take a peak of {work * multiplier / mfu:.4g} TFLOPS"
    yield _finding(
        row,
        "MFU_VALUE",
        f"MFU {_percent(mfu)} does not follow from {speed:g} token/p/s: {why}",
        fits=would or "no known peak",
        columns=("mfu",),
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _follows(published: float, computed: float) -> bool:
    return abs(published - computed) <= MFU_TOLERANCE


def _peaks(device: str | None, vendor: str | None, known: Sequence[KnownDevice]) -> dict[str, float]:
    """Of a name that two vendors have, the document's vendor's."""
    named = [one for one in known if one.name == device]
    chosen = next((one for one in named if one.vendor == vendor), named[0] if len(named) == 1 else None)
    return {} if chosen is None else {dtype: tflops for dtype, tflops, _ in chosen.peaks}


def _duplicates(document: Document) -> Iterator[Finding]:
    """Rows of one table that share every figure: two experiments never do to the last digit."""
    by_figures: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in document.rows:
        values = tuple((column, cell.value, cell.capacity) for column, cell in _metric_cells(row))
        if sum(value is not None for _, value, _ in values) >= 2:
            by_figures[row.table, values].append(row)
    for rows in by_figures.values():
        if len(rows) > 1:
            lines = tuple(row.line for row in rows)
            columns = tuple(column for column, cell in _metric_cells(rows[0]) if cell.value is not None)
            same = all(_named(row) == _named(rows[0]) for row in rows)
            yield Finding(
                code="DUP_METRICS",
                line=lines[1],
                lines=lines,
                message=f"the same {'row' if same else 'figures in rows that differ'}{_also(lines)}",
                fits="one row" if same else "figures of each row's own run",
                columns=columns,
            )


def _named(row: Row) -> tuple[str, ...]:
    return tuple(_text(cell) for cell in row.cells if cell.column not in words.SHAPES)


def _losses(document: Document) -> Iterator[Finding]:
    """Against the other rows of the same table and stage, from three rows on."""
    groups: dict[tuple[int, str | None], list[tuple[Row, float]]] = defaultdict(list)
    for row in document.rows:
        loss = row.value("loss")
        if loss is not None and not any(_swapped(row)):
            groups[row.table, row.stage].append((row, loss))
    for group in groups.values():
        middle = median(loss for _, loss in group)
        if len(group) < 3 or middle <= 0:
            continue
        for row, loss in group:
            if not middle / LOSS_FACTOR <= loss <= middle * LOSS_FACTOR:
                yield _finding(
                    row,
                    "LOSS_OUTLIER",
                    f"loss {loss:g} beside a median of {middle:g} in {len(group)} rows",
                    fits=f"a loss near {middle:g}",
                    columns=("loss",),
                )
