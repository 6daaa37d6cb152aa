"""LLaVA from the case to the verdict: two cells a case, the published arithmetic, and no number for a run
that trained shorter or fewer samples than planned, or other weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from orchestrator import multimodal, weights
from orchestrator.cases import Case
from orchestrator.cli.main import group
from orchestrator.cluster import Cluster, Node
from orchestrator.configs import DeviceConfig
from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.load import load, read_stored
from orchestrator.mmmu import read_key
from orchestrator.multimodal.lists import AnswerKey, Samples, answer_key, samples
from orchestrator.options import Options, needs_of_plan, works_of
from orchestrator.placing import Place
from orchestrator.plan import Cell, Identity, Plan, to_json
from orchestrator.planner import Sources, plan
from orchestrator.report.markdown import report_text
from orchestrator.request import contexts_for, contexts_of, only
from orchestrator.results import RunFolder, write_atomic
from orchestrator.resume import unchanged
from orchestrator.selection import Chosen, Selection
from orchestrator.sizes import model_plan
from orchestrator.sources import kept, prepared
from orchestrator.vendors import Vendor
from orchestrator.verdict.order import Lists, due, epoch_order, permutation, read_list
from orchestrator.workspace import Workspace
from tests.cellmaker import NONCE, SEEN, Made, host_document, make_records, make_status, numbered
from tests.llavamaker import QUESTIONS, finetune_items, layout, pretrain_items, questions_as_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.data import Manifest
    from orchestrator.render import Context

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden"
TRAINER = ROOT / "cases" / "trainer"
PUBLISHED = {"llava-pretrain": 558_128, "llava-finetune": 665_298, "mmmu": 900}


def case_of(name: str) -> Case:
    return load(ROOT / "cases" / name / "case.yaml", Case)


def selected(name: str, vendor: str, device: str, *, devices: int = 8, case: Case | None = None) -> Selection:
    config = ROOT / "cases" / name / "configs" / f"{device}x1x{devices}.yaml"
    cluster = Cluster(
        schema=1,
        description="test",
        vendor=vendor,
        device=device,
        transport="local",
        devices_per_node=devices,
        nodes=(Node(name="n1"),),
    )
    chosen = Chosen(name=name, case=case or case_of(name), config=load(config, DeviceConfig))
    return Selection(
        cluster_name="test",
        cluster=cluster,
        vendor_name=vendor,
        vendor=load(ROOT / "dockerfiles" / vendor / "vendor.yaml", Vendor),
        cases=(chosen,),
    )


def published_set(shapes: Path, name: str) -> Samples:
    """A set with the published form and number of samples, of which only the manifest is looked at."""
    small = {"mmmu": "mmmu-proxy"}.get(name, f"llava-proxy-{name.removeprefix('llava-')}")
    one = samples(shapes, small)
    manifest = replace(
        one.manifest,
        name=name,
        vocab_size=32000,
        image=replace(one.manifest.image, side=336),
        image_positions=576,
        model_max_length=None if name == "mmmu" else 2048,
        num_samples=PUBLISHED[name],
        images_in_set=name == "mmmu",
    )
    return replace(one, manifest=manifest, sha256=hashlib.sha256(name.encode()).hexdigest())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for name in multimodal.PROXIES:
        multimodal.prepare_proxy(name, folder=folder)
    return folder


@pytest.fixture(scope="module")
def sources(shapes: Path) -> Sources:
    key = AnswerKey(key=b"{}", tokenizer=b"model", tokenizer_suffix=".model")
    data: dict[str, Manifest | Samples] = {name: published_set(shapes, name) for name in PUBLISHED}
    weights = ("vicuna-7b-v1.5", "vicuna-13b-v1.5", "clip-vit-large-patch14-336")
    return Sources(
        data=data,
        keys={"mmmu": key},
        weights={name: hashlib.sha256(name.encode()).hexdigest() for name in weights},
    )


def planned(
    selection: Selection,
    sources: Sources,
    options: Options | None = None,
    run_dir: str = "/runs/r",
    contexts: Mapping[str, Context] | None = None,
) -> Plan:
    return plan(
        selection,
        identity=Identity(
            run_id="20260101T000000Z-test",
            nonce=NONCE,
            created_utc="2026-01-01T00:00:00+00:00",
            host_run_dir=run_dir,
        ),
        place=Place(
            python="/venv/bin/python",
            trainer=Path("/nx8/cases/trainer"),
            data_dir=Path("/data"),
            run_dir=Path(run_dir),
        ),
        sources=sources,
        options=options or Options(),
        contexts=contexts,
    )


def changed_case(case: Case, **changes: Any) -> Case:
    return dataclasses.replace(case, **changes)


DEVICES = [
    ("llava1.5_7b", "nvidia", "A800"),
    ("llava1.5_13b", "nvidia", "A800"),
    ("llava1.5_13b", "cambricon", "MLU"),
]


@pytest.mark.parametrize(("name", "vendor", "device"), DEVICES)
def test_the_published_devices_plan_to_the_published_arithmetic(
    name: str, vendor: str, device: str, sources: Sources
) -> None:
    pretrain, finetune = planned(selected(name, vendor, device), sources).cells
    nominal = 7_000_000_000 if name == "llava1.5_7b" else 13_000_000_000
    assert (pretrain.stage, finetune.stage) == ("pretrain", "finetune")
    assert [cell.job.batch.global_batch_size for cell in (pretrain, finetune)] == [256, 128]
    # One pass over the published sets, its last batch filled up.
    assert [cell.job.steps.total for cell in (pretrain, finetune)] == [2181, 5198]
    assert [cell.job.zero.stage for cell in (pretrain, finetune)] == [2, 3]
    assert [cell.job.optimizer.learning_rate for cell in (pretrain, finetune)] == [1e-3, 2e-5]
    flops = [cell.flops.multiplier * cell.flops.parameters for cell in (pretrain, finetune)]
    assert flops == [2 * nominal, 6 * nominal]
    assert [cell.fix_hp for cell in (pretrain, finetune)] == ["/", "/"]
    assert (pretrain.job.recompute, pretrain.job.attention) == ("full", "flash_attn_2")
    assert (pretrain.job.trainable, finetune.job.trainable) == (
        ("multi_modal_projector",),
        ("multi_modal_projector", "language_model"),
    )
    assert (pretrain.job.questions, finetune.job.questions and finetune.job.questions.num_questions) == (
        None,
        900,
    )


def test_the_published_speeds_are_the_published_mfu_under_the_case_s_own_rule(sources: Sources) -> None:
    for name, rows in {
        "llava1.5_7b": ((4013, 18.01), (2937, 39.57)),
        "llava1.5_13b": ((2273.54, 18.95), (1622.90, 40.57)),
    }.items():
        cells = planned(selected(name, "nvidia", "A800"), sources).cells
        for cell, (speed, percent) in zip(cells, rows, strict=True):
            assert cell.peak.tflops is not None
            mfu = speed * cell.flops.multiplier * cell.flops.parameters / (cell.peak.tflops * 1e12)
            assert 100 * mfu == pytest.approx(percent, abs=0.15)


def test_real_parameters_are_those_of_the_published_checkpoints() -> None:
    plans = {name: model_plan(case_of(name).model) for name in ("llava1.5_7b", "llava1.5_13b")}
    assert plans["llava1.5_7b"].num_language_parameters == 6_738_415_616
    assert plans["llava1.5_13b"].num_language_parameters == 13_015_864_320
    assert plans["llava1.5_7b"].num_projector_parameters == 20_979_712
    vision = plans["llava1.5_7b"].vision
    assert vision is not None
    # CLIP ViT-L/14-336 has 303,507,456; its last layer and the norm behind it are not built.
    assert vision.num_parameters == 303_507_456 - 12_596_224 - 2 * 1024
    assert vision.num_patches == 576


@pytest.mark.parametrize("in_set", [False, True])
@pytest.mark.parametrize("stages", [(), ("pretrain",)])
def test_a_plan_goes_on_with_the_images_that_it_was_made_with(
    sources: Sources, stages: tuple[str, ...], in_set: bool, tmp_path: Path
) -> None:
    """Whether the sets bring their images along, whichever stages are left, and with a folder for images or
    without one.
    """
    case = case_of("llava1.5_7b")
    bare = replace(case.stages[0], data=replace(case.stages[0].data, images=None), evaluation=None)
    chosen = selected("llava1.5_7b", "nvidia", "A800", case=replace(case, stages=(bare, *case.stages[1:])))
    cluster = replace(chosen.cluster, transport="ssh", data_dir="/data", work_dir="/var/nx8")
    chosen = replace(chosen, cluster=cluster)
    sets = {
        name: replace(one, manifest=replace(one.manifest, images_in_set=in_set))
        for name, one in sources.data.items()
        if isinstance(one, Samples)
    }
    workspace = Workspace(home=ROOT)
    contexts = contexts_of(workspace, chosen, Options())
    made = only(planned(chosen, replace(sources, data=sets), contexts=contexts), stages)
    (tmp_path / "plan.json").write_text(to_json(made), "utf-8")
    stored = read_stored(tmp_path / "plan.json", Plan)
    again = contexts_for(workspace, chosen, needs_of_plan(stored))
    assert set(again) == {"deepspeed"}
    assert "PIL" in again["deepspeed"].dockerfile
    unchanged(stored, {engine: one.sha256 for engine, one in again.items()})


LLAMA_DEVICES = {
    "R300": ("kunlunxin", 96, 2034, 49_152, "MPE=512 LBS=12 recompute=True"),
    "S4000": ("mthreads", 24, 1017, 98_304, "LBS=3 recompute=True"),
    "A800": ("nvidia", 8, 3051, 32_768, "/"),
    "H800": ("nvidia", 8, 3051, 32_768, "/"),
}


@pytest.mark.parametrize("device", LLAMA_DEVICES)
def test_the_published_llama_devices_plan_to_the_published_arithmetic(device: str) -> None:
    vendor, global_batch, steps, tokens, fix_hp = LLAMA_DEVICES[device]
    from tests.test_planner import manifest

    data = {"openwebtext_llama2_100M": manifest("openwebtext_llama2_100M")}
    (cell,) = planned(selected("llama2_7b", vendor, device), Sources(data=data)).cells
    batch = cell.job.batch
    assert (batch.global_batch_size, batch.data_parallel_size) == (global_batch, 8)
    assert cell.job.steps.total == steps
    assert batch.global_batch_size * batch.sequence_length == tokens
    assert cell.fix_hp == fix_hp


@pytest.mark.parametrize(
    ("name", "vendor", "device"), [*DEVICES, *(("llama2_7b", v[0], d) for d, v in LLAMA_DEVICES.items())]
)
def test_the_plans_of_published_devices_are_as_reviewed(
    name: str, vendor: str, device: str, sources: Sources
) -> None:
    from tests.test_planner import manifest

    data = {**sources.data, "openwebtext_llama2_100M": manifest("openwebtext_llama2_100M")}
    made = planned(selected(name, vendor, device), replace(sources, data=data))
    # Jobs alone: what a device's document says and where ranks start has goldens of its own.
    text = "".join(to_json(cell.job) for cell in made.cells)
    golden = GOLDEN / f"jobs-{name}-{device}x1x8.json"
    if os.environ.get("NX8_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_second_stage_begins_with_what_the_first_of_this_run_left(sources: Sources) -> None:
    pretrain, finetune = planned(selected("llava1.5_7b", "nvidia", "A800"), sources).cells
    assert pretrain.job.save == f"projector-{NONCE}"
    assert pretrain.job.initial is not None
    assert pretrain.job.initial.projector is None
    assert finetune.job.save is None
    assert finetune.job.initial is not None
    folder = f"/runs/r/cells/{pretrain.cell_id}/node0/projector-{NONCE}"
    assert finetune.job.initial.projector == folder
    assert finetune.job.initial.folders == ("/data/vicuna-7b-v1.5", "/data/clip-vit-large-patch14-336")
    assert finetune.handed is not None
    assert f"/runs/r/{finetune.handed.source}" == f"{folder}/model.safetensors"


def test_equal_work_has_an_equal_hash_whatever_the_run_is_called(sources: Sources) -> None:
    one = planned(selected("llava1.5_7b", "nvidia", "A800"), sources)
    two = planned(selected("llava1.5_7b", "nvidia", "A800"), sources, run_dir="/elsewhere/x")
    other = planned(selected("llava1.5_7b", "nvidia", "A800"), sources, Options(measured_steps=9))
    assert [a.config_hash for a in one.cells] == [b.config_hash for b in two.cells]
    assert {a.config_hash for a in one.cells}.isdisjoint(b.config_hash for b in other.cells)


def test_a_device_may_change_one_stage_alone(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(
        "schema: 1\nstages:\n  finetune: {micro_batch_size: 8, gradient_accumulation_steps: 2}\n"
        "why: {micro_batch_size: less memory, gradient_accumulation_steps: the same batch}\n"
    )
    chosen = selected("llava1.5_7b", "nvidia", "A800")
    config = load(tmp_path / "d.yaml", DeviceConfig)
    chosen = replace(chosen, cases=(replace(chosen.cases[0], config=config),))
    pretrain, finetune = planned(chosen, sources).cells
    assert (pretrain.fix_hp, pretrain.job.batch.micro_batch_size) == ("/", 32)
    assert finetune.fix_hp == "LBS=8 GAS=2(GBS=128=256K tokens)"
    assert finetune.job.batch.global_batch_size == 128


def test_a_set_that_was_made_for_another_model_is_refused_with_what_differs(
    shapes: Path, sources: Sources
) -> None:
    small = samples(shapes, "llava-proxy-pretrain")
    data = {**sources.data, "llava-pretrain": small}
    with pytest.raises(ConfigError) as caught:
        planned(selected("llava1.5_7b", "nvidia", "A800"), replace(sources, data=data))
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"E122", "E125", "E126"}
    assert "32 × 32" in str(caught.value)


def test_flash_attention_on_a_cpu_is_refused_before_anything_starts(shapes: Path) -> None:
    chosen = selected("llava1.5_7b", "cpu", "cpu", devices=2)
    said = Options(changes=DeviceConfig(schema=1, attention="flash_attn_2", why={"attention": "asked for"}))
    with pytest.raises(ConfigError, match=r"E124.*flash_attn_2"):
        planned(chosen, prepared(chosen, shapes, write=False), said)


def test_stages_that_do_not_agree_with_the_model_or_the_proxy_are_refused() -> None:
    llava, llama = case_of("llava1.5_7b"), case_of("llama2_7b")
    with pytest.raises(ValueError, match="stages: a llava is trained in stages"):
        changed_case(llava, model=llama.model, proxy=replace(llava.proxy, model=llama.proxy.model))
    with pytest.raises(ValueError, match=r"proxy\.stages: the same names"):
        changed_case(llava, proxy=replace(llava.proxy, stages=llava.proxy.stages[:1]))
    with pytest.raises(ValueError, match="with stages, every stage has its own"):
        changed_case(llava, data=llama.data)


def test_data_that_is_built_in_is_made_where_it_is_missing_and_kept_only_if_asked(tmp_path: Path) -> None:
    chosen = selected("llava1.5_7b", "cpu", "cpu", devices=2)
    seen = prepared(chosen, tmp_path / "data", write=False)
    assert not (tmp_path / "data").exists()
    stored = prepared(chosen, tmp_path / "data", write=True)
    assert {name: one.sha256 for name, one in seen.data.items()} == {
        name: one.sha256 for name, one in stored.data.items()
    }
    assert (tmp_path / "data" / "mmmu-proxy.key.json").is_file()


def test_weights_that_are_not_there_are_named_with_the_command_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(selected("llava1.5_7b", "nvidia", "A800"), tmp_path, write=False)
    text = str(caught.value)
    assert {problem.code for problem in caught.value.problems} == {"E123", "E721"}
    assert "nx8 data weights vicuna-7b-v1.5" in text
    assert "nx8 data prepare llava-pretrain" in text
    assert "nx8 data prepare mmmu" in text


# The order ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainers() -> Any:
    """The trainer's own orders, by their files: it is no package."""
    sys.path.insert(0, str(TRAINER))
    try:
        found = {}
        for name in ("order", "grouping"):
            spec = importlib.util.spec_from_file_location(name, TRAINER / f"{name}.py")
            assert spec and spec.loader
            found[name] = importlib.util.module_from_spec(spec)
            sys.modules[name] = found[name]
            spec.loader.exec_module(found[name])
        return found
    finally:
        sys.path.remove(str(TRAINER))
        for name in ("order", "grouping"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_the_host_s_order_is_the_trainer_s(trainers: Any, seed: int) -> None:
    draw = random.Random(seed)
    for size in (1, 2, 17, 200):
        assert permutation(size, seed, 3) == trainers["order"].permutation(size, seed, 3)
        words = [draw.choice((-1, 1)) * draw.randint(1, 90) for _ in range(size)]
        for gbs, mbs in ((8, 2), (6, 3), (16, 16)):
            lead = draw.randrange(min(gbs, size))
            given = {"gbs": gbs, "mbs": mbs, "lead": lead}
            assert epoch_order(words, seed, 1, **given) == trainers["grouping"].epoch_order(
                words, seed, 1, **given
            )


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_is_due_is_what_the_trainer_would_take_over_several_epochs(
    trainers: Any, shapes: Path, stage: str
) -> None:
    cell = next(one for one in proxy_plan(shapes, steps=40).cells if one.stage == stage)
    one = samples(shapes, cell.job.data.name)
    lists = Lists(lengths=read_list(one.lengths), words=read_list(one.words))
    batch = replace(
        cell.job.batch, gradient_accumulation_steps=3, global_batch_size=3 * cell.job.batch.global_batch_size
    )
    job = replace(cell.job, batch=batch)
    if stage == "finetune":
        order = trainers["grouping"].GroupedOrder(
            list(lists.words),
            job.seed,
            global_batch_size=batch.global_batch_size,
            micro_batch_size=batch.micro_batch_size,
        )
    else:
        order = trainers["order"].SequenceOrder(len(lists.lengths), job.seed)
    epochs = job.steps.total * batch.global_batch_size / len(lists.lengths)
    assert epochs > 3
    for step, by_rank in enumerate(due(job, lists)):
        for rank, wanted in enumerate(by_rank):
            micro = [
                order.micro_batch(step, number, dp_rank=rank, dp=2, mbs=batch.micro_batch_size, gas=3)
                for number in range(3)
            ]
            sizes = [[abs(lists.lengths[i]) for i in ones] for ones in micro]
            assert wanted.real_tokens == sum(map(sum, sizes))
            assert wanted.tokens == sum(len(ones) * max(ones) for ones in sizes)
            assert wanted.images == sum(lists.lengths[i] > 0 for ones in micro for i in ones)


# A run's files, honest and forged -----------------------------------------------------------------


def proxy_plan(shapes: Path, steps: int = 8) -> Plan:
    chosen = selected("llava1.5_7b", "cpu", "cpu", devices=2)
    return planned(chosen, prepared(chosen, shapes, write=False), Options(measured_steps=steps))


PROJECTOR = hashlib.sha256(b"projector").hexdigest()


def records_of(cell: Cell, rank: int, shapes: Path) -> list[dict[str, Any]]:
    """What an honest rank of this cell writes."""
    job = cell.job
    one = samples(shapes, job.data.name)
    lists = Lists(lengths=read_list(one.lengths), words=read_list(one.words))
    records = make_records(cell, rank)
    ready = next(record for record in records if record["event"] == "ready")
    ready["num_trainable_parameters"] = job.num_trainable_parameters
    if job.initial is not None:
        ready["initial_manifests"], ready["projector_sha256"] = [], PROJECTOR
    steps = [record for record in records if record["event"] == "step"]
    for record, by_rank in zip(steps, due(job, lists), strict=True):
        wanted = by_rank[rank]
        record.update(
            samples=wanted.samples,
            tokens=wanted.tokens,
            real_tokens=wanted.real_tokens,
            labelled_tokens=wanted.real_tokens // 4,
            images=wanted.images,
            learning_rate=job.optimizer.learning_rate_at(record["step"], total=job.steps.total),
            data_wait_s=0.001,
            comm_wait_s=None,
            loss_scale=None,
            updated=True,
        )
    end = records.pop()
    if job.save is not None and rank == 0:
        file = f"{job.save}/model.safetensors"
        records.append({"event": "saved", "file": file, "bytes": 9, "sha256": PROJECTOR})
    if job.questions is not None:
        key, _ = read_key(shapes / "mmmu-proxy.key.json")
        mine = [entry for number, entry in enumerate(key.entries) if number % 2 == rank]
        records += [
            {"event": "answer", "question": entry.id, "tokens": list(entry.answers[0].encode())}
            for entry in mine
        ]
        last_s = steps[-1]["end_s"]
        records.append(
            {
                "event": "evaluation",
                "start_s": last_s + 0.01,
                "end_s": last_s + 0.02,
                "data_sha256": job.questions.sha256,
                "num_questions": 60,
                "answered": len(mine),
                "decoding": "greedy",
            }
        )
    return [*records, end]


class Run:
    """A run's folder with honest files; forge `records` before `write`."""

    def __init__(self, root: Path, shapes: Path) -> None:
        self.plan = proxy_plan(shapes)
        self.folder = RunFolder.create(root, self.plan.identity.run_id)
        chosen = selected("llava1.5_7b", "cpu", "cpu", devices=2)
        write_atomic(self.folder.plan, to_json(self.plan).encode())
        for name, content in kept(self.plan, prepared(chosen, shapes, write=False)).items():
            write_atomic(self.folder.path / name, content)
        self.mades = {
            cell.stage: Made(cell=cell, records={rank: records_of(cell, rank, shapes) for rank in (0, 1)})
            for cell in self.plan.cells
        }

    def steps(self, stage: str, rank: int) -> list[dict[str, Any]]:
        return [record for record in self.mades[stage].records[rank] if record["event"] == "step"]

    def judged(self) -> dict[str, Any]:
        seen = {cell.cell_id: SEEN for cell in self.plan.cells}
        host = host_document(seen)
        write_atomic(self.folder.host, json.dumps(host).encode())
        for made in self.mades.values():
            made.lines = {rank: numbered(ones, rank=rank) for rank, ones in made.records.items()}
            made.statuses = {0: make_status(made.cell.launches[0], made.lines)}
            made.write(self.folder)
        document = derive(self.folder, read_stored(self.folder.plan, Plan), host)
        assert render(document) == render(derive(self.folder, self.plan, host))
        return {cell["stage"]: cell for cell in document["cells"]} | {"document": document}


@pytest.fixture
def run(tmp_path: Path, shapes: Path) -> Run:
    return Run(tmp_path, shapes)


def test_an_honest_run_is_measured_in_both_stages_with_the_accuracy_of_the_second(run: Run) -> None:
    cells = run.judged()
    assert [cells[name]["verdict"] for name in ("pretrain", "finetune")] == ["MEASURED", "MEASURED"]
    metrics = cells["finetune"]["metrics"]
    assert metrics["acc_mmmu"]["value"] == 1.0
    assert metrics["acc_mmmu"]["details"]["n"] == 60
    assert set(cells["finetune"]["evaluation"]["by_subject"]) == {"Colour", "Ground", "Shape"}
    table = report_text(cells["document"]).splitlines()
    rows = [line for line in table if line.startswith("| CPU")]
    assert [row.split("|")[6].split("[")[0].strip() for row in rows] == ["/", "100.0%"]


def test_the_speed_counts_what_was_no_padding_over_the_whole_window(run: Run) -> None:
    metrics = run.judged()["finetune"]["metrics"]
    window = [step for rank in (0, 1) for step in run.steps("finetune", rank)[10:]]
    real = sum(step["real_tokens"] for step in window)
    padded = sum(step["tokens"] for step in window)
    seconds = sum(step["end_s"] - step["start_s"] for step in run.steps("finetune", 0)[10:])
    assert metrics["tokens_per_second_per_device"]["value"] == pytest.approx(real / seconds / 2)
    assert metrics["padded_tokens_per_second_per_device"]["value"] == pytest.approx(padded / seconds / 2)
    mean = metrics["mean_sequence_length"]["value"]
    assert mean == pytest.approx(real / sum(step["samples"] for step in window))
    # The published definition, term by term.
    assert metrics["tokens_per_second_per_device"]["value"] == pytest.approx(8 * mean / (seconds / 8) / 2)
    assert metrics["data_wait_fraction"]["value"] == pytest.approx(8 * 0.001 / seconds)


def test_the_loss_is_a_mean_over_labelled_tokens(run: Run) -> None:
    for rank, (loss, labelled) in enumerate(((2.0, 30), (5.0, 10))):
        for step in run.steps("finetune", rank):
            step.update(loss=loss, labelled_tokens=labelled)
    assert run.judged()["finetune"]["metrics"]["loss"]["value"] == pytest.approx(2.75)


def shorter(run: Run) -> None:
    for rank in (0, 1):
        for step in run.steps("finetune", rank):
            step["tokens"], step["real_tokens"] = step["tokens"] // 2, step["real_tokens"] // 2


def one_token_less(run: Run) -> None:
    run.steps("finetune", 1)[4]["real_tokens"] -= 1


def fewer(run: Run) -> None:
    for step in run.steps("finetune", 0):
        step["samples"] -= 1


def more_padding(run: Run) -> None:
    run.steps("finetune", 0)[0]["tokens"] += 4


def no_images(run: Run) -> None:
    for step in run.steps("finetune", 0):
        step["images"] = 0


def no_real_tokens(run: Run) -> None:
    for step in run.steps("finetune", 0):
        del step["real_tokens"]


def same_batch_again(run: Run) -> None:
    """Two steps with the numbers of one: right in sum over an epoch of equal ones, wrong in their order."""
    steps = run.steps("finetune", 0)
    for key in ("tokens", "real_tokens", "images"):
        steps[5][key] = steps[3][key]


@pytest.mark.parametrize(
    "forge", [shorter, one_token_less, fewer, more_padding, no_images, no_real_tokens, same_batch_again]
)
def test_other_samples_than_the_planned_order_has_make_a_cell_invalid(run: Run, forge: Any) -> None:
    forge(run)
    cells = run.judged()
    assert cells["pretrain"]["verdict"] == "MEASURED"
    assert cells["finetune"]["verdict"] == "INVALID"
    assert [one["name"] for one in cells["finetune"]["proofs"] if not one["held"]] == ["batch"]
    assert cells["finetune"]["metrics"]["tokens_per_second_per_device"]["value"] is None
    assert cells["finetune"]["metrics"]["acc_mmmu"]["value"] is None


def test_lengths_that_were_changed_in_the_run_s_folder_prove_nothing(run: Run) -> None:
    lists = next(cell.lists for cell in run.plan.cells if cell.stage == "finetune")
    assert lists is not None
    path = run.folder.path / lists.lengths
    path.write_bytes(path.read_bytes()[:-4] + b"\1\0\0\0")
    cell = run.judged()["finetune"]
    assert (cell["verdict"], cell["reasons"][0].split(":")[0]) == ("INVALID", "batch")


def test_another_projector_than_the_stage_before_left_is_invalid(run: Run) -> None:
    stale = hashlib.sha256(b"yesterday's").hexdigest()
    ready = next(one for one in run.mades["finetune"].records[1] if one["event"] == "ready")
    ready["projector_sha256"] = stale
    cell = run.judged()["finetune"]
    assert cell["verdict"] == "INVALID"
    assert cell["reasons"][0].startswith("initial_weights: rank 1")


def test_a_stage_that_trained_more_than_it_may_is_invalid(run: Run) -> None:
    ready = next(one for one in run.mades["pretrain"].records[0] if one["event"] == "ready")
    ready["num_trainable_parameters"] = run.mades["pretrain"].cell.job.model.num_parameters
    cell = run.judged()["pretrain"]
    assert cell["verdict"] == "INVALID"
    assert cell["reasons"][0].startswith("trained_part: rank 0")


def test_a_pretrain_that_left_nothing_proves_neither_stage(run: Run) -> None:
    records = run.mades["pretrain"].records
    records[0] = [record for record in records[0] if record["event"] != "saved"]
    cells = run.judged()
    assert cells["pretrain"]["reasons"][0].startswith("projector_saved")
    assert cells["finetune"]["reasons"][0].startswith("initial_weights")


def test_a_learning_rate_that_leaves_its_schedule_is_invalid(run: Run) -> None:
    run.steps("pretrain", 0)[7]["learning_rate"] *= 1.001
    cell = run.judged()["pretrain"]
    assert (cell["verdict"], cell["reasons"][0].split(":")[0]) == ("INVALID", "job")


def answers(run: Run, rank: int) -> list[dict[str, Any]]:
    return [one for one in run.mades["finetune"].records[rank] if one["event"] == "answer"]


def unanswered(run: Run) -> str:
    records = run.mades["finetune"].records[0]
    records.remove(answers(run, 0)[3])
    next(one for one in records if one["event"] == "evaluation")["answered"] -= 1
    return "answers_once"


def answered_twice(run: Run) -> str:
    answers(run, 0)[3]["question"] = answers(run, 1)[0]["question"]
    return "answers_once"


def other_questions(run: Run) -> str:
    records = run.mades["finetune"].records[0]
    next(one for one in records if one["event"] == "evaluation")["data_sha256"] = "0" * 64
    return "questions_asked"


def answered_while_timed(run: Run) -> str:
    records = run.mades["finetune"].records[1]
    evaluation = next(one for one in records if one["event"] == "evaluation")
    evaluation["start_s"] = run.steps("finetune", 1)[2]["start_s"]
    return "questions_asked"


def sampled(run: Run) -> str:
    records = run.mades["finetune"].records[1]
    next(one for one in records if one["event"] == "evaluation")["decoding"] = "sampled"
    return "questions_asked"


def other_key(run: Run) -> str:
    cell = next(cell for cell in run.plan.cells if cell.key)
    assert cell.key is not None
    path = run.folder.path / cell.key.key
    path.write_bytes(path.read_bytes().replace(b'"A"', b'"B"'))
    return "answer_key"


@pytest.mark.parametrize(
    "forge", [unanswered, answered_twice, other_questions, answered_while_timed, sampled, other_key]
)
def test_an_accuracy_without_its_proofs_is_no_number_and_says_why(run: Run, forge: Any) -> None:
    proof = forge(run)
    cell = run.judged()["finetune"]
    assert cell["verdict"] == "MEASURED"
    accuracy = cell["metrics"]["acc_mmmu"]
    assert accuracy["value"] is None
    assert accuracy["reason"].startswith(f"{proof}: ")
    assert cell["metrics"]["tokens_per_second_per_device"]["value"] is not None


def test_whatever_a_rank_says_is_read_as_an_answer_or_as_none(run: Run) -> None:
    for record, tokens in zip(answers(run, 0), ([], [-1], [10**9], [255, 254], [0] * 500), strict=False):
        record["tokens"] = tokens
    accuracy = run.judged()["finetune"]["metrics"]["acc_mmmu"]
    assert accuracy["value"] == pytest.approx(55 / 60)


def test_a_cell_of_text_has_neither_the_proofs_nor_the_metrics_of_stages() -> None:
    from tests.cellmaker import honest

    proofs = {proof.name for proof in honest().judge().proofs}
    assert proofs.isdisjoint({"trained_part", "initial_weights", "projector_saved"})


def test_the_answer_key_must_be_of_these_questions(shapes: Path, tmp_path: Path) -> None:
    manifest = samples(shapes, "mmmu-proxy").manifest
    with pytest.raises(ConfigError, match="E725"):
        answer_key(tmp_path, manifest)
    (tmp_path / "mmmu-proxy.key.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match=r"E725.*another SHA-256"):
        answer_key(tmp_path, manifest)


def test_every_stage_has_its_own_data(shapes: Path) -> None:
    chosen = selected("llava1.5_13b", "cpu", "cpu", devices=2)
    assert [work.data.name for work in works_of(chosen.cases[0].case, chosen)] == [
        "llava-proxy-pretrain",
        "llava-proxy-finetune",
    ]


# The verbs ----------------------------------------------------------------------------------------


def nx8(*words: object) -> Any:
    return CliRunner().invoke(group, ["data", *map(str, words)])


def test_a_case_s_name_prepares_every_set_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multimodal, "MMMU", QUESTIONS)
    root = tmp_path / "from"
    layout(root, "pretrain", pretrain_items(3))
    layout(root, "finetune", finetune_items(6))
    questions_as_lines(root)
    words = ("prepare", "llava1.5_7b", "--from", root, "--tokenizer", "bytes", "--to", tmp_path / "out")
    done = nx8(*words)
    assert done.exit_code == 0, done.output
    for name in ("llava-pretrain", "llava-finetune", "mmmu"):
        assert multimodal.is_set(tmp_path / "out", name)
    shutil.rmtree(tmp_path / "out" / "llava-finetune")
    again = nx8(*words)
    assert again.exit_code == 0, again.output
    assert "llava-pretrain is there already" in again.output
    assert multimodal.is_set(tmp_path / "out", "llava-finetune")


def test_the_tokenizer_of_questions_is_kept_beside_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.setattr(multimodal, "MMMU", QUESTIONS)
    letters = {chr(code): code for code in range(32, 127)}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={**letters, "<unk>": 0}, merges=[]))
    model.save(str(tmp_path / "tokenizer.json"))
    root = questions_as_lines(tmp_path / "from")
    file = tmp_path / "tokenizer.json"
    done = nx8("prepare", "mmmu", "--from", root, "--tokenizer", file, "--to", tmp_path)
    assert done.exit_code == 0, done.output
    key = answer_key(tmp_path, multimodal.verify(tmp_path, "mmmu"))
    assert key.tokenizer == (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "mmmu.tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"E725.*tokenizer"):
        answer_key(tmp_path, multimodal.verify(tmp_path, "mmmu"))


def test_the_list_of_weights_is_what_a_run_holds_them_against(tmp_path: Path) -> None:
    folder = tmp_path / "vicuna"
    folder.mkdir()
    assert "E123" in str(nx8("weights", "vicuna", "--in", tmp_path).exception)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("not read")
    done = nx8("weights", "vicuna", "--in", tmp_path)
    assert done.exit_code == 0, done.output
    manifest, digest = weights.listed(tmp_path, "vicuna")
    assert [file.name for file in manifest.files] == ["model.safetensors"]
    assert digest in done.output
    (folder / "model.safetensors").write_bytes(b"weight")
    with pytest.raises(ConfigError, match=r"E123.*6 bytes, not 7"):
        weights.listed(tmp_path, "vicuna")
