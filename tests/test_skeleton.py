"""`nx8 init`: a file that is right but for what it could not know, and never written over another."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.init_verb import command
from orchestrator.cluster import Cluster
from orchestrator.errors import ConfigError
from orchestrator.load import load, load_text
from orchestrator.selection import site_of
from orchestrator.skeleton import Wish, skeleton
from orchestrator.vendors import Vendor
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[1]
SHIPPED = Workspace(home=ROOT)


def made(*nodes: str, vendor: str = "mthreads", **given: object) -> str:
    wish = Wish(nodes=nodes, vendor=vendor, **given)  # type: ignore[arg-type]
    return skeleton(wish, load(SHIPPED.vendor_file(vendor), Vendor)).text


def filled(text: str) -> Cluster:
    values = {"device": "S4000", "devices_per_node": "8", "interface": "eth0"}
    for key, value in values.items():
        text = text.replace(f"{key}: <changeme>", f"{key}: {value}")
    return load_text(text, Cluster, shown_as="c")


def test_what_it_cannot_know_stops_with_its_line_and_nothing_else_is_wrong() -> None:
    for vendor in SHIPPED.vendor_names():
        with pytest.raises(ConfigError) as caught:
            load_text(made("10.1.0.[11-14]", vendor=vendor), Cluster, shown_as="cluster/x.yaml")
        assert {problem.code for problem in caught.value.problems} == {"E220"}
        assert all(problem.file == "cluster/x.yaml" and problem.line for problem in caught.value.problems)
        assert caught.value.exit_code == 2


def test_filled_in_it_is_the_cluster_that_was_asked_for() -> None:
    text = made("10.1.0.[11-14]", user="ops", key="~/.ssh/a b", jump="ops@gate:2222", port=2200)
    cluster = filled(text)
    assert [(node.name, node.host) for node in cluster.nodes] == [
        (f"node{at}", f"10.1.0.{10 + at}") for at in range(1, 5)
    ]
    assert (cluster.ssh.user, cluster.ssh.port) == ("ops", 2200)
    assert (cluster.ssh.key, cluster.ssh.jump) == ("~/.ssh/a b", "ops@gate:2222")
    assert cluster.data_dir == "/srv/nx8/data"


@pytest.mark.parametrize(
    ("nodes", "names", "hosts"),
    [
        (("a1,b[01-02]",), ["a1", "b01", "b02"], [None, None, None]),
        (
            ("10.0.0.[1-9]", "10.0.1.7"),
            [f"node{at:02d}" for at in range(1, 11)],
            [*(f"10.0.0.{at}" for at in range(1, 10)), "10.0.1.7"],
        ),
        (("fd00::[1-2]",), ["node1", "node2"], ["fd00::1", "fd00::2"]),
    ],
)
def test_ranges_are_those_of_the_cluster_file(
    nodes: tuple[str, ...], names: list[str], hosts: list[str | None]
) -> None:
    cluster = filled(made(*nodes))
    assert [node.name for node in cluster.nodes] == names
    assert [node.host for node in cluster.nodes] == hosts


@pytest.mark.parametrize(
    "given",
    [
        {"nodes": ("10.0.0.[4-1]",)},
        {"nodes": ("a b$c",)},
        {"nodes": ("",)},
        {"nodes": ("10.0.0.1,10.0.0.1",)},
        {"nodes": ("n1",), "user": "a\nb: c"},
        {"nodes": ("n1",), "key": "x\ny"},
        {"nodes": ("n1",), "work_dir": "srv"},
        {"nodes": ("n1",), "device": "none"},
    ],
)
def test_what_cannot_stand_in_a_cluster_file_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        made(*given.pop("nodes"), **given)  # type: ignore[misc]
    assert {problem.code for problem in caught.value.problems} == {"E221"}


def test_a_file_is_written_once_and_every_later_verb_names_its_open_lines(home: Path) -> None:
    def init(*words: str):
        return CliRunner().invoke(
            command, ["--nodes", "10.1.0.[11-14]", "--vendor", "mthreads", *words], obj=home
        )

    done = init("--name", "lab4")
    assert done.exit_code == 0, done.output
    path = home / "cluster" / "lab4.yaml"
    assert "fill in cluster/lab4.yaml:6  device: <changeme>" in done.output
    before = path.read_text()
    again = init("--name", "lab4", "--user", "other")
    assert isinstance(again.exception, ConfigError)
    assert again.exception.problems[0].code == "E221"
    assert path.read_text() == before
    assert isinstance(init("--name", "local").exception, ConfigError)
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []
    with pytest.raises(ConfigError) as caught:
        site_of(Workspace(home=home), vendor=None, cluster="lab4")
    assert {(one.file, one.line) for one in caught.value.problems} >= {("cluster/lab4.yaml", 6)}
    assert "cluster/" not in init("--name", "dry", "--dry-run").output
    assert not (home / "cluster" / "dry.yaml").exists()
