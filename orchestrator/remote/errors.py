"""What goes wrong between us and a node, and the one place where paramiko's, fabric's and the socket's
exceptions become ours. Every error names the node, the phase it happened in and what to do next.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Literal, Self

import paramiko
from fabric import exceptions as fabric_exceptions
from invoke import exceptions as invoke_exceptions
from paramiko import ber, buffered_pipe, hostkeys, packet, pkey, sftp, ssh_exception

from orchestrator.errors import PreflightError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

Phase = Literal[
    "configuration", "resolve", "connect", "banner", "host key", "auth", "agent", "command", "file"
]


class RemoteError(PreflightError):
    """One node failed, in one phase."""

    def __init__(
        self, problems: Problem | Iterable[Problem], *, node: str = "", phase: str = "command"
    ) -> None:
        super().__init__(problems)
        self.node = node
        self.phase = phase

    @classmethod
    def of(cls, code: str, message: str, *, node: str, phase: Phase, help: str) -> Self:  # noqa: A002
        problem = Problem(code=code, message=f"{node}: {message}", help=help)
        return cls(problem, node=node, phase=phase)


class LinkLost(RemoteError):  # noqa: N818 - what happened, as Stopped
    """The connection ended before the answer did: nothing is known of how the command ended."""


class OverTime(RemoteError):  # noqa: N818
    """The node did not answer, or the command did not end, within its limit."""


class GivenUp(OverTime):
    """Another node failed, and this one was not waited for any longer."""


class Refused(RemoteError):  # noqa: N818
    """The node's agent would not do it, or the node's kernel did not let it (`errno`)."""

    errno: int | None = None


class UnknownHostKey(ssh_exception.SSHException):  # type: ignore[misc]
    """Raised by our policy in place of paramiko's plain SSHException."""

    def __init__(self, host: str, key: paramiko.PKey) -> None:
        super().__init__(host, key)
        self.host = host
        self.key = key


#: Exception class → (code, phase, what to do next). The nearest class on the way up from an exception
#: decides; the generic bases OSError, EOFError and SSHException are looked at in `_generic`.
MAPPED: dict[type[BaseException], tuple[str, Phase, str]] = {
    socket.gaierror: (
        "E201",
        "resolve",
        "set `host` of the node in the cluster file, or add the name to DNS",
    ),
    socket.herror: ("E201", "resolve", "set `host` of the node in the cluster file, or add the name to DNS"),
    UnicodeError: ("E201", "resolve", "set `host` of the node in the cluster file to a name DNS can hold"),
    ssh_exception.NoValidConnectionsError: ("E202", "connect", "is the node up, and sshd listening there?"),
    ssh_exception.BadHostKeyException: ("E205", "host key", "see `nx8 hosts pin`"),
    UnknownHostKey: ("E204", "host key", "compare and store its keys: nx8 hosts pin --cluster NAME"),
    hostkeys.InvalidHostKey: (
        "E214",
        "host key",
        "write the file anew: nx8 hosts pin --cluster NAME --replace",
    ),
    ssh_exception.PasswordRequiredException: (
        "E206",
        "auth",
        "the key file is encrypted: load it with ssh-add and set `ssh: {agent: true}`",
    ),
    ssh_exception.BadAuthenticationType: ("E206", "auth", "let sshd on the node accept public keys"),
    ssh_exception.PartialAuthentication: (
        "E206",
        "auth",
        "the node wants a second factor; allow the key alone",
    ),
    ssh_exception.UnableToAuthenticate: ("E206", "auth", "put the public key into authorized_keys there"),
    ssh_exception.AuthenticationException: ("E206", "auth", "put the public key into authorized_keys there"),
    pkey.UnknownKeyType: ("E206", "auth", "use an ed25519, ecdsa or rsa key"),
    ssh_exception.ChannelException: (
        "E211",
        "agent",
        "sshd there allows too few sessions (MaxSessions, 10 by default), or forbids commands",
    ),
    ssh_exception.IncompatiblePeer: ("E212", "banner", "update OpenSSH on the node"),
    ssh_exception.MessageOrderError: ("E212", "banner", "someone may be tampering with the connection"),
    ber.BERException: ("E206", "auth", "the key file is damaged"),
    packet.NeedRekeyException: ("E212", "command", "try again; report it when it stays"),
    buffered_pipe.PipeTimeout: ("E208", "command", "raise the limit, or look at the node's load"),
    TimeoutError: ("E202", "connect", "is the node up? does a firewall drop the packets?"),
    ssh_exception.ProxyCommandFailure: ("E216", "connect", "try the ProxyCommand of ~/.ssh/config by hand"),
    ssh_exception.CouldNotCanonicalize: (
        "E215",
        "configuration",
        "see CanonicalizeHostname in ~/.ssh/config",
    ),
    ssh_exception.ConfigParseError: ("E215", "configuration", "correct the file named by `ssh: {config: …}`"),
    sftp.SFTPError: ("E212", "file", "report it: Nx8 uses no sftp"),
    fabric_exceptions.NothingToDo: ("E212", "configuration", "report it: a bug of Nx8"),
    fabric_exceptions.GroupException: ("E212", "command", "report it: a bug of Nx8"),
    fabric_exceptions.InvalidV1Env: ("E212", "configuration", "report it: a bug of Nx8"),
    invoke_exceptions.Failure: ("E212", "command", "report it: a bug of Nx8"),
}

