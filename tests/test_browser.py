"""The report page in Debian's chromium, without a network: both languages, curves, copying, reading aids, and
nothing that anybody wrote runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.page import page_of
from orchestrator.page.gather import earlier_results, gathered
from orchestrator.page.html import index_html, page_html
from orchestrator.page.model import view_of
from orchestrator.page.site import History, index_view
from orchestrator.report.markdown import table_text
from orchestrator.report.separated import csv_text
from orchestrator.results import RunFolder, read_result
from tests.pagemaker import Night, write_log, write_night
from tests.test_page import SMALL, WORKSPACE, run_of
from tests.xss import PAYLOADS, poisoned, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

#: Read before the tests' own clean environment hides it.
IN_CI = bool(os.environ.get("CI"))
CHROMIUM = shutil.which("chromium")
LIMIT_MS = 120_000
WHY_NOT = (
    "chromium is missing: apt-get install chromium fonts-noto-cjk"
    if CHROMIUM is None
    else "playwright is missing: pip install 'nx8[dev]'"
    if find_spec("playwright") is None
    else None
)
STATES = {"measured": 8, "regression": 10, "failed": 11}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if WHY_NOT:
        if IN_CI:
            pytest.fail(f"CI never skips the browser: {WHY_NOT}")
        pytest.skip(WHY_NOT)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=LIMIT_MS
        )
        yield made
        made.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nights of the three states of a page, with those before them."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(1, STATES["measured"] + 1):
        write_night(root, Night(number=number, **SMALL))
    for number in (9, 10):
        write_night(root, Night(number=number, speed=0.93, driver="550.54.15", slow=(5, 1.09), **SMALL))
    failed = write_night(root, Night(number=STATES["failed"], steps=30, num_nodes=2, per_node=4, fails=True))
    write_log(failed, "llama2_7b-2x4-0", 0, 3, "torch.OutOfMemoryError: CUDA out of memory\n")
    return root


class Heard:
    """What a page did that it should not: messages, errors, requests, dialogs, violations of its policy."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", lambda message: self.found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url))
        page.on("dialog", lambda dialog: (self.found.append("dialog"), dialog.dismiss()))
        page.on("popup", lambda _: self.found.append("popup"))

    def _request(self, url: str) -> None:
        if not url.startswith("file://"):
            self.found.append(f"request: {url}")


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., tuple[Page, Heard]]]:
    """text of a page → it in a browser of its own, opened from a file."""
    contexts = []

    def make(text: str, *, at: str = "#en", **settings: Any) -> tuple[Page, Heard]:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(text, "utf-8")
        context = browser.new_context(offline=True, **settings)
        context.set_default_timeout(LIMIT_MS)
        context.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation',"
            " (event) => window.violations.push(event.violatedDirective + ' ' + event.blockedURI));"
        )
        contexts.append(context)
        page = context.new_page()
        heard = Heard(page)
        page.goto(f"file://{path}{at}")
        return page, heard

    yield make
    for context in contexts:
        context.close()


def page_text(runs: Path, state: str) -> str:
    return page_of(run_of(runs, STATES[state]), WORKSPACE)


def shown(page: Page) -> str:
    return str(page.inner_text("main"))


@pytest.mark.parametrize(
    ("state", "scheme"), [("measured", "light"), ("regression", "dark"), ("failed", "light")]
)
def test_both_languages_without_a_word_to_the_console_or_the_network(
    runs: Path, opened: Any, state: str, scheme: str
) -> None:
    page, heard = opened(page_text(runs, state), color_scheme=scheme, locale="zh-CN", at="")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    chinese = shown(page)
    assert "性能指标" in chinese
    assert "Performance" not in chinese
    page.click("button[data-lang=en]")
    english = shown(page)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert "Performance" in english
    # Texts that programs wrote stay as they are; none of the page's own is left in Chinese.
    assert not re.search("[\u4e00-\u9fff]", english)
    assert page.get_attribute("button[data-lang=en]", "aria-pressed") == "true"
    page.reload()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("window.violations") == []
    assert heard.found == []


