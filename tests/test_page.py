"""The report page: the same cells as the report, nothing of anybody's text in its markup, and its size."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.changes import between
from orchestrator.cli import main as cli
from orchestrator.errors import ConfigError
from orchestrator.history.files import write_accepted
from orchestrator.history.record import Accepted, environment_of
from orchestrator.page import curves_svg, page_of, write_page
from orchestrator.page.curves import Chart, Line, thinned
from orchestrator.page.differences import differences
from orchestrator.page.gather import earlier_results, gathered
from orchestrator.page.html import index_html, page_html, policy
from orchestrator.page.model import view_of
from orchestrator.page.serve import server
from orchestrator.page.site import History, index_view, write_site
from orchestrator.page.svg import extent, ticks
from orchestrator.page.trend import RULE, Point, Trend, judged
from orchestrator.page.words import WORDS
from orchestrator.report.model import build
from orchestrator.results import RunFolder, read_result
from orchestrator.workspace import Workspace
from tests.pagemaker import Night, write_log, write_night
from tests.xss import PAYLOADS, poisoned, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
WORKSPACE = Workspace(home=ROOT)
#: The last good night, the slow ones after it, and one that fails.
GOOD, FIRST_BAD, SECOND_BAD, FAILED = 8, 9, 10, 11
SLOW_NODE = {"what": "node", "node": "node-1", "rank": None, "factor": 1.5123456789}
SMALL: dict[str, Any] = {"num_nodes": 2, "per_node": 4, "steps": 14}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good nights, two slow ones with another driver, one that fails."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(1, GOOD + 1):
        write_night(root, Night(number=number, **SMALL))
    for number in (FIRST_BAD, SECOND_BAD):
        write_night(root, Night(number=number, speed=0.93, driver="550.54.15", slow=(5, 1.09), **SMALL))
    failed = write_night(root, Night(number=FAILED, steps=30, num_nodes=2, per_node=4, fails=True))
    write_log(failed, "llama2_7b-2x4-0", 0, 3, "before\ntorch.OutOfMemoryError: <b>\x1b[31m\n")
    return root


def run_of(runs: Path, number: int) -> RunFolder:
    return RunFolder.find(runs, Night(number=number).run_id)


class Reader(HTMLParser):
    """Elements in their order, and the text of every table cell of the first table of a language."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def banner(text: str) -> str:
    found = re.search(r'<section class="banner.*?</section>', text, re.S)
    assert found
    return found[0]


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("number", [GOOD, FAILED])
def test_the_table_has_the_cells_and_reasons_of_the_report(runs: Path, language: Any, number: int) -> None:
    folder = run_of(runs, number)
    report = build(read_result(folder), language)
    text = page_of(folder, None)
    tag = "zh-CN" if language == "zh" else "en"
    part = text.split('id="table"')[1].split('id="curves"')[0]
    mine = re.search(rf'<div lang="{tag}">(.*?)</ol>', part, re.S)
    assert mine
    said = "".join(read(mine[0]).texts)
    for row in report.rows:
        for cell in row.texts.values():
            assert cell.text in said
            assert all(report.notes[one - 1] in said for one in cell.notes)


def test_a_cell_without_proof_shows_no_figure_but_its_raw_curves_and_says_so(runs: Path) -> None:
    folder = run_of(runs, FAILED)
    view = view_of(gathered(folder, None, earlier_results(runs, folder.run_id)))
    (cell,) = view.cells
    assert view.banner.kind == "failed"
    assert [card.value for card in cell.cards] == ["–"] * 4
    assert "OutOfMemoryError" in view.banner.sentences[0].en
    assert [chart.id for chart in cell.charts][:2] == ["c0-throughput", "c0-loss"]
    text = page_of(folder, None)
    assert "no result" in text
    assert "cells/llama2_7b-2x4-0/node0/rank3/stderr.log" in text
    assert "\x1b" not in text
    assert not view.last or not view.last.rows


