"""The node's agent by itself: as a file, under the oldest Python here, over pipes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import node

AGENT = Path(node.__file__).parent / "agent.py"


def old_pythons() -> list[str]:
    """Python 3.6 and what else is installed beside ours; pyenv's folder is in the real home."""
    import pwd

    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    found = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    found += [str(path) for path in sorted(home.glob(".pyenv/versions/3.[0-9]*/bin/python3"))]
    return [one for one in found if one and works(one)]


def works(python: str) -> bool:
    try:
        return (
            subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 6))"]).returncode == 0
        )
    except OSError:
        return False


def talk(command: list[Any], sent: bytes, *requests: tuple[dict[str, Any], bytes]) -> list[dict[str, Any]]:
    """Answers to requests, each with its parts under `data`. The agent's stdin stays open until the last."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdin
        assert agent.stdout
        lines = [json.dumps(request).encode() + b"\n" + body for request, body in requests]
        agent.stdin.write(sent + b"".join(lines))
        agent.stdin.flush()
        assert agent.stdout.readline() == b"\n"
        assert agent.stdout.readline() == b"nx8-agent 1\n"
        answers = []
        for _ in requests:
            answer = json.loads(agent.stdout.readline())
            answer["data"] = [agent.stdout.read(size) for size in answer["parts"]]
            answers.append(answer)
        agent.stdin.close()
        assert agent.wait(30) == 0
    return answers


def as_sent(python: str) -> list[str]:
    """The command as it runs on a node, with `python` in place of python3."""
    return [python, "-I", "-S", "-c", node.BOOTSTRAP.partition("'")[2][:-1]]


def run(number: int, argv: list[str], **fields: Any) -> dict[str, Any]:
    return {"id": number, "op": "run", "argv": argv, "timeout_s": 30, "keep": 1 << 20, **fields}


def check(python: str, folder: Path) -> None:
    file = str(folder / "file 日本")
    ask = [
        (run(1, ["sh", "-c", "cat; echo err >&2; exit 3"], payload=5), b"hello"),
        (run(2, ["sh", "-c", 'printf %s "$A"; cat'], payload="chunks", env={"A": "é"}), b"3\nabc2\nde0\n"),
        ({"id": 3, "op": "hello", "timeout_s": 9}, b""),
        ({"id": 4, "op": "write", "timeout_s": 9, "path": file, "mode": 0o600, "payload": 3}, b"xyz"),
        ({"id": 5, "op": "read", "timeout_s": 9, "files": [{"path": file, "offset": 1, "limit": 9}]}, b""),
        ({"id": 6, "op": "spells", "timeout_s": 9, "payload": 4}, b"drop"),
        ({"id": 7, "op": "stat", "timeout_s": 9, "paths": [file, 7]}, b""),
        (run(8, ["true"]), b""),
    ]
    first, second, hello, wrote, read, unknown, bug, last = talk(as_sent(python), node.agent_source(), *ask)
    assert (first["rc"], first["data"][0], first["data"][2]) == (3, b"hello", b"err\n")
    assert second["data"][0] == "éabcde".encode()
    assert hello["hostname"] == os.uname().nodename
    assert wrote["size"] == 3
    assert read["data"] == [b"yz"]
    assert unknown["error"] == "refused"
    assert bug["error"] == "bug"
    assert last["rc"] == 0


def test_it_works_as_it_is_sent(tmp_path: Path) -> None:
    check(sys.executable, tmp_path)


def test_it_works_under_every_older_python_here(tmp_path: Path) -> None:
    found = old_pythons()
    if not found:
        pytest.skip("no Python older than ours is installed here")
    for number, python in enumerate(found):
        (tmp_path / str(number)).mkdir()
        check(python, tmp_path / str(number))


def test_it_is_python_3_6_and_the_standard_library() -> None:
    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 6))
    names = {
        name.split(".")[0]
        for item in ast.walk(tree)
        if isinstance(item, ast.Import | ast.ImportFrom)
        for name in (
            [one.name for one in item.names] if isinstance(item, ast.Import) else [item.module or ""]
        )
    }
    assert names <= {*sys.stdlib_module_names}
    assert "subprocess" not in names
    assert "shell=True" not in AGENT.read_text(encoding="utf-8")


def test_without_the_fast_json_it_uses_the_whole_one(tmp_path: Path) -> None:
    text = AGENT.read_text(encoding="utf-8").replace("import _json", "import no_such_module")
    (tmp_path / "agent.py").write_text(text, encoding="utf-8")
    (answer,) = talk([sys.executable, "-I", tmp_path / "agent.py"], b"", (run(1, ["echo", "é"]), b""))
    assert answer["data"][0] == "é\n".encode()


def test_stdin_ending_ends_the_program_and_the_agent() -> None:
    request = json.dumps(run(1, ["sleep", "600"])).encode() + b"\n"
    done = subprocess.run([sys.executable, "-I", AGENT], input=request, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_is_kept_whole_up_to_the_limit() -> None:
    from orchestrator.node.agent import Kept

    for limit in (1, 2, 7, 10, 11, 100):
        for size in (0, 1, 5, 10, 11, 12, 50):
            kept, data = Kept(limit), bytes(range(size))
            for start in range(0, size, 3):
                kept.add(data[start : start + 3])
            head, tail = kept.parts()
            assert kept.count == size
            if size <= limit:
                assert head + tail == data
            else:
                assert data.startswith(head)
                assert data.endswith(tail)
