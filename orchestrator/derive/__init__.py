"""A run's folder → the document of result.json. The same files give the same bytes, wherever they lie."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.derive.ceiling import ceiling_of
from orchestrator.derive.kept import evaluated, lists_of
from orchestrator.derive.rawfiles import (
    described,
    read_bytes,
    read_logs,
    read_monitors,
    read_programs,
    read_stands,
    read_statuses,
    regular_files,
)
from orchestrator.errors import WORST_FIRST, ConfigError, Exit, Problem, worst
from orchestrator.metrics import summarize
from orchestrator.metrics.stragglers import stragglers
from orchestrator.parse import PARSER_VERSION
from orchestrator.parse.program import transcribed
from orchestrator.parse.status import NodeStatus
from orchestrator.parse.strict import Fields, Misread, strict_object
from orchestrator.parse.visible import visible, visible_lines
from orchestrator.plan import as_document
from orchestrator.results import SCHEMA, serialise
from orchestrator.verdict import Judgement, Verdict, judge
from orchestrator.verdict.evidence import NOT_SEEN, HostSeen, host_seen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.metrics import Summary
    from orchestrator.parse.events import RankLog
    from orchestrator.parse.records import Ready, Saved
    from orchestrator.parse.status import StatusProblem
    from orchestrator.plan import Cell, Plan
    from orchestrator.results import RunFolder

#: Of what the host saw, what is left out where it is empty.
SELDOM = ("sighted", "oom_killed")
MAX_HOST_BYTES = 16 << 20
Document = dict[str, object]


def derive(folder: RunFolder, plan: Plan, host: Mapping[str, object] | None = None) -> Document:
    """All that result.json holds, from `plan`, host.json and the raw files of the cells. Writes nothing.

    `host` is the content of host.json where that is not written yet.

    Raises ConfigError (E706) when host.json is missing or not what a run writes, or a raw file cannot be
    read. Whatever ranks and launchers wrote becomes a verdict, never an exception.
    """
    told = _host(folder) if host is None else _Host(folder.host, Fields(host))
    left: dict[str, Saved] = {}
    cells = [_cell(folder, cell, told, left, created_utc=plan.identity.created_utc) for cell in plan.cells]
    return {
        "schema": SCHEMA,
        "parser_version": PARSER_VERSION,
        "nx8_version": told.value("nx8_version"),
        "run": {
            "run_id": plan.identity.run_id,
            "created_utc": plan.identity.created_utc,
            "nonce": plan.identity.nonce,
            "cluster": plan.cluster,
            "vendor": plan.vendor,
            "transport": plan.transport,
            "argv": told.value("argv"),
            **({} if (staffing := told.value("staffing")) is None else {"staffing": staffing}),
        },
        "environment": {
            "host": told.value("host"),
            "nodes": told.value("nodes"),
            "images": told.value("images"),
            "git": told.value("git"),
        },
        **_attempts(told),
        "phases": told.value("phases"),
        "overhead_s": told.value("overhead_s"),
        "exit_code": worst(code for _, code in cells),
        "files": [described(path, folder.path) for path in (folder.plan, folder.host) if path.is_file()],
        "cells": [document for document, _ in cells],
    }


def render(document: Document) -> bytes:
    """The bytes of result.json."""
    return serialise(document)


def exit_code(verdict: str, host: HostSeen) -> int:
    """0 for MEASURED; what stopped the cell where that has its own code; 4 for every other cell."""
    if verdict == Verdict.MEASURED:
        return Exit.OK
    if host.stopped == "time_limit":
        return Exit.TIME_LIMIT
    if host.stop_signal is not None and 128 + host.stop_signal in WORST_FIRST:
        return 128 + host.stop_signal
    return Exit.CELL


class _Host:
    """host.json: the parts that are copied, and the parts that decide."""

    def __init__(self, path: Path, fields: Fields) -> None:
        self._path = path
        self._fields = fields

    def value(self, key: str) -> object:
        """Copied as it stands; null where an older or interrupted run did not write it."""
        return self._fields.value(key)

    @property
    def mem_total_bytes(self) -> int | None:
        try:
            return self._fields.inner("host").optional_integer("mem_total_bytes")
        except Misread:
            return None

    def containers(self, cell_id: str) -> dict[str, dict[str, Any]]:
        """By node what the host wrote of its container; empty where it wrote nothing of that kind."""
        found = self._fields.value("containers")
        cell = found.get(cell_id) if isinstance(found, dict) else None
        return (
            {name: one for name, one in cell.items() if isinstance(one, dict)}
            if isinstance(cell, dict)
            else {}
        )

    def seen(self, cell_id: str) -> HostSeen:
        """Raises ConfigError (E706) for an entry that no run writes."""
        cells = self._fields.inner("cells")
        try:
            return host_seen(cells.inner(cell_id)) if cell_id in cells else NOT_SEEN
        except (Misread, ValueError) as problem:
            raise _bad_host(self._path, f"{cell_id}: {problem}") from None


def _host(folder: RunFolder) -> _Host:
    data = read_bytes(folder.host, most=MAX_HOST_BYTES)
    if data is None:
        raise _bad_host(folder.host, "there is no such file")
    try:
        fields = strict_object(data)
        fields.inner("cells")
        return _Host(folder.host, fields)
    except Misread as problem:
        raise _bad_host(folder.host, str(problem)) from None


def _bad_host(path: Path, why: str) -> ConfigError:
    help_ = "a run writes it, also when it is stopped; without it nothing can be proven"
    return ConfigError(Problem(code="E706", message=f"{path}: {why}", help=help_))


def _cell(
    run: RunFolder, cell: Cell, host: _Host, left: dict[str, Saved], *, created_utc: str
) -> tuple[Document, int]:
    """`left` has what the first ranks of the cells before this one left for it, and gets this one's."""
    folder, seen = run.cell(cell.cell_id), host.seen(cell.cell_id)
    logs, statuses = read_logs(folder, cell), read_statuses(folder, cell)
    if (first := logs.get(0)) and first.saved:
        left[cell.cell_id] = first.saved
    before = left.get(cell.handed.cell_id) if cell.handed else None
    programs, stands = read_programs(folder, cell), read_stands(folder, cell)
    if cell.job.program is not None:
        logs = transcribed(cell, logs, programs)
    judgement = judge(
        cell,
        logs,
        statuses,
        seen,
        lists=lists_of(run, cell),
        before=before,
        programs=programs,
        stands=stands,
    )
    monitors = read_monitors(folder, cell)
    ceiling = ceiling_of(host.value("ceilings"), cell, created_utc=created_utc)
    summary = summarize(cell, logs, mem_total_bytes=host.mem_total_bytes, monitors=monitors, ceiling=ceiling)
    evaluation: Document = {}
    if cell.key is not None:
        accuracy, evaluation = evaluated(run, cell, logs, seen)
        summary += (accuracy,)
    if judgement.verdict is not Verdict.MEASURED:
        summary = summary.withheld(f"{judgement.verdict}: {judgement.reasons[0]}")
    document = {
        **_identity(cell),
        **_work(cell),
        "verdict": str(judgement.verdict),
        **_judged(judgement),
        "metrics": _metrics(summary),
        **({"evaluation": evaluation} if judgement.verdict is Verdict.MEASURED and evaluation else {}),
        **_degraded(cell, logs, judgement.verdict),
        # Left out rather than null: results of plans that had none stay the same bytes.
        **({"document": asdict(cell.document)} if cell.document else {}),
        "host_seen": _seen(seen),
        **_containers(host, cell.cell_id),
        "ranks": _ranks(cell, logs, statuses),
        "files": [described(path, folder.path) for path in regular_files(folder.path)],
    }
    return document, exit_code(judgement.verdict, seen)


