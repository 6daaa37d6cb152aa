"""result.json is made of the files alone: the same files, the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.derive import derive, render
from orchestrator.errors import ConfigError
from orchestrator.parse import PARSER_VERSION
from orchestrator.results import RunFolder
from tests.cellmaker import (
    DATA_SHA256,
    NONCE,
    PROXY,
    SEEN,
    UNKNOWN_PEAK,
    Made,
    honest,
    host_document,
    make_cell,
    not_run,
    write_run,
)

if TYPE_CHECKING:
    from pathlib import Path


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def derived(root: Path, *mades: Made, **given: Any) -> dict[str, Any]:
    folder, plan = write_run(root, *mades, **given)
    return json.loads(render(derive(folder, plan)))


def test_a_measured_run(tmp_path: Path) -> None:
    result = derived(tmp_path, honest())
    (cell,) = result["cells"]
    assert (result["schema"], result["parser_version"], result["exit_code"]) == (
        "nx8.result/1",
        PARSER_VERSION,
        0,
    )
    assert result["run"]["nonce"] == NONCE
    assert result["environment"]["host"]["hostname"] == "controller"
    assert result["phases"][1] == {"name": "train", "seconds": 120.5}
    assert cell["verdict"] == "MEASURED"
    assert cell["reasons"] == []
    assert len(cell["proofs"]) == 16
    assert cell["metrics"]["tokens_per_second_per_device"]["value"] == 4096.0
    assert cell["metrics"]["mfu_published"]["value"] == pytest.approx(4096 * 42e9 / 312e12)
    assert cell["batch"]["global_batch_size"] == 4
    assert cell["parallel"]["label"] == "TP1PP1DP2"
    assert cell["seed"] == 1234
    assert cell["ranks"][1]["versions"] == {
        "python": "3.11.7",
        "torch": "2.13.0",
        "deepspeed": "0.19.8",
        "numpy": None,
    }
    assert cell["data"] == {"sha256": DATA_SHA256, "num_tokens": 100_000_000, "dtype": "int16"}


def test_every_raw_file_is_listed_with_its_size_and_digest(tmp_path: Path) -> None:
    made = honest()
    result = derived(tmp_path, made)
    files = {file["path"]: file for file in result["cells"][0]["files"]}
    assert list(files) == [
        "job.json",
        "node0/rank0/events.jsonl",
        "node0/rank1/events.jsonl",
        "node0/status.json",
    ]
    data = b"".join(made.lines[1])
    assert files["node0/rank1/events.jsonl"]["size"] == len(data)
    assert files["node0/rank1/events.jsonl"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert [file["path"] for file in result["files"]] == ["plan.json", "host.json"]


def test_the_same_files_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    folder, plan = write_run(tmp_path / "a", honest(), honest(make_cell(cell_id="other-1x2")))
    first = render(derive(folder, plan))
    moved = tmp_path / "b" / folder.run_id
    shutil.copytree(folder.path, moved)
    assert render(derive(RunFolder(path=moved), plan)) == first
    assert render(derive(folder, plan, json.loads(folder.host.read_bytes()))) == first


@pytest.mark.parametrize("verdict", ["INVALID", "FAILED", "NOT_RUN"])
def test_a_cell_that_is_not_proven_has_no_number_in_its_metrics(tmp_path: Path, verdict: str) -> None:
    made = honest()
    if verdict == "INVALID":
        del made.lines[1][5]
    elif verdict == "FAILED":
        made.host = replace(SEEN, launcher_exit=1)
    else:
        made.host = not_run("the run's time limit was used up")
    result = derived(tmp_path, made)
    (cell,) = result["cells"]
    assert cell["verdict"] == verdict
    assert cell["reasons"]
    assert numbers_in(cell["metrics"]) == []
    assert all(metric["reason"].startswith(f"{verdict}: ") for metric in cell["metrics"].values())
    assert result["exit_code"] == 4


@pytest.mark.parametrize(
    ("stopped", "code"),
    [
        ("stall", 4),
        ("startup_limit", 4),
        ("time_limit", 124),
        ("signal:SIGINT", 130),
        ("signal:SIGTERM", 143),
        ("signal:SIGHUP", 129),
        ("signal:SIGUSR1", 4),
    ],
)
def test_the_exit_code_is_that_of_the_worst_cell(tmp_path: Path, stopped: str, code: int) -> None:
    cut_short = honest(make_cell(cell_id="cut-1x2"))
    cut_short.host = replace(SEEN, launcher_exit=75, stopped=stopped)
    never = honest(make_cell(cell_id="never-1x2"))
    never.host = not_run("the run was stopped")
    assert derived(tmp_path, honest(), cut_short, never)["exit_code"] == code


def test_a_cell_of_which_the_host_left_no_word_is_not_run(tmp_path: Path) -> None:
    folder, plan = write_run(tmp_path, honest())
    folder.host.write_text(json.dumps(host_document({})))
    (cell,) = json.loads(render(derive(folder, plan)))["cells"]
    assert (cell["verdict"], cell["reasons"]) == ("NOT_RUN", ["the host left no word about this cell"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"{", "not JSON"),
        (b'{"schema": 1}', "cells is missing"),
        (b'{"cells": {"llama2_7b-1x2": {}}}', "llama2_7b-1x2: started is missing"),
        (
            json.dumps(host_document({"llama2_7b-1x2": SEEN})).replace('"stopped": null', '"stopped": "x"'),
            "stopped is 'x'",
        ),
    ],
)
def test_a_host_file_that_is_none_is_a_clear_error(
    tmp_path: Path, content: bytes | str | None, words: str
) -> None:
    folder, plan = write_run(tmp_path, honest())
    folder.host.unlink()
    if content is not None:
        folder.host.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match="E706") as caught:
        derive(folder, plan)
    assert words in str(caught.value)


def test_links_and_pipes_in_raw_files_are_missing_files(tmp_path: Path) -> None:
    made = honest()
    folder, plan = write_run(tmp_path, made)
    node = folder.cell(made.cell.cell_id).node(0)
    outside = tmp_path / "outside.jsonl"
    node.rank(0).events.rename(outside)
    node.rank(0).events.symlink_to(outside)
    node.rank(1).events.unlink()
    os.mkfifo(node.rank(1).events)
    (cell,) = json.loads(render(derive(folder, plan)))["cells"]
    assert cell["verdict"] == "FAILED"
    assert "no record at all: ranks 0, 1" in cell["reasons"]
    assert [file["path"] for file in cell["files"]] == ["job.json", "node0/status.json"]


def test_a_file_of_an_unplanned_rank_is_found(tmp_path: Path) -> None:
    made = honest()
    folder, plan = write_run(tmp_path, made)
    node = folder.cell(made.cell.cell_id).node(0)
    shutil.copytree(node.rank(1).path, node.path / "rank7")
    shutil.copytree(node.rank(1).path, node.path / "rank01")  # not a rank's name
    (cell,) = json.loads(render(derive(folder, plan)))["cells"]
    assert cell["verdict"] == "INVALID"
    assert cell["reasons"] == ["records_intact: a file of rank 7, which is not planned"]


def test_what_logs_say_is_kept_printable(tmp_path: Path) -> None:
    made = honest()
    made.records[0][0].update(hostname="\x1b[2J", versions={"torch\n": "2.13\u202e"})
    made.records[1] = [
        *made.records[1][:4],
        {"event": "fail", "type": "E", "message": "m", "traceback": "a\n\x1b[31mb"},
    ]
    made.seal()
    made.rank_status(1)["exit_code"] = 1
    made.host = replace(SEEN, launcher_exit=1)
    result = derived(tmp_path, made)
    (cell,) = result["cells"]
    assert cell["ranks"][0]["hostname"] == "\\x1b[2J"
    assert cell["ranks"][0]["versions"] == {"torch\\x0a": "2.13\\u202e"}
    assert cell["traceback"] == "a\n\\x1b[31mb"
    assert cell["cause_rank"] == 1
    assert cell["ranks"][1]["records"] == 5


def test_a_proxy_on_a_cpu_is_named_and_has_its_memory(tmp_path: Path) -> None:
    cell = make_cell(device_type="cpu", display="CPU", peak=UNKNOWN_PEAK, proxy=PROXY)
    (document,) = derived(tmp_path, honest(cell))["cells"]
    assert document["proxy"] == {"why": "a CPU cannot train 7 B parameters", "of": "llama2_7b"}
    assert document["metrics"]["memory_used_bytes"]["value"] == 4 << 30
    assert document["metrics"]["memory_capacity_bytes"]["value"] == 16 << 30
    assert document["metrics"]["mfu_published"]["reason"] == (
        "the bf16 peak is unknown: the vendor publishes none"
    )


def test_a_cell_that_is_not_proven_shows_no_figure_in_its_proofs_either(tmp_path: Path) -> None:
    made = honest()
    made.records[1][7].update(tokens=5)
    made.seal()
    (cell,) = derived(tmp_path, made)["cells"]
    text = json.dumps([cell["proofs"], cell["reasons"]])
    assert cell["verdict"] == "INVALID"
    assert "%" not in text.replace("100 %", "")
    assert "4.9" not in text
