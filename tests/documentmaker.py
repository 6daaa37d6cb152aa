"""Results with the facts of the five published documents: what their machines were, what was said to have
been measured on them. The figures go through the same records, proofs and metrics as those of any run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cases import Case
from orchestrator.configs import DeviceConfig
from orchestrator.derive import derive, render
from orchestrator.document import Document, Text
from orchestrator.load import load
from orchestrator.plan import BatchPlan, Cell, DocumentPlan, FlopsPlan, PeakPlan, PrecisionPlan
from orchestrator.report.reference import BATCH
from tests.cellmaker import Made, honest, make_cell, not_run, write_run

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data" / "documents"
LLAMA = ("config", "fix_hp", "tokens_per_second_per_device", "loss", "mem", "mfu")
LLAVA = (*LLAMA[:-1], "acc_mmmu", "mfu")
LLAMA_70B: dict[str, int] = {
    "hidden_size": 8192,
    "num_layers": 80,
    "num_heads": 64,
    "num_kv_heads": 8,
    "ffn_hidden_size": 28672,
}
MIXED = ("config", "precision", "parallel", *LLAMA[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshipped:
    """A case of which only the words are here."""

    document: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a published table. `speed` in token/p/s; `peak`: (dtype, TFLOPS); null where the document
    has none. `memory`: used and capacity in GiB.
    """

    speed: float | None
    loss: float
    memory: tuple[float, float]
    peak: tuple[str, float | None]
    micro_batch: int
    sequence: int
    accumulate: int = 1
    stage: str | None = None
    zero: int = 3
    multiplier: int = 6
    parallel: str | None = None
    fix_hp: str = "/"
    precision: str = "bf16"
    attention: str = "flash_attention_2"
    recompute: str = "none"
    accuracy: float | None = None
    ran: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published document: `seed` is the number of its text in data/published."""

    seed: str
    case: str
    vendor: str
    vendor_name: str
    device: str
    nodes: int
    parameters: int
    columns: tuple[str, ...]
    defaults: tuple[int | tuple[int, int], int, int]
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    versions: dict[str, str]
    images: dict[str, Any]


def machine(**facts: Any) -> dict[str, Any]:
    """A node's facts as a run records them; what is not given is not known."""
    fields = ("machine_model", "accelerator_model", "cpu_model", "os", "kernel", "driver", "docker")
    unknown = {name: "DMI is not readable there" for name in fields if facts.get(name) is None}
    if "machine_model" in unknown:
        unknown["machine_model"] = "the firmware names no maker and product in /sys/class/dmi/id"
    if not facts.get("network"):
        unknown["network"] = "no RDMA port is active, and the cluster file names no interface"
    return {**dict.fromkeys(fields), "network": [], "versions": {}, **facts, "unknown": unknown}


def infiniband(*, links: int = 1) -> list[dict[str, Any]]:
    return [
        {"interface": f"mlx5_{n}", "kind": "InfiniBand", "rate_gbps": 200.0, "links": 1} for n in range(links)
    ]


