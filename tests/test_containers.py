"""Containers are followed through slow answers, and what cannot be known or removed is said."""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import docker
from orchestrator.containers import MONITOR_MARGIN_S, Containers, following, monitor_limit_s, started
from orchestrator.containers.clearing import Left, cleared, swept
from orchestrator.containers.ending import ODD_ENDS, ending
from orchestrator.containers.examining import examine
from orchestrator.containers.onnode import OnNode
from orchestrator.errors import Nx8Error
from orchestrator.lease import Lease
from orchestrator.remote.errors import LinkLost, OverTime
from orchestrator.remote.pool import failures, in_parallel, together
from orchestrator.remote.remote import Completed, Piece
from orchestrator.results import RunFolder
from tests.cellmaker import honest, make_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

DEADLINE_S = 120.0
LAUNCH = replace(make_cell().launches[0], container="nx8-r-c-n0", node_job_dir="/w/runs/r/c")
LOG = "/w/runs/r/c/node0/launcher.log"
ID = "ab" * 32
GONE = b"Error: No such container: nx8-r-c-n0"
RUN = {"nx8.run": "r"}
#: What starting takes besides.
GIVEN: dict[str, Any] = {
    "images": {},
    "work_dir": "/w",
    "monitor_limit_s": DEADLINE_S,
    "insisted": lambda: False,
}


def slow() -> OverTime:
    return OverTime.of("E208", "`docker` was killed after 30 s", node="n", phase="command", help="")


def lost() -> LinkLost:
    return LinkLost.of("E209", "the connection was lost", node="n", phase="command", help="")


def inspected(exit_code: int | None) -> bytes:
    state = {
        "Status": "running" if exit_code is None else "exited",
        "Running": exit_code is None,
        "ExitCode": exit_code or 0,
    }
    return json.dumps([{"Id": ID, "Image": "sha256:" + "0" * 64, "State": state}]).encode()


@dataclass
class Machine:
    """A node that knows some of docker, and refuses what it does not know. `looks` are its answers to
    `inspect`, one after the other; the last one stays.
    """

    name: str = LAUNCH.node
    files: dict[str, bytes] = field(default_factory=lambda: {LOG: b"hello\n"})
    looks: list[bytes | Exception] = field(default_factory=lambda: [inspected(0)])
    stopped: bool = False
    listed: list[str] = field(default_factory=list)
    stubborn: bool = False
    docker_down: bool = False
    drops: int = 0
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        words = tuple(argv)
        if self.docker_down:
            return self.done(words, rc=1, stderr=b"Cannot connect to the Docker daemon\n")
        if words == docker.inspect_argv("nx8-r-c-n0"):
            return self.look(words)
        if words[:3] == ("docker", "container", "stop"):
            if self.looks == [GONE]:
                return self.done(words, rc=1, stderr=GONE)
            self.stopped, self.looks = True, [inspected(143)]
            return self.done(words)
        if words == docker.list_argv(RUN):
            return self.done(words, stdout="".join(f"{one}\n" for one in self.listed).encode())
        if words[:3] == ("docker", "container", "rm"):
            self.listed = self.listed if self.stubborn else [one for one in self.listed if one != words[-1]]
            return self.done(words)
        raise AssertionError(f"this machine does not know {words}")

    def look(self, words: tuple[str, ...]) -> Completed:
        answer = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(answer, Exception):
            raise answer
        rc = 0 if answer.startswith(b"[") else 1
        return self.done(words, rc=rc, stdout=b"" if rc else answer, stderr=answer if rc else b"")

    def done(
        self, words: tuple[str, ...], *, rc: int = 0, stdout: bytes = b"", stderr: bytes = b""
    ) -> Completed:
        sizes = {"stdout_bytes": len(stdout), "stderr_bytes": len(stderr)}
        return Completed(argv=words, rc=rc, stdout=stdout, stderr=stderr, **sizes)

    def read(self, wanted: Sequence[tuple[str, int, int]]) -> tuple[Piece, ...]:
        return tuple(self.piece(*one) for one in wanted)

    def piece(self, path: str, offset: int, longest: int) -> Piece:
        if path not in self.files:
            return Piece(path=path, offset=offset, data=b"", missing=True, error="No such file")
        data = self.files[path]
        return Piece(path=path, offset=offset, data=data[offset : offset + longest], size=len(data))

    def stat(self, *paths: str) -> tuple[dict[str, Any], ...]:
        there = {**{path: len(data) for path, data in self.files.items()}, **dict.fromkeys(self.folders, 0)}
        return tuple({"exists": path in there, "size": there.get(path)} for path in paths)

    def sha256(self, *paths: str, **_: Any) -> tuple[str | None, ...]:
        return tuple(
            hashlib.sha256(self.files[path]).hexdigest() if path in self.files else None for path in paths
        )

    def remove_tree(self, path: str, *, root: str) -> tuple[str, ...]:
        assert path.startswith(f"{root}/")
        return self.folders.pop(path)


