"""Side by side: a ratio only between like and like, and otherwise every difference by name."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.compare import document
from orchestrator.compare.likeness import compared
from orchestrator.compare.sides import sides_of
from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.parse.visible import visible
from orchestrator.published.storing import Shelf, import_all
from orchestrator.results import write_atomic
from orchestrator.workspace import Workspace
from tests.cellmaker import PROXY, Made, honest, make_cell, write_run

DATA = Path(__file__).parent / "data" / "published"
A800 = "published:nvidia-llama2_7b-A800x1x8"
H800 = "published:nvidia-llama2_70b-H800x4x8"


@pytest.fixture
def workspace(home: Path) -> Workspace:
    """A home with the published documents and one variant that a run of ours can equal."""
    found = Workspace(home=home)
    files = [*sorted(DATA.glob("0*.md")), DATA / "variants" / "english_headings.md"]
    import_all(files, shelf=Shelf.of(found), workspace=found, replace=False)
    return found


def stored_run(workspace: Workspace, made: Made, *, name: str = "run", **changes: Any) -> str:
    """A run's folder with its result, in which keys of the first cell are changed; returns its name."""
    folder, plan = write_run(workspace.runs.parent / "made" / name, made)
    result = json.loads(render(derive(folder, plan)))
    result["cells"][0].update(changes)
    target = workspace.runs / name
    write_atomic(target / "plan.json", folder.plan.read_bytes())
    write_atomic(target / "result.json", json.dumps(result).encode())
    return name


def as_published(**changes: Any) -> Made:
    """llama2_7b on eight A800 at the published 3564 token/p/s."""
    return honest(make_cell(**{"per_node": 8, "accumulate": 1, **changes}), step_s=4096 / 3564)


def rows(workspace: Workspace, *names: str, language: Any = "en") -> list[dict[str, Any]]:
    found = json.loads(document(names, workspace, "json", language))
    assert found["schema"] == "nx8.compare/1"
    return list(found["rows"])


def differing(row: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return [text.partition(":")[0] for text in row["differences"]]


def test_like_and_like_have_a_ratio(workspace: Workspace) -> None:
    _, row = rows(workspace, f"{A800}/1", stored_run(workspace, as_published()))
    assert row["like_first"]
    assert row["ratios"]["tokens_per_second_per_device"] == pytest.approx(1.0, abs=1e-3)
    assert row["ratios"]["mfu"] == pytest.approx(47.98 / 47.9, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"micro_batch": 2}, ["LBS", "GBS"]),
        ({"sequence": 2048}, ["MPE"]),
        ({"accumulate": 2}, ["GAS", "GBS"]),
        ({"num_nodes": 2}, ["scale", "GBS"]),
        ({"stage": "finetune"}, ["stage"]),
        ({"proxy": PROXY}, ["proxy"]),
    ],
)
def test_what_differs_is_named_and_nothing_is_ranked(
    workspace: Workspace, changes: dict[str, Any], wanted: list[str]
) -> None:
    _, row = rows(workspace, f"{A800}/1", stored_run(workspace, as_published(**changes)))
    assert differing(row) == wanted
    assert set(row["ratios"].values()) == {None}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"precision": {"label": "amp", "compute_dtype": "bf16", "mechanism": "autocast"}}, ["precision"]),
        ({"precision": {"label": "bf16", "compute_dtype": "fp16", "mechanism": "engine"}}, ["compute dtype"]),
        ({"case": "llama2_13b"}, ["case"]),
        ({"rehearsal": "torch device cpu"}, ["rehearsal"]),
    ],
)
def test_another_precision_case_or_a_rehearsal_is_not_ranked(
    workspace: Workspace, changes: dict[str, Any], wanted: list[str]
) -> None:
    _, row = rows(workspace, f"{A800}/1", stored_run(workspace, as_published(), **changes))
    assert differing(row) == wanted
    assert set(row["ratios"].values()) == {None}


def test_two_runs_differ_by_recomputation_and_a_published_row_that_is_silent_only_says_so(
    workspace: Workspace,
) -> None:
    plain, full = (
        stored_run(workspace, as_published(), name=name, recompute=name) for name in ("none", "full")
    )
    _, row = rows(workspace, plain, full)
    assert differing(row) == ["recompute"]
    text = document([f"{A800}/1", full], workspace, "md", "en")
    assert "row 2, recompute: yes, row 1: not said" in text
    assert "not ranked" not in text


@pytest.mark.parametrize("pair", [("selective", "full"), ("none", "selective")])
def test_runs_that_recompute_different_parts_are_not_ranked(
    workspace: Workspace, pair: tuple[str, str]
) -> None:
    names = [stored_run(workspace, as_published(), name=name, recompute=name) for name in pair]
    _, row = rows(workspace, *names)
    assert row["differences"] == [f"recompute: {pair[1]}, row 1 has {pair[0]}"]
    assert set(row["ratios"].values()) == {None}
    _, same = rows(workspace, names[1], stored_run(workspace, as_published(), name="b", recompute=pair[1]))
    assert same["like_first"]