def test_the_browsers_language_decides_first_and_the_address_above_it(runs: Path, opened: Any) -> None:
    text = page_text(runs, "measured")
    assert opened(text, locale="en-GB", at="")[0].evaluate("document.documentElement.lang") == "en"
    assert opened(text, locale="zh-TW", at="")[0].evaluate("document.documentElement.lang") == "zh-CN"
    assert opened(text, locale="en-GB", at="#zh")[0].evaluate("document.documentElement.lang") == "zh-CN"


INK = """(canvas) => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Map();
  for (let n = 0; n < data.length; n += 4) if (data[n + 3] > 200) {
    const key = data[n] + ',' + data[n + 1] + ',' + data[n + 2];
    colours.set(key, (colours.get(key) || 0) + 1);
  }
  return Object.fromEntries(colours);
}"""


@pytest.mark.parametrize("state", STATES)
def test_every_curve_is_drawn_in_its_colour(runs: Path, opened: Any, state: str) -> None:
    page, heard = opened(page_text(runs, state))
    charts = page.query_selector_all(".plot")
    assert len(charts) == 6
    colours = {"light": ("36,87,197", "180,105,14"), "dark": ("134,174,252", "229,173,82")}
    for scheme, lines in colours.items():
        page.click(f"button[data-theme={scheme}]")
        page.wait_for_timeout(50)  # a frame is drawn
        for chart in page.query_selector_all(".plot"):
            canvas = chart.query_selector("canvas")
            assert canvas is not None
            ink = canvas.evaluate(INK)
            # Where the highest device is the lowest too, the second line covers the first.
            assert sum(ink.get(line, 0) for line in lines) > 50, (chart.get_attribute("id"), ink)
    assert heard.found == []


def test_the_cursor_reads_all_curves_of_a_cell_and_drag_zooms(runs: Path, opened: Any) -> None:
    page, heard = opened(page_text(runs, "measured"))
    page.hover("#c0-throughput .u-over")
    read = page.inner_text("#c0-throughput-read")
    assert re.fullmatch(r"\d+: \d+", read)
    step = read.split(":")[0]
    assert page.inner_text("#c0-loss-read").startswith(f"{step}: ")
    assert page.inner_text("#c0-step_time-read").count("/") == 3
    box = page.query_selector("#c0-loss .u-over").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.up()
    assert heard.found == []


@pytest.mark.parametrize(("language", "at"), [("zh", "#zh"), ("en", "#en")])
def test_copying_gives_the_table_of_the_language_that_is_read(
    runs: Path, opened: Any, language: Any, at: str
) -> None:
    result = read_result(run_of(runs, STATES["measured"]))
    page, heard = opened(
        page_text(runs, "measured"), at=at, permissions=["clipboard-read", "clipboard-write"]
    )
    for kind, text in (
        ("md", table_text(result, language) + "\n"),
        ("csv", csv_text(result, language)),
    ):
        page.click(f"button[data-copy={kind}]")
        page.wait_for_function("document.getElementById('status').textContent !== ''")
        assert page.evaluate("navigator.clipboard.readText()").replace("\r", "") == text.replace("\r", "")
    assert heard.found == []


def test_without_a_script_the_page_shows_its_curves_and_both_languages_tables(
    runs: Path, opened: Any
) -> None:
    page, heard = opened(page_text(runs, "measured"), java_script_enabled=False)
    assert page.is_visible(".static svg >> nth=0")
    assert not page.is_visible("button[data-copy=md]")
    assert page.is_visible("table.figures >> nth=0")
    assert heard.found == []


