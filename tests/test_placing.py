"""placing.py: ranks of several nodes meet where the inventory says, over the network device that it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.cluster import Cluster
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError
from orchestrator.load import load, load_text
from orchestrator.options import Options, works_of
from orchestrator.placing import Place
from orchestrator.plan import Identity, Launch
from orchestrator.planner import Sources, plan
from orchestrator.render import context
from orchestrator.request import master_address
from orchestrator.selection import Chosen, Selection
from orchestrator.vendors import Vendor
from orchestrator.workspace import Workspace
from tests.test_planner import llama, manifest

ROOT = Path(__file__).parents[1]
SHIPPED = Workspace(home=ROOT)
CLUSTER = """
schema: 1
description: a test
vendor: acme
device: DEVICE
transport: ssh
devices_per_node: 2
nodes: [{name: n1, host: 10.0.0.1}, {name: n2, host: 10.0.0.2}]
data_dir: /data
work_dir: /srv/nx8
interface: ib0
ssh: {config: null}
"""


def chosen(name: str, cluster: str = CLUSTER) -> Selection:
    vendor = load(SHIPPED.vendor_file(name), Vendor)
    text = cluster.replace("DEVICE", next(iter(vendor.devices)))
    return Selection(
        cluster_name="c",
        cluster=load_text(text, Cluster, shown_as="c.yaml"),
        vendor_name=name,
        vendor=vendor,
        cases=(Chosen(name="llama2_7b", case=llama(), config=DeviceConfig(schema=1)),),
    )


def launches(selection: Selection, *, address: str | None = None) -> tuple[Launch, ...]:
    case = selection.cases[0].case
    # The engine that every vendor's stack has; what is looked at here does not depend on it.
    built = context(
        SHIPPED, selection.vendor_name, selection.vendor, engine="ddp", site=selection.cluster.site
    )
    data = works_of(case, selection)[0].data
    place = Place(
        python="python",
        trainer=Path("/t"),
        data_dir=Path("/d"),
        run_dir=Path("/r"),
        master_port=20000,
        master_address=address,
    )
    made = plan(
        selection,
        identity=Identity(run_id="r", nonce="0" * 32, created_utc="now", host_run_dir="/r"),
        place=place,
        sources=Sources(data={data.name: manifest(data.name)}),
        contexts={case.engine: built},
        options=Options(),
    )
    return made.cells[0].launches


def network_of(launch: Launch) -> dict[str, str]:
    given = [word.removeprefix("--env=").partition("=") for word in launch.argv if word.startswith("--env=")]
    return {name: value for name, _, value in given if name.endswith("_SOCKET_IFNAME")}


def met_at(launch: Launch) -> str:
    return launch.argv[launch.argv.index("--master-addr") + 1]


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("nvidia", {"NCCL_SOCKET_IFNAME": "=ib0"}),
        ("amd", {"NCCL_SOCKET_IFNAME": "=ib0"}),
        ("hygon", {"NCCL_SOCKET_IFNAME": "=ib0"}),
        ("ascend", {"HCCL_SOCKET_IFNAME": "=ib0"}),
        ("kunlunxin", {"BKCL_SOCKET_IFNAME": "ib0"}),
        ("mthreads", {"MCCL_SOCKET_IFNAME": "ib0"}),
        ("metax", {"MCCL_SOCKET_IFNAME": "ib0"}),
        ("cambricon", {}),
        ("iluvatar", {}),
    ],
)
def test_a_vendor_s_collectives_are_told_the_cluster_s_network_device(
    name: str, variables: dict[str, str]
) -> None:
    for launch in launches(chosen(name)):
        assert network_of(launch) == {"GLOO_SOCKET_IFNAME": "ib0", **variables}


def test_without_an_interface_no_variable_is_set() -> None:
    single = CLUSTER.replace(", {name: n2, host: 10.0.0.2}", "").replace("interface: ib0\n", "")
    assert network_of(launches(chosen("nvidia", single))[0]) == {}


def test_ranks_meet_at_the_first_node_s_fabric_address_and_else_at_its_own() -> None:
    assert {met_at(one) for one in launches(chosen("nvidia"))} == {"10.0.0.1"}
    fabric = CLUSTER.replace("host: 10.0.0.1", "host: gate, fabric_address: 10.9.0.1")
    assert {met_at(one) for one in launches(chosen("nvidia", fabric))} == {"10.9.0.1"}
    assert {met_at(one) for one in launches(chosen("nvidia"), address="10.8.0.1")} == {"10.8.0.1"}


def test_an_alias_of_the_ssh_configuration_is_resolved_before_the_plan(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host gpu1\n  HostName 10.7.0.1\n")
    alias = CLUSTER.replace("host: 10.0.0.1", "host: gpu1").replace("config: null", f"config: {config}")
    assert master_address(chosen("nvidia", alias)) == "10.7.0.1"
    local = dataclasses.replace(
        chosen("cpu").cluster, transport="local", nodes=chosen("cpu").cluster.nodes[:1]
    )
    assert master_address(dataclasses.replace(chosen("cpu"), cluster=local)) is None


def test_an_interface_variable_without_a_place_for_the_interface_is_refused() -> None:
    text = SHIPPED.vendor_file("nvidia").read_text("utf-8")
    for wrong in ('"eth0"', '"{interface},{interface}"'):
        changed = text.replace('NCCL_SOCKET_IFNAME: "={interface}"', f"NCCL_SOCKET_IFNAME: {wrong}")
        assert changed != text
        with pytest.raises(ConfigError, match="interface_variables: NCCL_SOCKET_IFNAME"):
            load_text(changed, Vendor, shown_as="vendor.yaml")
