"""doctor --deep: a figure stands only with its proof, who is slower than its peers is named, and what was
measured becomes a run's second MFU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from orchestrator import ceilings, docker, schemas
from orchestrator.ceilings import NodeCeiling
from orchestrator.derive.ceiling import ceiling_of
from orchestrator.doctor import deep
from orchestrator.doctor.deep import showing
from orchestrator.doctor.deep.figures import (
    NODE_FIGURES,
    Figure,
    Measured,
    all_outliers,
    outliers,
    read,
    reduced,
    rounds,
)
from orchestrator.doctor.deep.program import program
from orchestrator.doctor.deep.running import held
from orchestrator.errors import BusyError
from orchestrator.lease import LOCK
from orchestrator.metrics.ceiling import Ceiling, against_ceiling
from orchestrator.metrics.summary import Metric, NoValueError
from orchestrator.remote.remote import Completed, Locked
from orchestrator.workspace import Workspace
from tests.test_containers import DEADLINE_S, ID, Machine, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.doctor.deep.running import Job

ROOT = Path(__file__).parents[1]
GOOD = {"value": 2.0, "best": 2.5, "seconds": 1.0, "batches": 5, "unit": "TFLOPS", "reason": None}


def line(figures: dict[str, Any], **given: Any) -> bytes:
    said = {"nonce": "n", "ranks": [{"local_rank": 0, "figures": figures, **given}]}
    return b"a warning of some library\n" + json.dumps(said).encode() + b"\n"


def figure(said: Any, name: str = "gemm:fp32") -> Figure:
    (one,) = read(line({name: said}), nonce="n", node="n1", wanted=(name,), least_s=1.0, num_devices=1)
    return one.figures[name]


def test_a_figure_with_its_proof_stands() -> None:
    assert figure(GOOD).value == 2.0
    reduce = figure({**GOOD, "algbw": 2.0, "busbw": 3.0}, "all_reduce")
    assert (reduce.algbw, reduce.busbw) == (2.0, 3.0)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 0.5},
        {"batches": 0},
        {"batches": None},
        {"value": None, "reason": "no such kernel"},
        {"value": 3.0},  # faster than its fastest batch
        {"value": -1.0},
        {"value": True},
        {"best": None},
        {"seconds": "1"},
    ],
)
def test_a_figure_without_its_proof_is_none_and_says_why(change: dict[str, Any]) -> None:
    found = figure({**GOOD, **change})
    assert found.value is None
    assert found.reason
    assert figure(GOOD, "all_reduce").value is None, "an all-reduce names both bandwidths"


@pytest.mark.parametrize("text", [b"", b"Segmentation fault", b"[1]", line({}).replace(b'"n"', b'"other"')])
def test_what_is_no_answer_of_this_run_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"answer|JSON|Expecting"):
        read(text, nonce="n", node="n1", wanted=("memory",), least_s=1.0, num_devices=1)


def peers(*values: float) -> list[tuple[tuple[str, ...], int | None, float]]:
    return [(("n",), at, value) for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "slow"),
    [
        ((100, 101, 99, 100, 88, 100, 101, 99), [4]),
        ((100, 101, 99, 100, 97, 100, 101, 99), []),  # within the least effect
        ((100, 80, 120, 95, 110, 70), []),  # so noisy that nobody stands out
        ((100, 100, 100, 130), []),  # faster is no complaint
        ((100, 79), [1]),
        ((100, 85), []),
        ((100,), []),
    ],
)
def test_who_is_slower_than_its_own_peers_is_found_without_a_reference(
    values: tuple[float, ...], slow: list[int]
) -> None:
    assert [one.index for one in outliers("memory", peers(*values))] == slow


def ranks(node: str, *rates: float | None) -> tuple[Measured, ...]:
    """The devices of a node with their all-reduce; None for one that says why it has none."""
    return tuple(
        Measured(
            node=node,
            index=at,
            device=None,
            torch=None,
            figures={
                "all_reduce": Figure(value=rate, best=rate, algbw=rate, busbw=rate)
                if rate
                else Figure(value=None, reason="connection reset")
            },
        )
        for at, rate in enumerate(rates)
    )


def test_a_sum_is_a_figure_only_where_every_rank_of_it_answered() -> None:
    whole = reduced(("a", "b"), [*ranks("a", 10.0, 11.0), *ranks("b", 9.0, 12.0)], devices_per_node=2)
    assert whole.figure.value == 9.0
    half = reduced(("a", "b"), ranks("a", 10.0, 11.0), devices_per_node=2).figure
    assert (half.value, half.reason) == (None, "only 2 of 4 ranks answered")
    broken = reduced(("a", "b"), [*ranks("a", 10.0), *ranks("b", None)], devices_per_node=1).figure
    assert (broken.value, broken.reason) == (None, "connection reset")
    why = {"b": "E851 exit 1: killed", "c": "another pair's"}
    died = reduced(("a", "b"), ranks("a", None), devices_per_node=1, unheard=why).figure
    assert (died.value, died.reason) == (None, "b: E851 exit 1: killed")


def test_a_node_that_answers_for_some_of_its_devices_alone_is_not_read() -> None:
    for planned, why in ((2, "only 1 of 2 ranks answered"), (0, "1 ranks answered, 0 were asked")):
        with pytest.raises(ValueError, match=why):
            read(line({}), nonce="n", node="n", wanted=("memory",), least_s=1.0, num_devices=planned)


class Failing:
    """Three nodes, of which n3 dies in every sum."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}

    def run(self, jobs: Sequence[Job], *, tell: dict[str, str]) -> list[tuple[Measured, ...]]:
        if any("n3" in job.nodes for job in jobs):
            tell["n3"] = "E851 exit 137"
        return [
            tuple(
                one
                for node in job.nodes
                if node != "n3"
                for one in ranks(node, *(10.0, 9.0) if "n3" not in job.nodes else (None, None))
            )
            for job in jobs
        ]


