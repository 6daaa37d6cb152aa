"""The inventory's own file of host keys: read once for all nodes, written by `nx8 hosts pin` alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

import paramiko

from orchestrator.errors import PreflightError, Problem

TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """One line of the file. `names` as written: plain names, `[name]:port`, or one hashed name."""

    names: tuple[str, ...]
    kind: str
    blob: bytes
    line: int
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)

    def is_of(self, name: str) -> bool:
        return any(_matches(pattern, name) for pattern in self.names)


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The keys of one file, and the file, for messages."""

    path: Path
    keys: tuple[HostKey, ...]

    def of(self, name: str) -> tuple[HostKey, ...]:
        """The keys of `name` as it stands in such files; revoked ones left out."""
        revoked = {key.blob for key in self.keys if key.revoked}
        return tuple(
            key for key in self.keys if not key.revoked and key.blob not in revoked and key.is_of(name)
        )


def fingerprint(blob: bytes) -> str:
    """As OpenSSH prints it, for comparison out of band."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def listed_as(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def parsed(key: HostKey) -> paramiko.PKey:
    return paramiko.PKey.from_type_string(key.kind, key.blob)


def load(path: Path) -> KnownHosts:
    """Raises PreflightError (E214) listing every line that cannot be read. A missing file holds no keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return KnownHosts(path, ())
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(
            Problem(
                code="E214",
                message=f"the host keys cannot be read: {error}",
                file=str(path),
                help="write the file anew: nx8 hosts pin --cluster NAME --replace",
            )
        ) from error
    keys, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(_key(line, number))
        except ValueError as error:
            problems.append(
                Problem(
                    code="E214",
                    message=f"not a line of a known_hosts file: {error}",
                    file=str(path),
                    line=number,
                    help="remove the line, then: nx8 hosts pin --cluster NAME",
                )
            )
    if problems:
        raise PreflightError(problems)
    return KnownHosts(path, tuple(keys))


def _key(line: str, number: int) -> HostKey:
    fields = line.split()
    marker = fields.pop(0) if fields[0].startswith("@") else None
    if marker not in (None, "@revoked"):
        raise ValueError(f"{marker} is not supported")
    if len(fields) < 3:
        raise ValueError("a name, a key type and a key are wanted")
    names, kind, encoded = fields[:3]
    if kind not in TYPES:
        raise ValueError(f"{kind} is no key type we accept")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the key is damaged ({error})") from error
    if blob[4 : 4 + len(kind)] != kind.encode():
        raise ValueError(f"the key is no {kind}")
    return HostKey(
        names=tuple(names.split(",")), kind=kind, blob=blob, line=number, revoked=marker is not None
    )


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        _, _, salt, digest = pattern.split("|", 3)
        made = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(base64.b64decode(digest), made)
    return pattern == name


def store(path: Path, keys: dict[str, dict[str, bytes]], *, revoked: tuple[HostKey, ...] = ()) -> None:
    """Writes `keys`, name → type → key, and the `revoked` ones in place of what the file had; beside, then
    renamed.
    """
    lines = ["# Host keys of this cluster's nodes; written by `nx8 hosts pin`. Any other key is refused.\n"]
    for name in sorted(keys):
        kinds = sorted(keys[name], key=TYPES.index)
        lines += [f"{name} {kind} {base64.b64encode(keys[name][kind]).decode()}\n" for kind in kinds]
    lines += [
        f"@revoked {','.join(one.names)} {one.kind} {base64.b64encode(one.blob).decode()}\n"
        for one in revoked
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(0o644)
    beside.replace(path)
