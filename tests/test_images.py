"""images/: an archive loses only the layers that a node holds, and arrives whole however often a link is
lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import docker
from orchestrator.cluster import Cluster, ImageSource, Login
from orchestrator.errors import BuildError, ConfigError, Nx8Error
from orchestrator.images import proven
from orchestrator.images.archive import Parcel, depth, joined, parcel, read_archive
from orchestrator.images.build import build
from orchestrator.images.handon import deliver, hand_on, here
from orchestrator.images.links import Patience
from orchestrator.images.log import BuildLog, masked
from orchestrator.images.registry import Credentials, credentials
from orchestrator.images.room import Room
from orchestrator.images.spool import Filled, Filling
from orchestrator.load import load_text
from orchestrator.remote.errors import LinkLost, Refused, RemoteError
from orchestrator.remote.patience import LINK_CODES
from orchestrator.remote.remote import Completed, Remote
from orchestrator.render import Context
from tests.loopback import WHY_NOT, cluster, sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

LIMIT_S = 120.0
TAG = "nx8-acme-ddp:000000000000"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def packed(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def old_archive(layers: Sequence[bytes]) -> bytes:
    """As Docker 20.10 writes it: a folder for each layer, a link where one stands twice, tables last."""
    config = json.dumps({"rootfs": {"diff_ids": [digest(one) for one in layers]}}).encode()
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    paths = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    for number, (path, data) in enumerate(zip(paths, layers, strict=True)):
        files[f"{number:064x}/VERSION"] = b"1.0"
        first = layers.index(data)
        if first < number:
            links[path] = f"../{first:064x}/layer.tar"
        else:
            files[path] = data
    files["config.json"] = config
    manifest = [{"Config": "config.json", "RepoTags": [TAG], "Layers": paths}]
    return packed(files | {"manifest.json": json.dumps(manifest).encode()}, links)


def new_archive(layers: Sequence[bytes]) -> bytes:
    """As Docker 25 and later write it: every blob once, by its digest."""
    config = json.dumps({"rootfs": {"diff_ids": [digest(one) for one in layers]}}).encode()
    paths = [f"blobs/sha256/{digest(one)[7:]}" for one in layers]
    blobs = dict(zip(paths, layers, strict=True)) | {f"blobs/sha256/{digest(config)[7:]}": config}
    manifest = [{"Config": f"blobs/sha256/{digest(config)[7:]}", "RepoTags": [TAG], "Layers": paths}]
    return packed(blobs | {"manifest.json": json.dumps(manifest).encode(), "oci-layout": b"{}"}, {})


LAYERS = (b"base" * 50_000, b"empty", b"pip" * 9_000, b"trainer" * 3_000)
TWICE = (b"base" * 50_000, b"empty", b"pip" * 9_000, b"empty")
KINDS = {"20.10": old_archive, "25": new_archive}


def cut_out(raw: bytes, wanted: Parcel) -> bytes:
    return b"".join(raw[start:end] for start, end in wanted.ranges)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", range(5))
def test_a_parcel_is_an_archive_without_the_layers_that_are_held(kind: str, held: int) -> None:
    raw = KINDS[kind](LAYERS)
    archive = read_archive(io.BytesIO(raw), size=len(raw))
    assert archive.layers == tuple(digest(one) for one in LAYERS)
    sent = cut_out(raw, parcel(archive, held=held))
    with tarfile.open(fileobj=io.BytesIO(raw)) as whole, tarfile.open(fileobj=io.BytesIO(sent)) as part:
        left_out = set(archive.files[:held])
        assert part.getnames() == [name for name in whole.getnames() if name not in left_out]
        for member in part:
            if member.isreg():
                assert part.extractfile(member).read() == whole.extractfile(member.name).read()  # type: ignore[union-attr]
    assert (sent == raw) == (held == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_stands_again_above_those_held_is_sent(kind: str) -> None:
    raw = KINDS[kind](TWICE)
    sent = cut_out(raw, parcel(read_archive(io.BytesIO(raw), size=len(raw)), held=3))
    with tarfile.open(fileobj=io.BytesIO(sent)) as part:
        texts = [part.extractfile(one).read() for one in part.getmembers() if one.isreg()]  # type: ignore[union-attr]
    assert b"empty" in texts
    assert TWICE[0] not in texts
    assert TWICE[2] not in texts


def test_a_layer_beyond_8_gib_is_walked_over_without_being_read(tmp_path: Path) -> None:
    large = tarfile.TarInfo("blobs/sha256/large")
    large.size = 9 << 30
    header = large.tobuf(tarfile.PAX_FORMAT)
    config = json.dumps({"rootfs": {"diff_ids": ["sha256:a", "sha256:b"]}}).encode()
    manifest = json.dumps([{"Config": "c", "Layers": [large.name, "small"]}]).encode()
    rest = packed({"small": b"x", "c": config, "manifest.json": manifest}, {})
    path = tmp_path / "sparse.tar"
    with path.open("wb") as file:
        file.write(header)
        file.seek(large.size, io.SEEK_CUR)
        file.write(rest)
    size = path.stat().st_size
    with path.open("rb") as file:
        archive = read_archive(file, size=size)
    assert parcel(archive, held=0).size == size
    assert parcel(archive, held=1).size == len(rest)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no archive" * 100,
        old_archive(LAYERS)[:5000],
        packed({"manifest.json": b"[]"}, {}),
        packed({"manifest.json": b"{"}, {}),
        packed({"manifest.json": json.dumps([{"Config": "c", "Layers": ["a"]}]).encode(), "c": b"{}"}, {}),
    ],
)
def test_what_is_no_archive_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"archive|Expecting|property name"):
        read_archive(io.BytesIO(raw), size=len(raw))


def test_a_node_holds_what_lies_in_the_same_order_below() -> None:
    assert depth(("a", "b", "c"), [("a", "c"), ("b", "c"), ("a", "b", "x"), ()]) == 2
    assert depth(("a", "b"), [("a", "b", "c")]) == 2
    assert depth(("a",), []) == 0


def test_a_parcel_goes_on_after_any_of_its_bytes() -> None:
    raw = bytes(range(200))
    wanted = Parcel(ranges=tuple(joined([(60, 70), (10, 20), (20, 25), (100, 200)])))
    assert wanted.ranges == ((10, 25), (60, 70), (100, 200))
    whole = cut_out(raw, wanted)
    for offset in range(wanted.size + 1):
        assert b"".join(raw[start:end] for start, end in wanted.after(offset)) == whole[offset:]


def all_of(wanted: Parcel, spool: Any) -> bytes:
    return b"".join(data for start, end in wanted.ranges for data in spool.pieces(start, end))


def test_a_source_is_read_once_for_all_who_take_from_it(tmp_path: Path) -> None:
    raw = bytes(range(256)) * 20_000
    wanted = Parcel(ranges=((0, 1000), (2_000_000, len(raw))))
    asked: list[tuple[int, int]] = []

    def read(start: int, longest: int) -> bytes:
        asked.append((start, start + longest))
        return raw[start : start + longest]

    taken: dict[int, bytes] = {}
    with (tmp_path / "spool").open("w+b") as file, Filling(file, wanted, read) as spool:
        threads = [
            threading.Thread(target=lambda one=one: taken.update({one: all_of(wanted, spool)}))
            for one in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert set(taken.values()) == {cut_out(raw, wanted)}
    assert len(taken) == 3
    assert Parcel(ranges=tuple(joined(asked))) == wanted
    assert sum(end - start for start, end in asked) == wanted.size


def test_a_reader_ends_when_who_takes_from_it_ends(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def read(start: int, longest: int) -> bytes:
        began.set()
        go_on.wait(LIMIT_S)
        return bytes(longest)

    before = threading.active_count()
    with (tmp_path / "spool").open("w+b") as file:
        with pytest.raises(KeyError), Filling(file, Parcel(ranges=((0, 1 << 40),)), read) as spool:
            assert began.wait(LIMIT_S)
            go_on.set()
            next(spool.pieces(0, 10))
            raise KeyError
        assert threading.active_count() == before
        with pytest.raises(BuildError, match="given up"):
            next(spool.pieces(1 << 39, 1 << 40))


def test_a_source_that_is_lost_is_no_lost_link_of_a_target(tmp_path: Path) -> None:
    def read(start: int, longest: int) -> bytes:
        raise LinkLost.of("E209", "gone", node="node1", phase="command", help="")

    with (
        (tmp_path / "spool").open("w+b") as file,
        Filling(file, Parcel(ranges=((0, 10),)), read) as spool,
        pytest.raises(BuildError, match="node1: gone"),
    ):
        next(spool.pieces(0, 10))


@dataclass
class FakeNode:
    """A node with files and an engine that keeps layers; it refuses every command it does not know.

    `breaks` are the numbers of bytes after which an append loses its link; `picky` is an engine that wants
    every layer in an archive, held or not.
    """

    name: str
    held: tuple[str, ...] = ()
    breaks: list[int] = field(default_factory=list)
    picky: bool = False
    full: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    image: str | None = None
    appended: list[tuple[int, int]] = field(default_factory=list)

    def make_dirs(self, *paths: str, marker: bool = False) -> tuple[bool, ...]:
        return tuple(True for _ in paths)

    def remove_tree(self, path: str, *, root: str) -> tuple[str, ...]:
        assert path.startswith(f"{root}/"), path
        self.files = {name: data for name, data in self.files.items() if not name.startswith(f"{path}/")}
        return ()

    def disk(self, path: str) -> dict[str, int]:
        return {"available_bytes": 0 if self.full else 1 << 40}

    def stat(self, path: str) -> tuple[dict[str, Any], ...]:
        data = self.files.get(path)
        return ({"exists": False} if data is None else {"exists": True, "size": len(data)},)

    def append(self, path: str, chunks: Iterable[bytes], *, offset: int, sync: bool, timeout_s: float) -> int:
        data = self.files.get(path, b"")
        if len(data) < offset:
            raise Refused.of("E218", "shorter", node=self.name, phase="file", help="")
        data = data[:offset]
        limit = self.breaks.pop(0) if self.breaks else None
        for chunk in chunks:
            data += chunk if limit is None else chunk[: max(0, offset + limit - len(data))]
            if limit is not None and len(data) >= offset + limit:
                self.files[path] = data
                self.appended.append((offset, len(data)))
                raise LinkLost.of("E209", "cut", node=self.name, phase="command", help="")
        self.files[path] = data
        self.appended.append((offset, len(data)))
        return len(data)

    def run(self, argv: tuple[str, ...], *, timeout_s: float) -> Completed:
        if argv == docker.info_argv():
            return self._said(b'{"DriverStatus": [["Backing Filesystem", "extfs"]]}')
        if argv == docker.all_images_argv():
            return self._said(b"sha256:aa\n" if self.held else b"")
        if argv == docker.image_facts_argv("sha256:aa"):
            return self._said(json.dumps([{"RootFS": {"Layers": self.held}}]).encode())
        if argv == docker.image_argv(TAG):
            return self._said(json.dumps([{"Id": self.image}]).encode(), rc=0 if self.image else 1)
        if argv[:3] == ("docker", "image", "load"):
            return self._loaded(argv[-1].removeprefix("--input="))
        raise AssertionError(f"{self.name}: unknown command {argv}")

    def _loaded(self, path: str) -> Completed:
        raw = self.files[path]
        with tarfile.open(fileobj=io.BytesIO(raw)) as packed:
            manifest = json.load(packed.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            config = packed.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
            layers = json.loads(config)["rootfs"]["diff_ids"]
            for number, (file, layer) in enumerate(zip(manifest["Layers"], layers, strict=True)):
                if tuple(layers[: number + 1]) == self.held[: number + 1] and not self.picky:
                    continue
                if file not in packed.getnames():
                    return self._said(b"", rc=1, stderr=b"open layer.tar: no such file or directory\n")
                assert digest(packed.extractfile(file).read()) == layer  # type: ignore[union-attr]
        self.image = digest(config)
        return self._said(b"")

    def _said(self, stdout: bytes, *, rc: int = 0, stderr: bytes = b"") -> Completed:
        return Completed(
            argv=("docker",),
            rc=rc,
            stdout=stdout,
            stderr=stderr,
            stdout_bytes=len(stdout),
            stderr_bytes=len(stderr),
        )


class FakePool:
    """Nodes one after another: who fails does not keep the others from being heard."""

    def __init__(self, *nodes: FakeNode) -> None:
        self.nodes = {node.name: node for node in nodes}

    def settle(
        self, function: Callable[[Any], Any], *, nodes: Iterable[str], limit_s: float = 0, gang: bool = False
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in nodes:
            try:
                found[name] = function(self.nodes[name])
            except Nx8Error as error:
                found[name] = error
        return found

    def each(
        self, function: Callable[[Any], Any], *, nodes: Iterable[str], limit_s: float = 0
    ) -> dict[str, Any]:
        found = self.settle(function, nodes=nodes)
        for value in found.values():
            if isinstance(value, Nx8Error):
                raise value
        return found


class Said:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        self.lines.append(f"{name} {detail}")


def handed_on(raw: bytes, *nodes: FakeNode) -> Said:
    said = Said()
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        hand_on(
            FakePool(*nodes),  # type: ignore[arg-type]
            here(file, size=len(raw)),
            tuple(node.name for node in nodes),
            TAG,
            wanted=image_of(raw),
            room=Room(root="/srv/nx8/images"),
            view=said,  # type: ignore[arg-type]
        )
    return said


def image_of(raw: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(raw)) as packed:
        manifest = json.load(packed.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        return digest(packed.extractfile(manifest["Config"]).read())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_each_node_gets_the_layers_it_lacks_and_keeps_no_file(kind: str) -> None:
    raw = KINDS[kind](LAYERS)
    names = tuple(digest(one) for one in LAYERS)
    nodes = [FakeNode("none"), FakeNode("base", held=names[:1]), FakeNode("all", held=names)]
    handed_on(raw, *nodes)
    sizes = [node.appended[-1][1] for node in nodes]
    assert sizes[0] == len(raw)
    assert sizes[0] - sizes[1] >= len(LAYERS[0])
    assert sizes[1] - sizes[2] >= len(LAYERS[2]) + len(LAYERS[3])
    assert [node.image for node in nodes] == [image_of(raw)] * 3
    assert [node.files for node in nodes] == [{}] * 3


def test_an_engine_that_wants_all_layers_gets_the_whole_archive() -> None:
    raw = new_archive(LAYERS)
    node = FakeNode("node2", held=(digest(LAYERS[0]),), picky=True)
    handed_on(raw, node)
    assert node.image == image_of(raw)
    assert [end for _, end in node.appended][-1] == len(raw)


def test_every_node_that_could_not_be_served_is_named() -> None:
    raw = old_archive(LAYERS)
    nodes = [FakeNode("node2", full=True), FakeNode("node3"), FakeNode("node4", full=True)]
    with pytest.raises(BuildError) as caught:
        handed_on(raw, *nodes)
    assert [(one.code, one.message.split(":")[0]) for one in caught.value.problems] == [
        ("E314", "node2"),
        ("E314", "node4"),
    ]
    assert nodes[1].image == image_of(raw)


def test_a_lost_link_goes_on_after_the_bytes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.remote.patience.FIRST_PAUSE_S", 0.0)
    raw = new_archive(LAYERS)
    node = FakeNode("node2", breaks=[0, 700, 0, 100_000, 1])
    wanted = Parcel(ranges=((0, 1000), (1500, len(raw))))
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        deliver(node, wanted, Filled(file), "/got")  # type: ignore[arg-type]
    assert node.files["/got"] == raw[:1000] + raw[1500:]
    assert [offset for offset, _ in node.appended] == [0, 0, 700, 700, 100_700, 100_701]


def test_a_link_that_does_not_come_back_is_waited_for_no_longer_than_its_limit() -> None:
    node = FakeNode("node2", breaks=[0] * 50)
    patience = Patience(limit_s=0.0)
    with pytest.raises(LinkLost):
        node.append("/x", [b"x"], offset=0, sync=False, timeout_s=1)
    with pytest.raises(LinkLost):
        patience.bear(LinkLost.of("E209", "cut", node="node2", phase="command", help=""))


@pytest.mark.parametrize("code", sorted(LINK_CODES))
def test_every_code_of_a_lost_link_is_borne_while_there_is_hope(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.remote.patience.FIRST_PAUSE_S", 0.0)
    error = RemoteError.of(code, "cut", node="node2", phase="command", help="")
    Patience().bear(error)
    with pytest.raises(RemoteError):
        Patience(limit_s=-1.0).bear(error)


def test_what_is_refused_is_not_tried_again() -> None:
    with pytest.raises(Refused):
        Patience().bear(Refused.of("E218", "no", node="node2", phase="file", help=""))


def test_identifiers_that_differ_are_named_by_node() -> None:
    assert proven(TAG, "sha256:a", {"n1": "sha256:a", "n2": "sha256:a"}) == "sha256:a"
    for found in ({"n1": "sha256:a", "n2": "sha256:b"}, {"n1": "sha256:a", "n2": None}):
        with pytest.raises(BuildError, match=r"n2: (sha256:b|none)"):
            proven(TAG, "sha256:a", found)
    with pytest.raises(BuildError, match="E313"):
        proven(TAG, None, {"n1": None})


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
@pytest.mark.parametrize("how", ["time", "link"])
def test_a_build_that_is_cut_is_e311_with_what_it_said(how: str, tmp_path: Path) -> None:
    """A stand-in for docker that talks and then hangs, or takes its own ssh connection down."""
    end = "sleep 600" if how == "time" else "kill -9 $(ps -o ppid= -p $PPID)"
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nfor n in $(seq 60); do echo step $n; done\necho pass-word >&2\n{end}\n")
    program.chmod(0o755)
    log = tmp_path / "run" / "build.log"
    with sshd(tmp_path / "sshd") as server:
        server.pin("127.0.0.1")
        one = server.node()
        with Remote(settings(server, one), one) as remote, pytest.raises(BuildError) as caught:
            build(
                remote,
                Context(tag=TAG, base="b", dockerfile="", sha256="0" * 64, tar=b"x", build_args={}),
                log=log,
                limit_s=3.0 if how == "time" else 60.0,
                env={"PATH": f"{program.parent}:/usr/bin:/bin"},
                secrets=("pass-word",),
            )
    (problem,) = caught.value.problems
    assert problem.code == "E311"
    assert caught.value.exit_code == 5
    assert "cut" in problem.message
    assert "step 60" in str(problem.help)
    assert "step 11\n" not in str(problem.help)
    text = log.read_text()
    assert text.startswith("step 1\n")
    assert "***" in text
    assert "pass-word" not in text + str(problem)
    assert log.stat().st_mode & 0o777 == 0o600


def settings(server: Any, node: Any) -> Any:
    from orchestrator.remote.connection import Settings

    return Settings.of(cluster(node), server.known_hosts)


def test_a_log_masks_a_secret_that_comes_in_pieces(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "log", ("hunter2",)) as log:
        for piece in (b"a hun", b"ter", b"2 b\nlast hunter", b"2"):
            log.heard(piece)
    assert log.path.read_text() == "a *** b\nlast ***"
    assert log.last() == ["a *** b", "last ***"]


def test_a_secret_is_masked_in_base64_too() -> None:
    assert masked("x aHVudGVyMg== hunter2", ("hunter2",)) == "x *** ***"


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0o600, "is not there"),
        (b"", 0o600, "holds no password"),
        (b"\n", 0o600, "holds no password"),
        (b"a\nb\n", 0o600, "more than one line"),
        (b"pass\n", 0o644, "may be read by others"),
        (b"\xff\xfe", 0o600, "not UTF-8"),
    ],
)
def test_a_password_file_that_cannot_serve_is_refused(
    content: bytes | None, mode: int, why: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
        (tmp_path / "secret").chmod(mode)
    login = Login(registry="r:5000", user="u", password_file="secret")
    with pytest.raises(ConfigError, match=why) as caught:
        credentials(login, home=tmp_path, environment={})
    assert caught.value.problems[0].code == "E315"


def test_a_password_comes_from_a_file_or_a_variable_and_shows_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"hunter 2\n")
    (tmp_path / "secret").chmod(0o600)
    by_file = Login(registry="r:5000", user="u", password_file="secret")
    by_env = Login(registry="r:5000", user="u", password_env="R_PASS")
    for login in (by_file, by_env):
        found = credentials(login, home=tmp_path, environment={"R_PASS": "hunter 2"})
        assert found.password == "hunter 2"
        assert "hunter" not in repr(found)
    with pytest.raises(ConfigError, match="R_PASS is not there"):
        credentials(by_env, home=tmp_path, environment={})


def test_a_login_s_words_hold_no_password() -> None:
    assert docker.login_argv("r:5000", user="robot$ci") == (
        "docker",
        "login",
        "--username=robot$ci",
        "--password-stdin",
        "r:5000",
    )
    assert Credentials(registry="r", user="u", password="p").password == "p"


PINNED = f"r:5000/nx8/image@sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("{source: pull}", "needs `reference` with its digest"),
        ("{source: pull, reference: 'r:5000/x:1'}", "needs `reference` with its digest"),
        (f"{{reference: '{PINNED}'}}", "is what source 'pull' takes"),
        ("{socket: /run/docker.sock}", "is the engine of source 'host'"),
        ("{source: elsewhere}", "wants one of build, each, pull, host"),
        ("{login: {registry: r, user: u}}", "from `password_file` or from `password_env`"),
        ("{login: {registry: r, user: u, password_file: a, password_env: B}}", "one of them"),
        ("{login: {registry: 'u:p@r', user: u, password_env: B}}", "without scheme or password"),
        ("{login: {registry: r, user: '--help', password_env: B}}", "a user:"),
        ("{build_limit_s: 0}", "greater than 0"),
    ],
)
def test_an_image_block_says_what_is_wrong_with_it(image: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(YAML + f"image: {image}\n", Cluster, shown_as="c.yaml")
    assert why in str(caught.value)


YAML = """
schema: 1
description: a
vendor: acme
device: d
transport: ssh
devices_per_node: 2
nodes: [{name: n1}]
data_dir: /data
work_dir: /srv/nx8
"""


def test_an_image_block_is_read() -> None:
    login = "{registry: 'r:5000', user: u, password_env: P}"
    text = f"image: {{source: pull, reference: '{PINNED}', login: {login}}}"
    found = load_text(YAML + text, Cluster, shown_as="c.yaml").image
    assert found == ImageSource(
        source="pull", reference=PINNED, login=Login(registry="r:5000", user="u", password_env="P")
    )
    assert load_text(YAML, Cluster, shown_as="c.yaml").image == ImageSource()


def test_a_local_cluster_has_no_image() -> None:
    text = YAML.replace("ssh", "local").replace("/data", "data") + "image: {source: each}\n"
    with pytest.raises(ConfigError, match="it has no `image`"):
        load_text(text, Cluster, shown_as="c.yaml")


def test_an_exact_build_says_no_time_and_names_its_archive() -> None:
    words = docker.exact_build_argv(TAG, path="/srv/a.tar", build_args={"http_proxy": "http://p:1"})
    assert words[:3] == ("docker", "buildx", "build")
    assert "--build-arg=SOURCE_DATE_EPOCH=0" in words
    assert (
        f"--output=type=docker,name=docker.io/library/{TAG},rewrite-timestamp=true,dest=/srv/a.tar" in words
    )
    assert words[-1] == "-"
    with pytest.raises(ConfigError):
        docker.exact_build_argv(TAG, path="/srv/a,b.tar")


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b'{"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}', True),
        (b'{"DriverStatus": [["Backing Filesystem", "extfs"]]}', False),
        (b'{"DriverStatus": null}', False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_an_engine_s_kind_of_store_is_read(raw: bytes, seen: bool) -> None:
    assert docker.keeps_blobs(raw) is seen
