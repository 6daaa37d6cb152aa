"""A node's lock and its lease, by the node's own programs: one winner, an expiry by the node's own clock, and
a keeper that clears away what nobody renews.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import node
from orchestrator.node import lock as on_node
from tests.test_agent import as_sent

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 120.0
#: A docker that keeps its containers as files, named by their run, and refuses what it does not know.
DOCKER = """\
#!{python}
import json, os, sys
home = {home!r}
words = sys.argv[1:]
with open(os.path.join(home, "asked"), "a") as file:
    file.write(" ".join(words) + "\\n")
if os.path.exists(os.path.join(home, "away")):
    sys.exit(1)
assert words[0] == "container", words
if words[1] == "ls":
    run = next(word for word in words if word.startswith("--filter=")).rpartition("=")[2]
    for name in sorted(os.listdir(os.path.join(home, "containers"))):
        with open(os.path.join(home, "containers", name)) as file:
            one = json.load(file)
        if one["run"] == run and ("--all" in words or one["running"]):
            print(name)
elif words[1] in ("stop", "inspect", "rm"):
    path = os.path.join(home, "containers", words[-1])
    with open(path) as file:
        one = json.load(file)
    if words[1] == "inspect":
        print(json.dumps([{{"Name": "/" + words[-1], "State": {{"ExitCode": 75}}}}]))
    elif words[1] == "rm":
        os.unlink(path)
    else:
        with open(path, "w") as file:
            json.dump(dict(one, running=False), file)
else:
    sys.exit(125)
"""


class Agent:
    """A node's agent over pipes."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            as_sent(sys.executable),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self.process.stdin.write(node.agent_source())
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"\n"
        assert self.process.stdout.readline() == b"nx8-agent 1\n"

    def ask(self, op: str, body: bytes = b"", **fields: Any) -> dict[str, Any]:
        request = {"id": 1, "op": op, "timeout_s": 60, "payload": len(body), **fields}
        self.process.stdin.write(json.dumps(request).encode() + b"\n" + body)
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    one = Agent()
    yield one
    one.close()


def owner(name: str, *, lease_s: float | None = None, **more: Any) -> dict[str, Any]:
    given = {} if lease_s is None else {"lease_s": lease_s, "grace_s": 1}
    return {"token": name, "run": f"run-{name}", "user": "u", "host": "h", "pid": 1, **given, **more}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def until(what: Any, of: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := what()):
        assert time.monotonic() < deadline, of
        time.sleep(0.02)
    return found


def age(path: Path, seconds: float) -> None:
    """Makes the last renewal of a lock so much older, as if its controller had died then."""
    lease = json.loads((path / "lease").read_text())
    lease["monotonic_s"] -= seconds
    (path / "lease").write_text(json.dumps(lease))


def contended(agents: list[Agent], path: str, tokens: list[str]) -> list[dict[str, Any]]:
    """What each hears that asks for the lock at the same moment as all the others."""
    begin = threading.Barrier(len(agents))

    def contend(agent: Agent, token: str) -> dict[str, Any]:
        begin.wait(DEADLINE_S)
        return agent.ask("lock", path=path, owner=owner(token, lease_s=60))

    with ThreadPoolExecutor(len(agents)) as pool:
        return list(pool.map(contend, agents, tokens))


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_of_16_contenders_exactly_one_wins_each_round(rounds: int, tmp_path: Path) -> None:
    agents = [Agent() for _ in range(16)]
    path = str(tmp_path / "lock")
    try:
        for number in range(rounds):
            answers = contended(agents, path, [f"{number}-{one}" for one in range(16)])
            winners = [one for one, answer in enumerate(answers) if answer["won"]]
            assert len(winners) == 1
            assert {answer["owner"]["token"] for answer in answers} == {f"{number}-{winners[0]}"}
            # Every second round its holder dies, and what it held is contended for as well.
            if number % 2:
                assert agents[winners[0]].ask("unlock", path=path, owner=owner(f"{number}-{winners[0]}"))[
                    "released"
                ]
                assert names(tmp_path) == []
            else:
                age(Path(path), 61)
    finally:
        for one in agents:
            one.close()
    print(f"\n16 contenders, {rounds} rounds: one winner each")


