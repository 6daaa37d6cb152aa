"""The published table in both languages, and nothing from a log that could act in it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.messages import MESSAGES, nodes_text
from orchestrator.report import document
from orchestrator.report.escape import fenced, field, markdown
from orchestrator.report.markdown import report_text, table_text
from orchestrator.report.model import build, table
from orchestrator.report.numbers import gib, per_cent, significant
from tests.cellmaker import (
    COLUMNS,
    H800,
    PROXY,
    SEEN,
    UNKNOWN_PEAK,
    Made,
    honest,
    make_cell,
    write_run,
)

GOLDEN = Path(__file__).parent / "data" / "golden"
ALL_COLUMNS = ("config", "precision", "parallel", *COLUMNS[1:-1], "acc_mmmu", "mfu")


def result_of(root: Path, *mades: Made) -> dict[str, Any]:
    folder, plan = write_run(root, *mades)
    return json.loads(render(derive(folder, plan)))


def several() -> tuple[Made, ...]:
    """A cell of every kind: measured, of four nodes with more columns, a proxy on CPUs, invalid, failed."""
    published = honest(make_cell(per_node=8, accumulate=1, measured=20), step_s=4096 / 3564)
    four_nodes = honest(
        make_cell(
            cell_id="llama2_7b-4x8",
            num_nodes=4,
            per_node=8,
            accumulate=1,
            display="H800",
            peak=H800,
            fix_hp="MPE=512 LBS=12",
            stage="pretrain",
            columns=ALL_COLUMNS,
        ),
        step_s=4096 / 791.37,
        loss=5.6,
    )
    proxy = honest(
        make_cell(cell_id="proxy-1x2", device_type="cpu", display="CPU", peak=UNKNOWN_PEAK, proxy=PROXY)
    )
    invalid = honest(make_cell(cell_id="invalid-1x2"))
    invalid.records[1][7]["loss"] = None
    invalid.records[1][7]["loss_nonfinite"] = "nan"
    invalid.seal()
    failed = honest(make_cell(cell_id="failed-1x2"))
    failed.records[1] = [
        *failed.records[1][:6],
        {
            "event": "fail",
            "type": "ValueError",
            "message": "a | b <script>",
            "traceback": 'Traceback (most recent call last):\n  File "train.py", line 7\nValueError: ```',
        },
    ]
    failed.seal()
    failed.rank_status(1)["exit_code"] = 1
    failed.host = replace(SEEN, launcher_exit=1)
    return published, four_nodes, proxy, invalid, failed


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_the_whole_report_is_as_reviewed(tmp_path: Path, language: Any, form: str) -> None:
    text = document(result_of(tmp_path, *several()), form, language)
    golden = GOLDEN / f"report-{language}.{form}"
    if os.environ.get("NX8_GOLDEN") == "1":
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def cells_of(line: str) -> list[str]:
    """The cells of a Markdown table's line."""
    return [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows_of(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    headings = cells_of(lines[0])
    return [dict(zip(headings, cells_of(line), strict=True)) for line in lines[2:]]


def test_the_published_row_reads_as_published(tmp_path: Path) -> None:
    made = honest(make_cell(per_node=8, accumulate=1), step_s=4096 / 3564)
    (row,) = rows_of(table_text(result_of(tmp_path, made)))
    assert list(row) == ["配置", "fix_hp", "token/p/s", "loss", "mem", "MFU"]
    assert row["配置"] == "A800单机8卡（1x8）"
    assert row["fix_hp"] == "/"
    assert row["token/p/s"] == "3564"
    assert row["MFU"] == "47.98%[^2]"


def test_all_published_headings_in_their_order(tmp_path: Path) -> None:
    result = result_of(tmp_path, honest(make_cell(columns=tuple(reversed(ALL_COLUMNS)))))
    (row,) = rows_of(table_text(result))
    assert list(row) == [
        "配置",
        "precision",
        "parallel",
        "fix_hp",
        "token/p/s",
        "loss",
        "mem",
        "acc(MMMU)",
        "MFU",
    ]
    assert (row["precision"], row["parallel"], row["acc(MMMU)"]) == ("bf16", "TP1PP1DP2", "/")


def test_a_column_shows_its_own_values_whatever_the_order_of_metrics(tmp_path: Path) -> None:
    result = result_of(tmp_path, honest())
    before = rows_of(table_text(result))
    cell = result["cells"][0]
    cell["metrics"] = dict(reversed(cell["metrics"].items()))
    assert rows_of(table_text(result)) == before


@pytest.mark.parametrize(
    ("num_nodes", "per_node", "zh", "en"),
    [
        (1, 8, "A800单机8卡（1x8）", "A800 1 node × 8 devices (1x8)"),
        (2, 8, "A800两机16卡（2x8）", "A800 2 nodes × 8 devices (2x8)"),
        (4, 8, "A800四机32卡（4x8）", "A800 4 nodes × 8 devices (4x8)"),
        (11, 1, "A800 11机11卡（11x1）".replace(" ", ""), "A800 11 nodes × 1 devices (11x1)"),
    ],
)
def test_the_configuration_in_words(tmp_path: Path, num_nodes: int, per_node: int, zh: str, en: str) -> None:
    result = result_of(
        tmp_path, honest(make_cell(num_nodes=num_nodes, per_node=per_node, warmup=1, measured=1))
    )
    assert build(result, "zh").rows[0].texts["config"].text == zh
    assert build(result, "en").rows[0].texts["config"].text == en


def test_node_counts_in_chinese() -> None:
    assert [nodes_text(n, "zh") for n in (1, 2, 3, 4, 10, 11)] == [
        "单机",
        "两机",
        "三机",
        "四机",
        "十机",
        "11机",
    ]


def test_a_proxy_is_labelled_in_its_row_and_in_a_note(tmp_path: Path) -> None:
    result = result_of(tmp_path, several()[2])
    zh, en = table_text(result, "zh"), table_text(result, "en")
    assert rows_of(zh)[0]["配置"].startswith("CPU单机2卡（1x2）（proxy）[^1]")
    assert rows_of(en)[0]["Configuration"].startswith("CPU 1 node × 2 devices (1x2) (proxy)[^1]")
    assert "llama2_7b" in zh.split("[^1]: ")[1]
    assert "never compared" in en.split("[^1]: ")[1]
    assert rows_of(zh)[0]["mem"] == "4.0/16.0[^2]"


def test_an_unknown_peak_shows_a_dash_with_its_reason(tmp_path: Path) -> None:
    text = table_text(result_of(tmp_path, honest(make_cell(peak=UNKNOWN_PEAK))), "en")
    mark = rows_of(text)[0]["MFU"]
    assert re.fullmatch(r"–\[\^\d+\]", mark)
    assert "the vendor publishes none" in text.split(f"\n{mark[1:]}: ")[1].splitlines()[0]


def test_an_unproven_cell_shows_no_number_and_never_a_bare_hyphen(tmp_path: Path) -> None:
    result = result_of(tmp_path, *several())
    for language in ("zh", "en"):
        rows = rows_of(table_text(result, language))
        for row, cell in zip(rows, result["cells"], strict=True):
            assert "-" not in row.values()
            assert "" not in row.values()
            if cell["verdict"] != "MEASURED":
                for name in ("token/p/s", "loss", "mem", "MFU"):
                    assert re.fullmatch(r"–(\[\^\d+\])+", row[name]), row


def test_every_mfu_has_a_note_with_formula_n_peak_and_source(tmp_path: Path) -> None:
    note = table(result_of(tmp_path, several()[0]), "en").notes[1]
    assert note == (
        "MFU = 3564 token/p/s × 6 × N ÷ peak; N = 7e9, peak 312 TFLOPS (bf16, NVIDIA A100 datasheet, dense); "
        "with attention, by PaLM's appendix B: 52.64%"
    )


def test_the_csv_has_the_same_columns_by_name(tmp_path: Path) -> None:
    result = result_of(tmp_path, *several())
    rows = list(csv.DictReader(io.StringIO(document(result, "csv", "zh"))))
    assert [row["verdict"] for row in rows] == ["MEASURED", "MEASURED", "MEASURED", "INVALID", "FAILED"]
    assert rows[1]["配置"] == "H800四机32卡（4x8）（pretrain）"
    assert rows[1]["token/p/s"] == "791.4"
    assert rows[2]["proxy"] == "yes"
    assert "PaLM" in rows[0]["notes"]


UGLY = "=cmd|' /C calc'!A0\x1b[31m\n| <img src=x onerror=alert(1)> [x](javascript:1) `code` **b** \u202e"


def test_nothing_from_a_file_acts_in_any_format(tmp_path: Path) -> None:
    made = honest(make_cell(display=UGLY, fix_hp=UGLY, stage=UGLY))
    made.records[1][0]["versions"] = {UGLY: UGLY}
    made.records[1][7]["loss"] = None
    result = result_of(tmp_path, made.seal())
    result["run"]["cluster"] = UGLY
    result["cells"][0]["reasons"] = [UGLY]
    result["cells"][0]["traceback"] = f"```\n{UGLY}\n~~~"
    result["cells"][0]["proofs"][0]["detail"] = UGLY
    for language in ("zh", "en"):
        for form in ("md", "csv", "json"):
            text = document(result, form, language)
            assert "\x1b" not in text
            assert "\u202e" not in text
        text = document(result, "md", language)
        outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        lines = outside.splitlines()
        assert "<img" not in outside
        assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(", outside)
        table = [line for line in lines if line.startswith("| ")]
        assert len({len(cells_of(line)) for line in table[:3]}) == 1
        fields = [one for row in csv.reader(io.StringIO(document(result, "csv", language))) for one in row]
        assert not [one for one in fields if one.startswith(("=", "+", "-", "@", "\t"))]


@given(text=st.text(max_size=60))
def test_any_text_stays_one_printable_cell(text: str) -> None:
    for shown in (markdown(text), field(text)):
        assert "\n" not in shown
        assert shown.isprintable() or not text.isprintable()
    assert not re.search(r"(?<!\\)(\\\\)*\|", markdown(text))
    assert "<" not in markdown(text)
    assert cells_of(f"| {markdown(text)} | x |")[1] == "x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-x", "'-x"),
        ("@sum", "'@sum"),
        ("\t=1", "'\\x09=1"),
        ("  =1", "'  =1"),
        ("＝1", "'＝1"),
        ("-0.25", "-0.25"),
        ("–", "–"),
        ("/", "/"),
        ("3564", "3564"),
    ],
)
def test_a_spreadsheet_never_takes_a_field_for_a_formula(text: str, shown: str) -> None:
    assert field(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tokens_per_second", "tokens_per_second"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("- x", "\\- x"),
        ("1. x", "1\\. x"),
        ("# x", "\\# x"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_a_code_block_cannot_be_closed_from_inside() -> None:
    block = fenced("a\n````\nb")
    assert block.splitlines() == ["`````text", "a", "````", "b", "`````"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3564.4, "3564"),
        (253.61, "253.6"),
        (999.96, "1000"),
        (9.99996, "10.00"),
        (2.10254, "2.103"),
        (0.94, "0.9400"),
        (0.00012345, "0.0001234"),
        (1.5e-9, "1.5e-9"),
        (0, "0"),
        (123456789.0, "123456789"),
    ],
)
def test_numbers_have_four_significant_digits_and_are_whole_from_a_thousand(value: float, text: str) -> None:
    assert significant(value) == text


