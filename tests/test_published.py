"""Published documents: what is read from them, what is found wrong, and that every cell comes out again as it
went in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.load import load_text
from orchestrator.parse.visible import visible
from orchestrator.published import KnownDevice, lint, read_document
from orchestrator.published.markup import plain
from orchestrator.published.model import Document
from orchestrator.published.showing import cell_text, markdown_text
from orchestrator.published.storing import Shelf, import_all, known_devices, name_of, yaml_text
from orchestrator.published.words import case_of, nominal_parameters, read_cell, read_config
from orchestrator.report import document as report
from orchestrator.workspace import Workspace
from tests.cellmaker import honest, make_cell, write_run

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data" / "published"
SEEDS = sorted(DATA.glob("0*.md"))
VARIANTS = sorted((DATA / "variants").glob("*.md"))
EXAMPLES = int(os.environ.get("NX8_FUZZ_EXAMPLES", "300"))
#: Document → (code, line) of everything that is wrong with it, and nothing else.
DEFECTS = {
    "000.md": [("CFG_NAME", 31), ("NO_RESULT", 57)],
    "001.md": [
        ("CFG_NAME", 31),
        ("MEM_EMPTY", 57),
        ("MEM_IN_FIX_HP", 57),
        ("MEM_EMPTY", 58),
        ("MEM_IN_FIX_HP", 58),
    ],
    "002.md": [("CFG_DEVICE", 33), ("HEADING_SPELLING", 55), ("VALUE_MISSING", 57), ("VALUE_MISSING", 57)],
    "003.md": [("SWAPPED", 50), ("VALUE_MISSING", 50), ("VALUE_MISSING", 50)],
    "004.md": [("CFG_DEVICE", 31), ("LOSS_OUTLIER", 57), ("PEAK_DTYPE", 57), ("DUP_METRICS", 60)],
}


@cache
def known() -> tuple[KnownDevice, ...]:
    return known_devices(Workspace(home=ROOT))


def read(path: Path) -> Document:
    return read_document(path.read_bytes(), file=path.name, known=known())


def read_text(text: str) -> Document:
    return read_document(text.encode(), file="x.md", known=known())


def found_in(document: Document) -> list[tuple[str, int]]:
    return [(finding.code, finding.line) for finding in lint(document, known=known())]


def stored(document: Document) -> Document:
    """What a later reader gets from the YAML."""
    return load_text(yaml_text(document), Document, shown_as="x.yaml")


def table_cells(text: str) -> list[list[str]]:
    """Every cell of every table line of a Markdown text, delimiter rows left out, as a person reads them."""
    rows = [
        [re.sub(r"\\([*|\-#])", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in re.split(r"\r?\n", text)
        if line.strip().startswith("|")
    ]
    return [row for row in rows if not all(set(cell) <= set(":-") and "---" in cell for cell in row)]


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_the_known_defects_of_a_published_document_are_found_by_line_and_nothing_else(path: Path) -> None:
    assert found_in(read(path)) == DEFECTS[path.name]


def test_what_would_fit_is_said_with_each_defect() -> None:
    fits = {
        (path.name, one.code, one.line): one.fits for path in SEEDS for one in lint(read(path), known=known())
    }
    assert fits["000.md", "CFG_NAME", 31] == "config_MLUx1x8.py"
    assert fits["001.md", "MEM_EMPTY", 57] == "mem 74/81"
    assert fits["002.md", "CFG_DEVICE", 33] == "config_R300x1x8.py"
    assert fits["002.md", "HEADING_SPELLING", 55] == "token/p/s"
    assert fits["003.md", "SWAPPED", 50] == "loss 3.20, mem 44.2/48.0"
    assert fits["004.md", "PEAK_DTYPE", 57] == "tf32's 495 gives 21.52 %"


def test_a_defect_names_every_line_it_stands_on_and_the_cells_it_makes_doubtful() -> None:
    found = {one.code: one for one in lint(read(DATA / "004.md"), known=known())}
    assert found["CFG_DEVICE"].lines == (31, 32)
    assert found["DUP_METRICS"].lines == (59, 60)
    assert set(found["DUP_METRICS"].columns) == {"tokens_per_second_per_device", "loss", "mem", "mfu"}
    assert found["PEAK_DTYPE"].columns == ("mfu",)
    assert found["CFG_DEVICE"].text("004.md").startswith("004.md:31: warning[CFG_DEVICE] config_H100x4x8.py")


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_every_cell_survives_yaml_and_comes_out_as_it_was_published(path: Path) -> None:
    document = read(path)
    again = stored(document)
    assert again == document
    text = markdown_text(again, lint(again, known=known()))
    assert table_cells(text) == table_cells(path.read_text("utf-8"))


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_every_heading_and_item_comes_out_as_it_was_published(path: Path) -> None:
    text = markdown_text(read(path), ()).partition("### 来源")[0]
    wanted = [
        line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()[:1] in "#-*123456"
    ]
    shown = [line.strip() for line in text.splitlines() if line.strip()[:1] in "#-*123456"]
    assert [line for line in shown if line] == [line for line in wanted if line]


@pytest.mark.parametrize("path", [*SEEDS, *VARIANTS], ids=lambda path: path.name)
def test_what_is_shown_reads_as_the_same_rows(path: Path) -> None:
    document = read(path)
    again = read_text(markdown_text(document, lint(document, known=known())))
    assert [readings(row) for row in again.rows] == [readings(row) for row in document.rows]


def readings(row: Any) -> list[tuple[Any, ...]]:
    return [
        (plain(cell.heading), cell.column, cell.state, cell.value, cell.capacity, plain(cell.raw))
        for cell in row.cells
        if cell.state != "absent"
    ]


def test_an_empty_table_is_no_result_and_not_zeros() -> None:
    document = read(DATA / "000.md")
    cells = [cell for row in document.rows for cell in row.cells if cell.column != "config"]
    assert {cell.state for cell in cells} == {"placeholder"}
    assert {cell.value for cell in cells} == {None}


def test_values_have_the_units_of_their_columns() -> None:
    row = read(DATA / "004.md").rows[1]
    assert row.value("tokens_per_second_per_device") == 641.93
    assert row.value("mfu") == 0.272
    assert (row.value("mem"), row.cell("mem").capacity) == (62.0, 80.0)  # type: ignore[union-attr]
    assert row.value("loss") == 5.7


@pytest.mark.parametrize(
    ("name", "row", "wanted"),
    [
        (
            "000.md",
            0,
            ("cambricon", "MLU", "llava1.5_13b", "1x8", "pretrain", "bf16", 32, 2048, 1, 256, None),
        ),
        ("001.md", 1, ("nvidia", "A800", "llava1.5_7b", "1x8", "finetune", "bf16", 16, 2048, 1, 128, None)),
        ("002.md", 0, ("kunlunxin", "R300", "llama2_7b", "1x8", None, "fp16", 12, 512, 1, 96, True)),
        ("003.md", 0, ("mthreads", "S4000", "llama2_7b", "1x8", None, "amp", 3, 4096, 1, 24, True)),
        ("004.md", 0, ("nvidia", "H800", "llama2_70b", "4x8", None, "fp32", 1, 4096, 44, 44, True)),
        ("004.md", 3, ("nvidia", "H800", "llama2_70b", "4x8", None, "amp", 1, 4096, 1024, 1024, None)),
    ],
)
def test_what_a_row_ran_is_read_from_its_cells_and_the_text_above(
    name: str, row: int, wanted: tuple[Any, ...]
) -> None:
    document = read(DATA / name)
    one = document.rows[row]
    assert (
        document.vendor,
        document.device,
        document.case,
        one.scale,
        one.stage,
        one.precision,
        one.micro_batch_size,
        one.sequence_length,
        one.gradient_accumulation_steps,
        one.global_batch_size,
        one.recompute,
    ) == wanted


@pytest.mark.parametrize(
    ("fix_hp", "wanted"),
    [
        ("/", ("fp32", 2, 4096, 8, 128)),
        ("数据精度=fp16, local_batchsize=4", ("fp16", 4, 4096, 8, 256)),
        ("seq_length=1024，global_batch_size=64", ("fp32", 2, 1024, 8, 64)),
        ("bs=16, lr=0.1", ("fp32", None, 4096, None, None)),
        ("max_seq=1k", ("fp32", 2, None, 8, 128)),
        ("dtype=O2", (None, 2, 4096, 8, 128)),
        ("GBS=4M", ("fp32", 2, 4096, 8, None)),
        ("lr=0.1 recompute=True", ("fp32", 2, 4096, 8, 128)),
    ],
)
def test_a_default_does_not_hold_where_fix_hp_sets_it_in_known_or_unknown_words(
    fix_hp: str, wanted: tuple[Any, ...]
) -> None:
    text = (
        "| 模型 | llama2_7b |\n| 数据精度 | fp32 |\n\n"
        "1. local_batchsize：LBS，默认为2\n2. seqlength：MPE，默认为4096\n"
        "3. gradient_accumulate_steps：GAS，默认为8\n4. data_parallel_size=world_size\n\n"
        "| 配置 | fix_hp | token/p/s | mem |\n|---|---|---|---|\n"
        f"| A800单机8卡（1x8） | {fix_hp} | 3564 | 57/80 |\n"
    )
    (row,) = read_text(text).rows
    assert (
        row.precision,
        row.micro_batch_size,
        row.sequence_length,
        row.gradient_accumulation_steps,
        row.global_batch_size,
    ) == wanted


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_document_of_another_make_is_read_as_reviewed(path: Path) -> None:
    document = read(path)
    assert stored(document) == document
    seen = {
        "vendor": document.vendor,
        "device": document.device,
        "case": document.case,
        "encoding": document.source.encoding,
        "rows": [
            {
                "line": row.line,
                "device": row.device,
                "scale": row.scale,
                "stage": row.stage,
                "precision": row.precision,
                "batch": [
                    row.micro_batch_size,
                    row.gradient_accumulation_steps,
                    row.global_batch_size,
                    row.sequence_length,
                ],
                "cells": [
                    [cell.column, cell.state, cell.raw, cell.value, cell.capacity] for cell in row.cells
                ],
            }
            for row in document.rows
        ],
        "findings": [[one.code, one.line, one.message, one.fits] for one in lint(document, known=known())],
    }
    golden = path.with_suffix(".json")
    text = json.dumps(seen, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if os.environ.get("NX8_GOLDEN") == "1":
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def test_a_report_of_ours_reads_as_a_published_document(tmp_path: Path) -> None:
    made = honest(make_cell(per_node=8, accumulate=1), step_s=4096 / 3564)
    folder, plan = write_run(tmp_path, made)
    for language in ("zh", "en"):
        text = report(json.loads(render(derive(folder, plan))), "md", language)  # type: ignore[arg-type]
        row = read_text(text).rows[0]
        assert (row.device, row.scale) == ("A800", "1x8")
        assert row.value("tokens_per_second_per_device") == 3564
        assert row.value("mfu") == pytest.approx(0.4798)


@pytest.mark.parametrize(
    ("column", "raw", "wanted"),
    [
        ("loss", "5.14", ("number", 5.14, None)),
        ("loss", "５.１４", ("number", 5.14, None)),
        ("loss", "", ("blank", None, None)),
        ("loss", None, ("absent", None, None)),
        ("loss", "doing*", ("status", None, None)),
        ("loss", "5.14*", ("number", 5.14, None)),
        ("loss", "5.14[^2]", ("number", 5.14, None)),
        ("mem", "3.20", ("unread", None, None)),
        ("mem", "44.2 / 48.0", ("number", 44.2, 48.0)),
        ("mem", "58368/81920", ("number", 57.0, 80.0)),
        ("mfu", "39.57 %", ("number", 0.3957, None)),
        ("mfu", "25.4%-50.6%", ("unread", None, None)),
        ("acc_mmmu", "0.359", ("number", 0.359, None)),
        ("acc_mmmu", "36.2", ("number", 0.362, None)),
        ("mfu", "-1.0", ("unread", None, None)),
        ("tokens_per_second_per_device", "4,013", ("number", 4013.0, None)),
        ("fix_hp", "0", ("text", None, None)),
        (None, "12", ("text", None, None)),
        *(
            (column, sign, ("placeholder", None, None))
            for column in ("loss", "mem", "mfu")
            for sign in ("/", "-", "--", "–", "—", "\\", r"\*", "N/A", "无", "／")
        ),
    ],
)
def test_a_cell_is_a_number_only_when_it_reads_as_its_columns_quantity(
    column: Any, raw: str | None, wanted: tuple[Any, ...]
) -> None:
    reading = read_cell(column, raw)
    assert (reading.state, pytest.approx(reading.value), pytest.approx(reading.capacity)) == wanted


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("A800单机8卡（1x8）（pretrain）", ("A800", 1, 8, "pretrain")),
        ("H1004机32卡(4x8)", ("H100", 4, 8, None)),
        ("/单机8卡（1×8）", (None, 1, 8, None)),
        ("BI-V200两机32卡（2x16）", ("BI-V200", 2, 16, None)),
        ("A800 4 nodes × 8 devices (4x8) (finetune)", ("A800", 4, 8, "finetune")),
        ("", (None, None, None, None)),
    ],
)
def test_the_configuration_says_device_scale_and_stage(raw: str, wanted: tuple[Any, ...]) -> None:
    found = read_config(raw, known=("A100", "H100", "A800"))
    assert (found.device, found.num_nodes, found.devices_per_node, found.stage) == wanted


@pytest.mark.parametrize(
    ("model", "case", "parameters"),
    [
        ("deepspeed-llama2-7b", "llama2_7b", 7e9),
        ("llava1.5_13b", "llava1.5_13b", 13e9),
        ("llama2_70B-megatron", "llama2_70b", 70e9),
        ("mixtral_8x7B", "mixtral_8x7b", None),
        ("qwen1.5_MoE", "qwen1.5_moe", None),
    ],
)
def test_a_model_loses_its_framework_and_says_its_size(
    model: str, case: str, parameters: float | None
) -> None:
    assert case_of(model) == case
    assert nominal_parameters(case) == parameters


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "E820"),
        (b"# a README\n\nwithout any table\n", "E820"),
        ("| 指标名称 | 指标值 |\n| --- | --- |\n| 模型 | x |\n".encode(), "E820"),
        (b"|" * 30_000, "E821"),
        ("| 配置 | loss |\n|---|---|\n".encode() + b"| a | 1 |\n" * 600, "E821"),
        (("| 配置 | loss |" + " x |" * 60 + "\n").encode(), "E821"),
        ("\n\n".join(["| 配置 | loss |\n|---|---|\n| a | 1 |"] * 60).encode(), "E821"),
    ],
)
def test_what_is_no_result_document_is_refused_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(data, file="x.md", known=known())
    assert {problem.code for problem in caught.value.problems} == {code}
    assert all(problem.file == "x.md" and problem.help for problem in caught.value.problems)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_nothing_of_a_hostile_document_acts_in_what_is_printed(language: Any) -> None:
    document = stored(read(DATA / "variants" / "hostile.md"))
    findings = lint(document, known=known())
    text = markdown_text(document, findings, language)
    for line in text.splitlines():
        assert visible(line, limit=10_000) == line
    assert not re.search(r"<(?!!?-?-?$)", text)
    assert not re.search(r"(?<!\\)(\[|`|!\[|\$\()", text)
    assert all(visible(line, limit=10_000) == line for line in yaml_text(document).splitlines())
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert widths == {4, 8}
    for finding in findings:
        assert "\x1b" not in finding.text("x.md") and "\u202e" not in finding.text("x.md")


WORDS = st.sampled_from(
    [
        *(
            "|",
            " | ",
            "---",
            ":-:",
            "\n",
            "\r\n",
            "\r",
            "\n\n",
            "配置",
            "token/p/s",
            "tokens/p/s",
            "loss",
            "mem",
        ),
        *(
            "MFU",
            "fix_hp",
            "parallel",
            "precision",
            "acc(MMMU)",
            "A800单机8卡（1x8）",
            "（pretrain）",
            "3564",
        ),
        *("47.9%", "57/80", "5.14", "/", "-", "--", "\\", "\\|", "*", "**", "`", "```", "~~~", "#", "######"),
        *("- ", "1. ", "<!--", "-->", "<table>", "</table>", "<tr>", "<td>", "<br>", "&lt;", "&nbsp;", "<b>"),
        *("模型", "llama2_7b", "数据精度", "bf16", "fp32", "TP8PP4DP1", "MPE=512 LBS=12", "config_A100x1x8"),
        *(
            "简写为LBS，默认为1",
            "pretrain阶段为32",
            "data_parallel_size=world_size",
            "加速卡型号: S4000",
            "\x1b[31m",
        ),
        *(
            "\u202e",
            "\ufeff",
            "\u2028",
            "\ud800",
            "１２",
            "1e9",
            "999999999999",
            "0",
            "true",
            "null",
            "~",
            "{",
            "'",
        ),
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=80).map("".join)
HEAD = "| 配置 | fix_hp | token/p/s | loss | mem | MFU |\n|---|---|---|---|---|---|\n"


def check(data: bytes) -> None:
    try:
        document = read_document(data, file="x.md", known=known())
        text = yaml_text(document)
    except ConfigError as error:
        assert {problem.code for problem in error.problems} <= {"E820", "E821"}
        return
    assert load_text(text, Document, shown_as="x.yaml") == document
    findings = lint(document, known=known())
    json.dumps([asdict(one) for one in findings], allow_nan=False)
    shown = markdown_text(document, findings)
    assert all(visible(line, limit=10**6) == line for line in shown.split("\n"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=400), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS, TEXTS)
def test_any_text_around_a_table_is_read_or_refused(before: str, rows: str) -> None:
    check(f"{before}\n\n{HEAD}{rows}\n".encode("utf-8", "surrogatepass"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(TEXTS, st.text(max_size=60)))
def test_a_cell_shown_reads_as_the_same_words(text: str) -> None:
    raw = visible(" ".join(text.replace("|", r"\|").encode("utf-8", "replace").decode().split()), limit=900)
    assert plain(cell_text(raw)) == plain(raw)


def importing(files: list[Path], target: Path, *, replace: bool = False) -> list[str]:
    workspace = Workspace(home=ROOT)
    done = import_all(files, shelf=Shelf(target, shown="to"), workspace=workspace, replace=replace)
    return [one.path.name for one in done]


def test_the_committed_rows_are_those_of_the_five_documents(tmp_path: Path) -> None:
    names = importing(SEEDS, tmp_path)
    committed = ROOT / "results" / "published"
    for name in names:
        assert (committed / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8")
    assert sorted(names) == [
        "cambricon-llava1.5_13b-MLUx1x8.yaml",
        "kunlunxin-llama2_7b-R300x1x8.yaml",
        "mthreads-llama2_7b-S4000x1x8.yaml",
        "nvidia-llama2_70b-H800x4x8.yaml",
        "nvidia-llava1.5_7b-A800x1x8.yaml",
    ]


def test_importing_twice_changes_nothing_and_another_document_takes_no_name_unasked(tmp_path: Path) -> None:
    importing([SEEDS[0]], tmp_path)
    importing([SEEDS[0]], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.yaml")}
    other = tmp_path / "other.md"
    other.write_bytes(SEEDS[0].read_bytes() + "\n另一版\n".encode())
    with pytest.raises(ConfigError, match=r"E823.*\n.*--replace"):
        importing([SEEDS[1], other], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.yaml")} == before
    importing([other], tmp_path, replace=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.yaml")} != before


def test_two_documents_of_one_name_in_one_import_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_bytes(SEEDS[0].read_bytes() + b"\n\n")
    with pytest.raises(ConfigError, match="E823"):
        importing([SEEDS[0], other], tmp_path / "to", replace=True)
    assert not (tmp_path / "to").exists()


def test_a_document_that_does_not_say_what_it_is_keeps_its_files_name() -> None:
    document = read_document(b"| MFU | mem |\n|---|---|\n| 1% | 1/2 |\n", file="a b/..%$.md", known=known())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name_of(document))


def nx8(*words: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_name_of_a_folder_reaches_no_terminal_unescaped(tmp_path: Path) -> None:
    done = nx8("published", "import", str(SEEDS[0]), "--to", str(tmp_path / "a\x1b[2Jb"))
    assert done.returncode == 0, done.stderr
    assert "a\\x1b[2Jb" in done.stdout
    assert "\x1b" not in done.stdout


def test_warnings_exit_0_and_strict_ones_1(tmp_path: Path) -> None:
    for strict, code in (((), 0), (("--strict",), 1)):
        done = nx8("published", "import", str(SEEDS[2]), "--to", str(tmp_path), *strict)
        assert (done.returncode, done.stderr) == (code, "")
        assert "002.md:33: warning[CFG_DEVICE] config_A100x1x8.py is a config of A100" in done.stdout
        assert "1 rows, 4 warnings" in done.stdout
    clean = DATA / "variants" / "english_headings.md"
    done = nx8("published", "import", str(clean), "--to", str(tmp_path), "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_that_cannot_be_imported_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "to"
    done = nx8(
        "published", "import", str(SEEDS[0]), "Makefile", str(tmp_path / "none.md"), "--to", str(target)
    )
    assert done.returncode == 2
    assert "Makefile: error[E820] no result table" in done.stderr
    assert "none.md: error[E102]" in done.stderr
    assert not target.exists()


def test_stored_documents_are_listed_and_shown() -> None:
    listed = json.loads(nx8("published", "list", "--json").stdout)["published"]
    by_name = {row["name"]: row for row in listed}
    assert by_name["nvidia-llama2_70b-H800x4x8"]["rows"] == 4
    assert by_name["cambricon-llava1.5_13b-MLUx1x8"]["findings"] == "CFG_NAME, NO_RESULT"
    shown = nx8("published", "show", "mthreads-llama2_7b-S4000x1x8", "--lang", "en")
    assert "| S4000单机8卡（1x8） | / |  | 44.2/48.0 | 3.20 |  |" in shown.stdout
    assert "- line 50 SWAPPED: " in shown.stdout
    done = nx8("published", "show", "../../etc/passwd")
    assert done.returncode == 2
    assert "error[E822]" in done.stderr