DOCUMENTS = (
    Published(
        seed="000",
        case="llava1.5_13b",
        vendor="cambricon",
        vendor_name="Cambricon",
        device="MLU",
        nodes=1,
        parameters=13_000_000_000,
        columns=LLAVA,
        defaults=((32, 16), 2048, 1),
        rows=(
            Row(
                speed=None,
                loss=2.0,
                memory=(70, 80),
                peak=("bf16", None),
                micro_batch=32,
                sequence=2048,
                stage="pretrain",
                zero=2,
                multiplier=2,
                ran=False,
            ),
            Row(
                speed=None,
                loss=2.0,
                memory=(70, 80),
                peak=("bf16", None),
                micro_batch=16,
                sequence=2048,
                stage="finetune",
                ran=False,
            ),
        ),
        machine=machine(os="Ubuntu 22.04", kernel="5.15.0-107-generic", driver="v5.10.34", docker="25.0.3"),
        versions={},
        images={"nx8/cambricon:1": {"id": "sha256:" + "0" * 64, "versions": {"deepspeed": "0.13.2"}}},
    ),
    Published(
        seed="001",
        case="llava1.5_7b",
        vendor="nvidia",
        vendor_name="NVIDIA",
        device="A800",
        nodes=1,
        parameters=7_000_000_000,
        columns=LLAVA,
        defaults=((32, 16), 2048, 1),
        rows=(
            Row(
                speed=4013,
                loss=2.1025,
                memory=(74, 81),
                peak=("bf16", 312.0),
                micro_batch=32,
                sequence=2048,
                stage="pretrain",
                zero=2,
                multiplier=2,
            ),
            Row(
                speed=2937,
                loss=0.4796,
                memory=(78, 81),
                peak=("bf16", 312.0),
                micro_batch=16,
                sequence=2048,
                stage="finetune",
                accuracy=0.359,
            ),
        ),
        machine=machine(
            machine_model="NVIDIA DGX A800(80G)",
            accelerator_model="NVIDIA_A800-SXM4-80GB",
            cpu_model="AMD EPYC7742-64core@1.5G",
            network=infiniband(),
            os="Ubuntu 20.04",
            kernel="5.4.0-126-generic",
            driver="470.141.10",
            docker="20.10.18",
        ),
        versions={"deepspeed": "0.13.1"},
        images={},
    ),
    Published(
        seed="002",
        case="llama2_7b",
        vendor="kunlunxin",
        vendor_name="Kunlunxin",
        device="R300",
        nodes=1,
        parameters=7_000_000_000,
        columns=LLAMA,
        defaults=(1, 4096, 1),
        rows=(
            Row(
                speed=1000,
                loss=5.27,
                memory=(29, 32),
                peak=("fp16", 128.0),
                micro_batch=12,
                sequence=512,
                fix_hp="MPE=512 LBS=12",
                precision="fp16",
                attention="eager",
                recompute="full",
            ),
        ),
        machine=machine(
            machine_model="昆仑芯AI加速器组R480-X8",
            accelerator_model="昆仑芯AI加速卡R300",
            cpu_model="Intel(R) Xeon(R) Platinum 8350C CPU @ 2.60",
            network=infiniband(),
            os="Ubuntu 20.04",
            kernel="5.4.0-26-generic",
            driver="4.23",
            docker="20.10.18",
        ),
        versions={"XPyTorch": "2.0.1", "deepspeed": "0.10.1", "transformers": "4.32.1"},
        images={"xpytorch/kunlunxin-deepspeed:v1.0": "sha256:" + "2" * 64},
    ),
    Published(
        seed="003",
        case="llama2_7b",
        vendor="mthreads",
        vendor_name="Moore Threads",
        device="S4000",
        nodes=1,
        parameters=7_000_000_000,
        columns=LLAMA,
        defaults=(1, 4096, 1),
        rows=(
            Row(
                speed=1000,
                loss=3.20,
                memory=(44.2, 48.0),
                peak=("fp16", 98.0),
                micro_batch=6,
                sequence=4096,
                fix_hp="LBS=6",
                precision="amp",
                attention="sdpa",
                recompute="full",
            ),
        ),
        machine=machine(
            machine_model="MCCX D800",
            accelerator_model="S4000",
            cpu_model="Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz",
            network=infiniband(links=2),
            os="Ubuntu 20.04 LTS",
            kernel="5.4.0-42-generic",
            driver="2.2.0",
            docker="20.10.18",
            versions={"musa_toolkits": "1.4.0+git4e25703", "mublas": "1.1.0+gite484aa2"},
        ),
        versions={"torch": "2.0.0", "torch_musa": "git8ea3501"},
        images={"PyTorch2.0_musa1.4_ec6a747fd342": {"id": "sha256:" + "3" * 64, "versions": {}}},
    ),
    Published(
        seed="004",
        case="llama2_70b",
        vendor="nvidia",
        vendor_name="NVIDIA",
        device="H800",
        nodes=4,
        parameters=70_000_000_000,
        columns=MIXED,
        defaults=(1, 4096, 44),
        rows=tuple(
            Row(
                speed=speed,
                loss=loss,
                memory=(used, 80),
                peak=peak,
                micro_batch=1,
                sequence=4096,
                accumulate=gas,
                parallel=parallel,
                fix_hp=fix_hp,
                precision=precision,
                recompute=recompute,
            )
            for speed, loss, used, peak, gas, parallel, fix_hp, precision, recompute in (
                (253.61, 7.1, 77, ("tf32", 495.0), 44, "TP8PP4DP1", "recompute=True", "fp32", "full"),
                (641.93, 5.7, 62, ("bf16", 989.0), 44, "TP8PP4DP1", "/", "amp", "none"),
                (791.37, 5.6, 74, ("bf16", 989.0), 44, "TP4PP8DP1", "/", "amp", "none"),
                (
                    908.29,
                    5.6,
                    74,
                    ("bf16", 989.0),
                    1024,
                    "TP4PP8DP1",
                    "GAS=1024(GBS=1024=4M tokens)",
                    "amp",
                    "none",
                ),
            )
        ),
        machine=machine(
            machine_model="NVIDIA H800(80G)",
            accelerator_model="NVIDIA_H800-80GB",
            cpu_model="Intel(R) Xeon(R) Platinum 8462Y+",
            network=infiniband(),
            os="Ubuntu 22.04 LTS",
            kernel="5.15.0-25-generic",
            driver="535.129.03",
            docker="24.0.7",
        ),
        versions={"FlagScale": "git@6fc099c", "sentencepiece": "0.1.99"},
        images={},
    ),
)