WORDS = {
    "E201": "its name is not known: {error}",
    "E202": "not reachable: {error}",
    "E203": "{error}",
    "E204": "its host key is not known: {error}",
    "E205": "its host key has changed: {error}",
    "E206": "login refused: {error}",
    "E208": "over time: {error}",
    "E209": "the connection was lost: {error}",
    "E211": "no further channel: {error}",
    "E212": "SSH failed: {error}",
    "E214": "its entry in known_hosts cannot be read: {error}",
    "E215": "the SSH configuration cannot be used: {error}",
    "E216": "the way to it failed: {error}",
}
NO_ROUTE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN}


def ours(error: BaseException, *, node: str, phase: Phase, where: str) -> RemoteError:
    """`error`, raised by paramiko, fabric or a socket while `node` was in `phase`, as one of ours.

    `where` is the address as tried, with user and port.
    """
    if isinstance(error, RemoteError):
        return error
    mapped = next((MAPPED[kind] for kind in type(error).__mro__ if kind in MAPPED), None)
    code, where_phase, next_step = mapped or _generic(error, phase)
    if mapped and isinstance(error, TimeoutError) and phase not in {"connect", "resolve"}:
        code, where_phase, next_step = _generic(error, phase)
    kind = LinkLost if code == "E209" else OverTime if code == "E208" else RemoteError
    words = WORDS[code].format(error=_said(error))
    return kind.of(code, f"{words} ({where}, {where_phase})", node=node, phase=where_phase, help=next_step)


def _generic(error: BaseException, phase: Phase) -> tuple[str, Phase, str]:
    """Bases that say little by themselves: what they mean depends on how far the connection was."""
    if phase in {"resolve", "connect"}:
        number = getattr(error, "errno", None)
        advice = "is the node up, and sshd listening there?" if number in NO_ROUTE else "look at the network"
        return "E202", "connect", advice
    if phase in {"banner", "host key"}:
        return (
            "E203",
            phase,
            "sshd there accepts and says nothing (or hangs up): look at its load, MaxStartups and hosts.deny",
        )
    if phase == "auth":
        return "E206", "auth", "look into the node's auth log"
    return (
        "E209",
        phase,
        "nothing is known of how it ended there; look at the node and its network, then try again",
    )


def _said(error: BaseException) -> str:
    """The exception's own words, without the numbers only programs need."""
    if isinstance(error, ssh_exception.NoValidConnectionsError):
        return "; ".join(sorted({_said(one) for one in error.errors.values()}))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip() or type(error).__name__
    if isinstance(error, EOFError):
        text = "the other side closed the connection"
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    return text.replace("protocol bannertimed out", "protocol banner: timed out").replace("\n", " ")
