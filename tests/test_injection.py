"""Nothing that people write becomes code: a payload in any string of any file is refused or stays inert."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cases import Case
from orchestrator.cluster import Cluster
from orchestrator.configs import DeviceConfig
from orchestrator.errors import ConfigError
from orchestrator.load import load, load_text
from orchestrator.options import Options, works_of
from orchestrator.placing import Place
from orchestrator.plan import Identity
from orchestrator.planner import Sources, plan
from orchestrator.render import context
from orchestrator.selection import Chosen, Selection
from orchestrator.vendors import Vendor
from orchestrator.workspace import Workspace
from tests.test_planner import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
MARK = "/tmp/nx8-was-here"
PAYLOADS = (
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"; touch {MARK} #",
    f"&& touch {MARK}",
    f"| touch {MARK}",
    f"x\ntouch {MARK}",
    f"x\nRUN touch {MARK}",
    f"x\\\nRUN touch {MARK}",
    f"x\r\nRUN touch {MARK}",
    f"x\u2028RUN touch {MARK}",
    f"'; touch {MARK}; '",
    f'"; touch {MARK}; "',
    "{{ 7 * 7 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "${IFS}cat${IFS}/etc/passwd",
    "../../../../etc/passwd",
    "/etc/passwd\x00.yaml",
    "--privileged",
    "-v=/:/host",
    "--volume=/:/host",
    "x,source=/,target=/host",
    "x --privileged",
    "\x1b]0;owned\x07",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "%(touch)s %s %n",
    "a" * 5000,
)
CLUSTER = """
schema: 1
description: a
vendor: acme
device: S4000
transport: ssh
devices_per_node: 2
nodes: [{name: n1, host: 10.0.0.1, user: ops, key: ~/.ssh/id, jump: gate, fabric_address: 10.1.0.1},
  {name: n2}]
spares: [{name: n9}]
data_dir: /data
work_dir: /srv/nx8
interface: eth0
labels: {rack: r1}
ssh: {user: ops, key: ~/.ssh/id, jump: gate, config: ~/.ssh/config, known_hosts: lab.known_hosts}
site: {registry_mirror: mirror.example:5000, base_image: base:1, pip_index: "http://pip.example/simple",
  http_proxy: "http://proxy.example:3128", https_proxy: "http://proxy.example:3128", no_proxy: localhost}
"""


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every string in a value of our dataclasses, keys of mappings included."""
    if isinstance(value, str):
        yield path
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from strings(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, ("key", key))
            yield from strings(inner, (*path, key))
    elif isinstance(value, tuple):
        for number, inner in enumerate(value):
            yield from strings(inner, (*path, number))


def replaced(document: Any, path: tuple[Any, ...], payload: str) -> Any:
    """`document`, plain data, with the string at `path` replaced."""
    head, *rest = path
    if isinstance(head, tuple):
        return {payload if key == head[1] else key: value for key, value in document.items()}
    if isinstance(document, list):
        return [
            replaced(one, tuple(rest), payload) if n == head and rest else payload if n == head else one
            for n, one in enumerate(document)
        ]
    return {
        key: (replaced(value, tuple(rest), payload) if rest else payload) if key == head else value
        for key, value in document.items()
    }


def originals() -> dict[type, Any]:
    return {
        Cluster: load_text(CLUSTER, Cluster, shown_as="cluster.yaml"),
        Vendor: load(ROOT / "dockerfiles" / "mthreads" / "vendor.yaml", Vendor),
        Case: load(ROOT / "cases" / "llama2_7b" / "case.yaml", Case),
    }


def planned(values: dict[type, Any]) -> tuple[list[tuple[str, ...]], str]:
    """Every docker argv and the Dockerfile that these files lead to."""
    case, vendor, cluster = values[Case], values[Vendor], values[Cluster]
    selection = Selection(
        cluster_name="c",
        cluster=cluster,
        vendor_name="acme",
        vendor=vendor,
        cases=(Chosen(name="llama2_7b", case=case, config=DeviceConfig(schema=1)),),
    )
    home = Workspace(home=ROOT)
    made = dataclasses.replace(home)
    built = context(made, "mthreads", vendor, engine=case.engine, site=cluster.site)
    data = works_of(case, selection)[0].data
    whole = plan(
        selection,
        identity=Identity(run_id="r", nonce="0" * 32, created_utc="now", host_run_dir="/r"),
        place=Place(
            python="python", trainer=Path("/t"), data_dir=Path("/d"), run_dir=Path("/r"), master_port=20000
        ),
        sources=Sources(data={data.name: dataclasses.replace(manifest(data.name), vocab_size=256)}),
        contexts={case.engine: built},
        options=Options(),
    )
    return [launch.argv for cell in whole.cells for launch in cell.launches], built.dockerfile


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [Cluster, Vendor, Case])
def test_payloads_in_every_string_are_refused_or_inert(kind: type, every: int) -> None:
    """CI tries a third of the payloads in each place, the next third in the next one."""
    values = originals()
    argvs, dockerfile = planned(values)
    instructions = len(dockerfile.splitlines())
    document = json.loads(json.dumps(dataclasses.asdict(values[kind])))
    places = list(dict.fromkeys(strings(values[kind])))
    refused = inert = 0
    for number, path in enumerate(places):
        for payload in PAYLOADS[number % every :: every]:
            text = json.dumps(replaced(document, path, payload))
            try:
                changed = planned({**values, kind: load_text(text, kind, shown_as="f.yaml")})
            except (ConfigError, KeyError, StopIteration):
                refused += 1
                continue
            inert += 1
            for argv, before in zip(changed[0], argvs, strict=False):
                assert len(argv) == len(before), (path, payload)
                assert not any(word.startswith(("--privileged", "--volume", "-v")) for word in argv), (
                    path,
                    payload,
                )
            assert len(changed[1].splitlines()) == instructions, (path, payload)
            assert f"RUN touch {MARK}" not in changed[1]
    assert refused + inert >= 200
    assert refused > inert
    assert not Path(MARK).exists()