def test_a_published_row_that_recomputes_is_like_a_run_that_recomputes_any_part(workspace: Workspace) -> None:
    (published,) = sides_of([f"{A800}/1", f"{A800}/2"], workspace)[:1]
    published = dataclasses.replace(published, facts=published.facts | {"recompute": "yes"})
    kinds = ("selective", "full", "none")
    runs = sides_of(
        [stored_run(workspace, as_published(), name=name, recompute=name) for name in kinds], workspace
    )
    _, selective, full, none = compared([published, *runs])
    assert (selective.differences, full.differences) == ((), ())
    assert [note.text("en") for note in none.differences] == ["recompute: no, row 1 has yes"]


def test_a_cell_that_is_not_measured_takes_part_without_numbers_and_says_why(workspace: Workspace) -> None:
    made = as_published()
    made.records[1][7]["loss"] = None
    made.records[1][7]["loss_nonfinite"] = "nan"
    made.seal()
    name = stored_run(workspace, made)
    _, row = rows(workspace, f"{A800}/1", name)
    assert {figure["value"] for figure in row["figures"].values()} == {None}
    assert set(row["ratios"].values()) == {None}
    text = document([f"{A800}/1", name], workspace, "md", "en")
    assert re.search(r"row 2 has no token/p/s, loss, mem, MFU: INVALID: losses\\?_finite", text)


def test_a_figure_that_was_found_wrong_takes_part_in_no_ratio(workspace: Workspace) -> None:
    _, alike = rows(workspace, f"{H800}/2", f"{H800}/3")
    assert alike["like_first"]
    assert set(alike["ratios"].values()) == {None}
    assert "DUP_METRICS" in alike["figures"]["mfu"]["doubt"]
    (swapped,) = rows(workspace, f"{H800}/1", "published:mthreads-llama2_7b-S4000x1x8")[1:]
    assert swapped["figures"]["loss"]["value"] is None
    assert "SWAPPED" in swapped["figures"]["loss"]["reason"]


def test_an_empty_published_row_is_no_zero(workspace: Workspace) -> None:
    name = "published:cambricon-llava1.5_13b-MLUx1x8"
    assert {figure["value"] for row in rows(workspace, name) for figure in row["figures"].values()} == {None}


@pytest.mark.parametrize(("language", "words"), [("en", "another clock"), ("zh", "另一种时钟")])
def test_published_llava_figures_have_another_clock_and_padding(
    workspace: Workspace, language: Any, words: str
) -> None:
    name = stored_run(workspace, as_published(stage="pretrain"), case="llava1.5_7b")
    text = document(["published:nvidia-llava1.5_7b-A800x1x8/1", name], workspace, "md", language)
    assert words in text
    both = document(["published:nvidia-llava1.5_7b-A800x1x8"], workspace, "md", language)
    assert words not in both


def test_what_a_row_does_not_say_is_not_taken_for_like(workspace: Workspace) -> None:
    bare = workspace.home / "bare.md"
    bare.write_text(
        "| 模型 | llama2_7b |\n| 数据精度 | bf16 |\n\n"
        "| 配置 | token/p/s | mem |\n|---|---|---|\n| A800单机8卡（1x8） | 3564 | 57/80 |\n",
        "utf-8",
    )
    (workspace.home / "results" / "published" / "nvidia-llama2_7b-A800x1x8.yaml").unlink()
    import_all([bare], shelf=Shelf.of(workspace), workspace=workspace, replace=False)
    _, row = rows(workspace, A800, stored_run(workspace, as_published()))
    assert differing(row) == ["LBS", "MPE", "GAS", "GBS"]
    assert "row 1 does not say" in row["differences"][0]


def test_mfu_by_another_rule_or_peak_has_no_ratio_though_the_speed_has(workspace: Workspace) -> None:
    peak = {"dtype": "bf16", "tflops": 624.0, "source": "with sparsity", "reason": None}
    one = stored_run(workspace, as_published(), name="one")
    other = stored_run(workspace, as_published(), name="other", peak=peak)
    text = document([one, other], workspace, "md", "en")
    assert "row 2, no ratio of MFU: peak 624 ≠ 312 TFLOPS" in text
    table = compared(sides_of([one, other], workspace))
    assert table[1].ratios == {"tokens_per_second_per_device": pytest.approx(1.0), "mfu": None}


