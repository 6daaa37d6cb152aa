"""Tensor, pipeline and data parallelism as planned: the published four rows, what does not fit or divide, and
what a rank has to hold.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cases import Parallel
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError
from orchestrator.footprint import in_flight
from orchestrator.load import read_stored
from orchestrator.options import Options
from orchestrator.plan import ParallelPlan, Plan, to_json
from orchestrator.selection import select
from orchestrator.sizes import parameters
from orchestrator.vendors import Device
from orchestrator.workspace import Workspace
from tests.seventymaker import ROOT, ROWS, case, manifest, nvidia, planned, row, selection

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN = ROOT / "tests" / "data" / "golden"
GIB = 1024**3


def asked(**parallel: Any) -> Options:
    """--set parallel=…"""
    cut = Parallel(**{"tensor_parallel_size": 8, "pipeline_parallel_size": 4, **parallel})
    return Options(changes=DeviceConfig(schema=1, parallel=cut, why={"parallel": "said"}))


def refusals(options: Options, *, label: str = "2-amp-tp8pp4", **cluster: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        planned(selection(row(label), **cluster), options)
    found: dict[str, str] = {}
    for problem in caught.value.problems:
        found[problem.code] = "; ".join(filter(None, (found.get(problem.code), problem.message)))
    return found


def test_the_published_four_configs_plan_to_the_published_arithmetic() -> None:
    cells = planned(selection()).cells
    assert [cell.cell_id for cell in cells] == [f"llama2_70b-H800x4x8-{label}" for label in ROWS]
    assert [cell.job.parallel_label for cell in cells] == ["TP8PP4DP1"] * 2 + ["TP4PP8DP1"] * 2
    assert [cell.job.batch.global_batch_size for cell in cells] == [44, 44, 44, 1024]
    assert [cell.job.steps.total for cell in cells] == [554, 554, 554, 23]  # 24414 sequences ÷ GBS
    assert [cell.job.precision.label for cell in cells] == ["fp32", "amp", "amp", "amp"]
    assert [cell.fix_hp for cell in cells] == ["recompute=True", "/", "/", "GAS=1024(GBS=1024=4M tokens)"]
    assert [(cell.peak.dtype, cell.peak.tflops) for cell in cells] == [("tf32", 495.0)] + [
        ("bf16", 989.0)
    ] * 3
    assert {cell.flops.multiplier * cell.flops.parameters for cell in cells} == {420_000_000_000}
    assert cells[0].columns[:4] == ("config", "precision", "parallel", "fix_hp")
    assert cells[3].document is not None
    assert cells[3].document.sources["gradient_accumulation_steps"].endswith("-4-amp-tp4pp8-gas1024.yaml")


def test_real_parameters_of_llama2_70b_are_those_of_the_paper_s_checkpoint() -> None:
    assert parameters(case().model) == 68_976_648_192


@pytest.mark.parametrize("label", ROWS)
def test_the_program_is_given_the_published_arguments(label: str) -> None:
    (cell,) = planned(selection(row(label))).cells
    program = cell.job.program
    assert program is not None
    words = [f"{key}={value}" for key, value in program.environment.items()]
    # One option a line, so that the diff of a change can be read.
    text = "\n".join([*words, *" ".join(program.argv).replace(" --", "\n--").splitlines()]) + "\n"
    golden = GOLDEN / f"megatron-{label}.txt"
    if os.environ.get("NX8_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def test_a_shorter_plan_tells_the_program_its_own_number_of_samples() -> None:
    (cell,) = planned(selection(row(ROWS[3])), Options(measured_steps=2)).cells
    assert cell.job.program is not None
    at = cell.job.program.argv.index("--train-samples")
    assert cell.job.program.argv[at + 1] == str((10 + 2) * 1024)


def test_a_plan_with_all_of_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = planned(selection())
    (tmp_path / "plan.json").write_text(to_json(made), "utf-8")
    assert read_stored(tmp_path / "plan.json", Plan) == made


def test_the_same_work_on_another_cluster_has_the_same_hash() -> None:
    here, there = selection(row(ROWS[1])), selection(row(ROWS[1]), data_dir="/mnt/elsewhere")
    assert planned(here).cells[0].config_hash == planned(there).cells[0].config_hash
    assert planned(here, asked(sequence_parallel=False)).cells[0].config_hash != (
        planned(here).cells[0].config_hash
    )


def test_another_script_has_another_hash_and_another_place_of_it_the_same() -> None:
    program = case().program
    assert program is not None
    named = dataclasses.replace(program, script="pretrain_other.py")
    moved = dataclasses.replace(program, directory="/opt/FlagScale")
    source = dataclasses.replace(nvidia().programs["megatron"], directory="/opt/FlagScale")
    one, other, there = (
        planned(selection(row(ROWS[1], program=it), vendor=vendor)).cells[0].config_hash
        for it, vendor in (
            (program, nvidia()),
            (named, nvidia()),
            (moved, nvidia(programs={"megatron": source})),
        )
    )
    assert one != other
    assert one == there


def test_the_proxy_is_cut_alike_at_eight_ranks_and_trained_by_our_own_engine() -> None:
    for nodes, per_node in ((1, 8), (2, 4)):
        site = selection(row(ROWS[0]), nodes=nodes, devices_per_node=per_node, rehearsal=True)
        job = planned(site).cells[0].job
        assert (job.engine, job.parallel_label, job.program) == ("native", "TP2PP2DP2", None)


# What does not fit or divide ---------------------------------------------------------------------


def test_every_reason_is_said_at_once_and_with_its_arithmetic() -> None:
    found = refusals(asked(tensor_parallel_size=16, pipeline_parallel_size=3, sequence_parallel=True))
    assert found == {
        "E340": "llama2_70b (2-amp-tp8pp4): 4 nodes × 8 devices = 32 ranks, no multiple of TP 16 × PP 3 = 48",
        "E346": "llama2_70b (2-amp-tp8pp4): tensor groups of 16 do not fit into nodes of 8 devices "
        "(8 ÷ 16 leaves 8): a group would lie across nodes",
        "E341": "llama2_70b (2-amp-tp8pp4): num_kv_heads 8 ÷ TP 16 leaves 8",
        "E342": "llama2_70b (2-amp-tp8pp4): 80 layers ÷ PP 3 leaves 2",
    }


@pytest.mark.parametrize(
    ("cut", "code", "words"),
    [
        ({"pipeline_layers": (40, 40)}, "E342", "has 2 numbers, of PP 4 stages"),
        ({"pipeline_layers": (30, 30, 10, 9)}, "E342", "30 + 30 + 10 + 9 = 79, the model has 80"),
        ({"virtual_pipeline_size": 3}, "E342", "80 layers ÷ PP 4 × 3 pieces = 12 leaves 8"),
        (
            {"virtual_pipeline_size": 2, "pipeline_layers": (20,) * 4},
            "E344",
            "beside virtual_pipeline_size 2",
        ),
        (
            {"virtual_pipeline_size": 2, "pipeline_parallel_size": 1},
            "E344",
            "one stage cannot interleave",
        ),
        ({"tensor_parallel_size": 3}, "E341", "num_heads 64 ÷ TP 3 leaves 1"),
        ({"tensor_parallel_size": 3}, "E343", "ffn_hidden_size 28672 ÷ TP 3 leaves 1"),
    ],
)
def test_each_refusal_names_its_numbers(cut: dict[str, Any], code: str, words: str) -> None:
    assert words in refusals(asked(**cut))[code]


def test_an_interleaved_pipeline_takes_micro_batches_in_groups() -> None:
    said = dataclasses.replace(
        asked(virtual_pipeline_size=2).changes,
        gradient_accumulation_steps=42,
        why={"parallel": "said", "gradient_accumulation_steps": "said"},
    )
    found = refusals(Options(changes=said))
    assert found["E345"].endswith("42 micro-batches (GAS) ÷ PP 4 leaves 2")


@pytest.mark.parametrize("engine", ["native", "megatron"])
def test_a_vocabulary_that_does_not_divide_is_no_reason(engine: Any) -> None:
    odd = dataclasses.replace(case().model, vocab_size=32001)
    said = Options(changes=DeviceConfig(schema=1, engine=engine, why={"engine": "said"}))
    assert planned(selection(row(ROWS[1], model=odd)), said).cells[0].job.engine == engine


def test_a_tensor_group_across_nodes_is_planned_where_the_cluster_allows_it() -> None:
    assert "E346" in refusals(asked(tensor_parallel_size=8), nodes=8, devices_per_node=4)
    site = selection(row(ROWS[1]), nodes=8, devices_per_node=4, tensor_across_nodes=True)
    assert planned(site).cells[0].job.parallel_label == "TP8PP4DP1"


def test_an_engine_without_tensor_parallelism_is_refused() -> None:
    said = DeviceConfig(schema=1, engine="ddp", why={"engine": "said"})
    assert "E347" in refusals(Options(changes=said))


def test_what_lies_in_an_image_cannot_run_where_there_is_none() -> None:
    site = selection(row(ROWS[1]), nodes=1, transport="local", data_dir="results/data", work_dir=None)
    with pytest.raises(ConfigError, match=r"E350.*pretrain_llama\.py lies in the image"):
        planned(site, asked(pipeline_parallel_size=1))


def test_a_vendor_whose_image_has_no_program_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"E350.*no image of NVIDIA has pretrain_llama\.py"):
        planned(selection(row(ROWS[1]), vendor=nvidia(programs={})))
    native = Options(changes=DeviceConfig(schema=1, engine="native", why={"engine": "said"}))
    assert planned(selection(row(ROWS[1]), vendor=nvidia(programs={})), native).cells[0].job.program is None


def test_a_program_that_lies_elsewhere_in_the_image_is_refused() -> None:
    source = dataclasses.replace(nvidia().programs["megatron"], directory="/opt/elsewhere")
    with pytest.raises(ConfigError, match=r"E350.*started in /workspace/FlagScale.* in /opt/elsewhere"):
        planned(selection(row(ROWS[1]), vendor=nvidia(programs={"megatron": source})))


def test_data_without_an_index_is_refused_for_the_program_and_read_by_our_own_engine() -> None:
    plain = dataclasses.replace(manifest(), index=None)
    with pytest.raises(ConfigError, match=r"(?s)E352.*text_document has no index.*--format megatron"):
        planned(selection(row(ROWS[1])), made=plain)
    native = Options(changes=DeviceConfig(schema=1, engine="native", why={"engine": "said"}))
    (cell,) = planned(selection(row(ROWS[1])), native, made=plain).cells
    assert cell.job.data.file.endswith("/llama_00_text_document.tokens")
    assert cell.job.data.index is None


# Memory ------------------------------------------------------------------------------------------


def test_the_estimate_is_below_what_the_published_rows_used_and_near_it() -> None:
    published = (77, 62, 74, 74)  # GiB, with the device's context, buffers and fragmentation
    for cell, used in zip(planned(selection()).cells, published, strict=True):
        assert cell.memory is not None
        estimate = cell.memory.fullest.total_bytes / GIB
        assert 0.65 * used < estimate < used, (cell.cell_id, estimate, used)
        assert cell.memory.fullest.stage == 0


def test_all_ranks_together_hold_the_whole_model_and_norms_once_a_rank() -> None:
    (cell,) = planned(selection(row(ROWS[1]))).cells
    memory, model = cell.memory, cell.job.model
    assert memory is not None
    repeated = 7 * (2 * model.num_layers + 1) * model.hidden_size  # of eight tensor ranks
    assert 8 * sum(one.num_parameters for one in memory.stages) == model.num_parameters + repeated


def test_recomputation_and_a_sharded_optimizer_take_less() -> None:
    def held(options: Options, label: str = ROWS[1], nodes: int = 8) -> tuple[float, float]:
        (cell,) = planned(selection(row(label), nodes=nodes), options).cells
        assert cell.memory is not None
        return cell.memory.stages[0].optimizer_bytes, cell.memory.stages[0].activation_bytes

    plain = held(asked(sequence_parallel=True))
    assert held(asked(sequence_parallel=True, shard_optimizer=True))[0] == plain[0] / 2  # DP 2
    assert held(asked(sequence_parallel=False))[1] > plain[1]
    full = DeviceConfig(
        schema=1,
        parallel=asked().changes.parallel,
        recompute="full",
        why=dict.fromkeys(("parallel", "recompute"), "x"),
    )
    assert held(Options(changes=full))[1] < held(asked())[1] / 4


@pytest.mark.parametrize(
    ("pp", "v", "gas", "stages"),
    [(4, 1, 44, [4, 3, 2, 1]), (4, 1, 2, [2, 2, 2, 1]), (1, 1, 44, [1]), (4, 2, 44, [11, 9, 7, 5])],
)
def test_micro_batches_in_flight(pp: int, v: int, gas: int, stages: list[int]) -> None:
    cut = ParallelPlan(
        tensor_parallel_size=1,
        pipeline_parallel_size=pp,
        virtual_pipeline_size=v,
        pipeline_layers=None,
        sequence_parallel=False,
        shard_optimizer=False,
        overlap=False,
    )
    assert [in_flight(cut, stage, gas) for stage in range(pp)] == stages


def small(gib: float) -> Any:
    device = nvidia().devices["H800"]
    return nvidia(devices={"H800": dataclasses.replace(device, memory_gib=gib)})


def test_only_what_cannot_be_is_refused_and_what_may_not_be_is_warned_of() -> None:
    found = refusals(Options(), vendor=small(24))
    assert "4.0 GiB, and 24.3 GiB of optimizer, together 28.3; its device has 24.0 GiB" in found["E348"]
    (cell,) = planned(selection(row(ROWS[1]), vendor=small(40))).cells
    assert cell.warnings is not None
    assert "its device has 40.0" in cell.warnings[0]
    assert isinstance(small(40).devices["H800"], Device)


def test_a_pipeline_that_is_never_full_is_warned_of() -> None:
    said = DeviceConfig(schema=1, gradient_accumulation_steps=2, why={"gradient_accumulation_steps": "said"})
    (cell,) = planned(selection(row(ROWS[1])), Options(changes=said)).cells
    assert cell.warnings == ("2 micro-batches fill a pipeline of 4 stages to 40%: raise GAS",)


# Several configs of one device and scale ---------------------------------------------------------


def chosen(home: Path, *cases: str, **how: Any) -> list[str | None]:
    return [one.label for one in select(Workspace(home=home), cases=cases, **how).cases]


@pytest.fixture
def four(home: Path) -> Path:
    (home / "cluster" / "four.yaml").write_text(
        "schema: 1\ndescription: four nodes\nvendor: nvidia\ndevice: H800\ntransport: ssh\n"
        "devices_per_node: 8\ndata_dir: /data\nwork_dir: /var/nx8\ninterface: ib0\n"
        "nodes: [{name: a}, {name: b}, {name: c}, {name: d}]\n",
        "utf-8",
    )
    return home


def test_every_config_of_the_device_and_scale_is_a_cell_and_one_may_be_named(four: Path) -> None:
    assert chosen(four, "llama2_70b", vendor=None, cluster="four") == list(ROWS)
    assert chosen(four, f"llama2_70b:{ROWS[3]}", vendor=None, cluster="four") == [ROWS[3]]
    with pytest.raises(ConfigError, match=r"E115.*H800x4x8-nobody"):
        chosen(four, "llama2_70b:nobody", vendor=None, cluster="four")


def test_a_vendor_alone_means_the_cluster_that_the_case_has_a_config_for(home: Path) -> None:
    def meant(*cases: str) -> str:
        return select(Workspace(home=home), cases=cases, vendor="cpu", cluster=None).cluster_name

    assert (meant("llama2_70b"), meant("llama2_7b"), meant()) == ("cpu8", "local", "local")


def test_the_data_s_name_is_the_case_s() -> None:
    assert manifest().name == case().data.name  # type: ignore[union-attr]