@dataclass
class Pool:
    machine: Machine

    def __getitem__(self, name: str) -> Machine:
        assert name == self.machine.name
        return self.machine

    def settle(
        self, function: Callable[[Machine], Any], *, nodes: Any, limit_s: float | None = None
    ) -> dict[str, Any]:
        return in_parallel(lambda _: function(self.machine), list(nodes), limit_s=limit_s)

    def each(self, function: Callable[[Machine], Any], *, nodes: Any, gang: bool) -> dict[str, Any]:
        found = self.settle(function, nodes=nodes)
        if failed := failures(found):
            raise together(failed)
        return found


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Containers]]:
    """Containers of one machine, and a wait for their end."""
    made: list[Containers] = []

    def start(machine: Machine, *, ends: bool = True, lease: Any = None) -> Containers:
        output = tmp_path / "node0"
        node = OnNode(launch=LAUNCH, remote=machine, host_output=output, lease=lease)  # type: ignore[arg-type]
        containers = Containers([node], Pool(machine), started_s=0.0)  # type: ignore[arg-type]
        made.append(containers)
        if ends:
            assert select.select([containers.descriptor], [], [], DEADLINE_S)[0]
        return containers

    yield start
    for one in made:
        one.close()


def test_a_look_over_its_limit_is_noted_and_tried_again(follow: Any, tmp_path: Path) -> None:
    containers = follow(Machine(looks=[slow(), slow(), inspected(None), inspected(0)]))
    assert (containers.exit_code(), containers.lost) == (0, None)
    assert containers.record()[LAUNCH.node]["missed_looks"] == 2
    assert (tmp_path / "node0" / "launcher.log").read_bytes() == b"hello\n"


def test_docker_that_does_not_answer_for_a_while_is_asked_again(follow: Any) -> None:
    containers = follow(Machine(looks=[b"Cannot connect to the Docker daemon", inspected(7)]))
    assert (containers.exit_code(), containers.lost) == (7, None)


def test_a_lost_link_is_made_anew_and_what_it_kept_from_us_is_asked_again(
    follow: Any, tmp_path: Path
) -> None:
    containers = follow(Machine(looks=[inspected(None), lost(), lost(), inspected(0)]))
    assert (containers.exit_code(), containers.lost) == (0, None)
    assert containers.record()[LAUNCH.node]["missed_looks"] == 2
    assert (tmp_path / "node0" / "launcher.log").read_bytes() == b"hello\n"


@dataclass
class Lapsed:
    """A hold on a node that is gone."""

    lost: str = "n: the lease expired"

    def renew(self) -> None:
        pass

    def hurry(self) -> None:
        pass


def test_a_node_whose_lease_is_gone_is_lost_and_says_so_not_that_a_container_is_missing(follow: Any) -> None:
    containers = follow(Machine(looks=[GONE]), lease=Lapsed())
    assert containers.lost == "n: the lease expired"


