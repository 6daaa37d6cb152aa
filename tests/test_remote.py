"""Nodes over SSH, against a real sshd on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import pkgutil
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest

from orchestrator.errors import BuildError, Exit, Nx8Error, PreflightError, Problem
from orchestrator.node import BOOTSTRAP
from orchestrator.remote import Completed, LinkLost, OverTime, Pool, Refused, Remote, RemoteError
from orchestrator.remote.errors import MAPPED, GivenUp, UnknownHostKey, ours
from orchestrator.remote.pool import failures, in_parallel, was_silent
from orchestrator.remote.remote import MAX_CHANNELS
from tests import loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.loopback import Sshd

needs_sshd = pytest.mark.skipif(loopback.WHY_NOT is not None, reason=str(loopback.WHY_NOT))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with loopback.sshd(tmp_path_factory.mktemp("sshd")) as found:
        found.pin("127.0.0.1")
        yield found


@pytest.fixture(scope="module")
def pool(server: Sshd) -> Iterator[Pool]:
    cluster = loopback.cluster(server.node())
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        yield opened


@pytest.fixture
def remote(pool: Pool) -> Remote:
    return pool["n1"]


def refused(server: Sshd, *nodes: object, **ssh: object) -> PreflightError:
    cluster = loopback.cluster(*nodes, **ssh)  # type: ignore[arg-type]
    with pytest.raises(PreflightError) as caught, Pool.open(cluster, cluster.nodes, server.known_hosts):
        pass
    return caught.value


@contextlib.contextmanager
def listener(answer: bytes = b"") -> Iterator[int]:
    """Accepts, says `answer`, and then nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as found:
        found.settimeout(60)
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = found.accept()
                    one.sendall(answer)
                    held.append(one)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield found.getsockname()[1]
        finally:
            found.shutdown(socket.SHUT_RDWR)
            for one in held:
                one.close()


# Connecting


@needs_sshd
def test_all_bad_nodes_are_named_with_their_reasons_in_one_error_within_15_seconds(
    server: Sshd, tmp_path: Path
) -> None:
    other = loopback.make_key(tmp_path / "other")
    wrong = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    server.pin("127.0.0.2", key=wrong)
    with listener() as silent, listener(b"SSH-2.0-OpenSSH_9.2\r\n") as stalls:
        before = time.monotonic()
        error = refused(
            server,
            server.node("good"),
            server.node("changed", "127.0.0.2"),
            server.node("unknown", "127.0.0.3"),
            server.node("locked-out", key=str(other)),
            server.node("keyless", key=str(tmp_path / "none")),
            server.node("silent", port=silent),
            server.node("stalls", port=stalls),
            server.node("closed", port=loopback.free_port()),
            server.node("misnamed", "no-such-host.invalid"),
        )
        took = time.monotonic() - before
    assert took < 15
    assert error.exit_code is Exit.PREFLIGHT
    codes = {problem.message.split(":")[0]: problem.code for problem in error.problems}
    assert codes == {
        "changed": "E205",
        "unknown": "E204",
        "locked-out": "E206",
        "keyless": "E206",
        "silent": "E203",
        "stalls": "E203",
        "closed": "E202",
        "misnamed": "E201",
    }
    assert all(problem.help for problem in error.problems)


@needs_sshd
def test_a_changed_host_key_shows_both_fingerprints_and_where_the_old_one_stands(
    server: Sshd, tmp_path: Path
) -> None:
    loopback.make_key(tmp_path / "other")
    server.pin("127.0.0.5", key=" ".join((tmp_path / "other.pub").read_text().split()[:2]))
    number = len(server.known_hosts.read_text().splitlines())
    error = refused(server, server.node("n1", "127.0.0.5"))
    for key in (server.folder / "host_ed25519.pub", tmp_path / "other.pub"):
        shown = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
        assert shown.stdout.split()[1] in str(error)
    assert f"{server.known_hosts}:{number}" in str(error)
    assert "--replace" in str(error)


