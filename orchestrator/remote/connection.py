"""One node's SSH connection: configured by fabric, hardened here, opened within limits.

fabric accepts any host key and loads no known_hosts (fabric 3.2, connection.py): every client made here,
jump hosts included, gets the inventory's keys and a policy that refuses all others.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fabric
import paramiko

from orchestrator.cluster import Cluster
from orchestrator.errors import Problem
from orchestrator.remote import known_hosts as hosts_file
from orchestrator.remote import ssh_config
from orchestrator.remote.errors import Phase, RemoteError, UnknownHostKey, ours
from orchestrator.remote.known_hosts import KnownHosts

if TYPE_CHECKING:
    from orchestrator.cluster import Node

#: Counter mode with HMAC costs paramiko twice the CPU of GCM; CBC and SHA-1 are not offered at all.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
TRIES = 3
#: paramiko says there what we report ourselves; without a handler Python prints it.
logging.getLogger("nx8.ssh").addHandler(logging.NullHandler())


class Quiet(paramiko.Transport):  # type: ignore[misc]
    """A transport with our algorithms and limits; paramiko logs tracebacks of what we report ourselves."""

    def __init__(self, sock: Any, *, limit_s: float = 15.0, **given: Any) -> None:
        super().__init__(sock, **given)
        self.handshake_timeout = limit_s
        options = self.get_security_options()
        options.ciphers = [one for one in CIPHERS if one in options.ciphers]
        options.digests = [one for one in MACS if one in options.digests]
        self.set_log_channel("nx8.ssh")


class Reject(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise UnknownHostKey(hostname, key)


@dataclass(slots=True)
class Settings:
    """What all connections of one cluster share; keys and gateways are made once."""

    cluster: Cluster
    known_hosts: KnownHosts
    config: paramiko.SSHConfig
    keys: dict[str, paramiko.PKey] = field(default_factory=dict)
    gateways: dict[str, Link] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, cluster: Cluster, known_hosts: Path) -> Settings:
        """Raises PreflightError (E214) for a damaged known_hosts file, RemoteError (E215) for the config."""
        try:
            config = ssh_config.load(cluster.ssh.config)
        except (OSError, ValueError, paramiko.SSHException) as error:
            where = str(cluster.ssh.config)
            raise RemoteError.of(
                "E215",
                f"the SSH configuration cannot be used: {error}",
                node=where,
                phase="configuration",
                help="correct it, or set `ssh: {config: null}` in the cluster file",
            ) from error
        return cls(cluster, hosts_file.load(known_hosts), config)

    def key(self, path: str) -> paramiko.PKey:
        with self.lock:
            if path not in self.keys:
                self.keys[path] = paramiko.PKey.from_path(Path(path).expanduser())
            return self.keys[path]


class Link:
    """The transport to one host, through its jump host when it has one."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        host: str,
        user: str | None = None,
        port: int | None = None,
        key: str | None = None,
        jump: str | None = None,
        behind: tuple[str, ...] = (),
    ) -> None:
        """`behind` are the hosts that this one is the jump host of, the farthest first."""
        self.settings = settings
        self.name = name
        self.phase: Phase = "configuration"
        self.connection: fabric.Connection
        self.opening = threading.Lock()
        #: How often it had to be made anew.
        self.drops = 0
        self._opened = False
        own = fabric.connection.derive_shorthand(host)["host"]
        found = settings.config.lookup(own)
        hops = [hop.strip() for hop in (jump or found.get("proxyjump") or "none").split(",")]
        # As OpenSSH has it: a jump host under `Host *` is not reached through itself.
        alone = hops == ["none"] or fabric.connection.derive_shorthand(hops[-1])["host"] == own
        self.gateway = None if alone else self.through(hops, behind=(*behind, own))
        # One Config each: threads that share one break it. False: no gateway but ours.
        it = fabric.Connection(
            host,
            user=user,
            port=port,
            config=fabric.Config(lazy=True, ssh_config=settings.config),
            gateway=self.gateway.connection if self.gateway else found.get("proxycommand", False),
            forward_agent=False,
        )
        it.connect_timeout = None
        it.client.set_missing_host_key_policy(Reject())
        listed_as = hosts_file.listed_as(it.host, it.port)
        for known in settings.known_hosts.of(listed_as):
            it.client.get_host_keys().add(listed_as, known.kind, hosts_file.parsed(known))
        self.connection = it
        self.listed_as = listed_as
        # One key is tried, never a ring of them: sshd counts every key as an attempt.
        files = [key] if key else found.get("identityfile", [])
        self.key = next((file for file in files if Path(file).expanduser().is_file()), key)

    @classmethod
    def to(cls, settings: Settings, node: Node) -> Link:
        ssh = settings.cluster.ssh
        return cls(
            settings,
            name=node.name,
            host=node.address,
            user=node.user or ssh.user,
            port=node.port or ssh.port,
            key=node.key or ssh.key,
            jump=node.jump or ssh.jump,
        )

    def through(self, hops: list[str], *, behind: tuple[str, ...]) -> Link:
        """The last of the jump hosts, shared by all nodes behind it. The one before it is its own gateway;
        the first one's is what the SSH configuration has for it. Raises RemoteError (E215) for a circle.
        """
        way = ",".join(hops)
        last = fabric.connection.derive_shorthand(hops[-1])["host"]
        if last in behind:
            raise RemoteError.of(
                "E215",
                f"its jump hosts lead in a circle: {' → '.join((*behind, last))}",
                node=self.name,
                phase="configuration",
                help="correct ProxyJump in the SSH configuration, or set `jump` in the cluster file",
            )
        with self.settings.lock:
            if way not in self.settings.gateways:
                # Not under the lock: making a link of several hops comes back here for the others.
                self.settings.lock.release()
                try:
                    key = self.settings.cluster.ssh.key
                    before = ",".join(hops[:-1]) or None
                    link = Link(
                        self.settings,
                        name=f"jump host {hops[-1]}",
                        host=hops[-1],
                        key=key,
                        jump=before,
                        behind=behind,
                    )
                finally:
                    self.settings.lock.acquire()
                self.settings.gateways.setdefault(way, link)
            return self.settings.gateways[way]

    @property
    def shown(self) -> str:
        """Its name, with the jump hosts on the way where it has some: one address may be two hosts."""
        return self.name + (f" behind {self.gateway.shown}" if self.gateway else "")

    @property
    def where(self) -> str:
        it = self.connection
        return f"{it.user}@{it.host}:{it.port}" + (f" through {self.gateway.where}" if self.gateway else "")

    def open(self, deadline: float) -> paramiko.Transport:
        """Open when this returns; tried again after a random wait when sshd hung up before its banner, as it
        does beyond MaxStartups. `deadline` is on the monotonic clock. Raises RemoteError.
        """
        with self.opening:
            for number in range(1, TRIES + 1):
                began = time.monotonic()
                try:
                    return self.open_once(deadline)
                except RemoteError as error:
                    # Who hangs up does so at once; who stayed silent until the limit will again.
                    now = time.monotonic()
                    hung_up = error.problems[0].code == "E203" and now - began < 2.0 < deadline - now
                    if number == TRIES or not hung_up:
                        raise
                    time.sleep(random.uniform(0.1, 0.6) * number)  # noqa: S311 - jitter, no secret
        raise AssertionError

    def open_once(self, deadline: float) -> paramiko.Transport:
        it = self.connection
        if it.transport is not None and it.transport.active:
            return it.transport
        sock = None
        try:
            self.phase = "auth"
            given = self.credentials()
            if self.gateway is not None:
                self.phase = "connect"
                self.gateway.open(deadline)
            elif not it.gateway:
                given["sock"] = sock = self.dialled(deadline)
            self.phase = "banner"
            left = max(0.5, deadline - time.monotonic())
            limit = min(self.settings.cluster.ssh.auth_limit_s, left)
            it.connect_kwargs = {
                **given,
                "timeout": left,
                "banner_timeout": limit,
                "auth_timeout": limit,
                "channel_timeout": limit,
                "transport_factory": partial(Quiet, limit_s=limit),
            }
            it.open()
        except RemoteError:
            raise
        except Exception as error:
            self.phase = self.reached()
            self.close()
            if sock is not None:
                sock.close()
            raise self.failed(error) from error
        assert it.transport is not None
        self.phase = "command"
        self.drops += self._opened
        self._opened = True
        return it.transport

    def credentials(self) -> dict[str, Any]:
        """Never a password, never keys nobody named."""
        allow_agent = self.settings.cluster.ssh.agent
        if not self.key and not allow_agent:
            raise self.refused(
                "no key is named for it", "set `ssh: {key: FILE}` or `ssh: {agent: true}`, or IdentityFile"
            )
        given: dict[str, Any] = {"look_for_keys": False, "allow_agent": allow_agent}
        if self.key:
            try:
                given["pkey"] = self.settings.key(self.key)
            except (OSError, ValueError) as error:
                raise self.refused(f"{self.key}: {error}", "name a private key that can be read") from error
        return given

    def refused(self, text: str, help: str) -> RemoteError:  # noqa: A002 - Problem's word
        return RemoteError.of("E206", f"login impossible: {text}", node=self.name, phase="auth", help=help)

    def dialled(self, deadline: float) -> socket.socket:
        """A connected socket that notices a dead peer: keepalive alone waits for hours, and paramiko's own
        ignores whether it is answered.
        """
        it, ssh = self.connection, self.settings.cluster.ssh
        self.phase = "resolve"
        addresses = socket.getaddrinfo(it.host, it.port, type=socket.SOCK_STREAM)
        self.phase = "connect"
        failures = {}
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                # A lease is to outlive the time it takes to notice that the way to the node is gone.
                dead_link_s = min(ssh.dead_link_s, self.settings.cluster.lease_s / 4)
                patient_s = max(1, round(dead_link_s / 4))
                for option, value in (
                    (socket.TCP_NODELAY, 1),
                    (socket.TCP_USER_TIMEOUT, int(dead_link_s * 1000)),
                    (socket.TCP_KEEPIDLE, patient_s),
                    (socket.TCP_KEEPINTVL, patient_s),
                    (socket.TCP_KEEPCNT, 3),
                ):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.settimeout(min(ssh.connect_limit_s, max(0.5, deadline - time.monotonic())))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failures[address] = error
            else:
                return sock
        if len(failures) == 1:
            raise next(iter(failures.values()))
        raise paramiko.ssh_exception.NoValidConnectionsError(failures)

    def reached(self) -> Phase:
        """How far the handshake came, by what the transport knows."""
        transport = self.connection.client.get_transport()
        if self.phase != "banner" or transport is None or not transport.remote_version:
            return self.phase
        return "auth" if transport.initial_kex_done and transport.auth_handler is not None else "host key"

    def failed(self, error: BaseException) -> RemoteError:
        """`error` as ours, with what only this link knows: which key was tried, what the file has."""
        if isinstance(error, UnknownHostKey | paramiko.BadHostKeyException):
            return self.untrusted(error.key, changed=isinstance(error, paramiko.BadHostKeyException))
        where = self.where
        if isinstance(error, paramiko.AuthenticationException) and self.key:
            where += f", key {self.key}"
        return ours(error, node=self.name, phase=self.phase, where=where)

    def untrusted(self, key: paramiko.PKey, *, changed: bool) -> RemoteError:
        file = self.settings.known_hosts
        known = file.of(self.listed_as)
        same_kind = [one for one in known if one.kind == key.get_name()] or known
        shown = f"{key.get_name()} {hosts_file.fingerprint(key.asbytes())}"
        if changed and same_kind:
            was = same_kind[0]
            text = (
                f"its host key has changed: {self.listed_as} now shows {shown}, "
                f"known is {was.kind} {was.fingerprint}"
            )
            step = "if the change is explained, store it: nx8 hosts pin --cluster NAME --replace"
            problem = Problem(
                code="E205", message=f"{self.name}: {text}", file=str(file.path), line=was.line, help=step
            )
        else:
            text = f"its host key is not known: {self.listed_as} shows {shown}"
            step = "compare it out of band, then store it: nx8 hosts pin --cluster NAME"
            problem = Problem(code="E204", message=f"{self.name}: {text}", file=str(file.path), help=step)
        return RemoteError(problem, node=self.name, phase="host key")

    def close(self) -> None:
        """Also wakes whoever waits on it, and joins nothing."""
        with contextlib.suppress(Exception):
            self.connection.client.close()
        self.connection.transport = None
