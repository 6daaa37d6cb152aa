"""Can we get there, and run a container of this vendor there? Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestrator.doctor.checks.making import bad, missed, ok, unasked
from orchestrator.doctor.looking import GPUS_HOOK, NO_TIME
from orchestrator.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.doctor.expected import Expected
    from orchestrator.doctor.findings import Check, Owner
    from orchestrator.doctor.seen import Seen

#: `docker container create --pull` came with it, and nothing we create may pull.
LEAST_DOCKER = (20, 10)
#: Where an ssh failure stalled, in the words of both languages.
PHASES = {
    "configuration": Message("配置", "configuration"),
    "resolve": Message("解析主机名", "resolving the name"),
    "connect": Message("建立 TCP 连接", "connecting"),
    "banner": Message("等待 sshd 问候", "waiting for sshd's banner"),
    "host key": Message("校验主机密钥", "host key"),
    "auth": Message("登录认证", "authentication"),
    "agent": Message("启动 python3", "starting python3"),
    "command": Message("执行命令", "running a command"),
    "file": Message("读文件", "reading a file"),
}
#: Code of a failure → (what it is, zh, en; whose).
FAILURES: dict[str, tuple[str, str, Owner]] = {
    "E201": ("主机名无法解析", "its name cannot be resolved", "user"),
    "E202": ("连不上", "not reachable", "node"),
    "E203": ("sshd 接受连接后不应答", "sshd accepts and says nothing", "node"),
    "E204": ("主机密钥未登记", "its host key is not known", "user"),
    "E205": ("主机密钥已改变", "its host key has changed", "user"),
    "E206": ("登录被拒绝", "login refused", "user"),
    "E207": ("python3 无法启动", "python3 does not start there", "node"),
    "E208": ("命令超时", "a command took too long", "node"),
    "E209": ("连接中断", "the connection was lost", "node"),
    "E211": ("会话数受限", "no further session", "node"),
    "E213": ("在时限内没有应答", "silent within the limit", "node"),
}


def ssh(seen: Seen, wanted: Expected) -> Iterator[Check]:
    if wanted.is_local:
        yield ok("ssh", "本机，不经 SSH", "this machine, no SSH", shown="")
        return
    if seen.failure is None:
        rtt_ms = 1000 * float(seen.hello.get("rtt_s") or 0)
        yield ok(
            "ssh", f"{seen.address}，往返 {rtt_ms:.0f} ms", f"{seen.address}, round trip {rtt_ms:.0f} ms"
        )
        return
    code = seen.failure.code
    zh, en, owner = FAILURES.get(code, ("SSH 失败", "SSH failed", "node"))
    phase = PHASES.get(seen.phase or "", Message(seen.phase or "", seen.phase or ""))
    said = seen.failure.message.partition(": ")[2] or seen.failure.message
    # What the libraries say of a silence is about themselves.
    said = seen.address if code == "E203" else said
    yield bad(
        "ssh",
        code,
        f"{zh}（停在：{phase.zh}）：{said}",
        f"{en} (stalled at: {phase.en}): {said}",
        owner=owner,
        fix=_ssh_fix(seen, wanted, code),
        shown=seen.phase or "",
    )


def _ssh_fix(seen: Seen, wanted: Expected, code: str) -> str:
    pin = f"nx8 hosts pin --cluster {wanted.cluster_name}"
    login = shlex.join(seen.login)
    if code == "E204":
        return pin
    if code == "E205":
        return f"{pin} --replace"
    if code == "E206":
        # ssh-copy-id takes the options of ssh but -J.
        return shlex.join(("ssh-copy-id", *seen.login[1:])) if "-J" not in seen.login else f"{login} true"
    if code == "E207":
        return f"{login} 'python3 --version || sudo apt-get install -y python3'"
    if code in ("E201", "E215"):
        host = shlex.quote(seen.login[-1].rpartition("@")[2])
        return f"getent hosts {host} || grep -n {host} cluster/{wanted.cluster_name}.yaml"
    return f"{login} -v true"


def python(seen: Seen) -> Iterator[Check]:
    version = str(seen.hello.get("python") or "?")
    yield ok("python3", f"Python {version}", f"Python {version}", shown=version)


def trains_here(seen: Seen) -> Iterator[Check]:
    """Of this machine itself: its own Python trains."""
    if not seen.missing_modules:
        yield ok("torch", "训练所需模块齐全", "everything that training imports is installed")
        return
    lacking = ", ".join(seen.missing_modules)
    yield bad(
        "torch",
        "E302",
        f"这个 Python 不能训练：缺 {lacking}",
        f"this Python cannot train: {lacking} not installed",
        owner="user",
        fix="pip install -c constraints.txt '.[trainer]'",
    )


def docker(seen: Seen) -> Iterator[Check]:
    said = seen.docker
    if said is None and seen.missed.get("docker") == NO_TIME:
        yield missed("docker", NO_TIME)
    elif said is None:
        # A run asks the same, and gets no further than this.
        why = seen.missed.get("docker", "?")
        yield bad(
            "docker",
            "E233",
            f"docker 没有应答：{why}",
            f"docker gave no answer: {why}",
            fix=seen.there("systemctl restart docker", "journalctl -n 20 -u docker", root=True),
            shown="?",
        )
    elif said.code == "E231":
        yield bad(
            "docker",
            "E231",
            "未安装 docker",
            "docker is not installed",
            fix=seen.there("apt-get install -y docker.io", root=True),
            shown="-",
        )
    elif said.code == "E232":
        user = str(seen.hello.get("user") or seen.user or "USER")
        yield bad(
            "docker",
            "E232",
            f"用户 {user} 无权使用 docker",
            f"user {user!r} may not use docker",
            fix=seen.there(f"usermod -aG docker {shlex.quote(user)}", root=True),
            shown=user,
        )
    elif said.code is not None:
        yield bad(
            "docker",
            "E233",
            f"docker 不应答：{said.said}",
            f"docker does not answer: {said.said}",
            fix=seen.there("systemctl restart docker", "journalctl -n 20 -u docker", root=True),
        )
    else:
        yield _version(seen, str(said.version))


def _version(seen: Seen, version: str) -> Check:
    numbers = tuple(int(word) for word in version.split(".")[:2] if word.isdigit())
    if numbers and numbers < LEAST_DOCKER:
        least = ".".join(map(str, LEAST_DOCKER))
        return bad(
            "docker",
            "E230",
            f"docker {version} 过旧，至少 {least}",
            f"docker {version} is too old, {least} at least",
            fix=seen.there("apt-get install -y docker.io", root=True),
            shown=version,
        )
    return ok("docker", f"docker {version}", f"docker {version}", shown=version)


def runtime(seen: Seen, wanted: Expected) -> Iterator[Check]:
    """Whether docker can hand this vendor's devices to a container: it starts without them else, and the
    program in it finds none.
    """
    if seen.engine is None:
        if seen.docker is not None and seen.docker.version is not None:
            yield missed("runtime", seen.missed.get("engine", "?"))
        else:
            yield unasked("runtime", "docker 不可用，未检查", "not looked at: docker does not work")
        return
    vendor, found = wanted.vendor, seen.engine
    known = ", ".join(found.runtimes) or "none"
    asked = vendor.docker.runtime
    if asked is not None and asked not in found.runtimes:
        yield bad(
            "runtime",
            "E222",
            f"docker 没有容器运行时 {asked}（已有：{known}）",
            f"docker has no container runtime {asked!r} (it has: {known})",
            fix=seen.there("cat /etc/docker/daemon.json", "systemctl restart docker", root=True),
            shown=asked,
        )
        return
    if vendor.docker.gpus and "examine" in seen.missed:
        yield missed("runtime", seen.missed["examine"])
        return
    if vendor.docker.gpus and not (seen.looked.get("programs") or {}).get(GPUS_HOOK):
        yield bad(
            "runtime",
            "E222",
            f"docker --gpus 需要 {GPUS_HOOK}，节点上没有",
            f"docker's --gpus needs {GPUS_HOOK}, which is not on the node",
            fix=seen.there(
                "apt-get install -y nvidia-container-toolkit", "systemctl restart docker", root=True
            ),
        )
        return
    # What `environment` says only a runtime of the vendor's reads, so one has to be docker's default.
    if (
        vendor.docker.environment
        and asked is None
        and not vendor.docker.gpus
        and found.default_runtime == "runc"
    ):
        variable = next(iter(vendor.docker.environment))
        yield bad(
            "runtime",
            "E222",
            f"docker 的默认运行时是 runc：没有人读 {variable}，容器里看不到加速卡",
            f"docker's default runtime is runc: nobody reads {variable}, and a container sees no device",
            owner="node",
            fix=seen.there("docker info --format '{{.Runtimes}}'", "cat /etc/docker/daemon.json", root=True),
            shown="runc",
        )
        return
    name = asked or (found.default_runtime if vendor.docker.environment else "") or ""
    yield ok("runtime", f"docker 运行时：{known}", f"docker's runtimes: {known}", shown=name)
