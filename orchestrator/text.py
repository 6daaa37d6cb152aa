"""String types shared by what people write: names that are safe in a path, a label and a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, slots=True)
class Pattern:
    """Marks a string type with the regular expression it must match; pydantic, in load.py, enforces it.

    Its engine is linear (Rust's regex), so no input can make a match slow.
    """

    regex: str
    says: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return {**handler(source), "pattern": self.regex}


NAME_REGEX = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
#: A name of ours: it becomes a folder, a container label and a table cell, so it may hold neither
#: separators nor spaces.
Name = Annotated[str, Pattern(NAME_REGEX, "letters, digits, '.', '_' and '-', 63 at most")]
#: An environment variable's name.
Commit = Annotated[str, Pattern(r"^[0-9a-f]{40}$", "a commit's 40 hex digits")]
EnvName = Annotated[str, Pattern(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", "the name of an environment variable")]
#: A dotted Python module.
ModuleName = Annotated[
    str, Pattern(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", "the dotted name of a Python module")
]
#: One line of words for people: no control characters, so that it can neither draw on a terminal nor add a
#: line to a file.
Line = Annotated[
    str, Pattern(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,400}$", "one line of text, 400 characters at most")
]
#: The name of a node, or a range of names: node[01-04].
NodeName = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(\[[0-9]{1,6}-[0-9]{1,6}\])?[A-Za-z0-9._-]{0,32}$",
        "letters, digits, '.', '_' and '-', and one range at most: node[01-04]",
    ),
]
#: An address or host name, or a range of them: 10.1.0.[11-14].
HostName = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}(\[[0-9]{1,6}-[0-9]{1,6}\])?[A-Za-z0-9.:_-]{0,64}$",
        "a host name or address, with one range at most: 10.1.0.[11-14]",
    ),
]
#: An absolute path on a node, of plain characters, so that it means the same to everyone who reads it.
AbsolutePath = Annotated[
    str,
    Pattern(r"^/[A-Za-z0-9._/+@-]{1,200}$", "an absolute path of letters, digits and . _ / + @ -"),
]
#: A folder below another one.
RelativePath = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){0,5}$",
        "a path below a folder: names of letters, digits, '.', '_' and '-', with '/' between",
    ),
]
#: A registry as it stands before an image's name: host, port, and folders where it has them.
Registry = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9.-]{0,200}(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]{0,62}){0,4}$",
        "a registry without scheme or password: host, host:port or host/folder",
    ),
]
#: Who logs in to a registry; robots of Harbor are called robot$name.
RegistryUser = Annotated[
    str, Pattern(r"^[A-Za-z0-9$][A-Za-z0-9$._@+/-]{0,127}$", "a user: letters, digits and $ . _ @ + / -")
]
#: The name of an image inside a registry.
Repository = Annotated[
    str,
    Pattern(
        r"^[a-z0-9][a-z0-9._-]{0,62}(/[a-z0-9][a-z0-9._-]{0,62}){0,6}$",
        "the name of an image: lower case, folders with '/', no registry and no tag",
    ),
]
ImageTag = Annotated[
    str, Pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", "the tag of an image, 128 characters at most")
]
Digest = Annotated[str, Pattern(r"^sha256:[0-9a-f]{64}$", "a digest: sha256: and 64 hexadecimal digits")]
#: registry/name:tag, registry/name@digest or both.
ImageReference = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9.-]{0,200}(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]{0,62}){0,10}"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
        "an image: registry/name:tag, with @sha256:… where it is pinned",
    ),
]
#: What pip is asked for. One version: an image built tomorrow is the one built today.
Requirement = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}==[0-9][A-Za-z0-9.]{0,40}(\+[A-Za-z0-9.]{1,40})?$",
        "a package and its one version: name==1.2.3",
    ),
]
#: An address without name or password in it.
PlainUrl = Annotated[
    str,
    Pattern(
        r"^https?://[A-Za-z0-9][A-Za-z0-9.-]{0,200}(:[0-9]{1,5})?(/[A-Za-z0-9._~-]{1,80}){0,10}/?$",
        "an http or https address without user, password or query",
    ),
]
#: Hosts that no proxy serves.
HostList = Annotated[
    str,
    Pattern(r"^[A-Za-z0-9.*:/_-]{1,120}(,[A-Za-z0-9.*:/_-]{1,120}){0,60}$", "host names with commas between"),
]
#: A device file, or one a device: /dev/xpu{index}.
DevicePath = Annotated[
    str,
    Pattern(
        r"^/dev/[A-Za-z0-9_-]{1,40}(/[A-Za-z0-9_-]{1,40}){0,3}(\{index\})?$",
        "a path below /dev, with {index} at its end where each device has its own",
    ),
]
Capability = Annotated[str, Pattern(r"^[A-Z][A-Z_]{2,30}$", "a Linux capability without CAP_: IPC_LOCK")]
UlimitName = Annotated[str, Pattern(r"^[a-z]{2,12}$", "the name of a limit: memlock, stack, nofile")]
#: One line of a layout; it may be empty.
LayoutLine = Annotated[
    str, Pattern(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,400}$", "one line of text, 400 characters at most")
]
#: A regular expression; linear.py says which ones.
Regex = Annotated[
    str, Pattern(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,400}$", "a regular expression of one line")
]


def fits(kind: Any, value: str) -> bool:
    """Whether the whole of `value` is of this string type."""
    import re

    return any(
        re.fullmatch(said.regex, value) is not None for said in kind.__metadata__ if isinstance(said, Pattern)
    )


def wants(kind: Any) -> str:
    """The words of a string type."""
    return next(said.says for said in kind.__metadata__ if isinstance(said, Pattern))