def test_a_sum_between_nodes_that_fails_is_said_with_its_reason_and_is_exit_3() -> None:
    from tests.test_doctor import findings, sound

    pairs, whole = deep.between(Failing(), ("n1", "n2", "n3"), 2, least_s=1.0, say=lambda _: None)
    assert {one.nodes: one.figure.value for one in pairs} == {
        ("n1", "n2"): 9.0, ("n1", "n3"): None, ("n2", "n3"): None,
    }  # fmt: skip
    assert whole is not None
    assert (whole.nodes, whole.figure.reason) == (("n1", "n2", "n3"), "n3: E851 exit 137")
    depth = deep.Depth(
        findings=findings(sound(1)), at_utc="t", seconds=1.0, least_s=1.0,
        devices=ranks("n1", 9.0, 9.0), pairs=tuple(pairs), whole=whole,
    )  # fmt: skip
    assert depth.exit_code == 3
    assert showing.document(depth)["exit_code"] == 3
    text = showing.text(depth)
    assert "✗ n1+n3 E851 all-reduce between nodes: n3: E851 exit 137" in text
    assert "✗ n1 … n3 (3) E851" in text
    assert "3 all-reduces between nodes not measured (exit 3)" in text
    assert "3 项节点间 all-reduce 未测得（退出码 3）" in showing.text(depth, "zh")
    (sound_one,) = (one for one in pairs if one.nodes == ("n1", "n2"))
    assert dataclasses.replace(depth, pairs=(sound_one,), whole=sound_one).exit_code == 0


