"""The support bundle: one file, the same bytes each time, no secret in it, and a list of what it holds."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bundle import KEPT_BYTES, MANIFEST, bundle, write
from orchestrator.bundle.redact import MASK, Redactor, names_of, secrets_of
from orchestrator.errors import ConfigError
from tests.cellmaker import honest, write_run

if TYPE_CHECKING:
    from orchestrator.results import RunFolder

ROOT = Path(__file__).parents[1]


def opened(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive.getmembers()
        }


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "results" / "runs", honest())[0]


def test_it_holds_every_file_and_lists_them_with_their_digests(folder: RunFolder) -> None:
    (folder.path / "samples").mkdir()
    (folder.path / "samples" / "key.json").write_text("{}")
    (folder.path / "model.safetensors").write_bytes(b"weights")
    made = bundle(folder, Redactor(), version="1.2.3")
    files = opened(made.data)
    manifest = json.loads(files.pop(MANIFEST))
    assert [one["path"] for one in manifest["files"]] == list(files)
    for one in manifest["files"]:
        assert hashlib.sha256(files[one["path"]]).hexdigest() == one["sha256"]
        assert one["original_size"] == (folder.path / one["path"]).stat().st_size
    assert {"plan.json", "host.json"} < set(files)
    assert {one["path"]: one["why"] for one in manifest["left_out"]} == {
        "model.safetensors": "weights",
        "samples/key.json": "the key of the answers",
    }


def test_the_same_folder_gives_the_same_bytes(folder: RunFolder) -> None:
    first = bundle(folder, Redactor(), version="1").data
    for path in folder.path.rglob("*"):
        path.touch()
    assert bundle(folder, Redactor(), version="1").data == first


def test_of_a_long_file_both_ends_are_kept_and_the_rest_is_counted(folder: RunFolder) -> None:
    data = b"first" + bytes(3 * KEPT_BYTES) + b"last"
    (folder.path / "long.log").write_bytes(data)
    made = bundle(folder, Redactor(), version="1")
    kept = opened(made.data)["long.log"]
    (held,) = [one for one in made.held if one.path == "long.log"]
    assert kept.startswith(b"first")
    assert kept.endswith(b"last")
    assert f"{held.dropped_bytes} bytes left out".encode() in kept
    assert held.dropped_bytes == len(data) - KEPT_BYTES


FORMS = (
    "password={}",
    "PASSWORD: {}",
    '"api_key": "{}"',
    "https://someone:{}@registry.example/v2",
    "Authorization: Bearer {}",
    "token={}&x=1",
)


def test_fifty_secrets_in_every_form_and_encoding_are_in_no_bundle(folder: RunFolder) -> None:
    draw = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    known = ["".join(draw.choices(letters + '/+=&"', k=draw.randint(8, 40))) for _ in range(25)]
    unknown = ["".join(draw.choices(letters, k=draw.randint(12, 40))) for _ in range(25)]
    lines = [form for one in known for form in (one, quote(one), json.dumps(one), _base64(one))]
    lines += [FORMS[number % len(FORMS)].format(one) for number, one in enumerate(unknown)]
    (folder.path / "cells" / "said.log").write_text("\n".join(lines))
    made = bundle(folder, Redactor(secrets=known), version="1")
    everything = b"".join(opened(made.data).values())
    for secret in (*known, *unknown):
        assert secret.encode() not in everything, secret
        assert _base64(secret).encode() not in everything
    (held,) = [one for one in made.held if one.path.endswith("said.log")]
    assert held.masked >= 50


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_what_only_looks_like_a_secret_stays() -> None:
    text = '"tokens": 4096, "token_count": 12, "num_tokens": 100000000, "password": null, x-token/p/s 424'
    assert Redactor().text(text) == (text, 0)


def test_keys_and_tokens_of_known_services_are_masked() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\ndef\n-----END OPENSSH PRIVATE KEY-----"
    for secret in (key, "hf_" + "a" * 34, "ghp_" + "b" * 36, "AKIA" + "C" * 16, "eyJ" + "d" * 20 + ".e" * 20):
        shown, count = Redactor().text(f"x {secret} y")
        assert MASK in shown or "eyJ" in secret
        assert count or "eyJ" in secret


def test_variables_named_as_secrets_are_known() -> None:
    found = secrets_of({"REGISTRY_PASSWORD": "abc123", "HOME": "/root", "SSH_AUTH_SOCK": "/tmp/agent"})
    assert found == ("abc123",)


def test_anonymous_names_no_machine_no_person_and_no_address(folder: RunFolder) -> None:
    plan = json.loads(folder.plan.read_text())
    host = json.loads(folder.host.read_text())
    plan["cluster"] = "secretlab"
    plan["cells"][0]["launches"][0]["node"] = "gpu-7.corp.example"
    host["host"]["hostname"] = "alices-laptop"
    host["nodes"] = {"gpu-7.corp.example": {"name": "gpu-7.corp.example", "address": "10.9.8.7"}}
    folder.plan.write_text(json.dumps(plan))
    folder.host.write_text(json.dumps(host))
    text = "alices-laptop: /home/alice/x gpu-7.corp.example 10.9.8.7 10.9.8.7 10.1.1.1 127.0.0.1 "
    text += "aa:bb:cc:dd:ee:ff"
    (folder.path / "said.log").write_text(text)
    redactor = Redactor(names=names_of(plan, host), anonymous=True)
    files = opened(bundle(folder, redactor, version="1").data)
    everything = b"".join(files.values())
    for name in (b"alice", b"corp.example", b"10.9.8.7", b"aa:bb", b"secretlab"):
        assert name not in everything, name
    said = files["said.log"].decode().split()
    assert said[0] == "controller:"
    assert said[3] == said[4] != said[5]
    assert said[6] == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("fe80::1ff:fe23:4567:890a", "2001:db8::1"),
        (
            "2a00:1450:4001:82a:0:0:0:200e 2A00:1450:4001:82A::200E fd00::7",
            "2001:db8::1 2001:db8::1 2001:db8::2",
        ),
        ("[fd00::7]:22, (fd00::7) <fd00::7> fd00::7. fd00::7: no", None),
        ('"address": "fd00::7" addr:fd00::7 tcp://[fd00::7]:2345 fd00::7%eth0 fd00::7/64', None),
        ("::ffff:10.9.8.7 fd00::10.9.8.7 64:ff9b::a09:807", "2001:db8::1 2001:db8::2 2001:db8::3"),
        ("fd00:1:: via fd00:2::", "2001:db8::1 via 2001:db8::2"),
    ],
)
def test_no_ipv6_address_stays_whatever_stands_beside_it(text: str, clean: str | None) -> None:
    found, count = Redactor(anonymous=True).text(text)
    assert found == (clean or text.replace("fd00::7", "2001:db8::1"))
    assert count == found.count("2001:db8::")


@pytest.mark.parametrize(
    "text",
    [
        "12:34:56 12:34:56.789 2026-11-21T12:34:56Z 1:02:03:04",
        "0000:3b:00.0 at::Tensor std::vector torch::add c10::add c10::Error x[::2] x[1::2] ::1 :: a:b :a: ::",
        "step 3: loss 2.5: 10:9:8 rank0:1:2:3:4:5:6:7:8:9",
        "sha256:0123456789abcdef0123456789abcdef",
    ],
)
def test_what_only_looks_like_an_ipv6_address_stays(text: str) -> None:
    assert Redactor(anonymous=True).text(text) == (text, 0)


@given(st.text(max_size=300))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = Redactor(secrets=("hunter2!",)).text(text)
    assert Redactor(secrets=("hunter2!",)).text(once)[0] == once


@given(st.binary(max_size=300))
def test_bytes_that_are_no_text_stay_as_they_are(data: bytes) -> None:
    clean, count = Redactor().data(data)
    assert clean == data or count


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "password=" * 20_000, "http://" + "a:" * 100_000, "-" * 200_000, ":::" * 60_000]
)
def test_no_text_makes_it_slow(text: str) -> None:
    began = time.monotonic()
    Redactor(anonymous=True).text(text)
    assert time.monotonic() - began < 60


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "x", b"1")
    with pytest.raises(ConfigError, match="there already"):
        write(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_a_place_where_no_file_can_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ConfigError, match="E290"):
        write(tmp_path / "x" / "y", b"1")


@pytest.mark.parametrize("size", [KEPT_BYTES, KEPT_BYTES + 1])
def test_a_file_that_cannot_be_read_is_one_clear_error(
    size: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "a.log").write_bytes(bytes(size))

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", failing)
    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(ConfigError, match=r"E706.*a\.log cannot be read: Input/output error"):
        bundle(folder, Redactor(), version="1")


def test_the_verb_writes_one_file_and_says_what_is_in_it(folder: RunFolder, tmp_path: Path) -> None:
    home = tmp_path
    for noun in ("cases", "dockerfiles", "cluster"):
        (home / noun).mkdir()
    argv = (sys.executable, "-m", "orchestrator", "--home", str(home), "bundle", folder.run_id)
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, cwd=home, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    (path,) = home.glob("nx8-bundle-*.tar.gz")
    assert "plan.json" in done.stdout
    assert MANIFEST in opened(path.read_bytes())
    again = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, cwd=home, env={"PYTHONPATH": str(ROOT)}
    )
    assert again.returncode == 2
    assert "E291" in again.stderr