def test_a_container_that_somebody_removed_is_lost_at_once(follow: Any) -> None:
    containers = follow(Machine(looks=[inspected(None), GONE]))
    assert "No such container" in containers.lost
    assert containers.exit_code() == 255


def test_a_node_without_a_look_for_too_long_is_lost(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENT_LIMIT_S", 1.0)
    machine = Machine(looks=[slow()])
    assert "no look succeeded for 1 s" in follow(machine).lost
    assert machine.stopped


def test_a_disk_without_room_changes_nothing_about_a_cell_that_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "node0").write_bytes(b"no folder can be here")
    node = OnNode(launch=LAUNCH, remote=Machine(), host_output=tmp_path / "node0", probe_argv=("probe",))  # type: ignore[arg-type]
    asked: list[tuple[str, ...]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        asked.append(tuple(argv))
        return node.remote.done(tuple(argv), rc=1, stdout=b"words")  # type: ignore[attr-defined]

    node.remote.run = run  # type: ignore[method-assign]
    node.remote.files[f"{node.node_output}/stacks.json"] = b"{}"  # type: ignore[attr-defined]
    examine([node], Pool(node.remote))  # type: ignore[arg-type]
    assert asked[1:] == [("dmesg",), ("probe",)]


def test_what_differs_from_the_node_s_own_copy_is_no_evidence(follow: Any) -> None:
    machine = Machine(looks=[inspected(None)])
    containers = follow(machine, ends=False)
    machine.sha256 = lambda *paths, **_: tuple("0" * 64 for _ in paths)  # type: ignore[method-assign]
    containers.stop()
    assert "copies differ from the node's: launcher.log" in containers.lost


def test_stopping_ends_what_runs_and_brings_all_of_its_files_home(follow: Any, tmp_path: Path) -> None:
    long = bytes(range(256)) * 20_000
    machine = Machine(looks=[inspected(None)], files={LOG: long})
    containers = follow(machine, ends=False)
    containers.stop()
    assert machine.stopped
    assert (containers.exit_code(), containers.lost) == (143, None)
    assert (tmp_path / "node0" / "launcher.log").read_bytes() == long


def test_a_piece_that_was_kept_in_part_is_written_again_at_its_place(tmp_path: Path) -> None:
    machine = Machine(files={LOG: b"0123456789"})
    node = OnNode(launch=LAUNCH, remote=machine, host_output=tmp_path)  # type: ignore[arg-type]
    (tmp_path / "launcher.log").write_bytes(b"0123")
    node.offsets["launcher.log"] = 2
    node.mirror(until_end=True)
    assert (tmp_path / "launcher.log").read_bytes() == b"0123456789"


def mirrored(machine: Machine, folder: Path) -> OnNode:
    node = OnNode(launch=LAUNCH, remote=machine, host_output=folder)  # type: ignore[arg-type]
    node.mirror(until_end=True)
    return node


def test_a_copy_whose_file_the_node_has_no_more_stays_and_is_no_evidence(tmp_path: Path) -> None:
    machine = Machine(files={LOG: b"0123456789"})
    node = mirrored(machine, tmp_path)
    machine.files.clear()
    assert node.compared(limit_s=DEADLINE_S) == ["launcher.log"]
    assert (tmp_path / "launcher.log").read_bytes() == b"0123456789"


def test_a_copy_that_differs_is_fetched_once_more(tmp_path: Path) -> None:
    machine = Machine(files={LOG: b"0123456789"})
    node = mirrored(machine, tmp_path)
    (tmp_path / "launcher.log").write_bytes(b"01234x6789 and more")
    assert node.compared(limit_s=DEADLINE_S) == []
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("launcher.log", b"0123456789")]


