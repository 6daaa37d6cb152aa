"""cluster.py: ranges are nodes, and a cluster says what its transport needs."""

from __future__ import annotations

import pytest

from orchestrator.cluster import Cluster, Node


def cluster(*nodes: Node, **changes: object) -> Cluster:
    values = {
        "schema": 1,
        "description": "test",
        "vendor": "v",
        "device": "d",
        "transport": "ssh",
        "devices_per_node": 8,
        "nodes": nodes,
        "data_dir": "/data",
        "work_dir": "/work",
        "interface": "eth0",
    }
    return Cluster(**{**values, **changes})


def test_a_range_of_names_and_addresses_is_that_many_nodes() -> None:
    seen = cluster(Node(name="node[08-11]", host="10.1.0.[18-21]"))
    assert [(node.name, node.address) for node in seen.nodes] == [
        ("node08", "10.1.0.18"),
        ("node09", "10.1.0.19"),
        ("node10", "10.1.0.20"),
        ("node11", "10.1.0.21"),
    ]
    assert seen.scale == "dx4x8"


def test_a_range_without_addresses_is_reached_by_its_names() -> None:
    assert [node.address for node in cluster(Node(name="gpu[1-2]")).nodes] == ["gpu1", "gpu2"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((Node(name="n[1-2]", host="10.0.0.[1-3]"),), "is 2 nodes, but its host"),
        ((Node(name="n[2-1]"),), "a range goes up"),
        ((Node(name="n[1-99999]"),), "1024 members at most"),
        ((Node(name="n1"), Node(name="n[1-2]")), "n1 stands more than once"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster(*nodes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"work_dir": None}, "needs work_dir"),
        ({"data_dir": "results/data"}, "absolute path"),
        ({"interface": None}, "needs `interface`"),
        ({"transport": "local"}, "this machine alone"),
    ],
)
def test_a_transport_says_what_it_needs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster(Node(name="a"), Node(name="b"), **changes)


def test_a_range_may_have_fabric_addresses_and_they_are_as_many() -> None:
    node = Node(name="node[1-2]", host="10.1.0.[11-12]", fabric_address="10.9.0.[21-22]")
    assert [one.fabric_address for one in cluster(node).nodes] == ["10.9.0.21", "10.9.0.22"]
    assert [one.fabric_address for one in cluster(Node(name="node[1-2]")).nodes] == [None, None]
    with pytest.raises(ValueError, match="its fabric_address"):
        cluster(Node(name="node[1-2]", fabric_address="10.9.0.21"))
