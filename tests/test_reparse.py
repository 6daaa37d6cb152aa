"""Stored runs, read again with today's parser: what moved, by how much and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import group as nx8
from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.parse import PARSER_CHANGES, PARSER_VERSION
from orchestrator.reparse import Moved, Outcome, Unreadable, reparse, reparse_all
from orchestrator.results import RunFolder, write_atomic
from tests.cellmaker import honest, write_run

if TYPE_CHECKING:
    from pathlib import Path


def stored(root: Path, *, run_id: str | None = None, **changes: Any) -> RunFolder:
    """A run whose stored result differs from what its raw files say by `changes`."""
    folder, plan = write_run(root, honest())
    document = json.loads(render(derive(folder, plan)))
    for path, value in changes.items():
        place = document
        *way, last = path.split("__")
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        place[last] = value
    # Not by the writer itself, which refuses what nobody could have measured; else in its bytes.
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder.result, text.encode("utf-8"))
    if run_id is not None:
        renamed = folder.path.with_name(run_id)
        folder.path.rename(renamed)
        folder = RunFolder(path=renamed)
    return folder


def outcome(folder: RunFolder) -> Outcome:
    before = folder.result.read_bytes()
    found = reparse(folder)
    assert folder.result.read_bytes() == before
    return found


def test_every_parser_version_says_what_it_changed() -> None:
    assert sorted(PARSER_CHANGES) == list(range(1, PARSER_VERSION + 1))


def test_a_figure_that_moved_is_named_with_its_change_and_the_parsers(tmp_path: Path) -> None:
    speed = "cells__0__metrics__tokens_per_second_per_device__value"
    found = outcome(stored(tmp_path, **{speed: 4000.0, "parser_version": 1}))
    (moved,) = found.moved
    assert (moved.what, moved.before) == ("tokens_per_second_per_device", 4000.0)
    assert moved.change == (moved.now - 4000.0) / 4000.0
    assert f"({moved.change:+.2%})" in found.message
    assert PARSER_CHANGES[2] in found.message
    assert found.exit_code == 4
    assert found.written is not None
    assert found.written.is_file()


def test_a_verdict_that_moved_comes_with_its_reason(tmp_path: Path) -> None:
    found = outcome(stored(tmp_path, cells__0__verdict="INVALID"))
    assert [str(one) for one in found.moved] == [f"{found.moved[0].cell_id}: verdict INVALID → MEASURED"]


def test_touched_raw_files_are_the_reason_that_is_named(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    events = next(folder.path.glob("cells/*/node0/rank1/events.jsonl"))
    events.write_bytes(events.read_bytes()[:-40])
    found = outcome(folder)
    assert found.moved[0].now == "INVALID"
    assert [why for why in found.why if "node0/rank1/events.jsonl" in why]


def test_a_stored_result_that_is_no_longer_readable_is_compared_as_nothing(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    folder.result.write_text('{"cells": [{"cell_id": 3}, 7], "parser_version": "x"}')
    found = outcome(folder)
    assert Moved(
        cell_id=found.moved[0].cell_id, what="verdict", before=None, now="MEASURED", reason=None
    ) in (found.moved)


def test_a_figure_or_cell_that_is_gone_has_moved_as_well(tmp_path: Path) -> None:
    gone = {"value": 12.5, "unit": "x", "direction": "higher", "reason": None, "formula": "f", "details": {}}
    found = outcome(stored(tmp_path, cells__0__metrics__tokens_per_joule=gone))
    assert [(one.what, one.before, one.now) for one in found.moved] == [("tokens_per_joule", 12.5, None)]
    other = tmp_path / "other"
    folder = stored(other)
    document = json.loads(folder.result.read_text())
    document["cells"].append(document["cells"][0] | {"cell_id": "gone", "metrics": {}})
    folder.result.write_text(json.dumps(document))
    (moved,) = outcome(folder).moved
    assert (moved.cell_id, moved.what, moved.before, moved.now) == ("gone", "verdict", "MEASURED", None)


def test_the_number_of_steps_behind_a_figure_that_stayed_has_moved(tmp_path: Path) -> None:
    (moved,) = outcome(stored(tmp_path, cells__0__metrics__tokens_per_second_per_device__details__n=3)).moved
    assert (moved.what, moved.before) == ("tokens_per_second_per_device, its n", 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"cells__0__metrics__loss__value": 10**400},
        {"cells__0__metrics__loss__value": float("nan")},
        {"cells__0__metrics__loss__value": 5e-324},
        {"parser_version": -(10**9)},
        {"parser_version": 10**400},
        {"cells__0__metrics__loss__details": 7},
    ],
)
def test_a_stored_figure_that_nobody_could_have_measured_raises_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    message = outcome(stored(tmp_path, **changes)).message
    assert "inf%" not in message
    assert "nan%" not in message


def test_names_of_a_stored_file_forge_no_line_of_the_message(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    document = json.loads(folder.result.read_text())
    bad = "\x1b[2Jx\nr9: the stored result is reproduced"
    document["files"].append({"path": bad, "sha256": "1"})
    document["cells"].append(document["cells"][0] | {"cell_id": bad, "metrics": {bad: {"value": 1}}})
    folder.result.write_text(json.dumps(document))
    message = outcome(folder).message
    assert "\x1b" not in message
    assert not [line for line in message.splitlines() if line.startswith("r9")]


def test_escape_sequences_of_a_stored_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in outcome(stored(tmp_path, cells__0__verdict="\x1b[31mred")).message


def test_all_runs_are_read_again_and_a_broken_one_stops_none(tmp_path: Path) -> None:
    stored(tmp_path, run_id="r1")
    runs = stored(tmp_path, run_id="r2", cells__0__metrics__loss__value=1.0).path.parent
    (stored(tmp_path, run_id="r3").plan).write_text("{")
    found = list(reparse_all(runs))
    assert [one.run_id for one in found] == ["r1", "r2", "r3"]
    assert [type(one) for one in found] == [Outcome, Outcome, Unreadable]
    assert [one.exit_code for one in found] == [0, 4, 2]
    assert "loss 1 → 4.91 (+391.00%)" in found[1].message
    assert found[2].message.startswith("r3: ")


def test_the_verb_says_how_many_runs_are_not_as_stored(tmp_path: Path) -> None:
    for folder in ("cases", "dockerfiles", "cluster"):
        (tmp_path / folder).mkdir()
    stored(tmp_path / "results" / "runs", run_id="r1")
    stored(tmp_path / "results" / "runs", run_id="r2", cells__0__verdict="FAILED")
    home = ("--home", str(tmp_path))
    found = CliRunner().invoke(nx8, [*home, "parse", "--all"], standalone_mode=False)
    assert found.output.splitlines()[-1] == "2 runs, 1 of them not as stored"
    assert found.return_value == 4
    mixed = CliRunner().invoke(nx8, [*home, "parse", "--all", "r1"], standalone_mode=False)
    assert isinstance(mixed.exception, ConfigError)
