"""What nx8 says about itself: explain, the lines below an error, the language, completion, options that mean
the same everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import catalogue
from orchestrator.catalogue import nearest, normalised
from orchestrator.cli import completing, language
from orchestrator.cli import main as cli
from orchestrator.cli.afterwards import afterwards
from orchestrator.cli.language import of_words
from orchestrator.errors import ConfigError, Problem
from orchestrator.load import load
from tools.docs import verbs

ROOT = Path(__file__).parents[1]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
BIN = Path(sys.executable).parent


@pytest.fixture
def nx8(capfd, monkeypatch):
    """Calls nx8 in this process; returns exit code, stdout and stderr."""
    for name in ("NX8_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)

    def call(*words, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = cli.guarded(lambda: cli.group(list(words), standalone_mode=False))
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


def test_explain_says_what_a_code_means_how_it_comes_about_and_what_helps(nx8):
    entry = catalogue.catalogue()["E204"]
    code, out, _ = nx8("explain", "e204")
    assert code == 0
    assert out == (
        f"E204  {entry.en.title}\ncause: {entry.en.cause}\nfix: {entry.en.fix}\nexit code 3, since 0.1\n"
    )
    code, out, _ = nx8("explain", "204", "--lang", "zh")
    assert entry.zh.cause in out
    assert "退出码 3" in out


def test_explain_lists_every_code_and_writes_json_in_both_languages(nx8):
    _, out, _ = nx8("explain")
    assert [line.split()[0] for line in out.splitlines()] == list(catalogue.catalogue())
    _, out, _ = nx8("explain", "--json", "E701")
    (row,) = json.loads(out)["codes"]
    assert (row["code"], row["exits"]) == ("E701", [4, 3, 5])
    assert CHINESE.search(row["zh"]["title"])
    assert not CHINESE.search(row["en"]["title"])


def test_an_unknown_code_is_met_with_the_nearest_one(nx8):
    code, out, err = nx8("explain", "E321", "nonsense")
    assert (code, out) == (2, "")
    assert "error[E860] 'E321' is no code of nx8" in err
    assert "the nearest is E320" in err
    assert "'nonsense' is no code of nx8" in err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("E102", "E102"), ("E199", "E120"), ("E313", "E312"), ("312x", "E312"), ("", "E101")],
)
def test_the_nearest_code_shares_its_beginning_and_then_its_number(given, wanted):
    assert nearest(normalised(given), ("E101", "E102", "E120", "E312", "E320")) == wanted


def test_an_entry_without_chinese_is_told_in_english_and_says_so():
    from orchestrator.catalogue import Entry, Meaning
    from orchestrator.cli.explain_verb import described

    entry = Entry(exit=2, since="0.1", en=Meaning(title="something"))
    assert described("E999", entry, "zh") == "E999  something（尚无中文）\n退出码 2，始于 0.1"
    assert entry.missing == ("en.cause", "en.fix", "zh.title", "zh.cause", "zh.fix")


def problem(code, **given):
    return Problem(code=code, message="what", **given)


def test_below_an_error_stands_where_to_read_more_only_where_a_problem_gives_no_help():
    assert afterwards([problem("E101", help="do this")], "en") == []
    assert afterwards([problem("E101", help="do this"), problem("E103"), problem("E103")], "en") == [
        "more: nx8 explain E103"
    ]
    many = [problem(f"E10{n}") for n in range(1, 10)]
    assert afterwards(many, "en") == ["more: nx8 explain E101 E102 E103 E104"]


def test_every_code_stands_once_in_the_file_of_its_hundred() -> None:
    chapters = {path: load(path, catalogue.Chapter).codes for path in catalogue.FOLDER.glob("*.yaml")}
    assert sum(map(len, chapters.values())) == len(catalogue.catalogue())
    for path, codes in chapters.items():
        assert {code for code in codes if catalogue.chapter_file(code) != path} == set()


def test_below_an_error_in_chinese_stands_what_its_codes_mean_and_a_broken_catalogue_hides_no_error(
    monkeypatch,
):
    meaning, more = afterwards([problem("E101", help="do this")], "zh")
    assert meaning == f"E101：{catalogue.catalogue()['E101'].zh.title}"
    assert more == "详细解释：nx8 explain E101"

    def broken():
        raise ConfigError(problem("E103"))

    monkeypatch.setattr(catalogue, "catalogue", broken)
    assert afterwards([problem("E101")], "zh") == ["详细解释：nx8 explain E101"]


@pytest.mark.parametrize(
    ("words", "environment", "chinese"),
    [
        ((), {}, False),
        ((), {"LANG": "zh_CN.UTF-8"}, True),
        ((), {"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, False),
        ((), {"LANG": "zh_CN.UTF-8", "NX8_LANG": "en"}, False),
        (("--lang", "zh"), {"NX8_LANG": "en"}, True),
        ((), {"NX8_LANG": "zh"}, True),
    ],
)
def test_errors_are_english_unless_option_variable_or_locale_asks_for_chinese(
    nx8, words, environment, chinese
):
    code, _, err = nx8(*words, "report", "no-such-run", **environment)
    assert code == 2
    assert "error[E705]" in err
    assert bool(CHINESE.search(err)) is chinese


def test_tables_are_chinese_unless_the_verb_the_root_or_the_variable_says_otherwise(nx8):
    name = "nvidia-llava1.5_7b-A800x1x8"
    words = {
        language: nx8("published", "show", name, "--lang", language)[1].splitlines()[-1]
        for language in ("zh", "en")
    }
    assert words["zh"] != words["en"]
    assert nx8("published", "show", name)[1].splitlines()[-1] == words["zh"]
    assert nx8("--lang", "en", "published", "show", name)[1].splitlines()[-1] == words["en"]
    assert nx8("--lang", "en", "published", "show", name, "--lang", "zh")[1].splitlines()[-1] == words["zh"]
    assert nx8("published", "show", name, NX8_LANG="en")[1].splitlines()[-1] == words["en"]
    code, _, err = nx8("published", "show", name, NX8_LANG="fr")
    assert code == 2
    assert "'fr' is not one of" in err


def test_an_explicit_language_does_not_outlive_its_call(nx8):
    nx8("explain", "E101", "--lang", "zh")
    assert of_words({}) == "zh"
    nx8("explain", "E101")
    assert of_words({}) == "en"


@pytest.mark.parametrize(
    "words",
    [
        ("list", "vendors", "--json"),
        ("vendors", "check", "--json", "cpu"),
        ("published", "list", "--json"),
        ("plan", "llama2_7b", "--vendor", "cpu", "--json"),
        ("run", "llama2_7b", "--vendor", "cpu", "--dry-run", "--json"),
        ("lab", "status", "--name", "none-here", "--json"),
        ("hosts", "list", "--cluster", "local", "--json"),
        ("explain", "--json"),
    ],
)
def test_json_is_one_document_with_its_schema_and_nothing_else(nx8, words):
    code, out, _ = nx8(*words)
    assert code in (0, 3), out
    assert "schema" in json.loads(out)


def test_a_dry_run_prints_the_plan_and_leaves_nothing(nx8, home):
    before = sorted(home.rglob("*"))
    _, plan, _ = nx8("--home", str(home), "plan", "llama2_7b", "--vendor", "cpu")
    code, out, err = nx8("--home", str(home), "run", "llama2_7b", "--vendor", "cpu", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[3:9] == plan.splitlines()[3:9]
    assert sorted(home.rglob("*")) == before


def test_a_dry_import_finds_what_an_import_finds_and_stores_nothing(nx8, tmp_path):
    document = sorted((ROOT / "tests" / "data" / "published").rglob("*.md"))[0]
    code, dry, _ = nx8("published", "import", str(document), "--to", str(tmp_path / "to"), "--dry-run")
    assert code == 0
    assert not (tmp_path / "to").exists()
    assert nx8("published", "import", str(document), "--to", str(tmp_path / "to"))[0] == 0
    assert "not stored: " in dry
    assert list((tmp_path / "to").glob("*.yaml"))


def test_quiet_says_nothing_of_progress(capsys):
    from orchestrator import ui

    view = ui.view(sys.stderr, {}, quiet=True)
    view.phase("plan", "something")
    with view.training("cell"):
        pass
    assert capsys.readouterr() == ("", "")


def test_common_options_are_called_the_same_and_take_the_same_everywhere():
    for verb in verbs.verbs():
        for param in verb.command.params:
            if "--json" in param.opts or "--quiet" in param.opts or "--dry-run" in param.opts:
                assert param.is_flag, verb.name
            if "--lang" in param.opts:
                assert list(param.type.choices) == ["zh", "en"], verb.name
                assert param.callback is language.keep, verb.name


def test_the_lang_of_a_verb_follows_the_variable_unless_it_is_said(monkeypatch):
    import click

    @click.command()
    @language.option("Words.")
    def verb(lang):
        return lang

    language.forget()
    assert verb.main([], standalone_mode=False) == "zh"
    monkeypatch.setenv("NX8_LANG", "en")
    assert verb.main([], standalone_mode=False) == "en"
    assert verb.main(["--lang", "zh"], standalone_mode=False) == "zh"
    language.forget()


def completed(*words, shell="bash"):
    """What the script that `nx8 completion` prints offers for the last word, by the shell itself."""
    script = """
        eval "$(nx8 completion bash)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _nx8_completion nx8
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        (shell, "-c", script, shell, *words),
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_verbs_and_the_names_of_what_is_there():
    assert completed("nx8", "expl") == ["explain"]
    assert {"mthreads", "metax"} == set(completed("nx8", "run", "--vendor", "m"))
    assert completed("nx8", "vendors", "render", "mth") == ["mthreads"]
    cases = sorted(path.parent.name for path in ROOT.glob("cases/llama2_*/case.yaml"))
    assert completed("nx8", "plan", "llama2_") == cases
    assert completed("nx8", "plan", "--cluster", "loc") == ["local"]