def test_a_second_slow_night_is_a_regression_with_what_changed_and_who_is_slow(runs: Path) -> None:
    first = view_of(
        gathered(run_of(runs, FIRST_BAD), None, earlier_results(runs, run_of(runs, FIRST_BAD).run_id))
    )
    second = view_of(
        gathered(run_of(runs, SECOND_BAD), None, earlier_results(runs, run_of(runs, SECOND_BAD).run_id))
    )
    assert (first.banner.kind, second.banner.kind) == ("suspect", "regression")
    said = " ".join(one.en for one in second.banner.sentences)
    assert "535.129.03 → 550.54.15" in said
    assert Night(number=FIRST_BAD).run_id in said
    # Compared with the last good run, not with the first bad one.
    assert second.last is not None
    assert second.last.run_id == Night(number=GOOD).run_id
    assert any("device 1 of node-1 (rank 5)" in one.en for one in second.warnings)


def test_a_good_night_is_measured_and_a_young_series_has_no_band(runs: Path) -> None:
    good = view_of(gathered(run_of(runs, GOOD), None, earlier_results(runs, run_of(runs, GOOD).run_id)))
    young = view_of(gathered(run_of(runs, 3), None, earlier_results(runs, run_of(runs, 3).run_id)))
    assert good.banner.kind == "measured"
    assert good.cells[0].trend is not None
    assert good.cells[0].trend.n == RULE.min_points
    assert young.cells[0].trend is not None
    assert young.cells[0].trend.low is None
    assert all(f"{RULE.min_points} " in said for said in young.cells[0].trend_said)
    text = (ROOT / "docs" / "page.md").read_text("utf-8")
    assert f"from {RULE.min_points} runs on" in text
    assert f"up to {RULE.window} MEASURED runs" in text


def test_the_page_is_allowed_exactly_what_is_in_it(runs: Path) -> None:
    text = page_of(run_of(runs, GOOD), WORKSPACE)
    rule = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert rule
    rule_text = rule[1].replace("&#39;", "'")
    assert rule_text.startswith("default-src 'none'; script-src 'sha256-")
    for kind in ("script", "style"):
        for body in re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S):
            digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in rule_text
    reader = read(text)
    assert not {name for name in reader.attributes if name.startswith("on") or name == "style"}
    assert not {"src", "srcset", "action", "xlink:href"} & reader.attributes
    assert not set(reader.tags) & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r'href="(?!#|index\.html)', text)
    assert "unsafe" not in policy("", [""])


def test_two_hundred_payloads_leave_the_markup_as_it_is(runs: Path) -> None:
    """Each payload in every text field: the elements are those of the page without it."""
    assert len(set(PAYLOADS)) == 200
    folder = run_of(runs, FAILED)
    found = gathered(folder, WORKSPACE, earlier_results(runs, folder.run_id))
    plain = read(page_html(view_of(poisoned(found, iter(lambda: "plain", None)))))
    for first in range(0, 200, 8):
        page = page_html(view_of(poisoned(found, texts(8, first))))
        reader = read(page)
        assert reader.tags == plain.tags, PAYLOADS[first : first + 8]
        assert reader.attributes == plain.attributes


@pytest.mark.slow
def test_two_hundred_payloads_one_by_one(runs: Path) -> None:
    folder = run_of(runs, FAILED)
    found = gathered(folder, WORKSPACE, earlier_results(runs, folder.run_id))
    plain = read(page_html(view_of(poisoned(found, iter(lambda: "plain", None)))))
    for first, payload in enumerate(PAYLOADS):
        assert read(page_html(view_of(poisoned(found, texts(1, first))))).tags == plain.tags, payload


def test_three_cells_of_two_thousand_steps_fit_into_half_a_megabyte(tmp_path: Path) -> None:
    folder = write_night(tmp_path, Night(number=1, num_nodes=1, per_node=2, steps=2000, cells=3))
    text = page_of(folder, WORKSPACE)
    assert len(text.encode()) <= 500_000
    view = view_of(gathered(folder, None, ()))
    assert all(cell.thinned and "every stretch are kept" in cell.thinned.en for cell in view.cells)
    points = [len(chart["x"]) for chart in view.data["charts"].values()]
    assert 300 < max(points) <= 1500


