"""What a published result document is once it is read: rows with values, and everything else as it stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Our names of the columns, those of case.yaml's tables and three more that published tables have.
Column = Literal[
    "config",
    "precision",
    "parallel",
    "fix_hp",
    "tokens_per_second_per_device",
    "loss",
    "mem",
    "acc_mmmu",
    "mfu",
    "aligned",
    "tokens_per_tflops",
]
#: number: `value` holds · text: words by design · blank: nothing written · absent: the row ended before ·
#: placeholder: `/`, `-` … · status: words where a number is asked (`doing`, `OOM`) · unread: neither.
State = Literal["number", "text", "blank", "absent", "placeholder", "status", "unread"]
Precision = Literal["fp32", "tf32", "amp", "fp16", "bf16", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the document came from: the file's own name, without folders, and the SHA-256 of its bytes."""

    file: str
    sha256: str
    num_lines: int
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a result row: `raw` is its Markdown as published, `value` what was read from it.

    tokens/s for token/p/s, nats/token for loss, GiB for mem (`capacity` likewise), fractions for MFU and
    accuracy.
    """

    heading: str
    raw: str
    state: State
    column: Column | None = None
    value: float | None = None
    capacity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a result table. What neither the row nor the document says is null.

    `recompute` is true where fix_hp or the document's optimisations say so, false where fix_hp says so.
    """

    line: int
    table: int
    cells: tuple[Cell, ...]
    device: str | None = None
    num_nodes: int | None = None
    devices_per_node: int | None = None
    stage: str | None = None
    precision: Precision | None = None
    parallel: str | None = None
    micro_batch_size: int | None = None
    sequence_length: int | None = None
    gradient_accumulation_steps: int | None = None
    global_batch_size: int | None = None
    recompute: bool | None = None

    def cell(self, column: Column) -> Cell | None:
        return next((cell for cell in self.cells if cell.column == column), None)

    def value(self, column: Column) -> float | None:
        cell = self.cell(column)
        return None if cell is None else cell.value

    @property
    def scale(self) -> str | None:
        """1x8: nodes × devices of a node."""
        known = self.num_nodes is not None and self.devices_per_node is not None
        return f"{self.num_nodes}x{self.devices_per_node}" if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLine:
    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One piece of the document outside its result rows, in Markdown as published.

    A heading has a `level`; an item, or a heading in an item, a `marker` and an `indent` in spaces; a table
    its `lines`, the headings first; a result table only its headings, and `table`, its number, from 1.
    """

    kind: Literal["heading", "item", "text", "code", "comment", "table", "results"]
    line: int
    text: str = ""
    level: int = 0
    indent: int = 0
    marker: str | None = None
    lines: tuple[TableLine, ...] = ()
    table: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One published document. `model` is the name as published, `case` the same without its framework."""

    schema: Literal[1]
    source: Source
    title: str | None
    vendor: str | None
    device: str | None
    model: str | None
    case: str | None
    rows: tuple[Row, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """A device of a vendor's folder: its dense peaks in TFLOPS by dtype, each with its source."""

    vendor: str
    name: str
    peaks: tuple[tuple[str, float, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a published document: where, what, and what would fit.

    `lines` has every line concerned, `line` among them; `columns` the columns whose cells it makes doubtful.
    """

    code: str
    line: int
    message: str
    fits: str
    lines: tuple[int, ...]
    columns: tuple[Column, ...] = ()

    def text(self, file: str) -> str:
        return f"{file}:{self.line}: warning[{self.code}] {self.message}\n      = fits: {self.fits}"
