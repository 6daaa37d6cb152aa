"""Makes cells, plans and files of a run that are true to docs/contract.md, to be read or forged by tests."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.parse.events import EventReader, RankLog
from orchestrator.parse.status import NodeStatus, StatusProblem, read_status
from orchestrator.plan import (
    BatchPlan,
    Cell,
    DataPlan,
    DevicePlan,
    FlopsPlan,
    Identity,
    Job,
    Launch,
    LimitsPlan,
    ModelPlan,
    OptimizerPlan,
    PeakPlan,
    Plan,
    PrecisionPlan,
    ProxyPlan,
    Steps,
    ZeroPlan,
    to_json,
)
from orchestrator.results import RunFolder, write_atomic
from orchestrator.verdict import HostSeen, Judgement, judge

if TYPE_CHECKING:
    from pathlib import Path

NONCE = "0123456789abcdef" * 2
OTHER_NONCE = "fedcba9876543210" * 2
DATA_SHA256 = hashlib.sha256(b"tokens").hexdigest()
COLUMNS = ("config", "fix_hp", "tokens_per_second_per_device", "loss", "mem", "mfu")
SEEN = HostSeen(
    started=True, not_run_reason=None, launcher_exit=0, launcher_wall_s=5000.0, stopped=None, detail=""
)
A800 = PeakPlan(dtype="bf16", tflops=312.0, source="NVIDIA A100 datasheet, dense", reason=None)
H800 = PeakPlan(dtype="bf16", tflops=989.0, source="NVIDIA H100 datasheet, dense", reason=None)
UNKNOWN_PEAK = PeakPlan(dtype="bf16", tflops=None, source=None, reason="the vendor publishes none")
NOMINAL_7B = FlopsPlan(multiplier=6, parameters=7_000_000_000, source="FlagPerf llama2_7b: 6 × 7e9")
PROXY = ProxyPlan(why="a CPU cannot train 7 B parameters", of="llama2_7b")


def make_cell(
    *,
    cell_id: str = "llama2_7b-1x2",
    num_nodes: int = 1,
    per_node: int = 2,
    warmup: int = 2,
    measured: int = 10,
    micro_batch: int = 1,
    accumulate: int = 2,
    sequence: int = 4096,
    device_type: str = "cuda",
    display: str = "A800",
    peak: PeakPlan = A800,
    stage: str | None = None,
    proxy: ProxyPlan | None = None,
    fix_hp: str = "/",
    columns: tuple[str, ...] = COLUMNS,
    tie_embeddings: bool = False,
) -> Cell:
    world = num_nodes * per_node
    job = Job(
        contract=1,
        run_id="20261121T100000Z-llama2_7b",
        cell_id=cell_id,
        nonce=NONCE,
        case="llama2_7b",
        seed=1234,
        engine="deepspeed",
        device=DevicePlan(
            type=device_type,
            plugin=None,
            backend="gloo" if device_type == "cpu" else "nccl",
            deepspeed_accelerator=device_type,
        ),
        model=ModelPlan(
            architecture="llama",
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=32,
            ffn_hidden_size=11008,
            vocab_size=32000,
            norm_eps=1e-5,
            rope_theta=10000.0,
            init_std=0.02,
            tie_embeddings=tie_embeddings,
        ),
        data=DataPlan(file="/data/x.tokens", sha256=DATA_SHA256, num_tokens=100_000_000, dtype="int16"),
        batch=BatchPlan(
            sequence_length=sequence,
            micro_batch_size=micro_batch,
            gradient_accumulation_steps=accumulate,
            data_parallel_size=world,
            world_size=world,
            global_batch_size=micro_batch * accumulate * world,
        ),
        steps=Steps(warmup_steps=warmup, measured_steps=measured),
        optimizer=OptimizerPlan(
            name="adamw",
            learning_rate=1e-5,
            weight_decay=0.1,
            beta1=0.9,
            beta2=0.95,
            eps=1e-5,
            gradient_clipping=1.0,
        ),
        precision=PrecisionPlan(label="bf16", compute_dtype="bf16", mechanism="engine"),
        recompute="none",
        attention="sdpa",
        zero=ZeroPlan(
            stage=3,
            overlap_comm=True,
            contiguous_gradients=True,
            reduce_scatter=True,
            reduce_bucket_size=10_000_000,
            allgather_bucket_size=100_000_000,
            stage3_max_live_parameters=1_000_000_000,
            stage3_max_reuse_distance=1_000_000_000,
            stage3_prefetch_bucket_size=10_000_000,
            stage3_param_persistence_threshold=100_000,
            sub_group_size=1_000_000_000,
        ),
    )
    return Cell(
        cell_id=cell_id,
        case="llama2_7b",
        vendor="nvidia",
        device=display,
        device_display=display,
        num_nodes=num_nodes,
        devices_per_node=per_node,
        stage=stage,
        proxy=proxy,
        fix_hp=fix_hp,
        changed={},
        columns=columns,
        flops=NOMINAL_7B,
        peak=peak,
        limits=LimitsPlan(startup_s=600.0, stall_s=60.0),
        config_hash=hashlib.sha256(cell_id.encode()).hexdigest(),
        job=job,
        launches=tuple(
            Launch(
                node=f"node-{node}",
                node_rank=node,
                ranks=tuple(range(node * per_node, (node + 1) * per_node)),
                argv=("python", "launch.py"),
                environment={},
                host_output=f"/runs/cells/{cell_id}/node{node}",
            )
            for node in range(num_nodes)
        ),
    )


def make_plan(*cells: Cell) -> Plan:
    return Plan(
        schema=1,
        identity=Identity(
            run_id="20261121T100000Z-llama2_7b",
            nonce=NONCE,
            created_utc="2026-11-21T10:00:00+00:00",
            host_run_dir="/runs",
        ),
        cluster="example",
        vendor="nvidia",
        transport="local",
        cells=cells,
    )


def sealed(record: dict[str, Any]) -> bytes:
    """One line with its CRC, whatever the record says."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
    head = text.encode("utf-8", "surrogatepass")[:-1]
    return head + b',"crc32":"%08x"}\n' % zlib.crc32(head)


