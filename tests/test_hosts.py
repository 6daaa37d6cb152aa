"""`nx8 hosts`: keys are shown, stored on a yes, and never replaced unasked."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from orchestrator import hosts
from orchestrator.cluster import Ssh
from orchestrator.errors import ConfigError, PreflightError
from orchestrator.remote import known_hosts
from orchestrator.workspace import Workspace
from tests import loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.loopback import Sshd

needs_sshd = pytest.mark.skipif(loopback.WHY_NOT is not None, reason=str(loopback.WHY_NOT))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with loopback.sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def write_cluster(home: Path, server: Sshd, *addresses: str) -> Path:
    nodes = [{"name": f"n{number}", "host": one} for number, one in enumerate(addresses, start=1)]
    ssh = {"port": server.port, "user": "root", "key": str(server.key), "config": None}
    content = {
        "schema": 1,
        "description": "loopback",
        "vendor": "cpu",
        "device": "cpu",
        "transport": "ssh",
        "devices_per_node": 1,
        "nodes": nodes,
        "data_dir": "/data",
        "work_dir": "/work",
        "interface": "lo",
        "ssh": ssh,
    }
    path = home / "cluster" / "loop.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def nx8(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from orchestrator.cli.main import guarded; from orchestrator.cli import hosts_verb; "
        "from pathlib import Path; "
        f"home = Path({str(home)!r}); "
        "sys.exit(guarded(lambda: hosts_verb.command(sys.argv[1:], standalone_mode=False, obj=home)))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(loopback.ROOT)},
    )


@needs_sshd
def test_keys_are_shown_and_stored_only_on_a_yes(home: Path, server: Sshd) -> None:
    write_cluster(home, server, "127.0.0.1", "127.0.0.2")
    file = home / "cluster" / "loop.known_hosts"
    asked = nx8(home, "pin", "--cluster", "loop")
    assert asked.returncode == 2, asked.stderr
    assert not file.exists()
    for kind in ("ed25519", "ecdsa", "rsa"):
        key = server.folder / f"host_{kind}.pub"
        shown = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
        assert asked.stdout.count(shown.stdout.split()[1]) == 2
    before = server.log().count("Accepted")
    assert nx8(home, "pin", "--cluster", "loop", "--yes").returncode == 0
    assert server.log().count("Accepted") == before
    assert file.read_text().count(f"[127.0.0.2]:{server.port} ") == 3
    again = nx8(home, "pin", "--cluster", "loop")
    assert (again.returncode, "nothing to store" in again.stdout) == (0, True)
    assert nx8(home, "list", "--cluster", "loop").stdout.count("SHA256:") == 6


@needs_sshd
def test_a_changed_key_is_shown_and_replaced_only_when_told(home: Path, server: Sshd, tmp_path: Path) -> None:
    write_cluster(home, server, "127.0.0.1", "127.0.0.2")
    file = home / "cluster" / "loop.known_hosts"
    loopback.make_key(tmp_path / "old")
    old = " ".join((tmp_path / "old.pub").read_text().split()[:2])
    file.write_text(f"[127.0.0.1]:{server.port} {old}\nother.example {old}\n")
    found = nx8(home, "pin", "--cluster", "loop", "--yes")
    assert found.returncode == 3
    assert "changed  (was SHA256:" in found.stdout
    assert "--replace" in found.stderr
    assert f"[127.0.0.1]:{server.port} {old}" in file.read_text()
    assert f"[127.0.0.2]:{server.port} " in file.read_text()
    assert nx8(home, "pin", "--cluster", "loop", "--yes", "--replace").returncode == 0
    text = file.read_text()
    assert f"[127.0.0.1]:{server.port} {old}" not in text
    assert f"other.example {old}" in text


@needs_sshd
def test_nodes_that_are_not_there_are_named_and_the_others_stored(home: Path, server: Sshd) -> None:
    path = write_cluster(home, server, "127.0.0.1", "no-such-host.invalid")
    found = nx8(home, "pin", "--cluster", "loop", "--yes")
    assert found.returncode == 3
    assert "E201" in found.stderr
    assert "n2" in found.stderr
    assert (path.parent / "loop.known_hosts").read_text().count(f"[127.0.0.1]:{server.port} ") == 3
    assert "n2  not pinned" in nx8(home, "list", "--cluster", "loop").stdout


def test_the_file_stands_beside_the_cluster_file(tmp_path: Path) -> None:
    node = loopback.Node(name="n1")
    workspace = Workspace(home=tmp_path)
    beside = tmp_path / "cluster"
    assert hosts.known_hosts_file(workspace, "lab", loopback.cluster(node)) == beside / "lab.known_hosts"
    named = loopback.cluster(node, known_hosts="keys/site")
    assert hosts.known_hosts_file(workspace, "lab", named) == beside / "keys" / "site"
    assert Ssh().known_hosts is None


def test_hashed_names_ports_and_revoked_keys_are_understood(tmp_path: Path) -> None:
    loopback.make_key(tmp_path / "key")
    key = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    file = tmp_path / "known_hosts"
    file.write_text(f"# ours\n\nn1,[n2]:2222 {key} comment\nn3 {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    found = known_hosts.load(file)
    assert "|1|" in file.read_text()
    assert [len(found.of(name)) for name in ("n1", "[n2]:2222", "n3", "n2", "n4")] == [1, 1, 1, 0, 0]
    file.write_text(f"n1 {key}\n@revoked * {key}\n")
    assert known_hosts.load(file).of("n1") == ()


def test_every_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("n1 ssh-ed25519\nn2 ssh-dss AAAA\nn3 ssh-ed25519 ///=\n@cert-authority * ssh-rsa AAAA\n")
    with pytest.raises(PreflightError) as caught:
        known_hosts.load(file)
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [
        ("E214", n) for n in (1, 2, 3, 4)
    ]
    assert known_hosts.load(tmp_path / "none").keys == ()


def behind(home: Path, server: Sshd, **ssh: object) -> Path:
    """A cluster of one node, n1, which `ssh` says how to reach; the file of its host keys."""
    path = write_cluster(home, server, "127.0.0.1")
    content = yaml.safe_load(path.read_text())
    content["ssh"] |= ssh
    path.write_text(yaml.safe_dump(content))
    return path.with_name("loop.known_hosts")


@needs_sshd
def test_jump_hosts_are_pinned_before_the_nodes_behind_them(home: Path, server: Sshd) -> None:
    file = behind(home, server, jump=f"root@127.0.0.2:{server.port},root@127.0.0.3:{server.port}")
    asked = nx8(home, "pin", "--cluster", "loop")
    assert asked.returncode == 2, asked.stderr
    assert "127.0.0.2" in asked.stdout
    assert "127.0.0.3" not in asked.stdout
    assert "not asked" in asked.stderr
    assert not file.exists()
    pinned = nx8(home, "pin", "--cluster", "loop", "--yes")
    assert pinned.returncode == 0, pinned.stderr
    shown = [line.split("  ")[0] for line in pinned.stdout.splitlines() if "SHA256" in line]
    first, second = f"jump host root@127.0.0.2:{server.port}", f"jump host root@127.0.0.3:{server.port}"
    assert list(dict.fromkeys(shown)) == [first, f"{second} behind {first}", "n1"]
    for last in "123":
        assert file.read_text().count(f"[127.0.0.{last}]:{server.port} ") == 3
    listed = nx8(home, "list", "--cluster", "loop")
    assert listed.stdout.count("SHA256:") == 9
    again = nx8(home, "pin", "--cluster", "loop")
    assert (again.returncode, "nothing to store" in again.stdout) == (0, True)


@needs_sshd
def test_nobody_is_asked_through_a_jump_host_that_shows_another_key(
    home: Path, server: Sshd, tmp_path: Path
) -> None:
    file = behind(home, server, jump=f"root@127.0.0.2:{server.port}")
    loopback.make_key(tmp_path / "old")
    old = " ".join((tmp_path / "old.pub").read_text().split()[:2])
    file.write_text(f"[127.0.0.2]:{server.port} {old}\n")
    before = server.log().count("Accepted")
    found = nx8(home, "pin", "--cluster", "loop", "--yes")
    assert found.returncode == 3
    assert "changed" in found.stdout
    assert "not asked" in found.stderr
    assert "[127.0.0.1]" not in file.read_text()
    assert server.log().count("Accepted") == before


@needs_sshd
def test_jump_hosts_of_the_ssh_configuration_are_followed_hop_by_hop(
    home: Path, server: Sshd, tmp_path: Path
) -> None:
    config = tmp_path / "ssh_config"
    each = f"  Port {server.port}\n  User root\n  IdentityFile {server.key}\n"
    config.write_text(
        f"Host 127.0.0.1\n  ProxyJump inner\nHost inner\n  HostName 127.0.0.3\n  ProxyJump outer\n{each}"
        f"Host outer\n  HostName 127.0.0.2\n{each}"
    )
    file = behind(home, server, config=str(config))
    pinned = nx8(home, "pin", "--cluster", "loop", "--yes")
    assert pinned.returncode == 0, pinned.stderr
    assert "jump host inner behind jump host outer" in pinned.stdout
    for last in "123":
        assert file.read_text().count(f"[127.0.0.{last}]:{server.port} ") == 3


def test_jump_hosts_in_a_circle_are_refused_and_one_of_all_hosts_is_not_its_own(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\nHost *\n  ProxyJump gate\n")
    in_a_circle = loopback.cluster(loopback.Node(name="a"), config=str(config))
    with pytest.raises(PreflightError, match="circle: a → b → a"):
        hosts.pinned(in_a_circle, tmp_path / "known_hosts")
    behind_one = loopback.cluster(loopback.Node(name="n1"), config=str(config))
    assert list(hosts.pinned(behind_one, tmp_path / "known_hosts")) == ["jump host gate", "n1"]


def test_ranks_meet_at_the_fabric_address_or_the_host_name_behind_an_alias(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host n*\n  HostName %h.example.org\nHost odd\n  HostName -x\n")

    def met_at(node: loopback.Node) -> str:
        return hosts.fabric_address(loopback.cluster(node, config=str(config)), node)

    assert met_at(loopback.Node(name="n1")) == "n1.example.org"
    assert met_at(loopback.Node(name="x", host="10.0.0.1")) == "10.0.0.1"
    assert met_at(loopback.Node(name="n1", fabric_address="10.9.0.1")) == "10.9.0.1"
    with pytest.raises(ConfigError) as caught:
        met_at(loopback.Node(name="odd"))
    assert caught.value.problems[0].code == "E250"


def test_a_revoked_key_stays_revoked_when_others_are_pinned(tmp_path: Path) -> None:
    file = tmp_path / "lab.known_hosts"
    head = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32)
    bad, good = head + b"7" * 32, head + b"9" * 32
    file.write_text(f"@revoked node1 ssh-ed25519 {base64.b64encode(bad).decode()}\n")
    found = {"node2": {"ssh-ed25519": good}, "node1": {"ssh-ed25519": bad}}
    hosts.store(hosts.Survey(file=file, keys=(), found=found, failed=None), replace=False)
    stored = known_hosts.load(file)
    assert [key.revoked for key in stored.keys if key.blob == bad] == [True]
    assert stored.of("node1") == ()
    assert [key.blob for key in stored.of("node2")] == [good]