def test_a_lock_without_a_lease_is_nobody_s_to_take_over(agent: Agent, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert agent.ask("lock", path=path, owner=owner("a"))["won"]
    lost = agent.ask("lock", path=path, owner=owner("b", lease_s=5))
    assert not lost["won"]
    assert lost["owner"]["token"] == "a"
    assert lost["state"]["expired"] is False


def test_asking_again_for_a_lock_that_is_ours_finds_it_ours(agent: Agent, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    mine = owner("a", lease_s=60)
    assert agent.ask("lock", path=path, owner=mine)["won"]
    assert agent.ask("lock", path=path, owner={**mine, "pid": 99})["won"]
    assert agent.ask("unlock", path=path, owner={**mine, "pid": 99})["released"]
    assert not agent.ask("unlock", path=path, owner=mine)["released"]


def test_a_lease_is_renewed_only_by_its_owner_and_only_in_time(agent: Agent, tmp_path: Path) -> None:
    path, counter = tmp_path / "lock", tmp_path / "job" / "lease"
    counter.parent.mkdir()
    mine = owner("a", lease_s=30)
    assert agent.ask("lock", path=str(path), owner=mine)["won"]
    files = [str(counter), str(tmp_path / "gone" / "lease")]
    assert agent.ask("renew", path=str(path), owner=mine, counter=7, files=files)["held"]
    assert counter.read_text().split()[0] == "7"
    other = agent.ask("renew", path=str(path), owner=owner("b"), counter=8)
    assert (other["held"], other["why"]) == (False, "the lock is another's now")
    age(path, 31)
    late = agent.ask("renew", path=str(path), owner=mine, counter=9, files=files)
    assert (late["held"], late["why"]) == (False, "the lease expired")
    assert counter.read_text().split()[0] == "7"


def test_an_expired_lock_is_taken_over_by_whoever_comes_next(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert agent.ask("lock", path=str(path), owner=owner("dead", lease_s=30))["won"]
    age(path, 31)
    won = agent.ask("lock", path=str(path), owner=owner("next", lease_s=30))
    assert won["won"]
    assert won["over"]["token"] == "dead"
    assert agent.ask("lease", path=str(path))["state"]["owner"]["token"] == "next"
    assert names(tmp_path) == ["lock"]


def test_a_lock_of_an_earlier_boot_has_expired_whatever_its_clock_said(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert agent.ask("lock", path=str(path), owner=owner("dead", lease_s=3000))["won"]
    lease = json.loads((path / "lease").read_text())
    (path / "lease").write_text(json.dumps({**lease, "boot_id": "another", "monotonic_s": 1e9}))
    state = agent.ask("lease", path=str(path))["state"]
    assert (state["expired"], state["age_s"]) == (True, None)
    assert agent.ask("lock", path=str(path), owner=owner("next", lease_s=30))["won"]


class Machine:
    """A node with a keeper and a docker of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "lock"
        (folder / "containers").mkdir()
        (folder / "bin").mkdir()
        program = folder / "bin" / "docker"
        program.write_text(DOCKER.format(python=sys.executable, home=str(folder)))
        program.chmod(0o755)
        self.agent = Agent({"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
        self.owner = owner("a", lease_s=1.5, runs=str(folder / "runs"))
        (folder / "runs" / "run-a").mkdir(parents=True)

    def container(self, name: str, run: str) -> None:
        (self.folder / "containers" / name).write_text(json.dumps({"run": run, "running": True}))

    def lock(self) -> dict[str, Any]:
        return self.agent.ask("lock", node.keeper_source(), path=str(self.path), owner=self.owner)

    @property
    def mine(self) -> dict[str, Any]:
        return {"path": str(self.path), "owner": self.owner}

    def keeper(self) -> int | None:
        return on_node.keeper_of(os.fsencode(self.path))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path)
    yield one
    with contextlib.suppress(ProcessLookupError):
        if pid := one.keeper():
            os.kill(pid, 9)
    one.agent.close()


def test_the_keeper_sleeps_while_the_lease_is_renewed_and_goes_with_the_lock(machine: Machine) -> None:
    assert machine.lock()["won"]
    pid = machine.keeper()
    assert pid is not None
    for counter in range(8):
        time.sleep(0.4)
        assert machine.agent.ask("renew", path=str(machine.path), owner=machine.owner, counter=counter)[
            "held"
        ]
    assert machine.keeper() == pid
    assert machine.agent.ask("unlock", path=str(machine.path), owner=machine.owner)["released"]
    assert on_node.began(pid) is None
    assert not machine.path.exists()


def test_what_nobody_renews_is_ended_and_removed_and_nothing_else(machine: Machine) -> None:
    machine.container("ours", "run-a")
    machine.container("theirs", "run-b")
    assert machine.lock()["won"]
    until(lambda: not machine.path.exists(), "end of the lock")
    assert names(machine.folder / "containers") == ["theirs"]
    assert "theirs" not in (machine.folder / "asked").read_text()
    lost = json.loads((machine.folder / "runs" / "run-a" / "lost.json").read_text())
    assert (lost["why"], lost["containers"][0]["name"]) == ("lease", "/ours")


def test_from_the_moment_it_clears_away_nobody_renews_or_takes_the_lock(machine: Machine) -> None:
    (machine.folder / "away").touch()  # docker does not answer: the keeper asks again and again
    assert machine.lock()["won"]
    until((machine.path / "ending").exists, "the keeper's word")
    late = machine.agent.ask("renew", path=str(machine.path), owner=machine.owner, counter=1)
    assert not late["held"]
    assert "the lease expired" in late["why"]
    other = machine.agent.ask("lock", path=str(machine.path), owner=owner("b", lease_s=30))
    assert not other["won"]
    assert (other["state"]["expired"], other["state"]["keeper"]) == (True, True)
    (machine.folder / "away").unlink()
    until(lambda: not machine.path.exists(), "end of the lock")


def test_a_keeper_that_somebody_killed_is_started_again_with_the_next_renewal(machine: Machine) -> None:
    machine.owner["lease_s"] = 30
    assert machine.lock()["won"]
    os.kill(machine.keeper() or 0, 9)
    until(lambda: machine.keeper() is None, "end of the keeper")
    assert machine.agent.ask("renew", path=str(machine.path), owner=machine.owner, counter=1)["held"]
    assert machine.keeper() is not None
    assert machine.agent.ask("unlock", path=str(machine.path), owner=machine.owner)["released"]
