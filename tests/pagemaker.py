"""Runs for the report page: nights of a cluster with records, monitors and facts, derived by our own code."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.cases import Case
from orchestrator.derive import derive, render
from orchestrator.document import Text
from orchestrator.load import load
from orchestrator.plan import DocumentPlan, to_json
from orchestrator.probe import Sample, render_probe
from orchestrator.results import RunFolder, write_atomic
from orchestrator.verdict import HostSeen
from tests.cellmaker import H800, Made, host_document, make_cell, make_plan, make_records
from tests.documentmaker import ROOT, infiniband, machine
from tests.test_monitor import probe_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan import Cell

GIB = 1024**3
#: 10.6 k token/p/s: an MFU near 45 %.
STEP_S = 44 * 4096 / 10_600
SEEN = HostSeen(
    started=True, not_run_reason=None, launcher_exit=0, launcher_wall_s=90_000.0, stopped=None, detail=""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One run: `slow` is a rank that computes longer by this factor, `speed` a factor of all figures."""

    number: int
    speed: float = 1.0
    slow: tuple[int, float] | None = None
    driver: str = "535.129.03"
    cells: int = 1
    steps: int = 40
    per_node: int = 8
    num_nodes: int = 4
    fails: bool = False
    monitored: bool = True

    @property
    def run_id(self) -> str:
        return f"202611{self.number:02d}T020000Z-llama2_7b-nvidia-{self.number:06x}"

    @property
    def created(self) -> str:
        return f"2026-11-{self.number:02d}T02:00:00+00:00"


def write_night(runs: Path, night: Night) -> RunFolder:
    """The run's whole folder, its result derived from its raw files."""
    mades = [made_of(night, number) for number in range(night.cells)]
    plan = make_plan(*(made.cell for made in mades))
    identity = replace(plan.identity, run_id=night.run_id, created_utc=night.created)
    plan = replace(plan, identity=identity, transport="ssh")
    folder = RunFolder.create(runs, night.run_id)
    write_atomic(folder.plan, to_json(plan).encode())
    told = host_document({made.cell.cell_id: made.host for made in mades})
    told["argv"] = ["nx8", "run", "llama2_7b", "--cluster", "example"]
    told["nodes"] = {launch.node: _facts(night) for launch in mades[0].cell.launches}
    write_atomic(folder.host, json.dumps(told).encode())
    for made in mades:
        made.write(folder)
        if night.monitored:
            _write_monitors(made, folder)
    write_atomic(folder.result, render(derive(folder, plan)))
    return folder


def made_of(night: Night, number: int) -> Made:
    cell = _cell(night, number)
    draw = random.Random(night.number * 100 + number)
    total = cell.job.steps.total
    noise = [1 + abs(draw.gauss(0, 0.006)) + (0.9 if n == 0 else 0.2 / (n + 1)) for n in range(total)]
    step_s = STEP_S * cell.job.batch.gradient_accumulation_steps / 44
    durations = [step_s / night.speed * one for one in noise]
    records: dict[int, list[dict[str, Any]]] = {}
    for rank in range(cell.world_size):
        found = make_records(cell, rank, step_s=durations, loss=7.1)
        own = 0.86 + draw.gauss(0, 0.004)
        factor = own * night.slow[1] if night.slow and night.slow[0] == rank else own
        for one in found:
            if one["event"] == "step":
                n = one["step"] - 1
                one["loss"] = 4.4 + 2.9 * math.exp(-n / (total / 4)) + draw.gauss(0, 0.02)
                one["data_wait_s"] = 0.004 * durations[n]
                one["comm_wait_s"] = max(0.0, durations[n] * (0.996 - min(0.99, factor)))
        records[rank] = found
    if night.fails and number == 0:
        return _failed(cell, records)
    return Made(cell=cell, records=records, host=SEEN).seal()


