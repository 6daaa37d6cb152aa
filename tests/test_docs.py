"""docs/: what is made is fresh, what is written by hand holds, and each of these checks can fail."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from orchestrator import catalogue
from orchestrator.cli.pages import PAGES
from tools.docs import errors, links, metrics, pages, verbs, walk


@pytest.mark.parametrize("name", sorted(pages.made()))
def test_a_generated_page_is_what_make_docs_writes(name):
    assert (errors.DOCS / name).read_text("utf-8") == pages.made()[name], "run: make docs"


def test_every_code_of_the_sources_has_an_entry_every_entry_a_use_and_its_own_exit_code():
    assert errors.misused() == []


def test_every_code_has_title_cause_and_fix_in_both_languages():
    assert errors.unwritten() == []


def test_no_english_words_stand_where_chinese_is_wanted():
    for code, entry in catalogue.catalogue().items():
        for part in ("title", "cause", "fix"):
            text = re.sub(r"`[^`]*`", "", getattr(entry.zh, part))
            assert re.search(r"[\u4e00-\u9fff]", text) or part == "fix", (code, part)
            assert not re.search(r"[\u4e00-\u9fff]", getattr(entry.en, part).replace("配置", "")), (
                code,
                part,
            )


def test_every_verb_has_a_page_and_every_example_only_options_that_exist():
    assert verbs.unwritten() == []


def test_a_verb_without_a_page_and_an_example_that_cannot_work_are_named(monkeypatch):
    without = {name: page for name, page in PAGES.items() if name != "plan"}
    monkeypatch.setattr(verbs, "PAGES", {**without, "run": PAGES["compare"], "fly": PAGES["run"]})
    found = "\n".join(verbs.unwritten())
    assert "nx8 plan has no page" in found
    assert "there is no verb nx8 fly" in found
    assert "is no example of nx8 run" in found


def test_every_link_leads_somewhere_and_every_page_is_reachable():
    assert links.wrong() == []


def test_a_dead_link_a_missing_heading_and_a_lonely_page_are_named(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "# Nx8\n[a](docs/one.md#two-words) [b](docs/one.md#three) [c](gone.md) `[d](code.md)`\n"
        "```\n[e](fenced.md)\n```\n[f](https://example.org/x)\n"
    )
    (tmp_path / "docs" / "one.md").write_text("# Two words!\n[up](../README.md#nx8)\n")
    (tmp_path / "docs" / "lonely.md").write_text("# Lonely\n")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    assert links.wrong() == [
        "README.md: docs/one.md has no heading #three",
        "README.md: there is no gone.md",
        "docs/lonely.md: no page leads here from README.md",
    ]


def test_the_metrics_pages_say_of_every_metric_what_the_code_says():
    assert metrics.wrong() == []


def test_a_metric_left_out_or_with_another_unit_is_named(monkeypatch):
    changed = {**metrics.SPECS, "loss": ("bits", "higher", ""), "speed_of_light": ("m/s", "none", "")}
    monkeypatch.setattr(metrics, "SPECS", changed)
    found = "\n".join(metrics.wrong())
    assert "docs/metrics.md: loss is in bits" in found
    assert "docs/metrics.zh.md: better of loss is higher" in found
    assert "docs/metrics.md: speed_of_light is not there" in found


@pytest.mark.parametrize("name", [page.name for page in walk.pages()])
def test_every_command_of_a_page_prints_what_the_page_shows(name):
    assert walk.walk(errors.DOCS / name) == []


def test_a_command_that_fails_or_prints_something_else_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- file: notes/one.txt -->\n```\nfirst\nsecond\n```\n```console\n$ cat notes/one.txt\nfirst\n…\n"
        "$ cat notes/one.txt\nfir…\n$ ls notes/gone\n$ ls cluster | grep ^loc\n…al.yaml\n```\n"
    )
    first, second = walk.walk(page)
    assert "page.md:10: $ cat" in first
    assert "prints:\nfirst\nsecond" in first
    assert "page.md:12: $ ls notes/gone\nexits 2" in second


def test_a_row_of_the_page_becomes_an_entry_even_out_of_a_merge_conflict(tmp_path, monkeypatch):
    folder = tmp_path / "catalogue"
    shutil.copytree(catalogue.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    page = errors.page("en").replace(
        "| E860 |",
        "<<<<<<< HEAD\n| E498 | ours | 3 |\n=======\n| E499 | theirs: `x` | 2, 4 |\n>>>>>>> x\n| E860 |",
    )
    (tmp_path / "errors.md").write_text(page.replace("| E101 | unknown key", "| E101 | an unknown key"))
    monkeypatch.setattr(errors, "DOCS", tmp_path)
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    catalogue.catalogue.cache_clear()
    try:
        said = errors.adopt()
        assert any("E101: docs/errors.md said 'an unknown key" in line for line in said)
        known = catalogue.catalogue()
        assert known["E499"].en.title == "theirs: `x`"
        assert (known["E498"].exit, known["E499"].exit, known["E499"].also) == (3, 2, (4,))
        lack = "lacks en.cause, en.fix, zh.title, zh.cause, zh.fix"
        assert errors.unwritten() == [f"catalogue/devices.yaml: {code} {lack}" for code in ("E498", "E499")]
        assert "| E499 | theirs: `x` | 2, 4 |" in errors.page("zh")
        assert errors.adopt() == said[:0] + [line for line in said if "E101" in line]
    finally:
        catalogue.catalogue.cache_clear()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_man_pages_format_without_a_warning():
    for name, text in verbs.man_pages().items():
        argv = ("groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-z")
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), name