def test_thinning_keeps_the_ends_and_every_extreme() -> None:
    ups = [float(n % 7) for n in range(5000)]
    ups[1234], ups[4321] = 900.0, -900.0
    gaps: list[float | None] = [None if n < 100 else 1.0 for n in range(5000)]
    gaps[2222] = 50.0
    chart = Chart(
        name="loss",
        unit="",
        x="step",
        xs=tuple(map(float, range(1, 5001))),
        lines=(Line(name="loss", values=tuple(ups)), Line(name="loss", values=tuple(gaps))),
        warmup=None,
        recorded=5000,
    )
    thin = thinned(chart, 400)
    assert len(thin.xs) <= 400
    assert (thin.xs[0], thin.xs[-1]) == (1.0, 5000.0)
    assert {900.0, -900.0} <= set(thin.lines[0].values)
    assert 50.0 in thin.lines[1].values
    assert list(thin.xs) == sorted(set(thin.xs))
    assert thin.lines[0].values == tuple(ups[int(x) - 1] for x in thin.xs)
    assert thinned(chart, 5000) is chart


def points(*values: float | None) -> list[Point]:
    return [
        Point(
            run_id=f"r{n}",
            created_utc=f"2026-11-{n + 1:02}T02:00:00+00:00",
            value=value,
            verdict="MEASURED",
        )
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "kind", "first_bad"),
    [
        ((100.0,) * 7, "no_history", None),
        ((100.0, 101.0, 99.0, 100.0, 100.5, 100.2, 99.7, 100.1), "in_band", None),
        ((100.0,) * 8 + (90.0,), "suspect", "r8"),
        ((100.0,) * 8 + (90.0, 91.0, 90.0), "regression", "r8"),
        ((100.0,) * 8 + (90.0, 90.0, 100.0), "in_band", None),
        ((100.0,) * 8 + (110.0, 110.0), "improvement", None),
        ((100.0,) * 8 + (90.0, None, 90.0), "regression", "r8"),
        ((100.0,) * 8 + (None,), "no_history", None),
        ((None,), "no_history", None),
    ],
)
def test_a_trend_is_judged_by_the_runs_before(values: Any, kind: str, first_bad: str | None) -> None:
    trend = judged("c", points(*values))
    assert (trend.kind, trend.first_bad) == (kind, first_bad)


@pytest.mark.parametrize(
    ("values", "last_good"),
    [
        ((100.0,), None),
        ((100.0, 101.0), "r0"),
        ((100.0,) * 8 + (60.0, 100.0), "r7"),
        ((100.0,) * 8 + (60.0, 100.0, 100.0), "r9"),
        ((100.0,) * 8 + (60.0, 60.0, 60.0), "r7"),
        ((100.0,) * 8 + (110.0, 110.0), "r7"),
        ((100.0,) * 8 + (None, 100.0), "r7"),
        ((100.0,) * 8 + (60.0, None), "r7"),
        ((100.0,) * 8 + (100.0, None), "r8"),
    ],
)
def test_the_last_good_run_is_the_newest_that_the_gate_found_in_band(
    values: Any, last_good: str | None
) -> None:
    assert judged("c", points(*values)).last_good == last_good


