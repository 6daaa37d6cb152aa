"""What one node answered, before anybody judges it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from orchestrator.docker import EngineInfo, ImageFacts
from orchestrator.errors import Problem
from orchestrator.preflight import DockerSaid
from orchestrator.versions import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system that holds `path`, or will. `writable` is None where that was not asked."""

    path: str
    at: str
    total_bytes: int
    available_bytes: int
    free_inodes: int
    writable: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A file of the data folder as it is there: `bytes` null is missing; `sha256` null is not read."""

    bytes: int | None
    sha256: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """How a node's attempt to reach its peers went: whom it reached, and why not the others. `taken`: why it
    could not listen on the port itself.
    """

    taken: str | None
    reached: tuple[str, ...]
    why: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """`failure` and `phase`: it could not be logged in to, or talked to, and where that stalled; then nothing
    else is known. `missed` has, by question, why it was not answered. `login` are the words of the command
    that logs in there, empty for this machine itself.
    """

    name: str
    address: str
    login: tuple[str, ...] = ()
    user: str | None = None
    failure: Problem | None = None
    phase: str | None = None
    hello: dict[str, Any] = field(default_factory=dict)
    docker: DockerSaid | None = None
    engine: EngineInfo | None = None
    texts: dict[str, str] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    crooked: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str | None] = field(default_factory=dict)
    answers: dict[tuple[str, ...], Answer] = field(default_factory=dict)
    looked: dict[str, Any] = field(default_factory=dict)
    files: dict[str, HeldFile] = field(default_factory=dict)
    images: dict[str, ImageFacts | None] = field(default_factory=dict)
    lock: dict[str, Any] | None = None
    missing_modules: tuple[str, ...] = ()
    met: Met | None = None
    missed: dict[str, str] = field(default_factory=dict)

    @property
    def is_root(self) -> bool:
        return self.hello.get("uid", 0 if self.user == "root" else None) == 0

    def there(self, *commands: str, root: bool = False) -> str:
        """One line for a shell here that does `commands`, each shell text, there; as root if need be."""
        text = "; ".join(commands)
        if root and not self.is_root:
            plain = not set("|;&>") & set(text)
            text = f"sudo {text}" if plain else f"sudo sh -c {quoted(text)}"
        return f"{shlex.join(self.login)} {quoted(text)}" if self.login else text


def quoted(text: str) -> str:
    """As shlex.quote, but in double quotes where that is easier to read and means the same."""
    if "'" in text and not set('"$`\\!') & set(text):
        return f'"{text}"'
    return shlex.quote(text)