def _attempts(told: _Host) -> Document:
    """Every try of what was tried more than once; nothing where nothing was."""
    attempts = told.value("attempts")
    return {"attempts": attempts} if isinstance(attempts, list | tuple) and len(attempts) > 1 else {}


def _degraded(cell: Cell, logs: Mapping[int, RankLog], verdict: Verdict) -> Document:
    """Who was slow, of a cell that was measured all the same; nothing where nobody was."""
    slow = stragglers(cell, logs) if verdict is Verdict.MEASURED else ()
    return {"degraded": [asdict(one) for one in slow]} if slow else {}


def _containers(host: _Host, cell_id: str) -> Document:
    """How often the links to the cell's nodes had to be made anew, and how its containers ended; nothing
    where it had none, or an older run did not write it down.
    """
    found = host.containers(cell_id)
    drops = [one["link_drops"] for one in found.values() if isinstance(one.get("link_drops"), int)]
    ends = {name: one["ending"] for name, one in found.items() if isinstance(one.get("ending"), dict)}
    return {"link_drops": sum(drops), "endings": ends} if drops else {}


def _seen(seen: HostSeen) -> Document:
    """Without what older runs did not have, and most have nothing of."""
    return {key: value for key, value in asdict(seen).items() if key not in SELDOM or value}