def changed(folder: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    """Another result in `folder`: `change` gets the document."""
    document = dict(read_result(folder))
    change(document)
    folder.result.write_text(json.dumps(document))


def test_a_degraded_run_and_one_of_other_steps_are_no_last_good_one(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    runs = tmp_path / "runs"
    changed(
        run_of(runs, GOOD),
        lambda one: one["cells"][0].update(degraded=[SLOW_NODE]),
    )
    changed(run_of(runs, GOOD - 1), lambda one: one["cells"][0]["steps"].update(measured_steps=200))
    folder = run_of(runs, FIRST_BAD)
    view = view_of(gathered(folder, None, earlier_results(runs, folder.run_id)))
    assert view.last is not None
    assert view.last.run_id == Night(number=GOOD - 2).run_id
    assert len(view.last.rows) == 1
    assert view.cells[0].trend is not None
    assert len(view.cells[0].trend.points) == FIRST_BAD - 1


def test_a_degraded_cell_is_said_in_the_words_of_the_report(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(run_of(runs, GOOD).path, tmp_path / run_of(runs, GOOD).run_id)
    folder = RunFolder.find(tmp_path, run_of(runs, GOOD).run_id)
    changed(folder, lambda one: one["cells"][0].update(degraded=[SLOW_NODE]))
    view = view_of(gathered(folder, None, ()))
    assert view.banner.kind == "warning"
    (said,) = (one for one in view.warnings if "node-1" in one.en)
    assert said.en.endswith(": node node-1 computed 1.51 times as long as the faster half")
    assert said.zh.endswith("节点 node-1 的计算用时为较快一半的 1.51 倍")


def test_each_cell_is_compared_with_its_own_last_good_run(runs: Path, tmp_path: Path) -> None:
    """One cell falls at FIRST_BAD, the other never does."""
    shutil.copytree(runs, tmp_path / "runs")
    runs = tmp_path / "runs"
    steady = read_result(run_of(runs, GOOD))["cells"][0] | {"cell_id": "steady", "fix_hp": "LBS=2"}
    for number in range(1, SECOND_BAD + 1):
        changed(run_of(runs, number), lambda one: one["cells"].append(steady))
    folder = run_of(runs, SECOND_BAD)
    view = view_of(gathered(folder, None, earlier_results(runs, folder.run_id)))
    assert view.last is not None
    assert view.last.run_id == Night(number=GOOD).run_id
    (fallen, _), (other, _) = view.last.rows
    assert Night(number=FIRST_BAD).run_id not in fallen.en
    assert other.en.endswith(f" · {Night(number=FIRST_BAD).run_id}")
    assert [cell.cards[0].look for cell in view.cells] == ["bad", "same"]


def test_an_accepted_night_begins_a_new_baseline_and_a_degraded_one_enters_none(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    runs = tmp_path / "runs"
    first, second = run_of(runs, FIRST_BAD), run_of(runs, SECOND_BAD)

    def trend() -> Trend:
        found = gathered(second, None, earlier_results(runs, second.run_id))
        return next(iter(found.trends.values()))

    assert trend().kind == "regression"
    said = Accepted(who="ops", at_utc="2026-11-09", reason="new driver", cell_id=None)
    write_accepted(first, (said,))
    assert trend().kind == "in_band"
    (first.path / "accepted.json").unlink()
    slow = read_result(first)
    for cell in slow["cells"]:
        cell["degraded"] = [{"what": "rank", "node": "node-1", "rank": 5, "factor": 1.0912345}]
    first.result.write_text(json.dumps(slow))
    assert trend().kind == "suspect"


def test_differences_name_what_changed_first(runs: Path) -> None:
    before, now = read_result(run_of(runs, GOOD)), read_result(run_of(runs, FIRST_BAD))
    found = differences(before, now)
    assert [one.key for one in found if one.changed] == ["driver"]
    assert found[0].key == "driver"
    now["environment"]["nodes"]["node-1"]["driver"] = "1.2"
    (driver,) = (one for one in differences(before, now) if one.key == "driver")
    assert driver.now == "550.54.15 (node-0); 1.2 (node-1)"


def test_differences_hold_everything_that_changed_in_the_order_of_history(runs: Path) -> None:
    before, now = read_result(run_of(runs, GOOD)), read_result(run_of(runs, FIRST_BAD))
    image = {"base": "cuda:1", "versions": {"nccl": "2.19.3"}}
    before["environment"]["images"] = {"nx8-nvidia-deepspeed:aaa": {**image, "id": "sha256:1"}}
    now["environment"]["images"] = {
        "nx8-nvidia-deepspeed:bbb": {**image, "id": "sha256:2", "versions": {"nccl": "2.20.5"}}
    }
    before["environment"]["host"] = {"python": "3.11.2"}
    now["environment"]["host"] = {"python": "3.11.9"}
    now["environment"]["nodes"]["node-0"]["cpu_cores"] = 32
    found = [one for one in differences(before, now) if one.changed]
    assert [(one.kind, one.label.en, one.before, one.now) for one in found] == [
        ("driver", "Driver", "535.129.03", "550.54.15"),
        ("image", "image nx8-nvidia-deepspeed", "sha256:1", "sha256:2"),
        ("packages", "nccl", "2.19.3", "2.20.5"),
        ("system", "cpu_cores (node-0)", "/", "32"),
        ("system", "host python", "3.11.2", "3.11.9"),
    ]
    told = between(environment_of(before["environment"]), environment_of(now["environment"]))
    assert {one.kind for one in told} == {one.kind for one in found}


def test_every_word_is_said_in_both_languages_with_the_same_places() -> None:
    for key, message in WORDS.items():
        assert message.zh, key
        assert message.en, key
        assert sorted(re.findall(r"{(\w+)}", message.zh)) == sorted(re.findall(r"{(\w+)}", message.en)), key
        assert not re.search("[\u4e00-\u9fff]", message.en), key
    used = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "orchestrator" / "page").rglob("*")
        if path.suffix in (".py", ".j2") and path.name != "words.py"
    )
    for key in WORDS:
        head, _, tail = key.partition(".")
        made_of_parts = re.search(rf'["\']{head}\.(\{{|"\s*~)', used) and tail
        assert f'"{key}"' in used or made_of_parts, key


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (0.001, 0.0011), (1e6, 9e9), (5.0, 5.0)])
def test_axes_have_round_ticks_within_their_range(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 1 <= len(found) <= 12
    assert all(low - 1e-9 <= one <= high + abs(high) * 1e-9 for one in found)
    begin, end = extent([low, high])
    assert begin <= low <= high <= end
    assert begin < end


def test_a_picture_for_a_readme_is_xml_without_anything_from_elsewhere(runs: Path) -> None:
    for language in ("zh", "en"):
        text = curves_svg(run_of(runs, GOOD), language)  # type: ignore[arg-type]
        root = ET.fromstring(text)
        assert root.tag.endswith("svg")
        assert "href" not in text
        assert "script" not in text
    with pytest.raises(ConfigError, match="E830"):
        curves_svg(run_of(runs, FAILED), "en")


def test_a_page_that_cannot_be_written_is_said_and_harms_nothing(runs: Path, tmp_path: Path) -> None:
    folder = write_night(tmp_path, Night(number=1, **SMALL))
    assert write_page(folder, WORKSPACE) is None
    assert folder.page.read_text("utf-8").startswith("<!doctype html>")
    folder.result.write_text("{}")
    assert "schema" in (write_page(folder, WORKSPACE) or "")


def test_a_run_without_raw_files_still_has_its_page(tmp_path: Path) -> None:
    import shutil

    folder = write_night(tmp_path, Night(number=1, **SMALL))
    shutil.rmtree(folder.cells)
    folder.plan.write_text("{}")
    view = view_of(gathered(folder, None, ()))
    assert view.cells[0].charts == ()
    assert view.cells[0].cards[0].value != "–"
    assert "none" not in page_html(view).split('id="curves"')[1].split("</section>")[0].lower()


def test_a_result_of_another_shape_is_refused_and_left_out_of_trends(runs: Path, tmp_path: Path) -> None:
    folder = write_night(tmp_path, Night(number=2, **SMALL))
    bad = write_night(tmp_path, Night(number=1, **SMALL))
    document = json.loads(bad.result.read_text())
    del document["cells"][0]["metrics"]
    bad.result.write_text(json.dumps(document))
    with pytest.raises(ConfigError):
        page_of(bad, None)
    assert earlier_results(tmp_path, folder.run_id) == []


@pytest.fixture
def workspace(runs: Path, tmp_path: Path) -> Workspace:
    """A home whose runs are those of the fixture."""
    home = tmp_path / "home"
    (home / "results").mkdir(parents=True)
    for noun in ("cases", "dockerfiles", "cluster"):
        (home / noun).symlink_to(ROOT / noun)
    (home / "results" / "published").symlink_to(ROOT / "results" / "published")
    (home / "results" / "runs").symlink_to(runs)
    return Workspace(home=home)


def test_a_site_has_an_index_and_every_run_and_is_written_again_only_where_needed(
    workspace: Workspace, tmp_path: Path
) -> None:
    target = tmp_path / "site" / "deep"
    made = write_site(workspace, target)
    assert (made.written, made.kept, made.failed) == (FAILED, 0, ())
    index = made.index.read_text("utf-8")
    links = re.findall(r'href="([^"#]+)"', index)
    assert set(links) == {path.name for path in target.iterdir()} - {"index.html"}
    assert "index.html" in (target / links[0]).read_text("utf-8")
    again = write_site(workspace, target)
    assert (again.written, again.kept) == (0, FAILED)
    with pytest.raises(ConfigError, match="E840"):
        write_site(workspace, made.index)


def test_a_page_is_made_again_when_a_run_was_accepted(runs: Path, tmp_path: Path) -> None:
    """Of a site and by `nx8 open`; the page of a later run has another trend then."""
    home = tmp_path / "home"
    shutil.copytree(runs, home / "results" / "runs")
    for noun in ("cases", "dockerfiles", "cluster"):
        (home / noun).symlink_to(ROOT / noun)
    workspace, target = Workspace(home=home), tmp_path / "site"
    write_site(workspace, target, listed=3)
    first = run_of(workspace.runs, FIRST_BAD)
    page = run_of(workspace.runs, SECOND_BAD).page

    def opened() -> str:
        words = ["--home", str(home), "open", "--print", page.parent.name]
        assert cli.guarded(lambda: cli.group(words, standalone_mode=False)) == 0
        return banner(page.read_text("utf-8"))

    assert "Regression" in opened()
    write_accepted(first, (Accepted(who="ops", at_utc="2026-11-09", reason="new driver", cell_id=None),))
    later = page.stat().st_mtime + 5
    os.utime(first.path / "accepted.json", (later, later))
    assert "Regression" not in opened()
    assert write_site(workspace, target, listed=3).written == 3


def test_an_index_of_hostile_results_is_only_text(runs: Path) -> None:
    history = History.read(runs)
    plain = read(index_html(index_view(history, link=lambda name: "x")))
    for first in range(0, 200, 10):
        words = texts(10, first)
        hostile = replace(history, runs=tuple((folder, poisoned(one, words)) for folder, one in history.runs))
        reader = read(index_html(index_view(hostile, link=lambda name: "x")))
        assert {*reader.tags} <= {*plain.tags, "span"}
        assert reader.attributes <= plain.attributes


@pytest.fixture
def served(workspace: Workspace) -> Iterator[tuple[str, int]]:
    with server(workspace, port=0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        host, port = made.server_address[:2]
        yield str(host), int(port)
        made.shutdown()


def asked(
    served: tuple[str, int], method: str, path: str, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection(*served, timeout=120)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_serve_answers_pages_to_this_machine_and_reads_only(served: tuple[str, int]) -> None:
    status, body, headers = asked(served, "GET", "/")
    assert status == 200
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    (link, *_) = re.findall(r'href="(/runs/[^"]+)"', body.decode())
    status, body, _ = asked(served, "GET", link)
    assert status == 200
    assert b"<title>" in body
    assert asked(served, "HEAD", link)[:2] == (200, b"")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asked(served, method, link)[0] == 405
    outside = ("/runs/../../etc/passwd", "/runs/%2e%2e/x.html", "/plan.json", "//x", "/runs/.html")
    for path in (*outside, "/runs/none.html"):
        assert asked(served, "GET", path)[0] == 404, path


def test_serve_answers_under_the_address_that_it_was_given(workspace: Workspace) -> None:
    with server(workspace, address="127.0.0.2", port=0) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        host, port = str(made.server_address[0]), int(made.server_address[1])
        try:
            assert asked((host, port), "GET", "/")[0] == 200
            assert asked((host, port), "GET", "/", Host=f"127.0.0.3:{port}")[0] == 421
        finally:
            made.shutdown()


def test_serve_refuses_every_other_name_and_address(served: tuple[str, int], workspace: Workspace) -> None:
    assert asked(served, "GET", "/", Host="evil.example")[0] == 421
    assert asked(served, "GET", "/", Host="localhost:1")[0] == 200
    for address in ("0.0.0.0", "::", "10.0.0.1", "192.168.1.2", "evil.example", "", "2130706433"):
        with pytest.raises(ConfigError, match="E831"):
            server(workspace, address=address, port=0)
    with pytest.raises(ConfigError, match="E832"):
        server(workspace, port=served[1])
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{served[0]}:{served[1]}/nothing", timeout=120)
