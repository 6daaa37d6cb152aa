"""The published documents, all five as they were published, out of results; every format of a report valid
for the tools that read it, and nothing of a hostile name at work in any.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator import schemas
from orchestrator.configs import DeviceConfig
from orchestrator.derive import derive, render
from orchestrator.document import Document, DocumentChange, Text
from orchestrator.errors import ConfigError
from orchestrator.load import load, read_stored
from orchestrator.messages import MESSAGES, SENTENCES, reason_text, translated
from orchestrator.metrics.logged import SPECS as LOG_SPECS
from orchestrator.metrics.summary import SPECS
from orchestrator.plan import Plan, to_json
from orchestrator.report import FORMS, document
from orchestrator.report.output import write_file
from orchestrator.report.reference import BATCH
from orchestrator.results import serialise, write_atomic
from orchestrator.verdict.proofs import unproven
from tests.cellmaker import honest, make_cell, write_run
from tests.documentmaker import DATA, DOCUMENTS, Published, result_of_document
from tests.test_planner import accelerator, planned, selection
from tests.test_report import result_of, several

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden" / "documents"
SEEDS = ROOT / "tests" / "data" / "published"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The text of each published document's result, by the number of its seed: made once, read anew by each
    test.
    """
    return {
        one.seed: serialise(result_of_document(tmp_path_factory.mktemp(one.seed), one)) for one in DOCUMENTS
    }


def by_name(published: Published) -> str:
    return f"{published.seed}-{published.case}-{published.device}"


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("published", DOCUMENTS, ids=by_name)
def test_the_whole_document_is_as_reviewed(
    stored: dict[str, bytes], published: Published, language: Any
) -> None:
    text = document(json.loads(stored[published.seed]), "md", language)
    golden = GOLDEN / f"{by_name(published)}.{language}.md"
    if os.environ.get("NX8_GOLDEN") == "1":
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def structure(text: str) -> list[str]:
    """Headings, labels, what 运行情况 says and the headings of the tables, in their order; without values."""
    found = []
    for line in text.splitlines():
        plain = re.sub(r"\[\^\d+\]", "", line.strip()).strip()
        if plain == "### 运行信息":
            break  # what follows is ours
        if match := re.match(r"(?:[-*] )?#{3,5} (.*)", plain):
            found.append(f"# {match[1]}")
        elif match := re.match(r"\d\. (.*)", plain):
            found.append(re.sub(r"为\S+?中所写", "为FILE中所写", match[1]).rstrip("。"))
        elif plain.startswith("* "):
            found.append(plain)
        elif plain.startswith("| 配置"):
            found.append("|".join(cells_of(plain)))
        elif match := re.match(r"- ([^:：]+)[:：]", plain):
            if "LBS" not in plain:
                found.append(match[1].strip())
        elif plain.startswith(("- ", "值得注意")):
            found.append(plain)
    return found