def numbered(records: list[dict[str, Any]], *, rank: int, nonce: str = NONCE) -> list[bytes]:
    """The lines of a rank's file, seq and end record included where the last record is an `end`."""
    lines: list[bytes] = []
    t_s = 1000.0
    for seq, record in enumerate(records):
        end_s = record.get("end_s")
        t_s = end_s + 0.0005 if isinstance(end_s, float) else t_s
        common = {"v": 1, "nonce": nonce, "rank": rank, "seq": seq, "t_s": t_s}
        content = dict(record)
        if content["event"] == "end":
            content.setdefault("count", seq)
            content.setdefault("sha256", hashlib.sha256(b"".join(lines)).hexdigest())
        lines.append(sealed(common | content))
    return lines


def make_records(
    cell: Cell, rank: int, *, step_s: float | list[float] = 2.0, loss: float = 5.0, steps: int | None = None
) -> list[dict[str, Any]]:
    """What an undisturbed rank writes. Loss falls by 0.01 a step; a millisecond lies between two steps."""
    job = cell.job
    batch, total = job.batch, job.steps.total if steps is None else steps
    durations = step_s if isinstance(step_s, list) else [step_s] * total
    per_node = cell.devices_per_node
    samples = batch.micro_batch_size * batch.gradient_accumulation_steps
    begin_s = [1010.0 + sum(one + 0.001 for one in durations[:n]) for n in range(total)]
    return [
        {
            "event": "hello",
            "world_size": batch.world_size,
            "local_rank": rank % per_node,
            "hostname": f"node-{rank // per_node}",
            "pid": 4000 + rank,
            "wall_time_s": 1795255200.5,
            "device_type": job.device.type,
            "device_name": cell.device_display,
            "backend": job.device.backend,
            "engine": job.engine,
            "attention": job.attention,
            "versions": {"python": "3.11.7", "torch": "2.13.0", "deepspeed": "0.19.8", "numpy": None},
            "os": "Linux-6.18",
            "seed": job.seed,
            "job_sha256": hashlib.sha256(to_json(job).encode("utf-8")).hexdigest(),
        },
        {
            "event": "ready",
            "num_parameters": job.model.num_parameters,
            "num_embedding_parameters": job.model.num_embedding_parameters,
            "data_sha256": job.data.sha256,
            "data_num_tokens": job.data.num_tokens,
            "zero_stage": job.zero.stage,
            "compute_dtype": job.precision.compute_dtype,
            "recompute": job.recompute,
            "micro_batch_size": batch.micro_batch_size,
            "gradient_accumulation_steps": batch.gradient_accumulation_steps,
            "sequence_length": batch.sequence_length,
            "world_size": batch.world_size,
        },
        *(
            {
                "event": "step",
                "step": n + 1,
                "start_s": begin_s[n],
                "end_s": begin_s[n] + durations[n],
                "samples": samples,
                "tokens": samples * batch.sequence_length,
                "loss": loss - 0.01 * n,
                "grad_norm": 1.5,
                "learning_rate": job.optimizer.learning_rate,
            }
            for n in range(total)
        ),
        {
            "event": "memory",
            "peak_rss_bytes": 2 << 30,
            "device_peak_allocated_bytes": None if job.device.type == "cpu" else 40 << 30,
            "device_peak_reserved_bytes": None if job.device.type == "cpu" else 44 << 30,
        },
        {"event": "end", "steps": total},
    ]