def test_a_slow_device_and_a_slow_pair_are_named_and_everything_fits_the_schema() -> None:
    devices = []
    for node in ("n1", "n2"):
        for index in range(4):
            slow = 0.7 if (node, index) == ("n2", 3) else 1.0
            said = {
                "gemm:bf16": {**GOOD, "value": 2.0 * slow},
                "all_reduce": {**GOOD, "algbw": 2, "busbw": 3},
            }
            (one,) = read(line(said), nonce="n", node=node, wanted=NODE_FIGURES, least_s=1.0, num_devices=1)
            devices.append(dataclasses.replace(one, index=index))
    pairs = [
        deep.Reduced(nodes=pair, figure=Figure(value=rate, best=rate, algbw=rate, busbw=rate))
        for pair, rate in ((("n1", "n2"), 10.0), (("n1", "n3"), 10.1), (("n2", "n3"), 4.0))
    ]
    found = all_outliers(devices, (), pairs)
    assert [(one.figure, one.nodes, one.index) for one in found] == [
        ("gemm:bf16", ("n2",), 3),
        ("all_reduce between nodes", ("n2", "n3"), None),
    ]
    from tests.test_doctor import findings, sound

    depth = deep.Depth(
        findings=findings(sound(1)), at_utc="2026-01-01T00:00:00+00:00", seconds=1.0, least_s=1.0,
        devices=tuple(devices), pairs=tuple(pairs), whole=pairs[0], outliers=found,
        skipped={"n9": "E850 busy"},
    )  # fmt: skip
    assert depth.exit_code == 3
    schema = json.loads(schemas.texts()["doctor.schema.json"])
    jsonschema.validate(json.loads(json.dumps(showing.document(depth))), schema)
    for language in ("zh", "en"):
        text = showing.text(depth, language)
        assert "n2:3 E852 GEMM bf16" in text
        assert "n2+n3 E852" in text
        assert "algbw" in text
        assert "busbw" in text
        assert "✗ n9 E850 busy" in text


@pytest.mark.parametrize("number", range(1, 9))
def test_every_pair_of_nodes_meets_once_and_no_node_twice_in_a_round(number: int) -> None:
    names = tuple(f"n{at}" for at in range(number))
    found = rounds(names)
    pairs = [frozenset(pair) for one in found for pair in one]
    assert len(set(pairs)) == len(pairs) == number * (number - 1) // 2
    for one in found:
        together = [name for pair in one for name in pair]
        assert len(set(together)) == len(together)


def asked(figures: list[str], **given: Any) -> dict[str, Any]:
    return {
        "nonce": "n", "devices": 2, "first_rank": 0, "world_size": 2, "address": "127.0.0.1", "port": port(),
        "device_type": "cpu", "plugin": None, "backend": "gloo", "figures": figures, "least_s": 0.05,
        "limit_s": 240, **given,
    }  # fmt: skip