@pytest.mark.parametrize("breaks", [False, True])
def test_a_copy_for_which_none_comes_in_its_place_stays_and_is_no_evidence(
    breaks: bool, tmp_path: Path
) -> None:
    machine = Machine(files={LOG: b"0123456789"})
    node = mirrored(machine, tmp_path)
    (tmp_path / "launcher.log").write_bytes(b"01234x6789")

    def read(wanted: Sequence[tuple[str, int, int]]) -> tuple[Piece, ...]:
        if breaks:
            raise lost()
        machine.files.clear()
        return tuple(machine.piece(*one) for one in wanted)

    machine.read = read  # type: ignore[method-assign]
    with pytest.raises(LinkLost) if breaks else contextlib.nullcontext():
        assert node.compared(limit_s=DEADLINE_S) == ["launcher.log"]
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("launcher.log", b"01234x6789")]


def test_the_limit_for_bringing_files_home_grows_with_their_bytes() -> None:
    small, large = following.drain_limit_s(0, 0), following.drain_limit_s(10 << 30, 10 << 30)
    assert small == following.DRAIN_LIMIT_S
    assert large > small + 3600


def test_a_monitor_ends_after_what_the_cell_may_take_by_its_own_limits() -> None:
    cell = make_cell(warmup=2, measured=10)
    longest = cell.limits.startup_s + 12 * cell.limits.stall_s
    assert monitor_limit_s(cell, time_limit_s=None) == longest + MONITOR_MARGIN_S
    assert monitor_limit_s(cell, time_limit_s=5.0) == 5.0 + MONITOR_MARGIN_S
    assert monitor_limit_s(cell, time_limit_s=longest * 2) == longest + MONITOR_MARGIN_S


def test_a_sweep_removes_what_the_labels_find_and_has_nothing_to_say() -> None:
    machine = Machine(listed=[ID, "cd" * 32], folders={"/w/runs/r": ()})
    assert swept(machine, "r", root="/w/runs") == ()  # type: ignore[arg-type]
    assert (machine.listed, machine.folders) == ([], {})


def test_a_sweep_names_what_stays_and_how_to_remove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.containers.clearing.AGAIN_S", 0.0)
    machine = Machine(listed=[ID], stubborn=True, folders={"/w/runs/r": ("/w/runs/r/c: busy",)})
    container, folder = swept(machine, "r", root="/w/runs")  # type: ignore[arg-type]
    assert container.container
    assert "a container of run r may still be there" in str(container)
    assert "docker rm --force --volumes $(docker ps -aq --filter label=nx8.run=r)" in str(container)
    assert not folder.container
    assert "/w/runs/r/c: busy" in str(folder)
    assert "rm -r /w/runs/r" in str(folder)


def test_docker_that_does_not_list_containers_proves_nothing_about_them() -> None:
    (left,) = swept(Machine(docker_down=True), "r", root="/w/runs")  # type: ignore[arg-type]
    assert left.container
    assert "Cannot connect to the Docker daemon" in left.why


def test_a_node_that_did_not_answer_may_hold_everything_of_the_run() -> None:
    left = Left.unknown("r", "/w/runs", Nx8Error(lost().problems))
    assert left.container
    assert "rm -r /w/runs/r" in left.by_hand
    assert "label=nx8.run=r" in left.by_hand


def test_a_link_has_the_whole_lease_again_once_the_next_cell_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.lease.HURRY_S", 0.0)
    machine = Machine(docker_down=True, folders={"/w/runs/r/c": ()})
    lease = Lease(machine, {}, lease_s=DEADLINE_S, tell=lambda *_, **__: None)  # type: ignore[arg-type]
    lease.hurry()  # as a cell is stopped that stood still
    assert not lease.hopeful()

    def make_dirs(*_: str, **__: Any) -> None:
        assert lease.hopeful()
        raise lost()

    machine.make_dirs = make_dirs  # type: ignore[attr-defined]
    cell = replace(make_cell(), launches=(LAUNCH,))
    files = RunFolder(path=tmp_path).cell("c")
    with pytest.raises(LinkLost), started(Pool(machine), cell, files, leases={LAUNCH.node: lease}, **GIVEN):
        pass