@dataclass
class Made:
    """The files of one cell, in memory; change them, then judge or write them."""

    cell: Cell
    records: dict[int, list[dict[str, Any]]]
    host: HostSeen = SEEN
    lines: dict[int, list[bytes]] = field(default_factory=dict)
    statuses: dict[int, dict[str, Any]] = field(default_factory=dict)

    def seal(self) -> Made:
        """Makes lines and statuses of the records, as an honest trainer and launcher would."""
        self.lines = {rank: numbered(records, rank=rank) for rank, records in self.records.items()}
        self.statuses = {
            launch.node_rank: make_status(launch, {rank: self.lines[rank] for rank in launch.ranks})
            for launch in self.cell.launches
        }
        return self

    def rank_status(self, rank: int) -> dict[str, Any]:
        return next(one for s in self.statuses.values() for one in s["ranks"] if one["rank"] == rank)

    def logs(self) -> dict[int, RankLog]:
        return {rank: read(b"".join(lines), rank) for rank, lines in self.lines.items()}

    def read_statuses(self) -> dict[int, NodeStatus | StatusProblem]:
        return {node: read_status(json.dumps(status).encode()) for node, status in self.statuses.items()}

    def judge(self) -> Judgement:
        return judge(self.cell, self.logs(), self.read_statuses(), self.host)

    def write(self, folder: RunFolder) -> None:
        files = folder.cell(self.cell.cell_id)
        write_atomic(files.job, to_json(self.cell.job).encode())
        for launch in self.cell.launches:
            node = files.node(launch.node_rank)
            if launch.node_rank in self.statuses:
                write_atomic(node.status, json.dumps(self.statuses[launch.node_rank]).encode())
            for rank in launch.ranks:
                if rank in self.lines:
                    write_atomic(node.rank(rank).events, b"".join(self.lines[rank]))


def make_status(launch: Launch, lines: dict[int, list[bytes]]) -> dict[str, Any]:
    ranks = []
    for local, rank in enumerate(launch.ranks):
        last = json.loads(lines[rank][-1]) if lines[rank] else {}
        ranks.append(
            {
                "rank": rank,
                "local_rank": local,
                "pid": 4000 + rank,
                "exit_code": 0,
                "signal": None,
                "ended_s": (last["t_s"] + 1.0 if last else 5900.0) + local,
                "killed": False,
                "end_count": last.get("count"),
                "end_sha256": last.get("sha256"),
            }
        )
    return {
        "contract": 1,
        "nonce": NONCE,
        "node_rank": launch.node_rank,
        "launcher": "torchrun",
        "master_port": 41234,
        "started_s": 1000.0,
        "ended_s": 5910.0,
        "wall_s": 4910.0,
        "stopped_by": None,
        "ranks": ranks,
    }


def honest(cell: Cell | None = None, *, step_s: float | list[float] = 2.0, loss: float = 5.0) -> Made:
    """A cell in which everything went well."""
    cell = cell or make_cell()
    ranks = [rank for launch in cell.launches for rank in launch.ranks]
    return Made(
        cell=cell, records={rank: make_records(cell, rank, step_s=step_s, loss=loss) for rank in ranks}
    ).seal()


def read(data: bytes, rank: int = 0) -> RankLog:
    reader = EventReader(rank)
    reader.feed(data)
    return reader.finish()


def ended_as(made: Made, rank: int, *, after_s: float, **how: Any) -> None:
    """Changes how the launcher saw `rank` end, `after_s` seconds after its start."""
    made.rank_status(rank).update({"ended_s": 1000.0 + after_s, "end_count": None, "end_sha256": None} | how)


def host_document(cells: dict[str, HostSeen]) -> dict[str, Any]:
    return {
        "schema": 1,
        "nx8_version": "0.1.0",
        "argv": ["nx8", "run", "llama2_7b"],
        "host": {
            "hostname": "controller",
            "os": "Debian GNU/Linux 12",
            "kernel": "6.18.0",
            "architecture": "x86_64",
            "cpu_model": "Some CPU @ 2.00GHz",
            "cpu_count": 2,
            "mem_total_bytes": 16 << 30,
            "python": "3.11.7",
        },
        "git": {"commit": "0" * 40, "dirty": False, "reason": None},
        "phases": [{"name": "plan", "seconds": 0.25}, {"name": "train", "seconds": 120.5}],
        "overhead_s": 1.25,
        "cells": {cell_id: asdict(seen) for cell_id, seen in cells.items()},
    }


def write_run(root: Path, *mades: Made, seen: dict[str, HostSeen] | None = None) -> tuple[RunFolder, Plan]:
    """A whole run folder on disk: plan, host and the cells' files."""
    plan = make_plan(*(made.cell for made in mades))
    folder = RunFolder.create(root, plan.identity.run_id)
    write_atomic(folder.plan, to_json(plan).encode())
    told = host_document({made.cell.cell_id: made.host for made in mades} | (seen or {}))
    write_atomic(folder.host, json.dumps(told).encode())
    for made in mades:
        made.write(folder)
    return folder, plan


def not_run(reason: str) -> HostSeen:
    return replace(SEEN, started=False, not_run_reason=reason, launcher_exit=None, launcher_wall_s=None)