def _identity(cell: Cell) -> Document:
    return {
        "cell_id": cell.cell_id,
        "case": cell.case,
        "vendor": cell.vendor,
        "device": cell.device,
        "device_display": cell.device_display,
        "rehearsal": cell.rehearsal,
        "num_nodes": cell.num_nodes,
        "devices_per_node": cell.devices_per_node,
        "stage": cell.stage,
        "proxy": asdict(cell.proxy) if cell.proxy else None,
        "config_hash": cell.config_hash,
        "columns": list(cell.columns),
        "fix_hp": cell.fix_hp,
        "changed": dict(cell.changed),
    }


def _work(cell: Cell) -> Document:
    job = cell.job
    return {
        "engine": job.engine,
        "device_type": job.device.type,
        "backend": job.device.backend,
        "precision": asdict(job.precision),
        "parallel": _parallel(cell),
        "zero_stage": job.zero.stage,
        "recompute": job.recompute,
        "attention": job.attention,
        "seed": job.seed,
        "batch": asdict(job.batch),
        "steps": asdict(job.steps),
        "model": as_document(job.model),
        "data": _data(cell),
        "flops": asdict(cell.flops),
        "peak": asdict(cell.peak),
    }


def _data(cell: Cell) -> Document:
    """Without the paths, which are this machine's."""
    data: Document = as_document(cell.job.data)
    data.pop("file")
    if cell.job.data.samples is not None:
        samples = cell.job.data.samples
        data |= {"name": cell.job.data.name, "num_samples": samples.num_samples, "order": samples.order}
        data.pop("samples")
    return data


def _parallel(cell: Cell) -> Document:
    """The label is the tables' wording; how the model is cut is left out where it is not."""
    batch, cut = cell.job.batch, cell.job.parallel
    return {
        "data_parallel_size": batch.data_parallel_size,
        "world_size": batch.world_size,
        "label": cell.job.parallel_label,
        **(as_document(cut) if cut else {}),
    }


def _judged(judgement: Judgement) -> Document:
    return {
        "reasons": list(judgement.reasons),
        "cause_rank": judgement.cause_rank,
        "traceback": None if judgement.traceback is None else visible_lines(judgement.traceback),
        "proofs": [asdict(proof) for proof in judgement.proofs],
    }


def _metrics(summary: Summary) -> Document:
    return {
        metric.name: {
            "value": metric.value,
            "unit": metric.unit,
            "direction": metric.direction,
            "reason": metric.reason,
            "formula": metric.formula,
            "details": dict(metric.details),
        }
        for metric in summary.metrics
    }


def _ranks(
    cell: Cell, logs: Mapping[int, RankLog], statuses: Mapping[int, NodeStatus | StatusProblem]
) -> list[Document]:
    """What each planned rank said of itself, and how much of its file was read; text from logs made
    printable.
    """
    ranks: list[Document] = []
    for launch in cell.launches:
        for rank in launch.ranks:
            log = logs.get(rank)
            hello, ready = (log.hello, log.ready) if log else (None, None)
            ranks.append(
                {
                    "rank": rank,
                    "node_rank": launch.node_rank,
                    "records": log.num_records if log else 0,
                    "problems": [
                        {"line": problem.line, "reason": problem.reason, "sample": problem.sample}
                        for problem in (log.problems if log else ())
                    ],
                    "hostname": visible(hello.hostname) if hello else None,
                    "os": visible(hello.os) if hello else None,
                    "device_name": visible(hello.device_name) if hello and hello.device_name else None,
                    "versions": {
                        visible(name, limit=80): None if version is None else visible(version, limit=80)
                        for name, version in (hello.versions if hello else ())
                    },
                    **_computes(ready),
                    **_dropped(statuses.get(launch.node_rank), rank),
                }
            )
    return ranks


def _dropped(status: NodeStatus | StatusProblem | None, rank: int) -> Document:
    """How much of what a rank printed is missing between both ends; nothing where all of it is there."""
    found = status.rank(rank) if isinstance(status, NodeStatus) else None
    return {"dropped_bytes": found.dropped_bytes} if found and found.dropped_bytes else {}


def _computes(ready: Ready | None) -> Document:
    """How the rank says that it computes; nothing of a rank that does not say it, as those of older runs."""
    if ready is None or ready.compiled is None:
        return {}
    return {
        "computes": {
            "compiled": ready.compiled,
            "loss_scaling": None if ready.loss_scaling is None else visible(ready.loss_scaling, limit=64),
            "tf32": ready.tf32,
            "flops_per_token": ready.flops_per_token,
        }
    }