def test_print_has_light_paper_pictures_and_no_buttons(runs: Path, opened: Any) -> None:
    page, _ = opened(page_text(runs, "regression"), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.is_visible(".static svg >> nth=0")
    assert not page.is_visible(".plot >> nth=0")
    assert not page.is_visible("button[data-lang=en]")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9


@pytest.mark.parametrize("state", STATES)
def test_no_screen_is_too_narrow(runs: Path, opened: Any, state: str) -> None:
    page, heard = opened(page_text(runs, state))
    for language in ("zh-CN", "en"):
        page.click(f"button[data-lang={language}]")
        for width in (320, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert heard.found == []


def serious(page: Page) -> list[tuple[str, str]]:
    """What axe-core calls serious or critical: (rule, where)."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], node["html"][:160])
        for one in violations
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("state", [*STATES, "index"])
def test_axe_finds_nothing_serious(runs: Path, opened: Any, state: str) -> None:
    text = (
        index_html(index_view(History.read(runs), link=lambda name: f"{name}.html"))
        if state == "index"
        else page_text(runs, state)
    )
    # axe is put into the page, which its policy forbids to everybody.
    page, heard = opened(text, bypass_csp=True)
    for details in page.query_selector_all("details"):
        details.evaluate("(one) => { one.open = true; }")
    for language, scheme in (("en", "dark"), ("zh-CN", "light")):
        page.click(f"button[data-lang={language}]")
        page.click(f"button[data-theme={scheme}]")
        assert serious(page) == []
    assert heard.found == []


def hostile_pages(runs: Path, per_field: int) -> Iterator[str]:
    """Pages with so many payloads in every text field, all of them in all fields over all pages."""
    folder = run_of(runs, STATES["failed"])
    found = gathered(folder, WORKSPACE, earlier_results(runs, folder.run_id))
    for first in range(0, len(PAYLOADS), per_field):
        yield page_html(view_of(poisoned(found, texts(per_field, first))))


def runs_nothing(page: Page, heard: Heard) -> None:
    """After every field was passed over, everything was opened and every focus taken."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate(
        "for (const one of document.querySelectorAll('main *'))"
        " { one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); one.focus?.(); }"
    )
    page.click("button[data-lang=en]")
    page.click("button[data-theme=dark]")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("window.violations") == []
    assert heard.found == []


@pytest.mark.parametrize(("guarded", "per_field"), [(True, 100), (False, 25)])
def test_two_hundred_payloads_run_nothing(runs: Path, opened: Any, guarded: bool, per_field: int) -> None:
    """Escaping alone holds, the policy switched off; and with it, it has nothing to stop."""
    for text in hostile_pages(runs, per_field):
        page, heard = opened(text, bypass_csp=not guarded)
        runs_nothing(page, heard)
        assert len(page.text_content("h1 + p")) > 20 * per_field
        page.close()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_each_payload_alone_runs_nothing(runs: Path, opened: Any) -> None:
    for text in hostile_pages(runs, 1):
        page, heard = opened(text, bypass_csp=True)
        runs_nothing(page, heard)
        page.close()


def test_a_payload_would_have_run_in_a_page_that_does_not_escape(runs: Path, opened: Any) -> None:
    """The test above can fail."""
    text = page_text(runs, "measured").replace("<h1>", "<h1><img src=data:, onerror='window.ran=1'>", 1)
    page, _ = opened(text, bypass_csp=True)
    page.wait_for_function("window.ran === 1")
    guarded, heard = opened(text)
    guarded.wait_for_function("window.violations.length > 0")
    assert guarded.evaluate("window.ran") is None
    assert heard.found


def test_hostile_results_in_an_index_run_nothing(runs: Path, opened: Any) -> None:
    history = History.read(runs)
    for first in (0, 100):
        words = texts(100, first)
        hostile = replace(history, runs=tuple((folder, poisoned(one, words)) for folder, one in history.runs))
        page, heard = opened(index_html(index_view(hostile, link=lambda _: "x.html")), bypass_csp=True)
        runs_nothing(page, heard)


def test_the_page_of_a_run_on_this_machine(opened: Any) -> None:
    """A real run of `make bench`, where there is one."""
    runs = RunFolder.all(WORKSPACE.runs)
    found = [folder for folder in runs if folder.result.exists()]
    if not found:
        pytest.skip("no run in results/runs: make bench makes one")
    page, heard = opened(page_of(found[-1], WORKSPACE))
    assert json.loads(found[-1].result.read_text())["run"]["run_id"] in page.title()
    assert heard.found == []