def test_the_table_has_a_row_for_each_cell_and_the_first_is_the_reference(workspace: Workspace) -> None:
    text = document([A800, stored_run(workspace, as_published())], workspace, "md", "zh")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 + 1
    assert table[2].endswith("| / | / |")
    assert table[-1].endswith("| 1.000 | 1.002 |")
    assert "A800 1x8" in table[-1]


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        ([f"{A800}/1"], ["E824"]),
        ([f"{A800}/9", f"{A800}/1"], ["E824"]),
        ([f"{A800}/01", f"{A800}/1"], ["E824"]),
        (["published:../../x", "nowhere"], ["E822", "E705"]),
        (["published:", "published:x"], ["E822", "E822"]),
    ],
)
def test_what_cannot_be_compared_is_refused_all_at_once(
    workspace: Workspace, names: list[str], codes: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        sides_of(names, workspace)
    assert [problem.code for problem in caught.value.problems] == codes


def test_a_result_of_another_shape_is_refused_with_a_code(workspace: Workspace) -> None:
    name = stored_run(workspace, as_published(), metrics={})
    broken = stored_run(workspace, as_published(), name="broken", batch=None)
    with pytest.raises(ConfigError, match="E825"):
        sides_of([name, broken], workspace)


def test_two_proxies_of_another_size_are_not_ranked(workspace: Workspace) -> None:
    proxy = {"why": "a CPU is small", "of": "llama2_7b"}
    flops = {"multiplier": 6, "source": "its own size"}
    one, other, same = (
        stored_run(
            workspace, as_published(), name=name, proxy=proxy, flops=flops | {"parameters": parameters}
        )
        for name, parameters in (("one", 50_000_000), ("other", 1_000_000), ("same", 50_000_000))
    )
    _, unlike, like = rows(workspace, one, other, same)
    assert differing(unlike) == ["N"]
    assert set(unlike["ratios"].values()) == {None}
    assert like["ratios"]["tokens_per_second_per_device"] == pytest.approx(1.0)


def test_a_run_by_another_n_than_the_published_one_is_not_ranked(workspace: Workspace) -> None:
    flops = {"multiplier": 6, "parameters": 1.3e10, "source": "edited"}
    _, row = rows(workspace, f"{A800}/1", stored_run(workspace, as_published(), flops=flops))
    assert differing(row) == ["N"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "fast", [1]])
@pytest.mark.parametrize("form", ["md", "json"])
def test_a_figure_that_is_no_number_is_refused_with_a_code(
    workspace: Workspace, value: Any, form: str
) -> None:
    name = stored_run(workspace, as_published())
    path = workspace.runs / name / "result.json"
    result = json.loads(path.read_text())
    result["cells"][0]["metrics"]["tokens_per_second_per_device"]["value"] = value
    path.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="E825"):
        document([f"{A800}/1", name], workspace, form, "en")


@pytest.mark.parametrize("form", ["md", "json"])
def test_words_of_another_type_and_ratios_beyond_a_float_are_shown_as_words_and_none(
    workspace: Workspace, form: str
) -> None:
    name = stored_run(workspace, as_published(), device_display=5, fix_hp=6, stage=None)
    path = workspace.runs / name / "result.json"
    result = json.loads(path.read_text())
    result["cells"][0]["metrics"]["tokens_per_second_per_device"]["value"] = 5e-324
    path.write_text(json.dumps(result))
    text = document([name, f"{A800}/1"], workspace, form, "en")
    assert "inf" not in text.lower()
    if form == "json":
        row, other = json.loads(text)["rows"]
        assert row["device"] == "5"
        assert other["like_first"]
        assert other["ratios"]["tokens_per_second_per_device"] is None


@pytest.mark.parametrize("form", ["md", "json"])
def test_nothing_hostile_in_a_result_or_document_acts_in_the_table(workspace: Workspace, form: str) -> None:
    import_all(
        [DATA / "variants" / "hostile.md"], shelf=Shelf.of(workspace), workspace=workspace, replace=True
    )
    (hostile,) = [name for name in Shelf.of(workspace).names() if "cmd" in name]
    bad = '=cmd|"x" <script>\x1b]0;owned\x07\u202e`$(x)`[a](b)'
    name = stored_run(
        workspace,
        as_published(),
        device_display=bad,
        stage=bad,
        fix_hp=bad,
        case=bad,
        verdict="INVALID",
        reasons=[bad],
    )
    text = document([f"published:{hostile}", name], workspace, form, "zh")
    assert all(visible(line, limit=10_000) == line for line in text.splitlines())
    if form == "md":
        assert "<" not in text
        assert not re.search(r"(?<!\\)[`\[]", text)
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table}) == 1
    else:
        json.loads(text)


def test_the_verb_prints_the_table_and_exits_0() -> None:
    argv = (sys.executable, "-m", "orchestrator", "compare", f"{H800}/2", f"{H800}/1", "--lang", "en")
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1], check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "row 2 is not like row 1, so it is not ranked: precision: fp32, row 1 has amp" in done.stdout