def _cell(night: Night, number: int) -> Cell:
    scale = f"{night.num_nodes}x{night.per_node}"
    cell = make_cell(
        cell_id=f"llama2_7b-{scale}-{number}",
        num_nodes=night.num_nodes,
        per_node=night.per_node,
        warmup=5,
        measured=night.steps - 5,
        accumulate=44 if night.steps <= 100 else 1,  # the launcher lives 80 minutes
        display="H800",
        peak=H800,
        fix_hp="/" if number == 0 else f"LBS={number + 1}",
    )
    job = replace(cell.job, run_id=night.run_id)
    document = load(ROOT / "cases" / "llama2_7b" / "case.yaml", Case).document
    assert document is not None
    title = Text(zh="NVIDIA H800", en="NVIDIA H800")
    words = DocumentPlan(
        words=replace(document, title=title, model="llama2_7b"),
        default_batch={"micro_batch_size": 1, "sequence_length": 4096, "gradient_accumulation_steps": 44},
        sources=dict.fromkeys(
            ("micro_batch_size", "sequence_length", "gradient_accumulation_steps"), "case.yaml"
        ),
    )
    return replace(cell, job=job, probe=probe_of("nvidia"), device_memory_bytes=80 * GIB, document=words)


def _facts(night: Night) -> dict[str, Any]:
    return machine(
        machine_model="NVIDIA H800(80G)",
        accelerator_model="NVIDIA_H800-80GB",
        cpu_model="Intel(R) Xeon(R) Platinum 8462Y+",
        network=infiniband(),
        os="Ubuntu 22.04 LTS",
        kernel="5.15.0-25-generic",
        driver=night.driver,
        docker="24.0.7",
    )


def _failed(cell: Cell, records: dict[int, list[dict[str, Any]]]) -> Made:
    """Rank 3 runs out of memory after 22 steps, and its launcher stops the others."""
    last = 22
    for rank, found in records.items():
        records[rank] = [*found[: 2 + last]]
    records[3].append(
        {
            "event": "fail",
            "type": "OutOfMemoryError",
            "message": "CUDA out of memory. Tried to allocate 2.10 GiB (GPU 3; 79.1 GiB total; 0.4 GiB free)",
            "traceback": "Traceback (most recent call last):\n"
            '  File "train.py", line 212, in step\n    self.engine.backward(loss)\n'
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.10 GiB",
        }
    )
    made = Made(cell=cell, records=records, host=replace(SEEN, launcher_exit=1)).seal()
    for rank in records:
        status = made.rank_status(rank)
        status.update(end_count=None, end_sha256=None, exit_code=1 if rank == 3 else None)
        if rank != 3:
            status.update(signal="SIGTERM", killed=True, ended_s=5905.0)
    for status in made.statuses.values():
        status["stopped_by"] = "rank_failed"
    return made


def _write_monitors(made: Made, folder: RunFolder) -> None:
    cell = made.cell
    assert cell.probe is not None
    steps = [one for one in made.records[0] if one["event"] == "step"]
    begin, end = steps[0]["start_s"], steps[-1]["end_s"]
    draw = random.Random(cell.cell_id)
    for launch in cell.launches:
        lines, at = [], begin - 20.0
        while at < end + 10:
            warm = 1 - math.exp(-max(0.0, at - begin) / 90)
            samples = tuple(
                Sample(
                    index=n,
                    temperature_c=38.0
                    + round(30 * warm + (9 if rank == 3 else 0) * warm + draw.gauss(0, 0.6)),
                    power_w=90 + 560 * warm + draw.gauss(0, 9),
                    memory_used_bytes=int((3 + 59 * min(1.0, warm * 4)) * GIB),
                    memory_total_bytes=80 * GIB,
                    utilisation=0.98,
                )
                for n, rank in enumerate(launch.ranks)
            )
            text = render_probe(samples, cell.probe)
            out = text if isinstance(text, str) else text.decode()
            lines.append(json.dumps({"t_s": at, "rc": 0, "out": out, "err": "", "took_s": 0.25}))
            at += 5.0
        lines.append(json.dumps({"t_s": end + 12, "end": "asked to", "samples": len(lines)}))
        path = folder.cell(cell.cell_id).node(launch.node_rank).monitor
        write_atomic(path, ("\n".join(lines) + "\n").encode())


def write_log(folder: RunFolder, cell_id: str, node: int, rank: int, text: str) -> None:
    path = folder.cell(cell_id).node(node).rank(rank).stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", "surrogatepass")
