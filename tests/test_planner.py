"""planner.py: what a run will do is complete, right and refused early when it cannot be."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cases import Case, works
from orchestrator.cluster import Cluster, Node
from orchestrator.configs import DeviceConfig
from orchestrator.data import Manifest
from orchestrator.errors import ConfigError
from orchestrator.load import load
from orchestrator.options import Options, needs_of
from orchestrator.placing import Place
from orchestrator.plan import Identity, Plan, to_json
from orchestrator.planner import Sources, plan
from orchestrator.published.words import recompute_of
from orchestrator.selection import Chosen, Selection
from orchestrator.sizes import fix_hp, parameters
from orchestrator.vendors import Device, Package, Peak, Refusal, TorchStack, Vendor

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden"


def llama() -> Case:
    return load(ROOT / "cases" / "llama2_7b" / "case.yaml", Case)


def accelerator(**changes: object) -> Vendor:
    """A vendor that nobody has, driven through data alone."""
    stack = TorchStack(device_type="acme", backend="accl", plugin="torch_acme", deepspeed_accelerator="acme")
    device = Device(
        display_name="A1",
        memory_gib=80.0,
        peaks={"bf16": Peak(tflops=312.0, source="data sheet, dense, per device")},
    )
    return dataclasses.replace(
        Vendor(
            schema=1, display_name="Acme", torch=stack, devices={"A1": device}, environment={"ACME_X": "1"}
        ),
        **changes,
    )


def selection(
    vendor: Vendor, config: DeviceConfig | None = None, *, devices: int = 8, case: Case | None = None
) -> Selection:
    device = next(iter(vendor.devices))
    cluster = Cluster(
        schema=1,
        description="test",
        vendor="acme",
        device=device,
        transport="local",
        devices_per_node=devices,
        nodes=(Node(name="n1"),),
    )
    chosen = Chosen(name="llama2_7b", case=case or llama(), config=config or DeviceConfig(schema=1))
    return Selection(cluster_name="test", cluster=cluster, vendor_name="acme", vendor=vendor, cases=(chosen,))


def manifest(name: str, *, num_tokens: int = 100_000_001, vocab_size: int = 32000) -> Manifest:
    return Manifest(
        schema=1,
        name=name,
        sha256="5" * 64,
        num_tokens=num_tokens,
        dtype="int16",
        tokenizer="sentencepiece",
        tokenizer_sha256="7" * 64,
        vocab_size=vocab_size,
        num_inputs=1,
        input_bytes=1,
        inputs_sha256="1" * 64,
        truncated=True,
        inputs=(),
    )


def planned(chosen: Selection, options: Options | None = None, made: Manifest | None = None) -> Plan:
    manifests = {"openwebtext_llama2_100M": made or manifest("openwebtext_llama2_100M")}
    manifests["python-library-bytes"] = made or manifest(
        "python-library-bytes", num_tokens=2_000_000, vocab_size=256
    )
    return plan(
        chosen,
        identity=Identity(
            run_id="20260101T000000Z-test",
            nonce="0" * 32,
            created_utc="2026-01-01T00:00:00+00:00",
            host_run_dir="/runs/r",
        ),
        place=Place(
            python="/venv/bin/python",
            trainer=Path("/nx8/cases/trainer"),
            data_dir=Path("/data"),
            run_dir=Path("/runs/r"),
        ),
        sources=Sources(data=manifests),
        options=options or Options(),
    )


def test_the_published_case_plans_to_the_published_arithmetic() -> None:
    cell = planned(selection(accelerator())).cells[0]
    assert cell.job.batch.global_batch_size == 8
    assert cell.job.steps.total == 3051  # 100 M tokens ÷ (8 × 4096), rounded down
    assert cell.flops.multiplier * cell.flops.parameters == 42_000_000_000
    assert (cell.job.zero.stage, cell.job.optimizer.learning_rate, cell.job.optimizer.beta2) == (
        3,
        1e-5,
        0.95,
    )
    assert cell.proxy is None
    assert cell.fix_hp == "/"
    assert cell.peak.tflops == 312.0


def test_real_parameters_of_llama2_7b_are_those_of_the_paper_s_checkpoint() -> None:
    assert parameters(llama().model) == 6_738_415_616


def test_a_device_config_changes_what_runs_and_says_so_in_the_published_words() -> None:
    why = dict.fromkeys(("sequence_length", "micro_batch_size", "precision", "recompute"), "fits 32 GiB")
    config = DeviceConfig(
        schema=1, sequence_length=512, micro_batch_size=12, precision="fp16", recompute="full", why=why
    )
    cell = planned(selection(accelerator(), config)).cells[0]
    assert cell.fix_hp == "MPE=512 LBS=12 recompute=True"
    assert cell.job.batch.global_batch_size == 96
    assert cell.job.steps.total == 2034  # the published R300 row's own number of steps
    assert (cell.job.precision.label, cell.job.precision.compute_dtype, cell.job.precision.mechanism) == (
        "fp16",
        "fp16",
        "engine",
    )
    assert cell.changed["micro_batch_size"] == "12"


def test_a_cpu_takes_the_proxy_and_keeps_its_sizes_whatever_the_config_says() -> None:
    cpu = load(ROOT / "dockerfiles" / "cpu" / "vendor.yaml", Vendor)
    why = {"micro_batch_size": "for a real device", "precision": "everywhere the same"}
    config = DeviceConfig(schema=1, micro_batch_size=99, precision="fp32", why=why)
    cell = planned(selection(cpu, config, devices=2)).cells[0]
    assert cell.proxy is not None
    assert cell.job.model.hidden_size == 128
    assert cell.job.batch.micro_batch_size == 4
    assert cell.job.precision.label == "fp32"
    assert cell.flops.parameters == parameters(llama().proxy.model)
    assert cell.peak.tflops is None
    assert cell.peak.reason


@pytest.mark.parametrize(
    ("before", "after", "engine", "words"),
    [
        ("none", "full", "deepspeed", "recompute=True"),
        ("none", "selective", "megatron", "recompute=True"),
        ("none", "selective", "native", "recompute=True"),
        ("none", "full", "native", "recompute=full"),
        ("selective", "full", "native", "recompute=full"),
        ("full", "selective", "native", "recompute=selective"),
        ("full", "none", "deepspeed", "recompute=False"),
        ("full", "full", "native", "/"),
    ],
)
def test_each_kind_of_recomputation_has_words_of_its_own(
    before: Any, after: Any, engine: Any, words: str
) -> None:
    (work,) = works(llama(), proxy=False)
    base = dataclasses.replace(work, engine=engine, recompute=before)
    work = dataclasses.replace(base, recompute=after)
    assert fix_hp(base, work, data_parallel_size=8) == words
    assert recompute_of(words) == (None if words == "/" else after != "none")


def test_the_command_line_wins_over_the_device_config() -> None:
    config = DeviceConfig(schema=1, micro_batch_size=2, why={"micro_batch_size": "more fits"})
    said = Options(
        changes=DeviceConfig(schema=1, micro_batch_size=3, why={"micro_batch_size": "said"}),
        measured_steps=7,
        stall_limit_s=5.0,
        time_limit_s=60.0,
    )
    whole = planned(selection(accelerator(), config), said)
    cell = whole.cells[0]
    assert cell.job.batch.micro_batch_size == 3
    assert cell.job.steps.measured_steps == 7
    assert (cell.limits.stall_s, whole.time_limit_s) == (5.0, 60.0)


def test_a_key_that_the_case_does_not_open_is_refused() -> None:
    closed = dataclasses.replace(llama(), tunable=())
    said = Options(changes=DeviceConfig(schema=1, micro_batch_size=3, why={"micro_batch_size": "said"}))
    with pytest.raises(ConfigError, match=r"E116.*micro_batch_size"):
        planned(selection(accelerator(), case=closed), said)


def test_a_combination_that_the_vendor_refuses_stops_with_its_reason() -> None:
    vendor = accelerator(
        refuses=(Refusal(engine="deepspeed", compute_dtype="bf16", reason="no bfloat16 unit"),)
    )
    with pytest.raises(ConfigError, match=r"E120.*no bfloat16 unit"):
        planned(selection(vendor))


def test_flash_attention_is_refused_where_no_image_is_known_to_have_it() -> None:
    said = Options(changes=DeviceConfig(schema=1, attention="flash_attn_2", why={"attention": "asked for"}))
    with pytest.raises(ConfigError, match=r"E128.*flash_attn, which no image of"):
        planned(selection(accelerator(packages=())), said)
    having = Package(module="flash_attn", needs=("flash_attn_2",), reason="the base image brings it")
    (cell,) = planned(selection(accelerator(packages=(having,))), said).cells
    assert cell.job.attention == "flash_attn_2"
    wish = selection(accelerator(packages=(having,)))
    assert needs_of(wish, said) == {"deepspeed": {"flash_attn_2"}}
    assert needs_of(wish, Options()) == {"deepspeed": frozenset()}


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"E121.*32001.*32000"):
        planned(selection(accelerator()), made=manifest("openwebtext_llama2_100M", vocab_size=32001))


def test_more_steps_than_the_data_holds_are_refused_with_the_arithmetic() -> None:
    short = manifest("openwebtext_llama2_100M", num_tokens=3_000_000)
    with pytest.raises(
        ConfigError, match=r"E122.*120 steps × GBS 8 × 4096 tokens = 3,932,160 .*has 3,000,000"
    ):
        planned(selection(accelerator()), Options(measured_steps=100), short)


def test_every_cell_s_problems_are_heard_at_once() -> None:
    one = selection(accelerator(refuses=(Refusal(compute_dtype="bf16", reason="no"),)))
    two = dataclasses.replace(one, cases=(one.cases[0], dataclasses.replace(one.cases[0], name="other")))
    with pytest.raises(ConfigError) as caught:
        planned(two, made=manifest("openwebtext_llama2_100M", vocab_size=32001))
    assert sorted(problem.code for problem in caught.value.problems) == ["E120", "E120", "E121", "E121"]


def test_the_config_hash_is_of_the_work_and_not_of_the_run() -> None:
    chosen = selection(accelerator())
    one = planned(chosen).cells[0].config_hash
    assert planned(chosen).cells[0].config_hash == one
    assert planned(chosen, Options(measured_steps=7)).cells[0].config_hash != one


def test_the_plan_of_the_default_job_is_the_golden_one() -> None:
    cpu = load(ROOT / "dockerfiles" / "cpu" / "vendor.yaml", Vendor)
    config = load(ROOT / "cases" / "llama2_7b" / "configs" / "cpux1x2.yaml", DeviceConfig)
    text = to_json(planned(selection(cpu, config, devices=2)))
    golden = GOLDEN / "plan-llama2_7b-cpux1x2.json"
    if os.environ.get("NX8_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