def said_by_docker(exit_code: int | None, *, oom_killed: bool = False) -> docker.ContainerState:
    return docker.ContainerState(
        id=ID,
        name="nx8-r-c-n0",
        image_id=None,
        status="running" if exit_code is None else "exited",
        running=exit_code is None,
        exit_code=exit_code,
        oom_killed=oom_killed,
        error=None,
        started_at="2026-11-21T10:00:00Z",
        finished_at=None,
        labels={},
    )


def status(stopped_by: str | None = None) -> bytes:
    (whole,) = honest().statuses.values()
    return json.dumps({**whole, "stopped_by": stopped_by}).encode()


@pytest.mark.parametrize(
    ("state", "told", "kind"),
    [
        (None, None, "unknown"),
        (None, status(), "unknown"),
        (said_by_docker(None), None, "running"),
        (said_by_docker(137, oom_killed=True), None, "out_of_memory"),
        (said_by_docker(137, oom_killed=True), status(), "out_of_memory"),
        (said_by_docker(0, oom_killed=True), status(), "oom_inside"),
        (said_by_docker(1, oom_killed=True), None, "oom_inside"),
        (said_by_docker(137), None, "killed"),
        (said_by_docker(137), status()[:-9], "killed"),
        (said_by_docker(137), status(), "failed"),
        (said_by_docker(75), status("lost"), "lost"),
        (said_by_docker(75), status("host_gone"), "stopped"),
        (said_by_docker(143), status("signal:TERM"), "stopped"),
        (said_by_docker(0), status(), "finished"),
        (said_by_docker(0), None, "failed"),
        (said_by_docker(1), None, "failed"),
        (said_by_docker(1), status(), "failed"),
        (said_by_docker(1), status("rank_failed"), "failed"),
    ],
)
def test_how_a_container_ended_is_told_by_docker_and_its_launcher_together(
    state: docker.ContainerState | None, told: bytes | None, kind: str
) -> None:
    found = ending(state, told)["kind"]
    assert found == kind
    assert (found in ODD_ENDS) == (kind in ("out_of_memory", "oom_inside", "killed"))


@pytest.mark.parametrize(
    ("stopped_by", "kind"),
    [("signal:SIGTERM", "stopped_outside"), ("lost", "lost"), ("host_gone", "stopped"), (None, "failed")],
)
def test_what_was_told_to_end_and_not_by_this_run_was_ended_from_outside(
    stopped_by: str | None, kind: str
) -> None:
    found = ending(said_by_docker(75), status(stopped_by), asked=False)
    assert found["kind"] == kind
    assert (kind in ODD_ENDS) == ("dockerd was restarted" in found["text"])


def test_a_container_that_docker_ended_is_odd_and_one_that_we_stopped_is_not(follow: Any) -> None:
    told = {LOG: b"", "/w/runs/r/c/node0/status.json": status("signal:SIGTERM")}
    outside = follow(Machine(looks=[inspected(None), inspected(75)], files=dict(told)))
    assert "told to end from outside (signal:SIGTERM)" in outside.odd_end
    ours = follow(Machine(looks=[inspected(None)], files=dict(told)), ends=False)
    ours.stop()
    assert ours.odd_end is None
    assert ours.record()[LAUNCH.node]["ending"]["kind"] == "stopped"


def test_clearing_goes_on_after_what_fails(tmp_path: Path) -> None:
    machine = Machine(docker_down=True, folders={"/w/runs/r/c": ()})
    node = OnNode(launch=LAUNCH, remote=machine, host_output=tmp_path)  # type: ignore[arg-type]
    cleared(node, make_cell(), "/w")
    assert machine.folders == {}
