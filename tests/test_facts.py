"""facts.py: a machine is what its kernel says, a node as this host, and nothing is guessed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator import facts

MACHINES = Path(__file__).parent / "data" / "machines"
NAMES = sorted(path.name.removesuffix(".files.json") for path in MACHINES.glob("*.files.json"))


def sample(name: str) -> tuple[dict[str, str], str, dict[str, object]]:
    wanted = json.loads((MACHINES / f"{name}.json").read_text("utf-8"))
    return (
        json.loads((MACHINES / f"{name}.files.json").read_text("utf-8")),
        wanted["interface"],
        wanted["machine"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_is_read_from_the_kernel_s_files(name: str) -> None:
    texts, interface, wanted = sample(name)
    found = facts.machine(texts, interface=interface)
    assert json.loads(json.dumps(asdict(found))) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_is_known_or_has_its_reason(name: str) -> None:
    texts, interface, _ = sample(name)
    found = asdict(facts.machine(texts, interface=interface))
    unknown = found.pop("unknown")
    assert {key for key, value in found.items() if value in (None, ())} <= set(unknown)
    assert all(unknown.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_patterns_find_every_file_of_a_tree_and_no_other(name: str, tmp_path: Path) -> None:
    texts, interface, _ = sample(name)
    for path, text in {**texts, "/sys/class/net/other0/speed": "1", "/etc/shadow": "x"}.items():
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    assert facts.read_files(tmp_path, facts.files_of(interface)) == texts


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/net/eth0/speed"
    folder.mkdir(parents=True)
    assert facts.read_files(tmp_path, facts.files_of("eth0")) == {}


def test_this_host_says_what_it_knows_and_why_it_does_not_know_the_rest() -> None:
    host = asdict(facts.host())
    named = ("machine_model", "cpu_model", "cpu_sockets", "cpu_cores", "network")
    for key in named:
        assert host[key] or host["unknown"][key]
    assert host["mem_total_bytes"] > 2**28
    assert host["cpu_cores"] is None or host["cpu_cores"] >= 1
