"""What stands in a row: a cell of a run, or a row of a published document, with facts and figures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.parse.visible import visible
from orchestrator.published import findings_of, lint
from orchestrator.published.markup import plain
from orchestrator.published.storing import Shelf, known_devices
from orchestrator.published.words import flops_multiplier, folded, nominal_parameters
from orchestrator.report.columns import MEASURED, NOT_APPLICABLE
from orchestrator.report.numbers import GIB
from orchestrator.results import WRONG_SHAPE, RunFolder, read_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.published import Column, Document, Finding, KnownDevice, Row
    from orchestrator.workspace import Workspace

PUBLISHED = "published:"
SPEED, MFU = "tokens_per_second_per_device", "mfu"
#: Column → the metric of result.json that fills it.
METRICS = {
    SPEED: SPEED,
    "loss": "loss",
    "mem": "memory_used_bytes",
    "acc_mmmu": "acc_mmmu",
    MFU: "mfu_published",
}
COLUMNS: tuple[Column, ...] = ("tokens_per_second_per_device", "loss", "mem", "acc_mmmu", "mfu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric of one side: a value, or why there is none; `doubt` why it takes part in no ratio.

    Units as in result.json: tokens/s, nats/token, bytes (`capacity` too), fractions.
    """

    value: float | None = None
    capacity: float | None = None
    reason: str | None = None
    doubt: str | None = None
    #: Not applicable or not measured by choice.
    by_choice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One row of the comparison. `facts` by the names of REQUIRED, WHERE_SAID, REMARKED; null: not said.

    `recompute` of a run is the setting itself; of a published row yes or no, for tables say no more.
    """

    published: bool
    name: str
    row: str
    device: str
    stage: str | None
    facts: dict[str, str | None]
    figures: dict[str, Figure]
    fix_hp: str
    proxy: str | None = None
    rehearsal: bool = False
    flops_per_token: float | None = None
    #: N of the FLOPs rule: a proxy's own, else nominal.
    parameters: float | None = None
    peak: str | None = None


def sides_of(names: Sequence[str], workspace: Workspace) -> tuple[Side, ...]:
    """What each name means, every cell or row of it. Raises ConfigError with the problems of all of them:
    E705, E707, E822 for what is not there, E824 for fewer than two rows, E825 for a result of other shape.
    """
    sides: list[Side] = []
    problems: list[Problem] = []
    for name in names:
        try:
            sides += _named(name, workspace)
        except ConfigError as error:
            problems += error.problems
    if not problems and len(sides) < 2:
        problems.append(
            Problem(
                code="E824",
                message=f"{len(sides)} row is nothing to compare",
                help="nx8 compare latest published:NAME/1    (nx8 list runs, nx8 published list)",
            )
        )
    if problems:
        raise ConfigError(problems)
    return tuple(sides)


def _named(name: str, workspace: Workspace) -> list[Side]:
    if not name.startswith(PUBLISHED):
        folder = RunFolder.find(workspace.runs, name)
        return sides_of_run(folder.run_id, read_result(folder))
    document_name, slash, row = name.removeprefix(PUBLISHED).partition("/")
    document = Shelf.of(workspace).read(document_name)
    sides = sides_of_published(document_name, document, known_devices(workspace))
    if slash:
        sides = [side for side in sides if side.row == row]
    if not sides:
        count = len(document.rows)
        raise ConfigError(
            Problem(
                code="E824",
                message=f"{document_name} has no row {row[:40]!a}: it has {count}",
                help=f"published:{document_name}/1 is its first",
            )
        )
    return sides


def sides_of_published(name: str, document: Document, known: tuple[KnownDevice, ...]) -> list[Side]:
    """Every row of a published document, with what is wrong with it by today's peaks."""
    found = lint(document, known=known)
    rows = enumerate(document.rows, start=1)
    return [_of_row(name, number, document, one, found) for number, one in rows]


def sides_of_run(run_id: str, result: Mapping[str, Any]) -> list[Side]:
    """Every cell of a result. Raises ConfigError (E825) for one of other shape."""
    try:
        json.dumps(result, allow_nan=False)
        return [_of_cell(run_id, cell) for cell in result["cells"]]
    except WRONG_SHAPE as error:
        message = f"the result of {run_id} cannot be compared: {type(error).__name__}: {error}"
        raise ConfigError(
            Problem(code="E825", message=visible(message), help=f"nx8 parse {run_id}   makes it again")
        ) from error


def same_case(one: str | None, other: str | None) -> bool:
    """Whether two names are of one case: published documents write them in their own ways."""
    return _key(one or "") == _key(other or "")


