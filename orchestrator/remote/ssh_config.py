"""~/.ssh/config as paramiko can read it: it knows no Include, so files are put together first."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import paramiko

MAX_DEPTH = 16


def load(path: str | None) -> paramiko.SSHConfig:
    """The settings of the file; none when it is not there or not wanted. Raises OSError, ConfigParseError."""
    config = paramiko.SSHConfig()
    if path:
        file = Path(path).expanduser()
        if file.is_file():
            config.parse(_together(file))
    return config


def _together(file: Path, depth: int = 0, block: str = "Host *") -> list[str]:
    """The lines of a file with those of its includes in their places. After an include the block it stood in
    goes on.
    """
    if depth > MAX_DEPTH:
        raise paramiko.ssh_exception.ConfigParseError(f"{file}: more than {MAX_DEPTH} includes deep")
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in {"host", "match"}:
            block = line
        if word.lower() != "include":
            lines.append(line)
            continue
        for pattern in rest.split():
            shown = os.path.expanduser(pattern.strip('"'))  # noqa: PTH111 - a pattern, not yet a path
            whole = shown if shown.startswith("/") else str(Path("~/.ssh").expanduser() / shown)
            for found in sorted(glob.glob(whole)):  # noqa: PTH207 - the pattern is absolute
                lines += _together(Path(found), depth + 1, block)
        lines.append(block)
    return lines
