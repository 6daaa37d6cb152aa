"""The result document → Reference: one case's published document in one language. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.document import Document, GeneralRow, Text
from orchestrator.messages import MESSAGES, Language, say
from orchestrator.report.columns import (
    COLUMNS,
    NOT_APPLICABLE,
    TableCell,
    config_text,
    short_name,
    table_cell,
)
from orchestrator.report.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.report.columns import Notes

HARDWARE = ("machine_model", "accelerator_model", "cpu_model", "network")
BATCH = ("micro_batch_size", "sequence_length", "gradient_accumulation_steps")
#: Rows of 通用指标 where nothing is said; those of ASKED_FOR only where the table has that column.
USUAL_ROWS: tuple[GeneralRow, ...] = (
    "task",
    "model",
    "dataset",
    "precision",
    "parallel",
    "fix_hp",
    "device",
    "mem",
    "mfu",
    "tokens_per_second_per_device",
    "acc_mmmu",
)
ASKED_FOR = ("parallel", "acc_mmmu")
#: The attention that is no optimisation.
PLAIN_ATTENTION = "eager"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`label` is empty where the value stands alone. Either a value or `children`."""

    label: str = ""
    value: TableCell | None = None
    children: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One part of the document: its heading and entries, `separator` between label and value."""

    name: str
    heading: str
    separator: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """One row of 通用指标."""

    name: str
    label: str
    value: TableCell
    remark: str
    bold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of 性能指标; `texts` by column name, never by position."""

    cell_id: str
    case: str
    verdict: str
    proxy: bool
    texts: dict[str, TableCell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One case's document. `notes`: the numbers of the report's notes that were first needed here."""

    case: str
    title: str
    environment: tuple[Block, ...]
    batch: tuple[Entry, ...]
    repeated: tuple[Block, ...]
    general: tuple[General, ...]
    preface: str | None
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[int, ...]


def references(result: Mapping[str, Any], notes: Notes, language: Language) -> tuple[Reference, ...]:
    """The document of each case of a run, in the order in which its cells name them."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for cell in result["cells"]:
        by_case.setdefault(cell["case"], []).append(cell)
    return tuple(_Writer(result, case, cells, notes, language).reference() for case, cells in by_case.items())


def columns_of(cells: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """One table for all cells: a column that any of them has; a cell without it shows `/`."""
    wanted = {name for cell in cells for name in cell["columns"]} | {"config"}
    return tuple(name for name in COLUMNS if name in wanted)


def table_rows(
    cells: Iterable[Mapping[str, Any]], columns: Sequence[str], notes: Notes, language: Language
) -> tuple[Row, ...]:
    return tuple(
        Row(
            cell_id=cell["cell_id"],
            case=cell["case"],
            verdict=cell["verdict"],
            proxy=cell["proxy"] is not None,
            texts={name: table_cell(name, cell, notes, language) for name in columns},
        )
        for cell in cells
    )


class _Writer:
    """The parts of one case's document; every text goes through the one catalogue or the case's own words."""

    def __init__(
        self,
        result: Mapping[str, Any],
        case: str,
        cells: Sequence[Mapping[str, Any]],
        notes: Notes,
        language: Language,
    ) -> None:
        self._case = case
        self._cells = cells
        self._notes = notes
        self._language = language
        self._environment = Environment(result=result, cells=cells, notes=notes, language=language)
        self._plan = cells[0].get("document")
        self._words: Mapping[str, Any] = self._plan["words"] if self._plan else _fallback(cells[0])

    def reference(self) -> Reference:
        before = len(self._notes.texts)
        columns = columns_of(self._cells)
        return Reference(
            case=self._case,
            title=self._say("reference.title", name=self._text(self._words["title"])),
            environment=tuple(self._part(part) for part in self._words["parts"]),
            batch=self._batch(),
            repeated=self._repeated(),
            general=tuple(self._general(row) for row in self._words["rows"]),
            preface=self._text(self._words["preface"]) if self._words["preface"] else None,
            columns=columns,
            rows=table_rows(self._cells, columns, self._notes, self._language),
            notes=tuple(range(before + 1, len(self._notes.texts) + 1)),
        )

    def _say(self, key: str, **values: object) -> str:
        return say(key, self._language, **values)

    def _text(self, text: Mapping[str, str]) -> str:
        return text[self._language]

    @property
    def _device(self) -> str:
        return self._join(short_name(cell) for cell in self._cells)

    def _join(self, texts: Iterable[object]) -> str:
        """Each once, in the order in which they came."""
        return self._say("list").join(dict.fromkeys(str(text) for text in texts))

    def _part(self, part: str) -> Block:
        parts: dict[str, Callable[[], list[Entry]]] = {
            "hardware": self._hardware,
            "software": self._software,
            "parallel": self._parallel,
            "optimisations": self._optimised,
        }
        heading = self._say(f"part.{part}")
        if self._words["name_device"] and part in ("hardware", "software"):
            heading = self._say("part.named", device=self._device, part=heading)
        return Block(
            name=part,
            heading=heading,
            separator=self._say("separator.hardware" if part == "hardware" else "separator.other"),
            entries=tuple(parts[part]()),
        )

    def _hardware(self) -> list[Entry]:
        return [
            Entry(label=self._say(f"entry.{row}"), value=self._environment.hardware(row)) for row in HARDWARE
        ]

    def _software(self) -> list[Entry]:
        return [self._software_row(row) for row in self._words["software"]]

    def _software_row(self, row: str) -> Entry:
        """One dependency stands in the line of its label, several below it, as published."""
        label = self._say(f"entry.{row}")
        if row == "framework":
            return Entry(label=label, value=_joined(self._versions("framework"), " + "))
        if row != "dependencies":
            return Entry(label=label, value=self._environment.software(row))
        versions = self._versions("dependencies")
        if len(versions) > 1:
            children = tuple(Entry(label=shown, value=version) for shown, version in versions.items())
            return Entry(label=label, children=children)
        return Entry(label=label, value=_joined(versions, ""))

    def _versions(self, key: str) -> dict[str, TableCell]:
        """The word of each → its version."""
        return {shown: self._environment.version(name, shown) for name, shown in self._words[key].items()}

    def _parallel(self) -> list[Entry]:
        said = self._words["parallelism"]
        values = {
            "technique": self._text(said["technique"]) if said else NOT_APPLICABLE,
            "implementer": said["implementer"] if said else NOT_APPLICABLE,
            "detail": self._text(said["detail"]) if said and said["detail"] else self._zero(),
        }
        return [
            Entry(label=self._say(f"entry.{key}"), value=TableCell(text=text)) for key, text in values.items()
        ]

    def _zero(self) -> str:
        """`ZeRO-DP O3, DP_SIZE=8`, and by stage where a case has several."""
        sizes = self._join(cell["parallel"]["data_parallel_size"] for cell in self._cells)
        stages = {cell["stage"]: cell["zero_stage"] for cell in self._cells if cell["stage"]}
        if len(stages) > 1:
            parts = (
                self._say("zero.stage", stage=str(stage).capitalize(), zero=zero)
                for stage, zero in stages.items()
            )
            return f"ZeRO-DP {' '.join(parts)}"
        zero = self._join(cell["zero_stage"] for cell in self._cells)
        return self._say("zero.none", dp=sizes) if zero == "0" else self._say("zero.one", zero=zero, dp=sizes)

    def _optimised(self) -> list[Entry]:
        return [Entry(value=TableCell(text=one)) for one in self._optimisations()]

    def _optimisations(self) -> list[str]:
        """What the settings of all rows say, then what the case or the device adds. What only one row does
        stands in its fix_hp.
        """
        settings = [
            {str(cell["attention"]), "recompute" if cell["recompute"] != "none" else ""}
            for cell in self._cells
        ]
        shared = [
            one
            for one in (str(self._cells[0]["attention"]), "recompute")
            if one != PLAIN_ATTENTION and all(one in used for used in settings)
        ]
        names = self._words["technique_names"]
        known = [names.get(one) or self._technique(one) for one in shared]
        return [*known, *(self._text(one) for one in self._words["optimisations"])] or [NOT_APPLICABLE]

    def _technique(self, name: str) -> str:
        return self._say(f"technique.{name}") if f"technique.{name}" in MESSAGES else name

    def _batch(self) -> tuple[Entry, ...]:
        sizes = [Entry(value=TableCell(text=self._batch_item(key))) for key in BATCH]
        only_data = all(
            cell["parallel"]["data_parallel_size"] == cell["parallel"]["world_size"] for cell in self._cells
        )
        rule = self._say("batch.only_data" if only_data else "batch.mixed")
        text = self._remarked("global_batch_size", self._say("batch.global_batch_size", rule=rule))
        lines = dict.fromkeys(self._arithmetic(cell) for cell in self._cells)
        arithmetic = tuple(Entry(value=TableCell(text=line)) for line in lines)
        return (*sizes, Entry(value=TableCell(text=text), children=arithmetic))

    def _batch_item(self, key: str) -> str:
        values = [(cell["stage"], self._default(cell, key)) for cell in self._cells]
        if len({value for _, value in values}) > 1 and all(stage for stage, _ in values):
            stages = (self._say("batch.stage", stage=stage, value=value) for stage, value in values)
            value = self._say("comma").join(dict.fromkeys(stages))
        else:
            value = self._say("batch.default", value=self._join(value for _, value in values))
        source = self._join(
            cell["document"]["sources"].get(key, "case.yaml") if cell.get("document") else "case.yaml"
            for cell in self._cells
        )
        return self._remarked(key, self._say(f"batch.{key}", source=source, value=value))

    def _default(self, cell: Mapping[str, Any], key: str) -> object:
        document = cell.get("document")
        return document["default_batch"][key] if document else cell["batch"][key]

    def _remarked(self, key: str, text: str) -> str:
        remark = self._words["batch_remarks"].get(key)
        return f"{text}{self._say('full_stop')}{self._text(remark)}" if remark else text

    def _arithmetic(self, cell: Mapping[str, Any]) -> str:
        batch = cell["batch"]
        return self._say(
            "batch.arithmetic",
            config=config_text(cell, self._language),
            lbs=batch["micro_batch_size"],
            gas=batch["gradient_accumulation_steps"],
            dp=batch["data_parallel_size"],
            gbs=batch["global_batch_size"],
            mpe=batch["sequence_length"],
            tokens=batch["global_batch_size"] * batch["sequence_length"],
        )

    def _repeated(self) -> tuple[Block, ...]:
        if not self._words["repeat_optimisations"]:
            return ()
        entry = Entry(
            label=self._say("entry.optimisation"), value=TableCell(text=self._join(self._optimisations()))
        )
        return (
            Block(
                name="optimisations",
                heading=self._say("part.optimisations"),
                separator=self._say("separator.other"),
                entries=(entry,),
            ),
        )

    def _general(self, row: str) -> General:
        said = self._words["remarks"].get(row)
        usual = f"remark.{row}"
        # The precision has no usual remark where it is one word for all rows.
        shown = usual in MESSAGES and (row != "precision" or "precision" in columns_of(self._cells))
        return General(
            name=row,
            label=self._say(f"general.{row}"),
            value=self._general_value(row),
            remark=self._text(said) if said else self._say(usual) if shown else "",
            bold=row in self._words["bold"],
        )

    def _general_value(self, row: str) -> TableCell:
        if row in ("task", "dataset"):
            return self._stated(self._text(self._words[row]))
        if row == "model":
            return TableCell(text=self._join(self._model(cell) for cell in self._cells))
        if row == "device":
            vendors = f"{self._join(cell['vendor'] for cell in self._cells)} "
            return TableCell(text=f"{vendors if self._words['name_vendor'] else ''}{self._device}")
        if row == "acc_mmmu":
            return TableCell(text=self._say("general.acc_mmmu.value"))
        if row == "precision" and "precision" not in columns_of(self._cells):
            return TableCell(text=self._join(cell["precision"]["label"] for cell in self._cells))
        return TableCell(text=self._say("general.see", column=self._say(f"column.{row}")))

    def _stated(self, text: str) -> TableCell:
        """What only the case's words can say; an older result holds none."""
        if self._plan:
            return TableCell(text=text)
        note = self._notes.number(self._say("reason.no_document"))
        return TableCell(text=NOT_APPLICABLE, notes=(note,))

    def _model(self, cell: Mapping[str, Any]) -> str:
        name = str(self._words["model"] or cell["case"])
        return name + self._say("config.proxy") if cell["proxy"] is not None else name


def _joined(versions: Mapping[str, TableCell], between: str) -> TableCell:
    return TableCell(
        text=between.join(f"{shown} {version.text}" for shown, version in versions.items()) or NOT_APPLICABLE,
        notes=tuple(number for version in versions.values() for number in version.notes),
    )


def _fallback(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The words for a result that holds none: what its columns and settings tell."""
    title = f"{cell['vendor']} {short_name(cell)}"
    unsaid = Text(zh=NOT_APPLICABLE, en=NOT_APPLICABLE)
    framework = ("torch", "deepspeed") if cell["engine"] == "deepspeed" else ("torch",)
    return asdict(
        Document(
            task=unsaid,
            dataset=unsaid,
            rows=tuple(row for row in USUAL_ROWS if row not in ASKED_FOR or row in cell["columns"]),
            framework={name: name for name in framework},
            title=Text(zh=title, en=title),
        )
    )