def test_every_parameter_that_names_a_vendor_a_case_a_cluster_or_a_run_is_completed(nx8, home, monkeypatch):
    import click

    (home / "results" / "runs" / "20260101T000000Z-one").mkdir(parents=True)
    offered = {}
    for verb in verbs.verbs():
        for param in verb.command.params:
            context = click.Context(verb.command, obj=home)
            offered[verb.name, (param.opts or [param.name])[0]] = {
                item.value for item in param.shell_complete(context, "")
            }
    for (verb, name), values in offered.items():
        if name == "--vendor":
            assert "mthreads" in values, verb
        if name in ("--cluster",):
            assert values == {"cpu8", "local"}, verb
        if name in ("--case", "cases"):
            assert "llama2_7b" in values, verb
        if name in ("run", "runs"):
            assert {"latest", "20260101T000000Z-one"} <= values, verb
    assert "E101" in offered["nx8 explain", "codes"]
    assert {"latest", "20260101T000000Z-one"} <= offered["nx8 compare", "names"]
    for verb in ("nx8 nightly run", "nx8 nightly install"):
        assert offered[verb, "suite"] == {path.stem for path in (home / "cases" / "suites").glob("*.yaml")}
    keys = {
        key
        for verb in verbs.verbs()
        for param in verb.command.params
        for key in (param.opts if isinstance(param, click.Option) else [completing.metavar(param)])
    }
    assert keys >= completing.NAMES.keys(), "a name that no parameter has completes nothing"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_click_s_own_script(nx8, shell, tmp_path):
    code, out, _ = nx8("completion", shell)
    assert code == 0
    assert f"_NX8_COMPLETE={shell}_complete" in out
    if shutil.which(shell):
        (tmp_path / "script").write_text(out)
        subprocess.run((shell, "-n", tmp_path / "script"), check=True, timeout=120)


def test_help_ends_with_examples(nx8):
    code, out, _ = nx8("data", "push", "--help")
    assert code == 0
    assert re.search(r"Examples:\n +nx8 data push web --cluster NAME", out)