def _key(case: str) -> str:
    return re.sub(r"[^a-z0-9]", "", case.lower())


def _of_cell(run_id: str, cell: Mapping[str, Any]) -> Side:
    batch, precision = cell["batch"], cell["precision"]
    proxy = cell["proxy"]
    return Side(
        published=False,
        name=run_id,
        row=str(cell["cell_id"]),
        device=str(cell["device_display"]),
        stage=None if cell["stage"] is None else str(cell["stage"]),
        facts={
            "case": str(cell["case"]),
            "scale": f"{cell['num_nodes']}x{cell['devices_per_node']}",
            "LBS": str(batch["micro_batch_size"]),
            "MPE": str(batch["sequence_length"]),
            "GAS": str(batch["gradient_accumulation_steps"]),
            "GBS": str(batch["global_batch_size"]),
            "precision": str(precision["label"]),
            "compute dtype": str(precision["compute_dtype"]),
            "recompute": str(cell["recompute"]),
            "parallel": str(cell["parallel"]["label"]),
        },
        figures={column: _measured(cell, column) for column in METRICS},
        fix_hp=str(cell["fix_hp"] or NOT_APPLICABLE),
        proxy=None if proxy is None else str(proxy["of"]),
        rehearsal=cell.get("rehearsal") is not None,
        flops_per_token=float(cell["flops"]["multiplier"] * cell["flops"]["parameters"]),
        parameters=float(cell["flops"]["parameters"]),
        peak=None if cell["peak"]["tflops"] is None else f"{cell['peak']['tflops']:g}",
    )


def _measured(cell: Mapping[str, Any], column: str) -> Figure:
    """An unproven cell takes part without numbers."""
    metric = cell["metrics"].get(METRICS[column])
    if column not in cell["columns"] or metric is None:
        return Figure(by_choice=True)
    if cell["verdict"] != MEASURED:
        reason = cell["reasons"][0] if cell["reasons"] else ""
        return Figure(reason=f"{cell['verdict']}: {reason}" if reason else str(cell["verdict"]))
    if metric["value"] is None:
        return Figure(reason=str(metric["reason"] or ""))
    capacity = cell["metrics"]["memory_capacity_bytes"]["value"] if column == "mem" else None
    return Figure(value=float(metric["value"]), capacity=None if capacity is None else float(capacity))


def _of_row(name: str, number: int, document: Document, row: Row, found: Sequence[Finding]) -> Side:
    dtype = row.precision if row.precision in ("bf16", "fp16") else None
    parameters = nominal_parameters(document.case or "")
    fix_hp = row.cell("fix_hp")
    return Side(
        published=True,
        name=f"{PUBLISHED}{name}",
        row=str(number),
        device=row.device or document.device or "unknown",
        stage=row.stage,
        facts={
            "case": document.case,
            "scale": row.scale,
            "LBS": _text(row.micro_batch_size),
            "MPE": _text(row.sequence_length),
            "GAS": _text(row.gradient_accumulation_steps),
            "GBS": _text(row.global_batch_size),
            "precision": row.precision,
            "compute dtype": dtype,
            "recompute": None if row.recompute is None else "yes" if row.recompute else "no",
            "parallel": row.parallel,
        },
        figures={column: _published(row, column, found) for column in COLUMNS},
        fix_hp=NOT_APPLICABLE if fix_hp is None else plain(fix_hp.raw) or NOT_APPLICABLE,
        flops_per_token=None
        if parameters is None
        else flops_multiplier(document.case or "", row.stage) * parameters,
        parameters=parameters,
    )


def _published(row: Row, column: Column, found: Sequence[Finding]) -> Figure:
    """A cell that was found wrong shows what was read from it, and takes part in no ratio."""
    cell = row.cell(column)
    if cell is None:
        return Figure(by_choice=True)
    wrong = findings_of(row, found, column)
    doubt = "; ".join(f"{one.code}: {one.message}" for one in wrong) or None
    if cell.value is None:
        return Figure(
            reason=doubt or f"published as {folded(plain(cell.raw)) or 'nothing'}",
            by_choice=cell.state == "placeholder" and doubt is None,
        )
    if any(one.code in ("SWAPPED", "MISPLACED") for one in wrong):
        return Figure(reason=doubt)
    scale = GIB if column == "mem" else 1
    capacity = None if cell.capacity is None else cell.capacity * scale
    return Figure(value=cell.value * scale, capacity=capacity, doubt=doubt)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
