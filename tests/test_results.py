"""Files of a run: whole or not at all, never outside their folder, found again by name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import CellError, ConfigError
from orchestrator.results import RunFolder, read_result, serialise, write_atomic

UGLY_NAMES = ("", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", ".hidden", "a\n", "\x00", "-x", "x" * 128)


def run(root: Path, run_id: str) -> RunFolder:
    folder = RunFolder.create(root, run_id)
    write_atomic(folder.plan, b"{}\n")
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_every_file_has_its_place(tmp_path: Path) -> None:
    folder = RunFolder(path=tmp_path / "r1")
    names = [folder.plan, folder.host, folder.result, folder.report]
    assert [path.name for path in names] == ["plan.json", "host.json", "result.json", "report.md"]
    node = folder.cell("c-1x8").node(3)
    assert folder.cell("c-1x8").job == tmp_path / "r1/cells/c-1x8/job.json"
    assert node.status == tmp_path / "r1/cells/c-1x8/node3/status.json"
    assert node.launcher_log == tmp_path / "r1/cells/c-1x8/node3/launcher.log"
    assert node.rank(25).events == tmp_path / "r1/cells/c-1x8/node3/rank25/events.jsonl"
    assert node.rank(25).stdout.name == "stdout.log"
    assert node.rank(25).stderr.name == "stderr.log"
    assert folder.reparsed(2) == tmp_path / "r1/reparse/2/result.json"
    assert folder.run_id == "r1"


def test_folders_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = run(tmp_path / "results" / "runs", "r1")
        write_atomic(folder.cell("c").node(0).status, b"{}")
    finally:
        os.umask(before)
    assert mode(folder.path) == mode(folder.path.parent) == mode(folder.cell("c").node(0).path) == 0o700
    assert mode(folder.plan) == mode(folder.cell("c").node(0).status) == 0o600


def test_a_run_is_never_made_twice(tmp_path: Path) -> None:
    run(tmp_path, "r1")
    with pytest.raises(ConfigError, match=r"E702.*r1 exists already"):
        RunFolder.create(tmp_path, "r1")


@pytest.mark.parametrize("name", [*UGLY_NAMES, "latest"])
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="E704"):
        RunFolder.create(tmp_path, name)
    if name != "latest":
        with pytest.raises(ConfigError, match="E704"):
            RunFolder(path=tmp_path).cell(name)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"E703.*could not be written"):
        RunFolder.create(tmp_path / "runs", "r1")


def test_writing_replaces_the_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "result.json"
    write_atomic(path, b"old, and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("step", ["fsync", "write", "replace"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, words: str
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    target = {"fsync": (os, "fsync"), "write": (os, "fdopen"), "replace": (Path, "replace")}[step]
    with monkeypatch.context() as patched:
        patched.setattr(*target, refuse)
        with pytest.raises(CellError, match=f"E701.*{words}"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_an_interrupt_in_the_middle_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_latest_follows_the_last_run_in_one_step(tmp_path: Path) -> None:
    first, second = run(tmp_path, "r1"), run(tmp_path, "r2")
    first.point_latest()
    assert RunFolder.find(tmp_path, "latest") == first
    second.point_latest()
    assert RunFolder.find(tmp_path, "latest") == second
    assert (tmp_path / "latest").readlink() == Path("r2")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["latest", "r1", "r2"]


def test_runs_are_listed_by_name_and_only_runs(tmp_path: Path) -> None:
    assert RunFolder.all(tmp_path / "none") == ()
    for name in ("r2", "r1", "20261121T100000Z-a+b-cpu-ab12"):
        run(tmp_path, name)
    run(tmp_path, "r3").point_latest()
    (tmp_path / "no-plan").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert [folder.run_id for folder in RunFolder.all(tmp_path)] == [
        "20261121T100000Z-a+b-cpu-ab12",
        "r1",
        "r2",
        "r3",
    ]


def test_a_run_is_found_by_its_id_and_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path / "runs", "r1")
    assert RunFolder.find(tmp_path / "runs", "r1") == folder
    assert RunFolder.find(tmp_path / "elsewhere", str(folder.path)) == folder
    monkeypatch.chdir(folder.path)
    assert RunFolder.find(tmp_path / "elsewhere", ".") == folder


@pytest.mark.parametrize("named", ["r9", "latest", "../r1", "/nowhere/r1", *UGLY_NAMES])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, named: str) -> None:
    for n in range(12):
        run(tmp_path / "runs", f"r{n:02}")
    with pytest.raises(ConfigError) as caught:
        RunFolder.find(tmp_path / "runs", named)
    (problem,) = caught.value.problems
    assert problem.code == "E705"
    assert "newest first: r11, r10, r09" in (problem.help or "")
    assert "and 2 older" in (problem.help or "")
    assert str(caught.value).isprintable() or "\n" in str(caught.value)


def test_a_latest_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "other", "r1")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("../other/r1")
    with pytest.raises(ConfigError, match="leads out of its folder"):
        RunFolder.find(tmp_path / "runs", "latest")


def test_the_same_document_gives_the_same_bytes_in_its_own_order() -> None:
    text = serialise({"b": 0.1 + 0.2, "a": ["配置", None, 10**20]})
    assert (
        text
        == (
            '{\n  "b": 0.30000000000000004,\n  "a": [\n    "配置",\n    null,\n'
            "    100000000000000000000\n  ]\n}\n"
        ).encode()
    )
    assert serialise({"path": "x\udc80"}) == b'{\n  "path": "x\\udc80"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        serialise({"a": float("nan")})


def test_a_stored_result_is_read_or_refused_with_its_reason(tmp_path: Path) -> None:
    folder = run(tmp_path, "r1")
    with pytest.raises(ConfigError, match=r"E707.*has no result"):
        read_result(folder)
    for content, words in ((b"{", "is not JSON"), (b"[]", "schema"), (b'{"schema": "other/1"}', "schema")):
        folder.result.write_bytes(content)
        with pytest.raises(ConfigError, match=f"E707.*{words}"):
            read_result(folder)
    write_atomic(folder.result, serialise({"schema": "nx8.result/1", "cells": []}))
    assert read_result(folder)["cells"] == []