def cells_of(line: str) -> list[str]:
    return [text.strip() for text in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def general(text: str) -> list[list[str]]:
    """The rows of 通用指标, all three columns."""
    lines = text.split("通用指标", 1)[1].split("性能指标\n", 1)[0].splitlines()
    return [cells_of(line) for line in lines if line.startswith("|")][2:]


#: What the published texts got wrong, and what every document has instead: seed → (theirs, ours).
KNOWN = {
    "000": [("/硬件环境", "MLU硬件环境"), ("/软件环境", "MLU软件环境"), ("cambricon /", "cambricon MLU")],
    "002": [("tokens/p/s", "token/p/s")],
    "003": [("在本case中默认为3", "在本case中默认为1")],
    "004": [("data_parallel_size。在本case中", "data_parallel_size，简写为GBS。在本case中")],
}


@pytest.mark.parametrize("published", DOCUMENTS, ids=by_name)
def test_headings_rows_and_words_are_those_of_the_published_document(
    stored: dict[str, bytes], published: Published
) -> None:
    theirs = (SEEDS / f"{published.seed}.md").read_text("utf-8").replace("\r\n", "\n")
    for wrong, right in KNOWN.get(published.seed, []):
        assert wrong in theirs
        theirs = theirs.replace(wrong, right)
    ours = document(json.loads(stored[published.seed]), "md", "zh")
    assert structure(ours) == structure(theirs)
    assert general(ours) == general(theirs)


def test_published_figures_come_out_of_records_as_published(stored: dict[str, bytes]) -> None:
    shown = {}
    for seed, text in stored.items():
        report = json.loads(document(json.loads(text), "json", "zh"))
        shown[seed] = [(row["texts"]["mem"], row["texts"]["mfu"]) for row in report["rows"]]
    assert shown["000"] == [("–", "–")] * 2
    assert shown["001"] == [("74.0/81.0", "18.01%"), ("78.0/81.0", "39.54%")]
    assert [mem for mem, _ in shown["002"] + shown["003"]] == ["29.0/32.0", "44.2/48.0"]
    assert [mfu for _, mfu in shown["004"]] == ["21.52%", "27.26%", "33.61%", "38.57%"]


def test_what_is_not_known_is_a_slash_with_its_reason_below_the_table(stored: dict[str, bytes]) -> None:
    text = document(json.loads(stored["000"]), "md", "zh")
    mark = re.search(r"机器型号: /\[\^(\d+)\]", text)
    assert mark is not None
    assert f"[^{mark[1]}]: 机器型号未知：固件在 /sys/class/dmi/id 中没有写明厂商和产品" in text
    assert "加速卡型号未知：DMI is not readable there（原文）" in text


def test_nodes_that_differ_are_each_named(stored: dict[str, bytes]) -> None:
    result = json.loads(stored["004"])
    nodes = result["environment"]["nodes"]
    nodes["node-2"] = {**nodes["node-2"], "driver": "550.1"}
    text = document(result, "md", "zh")
    assert "加速卡驱动版本：535.129.03 (node-0, node-1, node-3)；550.1 (node-2)" in text


def test_an_older_result_without_the_words_of_its_document_is_still_reported(tmp_path: Path) -> None:
    result = result_of(tmp_path, honest())
    assert "document" not in result["cells"][0]
    for language in ("zh", "en"):
        assert "deepspeed 0.19.8" in document(result, "md", language)  # type: ignore[arg-type]


def test_a_device_changes_only_the_words_it_says() -> None:
    text = Text(zh="甲", en="a")
    words = Document(task=text, dataset=text, rows=("task",), bold=("mem",))
    changed = words.changed(DocumentChange(bold=(), title=Text(zh="乙", en="b")))
    assert changed == replace(words, bold=(), title=Text(zh="乙", en="b"))
    assert words.changed(None) == words


# What programs read ------------------------------------------------------------------------------


def schema(name: str) -> dict[str, Any]:
    return json.loads((Path(schemas.__file__).parent / f"{name}.schema.json").read_text("utf-8"))


def closed(part: Any) -> Any:
    """The schema with every key refused that it does not describe."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: closed(one) for key, one in part.items()}
    return {**made, "additionalProperties": False} if isinstance(part.get("properties"), dict) else made


@pytest.fixture
def all_results(stored: dict[str, bytes], tmp_path: Path) -> list[dict[str, Any]]:
    """A result of every kind: each document, and one run with a cell of every verdict."""
    return [*map(json.loads, stored.values()), result_of(tmp_path / "several", *several())]


def test_results_and_reports_fit_their_schemas_and_hold_nothing_that_these_do_not_describe(
    all_results: list[dict[str, Any]],
) -> None:
    for result in all_results:
        jsonschema.validate(result, schema("result"))
        jsonschema.validate(result, closed(schema("result")))
        for language in ("zh", "en"):
            report = json.loads(document(result, "json", language))  # type: ignore[arg-type]
            jsonschema.validate(report, schema("report"))
            jsonschema.validate(report, closed(schema("report")))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report, "rows": [{}]}, schema("report"))


def test_junit_is_read_by_junitparser_and_an_unproven_cell_is_a_failure(
    all_results: list[dict[str, Any]],
) -> None:
    junitparser = pytest.importorskip("junitparser")
    for result in all_results:
        (suite,) = junitparser.JUnitXml.fromstring(document(result, "junit").encode("utf-8"))
        verdicts = [cell["verdict"] for cell in result["cells"]]
        failed = [[one.type for one in case.result if isinstance(one, junitparser.Failure)] for case in suite]
        assert failed == [[] if verdict == "MEASURED" else [verdict] for verdict in verdicts]
        assert (suite.tests, suite.failures) == (len(verdicts), sum(map(len, failed)))
        for case, cell in zip(suite, result["cells"], strict=True):
            values = {one.get("name"): one.get("value") for one in case._elem.iter("property")}
            assert values["verdict"] == cell["verdict"]
            assert ("tokens_per_second_per_device" in values) == (cell["verdict"] == "MEASURED")
            if cell["verdict"] != "MEASURED":
                assert case.result[0].message == reason_text(cell["reasons"][0], "zh")


def samples(text: str) -> dict[str, list[str]]:
    """Family → its samples, of a Prometheus textfile."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            found.setdefault(re.split(r"[{ ]", line)[0], []).append(line)
    return found


def test_prometheus_has_no_sample_of_a_figure_without_proof(tmp_path: Path) -> None:
    families = samples(document(result_of(tmp_path, *several()), "prometheus"))
    measured = {
        re.search(r'cell="([^"]*)"', line)[1]: line.rsplit(" ", 1)[1]  # type: ignore[index]
        for line in families["nx8_cell_measured"]
    }
    assert measured == {
        "llama2_7b-1x2": "1.0",
        "llama2_7b-4x8": "1.0",
        "proxy-1x2": "1.0",
        "invalid-1x2": "0.0",
        "failed-1x2": "0.0",
    }
    for family, lines in families.items():
        if not family.startswith(("nx8_run", "nx8_cell")):
            assert not [line for line in lines if "invalid" in line or "failed" in line]
    assert len(families["nx8_mfu_published_ratio"]) == 2


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is missing"
)
def test_promtool_has_nothing_to_say(all_results: list[dict[str, Any]]) -> None:
    for result in [*all_results, hostile(copy.deepcopy(all_results[-1]))]:
        text = document(result, "prometheus")
        done = subprocess.run(
            ("promtool", "check", "metrics"), input=text, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        ("promtool", "check", "metrics"), input="x{ 1\n", capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0


def test_mlperf_lines_are_read_by_mlperf_logging_without_an_error(
    all_results: list[dict[str, Any]], tmp_path: Path
) -> None:
    parser = pytest.importorskip("mlperf_logging.compliance_checker.mlp_parser.ruleset_400")
    for result in [*all_results, hostile(copy.deepcopy(all_results[-1]))]:
        file = tmp_path / "mllog.txt"
        file.write_text(document(result, "mllog"), "utf-8")
        lines, errors = parser.parse_file(str(file))
        assert errors == []
        assert len(lines) == len(file.read_text("utf-8").splitlines())
        speeds = [line.value["value"] for line in lines if line.key == "tokens_per_second_per_device"]
        assert len(speeds) == sum(cell["verdict"] == "MEASURED" for cell in result["cells"])


# Hostile names -----------------------------------------------------------------------------------

UGLY = (
    "=cmd|' /C calc'!A0\x1b[31m\n| <img src=x onerror=alert(1)> [x](javascript:1) `code` **b** \u202e"
    ' ]]> &lt; " \\ {a="b"} \x00\x0b\ufffe\uffff :::MLLOG {} NaN \r\n# TYPE x counter\x7f\x85\u2028'
)


def hostile(result: dict[str, Any]) -> dict[str, Any]:
    """`result` with every text that a person, a node or a program may choose made ugly."""
    environment, cell = result["environment"], result["cells"][0]
    result["run"] |= {"run_id": UGLY, "cluster": UGLY, "vendor": UGLY}
    result["nx8_version"] = UGLY
    environment["host"] = dict.fromkeys(environment["host"], UGLY)
    environment["git"] = {"commit": UGLY, "dirty": True, "reason": UGLY}
    environment["images"] = {UGLY: {"id": UGLY, "versions": {UGLY: UGLY}, "unknown": {UGLY: UGLY}}}
    environment["nodes"] = {
        UGLY: {
            "cpu_model": UGLY,
            "network": [{"kind": UGLY, "rate_gbps": None, "links": 2}],
            "unknown": {"os": UGLY, "driver": UGLY},
            "versions": {"torch": UGLY},
        }
    }
    cell |= dict.fromkeys(("cell_id", "case", "vendor", "device", "device_display", "stage", "fix_hp"), UGLY)
    cell |= {"reasons": [UGLY], "verdict": "FAILED", "traceback": f"```\n{UGLY}\n~~~", "cause_rank": 0}
    cell["proxy"] = {"why": UGLY, "of": UGLY}
    cell["rehearsal"] = UGLY
    cell["attention"] = UGLY
    cell["proofs"][0] |= {"name": UGLY, "held": False, "detail": UGLY}
    cell["ranks"][0] |= {"versions": {UGLY: UGLY}, "device_name": UGLY}
    cell["document"] = {
        "words": {
            **DOCUMENT_WORDS,
            "title": {"zh": UGLY, "en": UGLY},
            "preface": {"zh": UGLY, "en": UGLY},
            "remarks": {"fix_hp": {"zh": UGLY, "en": UGLY}},
            "model": UGLY,
        },
        "default_batch": dict.fromkeys(BATCH, 1),
        "sources": {"micro_batch_size": UGLY},
    }
    return result


DOCUMENT_WORDS: dict[str, Any] = {
    "task": {"zh": UGLY, "en": UGLY},
    "dataset": {"zh": UGLY, "en": UGLY},
    "rows": ["task", "model", "dataset", "precision", "fix_hp", "device", "acc_mmmu"],
    "parts": ["hardware", "software", "parallel", "optimisations"],
    "software": ["os", "kernel", "driver", "docker", "image", "framework", "dependencies"],
    "framework": {"torch": UGLY},
    "dependencies": {UGLY: UGLY},
    "parallelism": {"technique": {"zh": UGLY, "en": UGLY}, "implementer": UGLY, "detail": None},
    "optimisations": [{"zh": UGLY, "en": UGLY}],
    "technique_names": {},
    "bold": ["model"],
    "batch_remarks": {"sequence_length": {"zh": UGLY, "en": UGLY}},
    "name_device": True,
    "name_vendor": True,
    "repeat_optimisations": True,
}


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_hostile_name_acts_in_any_format(tmp_path: Path, form: str, language: Any) -> None:
    text = document(hostile(result_of(tmp_path, *several())), form, language)
    text.encode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ufffe]", text.replace("\ufffe", ""))
    CHECKS[form](text)


def markdown_is_tame(text: str) -> None:
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(", outside)
    assert "**b**" not in outside
    assert "`code`" not in outside.replace("\\`", "")
    assert not [line for line in outside.splitlines() if re.match(r"# TYPE|=+\s*$", line)]
    tables = re.findall(r"^\|.*(?:\n\|.*)*", outside, flags=re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        assert len({len(cells_of(line)) for line in table.splitlines()}) == 1, table


def csv_is_tame(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    assert not [one for row in rows for one in row if one.startswith(("=", "+", "-", "@", "\t"))]


def json_is_tame(text: str) -> None:
    jsonschema.validate(json.loads(text, parse_constant=pytest.fail), closed(schema("report")))


def xml_is_tame(text: str) -> None:
    root = ET.fromstring(text)
    assert {one.tag for one in root.iter()} == {
        "testsuites",
        "testsuite",
        "properties",
        "property",
        "testcase",
        "failure",
    }


def prometheus_is_tame(text: str) -> None:
    label = r'[a-z0-9_]+="(?:[^"\\\n]|\\["\\n])*"'
    for line in text.splitlines():
        assert re.fullmatch(
            rf"# (HELP|TYPE) nx8_[a-z0-9_]+ .+|nx8_[a-z0-9_]+\{{{label}(,{label})*\}} -?[0-9.e+-]+", line
        ), line


def mllog_is_tame(text: str) -> None:
    for line in text.splitlines():
        assert line.count(":::MLLOG") == 1
        json.loads(line.removeprefix(":::MLLOG "), parse_constant=pytest.fail)


CHECKS = {
    "md": markdown_is_tame,
    "csv": csv_is_tame,
    "json": json_is_tame,
    "junit": xml_is_tame,
    "prometheus": prometheus_is_tame,
    "mllog": mllog_is_tame,
}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_json_does_not_have_reaches_no_format(tmp_path: Path, form: str, number: float) -> None:
    result = result_of(tmp_path, honest())
    result["cells"][0]["metrics"]["loss"]["value"] = number
    with pytest.raises(ConfigError, match="E801"):
        document(result, form)


# Where it is written -----------------------------------------------------------------------------


def stored_run(root: Path) -> Path:
    folder, plan = write_run(root, honest(make_cell()))
    write_atomic(folder.result, render(derive(folder, plan)))
    return folder.path


def nx8_report(run: Path, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "orchestrator", "report", str(run), *words)
    return subprocess.run(argv, **{"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT, **how})


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_what_standard_output_would_have_been(tmp_path: Path, form: str) -> None:
    run, target = stored_run(tmp_path / "runs"), tmp_path / "out"
    target.write_text("before", "utf-8")
    target.chmod(0o644)
    printed = nx8_report(run, "--format", form)
    written = nx8_report(run, "--format", form, "--output", str(target))
    assert (printed.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert target.read_text("utf-8") == printed.stdout
    assert [path.name for path in tmp_path.iterdir()] in (["runs", "out"], ["out", "runs"])


def test_a_file_that_cannot_be_written_is_an_error_with_its_code_and_leaves_the_old_one(
    tmp_path: Path,
) -> None:
    run = stored_run(tmp_path / "runs")
    missing = nx8_report(run, "--output", str(tmp_path / "no" / "such" / "folder.md"))
    assert (missing.returncode, "error[E840]" in missing.stderr, "Traceback" in missing.stderr) == (
        2,
        True,
        False,
    )
    folder = nx8_report(run, "--output", str(tmp_path))
    assert (folder.returncode, "error[E840]" in folder.stderr) == (2, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_an_error_with_its_code_and_a_device_stays_one(tmp_path: Path, form: str) -> None:
    run = stored_run(tmp_path / "runs")
    with Path("/dev/full").open("w") as full:
        printed = nx8_report(run, "--format", form, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    written = nx8_report(run, "--format", form, "--output", "/dev/full")
    for done in (printed, written):
        assert done.returncode == 2
        assert "error[E840]" in done.stderr
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target.prom", tmp_path / "link.prom"
    target.write_text("before", "utf-8")
    target.chmod(0o640)
    link.symlink_to(target.name)
    write_file(link, "after")
    assert link.is_symlink()
    assert target.read_text("utf-8") == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


# Words -------------------------------------------------------------------------------------------


def test_every_sentence_that_is_put_into_chinese_is_one_that_our_code_writes() -> None:
    code = "".join(
        path.read_text("utf-8")
        for folder in ("orchestrator", "cases/trainer")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.parent.name != "messages"
    )
    for message in SENTENCES:
        fragment = max(re.split(r"\{\w+\}", message.en), key=len).removesuffix(": ")
        assert fragment in code, message.en


def test_every_sentence_has_the_same_placeholders_in_both_languages() -> None:
    for message in SENTENCES:
        assert sorted(re.findall(r"\{(\w+)\}", message.zh)) == sorted(re.findall(r"\{(\w+)\}", message.en))


def test_every_proof_has_a_name_in_chinese() -> None:
    assert {f"proves.{proof.name}" for proof in unproven("")} == {
        key for key in MESSAGES if key.startswith("proves.")
    }


@pytest.mark.parametrize(
    ("reason", "zh"),
    [
        (
            "rank 1 raised ValueError: x, after step 4",
            "rank 1 抛出异常“ValueError: x”（原文），在第 4 步之后",
        ),
        ("then rank 2 raised E: y", "随后 rank 2 抛出异常“E: y”（原文）"),
        ("hung: no new step for 5 s", "挂起：5 s 内没有新的一步"),
        (
            "hung: rank 1 did not arrive: not ready; no step for 8 s; last steps: rank 0: 1",
            "挂起：rank 1 没有到达（not ready）；8 s 内没有新的一步；各 rank 最后一步：rank 0: 1",
        ),
        (
            "out of memory (device): rank 1 raised E: y, after step 3",
            "设备内存不足：rank 1 抛出异常“E: y”（原文），在第 3 步之后",
        ),
        ("the bf16 peak is unknown: nobody says", "bf16 峰值未知：nobody says（原文）"),
        ("nobody knows this sentence", "nobody knows this sentence（原文）"),
        ("then " * 300 + "x", "随后 随后 随后 随后 随后 " + "then " * 295 + "x（原文）"),
        ("{0} {why} %s", "{0} {why} %s（原文）"),
    ],
)
def test_our_sentences_are_put_into_chinese_and_all_others_marked_as_the_original(
    reason: str, zh: str
) -> None:
    assert translated(reason, "zh") == zh
    assert translated(reason, "en") == reason


def test_the_words_travel_from_the_case_and_the_device_through_the_plan(tmp_path: Path) -> None:
    config = load(DATA / "configs" / "llama2_7b" / "R300x1x8.yaml", DeviceConfig)
    made = planned(selection(accelerator(), config))
    (cell,) = made.cells
    assert cell.fix_hp == "MPE=512 LBS=12 recompute=True"
    assert cell.document is not None
    assert cell.document.words.title == Text(zh="昆仑芯XPU", en="Kunlunxin XPU")
    assert cell.document.words.task == Text(zh="自然语言理解", en="natural language understanding")
    assert cell.document.default_batch == dict(zip(BATCH, (1, 4096, 1), strict=True))
    assert cell.document.sources == {
        "micro_batch_size": "configs/A1x1x8.yaml",
        "sequence_length": "configs/A1x1x8.yaml",
        "gradient_accumulation_steps": "case.yaml",
    }
    write_atomic(tmp_path / "plan.json", to_json(made).encode())
    assert read_stored(tmp_path / "plan.json", Plan) == made


@pytest.mark.parametrize("page", ["metrics.md", "metrics.zh.md"])
def test_the_page_of_metrics_names_every_metric(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    for name in {**SPECS, **LOG_SPECS}:
        short = re.sub(r"^step_time(_p9\d_s)$", r"\1", name)
        assert f"`{short}`" in text, name