def port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def run_program(request: dict[str, Any]) -> bytes:
    done = subprocess.run(
        (sys.executable, "-"),
        input=program(ROOT / "cases" / "trainer", request),
        capture_output=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.trainer
def test_the_measuring_program_measures_two_ranks_and_says_what_it_cannot() -> None:
    names = ("gemm:fp32", "gemm:tf32", "memory", "host_to_device", "all_reduce")
    found = read(
        run_program(asked(list(names))), nonce="n", node="here", wanted=names, least_s=0.05, num_devices=2
    )
    assert [one.index for one in found] == [0, 1]
    for one in found:
        for name in ("gemm:fp32", "memory", "all_reduce"):
            assert one.figures[name].value is not None, one.figures[name]
        assert one.figures["gemm:tf32"].reason == "this device has no switch for tf32"
        assert one.figures["host_to_device"].reason == "the device's memory is the host's own"
        reduce = one.figures["all_reduce"]
        assert reduce.busbw == pytest.approx(reduce.algbw)  # 2(n-1)/n is 1 for two ranks


@pytest.mark.trainer
def test_a_device_that_torch_does_not_know_is_a_reason_and_no_figure() -> None:
    names = ("memory",)
    raw = run_program(asked(["memory"], device_type="nobody", devices=1, world_size=1))
    (one,) = read(raw, nonce="n", node="here", wanted=names, least_s=0.05, num_devices=1)
    assert one.figures["memory"].value is None
    assert "torch.nobody" in str(one.figures["memory"].reason)


@pytest.mark.trainer
def test_wrong_results_are_no_figures() -> None:
    """The program's own checks, told that the device computed something else."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import torch, ceiling;"
        "it = ceiling.Ranks.__new__(ceiling.Ranks); it.rank = 0; wrong = []\n"
        "a, b = torch.randn(64, 64), torch.randn(64, 64); c = a @ b; it.checked(a, b, c, 'fp32')\n"
        "for check in (lambda: it.checked(a, b, c + 1, 'fp32'),"
        " lambda: it.checked(a, b, c * float('nan'), 'bf16'), lambda: it.copied(torch.zeros(4))):\n"
        "    try: check()\n"
        "    except ceiling.Wrong: wrong.append(1)\n"
        "print(len(wrong))"
    )
    argv = (sys.executable, "-c", code, str(ROOT / "cases" / "trainer"))
    assert subprocess.run(argv, capture_output=True, text=True, timeout=240, check=True).stdout == "3\n"


def kept(at: str = "2026-01-02T00:00:00+00:00", **given: Any) -> dict[str, Any]:
    whole = {
        "schema": 1, "cluster": "c", "node": "localhost", "at_utc": at, "device": "cpu", "torch": "2",
        "image": None, "boot_id": None, "tflops": {"fp32": (1.0, 3.0)},
    }  # fmt: skip
    return {"localhost": {"reason": None, **whole, **given}}


def test_the_ceiling_of_a_cell_is_the_mean_of_its_devices_of_the_same_day(home: Path) -> None:
    from tests.cellmaker import make_cell

    cell = make_cell()
    dtype, devices = cell.peak.dtype, cell.devices_per_node
    node = cell.launches[0].node
    own = {node: {**kept()["localhost"], "tflops": {dtype: [1.0, 3.0, 2.0, 2.0][:devices]}}}
    created = "2026-01-02T10:00:00+00:00"
    assert ceiling_of(None, cell, created_utc=created) is None
    found = ceiling_of(own, cell, created_utc=created)
    assert found is not None
    assert found.tflops == pytest.approx(sum([1.0, 3.0, 2.0, 2.0][:devices]) / devices)
    for change, why in (
        ({"at_utc": "2026-01-01T00:00:00+00:00"}, "not measured in the day before"),
        ({"at_utc": "2026-01-02T11:00:00+00:00"}, "not measured in the day before"),
        ({"at_utc": "yesterday"}, "does not say when"),
        ({"tflops": {}}, f"no ceiling was measured for {dtype}"),
        ({"tflops": {dtype: [None] * devices}}, "not every device"),
        ({"reason": "no ceiling was measured: nx8 doctor --deep"}, "nx8 doctor --deep"),
    ):
        lacking = ceiling_of({node: {**own[node], **change}}, cell, created_utc=created)
        assert lacking is not None
        assert lacking.tflops is None
        assert why in str(lacking.reason)


def test_a_result_has_the_second_mfu_where_the_run_kept_a_ceiling(tmp_path: Path) -> None:
    from orchestrator.derive import derive
    from orchestrator.report.markdown import table_text
    from tests.cellmaker import honest, write_run

    folder, plan = write_run(tmp_path, honest())
    host = json.loads(folder.host.read_text())
    (cell,) = plan.cells

    def metrics(ceilings: Any) -> dict[str, Any]:
        given = host if ceilings is None else {**host, "ceilings": ceilings}
        document = derive(folder, plan, given)
        table_text(document, "zh")
        return document["cells"][0]["metrics"]  # type: ignore[index,no-any-return]

    assert "mfu_ceiling" not in metrics(None), "a run of an older version knows nothing of ceilings"
    lacking = metrics({})["mfu_ceiling"]
    assert lacking["value"] is None
    assert "no ceiling was kept" in lacking["reason"]
    at = plan.identity.created_utc
    one = {"reason": None, "at_utc": at, "tflops": {cell.peak.dtype: [1e6] * cell.devices_per_node}}
    nodes = {launch.node: one for launch in cell.launches}
    found = metrics(nodes)
    share = found["mfu_ceiling"]
    speed = found["tokens_per_second_per_device"]["value"]
    flops = share["details"]["flops_per_token"]
    assert share["value"] == pytest.approx(speed * flops / 1e18)
    assert flops == found["mfu_palm"]["details"]["flops_per_token"]
    document = derive(folder, plan, {**host, "ceilings": nodes})
    assert "nx8 doctor --deep" in table_text(document, "en")
    assert "当日实测上限" in table_text(document, "zh")


def test_the_share_of_the_ceiling_is_null_where_it_would_be_more_than_all() -> None:
    speed = Metric(name="s", value=1e6, unit="", direction="higher", reason=None, formula="", details={})
    share, details = against_ceiling(
        Ceiling(tflops=2.0, at_utc="t"), speed=speed, flops_per_token=10**6, dtype="bf16"
    )
    assert share == pytest.approx(0.5)
    assert details["ceiling_tflops"] == 2.0
    with pytest.raises(NoValueError, match="faster than the measured ceiling"):
        against_ceiling(Ceiling(tflops=0.5), speed=speed, flops_per_token=10**6, dtype="bf16")


def test_ceilings_are_kept_and_a_damaged_file_is_a_reason(home: Path) -> None:
    given = {key: value for key, value in kept()["localhost"].items() if key != "reason"}
    path = ceilings.store(home, NodeCeiling(**given))
    assert ceilings.stored(home, "c", ("localhost", "other")) == {
        "localhost": NodeCeiling(**given),
        "other": "no ceiling was measured: nx8 doctor --deep",
    }
    path.write_text("{")
    assert "cannot be read" in str(ceilings.stored(home, "c", ("localhost",))["localhost"])


@pytest.mark.trainer
def test_deep_on_this_machine_measures_every_device_and_keeps_the_ceiling(home: Path) -> None:
    depth = deep.measured(Workspace(home=home), cluster="local", vendor=None, least_s=0.05)
    assert not depth.failed
    assert not depth.skipped
    assert [(one.node, one.index) for one in depth.devices] == [("localhost", 0), ("localhost", 1)]
    assert all(one.figures["gemm:fp32"].value for one in depth.devices)
    assert depth.within[0].figure.busbw
    stored = ceilings.stored(home, "local", ("localhost",))["localhost"]
    assert isinstance(stored, NodeCeiling)
    assert len(stored.tflops["fp32"]) == 2


class Node(Machine):
    """A node whose lock is ours for the asking, after a dead run's where that is `over`."""

    over: dict[str, Any] | None = None
    unlocked = False
    #: Containers of our own measurement, which docker does not remove.
    ours: tuple[str, ...] = ()

    def lock_dir(self, path: str, owner: dict[str, Any], **_: Any) -> Locked:
        assert (path, owner["run"]) == (LOCK, "doctor-1")
        return Locked(won=True, owner=owner, over=self.over)

    def unlock_dir(self, path: str, owner: dict[str, Any], **_: Any) -> bool:
        self.unlocked = True
        return True

    def run(self, argv: Sequence[str], **given: Any) -> Completed:
        if tuple(argv) == docker.list_argv({"nx8.run": "doctor-1"}) and not self.docker_down:
            return self.done(tuple(argv), stdout="".join(f"{one}\n" for one in self.ours).encode())
        return super().run(argv, **given)


@contextlib.contextmanager
def measuring(node: Node, skipped: dict[str, str]) -> Iterator[None]:
    cluster = SimpleNamespace(work_dir="/w", lease_s=DEADLINE_S)
    with held(Pool(node), [node.name], "doctor-1", cluster, skipped):  # type: ignore[arg-type]
        yield


def test_what_a_dead_run_left_on_a_node_is_gone_before_the_node_is_measured() -> None:
    node, skipped = Node(listed=[ID], folders={"/w/runs/r": ()}), {}
    node.over = {"run": "r"}
    with measuring(node, skipped):
        assert (node.listed, node.folders, node.unlocked) == ([], {}, False)
    assert (node.unlocked, skipped) == (True, {})


def test_a_node_with_a_container_that_stays_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.containers.clearing.AGAIN_S", 0.0)
    node = Node(listed=[ID], stubborn=True)
    node.over = {"run": "r"}
    with pytest.raises(BusyError, match="E259"), measuring(node, {}):
        raise AssertionError("measured beside it")
    assert node.unlocked


@pytest.mark.parametrize("docker_down", [False, True])
def test_a_node_where_a_container_of_the_measurement_may_stay_is_let_go_by_its_lease_alone(
    docker_down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.containers.clearing.AGAIN_S", 0.0)
    node, skipped = Node(stubborn=True), {}
    with measuring(node, skipped):
        node.ours, node.docker_down = (ID,), docker_down
    assert not node.unlocked
    assert skipped[node.name].startswith("E252 a container of run doctor-1 may still be there")