def result_of_document(root: Path, published: Published) -> dict[str, Any]:
    """result.json of a run of that case on those machines, with the published figures in its records."""
    mades = [_made(published, row, n) for n, row in enumerate(published.rows, start=1)]
    folder, plan = write_run(root, *mades)
    result = json.loads(render(derive(folder, replace(plan, vendor=published.vendor, transport="ssh"))))
    names = [f"node-{n}" for n in range(published.nodes)]
    result["environment"]["nodes"] = dict.fromkeys(names, published.machine)
    result["environment"]["images"] = published.images
    for cell, row in zip(result["cells"], published.rows, strict=True):
        _say(cell, row)
    return result


def words_of(published: Published) -> Document:
    """The case's own words, changed by the device's config."""
    shipped = ROOT / "cases" / published.case / "case.yaml"
    case = (
        load(shipped, Case).document
        if shipped.exists()
        else load(DATA / f"{published.case}.yaml", Unshipped).document
    )
    assert case is not None
    scale = f"{published.device}x{published.nodes}x8"
    config = load(DATA / "configs" / published.case / f"{scale}.yaml", DeviceConfig)
    words = case.changed(config.document)
    name = f"{published.vendor_name} {published.device}"
    return replace(words, title=words.title or Text(zh=name, en=name), model=words.model or published.case)


def _made(published: Published, row: Row, number: int) -> Made:
    cell = _cell(published, row, number)
    if not row.ran:
        return Made(cell=cell, records={}, host=not_run("the run was stopped by SIGTERM"))
    assert row.speed is not None
    batch = cell.job.batch
    step_s = batch.global_batch_size * batch.sequence_length / row.speed / batch.world_size
    # Loss falls by 0.01 a step; the table has the mean of the last five.
    made = honest(cell, step_s=step_s, loss=row.loss + 0.01 * (cell.job.steps.total - 3))
    for records in made.records.values():
        records[0]["versions"] = published.versions
    return made.seal()


def _cell(published: Published, row: Row, number: int) -> Cell:
    cell = make_cell(
        cell_id=f"{published.case}-{number}",
        num_nodes=published.nodes,
        per_node=8,
        micro_batch=row.micro_batch,
        accumulate=row.accumulate,
        sequence=row.sequence,
        display=published.device,
        peak=PeakPlan(dtype=row.peak[0], tflops=row.peak[1], source="vendor's data sheet", reason=None)
        if row.peak[1]
        else PeakPlan(dtype=row.peak[0], tflops=None, source=None, reason="no public figure was read"),
        stage=row.stage,
        fix_hp=row.fix_hp,
        columns=published.columns,
    )
    job = replace(
        cell.job,
        zero=replace(cell.job.zero, stage=row.zero),
        recompute=row.recompute,
        precision=PrecisionPlan(label=row.precision, compute_dtype="bf16", mechanism="engine"),
        batch=_batch(cell.job.batch, row),
        model=replace(cell.job.model, **LLAMA_70B)
        if published.parameters == 70_000_000_000
        else cell.job.model,
    )
    lbs, mpe, gas = published.defaults
    if isinstance(lbs, tuple):
        lbs = lbs[0] if row.stage == "pretrain" else lbs[1]
    return replace(
        cell,
        case=published.case,
        vendor=published.vendor,
        job=replace(job, case=published.case),
        flops=FlopsPlan(multiplier=row.multiplier, parameters=published.parameters, source="published rule"),
        document=DocumentPlan(
            words=words_of(published),
            default_batch=dict(zip(BATCH, (lbs, mpe, gas), strict=True)),
            sources=dict.fromkeys(BATCH, "case.yaml"),
        ),
    )


def _batch(batch: BatchPlan, row: Row) -> BatchPlan:
    """Tensor and pipeline parallel rows have one replica."""
    if row.parallel is None:
        return batch
    changed = asdict(batch) | {"data_parallel_size": 1, "global_batch_size": row.accumulate}
    return BatchPlan(**changed)


def _say(cell: dict[str, Any], row: Row) -> None:
    """What no run of ours can record yet: other parallelism and attention, a monitor's memory, answers."""
    cell["attention"] = row.attention
    if row.parallel is not None:
        cell["parallel"]["label"] = row.parallel
    if not row.ran:
        return
    for name, amount in zip(("memory_used_bytes", "memory_capacity_bytes"), row.memory, strict=True):
        cell["metrics"][name] |= {"value": round(amount * 1024**3), "reason": None}
    if row.accuracy is not None:
        cell["metrics"]["acc_mmmu"] = {
            "value": row.accuracy,
            "unit": "fraction",
            "direction": "higher",
            "reason": None,
            "formula": "right answers / questions",
            "details": {},
        }