@needs_sshd
def test_nothing_is_run_on_a_host_whose_key_is_unknown(server: Sshd) -> None:
    before = server.log().count("Accepted publickey")
    refused(server, server.node("n1", "127.0.0.6"))
    assert server.log().count("Accepted publickey") == before


@needs_sshd
def test_a_refused_key_is_tried_once(server: Sshd, tmp_path: Path) -> None:
    key = loopback.make_key(tmp_path / "key")
    before = server.log().count("Failed publickey")
    error = refused(server, server.node(key=str(key)))
    assert str(key) in str(error)
    assert "root@127.0.0.1" in str(error)
    assert server.log().count("Failed publickey") - before <= 1


@needs_sshd
def test_the_persons_own_keys_and_known_hosts_are_not_used(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(server.key.read_bytes())
    (home / "known_hosts").write_text(f"[127.0.0.8]:{server.port} {server.host_key()}\n")
    monkeypatch.setenv("HOME", str(home.parent))
    assert refused(server, server.node("n1", key=None)).problems[0].code == "E206"
    assert refused(server, server.node("n1", "127.0.0.8")).problems[0].code == "E204"


@needs_sshd
def test_ssh_config_with_an_include_names_host_user_port_and_key(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text(f"Host gpu*\n  User root\n  Port {server.port}\n")
    (tmp_path / "config").write_text(
        f"Include {tmp_path}/nodes\nHost gpu1\n  HostName 127.0.0.1\n  IdentityFile {server.key}\n"
    )
    node = server.node("gpu1", host=None, user=None, port=None, key=None)
    cluster = loopback.cluster(node, config=str(tmp_path / "config"))
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        assert opened["gpu1"].run(["true"], timeout_s=30).rc == 0
        assert opened["gpu1"].where == f"root@127.0.0.1:{server.port}"


@needs_sshd
def test_a_jump_host_is_verified_too(server: Sshd, tmp_path: Path) -> None:
    server.pin("127.0.0.9")
    node = server.node("behind", "127.0.0.9", jump=f"root@127.0.0.1:{server.port}")
    cluster = loopback.cluster(node, key=str(server.key))
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        assert opened["behind"].run(["true"], timeout_s=30).rc == 0
        assert "through root@127.0.0.1" in opened["behind"].where
    node = server.node("behind", "127.0.0.9", jump=f"root@127.0.0.10:{server.port}")
    error = refused(server, node, key=str(server.key))
    assert error.problems[0].code == "E204"
    assert "jump host" in str(error)


@needs_sshd
def test_a_node_without_python_says_so(server: Sshd, tmp_path: Path) -> None:
    with loopback.sshd(tmp_path / "sshd", "SetEnv PATH=/nonexistent SHLVL=2") as bare:
        bare.pin("127.0.0.1")
        cluster = loopback.cluster(bare.node())
        with (
            Pool.open(cluster, cluster.nodes, bare.known_hosts) as opened,
            pytest.raises(RemoteError, match=r"E207.*python3"),
        ):
            opened["n1"].run(["true"], timeout_s=30)


@needs_sshd
def test_a_ping_needs_a_shell_but_no_python(remote: Remote, server: Sshd, tmp_path: Path) -> None:
    assert 0 < remote.ping(limit_s=120) < 120
    # `true` is built into the shell; python3 would have to be found.
    with loopback.sshd(tmp_path / "bare", "SetEnv PATH=/nonexistent SHLVL=2") as bare:
        bare.pin("127.0.0.1")
        cluster = loopback.cluster(bare.node())
        with Pool.open(cluster, cluster.nodes, bare.known_hosts) as opened:
            assert opened["n1"].ping(limit_s=120) > 0
    with loopback.sshd(tmp_path / "refusing", "ForceCommand exit 7") as refusing:
        refusing.pin("127.0.0.1")
        cluster = loopback.cluster(refusing.node())
        with (
            Pool.open(cluster, cluster.nodes, refusing.known_hosts) as opened,
            pytest.raises(RemoteError, match=r"E209.*`true` ended with 7"),
        ):
            opened["n1"].ping(limit_s=120)
    with loopback.sshd(tmp_path / "hanging", "ForceCommand exec sleep 600") as hanging:
        hanging.pin("127.0.0.1")
        cluster = loopback.cluster(hanging.node())
        with (
            Pool.open(cluster, cluster.nodes, hanging.known_hosts) as opened,
            pytest.raises(RemoteError, match=r"E209.*did not end within 2 s"),
        ):
            opened["n1"].ping(limit_s=2)


@needs_sshd
def test_a_talkative_login_shell_is_read_past(tmp_path: Path) -> None:
    with loopback.sshd(
        tmp_path / "sshd", 'ForceCommand echo "welcome to gpu1"; eval "$SSH_ORIGINAL_COMMAND"'
    ) as it:
        it.pin("127.0.0.1")
        cluster = loopback.cluster(it.node())
        with Pool.open(cluster, cluster.nodes, it.known_hosts) as opened:
            assert opened["n1"].run(["echo", "x"], timeout_s=30).stdout == b"x\n"


def test_every_exception_of_paramiko_and_fabric_is_mapped_by_name() -> None:
    """A class that the table does not know by itself or by a parent of its own would say too little."""
    import fabric

    found = set()
    for package in (paramiko, fabric):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if (
                "win" in module.name
                or "pageant" in module.name
                or module.name.endswith(("__main__", "testing"))
            ):
                continue
            with contextlib.suppress(ImportError):
                for value in vars(importlib.import_module(module.name)).values():
                    if inspect.isclass(value) and issubclass(value, Exception):
                        found.add(value)
    found = {kind for kind in found if kind.__module__.split(".")[0] in {"paramiko", "fabric"}}
    assert len(found) > 14
    generic = {paramiko.SSHException}
    unmapped = {
        kind.__qualname__
        for kind in found - generic
        if not any(one in MAPPED for one in kind.__mro__ if one not in (OSError, Exception))
    }
    assert unmapped == set()


@pytest.mark.parametrize(
    ("error", "phase", "code"),
    [
        (socket.gaierror(-2, "Name or service not known"), "resolve", "E201"),
        (ConnectionRefusedError(111, "Connection refused"), "connect", "E202"),
        (TimeoutError("timed out"), "connect", "E202"),
        (TimeoutError("timed out"), "banner", "E203"),
        (paramiko.SSHException("Error reading SSH protocol banner"), "banner", "E203"),
        (EOFError(), "banner", "E203"),
        (UnknownHostKey("h", paramiko.RSAKey.generate(1024)), "host key", "E204"),
        (paramiko.AuthenticationException("no"), "auth", "E206"),
        (paramiko.PasswordRequiredException("encrypted"), "auth", "E206"),
        (paramiko.ChannelException(2, "Connect failed"), "agent", "E211"),
        (paramiko.ssh_exception.IncompatiblePeer("no kex"), "host key", "E212"),
        (paramiko.SSHException("Channel closed."), "command", "E209"),
        (ConnectionResetError(104, "reset"), "command", "E209"),
    ],
)
def test_foreign_exceptions_become_ours(error: Exception, phase: str, code: str) -> None:
    found = ours(error, node="n1", phase=phase, where="root@n1:22")  # type: ignore[arg-type]
    assert found.problems[0].code == code
    assert found.node == "n1"
    assert "root@n1:22" in str(found)
    assert found.problems[0].help
    assert isinstance(found, LinkLost) == (code == "E209")


# Commands


@needs_sshd
def test_the_session_ending_in_the_middle_of_a_command_is_link_lost(server: Sshd) -> None:
    cluster = loopback.cluster(server.node())
    before = set(server.children())
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        remote = opened["n1"]
        remote.run(["true"], timeout_s=30)
        (mine,) = set(server.children()) - before
        caught: list[BaseException] = []

        def work() -> None:
            try:
                remote.run(
                    ["sh", "-c", "echo started > $0; exec sleep 600", str(server.folder / "flag")],
                    timeout_s=60,
                )
            except BaseException as error:  # noqa: BLE001
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        end = time.monotonic() + 30
        while not (server.folder / "flag").exists() and time.monotonic() < end:
            time.sleep(0.02)
        killed = time.monotonic()
        os.kill(mine, signal.SIGKILL)
        thread.join(30)
        assert isinstance(caught[0], LinkLost)
        assert caught[0].problems[0].code == "E209"
        assert time.monotonic() - killed < 15


@needs_sshd
def test_what_ran_in_the_foreground_ends_when_we_go_away(server: Sshd, tmp_path: Path) -> None:
    cluster = loopback.cluster(server.node())
    file = tmp_path / "pid"
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        words = ["sh", "-c", 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec sleep 600', str(file)]

        def work() -> None:
            with contextlib.suppress(RemoteError):
                opened["n1"].run(words, timeout_s=60)

        thread = threading.Thread(target=work)
        thread.start()
        end = time.monotonic() + 30
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.02)
        pid = int(file.read_text())
    thread.join(30)
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def payloads() -> list[str]:
    marks = [
        "$(touch {0})",
        "`touch {0}`",
        "; touch {0}",
        "| touch {0}",
        "&& touch {0}",
        "\ntouch {0}\n",
        "> {0}",
    ]
    wraps = ["{}", "'{}'", '"{}"', "\\'{}", "a{}b", "-{}", "--x={}", "{}\\", "${{IFS}}{}", "\t{} "]
    words = [wrap.format(mark) for mark in marks for wrap in wraps]
    words += [
        "",
        " ",
        "  ",
        "-",
        "--",
        "-rf",
        "*",
        "?",
        "~",
        "~root",
        "!!",
        "!$",
        "%s%n",
        "\\",
        "\\n",
        "\r",
        "\r\n",
        "\n",
    ]
    words += [
        "'",
        '"',
        "`",
        "$",
        "${HOME}",
        "$HOME",
        "#",
        "a#b",
        "{a,b}",
        "[a-z]",
        "\x01",
        "\x1b[31m",
        "\x7f",
        "\ufeff",
    ]
    words += [
        "日本語",
        "kunlun芯",
        "é",
        "e\u0301",
        "\u202e",
        "\U0001f600",
        "\udcff\udc80",
        "a" * 100_000,
        "=",
        "a=b",
        "{{ x }}",
    ]
    generator = random.Random(3)
    alphabet = " '\"$`\\;|&<>(){}[]*?!#~\n\t-=%/é日"
    words += [
        "".join(generator.choice(alphabet) for _ in range(generator.randint(1, 40))) for _ in range(120)
    ]
    return words


@needs_sshd
def test_arguments_arrive_byte_for_byte_and_do_nothing(remote: Remote, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    words = [word.replace("{0}", str(flag)) for word in payloads()]
    assert len(words) >= 200
    script = "import os,sys;sys.stdout.buffer.write(b'\\0'.join(os.fsencode(a) for a in sys.argv[1:]))"
    done = remote.run(["/usr/bin/env", "python3", "-X", "utf8", "-c", script, *words], timeout_s=60)
    assert done.rc == 0
    assert done.stdout.split(b"\0") == [word.encode("utf-8", "surrogateescape") for word in words]
    for word in words[:40]:
        value = remote.run(["printenv", "PAYLOAD"], env={"PAYLOAD": word}, timeout_s=60).stdout
        assert value == word.encode("utf-8", "surrogateescape") + b"\n"
    assert not flag.exists()


@needs_sshd
def test_nul_and_command_lines_are_refused(remote: Remote) -> None:
    with pytest.raises(RemoteError, match="E217"):
        remote.run(["echo", "a\0b"], timeout_s=30)
    with pytest.raises(RemoteError, match="E217"):
        remote.run(["echo"], env={"A": "\0"}, timeout_s=30)
    assert remote.run(["printf", "%s", "\\u0000"], timeout_s=30).stdout == b"\\u0000"
    with pytest.raises(TypeError):
        remote.run("echo a", timeout_s=30)


def test_one_fixed_string_is_all_a_node_s_shell_ever_sees() -> None:
    assert "\n" not in BOOTSTRAP
    assert BOOTSTRAP.count("'") == 2


@needs_sshd
def test_64_mb_pass_through_exactly_in_both_directions(remote: Remote) -> None:
    data = random.Random(1).randbytes(64_000_000)
    done = remote.run(["cat"], stdin=data, timeout_s=200, keep_bytes=70_000_000)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    chunks = (data[start : start + 999_983] for start in range(0, len(data), 999_983))
    done = remote.stream(["sha256sum"], chunks, timeout_s=200)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


@needs_sshd
def test_output_beyond_what_is_kept_is_counted_and_its_ends_stay(remote: Remote) -> None:
    done = remote.run(["seq", "1000000"], timeout_s=60, keep_bytes=1000)
    assert done.cut
    assert done.stdout_bytes == 6888896
    assert len(done.stdout) == 1000
    assert done.stdout.startswith(b"1\n2\n")
    assert done.stdout.endswith(b"999999\n1000000\n")


@needs_sshd
def test_a_program_that_stops_reading_ends_the_stream_early(remote: Remote) -> None:
    given = 0

    def chunks() -> Iterator[bytes]:
        nonlocal given
        for _ in range(100_000):
            given += 1
            yield b"x" * 100_000

    done = remote.stream(["head", "-c", "3"], chunks(), timeout_s=60)
    assert (done.rc, done.stdout) == (0, b"xxx")
    assert given < 100_000


@needs_sshd
def test_a_source_that_fails_ends_the_program_too(remote: Remote) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise BuildError(Problem(code="E3", message="no"))

    with pytest.raises(BuildError):
        remote.stream(["cat"], chunks(), timeout_s=60)
    assert remote.run(["echo", "still here"], timeout_s=30).stdout == b"still here\n"


@needs_sshd
def test_how_a_program_ended_is_told_exactly(remote: Remote) -> None:
    assert remote.run(["sh", "-c", "exit 255"], timeout_s=30).rc == 255
    assert remote.run(["sh", "-c", "kill -9 $$"], timeout_s=30).rc == -9
    missing = remote.run(["no-such-program"], timeout_s=30)
    assert (missing.rc, missing.started) == (127, False)
    assert remote.run(["/etc/passwd"], timeout_s=30).rc == 126
    done = remote.run(["sh", "-c", "echo out; echo err >&2; pwd"], cwd="/usr", timeout_s=30)
    assert (done.stdout, done.stderr) == (b"out\n/usr\n", b"err\n")


@needs_sshd
def test_a_command_over_time_is_killed_with_its_children(remote: Remote, tmp_path: Path) -> None:
    before = time.monotonic()
    with pytest.raises(OverTime, match=r"E208.*last words: on it"):
        remote.run(
            [
                "sh",
                "-c",
                'trap "" TERM; echo on it; sleep 601 & echo $! > "$0"; wait; sleep 601',
                str(tmp_path / "pid"),
            ],
            timeout_s=1,
        )
    assert time.monotonic() - before < 12
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@needs_sshd
def test_a_leftover_that_holds_the_output_does_not_hold_us(remote: Remote) -> None:
    before = time.monotonic()
    done = remote.run(["sh", "-c", "sleep 600 & echo done"], timeout_s=60)
    assert done.stdout == b"done\n"
    assert time.monotonic() - before < 20


@needs_sshd
def test_spawned_outlives_the_connection_and_only_it_is_signalled(server: Sshd, tmp_path: Path) -> None:
    cluster = loopback.cluster(server.node())
    files = {"stdout": str(tmp_path / "out"), "stderr": str(tmp_path / "err")}
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        process = opened["n1"].spawn(["sh", "-c", "echo hello; exec sleep 600"], **files)
        with pytest.raises(Refused, match="E210"):
            opened["n1"].spawn(["no-such-program"], **files)
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        remote = opened["n1"]
        assert remote.signal(process, 0)
        other = type(process)(pid=process.pid, start=process.start + 1, boot_id=process.boot_id)
        assert not remote.signal(other, signal.SIGKILL)
        assert remote.signal(process, signal.SIGTERM)
        end = time.monotonic() + 30
        while remote.signal(process, 0) and time.monotonic() < end:
            time.sleep(0.02)
        assert not remote.signal(process, 0)
    assert (tmp_path / "out").read_text() == "hello\n"


@needs_sshd
def test_more_calls_than_channels_wait_for_one(remote: Remote) -> None:
    results: list[Completed] = []
    threads = [
        threading.Thread(target=lambda: results.append(remote.run(["sleep", "0.2"], timeout_s=60)))
        for _ in range(3 * MAX_CHANNELS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.rc for done in results] == [0] * (3 * MAX_CHANNELS)


# Files


@needs_sshd
def test_files_read_by_offset_are_the_file(remote: Remote, tmp_path: Path) -> None:
    file = tmp_path / "log"
    data = random.Random(2).randbytes(9_000_001)
    file.write_bytes(data)
    pieces: list[bytes] = []
    assert remote.fetch(str(file), pieces.append) == len(data)
    assert b"".join(pieces) == data
    assert remote.sha256(str(file), str(tmp_path / "no")) == (hashlib.sha256(data).hexdigest(), None)
    first, none, past = remote.read(
        [(str(file), 5, 10), (str(tmp_path / "no"), 0, 1), (str(file), len(data), 10)]
    )
    assert (first.data, first.size, first.eof) == (data[5:15], len(data), False)
    assert none.missing
    assert (past.data, past.eof) == (b"", True)
    with pytest.raises(Refused, match="E210"):
        remote.fetch(str(tmp_path / "no"), pieces.append)


@needs_sshd
def test_links_and_devices_are_not_read(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/shadow")
    (piece,) = remote.read([(str(tmp_path / "link"), 0, 100)])
    assert piece.error
    assert piece.data == b""
    with pytest.raises(Refused, match="E218"):
        remote.read([("/dev/zero", 0, 100)])


@needs_sshd
def test_files_are_written_whole_or_not_at_all(remote: Remote, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    digest = remote.write(str(file), b"{}", mode=0o640)
    assert digest == hashlib.sha256(b"{}").hexdigest()
    assert file.stat().st_mode & 0o777 == 0o640

    def breaks_off() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.write(str(file), breaks_off())
    remote.run(["true"], timeout_s=30)
    assert file.read_bytes() == b"{}"
    with pytest.raises(Refused, match="E210"):
        remote.write(str(tmp_path / "no" / "file"), b"x")
    assert remote.append(str(file), [b"abc", b"d"], offset=1) == 5
    assert file.read_bytes() == b"{abcd"


@needs_sshd
def test_one_of_16_takes_the_lock_and_the_others_hear_who(server: Sshd, tmp_path: Path) -> None:
    cluster = loopback.cluster(*(server.node(f"c{number}") for number in range(16)))
    path = str(tmp_path / "lock")
    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        for _ in range(3):
            found = opened.each(lambda remote: remote.lock_dir(path, {"token": remote.name}), limit_s=60)
            winners = [name for name, lock in found.items() if lock.won]
            assert len(winners) == 1
            assert all(lock.owner == {"token": winners[0]} for lock in found.values())
            loser = next(name for name in found if name not in winners)
            assert not opened[loser].unlock_dir(path, {"token": loser})
            assert opened[winners[0]].unlock_dir(path, {"token": winners[0]})
            assert list(tmp_path.iterdir()) == []


@needs_sshd
def test_trees_are_removed_below_our_marker_only(remote: Remote, tmp_path: Path) -> None:
    root, outside = tmp_path / "work", tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    unmarked = tmp_path / "unmarked" / "x"
    unmarked.mkdir(parents=True)
    assert remote.make_dirs(str(root), marker=True) == (True,)
    assert root.stat().st_mode & 0o777 == 0o700
    assert remote.make_dirs(str(root / "runs" / "r1")) == (True,)
    (root / "runs" / "r1" / "out").symlink_to(outside)
    (root / "way").symlink_to(outside)
    for path, top in (
        (unmarked, unmarked.parent),
        (outside, root),
        (root, root),
        (root / ".nx8-root", root),
        (root / "way" / "kept", root),
        (f"{root}/runs/../../outside", root),
        (f"{root}/", root),
        ("/", "/"),
    ):
        with pytest.raises(Refused, match="E218"):
            remote.remove_tree(str(path), root=str(top))
    assert remote.remove_tree(str(root / "runs"), root=str(root)) == ()
    assert not (root / "runs").exists()
    assert (outside / "kept").is_dir()
    assert unmarked.is_dir()


@needs_sshd
def test_the_node_says_what_it_is(remote: Remote, tmp_path: Path) -> None:
    facts = remote.hello()
    assert facts["hostname"] == socket.gethostname()
    assert facts["uid"] == 0
    assert facts["cpus"] == os.cpu_count()
    assert abs(facts["skew_s"]) < 60
    assert remote.disk(str(tmp_path / "not" / "yet"))["available_bytes"] > 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("123")
    assert remote.list(str(tmp_path)) == {"a/b": 3}
    assert [one.get("kind") for one in remote.stat(str(tmp_path), str(tmp_path / "no"))] == ["folder", None]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert remote.free_port("127.0.0.1", [port]) is None
        assert remote.free_port("127.0.0.1", [port, 0]) not in (None, port)


# All at once


@needs_sshd
def test_every_node_is_heard_before_one_error_lists_all(server: Sshd) -> None:
    cluster = loopback.cluster(*(server.node(f"n{number}") for number in range(4)))
    heard: list[str] = []

    def work(remote: Remote) -> int:
        heard.append(remote.name)
        if remote.name in {"n0", "n2"}:
            raise BuildError(Problem(code="E300", message=f"{remote.name}: no"))
        return 1

    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        with pytest.raises(BuildError) as caught:
            opened.each(work)
        assert sorted(heard) == ["n0", "n1", "n2", "n3"]
        assert [problem.message for problem in caught.value.problems] == ["n0: no", "n2: no"]
        assert opened.each(work, nodes=["n1", "n3"]) == {"n1": 1, "n3": 1}


@needs_sshd
def test_a_node_that_is_silent_in_a_call_is_cut_off_and_named(server: Sshd) -> None:
    cluster = loopback.cluster(server.node("quick"), server.node("slow"))

    def work(remote: Remote) -> int:
        return remote.run(["sleep", "60" if remote.name == "slow" else "0"], timeout_s=90).rc

    with Pool.open(cluster, cluster.nodes, server.known_hosts) as opened:
        before = time.monotonic()
        with pytest.raises(PreflightError, match=r"E213.*slow"):
            opened.each(work, limit_s=2)
        assert time.monotonic() - before < 10


def waiting(name: str, gone: dict[str, threading.Event]) -> str:
    """Works until it is cut off, as a command of a node does whose link is closed."""
    assert gone[name].wait(120)
    return name


def test_a_gang_does_not_wait_for_the_slowest_when_one_has_failed() -> None:
    gone = {name: threading.Event() for name in ("slow", "bad")}

    def work(name: str) -> str:
        if name == "bad":
            raise PreflightError(Problem(code="E236", message="bad: no"))
        return waiting(name, gone)

    def given_up(name: str, failed: str) -> Nx8Error:
        gone[name].set()
        return GivenUp.of("E213", f"not waited for: {failed}", node=name, phase="command", help="")

    found = in_parallel(work, ["slow", "bad"], gang_s=0.2, given_up=given_up)
    assert isinstance(found["slow"], GivenUp)
    assert list(failures(found)) == ["bad"]


def test_who_is_interrupted_leaves_nobody_at_work_and_nobody_to_begin() -> None:
    names = [f"n{number}" for number in range(70)]
    gone = {name: threading.Event() for name in names}
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        if name == "n3":
            raise KeyboardInterrupt
        return waiting(name, gone)

    def silent(name: str, _limit_s: float) -> Nx8Error:
        gone[name].set()
        return was_silent(name, 0.0)

    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, names, silent=silent)
    assert all(gone[name].is_set() for name in names if name != "n3")
    assert len(begun) <= 66