def test_other_numbers() -> None:
    assert per_cent(0.395433) == "39.54%"
    assert per_cent(0.359, digits=1) == "35.9%"
    assert gib(44.2 * 1024**3) == "44.2"
    assert gib(0) == "0.0"
    assert gib(10 << 20) == "0.0098"
    assert significant(7_000_000_000, whole_from=None) == "7e9"
    assert significant(6_738_415_616, whole_from=None) == "6.738e9"


@pytest.mark.parametrize("key", MESSAGES)
def test_both_languages_have_the_same_placeholders(key: str) -> None:
    names = [
        sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)
        for text in MESSAGES[key]
    ]
    # English needs a plural, Chinese the number of all devices and a proof's name in words; every other
    # placeholder is in both.
    allowed = {
        "config": {"s", "per_node", "devices"},
        "proof.named": {"label"},
        "proof.broken": {"label"},
    }.get(key, set())
    assert set(names[0]) - allowed == set(names[1]) - allowed
    assert all(MESSAGES[key])


@pytest.mark.parametrize("broken", [{}, {"schema": "nx8.result/9"}, {"schema": "nx8.result/1"}])
def test_what_is_no_result_is_a_clear_error(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E801"):
        report_text(broken)


def test_every_message_is_used() -> None:
    folder = Path(__file__).parents[1] / "orchestrator"
    files = (path for path in sorted(folder.rglob("*.py")) if path.parent.name != "messages")
    source = "".join(path.read_text("utf-8") for path in files)
    source += (folder / "messages" / "__init__.py").read_text("utf-8").partition("def say(")[2]
    unused = [key for key in MESSAGES if key not in source and f'"{key.partition(".")[2]}"' not in source]
    assert unused == []
